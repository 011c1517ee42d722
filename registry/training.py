"""Fits new liquidity centroids: scikit-learn is imported here and nowhere else."""

from __future__ import annotations

import random
from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from typing import Any, cast

import msgspec
from sklearn import cluster as sk_cluster
from sklearn import metrics as sk_metrics
from sklearn import preprocessing as sk_preprocessing

from common.errors import ConfigError
from registry.liquidity import FEATURES, LABELS, Centroids, Cluster, Features

POPULATION_MIN = 30
"""Fewer symbols than that make centroids of chance."""

# scikit-learn ships no types: nothing strict can be said of what it returns.
_KMEANS: Any = cast("Any", sk_cluster).KMeans
_SCALER: Any = cast("Any", sk_preprocessing).StandardScaler
_SILHOUETTE: Any = cast("Any", sk_metrics).silhouette_score

_RANDOM_STATE = 7
_STARTS = 20
_DECIMALS = 4

MADE_UP = (
    "made up, no market was asked: 300 assets of registry.training.make_population (seed 7); volumes by a power law of "
    "rank, market cap / volume spread as in 100 real coins of CoinGecko's coins/markets (log10: mean 1.5, deviation "
    "0.7), spreads that widen as volume falls; train again on nights of your own: registry train"
)


class Training(msgspec.Struct, frozen=True):
    """What a training found; `used` of `given` vectors had every feature."""

    centroids: Centroids
    given: int
    used: int


def make_population(seed: int = 7, count: int = 300) -> list[Features]:
    """Make up a population for a registry that has no history yet; the same seed gives the same one."""
    draw = random.Random(seed)
    made: list[Features] = []
    for rank in range(count):
        volume = 9.4 - 1.3 * _log10(rank + 1) + draw.gauss(0, 0.25)
        spread = 10 ** (-1.0 - 0.45 * (volume - 6.5) + draw.gauss(0, 0.2))
        cap = volume + draw.gauss(1.5, 0.7)
        made.append(Features(_number(10**volume), _number(spread), _number(10**cap)))
    return made


def _log10(number: float) -> float:
    return float(Decimal(number).log10())


def _number(value: float) -> Decimal:
    return Decimal(f"{value:.5g}")


def train_centroids(population: Iterable[Features], trained_on: str, trained_at: datetime) -> Training:
    """Fit three clusters on the vectors that are whole, labelled by their volume; raises ConfigError when too few are.

    The same population in any order gives the same centroids.
    """
    vectors = [features.vector() for features in population]
    whole = sorted(cast("tuple[float, ...]", v) for v in vectors if None not in v)
    if len(whole) < POPULATION_MIN or len(set(whole)) < len(LABELS):
        raise ConfigError(
            f"training needs {POPULATION_MIN} symbols with volume, spread and market cap, there are {len(whole)}: "
            "run the registry for more nights, or keep the centroids you have"
        )
    scaler = _SCALER()
    scaled = scaler.fit_transform(whole)
    model = _KMEANS(n_clusters=len(LABELS), n_init=_STARTS, random_state=_RANDOM_STATE)
    found: list[int] = model.fit_predict(scaled).tolist()
    centers: list[list[float]] = model.cluster_centers_.tolist()
    by_volume = sorted(range(len(LABELS)), key=lambda i: -centers[i][0])
    centroids = Centroids(
        trained_on=trained_on,
        trained_at=trained_at,
        silhouette=round(float(_SILHOUETTE(scaled, found)), _DECIMALS),
        sizes=tuple(found.count(i) for i in by_volume),
        features=FEATURES,
        mean=_round(scaler.mean_.tolist()),
        scale=_round(scaler.scale_.tolist()),
        clusters=tuple(Cluster(label, _round(centers[i])) for label, i in zip(LABELS, by_volume, strict=True)),
    )
    return Training(centroids, len(vectors), len(whole))


def _round(numbers: Iterable[float]) -> tuple[float, ...]:
    return tuple(round(x, _DECIMALS) for x in numbers)


def render_training(training: Training) -> str:
    """Tell the sizes, centres (in real units) and silhouette in plain words."""
    c = training.centroids
    lines = [f"trained on {training.used} of {training.given} vectors ({c.trained_on})"]
    for cluster, size in zip(c.clusters, c.sizes, strict=True):
        volume, spread, cap = (x * s + m for x, s, m in zip(cluster.center, c.scale, c.mean, strict=True))
        lines.append(
            f"  {cluster.label}  {size:>5} symbols   centre: volume {10**volume:,.0f} USD a day, "
            f"spread {spread:.3f} %, market cap {10**cap:,.0f} USD"
        )
    lines.append(f"silhouette {c.silhouette:.3f} (1 = well apart, 0 = no clusters, below 0 = misplaced)")
    return "\n".join(lines) + "\n"
