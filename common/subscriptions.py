"""Which streams a connection should carry and which it does; pure, the time is given (monotonic seconds)."""

from __future__ import annotations

from collections import deque

import msgspec

HOUR_S = 3600.0


class Control(msgspec.Struct, frozen=True):
    """One control frame to send: add (`subscribe`) or remove `streams`; the venue answers with `id`."""

    id: int
    subscribe: bool
    streams: tuple[str, ...]


class Subscriptions:
    """Reconciles the wanted streams of one connection with those the venue has acknowledged.

    A stream is in at most one unanswered frame, so the order of answers does not matter, nor whether a frame is
    answered whole or stream by stream. `first` (the cadence stream) goes into the earliest frame: without it nothing
    proves the connection alive. A stream the venue refuses is not asked for again.
    """

    def __init__(self, first: str, names_max: int, frames_per_s: float, frames_per_hour: int | None = None) -> None:
        self._first = first
        self._names_max = names_max
        self._pause_s = 1 / frames_per_s
        self._wanted: frozenset[str] = frozenset()
        self._actual: frozenset[str] = frozenset()
        self._refused: frozenset[str] = frozenset()
        self._unanswered: dict[int, Control] = {}
        self._last_id = 0
        self._free_at_s = float("-inf")
        self._hour: deque[float] | None = None if frames_per_hour is None else deque(maxlen=frames_per_hour)

    def want(self, streams: frozenset[str]) -> None:
        """Replace the wanted set; a refused stream is asked for again once it was not wanted meanwhile."""
        self._wanted = streams
        self._refused &= streams

    @property
    def actual(self) -> frozenset[str]:
        """Streams the venue has acknowledged."""
        return self._actual

    @property
    def settled(self) -> bool:
        """Is every wanted stream answered, and nothing else subscribed or on its way?"""
        return not self._unanswered and self._actual == self._wanted - self._refused

    @property
    def unanswered(self) -> frozenset[int]:
        """Ids of the frames sent and not yet answered."""
        return frozenset(self._unanswered)

    def _work(self) -> tuple[bool, list[str]] | None:
        busy = {stream for control in self._unanswered.values() for stream in control.streams}
        missing = self._wanted - self._refused - self._actual
        for subscribe, names in ((True, missing), (False, self._actual - self._wanted)):
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
        self._note_hour(now_s)
        return control

    def note_sent(self, now_s: float) -> None:
        """Count one frame of ours (a keepalive too) against the pace."""
        self._free_at_s = max(self._free_at_s, now_s + self._pause_s)

    def _note_hour(self, now_s: float) -> None:
        if self._hour is not None:
            self._hour.append(now_s)
            if len(self._hour) == self._hour.maxlen:
                self._free_at_s = max(self._free_at_s, self._hour[0] + HOUR_S)

    def acked(self, id_: int, stream: str | None = None) -> Control | None:
        """Book the answer to frame `id_`, or to one stream of it, and return what was answered.

        None when it is not one of ours, or answered before.
        """
        control = self._take(id_, stream)
        if control is None:
            return None
        if control.subscribe:
            self._actual |= set(control.streams)
        else:
            self._actual -= set(control.streams)
        return control

    def refused(self, stream: str) -> bool:
        """Book that the venue does not have `stream`; False when it was not asked for."""
        asked = next((c for c in self._unanswered.values() if c.subscribe and stream in c.streams), None)
        if asked is None:
            return False
        self._take(asked.id, stream)
        self._refused |= {stream}
        return True

    def _take(self, id_: int, stream: str | None) -> Control | None:
        """The part of frame `id_` that is answered now; the rest goes on waiting."""
        control = self._unanswered.get(id_)
        if control is None or (stream is not None and stream not in control.streams):
            return None
        rest = () if stream is None else tuple(name for name in control.streams if name != stream)
        if not rest:
            return self._unanswered.pop(id_)
        self._unanswered[id_] = Control(id_, control.subscribe, rest)
        return Control(id_, control.subscribe, tuple(name for name in control.streams if name == stream))
