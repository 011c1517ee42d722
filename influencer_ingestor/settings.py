"""Settings of the influencer ingestor: each limit with its unit, its default and why."""

from __future__ import annotations

from pydantic import Field

from common.settings import ServiceSettings
from influencer_ingestor import hyperliquid as venue
from influencer_ingestor.chain import GAP_HOLD_MS
from influencer_ingestor.fan_in import PairLimits
from influencer_ingestor.plan import Limits
from influencer_ingestor.signals import SIGNAL_MAX_AGE_S


class InfluencerSettings(ServiceSettings):
    """Environment of the influencer ingestor, beside what every service reads."""

    # venue
    hyperliquid_ws_url: str = venue.WS_URL
    hyperliquid_info_url: str = venue.INFO_URL

    # the venue's limits; all hold per IP address, so what else runs on ours gets its part by smaller numbers here
    sockets_max: int = Field(default=venue.SOCKETS_MAX, ge=2, le=1_000)
    users_max: int = Field(default=venue.USERS_MAX, ge=0, le=10_000)
    subscriptions_max: int = Field(default=venue.SUBSCRIPTIONS_MAX, ge=2)
    connects_per_min: int = Field(default=venue.CONNECTS_MAX, ge=2)
    weight_per_min: int = Field(default=venue.REST_LIMIT, ge=60)
    sockets_per_listener: int = Field(default=2, ge=1, le=500)

    # connections
    # States tell leverage and margin mode, and are stored when what is held changes.
    watch_positions: bool = True
    # Orders name no account, so only one account per socket can be heard: its most important one.
    watch_orders: bool = False
    open_timeout_s: float = Field(default=10.0, gt=0, le=60)
    ack_timeout_s: float = Field(default=10.0, gt=0, le=60)
    ping_every_s: float = Field(default=venue.PING_EVERY_S, gt=0, le=55)
    pong_timeout_s: float = Field(default=10.0, gt=0, le=60)
    frame_bytes_max: int = Field(default=16 * 2**20, ge=2**16)
    retry_first_s: float = Field(default=0.25, gt=0, le=60)
    retry_max_s: float = Field(default=15.0, gt=0, le=600)

    # listeners
    skew_max_ms: int = Field(default=200, ge=1)
    copy_wait_ms: int = Field(default=2_000, ge=50)
    misses_max: int = Field(default=3, ge=1)
    probe_every_s: float = Field(default=1.0, ge=0.05, le=60)

    # signals
    gap_hold_ms: int = Field(default=GAP_HOLD_MS, ge=0, le=10_000)
    signal_max_age_s: int = Field(default=SIGNAL_MAX_AGE_S, ge=1)
    # A fill further ahead of our clock than this is not believed: it would make all that follow it late.
    fill_ahead_ms_max: int = Field(default=60_000, ge=1_000)

    # writing
    queue_max: int = Field(default=20_000, ge=100)
    write_batch_max: int = Field(default=500, ge=1, le=5_000)
    dedup_keys_max: int = Field(default=20_000, ge=1_000)

    # the info endpoint
    rest_timeout_s: float = Field(default=10.0, gt=0, le=60)
    fetches_at_once: int = Field(default=4, ge=1, le=32)
    # Around a start and an outage: fills may come in another order than they happened.
    overlap_s: float = Field(default=60.0, ge=0, le=3_600)
    # What nobody streamed is found at the latest after this long.
    audit_every_s: float = Field(default=60.0, ge=1)
    # Not younger: the streams shall be first.
    audit_lag_ms: int = Field(default=3_000, ge=0)
    state_every_s: float = Field(default=60.0, ge=1)
    poll_every_min_ms: int = Field(default=1_000, ge=50)
    poll_every_max_s: float = Field(default=60.0, ge=1)
    poll_share: float = Field(default=0.5, gt=0, le=1)
    poll_items: int = Field(default=100, ge=0, le=2_000)

    # configuration
    configuration_poll_s: float = Field(default=30.0, ge=1)

    # OpenTelemetry: where spans go (OTLP over HTTP); empty is off
    traces_url: str = ""

    def limits(self) -> Limits:
        """What the plan has to keep."""
        return Limits(
            sockets_max=self.sockets_max,
            users_max=self.users_max,
            subscriptions_max=self.subscriptions_max - (2 * self.sockets_per_listener if self.watch_orders else 0),
            connects_per_min=self.connects_per_min,
            weight_per_min=self.weight_per_min,
            sockets_per_listener=self.sockets_per_listener,
            feeds=self.feeds(),
            poll_share=self.poll_share,
            poll_items=self.poll_items,
            poll_every_max_s=self.poll_every_max_s,
        )

    def start_overlap_ms(self) -> int:
        """How far before the cursor a start fetches: what the last life had not audited yet is in it."""
        return int((self.overlap_s + self.audit_every_s) * 1000) + self.audit_lag_ms

    def feeds(self) -> tuple[str, ...]:
        """What both listeners subscribe for every account; each names its account."""
        return ("userFills", "clearinghouseState") if self.watch_positions else ("userFills",)

    def pair_limits(self) -> PairLimits:
        """When a primary hands over."""
        return PairLimits(self.skew_max_ms, 3, self.copy_wait_ms, self.misses_max)
