"""When to give a connection up: pure, the time is given (monotonic seconds)."""

from __future__ import annotations


class Patience:
    """Counts silence, missing time and missing acks in time in which we were listening.

    A suspended process or a slow consumer is not the venue's fault: a step between two looks counts as at most
    `step_max_s`, and not at all while the reader is held.
    """

    def __init__(self, stale_after_s: float, ack_timeout_s: float, step_max_s: float, now_s: float) -> None:
        self._stale_after_s, self._ack_timeout_s, self._step_max_s = stale_after_s, ack_timeout_s, step_max_s
        self._looked_at_s = now_s
        self._data_frames = self._cadence_frames = 0
        self._quiet_s = self._untimed_s = 0.0
        self._unanswered_s: dict[int, float] = {}

    def look(
        self, now_s: float, data_frames: int, cadence_frames: int, unanswered: frozenset[int], held: bool
    ) -> None:  # fmt: skip
        """Take note of how many data frames came so far (and cadence frames among them), and what is unanswered."""
        step_s = 0.0 if held else min(now_s - self._looked_at_s, self._step_max_s)
        self._looked_at_s = now_s
        self._quiet_s = 0.0 if data_frames != self._data_frames else self._quiet_s + step_s
        self._untimed_s = 0.0 if cadence_frames != self._cadence_frames else self._untimed_s + step_s
        self._data_frames, self._cadence_frames = data_frames, cadence_frames
        before = self._unanswered_s
        self._unanswered_s = {id_: before[id_] + step_s if id_ in before else 0.0 for id_ in unanswered}

    @property
    def stale(self) -> bool:
        """Has no data come for too long?"""
        return self._quiet_s >= self._stale_after_s

    @property
    def untimed(self) -> bool:
        """Does data come, and for too long no cadence frame that tells the time for it?"""
        return self._quiet_s == 0.0 and self._untimed_s >= self._stale_after_s

    @property
    def ignored(self) -> bool:
        """Has a control frame waited too long for its answer?"""
        return max(self._unanswered_s.values(), default=0.0) >= self._ack_timeout_s
