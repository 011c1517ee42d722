"""Which streams a connection should carry and which it does; pure, the time is given (monotonic seconds)."""

from __future__ import annotations

import msgspec


class Control(msgspec.Struct, frozen=True):
    """One control frame to send: add (`subscribe`) or remove `streams`; the venue answers with `id`."""

    id: int
    subscribe: bool
    streams: tuple[str, ...]


class Subscriptions:
    """Reconciles the wanted streams of one connection with those the venue has acknowledged.

    A stream is in at most one unanswered frame, so the order of answers does not matter. `first` (the cadence
    stream) goes into the earliest frame: without it nothing proves the connection alive.
    """

    def __init__(self, first: str, names_max: int, frames_per_s: float) -> None:
        self._first = first
        self._names_max = names_max
        self._pause_s = 1 / frames_per_s
        self._wanted: frozenset[str] = frozenset()
        self._actual: frozenset[str] = frozenset()
        self._unanswered: dict[int, Control] = {}
        self._last_id = 0
        self._free_at_s = float("-inf")

    def want(self, streams: frozenset[str]) -> None:
        """Replace the wanted set."""
        self._wanted = streams

    @property
    def actual(self) -> frozenset[str]:
        """Streams the venue has acknowledged."""
        return self._actual

    @property
    def settled(self) -> bool:
        """Is every wanted stream acknowledged, and nothing else subscribed or on its way?"""
        return not self._unanswered and self._actual == self._wanted

    @property
    def unanswered(self) -> frozenset[int]:
        """Ids of the frames sent and not yet answered."""
        return frozenset(self._unanswered)

    def _work(self) -> tuple[bool, list[str]] | None:
        busy = {stream for control in self._unanswered.values() for stream in control.streams}
        for subscribe, names in ((True, self._wanted - self._actual), (False, self._actual - self._wanted)):
            ready = names - busy
            if ready:
                return subscribe, sorted(ready, key=lambda name: (name != self._first, name))
        return None

    def wait_s(self, now_s: float) -> float | None:
        """Seconds until a frame may be sent; None when nothing is left to send."""
        if self._work() is None:
            return None
        return max(0.0, self._free_at_s - now_s)

    def next_frame(self, now_s: float) -> Control | None:
        """Take the next frame to send, if there is work and the venue's pace allows it now."""
        work = self._work()
        if work is None or now_s < self._free_at_s:
            return None
        subscribe, names = work
        self._last_id += 1
        control = Control(self._last_id, subscribe, tuple(names[: self._names_max]))
        self._unanswered[control.id] = control
        self.note_sent(now_s)
        return control

    def note_sent(self, now_s: float) -> None:
        """Count one frame of ours (a keepalive too) against the pace."""
        self._free_at_s = now_s + self._pause_s

    def acked(self, id_: int) -> Control | None:
        """Book the answer to frame `id_`; None when it is not one of ours, or answered before."""
        control = self._unanswered.pop(id_, None)
        if control is None:
            return None
        if control.subscribe:
            self._actual |= set(control.streams)
        else:
            self._actual -= set(control.streams)
        return control
