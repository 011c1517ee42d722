"""What happens on the chains, and what macro vendors know of it when: by seed, with lags, revisions, troubles, quotas.

Time is given by a function, so that weeks can be played. Every vendor counts a little differently, as they do: a value
shows whose it is. Some days' values are revised two days after they were published. The last point of a running day is
there at once at Glassnode, and provisional.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

DAY_S = 86_400
VENDORS = ("glassnode", "coinmetrics", "bgeometrics", "etherscan", "jsonrpc", "dune", "goldrush", "bitquery")
LAGS_S = {
    "glassnode": 1_800, "coinmetrics": 5 * 3600, "bgeometrics": 7 * DAY_S, "dune": 1_800, "bitquery": 1_200,
}  # fmt: skip
"""After the end of a day."""
REVISED_AFTER_S = 2 * DAY_S
BLOCK_S = 12
TOLD_MAX = 5_000
HOWS = ("status", "error", "limit", "garbage", "cut", "empty", "stuck", "html")


@dataclass
class Trouble:
    """What is wrong with a vendor for a while: `how` is one of HOWS."""

    vendor: str
    how: str
    from_s: float
    until_s: float
    status: int = 503
    retry_after_s: int | None = None


@dataclass
class MacroWorld:
    """`now_s` gives the world's time; `quotas` the calls that a vendor allows in any 24 hours."""

    seed: int
    now_s: Callable[[], float]
    lags_s: dict[str, int] = field(default_factory=lambda: dict(LAGS_S))
    quotas: dict[str, int] = field(default_factory=lambda: dict[str, int]())
    troubles: list[Trouble] = field(default_factory=lambda: list[Trouble]())
    forbidden: set[str] = field(default_factory=lambda: set[str]())
    """Metrics that fail the whole call."""
    calls: Counter[str] = field(default_factory=lambda: Counter[str]())
    beyond_quota: Counter[str] = field(default_factory=lambda: Counter[str]())
    called_s: dict[str, list[float]] = field(default_factory=lambda: dict[str, list[float]]())
    told: dict[str, dict[tuple[str, int], set[str]]] = field(
        default_factory=lambda: dict[str, dict[tuple[str, int], set[str]]]()
    )
    """By vendor: everything it ever answered, (what, time) -> values as text."""

    def count(self, vendor: str) -> float | None:
        """Count a call; answers how long to wait when it is one too many."""
        now_s = self.now_s()
        self.calls[vendor] += 1
        recent = self.called_s[vendor] = [t for t in self.called_s.get(vendor, []) if t > now_s - DAY_S]
        recent.append(now_s)
        if vendor in self.quotas and len(recent) > self.quotas[vendor]:
            self.beyond_quota[vendor] += 1
            return recent[0] + DAY_S - now_s
        return None

    def trouble(self, vendor: str) -> Trouble | None:
        """What is wrong with a vendor now, the youngest trouble first."""
        now_s = self.now_s()
        found = (t for t in reversed(self.troubles) if t.vendor in (vendor, "*") and t.from_s <= now_s < t.until_s)
        return next(found, None)

    def days(self, vendor: str, since_s: int, has_key: bool = True) -> list[int]:
        """Days that a vendor shows, oldest first."""
        trouble = self.trouble(vendor)
        if trouble is not None and trouble.how == "empty":
            return []
        now_s = self.now_s()
        lag_s = self.lags_s[vendor]
        if vendor == "bgeometrics" and has_key:
            lag_s = min(lag_s, 6 * 3600)
        first = -(-since_s // DAY_S) * DAY_S
        last = int(now_s - lag_s - (0 if vendor == "glassnode" else DAY_S)) // DAY_S * DAY_S
        return list(range(first, last + 1, DAY_S))

    def version(self, vendor: str, what: str, day: int) -> int:
        """0, or 1 once the value of a day was revised; a running day at Glassnode is something else each hour."""
        now_s = self.now_s()
        if now_s < day + DAY_S:
            return 100 + int(now_s) // 3600
        is_revised = self._draw(f"revised|{vendor}|{what}", day, 0) % 3 == 0
        return int(is_revised and now_s >= day + DAY_S + self.lags_s[vendor] + REVISED_AFTER_S)

    def value(self, vendor: str, what: str, day: int) -> Decimal:
        """A metric of a day as the vendor counts it now."""
        return self.value_at(vendor, what, day, self.version(vendor, what, day))

    def value_at(self, vendor: str, what: str, day: int, version: int) -> Decimal:
        """The same, of one version."""
        draw = self._draw(f"{vendor}|{what}", day, version)
        if what == "mvrv":
            return Decimal("1.5") + Decimal(draw).scaleb(-6)
        if what == "asopr":
            return Decimal("0.98") + Decimal(draw).scaleb(-7)
        if what == "nupl":
            return Decimal("0.2") + Decimal(draw).scaleb(-7)
        if what == "reserve":  # a fraction
            return Decimal("0.11") + Decimal(draw).scaleb(-8)
        if what.endswith("_in") or what.endswith("_out"):
            return Decimal(20_000_00 + draw).scaleb(-2)
        return Decimal(draw - 500_000).scaleb(-2)  # a net flow

    def block(self) -> int:
        """Number of the newest block."""
        return int(self.now_s()) // BLOCK_S

    def gas_wei(self, vendor: str, block: int) -> int:
        """The base fee after a block."""
        return 300_000_000 + 1_000 * self._draw(f"{vendor}|gas", block, 0)

    def tell(self, vendor: str, what: str, time_s: int, value: Decimal) -> Decimal:
        """Remember that it was told."""
        told = self.told.setdefault(vendor, {})
        told.setdefault((what, time_s), set()).add(format(value, "f"))
        while len(told) > TOLD_MAX:
            del told[next(iter(told))]
        return value

    def disturb(self, args: dict[str, Any]) -> None:
        """A fault: vendor (* for all), how, for_s, status, retry_after_s; lag_s, quota or forbid instead of how.

        Raises ValueError when it makes no sense.
        """
        vendor, how = str(args.get("vendor", "*")), str(args.get("how", ""))
        if vendor != "*" and vendor not in VENDORS:
            raise ValueError(f"unknown vendor {vendor!r}, known: {', '.join(VENDORS)}")
        if "lag_s" in args:
            self.lags_s[vendor] = int(args["lag_s"])
        elif "quota" in args:
            self.quotas[vendor] = int(args["quota"])
        elif "forbid" in args:
            self.forbidden.add(str(args["forbid"]))
        elif how == "clear":
            self.forbidden.clear()
            self.troubles = [t for t in self.troubles if vendor not in ("*", t.vendor)]
        elif how in HOWS:
            until_s = self.now_s() + float(args.get("for_s", 1e12))
            wait = args.get("retry_after_s")
            trouble = Trouble(vendor, how, self.now_s(), until_s, int(args.get("status", 503)))
            trouble.retry_after_s = None if wait is None else int(wait)
            self.troubles.append(trouble)
        else:
            raise ValueError(f"unknown how {how!r}, known: clear, {', '.join(HOWS)}")

    def _draw(self, name: str, time_s: int, version: int) -> int:
        text = f"{self.seed}|{name}|{time_s}|{version}"
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") % 1_000_000
