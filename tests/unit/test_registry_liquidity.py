"""Clusters: the nearest centroid over what is known, and the training that makes centroids."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from importlib.resources import files

import pytest

from common.errors import ConfigError
from registry.defaults import CENTROIDS
from registry.facts import RegistryRow, Status, Vendor
from registry.liquidity import (
    Centroids,
    Cluster,
    Features,
    find_nearest,
    parse_centroids,
    place_symbol,
    write_centroids,
)
from registry.training import MADE_UP, make_population, render_training, train_centroids
from tests.unit.registry_nights import RULES, dec, facts_of

WHEN = datetime(2026, 11, 20, tzinfo=UTC)
# Unscaled, one unit a decade: easy to reckon with by hand.
PLAIN = Centroids(
    "by hand", WHEN, 1.0, (1, 1, 1), RULES.centroids.features, (0.0, 0.0, 0.0), (1.0, 0.1, 1.0),
    (Cluster("H", (9.0, 0.1, 10.0)), Cluster("M", (7.0, 1.0, 8.0)), Cluster("L", (5.0, 4.0, 6.0))),
)  # fmt: skip


@pytest.mark.parametrize(
    ("vector", "label"),
    [
        ((9.0, 0.01, 10.0), "H"),
        ((7.2, 0.1, 8.0), "M"),
        ((7.2, 0.4, 6.0), "L"),
        ((7.2, None, None), "M"),
        ((None, 0.3, None), "L"),
        ((None, None, 9.9), "H"),
        ((8.0, None, None), "H"),  # halfway: the more liquid
        ((None, None, None), None),
    ],
)
def test_nearest_over_the_known_part(vector: tuple[float | None, ...], label: str | None) -> None:
    assert find_nearest(vector, PLAIN) == label


def test_notes_tell_what_is_missing() -> None:
    assert place_symbol(facts_of(), None, PLAIN).note == ""
    found = place_symbol(facts_of(market_cap=None, spread_pct=None), None, PLAIN)
    assert found.note == "cluster by the rest: spread and market cap not known"
    assert place_symbol(facts_of(market_cap=dec(0), vol_24h=dec(0)), None, PLAIN).note.count("not known") == 1
    none = facts_of(vol_24h=None, market_cap=None, spread_pct=None)
    assert place_symbol(none, None, PLAIN).cluster is None
    assert place_symbol(none, RegistryRow("SOL", Status.ACTIVE, liquidity_cluster="M"), PLAIN).cluster == "M"


def test_a_silent_vendor_moves_nobody() -> None:
    row = RegistryRow("SOL", Status.ACTIVE, liquidity_cluster="L")
    silent = facts_of(market_cap=None, away=(Vendor.CAPS,))
    assert place_symbol(silent, row, PLAIN).cluster == "L"
    assert place_symbol(silent, None, PLAIN).cluster == "H"
    assert place_symbol(facts_of(market_cap=None), row, PLAIN).cluster == "H"  # CoinGecko answered: it has none


def test_shipped_centroids_are_what_the_training_makes() -> None:
    """Any order of the population gives the file that is shipped."""
    population = make_population()
    random.Random(1).shuffle(population)
    training = train_centroids([*population, Features(dec(1e6), None, None)], MADE_UP, WHEN)
    shipped = parse_centroids(files("registry").joinpath(CENTROIDS).read_text("utf-8"), CENTROIDS)
    assert training.centroids == shipped
    assert (training.given, training.used, sum(shipped.sizes)) == (301, 300, 300)
    volumes = [cluster.center[0] for cluster in shipped.clusters]
    assert volumes == sorted(volumes, reverse=True) and [c.label for c in shipped.clusters] == ["H", "M", "L"]
    assert parse_centroids(write_centroids(shipped), "again") == shipped
    told = render_training(training)
    assert "trained on 300 of 301 vectors" in told and "silhouette 0.3" in told and told.count(" symbols ") == 3


def test_too_small_a_population_is_refused() -> None:
    for population in (make_population(count=29), [Features(dec(1), dec(1), dec(1))] * 100):
        with pytest.raises(ConfigError, match="training needs 30 symbols"):
            train_centroids(population, "x", WHEN)


def test_clear_groups_are_found_and_labelled_by_volume() -> None:
    groups = [(1e5, 0.4, 1e6), (1e9, 0.01, 1e11), (1e7, 0.1, 1e9)]
    population = [Features(dec(v * (1 + i / 50)), dec(s), dec(c)) for v, s, c in groups for i in range(20)]
    centroids = train_centroids(population, "x", WHEN).centroids
    assert centroids.sizes == (20, 20, 20) and centroids.silhouette > 0.9
    for (volume, spread, cap), label in zip(groups, "LHM", strict=True):
        assert find_nearest(Features(dec(volume), dec(spread), dec(cap)).vector(), centroids) == label
