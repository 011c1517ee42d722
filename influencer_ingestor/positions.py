"""What a fill does to a position: decided by `startPosition`, side and size alone, never by the venue's label. Pure.

The written rules of the special cases:

- **Spot** (and outcome tokens): `startPosition` is the balance of the base token. The same table applies, so a side is
  LONG or FLAT. Fees taken in the base token are not subtracted: the next fill states its own start. No continuity test,
  because deposits and transfers move a balance without a fill.
- **Dust conversion** (`Spot Dust Conversion`): the venue sweeps an amount that nobody can trade. Stored raw, the
  position follows, no signal.
- **Liquidation**: a position change like any other, signalled. It is marked as a liquidation only where
  `liquidatedUser` is this very account; its counterparty carries the same object and is not liquidated.
- **Settlement** (delisting, expiry) and auto-deleveraging: the position really changed, so it is signalled; `dir` in
  the metadata tells why.
- **Unknown `dir`**: judged by its numbers like every other, and counted.
- **Size 0**: nothing changed; stored raw, no signal.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from influencer_ingestor.events import Fill, Liquidation

DUST_CONVERSION = "Spot Dust Conversion"


class Action(StrEnum):
    """What the position did."""

    OPEN = "OPEN"
    INCREASE = "INCREASE"
    DECREASE = "DECREASE"
    CLOSE = "CLOSE"
    FLIP = "FLIP"


class Side(StrEnum):
    """Where the position stands afterwards."""

    LONG = "LONG"
    SHORT = "SHORT"
    FLAT = "FLAT"


class Position(msgspec.Struct, frozen=True):
    """One row of `influencer_positions`: signed size after the newest fill of (address, coin), in units of 10**-SCALE.

    `event_id` names that fill; "" where the size is the venue's own statement (the baseline).
    """

    address: str
    coin: str
    size: int
    time_ms: int
    event_id: str = ""


class Change(msgspec.Struct, frozen=True):
    """What one fill did: signed sizes `before` and `after`, and the side that results."""

    action: Action
    side: Side
    before: int
    after: int

    @property
    def delta(self) -> int:
        """Signed change of size."""
        return self.after - self.before


def derive_change(fill: Fill) -> Change | None:
    """Name what a fill did; None where nothing changed."""
    action = _action(fill.start, fill.delta)
    return None if action is None else Change(action, side_of(fill.end), fill.start, fill.end)


def side_of(size: int) -> Side:
    """The side of a signed size."""
    if size == 0:
        return Side.FLAT
    return Side.LONG if size > 0 else Side.SHORT


def is_signalled(fill: Fill) -> bool:
    """Say whether a change of this fill is a signal: all but the venue's sweeping of dust."""
    return fill.dir != DUST_CONVERSION


def own_liquidation(fill: Fill) -> Liquidation | None:
    """The liquidation of this account; None where there is none, or where the account is the other side of it."""
    told = fill.liquidation
    return told if told is not None and told.user == fill.user else None


def is_spot(coin: str) -> bool:
    """Say whether a coin is a token ("PURR/USDC", "@107", an outcome "#12") and not a perp ("ETH", "xyz:CL")."""
    return "/" in coin or coin[:1] in "@#+"


def market_of(coin: str) -> str:
    """The market's name in signals: a perp "ETH-PERP" or "xyz:CL-PERP", a token as the venue writes it."""
    return coin if is_spot(coin) else f"{coin}-PERP"


def coin_of(market: str) -> str:
    """The venue's name of a market of ours; the inverse of `market_of`."""
    return market if is_spot(market) else market.removesuffix("-PERP")


_LABELS: dict[str, tuple[frozenset[Action], Side | None]] = {
    "Open Long": (frozenset({Action.OPEN, Action.INCREASE}), Side.LONG),
    "Open Short": (frozenset({Action.OPEN, Action.INCREASE}), Side.SHORT),
    "Close Long": (frozenset({Action.DECREASE, Action.CLOSE}), None),
    "Close Short": (frozenset({Action.DECREASE, Action.CLOSE}), None),
    "Long > Short": (frozenset({Action.FLIP}), Side.SHORT),
    "Short > Long": (frozenset({Action.FLIP}), Side.LONG),
}
_OTHER_LABELS = frozenset(
    (
        "Buy",
        "Sell",
        "Liquidated Cross Long",
        "Liquidated Cross Short",
        "Liquidated Isolated Long",
        "Liquidated Isolated Short",
        "Auto-Deleveraging",
        "Net Child Vaults",
        DUST_CONVERSION,
        "Settlement",
        "Split Outcome",
        "Merge Outcome",
        "Merge Question",
        "Negate Outcome",
        "Backstop Borrow Liquidation",
        "Partial Borrow Liquidation",
    )
)


def is_known(label: str) -> bool:
    """Say whether `dir` is a label the venue is known to use (vendors 5.3); others are counted, not refused."""
    return label in _LABELS or label in _OTHER_LABELS


def label_agrees(label: str, change: Change) -> bool:
    """Say whether the venue's label and our reading agree; a label that names no action agrees with all."""
    if label not in _LABELS:
        return True
    actions, side = _LABELS[label]
    if change.action not in actions or (side is not None and change.side is not side):
        return False
    before = side_of(change.before)
    return {"Close Long": before is Side.LONG, "Close Short": before is Side.SHORT}.get(label, True)


def _action(start: int, delta: int) -> Action | None:
    if delta == 0:
        return None
    if start == 0:
        return Action.OPEN
    if (start > 0) == (delta > 0):
        return Action.INCREASE
    end = start + delta
    if end == 0:
        return Action.CLOSE
    return Action.DECREASE if (start > 0) == (end > 0) else Action.FLIP
