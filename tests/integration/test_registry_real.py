"""The run on real listings: exchangeInfo with 1,695 symbols, USD-M contracts, OKX's instruments, CoinGecko's page."""

from __future__ import annotations

import asyncio
from pathlib import Path

from click.testing import CliRunner

from registry import run as nightly
from registry.command import registry
from registry.defaults import load_rules
from registry.facts import Status
from registry.settings import RegistrySettings
from registry.tables import read_rows, read_verdict
from registry.tables_text import render_changes, render_explain
from tests.integration.registry_real import open_real_vendors
from tests.integration.registry_world import SMALL_BROKER, vendor_settings
from tests.servers import service_address

EVERY_ONE = 5_000


async def test_every_symbol_of_the_real_listing_is_judged(
    shared_data: Path, ts_dsn: str, rmq_url: str, tmp_path: Path
) -> None:
    whole = Path(nightly.__file__).with_name("symbol_registry.toml").read_text()
    every = tmp_path / "every.toml"
    every.write_text(whole.replace("top = 200", f"top = {EVERY_ONE}"))
    assert str(EVERY_ONE) in every.read_text()
    async with open_real_vendors(shared_data) as url:
        settings = RegistrySettings.model_validate({
            **vendor_settings(url), "ts_dsn": service_address(ts_dsn), "rmq_url": service_address(rmq_url),
            "bus_log_max_bytes": SMALL_BROKER, "thresholds_path": every, "calls_at_once": 16,
            "rest_weight_per_min": 100_000, "futures_weight_per_min": 100_000,
        })  # fmt: skip
        report = await nightly.run(settings)
        assert len(report.night.verdicts) > 250 and report.waiting == 0
        judged = {verdict.row.symbol: verdict for verdict in report.night.verdicts}
        assert not {"BTCUP", "BTCDOWN", "USDC", "TUSD", "EUR", "GBP", "AUD", "PAX"} & set(judged)
        btc, shib = judged["BTC"], judged["SHIB"]
        assert (btc.row.pair, btc.row.okx_inst_id, btc.row.perp) == ("BTCUSDT", "BTC-USDT", "BTCUSDT")
        assert btc.facts.okx_swap == "BTC-USDT-SWAP" and str(btc.facts.market_cap) == "1742757433521"
        assert shib.row.perp == "1000SHIBUSDT"
        assert {verdict.row.status for verdict in report.night.verdicts} == {Status.ACTIVE, Status.PROBATION}
        database = nightly.open_database(settings)
        try:
            rows = await read_rows(database.query)
            for symbol, row in rows.items():
                found = await read_verdict(database.query, symbol)
                assert found is not None
                assert render_explain(found[0], row, found[1]).startswith(f"{symbol}: {row.status}")
        finally:
            await database.close()
        assert f"{len(judged)} symbols judged" in render_changes(report.night)

    # New centroids from this night, and a file that the next run can read.
    file = tmp_path / "centroids.json"
    env = {"TS_DSN": settings.ts_dsn.get_secret_value()}
    told = await asyncio.to_thread(CliRunner().invoke, registry, ["train", "--output", str(file)], env=env)
    assert told.exception is None and "silhouette" in told.stdout, told.output
    assert load_rules(centroids=file).centroids.trained_on.startswith("coin_registry_history")
