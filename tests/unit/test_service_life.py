"""The exit code and the share of time, judged without a process; everything else is in tests/integration."""

import pytest

from common.errors import ConfigError, Superseded, TryLater
from common.service import EXIT_CONFIG, EXIT_DIED, EXIT_SUPERSEDED, STEP_RESERVE_S, _exit_code, _share_s


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError(), EXIT_DIED),
        (TryLater("x"), EXIT_DIED),
        (Superseded("x"), EXIT_SUPERSEDED),
        (ConfigError("x"), EXIT_CONFIG),
        (ExceptionGroup("g", [ValueError(), ExceptionGroup("h", [Superseded("x")])]), EXIT_SUPERSEDED),
        (ExceptionGroup("g", [ValueError(), TypeError()]), EXIT_DIED),
    ],
)
def test_exit_code_names_what_ended_the_service(error, code):
    assert _exit_code(error) == code


def test_a_stuck_step_always_leaves_time_to_those_behind_it():
    assert _share_s(9.5, 0) == 9.5
    assert _share_s(9.5, 3) == 9.5 - 3 * STEP_RESERVE_S
    left_s = 9.5
    for waiting in range(50, -1, -1):  # every step takes all it may
        allowed_s = _share_s(left_s, waiting)
        assert 0 < allowed_s <= left_s
        left_s -= allowed_s
    assert _share_s(-1, 2) == 0
