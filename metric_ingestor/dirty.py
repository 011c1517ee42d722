"""Windows that are to be computed again: messages, ledger and cursors only mark, the tables decide. Pure.

Marks are kept as spans per symbol, so that hours of an outage cost as much as a second. A span too much is harmless:
a window whose value did not change writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from metric_ingestor.windows import WINDOW_S

SPANS_MAX = 64
"""Per symbol; beyond it the two nearest become one."""

Window = tuple[str, int]


class Dirty:
    """Marked windows, and for each symbol since when its rows wait for their watermark."""

    def __init__(self) -> None:
        self._spans: dict[str, list[list[int]]] = {}
        self.late_from: dict[str, int] = {}

    def mark(self, symbol: str, first: int, last: int) -> None:
        """Have the windows first..last (ends, both inclusive) computed again."""
        if last < first:
            return
        spans = self._spans.setdefault(symbol, [])
        kept = [span for span in spans if span[1] < first - WINDOW_S or span[0] > last + WINDOW_S]
        joined = [span for span in spans if span not in kept]
        kept.append([min([first, *(s[0] for s in joined)]), max([last, *(s[1] for s in joined)])])
        kept.sort()
        if len(kept) > SPANS_MAX:
            _join_nearest(kept)
        self._spans[symbol] = kept

    def wait(self, symbol: str, window: int) -> None:
        """Note that this window was written before its watermark had passed."""
        self.late_from[symbol] = min(self.late_from.get(symbol, window), window)

    def advance(self, cursors: Mapping[str, int], written: int) -> None:
        """Mark what waited and whose watermark has passed by now; `written` is the newest window that was written."""
        for symbol, first in list(self.late_from.items()):
            passed = min(cursors.get(symbol, 0) // WINDOW_S * WINDOW_S, written)
            if passed < first:
                continue
            self.mark(symbol, first, passed)
            if passed >= written:
                del self.late_from[symbol]
            else:
                self.late_from[symbol] = passed + WINDOW_S

    def take(self, most: int) -> list[Window]:
        """Take out up to `most` windows, of each symbol the newest first; a long past of one keeps no other waiting."""
        taken: list[Window] = []
        while self._spans and len(taken) < most:
            share = max(1, (most - len(taken)) // len(self._spans))
            for symbol in list(self._spans)[: most - len(taken)]:
                spans = self._spans.pop(symbol)
                taken += [(symbol, end) for end in _take_newest(spans, share)]
                if spans:
                    self._spans[symbol] = spans  # behind the others
        return taken

    def forget(self, symbols: set[str]) -> None:
        """Drop the marks of these symbols."""
        for symbol in symbols:
            self._spans.pop(symbol, None)
            self.late_from.pop(symbol, None)

    def __len__(self) -> int:
        """Windows that wait."""
        return sum((last - first) // WINDOW_S + 1 for spans in self._spans.values() for first, last in spans)


def _take_newest(spans: list[list[int]], most: int) -> list[int]:
    taken: list[int] = []
    while spans and len(taken) < most:
        first, last = spans[-1]
        count = min((last - first) // WINDOW_S + 1, most - len(taken))
        taken += [last - step * WINDOW_S for step in range(count)]
        if last - count * WINDOW_S < first:
            spans.pop()
        else:
            spans[-1][1] = last - count * WINDOW_S
    return taken


def _join_nearest(spans: list[list[int]]) -> None:
    at = min(range(len(spans) - 1), key=lambda i: spans[i + 1][0] - spans[i][1])
    spans[at][1] = spans.pop(at + 1)[1]
