"""Vendors whose listings are real answers (captured, not in the repository); the rest is the sandbox's.

What the captures do not have, 24 hours of a pair, candles, open interest, funding, is made up in the sandbox for every
pair that the captured exchangeInfo lists.
"""

from __future__ import annotations

import gzip
import json
import time
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from aiohttp import web

from sandbox.config import Config
from sandbox.venue import Sandbox

SPOT = "binance/spot_rest_exchangeInfo_20211012.json.gz"
FUTURES = "binance/usdm_rest_exchangeInfo_20260331.json.gz"
OKX = "okx/rest_public_instruments_{}_20220513.json"
COINS = "coingecko/coins_markets_20251229.json"
TOP_VOLUME = 3_000_000_000


@asynccontextmanager
async def open_real_vendors(data: Path) -> AsyncIterator[str]:
    """Address of all vendors together."""
    spot = gzip.decompress((data / SPOT).read_bytes())
    futures = gzip.decompress((data / FUTURES).read_bytes())
    listing = json.loads(spot)
    rows = listing["symbols"]
    # A run whose clock is years off judges nothing.
    spot = json.dumps({**listing, "serverTime": int(time.time() * 1000)}).encode()
    perps = {row["symbol"] for row in json.loads(futures)["symbols"]}
    async with Sandbox(Config(symbols=("BTCUSDT",), history_minutes=1, okx=True)) as venue:
        listed = [row for row in rows if row["quoteAsset"] == "USDT" and row["status"] == "TRADING"]
        coins = [row["symbol"].upper() for row in json.loads((data / COINS).read_bytes())]
        order = {base: rank for rank, base in reversed(list(enumerate(coins)))}
        listed.sort(key=lambda row: (order.get(row["baseAsset"], len(order)), zlib.crc32(row["symbol"].encode())))
        for rank, row in enumerate(listed):
            venue.fault("list", symbol=row["symbol"], **made_up(rank, row["symbol"], perps))
        async with httpx.AsyncClient(base_url=venue.rest_url, timeout=20) as behind:

            async def serve(request: web.Request) -> web.Response:
                path, query = request.path, request.query
                if path == "/api/v3/exchangeInfo":
                    return _json(spot)
                if path == "/fapi/v1/exchangeInfo":
                    return _json(futures)
                if path == "/api/v5/public/instruments":
                    return _json((data / OKX.format(query["instType"])).read_bytes())
                if path == "/api/v3/coins/markets":
                    return _json(b"[]" if "category" in query else (data / COINS).read_bytes())
                answer = await behind.get(request.rel_url.raw_path_qs)
                return web.Response(body=answer.content, status=answer.status_code, content_type="application/json")

            app = web.Application()
            app.router.add_get("/{tail:.*}", serve)
            runner = web.AppRunner(app, shutdown_timeout=0.1)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            try:
                yield f"http://127.0.0.1:{runner.addresses[0][1]}"
            finally:
                await runner.cleanup()


def made_up(rank: int, symbol: str, perps: set[str]) -> dict[str, object]:
    """Facts by rank, the real coins' by market cap: big and tight first; the pair's own number scatters the rest."""
    dice = zlib.crc32(symbol.encode()[::-1])
    volume = max(20_000, int(TOP_VOLUME / (rank + 1) ** 1.3))
    perp = symbol if symbol in perps else f"1000{symbol}" if f"1000{symbol}" in perps else False
    facts: dict[str, object] = {
        "volume": str(volume), "spread_pct": f"{0.01 * (1 + rank**0.55) * (1 + dice % 7 / 4):.4f}",
        "age_days": 20 + dice % 2200, "move_pct": str(dice % 23 - 11), "perp": perp,
        "open_interest": str(max(1000, volume // 5)),
    }  # fmt: skip
    # The price of the one that the sandbox itself trades is its trades'.
    return facts if symbol == "BTCUSDT" else {**facts, "price": "1"}


def _json(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="application/json")
