"""The rules of docs/MACRO.md once more, written from them and not from the code: what rows a week has to give.

It knows the made-up world, asks nobody, and reads no answers: what a vendor would tell is taken from the world.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal

from sandbox.macro_world import BLOCK_S, DAY_S, MacroWorld

HOUR = 3600
SLOT_COLUMNS = (
    "btc_ex_netflow", "btc_ex_reserve_pct", "eth_ex_netflow", "eth_gas_price", "sol_ex_netflow", "stbl_cex_netflow",
)  # fmt: skip
DAY_COLUMNS = ("mvrv", "asopr", "nupl")
CHAINS = {
    "btc_ex_netflow": ["glassnode", "coinmetrics"],
    "btc_ex_reserve_pct": ["glassnode", "coinmetrics"],
    "eth_ex_netflow": ["glassnode", "coinmetrics", "bitquery"],
    "eth_gas_price": ["etherscan", "jsonrpc", "goldrush"],
    "sol_ex_netflow": ["glassnode", "bitquery"],
    "stbl_cex_netflow": ["glassnode", "dune", "bitquery"],
    "mvrv": ["glassnode", "coinmetrics", "bgeometrics"],
    "asopr": ["glassnode", "bgeometrics"],
    "nupl": ["glassnode", "coinmetrics", "bgeometrics"],
}
# vendor: (lag, recheck, max age), all for daily values
DAILY = {
    "glassnode": (1 * HOUR, 6 * HOUR, 4 * DAY_S),
    "coinmetrics": (6 * HOUR, 3 * HOUR, 5 * DAY_S),
    "bgeometrics": (7 * DAY_S, 12 * HOUR, 11 * DAY_S),
    "dune": (1 * HOUR, 3 * HOUR, 4 * DAY_S),
    "bitquery": (1 * HOUR, 6 * HOUR, 4 * DAY_S),
}
# Tighter than the vendors' (hours, calls): a week has to see them end.
QUOTAS = {"glassnode": [(24, 14)], "bgeometrics": [(24, 4), (1, 3)], "etherscan": [(24, 100_000)]}
GLASSNODE = {
    "btc_ex_netflow": "BTC_netflow", "eth_ex_netflow": "ETH_netflow", "sol_ex_netflow": "SOL_netflow", "mvrv": "mvrv",
    "asopr": "asopr", "nupl": "nupl",
}  # fmt: skip
TEN = Decimal("1e-10")


@dataclass
class Said:
    value: Decimal
    as_of: int
    source: str


@dataclass
class Model:
    world: MacroWorld
    vendors: tuple[str, ...]
    attempts: int
    values: dict[tuple[str, str], dict[int, Said]] = field(default_factory=dict)
    asked: dict[tuple[str, str], tuple[int, str]] = field(default_factory=dict)
    circuits: dict[str, tuple[int, int]] = field(default_factory=dict)
    calls: dict[str, list[int]] = field(default_factory=dict)
    slots: dict[int, dict[str, Said]] = field(default_factory=dict)
    days: dict[int, dict[str, Said]] = field(default_factory=dict)
    revs: dict[tuple[str, int], int] = field(default_factory=dict)
    ends: Counter[str] = field(default_factory=Counter)  # how often a vendor was found to have no call left

    # ---- a pass

    def play(self, now: int, day_pass: bool) -> None:
        self.pull(SLOT_COLUMNS, now)
        row = {column: said for column in SLOT_COLUMNS if (said := self.choose(column, now)) is not None}
        slot = now // 900 * 900
        row = self.slots.get(slot, {}) | row  # what was known in this quarter stays in its row
        if row and row != self.slots.get(slot):
            self.slots[slot] = row
            self.revs["15m", slot] = self.revs.get(("15m", slot), 0) + 1
        if self.pull(DAY_COLUMNS, now) or day_pass:
            self.make_days(now)

    def pull(self, columns: tuple[str, ...], now: int) -> bool:
        """Primaries first, then, round by round, whoever follows a failed one."""
        tried: set[tuple[str, str]] = set()
        while True:
            round_: list[tuple[str, str]] = []
            for column in columns:
                vendor = self.whom_to_ask(column, tried, now)
                if vendor is not None:
                    round_.append((vendor, column))
            if not round_:
                return bool(tried)
            for vendor in sorted({vendor for vendor, _ in round_}):
                wanted = [column for other, column in round_ if other == vendor]
                self.ask(vendor, wanted, tried, now)

    def whom_to_ask(self, column: str, tried: set[tuple[str, str]], now: int) -> str | None:
        for vendor in CHAINS[column]:
            if vendor not in self.vendors:
                continue
            newest = self.newest(column, vendor)
            if newest is not None and now < self.due(vendor, newest.as_of):
                return None
            when, how = self.asked.get((vendor, column), (0, "never"))
            wait = {"never": 0, "failing": 0, "refused": 6 * HOUR, "answered": self.recheck(vendor)}[how]
            can = not self.is_shut(vendor, now) and (how in ("never", "failing") or now >= when + wait)
            if can and (vendor, column) not in tried:
                return vendor
            well = not self.is_shut(vendor, now) or now < when + max(1, wait)
            if how == "answered" and well and self.is_young(newest, vendor, now):
                return None
        return None

    def ask(self, vendor: str, columns: list[str], tried: set[tuple[str, str]], now: int) -> None:
        together = vendor == "coinmetrics"
        columns = sorted(columns, key=lambda column: self.asked.get((vendor, column), (0, ""))[0])
        groups = [columns] if together else [[column] for column in columns]
        if together and self.how(vendor) == "error":
            groups = [[column] for column in columns]  # asked once more, one by one: no quota counts them
        for group in groups:
            if self.is_open(vendor, now):
                return
            how = self.call(vendor, group, now)
            for column in group:
                self.asked[vendor, column] = (now, how)
                tried.add((vendor, column))

    def call(self, vendor: str, columns: list[str], now: int) -> str:
        how, on_trial = self.how(vendor), self.circuits.get(vendor, (0, 0))[0] > 0
        needed = {"jsonrpc": 2}.get(vendor, 2 if columns == ["stbl_cex_netflow"] and vendor == "glassnode" else 1)
        trouble = self.world.trouble(vendor)
        hint = trouble.retry_after_s if trouble is not None and trouble.how == "status" else None
        if how == "cut" or (how == "503" and hint is None):
            needed = 1 if on_trial else self.attempts
        elif how is not None and how not in ("empty", "stuck"):
            needed = 1
        for _ in range(needed):
            if self.left(vendor, now) == 0:
                return "failing"  # our own count: no call, and not the vendor's fault
            self.calls.setdefault(vendor, []).append(now)
        if how in (None, "empty", "stuck"):
            for column in columns:
                for said in self.told(vendor, column, now):
                    self.values.setdefault((column, vendor), {})[said.as_of] = said
            self.circuits[vendor] = (0, 0)
            return "answered"
        if how == "error":
            self.circuits[vendor] = (0, 0)
            return "refused"
        failures = self.circuits.get(vendor, (0, 0))[0]
        pause = min(4 * HOUR, 60 * 2**failures)
        pause = pause if hint is None else hint + 1  # never earlier than asked for, and our time has whole seconds
        if how == "limit" and vendor == "etherscan":
            pause = 5 + 1
        self.circuits[vendor] = (failures + 1, now + pause)
        return "failing"

    def how(self, vendor: str) -> str | None:
        trouble = self.world.trouble(vendor)
        if trouble is None:
            return None
        if trouble.how == "status":
            return str(trouble.status)
        if trouble.how in ("error", "limit") and vendor == "glassnode":
            return {"error": "error", "limit": "429"}[trouble.how]
        if trouble.how == "limit" and vendor == "etherscan":
            return "limit"
        return trouble.how

    # ---- rules

    def newest(self, column: str, vendor: str) -> Said | None:
        known = self.values.get((column, vendor))
        return known[max(known)] if known else None

    def due(self, vendor: str, as_of: int) -> int:
        return as_of + 600 if vendor not in DAILY else as_of + 2 * DAY_S + DAILY[vendor][0]

    def recheck(self, vendor: str) -> int:
        return DAILY[vendor][1] if vendor in DAILY else 0

    def is_young(self, said: Said | None, vendor: str, now: int) -> bool:
        return said is not None and now - said.as_of <= (DAILY[vendor][2] if vendor in DAILY else 2400)

    def is_open(self, vendor: str, now: int) -> bool:
        return now < self.circuits.get(vendor, (0, 0))[1]

    def is_shut(self, vendor: str, now: int) -> bool:
        return self.is_open(vendor, now) or self.left(vendor, now) == 0

    def left(self, vendor: str, now: int) -> int:
        """Every hour that touches the window counts whole."""
        room = 10**9
        for hours, most in QUOTAS.get(vendor, []):
            used = sum(1 for t in self.calls.get(vendor, []) if t // HOUR >= now // HOUR - hours)
            room = min(room, most - used)
        self.ends[vendor] += room <= 0
        return max(0, room)

    def choose(self, column: str, now: int) -> Said | None:
        best: Said | None = None
        for vendor in CHAINS[column]:
            said = self.newest(column, vendor) if vendor in self.vendors else None
            if said is None or not self.is_young(said, vendor, now):
                continue
            if best is None or said.as_of > best.as_of:
                best = said
            when, how = self.asked[vendor, column]
            asked_well = how == "answered" and (
                not self.is_shut(vendor, now) or now < when + max(1, self.recheck(vendor))
            )
            if now < self.due(vendor, said.as_of) or asked_well:
                break
        return best

    def make_days(self, now: int) -> None:
        first = min(
            now - DAILY[v][0] - 15 * DAY_S for v in self.vendors if v in ("glassnode", "coinmetrics", "bgeometrics")
        )
        known = {t for (column, _), said in self.values.items() if column in DAY_COLUMNS for t in said}
        for day in sorted(t for t in known if t >= first):
            row = dict(self.days.get(day, {}))
            for column in DAY_COLUMNS:
                for vendor in (v for v in CHAINS[column] if v in self.vendors):
                    history = self.values.get((column, vendor), {})
                    if column != "asopr":
                        if day in history:
                            row[column] = history[day]
                            break
                    elif all(day - back * DAY_S in history for back in range(7)):
                        total = sum(history[day - back * DAY_S].value for back in range(7))
                        row["asopr_7d"] = Said((total / 7).quantize(TEN), day, vendor)
                        break
            if row and row != self.days.get(day):
                self.days[day] = row
                self.revs["1d", day] = self.revs.get(("1d", day), 0) + 1

    # ---- what a vendor tells

    def told(self, vendor: str, column: str, now: int) -> list[Said]:
        world = self.world
        if vendor == "etherscan":
            return [Said(Decimal(world.gas_wei(vendor, world.block())) / 10**9, now, vendor)]
        if vendor == "jsonrpc":
            block = world.block() - (10_000 if self.how(vendor) == "stuck" else 0)
            return [Said(Decimal(world.gas_wei(vendor, block + 1)) / 10**9, block * BLOCK_S, vendor)]
        if vendor == "goldrush":
            return [Said(Decimal(world.gas_wei(vendor, world.block())) / 10**9, world.block() * BLOCK_S, vendor)]
        if self.how(vendor) == "empty":
            return []
        first = now - DAILY[vendor][0] - 15 * DAY_S
        first = first // DAY_S * DAY_S if vendor in ("coinmetrics", "bgeometrics") else first
        days = [day for day in world.days(vendor, max(0, first), has_key=False) if day + DAY_S <= now]
        found: list[Said] = []
        for day in days:
            value, source = self.derive(vendor, column, day)
            found.append(Said(value, day, source))
        return found

    def derive(self, vendor: str, column: str, day: int) -> tuple[Decimal, str]:
        def of(what: str) -> Decimal:
            return self.world.value(vendor, what, day)

        if vendor == "glassnode":
            if column == "stbl_cex_netflow":
                return of("USDT_netflow") + of("USDC_netflow"), vendor
            return (100 * of("reserve"), vendor) if column == "btc_ex_reserve_pct" else (of(GLASSNODE[column]), vendor)
        if vendor == "dune":
            return of("USDT_netflow") + of("USDC_netflow"), vendor
        if vendor == "bitquery":
            asset = {"eth_ex_netflow": "ETH", "sol_ex_netflow": "SOL", "stbl_cex_netflow": "stables"}[column]
            return of(f"{asset}_in") - of(f"{asset}_out"), vendor
        if vendor == "coinmetrics":
            if column == "nupl":
                return (1 - 1 / of("mvrv")).quantize(TEN), "coinmetrics:1-1/mvrv"
            if column == "btc_ex_reserve_pct":
                return (100 * of("reserve")).quantize(TEN), vendor
            if column.endswith("netflow"):
                return of(f"{column[:3]}_in") - of(f"{column[:3]}_out"), vendor
        return of(column), vendor
