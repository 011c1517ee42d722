"""A listing as real ones are: a power law of volumes, and every oddity that has ever fooled a symbol list."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec

from sandbox.draws import draw_between, draw_unit
from sandbox.facts import DAY_MS, Facts
from sandbox.symbols import split_symbol

_KNOWN = """
BTC ETH SOL BNB XRP DOGE ADA TRX AVAX LINK SUI TON DOT LTC BCH NEAR UNI APT ICP HBAR ETC ATOM FIL ARB OP INJ
XLM VET IMX GRT AAVE MKR RUNE ALGO SEI TIA STX LDO FTM EGLD SAND MANA AXS THETA FLOW XTZ GALA CHZ CRV SNX
COMP DYDX ENS 1INCH ZEC DASH KAVA ROSE WLD ORDI JUP PYTH STRK ENA
"""
KNOWN = tuple(_KNOWN.split())
COIN_IDS = {
    "BTC": "bitcoin", "ETH": "ethereum", "SOL": "solana", "BNB": "binancecoin", "XRP": "ripple", "DOGE": "dogecoin",
    "ADA": "cardano", "TRX": "tron", "AVAX": "avalanche-2", "LINK": "chainlink", "DOT": "polkadot", "LTC": "litecoin",
}  # fmt: skip
"""CoinGecko's ids that are not what one would guess; elsewhere the id is the ticker, or ends in -coin."""
THOUSANDS = ("PEPE", "SHIB", "BONK", "FLOKI")
"""Coins whose perpetual is of a thousand."""
_SYLLABLES = ("BA", "CO", "DU", "FI", "GO", "KA", "LU", "MO", "NE", "PO", "RI", "SO", "TA", "VE", "XO", "ZI")


class Coin(msgspec.Struct, frozen=True):
    """A row of CoinGecko's that belongs to no pair here: same ticker as another coin, or traded elsewhere."""

    id: str
    symbol: str
    name: str
    mcap: int | None
    volume: int | None
    price: Decimal | None
    categories: tuple[str, ...] = ()


OTHER_COINS = (
    Coin("bitcoin-2-old", "btc", "Bitcoin Two", 1_200_000, 900, Decimal("0.05")),
    Coin("solana-inu", "sol", "Solana Inu", None, None, None),
    Coin("binance-peg-sol", "sol", "Binance-Peg SOL", 60_000_000, 100_000, Decimal(150), ("wrapped-tokens",)),
    Coin("unicorn-uni", "uni", "Unicorn", 40_000, 12, Decimal("0.000000012")),
    Coin("wrapped-steth", "wsteth", "Wrapped stETH", 9_000_000_000, 50_000_000, Decimal(3700), ("wrapped-tokens",)),
    Coin("dead-coin", "dead", "Dead Coin", 0, 0, Decimal("1E-12")),
)

# base, coin id, category, price, pairs
_ODD: tuple[tuple[str, str, tuple[str, ...], str, tuple[str, ...]], ...] = (
    ("USDC", "usd-coin", ("stablecoins",), "1", ("USDT",)),
    ("FDUSD", "first-digital-usd", ("stablecoins",), "1", ("USDT",)),
    ("TUSD", "true-usd", ("stablecoins",), "1", ("USDT",)),
    ("DAI", "dai", ("stablecoins",), "1", ("USDT",)),
    ("USD1", "usd1-wlfi", ("stablecoins",), "1", ("USDT",)),
    ("EUR", "", (), "1.08", ("USDT",)),
    ("WBTC", "wrapped-bitcoin", ("wrapped-tokens",), "64000", ("USDT", "BTC")),
    ("WBETH", "wrapped-beacon-eth", ("wrapped-tokens", "liquid-staking-tokens"), "3400", ("USDT", "ETH")),
    ("BNSOL", "binance-staked-sol", ("liquid-staking-tokens",), "160", ("USDT",)),
    ("PAXG", "pax-gold", ("tokenized-gold",), "3300", ("USDT",)),
    ("币安人生", "bianrensheng", ("meme-token",), "0.12", ("USDT",)),
)
_LEVERAGED = ("BTCUP", "BTCDOWN", "ETHUP", "ETHDOWN", "XRPBULL", "XRPBEAR")
_OTHER_QUOTES = ("BTCUSDC", "BTCFDUSD", "BTCEUR", "BTCTRY", "ETHUSDC", "ETHBTC", "SOLUSDC", "SOLBTC", "BNBETH")


def name_base(seed: int, rank: int) -> str:
    """The base asset at a rank: known names first, then made-up ones."""
    names = (*KNOWN[:10], *THOUSANDS, *KNOWN[10:])
    if rank < len(names):
        return names[rank]
    parts = [_SYLLABLES[int(draw_unit(seed, "name", rank, i) * len(_SYLLABLES))] for i in range(2)]
    return "".join(parts) + _letters(rank)


def _letters(number: int) -> str:
    return chr(65 + number // 26 % 26) + chr(65 + number % 26)


def _number(value: float, digits: int = 5) -> Decimal:
    """The value with so many significant digits."""
    return Decimal(f"{value:.{digits}g}")


def tick_for(price: Decimal) -> Decimal:
    """A price step with about five digits below the price, eight decimals at most."""
    return Decimal(1).scaleb(max(-8, min(-2, price.adjusted() - 4)))


def describe_rank(seed: int, rank: int, start_ms: int) -> Facts:
    """An ordinary USDT pair: big, old and tight at the top, small, young and wide at the bottom."""
    base = name_base(seed, rank)
    symbol = f"{base}USDT"

    def chance(what: str) -> float:
        return draw_unit(seed, what, symbol)

    volume = max(8_000.0, 2.5e9 / (rank + 1) ** 1.25 * (0.6 + 0.8 * chance("volume")))
    price = _number(10 ** (-3.0 + 5.5 * chance("price")) / (1000 if base in THOUSANDS else 1))
    wide = chance("wide") < 0.03
    spread = (0.6 + chance("spread")) if wide else 0.008 * (rank + 1) ** 0.5 * (0.7 + 0.6 * chance("spread"))
    age = int(5 + 50 * chance("age")) if chance("young") < 0.06 else int(120 + 2400 * chance("age"))
    status = "BREAK" if chance("status") < 0.025 else "HALT" if chance("status") < 0.033 else "TRADING"
    has_perp = chance("perp") < 0.95 - 0.5 * min(1.0, rank / 300)
    perp = (f"1000{symbol}" if base in THOUSANDS else symbol) if has_perp else None
    hours = 8 if chance("hours") > 0.2 else 4 if chance("hours") > 0.05 else 1
    listed_ms = (start_ms // DAY_MS - age) * DAY_MS
    open_interest = volume * (0.1 + 0.3 * chance("oi")) / float(price) / (1000 if base in THOUSANDS else 1)
    mcap = None if chance("mcap") < 0.03 else int(volume * (5 + 30 * chance("mcap")))
    coin = COIN_IDS.get(base) or (base.lower() if rank < len(KNOWN) else f"{base.lower()}-coin")
    move = (40 + 120 * chance("move")) if chance("pump") < 0.02 else 16 * chance("move") - 8
    return Facts(
        symbol=symbol, base=base, quote="USDT", listed_ms=listed_ms, status=status, price=price, tick=tick_for(price),
        spread_pct=_number(spread, 3), volume=_number(volume), move_pct=_number(move, 4), perp=perp,
        perp_listed_ms=listed_ms + min(age, 30) * DAY_MS, open_interest=_number(open_interest), funding_hours=hours,
        special_funding=chance("special") < 0.03, okx=chance("okx") < 0.8 - 0.5 * min(1.0, rank / 300),
        okx_swap=has_perp and chance("okx swap") < 0.7, coin=coin, coin_name=base.title(), mcap=mcap,
        categories=("meme-token",) if base in THOUSANDS else (),
    )  # fmt: skip


def describe_traded(seed: int, rank: int, symbol: str, start_ms: int) -> Facts:
    """A pair that the sandbox itself trades: old, known everywhere, healthy as its trades are."""
    base, quote = split_symbol(symbol)
    listed_ms = (start_ms // DAY_MS - 2200 + 37 * (rank % 30)) * DAY_MS
    tick = Decimal("0.01") if quote in {"USDT", "USDC", "FDUSD", "EUR"} else Decimal("0.00000001")
    return Facts(
        symbol=symbol, base=base, quote=quote, traded=True, listed_ms=listed_ms, tick=tick,
        perp=symbol if quote == "USDT" else None, perp_listed_ms=listed_ms + 200 * DAY_MS,
        open_interest=_number(90_000 * draw_between(0.8, 1.2, seed, "oi", symbol)),
        funding_hours=(8, 8, 4, 1)[rank % 4],
        okx=True, okx_swap=quote == "USDT", coin=COIN_IDS.get(base, base.lower()) if quote == "USDT" else None,
        coin_name=base.title(), mcap=int(1.2e12 / (rank + 1)),
    )  # fmt: skip


def describe_odd(seed: int, start_ms: int) -> list[Facts]:
    """Stablecoins, wrapped coins, leveraged tokens, other quotes, a name that is not ASCII, statuses unheard of."""
    common: dict[str, Any] = {
        "listed_ms": (start_ms // DAY_MS - 900) * DAY_MS, "perp_listed_ms": (start_ms // DAY_MS - 800) * DAY_MS,
        "spread_pct": Decimal("0.02"), "move_pct": Decimal("0.1"),
    }  # fmt: skip
    found: list[Facts] = []
    for base, coin, categories, price, quotes in _ODD:
        for quote in quotes:
            found.append(
                Facts(
                    symbol=base + quote,
                    base=base,
                    quote=quote,
                    price=Decimal(price) if quote == "USDT" else Decimal(1),
                    tick=Decimal("0.0001"),
                    volume=Decimal(90_000_000),
                    okx=base in ("USDC", "PAXG"),
                    coin=coin if coin and quote == "USDT" else None,
                    coin_name=base,
                    mcap=2_000_000_000,
                    categories=categories,
                    **common,
                )
            )
    for base in _LEVERAGED:
        found.append(
            Facts(
                symbol=f"{base}USDT",
                base=base,
                quote="USDT",
                status="TRADING" if base == "BTCUP" else "BREAK",
                permissions=("LEVERAGED",),
                price=Decimal("4.2"),
                tick=Decimal("0.001"),
                volume=Decimal(3_000_000),
                coin=f"{base.lower()}-token",
                coin_name=base,
                mcap=4_000_000,
                categories=("leveraged-token",),
                **common,
            )
        )
    for symbol in _OTHER_QUOTES:
        base, quote = split_symbol(symbol)
        price = _number(10 ** draw_between(0, 3, seed, "price", symbol))
        found.append(
            Facts(symbol=symbol, base=base, quote=quote, price=price, tick=tick_for(price), volume=Decimal(40_000_000),
                  okx=quote in ("USDC", "BTC"), perp=symbol if quote == "USDC" else None,
                  open_interest=Decimal(9000), **common)
        )  # fmt: skip
    late: dict[str, Any] = {"price": Decimal("2.5"), "volume": Decimal(1_000_000), **common}
    found.append(Facts(symbol="GONEUSDT", base="GONE", quote="USDT", status="CANCEL_ONLY", **late))
    found.append(Facts(symbol="NOSPOTUSDT", base="NOSPOT", quote="USDT", spot=False, permissions=(), **late))
    return found
