import pytest

from common.health import Check, Health, Phase, check_age


def serving(*checks: Check) -> Health:
    health = Health("ohlcv")
    health.phase = Phase.SERVING
    for check in checks:
        health.add_probe(check.name, lambda check=check: check)
    return health


@pytest.mark.parametrize(
    ("age_s", "good"), [(0.0, True), (5.0, True), (5.1, False), (None, False), (float("nan"), False)]
)
def test_age_decides(age_s, good):
    assert check_age("feed", age_s, 5.0, symbol="BTCUSDT").healthy is good


def test_one_bad_check_makes_the_service_unhealthy_but_not_unready():
    report = serving(Check("a", True), check_age("feed", 9.0, 5.0)).report()
    assert (report.healthy, report.ready) == (False, True)
    assert serving(Check("a", True)).report().healthy


def test_nobody_looked_is_not_healthy():
    assert not serving().report().healthy


def test_a_failing_probe_is_an_unhealthy_check_without_secrets():
    health = serving(Check("a", True))
    health.add_probe("db", lambda: int("postgresql://u:pw@h/") and Check("db", True))
    report = health.report()
    assert not report.healthy
    assert "ValueError" in str(report.checks[1].detail) and "pw" not in str(report.checks[1].detail)


def test_a_probe_may_answer_for_many_streams_and_names_are_unique():
    health = serving()
    health.add_probe("feeds", lambda: [check_age("feed 1", 1.0, 5.0), check_age("feed 2", 6.0, 5.0)])
    assert [check.name for check in health.report().checks if not check.healthy] == ["feed 2"]
    with pytest.raises(ValueError, match="feeds"):
        health.add_probe("feeds", list)


def test_stand_by_is_healthy_without_data_but_not_ready():
    health = serving(check_age("feed", None, 5.0))
    health.phase = Phase.STANDBY
    assert (health.report().healthy, health.report().ready, health.report().checks) == (True, False, ())
    health.add_probe("database", lambda: Check("database", False), on_standby=True)
    assert not health.report().healthy


@pytest.mark.parametrize("phase", [Phase.STARTING, Phase.STOPPING])
def test_not_ready_before_first_data_and_while_stopping(phase):
    health = serving(Check("a", True))
    health.phase = phase
    assert (health.report().healthy, health.report().ready) == (True, False)
