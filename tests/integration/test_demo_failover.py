"""A demo with a long cut: the fallback venue speaks, and nothing of it remains. In a file of its own, to run beside."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from ops.demo import DEMO_SYMBOLS
from ops.demo_cuts import Cut
from ops.demo_play import Outcome, Plan, Play
from ops.services import Servers
from tests.integration.test_demo import read_count


async def test_a_long_cut_shows_the_failover(
    servers: Servers, ts_dsn: str, rmq_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = Cut(after_s=6, for_s=16, minute_s=8, reach_s=30)
    own = replace(servers, ts_dsn=ts_dsn, rmq_url=rmq_url)
    async with httpx.AsyncClient(trust_env=False, timeout=5) as http:
        play = Play(Plan(DEMO_SYMBOLS, loopback=True, seconds=23, given_cuts=(cut,)), own, tmp_path)
        playing = asyncio.create_task(play.run())
        speaking = await watch_speaking(playing, http, tmp_path / "ingestor.port")
        outcome = await playing
    assert outcome.faults == []
    assert speaking == {
        "trading_bus_fallback_speaking": "1.0",
        "trading_bus_fallback_symbols": "6.0",
        "trading_bus_failovers_total": "1.0",
    }
    text, summary = capsys.readouterr().out, "\n".join(outcome.lines)
    assert "| speaker: okx |" in text and "| speaker: binance |" in text
    assert text.index("ohlcv-0: okx speaks") < text.index("ohlcv-0: binance speaks again")
    for symbol in DEMO_SYMBOLS:
        assert re.search(rf"{symbol}: bar of \S+ told by okx \(rev \d, not complete\)", text), symbol
        assert re.search(rf"{symbol}: bar of \S+ revised \(rev \d, complete\), replaces the fallback's", text), symbol
    assert read_count(r"failover +(\d+) seen", summary) == 1
    assert read_count(r"(\d+) bars told by the fallback", summary) >= len(DEMO_SYMBOLS)
    assert "0 bars and 0 seconds of it remain" in summary
    bars = read_count(r"([\d,]+) of [\d,]+ closed bars equal", summary)
    assert bars > 600
    assert read_count(r"feature engine ended with ([\d,]+) bars and [\d,]+ seconds, equal to the", summary) == bars


async def watch_speaking(playing: asyncio.Task[Outcome], http: httpx.AsyncClient, port_file: Path) -> dict[str, str]:
    """Metrics about the fallback, as soon as it speaks for every symbol; as they are when the demo ends before."""
    found: dict[str, str] = {}
    while found.get("trading_bus_fallback_symbols") != "6.0" and not playing.done():
        await asyncio.sleep(0.1)
        if port_file.exists():
            with suppress(httpx.HTTPError):
                text = (await http.get(f"http://127.0.0.1:{port_file.read_text().strip()}/metrics")).text
                found = dict(re.findall(r'^(trading_bus_f\w+)\{feed="ohlcv-0"\} (\S+)$', text, re.M))
    return {name: value for name, value in found.items() if "fallback" in name or "failover" in name}
