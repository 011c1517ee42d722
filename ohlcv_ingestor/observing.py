"""What the OHLCV ingestor tells about itself: health from the age of data, and metrics."""

from __future__ import annotations

from common.clock import Clock
from common.ground import watch_outbox
from common.health import Check, check_age
from common.metrics import watch_counter, watch_gauge
from common.outbox import Outbox
from common.publisher import AmqpPublisher
from common.rest import WeightBudget
from common.service import Service
from ohlcv_ingestor.failover import Speaker
from ohlcv_ingestor.ingestor import VENUE, Ingestor, Track
from ohlcv_ingestor.lags import Lags, measure_lags
from ohlcv_ingestor.repairer import Repairer
from ohlcv_ingestor.settings import OhlcvSettings
from ohlcv_ingestor.writer import Writer

WRITING_MAX_S = 30.0
OUTBOX_MAX_S = 30.0
SYMBOL_BEHIND_MAX_S = 60.0
GAP_OPEN_MAX_S = 300.0
BEHIND_TOLD = 20


def watch_ingestor(
    service: Service[OhlcvSettings], clock: Clock, ingestor: Ingestor, writer: Writer, outbox: Outbox,
    publisher: AmqpPublisher, repairer: Repairer, budget: WeightBudget,
) -> None:  # fmt: skip
    """Register probes and metrics."""
    watch_health_of(service, clock, ingestor, writer, outbox)
    _watch_feeds(service, clock, ingestor)
    _watch_path(service, writer, outbox, publisher, repairer)
    registry = service.registry

    def weight() -> float:
        return float(budget.used(clock.monotonic_s()))

    watch_gauge(registry, "trading_bus_rest_weight_used", "REST weight spent in the last minute.", weight)
    watch_gauge(registry, "trading_bus_rest_weight_limit", "REST weight we may spend a minute.", lambda: budget.limit)


def watch_health_of(
    service: Service[OhlcvSettings], clock: Clock, ingestor: Ingestor, writer: Writer, outbox: Outbox
) -> None:
    """Answer from ages: of each feed's data, of each watermark, of rows and messages that wait."""

    def feeds() -> list[Check]:
        now_s = clock.monotonic_s()
        return [_feed_check(track, now_s, service.settings) for track in ingestor.tracks]

    def symbols() -> Check:
        return _symbols_check([measure_lags(track.line) for track in ingestor.tracks], clock.rate)

    def writing() -> Check:
        return check_age("writing", writer.failing_s(), WRITING_MAX_S, waiting=writer.waiting())

    def publishing() -> Check:
        return check_age("publishing", outbox.oldest_age_s(), OUTBOX_MAX_S, depth=outbox.depth())

    service.health.add_probe("symbols", symbols)
    service.health.add_probe("feeds", feeds)
    service.health.add_probe("writing", writing)
    service.health.add_probe("publishing", publishing)


def _symbols_check(lags: list[Lags], rate: float) -> Check:
    """Every symbol keeps up with its line, and no gap waits for its repair for long; venue time, so the rate counts."""
    behind = {s: lag for one in lags for s, lag in one.behind_s.items() if lag > SYMBOL_BEHIND_MAX_S * rate}
    oldest_s = max((one.oldest_gap_s for one in lags), default=0.0)
    followed = sum(len(one.behind_s) for one in lags)
    detail: dict[str, object] = {
        "followed": followed,
        "behind_s": {symbol: round(lag, 1) for symbol, lag in sorted(behind.items())[:BEHIND_TOLD]},
        "behind": len(behind),
        "gaps_open": sum(one.gaps for one in lags),
        "gaps_parked": sum(one.parked for one in lags),
        "oldest_gap_s": round(oldest_s, 1),
    }
    return Check("symbols", followed > 0 and not behind and oldest_s <= GAP_OPEN_MAX_S * rate, detail)


def _feed_check(track: Track, now_s: float, settings: OhlcvSettings) -> Check:
    """A feed is healthy while the primary delivers: that the fallback speaks meanwhile is told, and is no health."""
    line, stale_s = track.line, settings.stale_after_s
    # Every symbol followed; None before its first trade.
    ages = {
        symbol: round((line.watermark_ms - series.last_ms) / 1000, 1) if series.last_ms and line.watermark_ms else None
        for symbol, series in line.series.items()
    }
    age_s = track.feed.data_age_s()
    return Check(
        track.feed.name,
        age_s <= stale_s and not line.blind(now_s),
        {
            "watermark_ms": line.watermark_ms,
            "watermark_age_s": round(now_s - line.moved_s, 1),
            "trade_age_s": ages,
            "speaker": settings.fallback if _is_relieved(track) else VENUE,
            "failovers": _count_failovers(track),
            "relieved": len(track.relief.relieved(now_s)) if track.relief is not None else 0,
        },
        age_s,
        stale_s,
    )


def _is_relieved(track: Track) -> bool:
    """Is the fallback asked to speak for this feed's symbols?"""
    return track.relief is not None and track.relief.failover.speaker is Speaker.FALLBACK


def _count_failovers(track: Track) -> int:
    """How often the speaker changed from the primary to the fallback; the changes alternate."""
    return 0 if track.relief is None else (track.relief.failover.changes + 1) // 2


def _skew_s(track: Track, clock: Clock, lateness_ms: int) -> float | None:
    """Our wall clock less the venue's when its newest event came in: skew and travel time; None while it is unknown.

    Where venue time runs at another rate (tapes) the two clocks have nothing to do with each other.
    """
    line, now_s = track.line, clock.monotonic_s()
    if not line.watermark_ms or line.blind(now_s) or clock.rate != 1.0:
        return None
    came_ms = clock.wall_ms() - 1000 * (now_s - line.moved_s)
    return (came_ms - line.watermark_ms - lateness_ms) / 1000


def _watch_feeds(service: Service[OhlcvSettings], clock: Clock, ingestor: Ingestor) -> None:
    registry = service.registry

    def per_track(read: str) -> dict[str, float]:
        return {t.feed.name: float(getattr(t.feed, read)) for t in ingestor.tracks}

    watch_gauge(
        registry, "trading_bus_watermark_age_seconds", "Our time since the watermark last moved.",
        lambda: {t.feed.name: clock.monotonic_s() - t.line.moved_s for t in ingestor.tracks}, ("feed",),
    )  # fmt: skip
    watch_gauge(
        registry, "trading_bus_feed_data_age_seconds", "Our time since a data frame arrived.",
        lambda: {t.feed.name: t.feed.data_age_s() for t in ingestor.tracks}, ("feed",),
    )  # fmt: skip
    watch_gauge(
        registry, "trading_bus_fallback_speaking", "1 while the fallback venue is asked to speak for a feed.",
        lambda: {t.feed.name: float(_is_relieved(t)) for t in ingestor.tracks}, ("feed",),
    )  # fmt: skip
    watch_gauge(
        registry, "trading_bus_fallback_symbols", "Symbols that the fallback venue speaks for now.",
        lambda: {
            t.feed.name: float(len(t.relief.relieved(clock.monotonic_s()))) for t in ingestor.tracks if t.relief
        }, ("feed",),
    )  # fmt: skip
    watch_counter(
        registry, "trading_bus_failovers_total", "Changes of speaker from the primary to the fallback venue.",
        lambda: {t.feed.name: float(_count_failovers(t)) for t in ingestor.tracks}, ("feed",),
    )  # fmt: skip
    for name, attribute, text in (
        ("trading_bus_feed_frames_total", "frames_total", "Frames received."),
        ("trading_bus_feed_bad_frames_total", "bad_total", "Frames that could not be read."),
        ("trading_bus_feed_reconnects_total", "reconnects_total", "Connections that were lost."),
        ("trading_bus_feed_refusals_total", "refusals_total", "Attempts to connect that came to nothing."),
        ("trading_bus_feed_rotations_total", "rotations_total", "Connections replaced while they worked."),
    ):
        watch_counter(registry, name, text, lambda attribute=attribute: per_track(attribute), ("feed",))
    watch_counter(
        registry, "trading_bus_trades_total", "Trade records received.",
        lambda: float(sum(t.line.trades_total for t in ingestor.tracks)),
    )  # fmt: skip
    watch_gauge(
        registry, "trading_bus_symbol_behind_seconds", "Venue time by which the slowest symbol is behind its feed.",
        lambda: {t.feed.name: max(measure_lags(t.line).behind_s.values(), default=0.0) for t in ingestor.tracks},
        ("feed",),
    )  # fmt: skip
    watch_gauge(
        registry, "trading_bus_gap_age_seconds", "Venue time since the oldest gap under repair ended.",
        lambda: {t.feed.name: measure_lags(t.line).oldest_gap_s for t in ingestor.tracks}, ("feed",),
    )  # fmt: skip
    watch_counter(
        registry, "trading_bus_trades_ignored_total", "Trades that were known already, or settled by a kline.",
        lambda: float(sum(s.ignored for s in ingestor.all_series())),
    )  # fmt: skip
    watch_counter(
        registry, "trading_bus_trades_stray_total", "Trades of symbols that are not followed.",
        lambda: float(sum(t.line.strays_total for t in ingestor.tracks)),
    )  # fmt: skip
    watch_counter(
        registry, "trading_bus_trades_early_total", "Trades before their connection told its time, left to a repair.",
        lambda: float(sum(t.line.early_total for t in ingestor.tracks)),
    )  # fmt: skip
    watch_counter(
        registry, "trading_bus_trades_refused_total", "Trades whose time can not be right, kept as dead letters.",
        lambda: float(sum(t.line.refused_total for t in ingestor.tracks)),
    )  # fmt: skip
    watch_gauge(
        registry, "trading_bus_gaps_open", "Gaps not settled yet.",
        lambda: float(sum(len(s.ids.gaps) for s in ingestor.all_series())),
    )  # fmt: skip
    watch_gauge(
        registry, "trading_bus_gaps_parked", "Gaps older than what is repaired by itself, left for an operator.",
        lambda: float(sum(measure_lags(t.line).parked for t in ingestor.tracks)),
    )  # fmt: skip
    watch_gauge(
        registry, "trading_bus_clock_skew_seconds", "Our wall clock less the venue's event time on arrival.",
        lambda: {
            t.feed.name: skew for t in ingestor.tracks
            if (skew := _skew_s(t, clock, service.settings.lateness_ms)) is not None
        }, ("feed",),
    )  # fmt: skip
    watch_gauge(
        registry,
        "trading_bus_symbols",
        "Symbols followed.",
        lambda: float(sum(len(t.symbols) for t in ingestor.tracks)),
    )


def _watch_path(
    service: Service[OhlcvSettings], writer: Writer, outbox: Outbox, publisher: AmqpPublisher, repairer: Repairer
) -> None:
    registry = service.registry
    watch_gauge(registry, "trading_bus_rows_waiting", "Rows not committed yet.", lambda: float(writer.waiting()))
    watch_counter(
        registry, "trading_bus_rows_committed_total", "Rows, gaps and cursors committed.",
        lambda: float(writer.committed_total),
    )  # fmt: skip
    watch_counter(
        registry, "trading_bus_rows_thrown_away_total", "Rows thrown away because the buffer was full.",
        lambda: float(writer.thrown_away_total),
    )  # fmt: skip
    watch_outbox(registry, outbox, publisher)
    watch_counter(
        registry, "trading_bus_beats_dropped_total", "Beats dropped because the broker was away.",
        lambda: float(publisher.transient_dropped_total),
    )  # fmt: skip
    watch_counter(registry, "trading_bus_repairs_total", "Gaps settled.", lambda: float(repairer.repaired_total))
    watch_counter(
        registry, "trading_bus_stalled_streams_total", "Streams that had stopped on a healthy connection.",
        lambda: float(repairer.stalled_total),
    )  # fmt: skip
    watch_counter(
        registry, "trading_bus_repair_failures_total", "Repairs that the venue did not answer.",
        lambda: float(repairer.failures_total),
    )  # fmt: skip
