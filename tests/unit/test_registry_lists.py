"""Files kept by hand: what is read, and what is refused by name."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path

import pytest

from common.errors import ConfigError
from registry.defaults import BANLIST, CENTROIDS, THRESHOLDS, WHITELIST, load_rules
from registry.liquidity import parse_centroids
from registry.lists import parse_list
from registry.thresholds import parse_thresholds

SHIPPED = files("registry").joinpath(THRESHOLDS).read_text("utf-8")


def test_lists_are_read() -> None:
    assert parse_list("", "x") == parse_list("# nothing\n{}\n", "x") == {}
    text = 'LUNC: collapsed,  traded for\n  its noise\n1INCH: a\n"ON": b\n币安人生: c\n'
    assert parse_list(text, "x") == {
        "LUNC": "collapsed, traded for its noise",
        "1INCH": "a",
        "ON": "b",
        "币安人生": "c",
    }


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("- SOL", "lines like `SYMBOL: reason`"),
        ("SOL", "lines like `SYMBOL: reason`"),
        ("SOL:", "SOL has no reason"),
        ("SOL: '  '", "SOL has no reason"),
        ("SOL: [a]", "SOL has no reason"),
        ("sol: why", "'sol' is not a base asset in capitals"),
        ("'SOL USDT': why", "'SOL USDT'"),
        ("ON: why", "True is not a symbol; put it in quotes"),
        ("4: why", "4 is not a symbol; put it in quotes"),
        ("SOL: a\nSOL: b", "SOL stands here twice"),
        ("? [SOL]\n: why", "a symbol is one word"),
        ("SOL: 'x", "ban.yml"),
        ("SOL: !!python/object/apply:os.getcwd []", "ban.yml"),
        (f"SOL: {'x' * 201}", "the reason of SOL is longer than 200"),
    ],
)
def test_lists_are_refused_by_name(text: str, names: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_list(text, "ban.yml")
    assert str(caught.value).startswith("ban.yml: ") and names in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ("history = 35", "history = 36", "the weights add up to 101"),
        ("history = 35", "history = -65\nhistori = 1", "histori"),
        ("history = 35\n", "", "history"),
        ("pump = 10", "pump = '10'", "pump"),
        ("pump = 10", "pump =", "symbol_registry.toml"),
        ("{ zero = 1e5, full = 1e8, share = 1 }", "{ zero = 0, full = 1e8, share = 1 }", "liquidity.volume_usd"),
        ("{ zero = 0, full = 365, share = 7 }", "{ zero = 9, full = 9, share = 7 }", "history.age_days"),
        ("{ zero = 0, full = 365, share = 7 }", "{ zero = 0, full = 365, share = 0 }", "history.age_days: a share"),
        ("{ zero = 0, full = 365, share = 7 }", "{ zero = nan, full = 365, share = 7 }", "history.age_days"),
        ("probation_days = 7", "probation_days = 0", "days and nights"),
        ("changed_share_max = 0.30", "changed_share_max = 30", "changed_share_max"),
        ("spread_pct_max = 0.5 ", "spread_pct_max = 0 ", "spread_pct_max"),
        ("spread_pct_max = 0.5 ", "spread_pct_max = nan ", "finite"),
        ('quotes = ["USDT", "FDUSD", "USDC"]', "quotes = []", "at least one quote"),
    ],
)
def test_thresholds_are_refused_by_name(old: str, new: str, names: str) -> None:
    assert old in SHIPPED
    with pytest.raises(ConfigError) as caught:
        parse_thresholds(SHIPPED.replace(old, new, 1), "symbol_registry.toml")
    assert str(caught.value).startswith("symbol_registry.toml: ") and names in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ('"spread_pct"', '"spread"', "features must be"),
        ('"label": "H"', '"label": "M"', "one of each"),
        ('"mean": [', '"mean": [1.0,', "have 3 numbers"),
        ('"scale": [', '"scale": [-1.0,', "have 3 numbers"),
        ("{", "", "Expected `object`"),
        ('"features"', '"feature"', "feature"),
    ],
)
def test_centroids_are_refused_by_name(old: str, new: str, names: str) -> None:
    text = files("registry").joinpath(CENTROIDS).read_text("utf-8")
    assert old in text
    with pytest.raises(ConfigError) as caught:
        parse_centroids(text.replace(old, new, 1), "centroids.json")
    assert str(caught.value).startswith("centroids.json: ") and names in str(caught.value)


def test_files_of_settings_replace_the_shipped_ones(tmp_path: Path) -> None:
    ban = tmp_path / "ban.yml"
    ban.write_text("SOL: why\n")
    thresholds = tmp_path / "t.toml"
    thresholds.write_text(SHIPPED.replace("top = 200", "top = 7"))
    rules = load_rules(thresholds=thresholds, banlist=ban)
    assert rules.lists.banned == {"SOL": "why"} and rules.thresholds.universe.top == 7
    assert load_rules().lists.banned == {}
    for missing in (tmp_path / "none.yml", tmp_path):
        with pytest.raises(ConfigError, match=str(missing)):
            load_rules(whitelist=missing)
    ban.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_rules(banlist=ban)


def test_every_problem_of_every_file_is_named(tmp_path: Path) -> None:
    ban, thresholds, none = tmp_path / "ban.yml", tmp_path / "t.toml", tmp_path / "none.yml"
    ban.write_text("sol: why\nBTC:\nETH: fine\n")
    thresholds.write_text(SHIPPED.replace("history = 35", "history = 36").replace("quotes = [", "quotes = [] # ["))
    with pytest.raises(ConfigError) as caught:
        load_rules(thresholds, ban, none)
    told = str(caught.value).splitlines()
    files_named = [line.partition(": ")[0] for line in told]
    assert files_named == [str(path) for path in (thresholds, thresholds, ban, ban, none)]
    assert "add up to 101" in told[0] and "one quote" in told[1] and "'sol'" in told[2] and "BTC" in told[3]


def test_every_file_is_package_data() -> None:
    """An installed package has them too."""
    pyproject = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    patterns = pyproject["tool"]["setuptools"]["package-data"]["registry"]
    for name in (THRESHOLDS, BANLIST, WHITELIST, CENTROIDS):
        assert files("registry").joinpath(name).is_file()
        assert f"*{Path(name).suffix}" in patterns
