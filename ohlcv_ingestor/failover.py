"""Which venue speaks for a line: the primary, or the fallback while the primary delivers nothing. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Speaker(StrEnum):
    """Whose trades make the rows of a line."""

    PRIMARY = "primary"
    FALLBACK = "fallback"


@dataclass
class Failover:
    """State of one line. `after_s` is how long the primary may deliver nothing (our time, data only)."""

    after_s: float
    speaker: Speaker = Speaker.PRIMARY
    changes: int = 0

    def judge(self, primary_silent_s: float) -> bool:
        """Take the time since the primary's watermark last moved; true when the speaker changed."""
        speaker = Speaker.FALLBACK if primary_silent_s > self.after_s else Speaker.PRIMARY
        if speaker is self.speaker:
            return False
        self.speaker = speaker
        self.changes += 1
        return True
