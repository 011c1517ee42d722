"""The wall clock is offset, venue time is scaled, monotonic time is neither."""

import time

import pytest

from common.clock import Clock


def test_rate_scales_venue_time_only() -> None:
    clock = Clock(rate=60)
    assert clock.venue_elapsed_ms(10.0, 10.5) == 30_000
    assert clock.venue_s(2) == 120
    assert clock.real_s(5) * 60 == 5
    before = time.monotonic()
    assert before <= clock.monotonic_s() <= time.monotonic()
    assert abs(clock.wall_ms() - time.time() * 1000) < 1000


def test_offset_moves_the_wall_clock_only() -> None:
    clock = Clock(offset_s=-3600)
    assert abs(clock.wall_ms() - (time.time() - 3600) * 1000) < 1000
    assert abs(clock.monotonic_s() - time.monotonic()) < 1


@pytest.mark.parametrize("rate", [0, -1])
def test_time_never_stands_or_runs_backwards(rate: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        Clock(rate=rate)
