"""Which liquidity cluster a symbol belongs to: the nearest of three trained centroids. Pure, without scikit-learn."""

from __future__ import annotations

import math
from datetime import datetime
from decimal import Decimal

import msgspec

from common.errors import ConfigError
from registry.facts import Facts, Placement, RegistryRow, Vendor

FEATURES = ("log10_vol_24h_usd", "spread_pct", "log10_market_cap_usd")
LABELS = ("H", "M", "L")
"""From the most liquid to the least."""

_NAMES = ("volume", "spread", "market cap")
_VENDORS = (Vendor.TICKERS, Vendor.BOOK, Vendor.CAPS)


class Features(msgspec.Struct, frozen=True):
    """What a cluster is told by: volume in USD a day, spread in percent, market cap in USD."""

    vol_24h: Decimal | None
    spread_pct: Decimal | None
    market_cap: Decimal | None

    def vector(self) -> tuple[float | None, float | None, float | None]:
        """Take the logarithms; None where a number is not known (nobody trades for nothing: 0 is not known either)."""
        spread = None if self.spread_pct is None or self.spread_pct < 0 else float(self.spread_pct)
        return _log(self.vol_24h), spread, _log(self.market_cap)


def _log(number: Decimal | None) -> float | None:
    return None if number is None or number <= 0 else math.log10(number)


class Cluster(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One centroid, in scaled features."""

    label: str
    center: tuple[float, ...]


class Centroids(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`centroids.json`: scaled = (feature - mean) / scale, and a centre for each of H, M and L.

    trained_on  in words, what the population was;  sizes  how many of it each cluster got, in the clusters' order
    """

    trained_on: str
    trained_at: datetime
    silhouette: float
    sizes: tuple[int, ...]
    features: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    clusters: tuple[Cluster, ...]


def parse_centroids(text: str, source: str) -> Centroids:
    """Read `centroids.json`; raises ConfigError that names `source`."""
    try:
        found = msgspec.json.decode(text, type=Centroids)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise ConfigError(f"{source}: {error}") from error
    numbers = [*found.mean, *found.scale, *(x for c in found.clusters for x in c.center)]
    if found.features != FEATURES:
        raise ConfigError(f"{source}: features must be {', '.join(FEATURES)}")
    if sorted(c.label for c in found.clusters) != sorted(LABELS):
        raise ConfigError(f"{source}: clusters must be {', '.join(LABELS)}, one of each")
    if any(len(row) != len(FEATURES) for row in (found.mean, found.scale, *(c.center for c in found.clusters))):
        raise ConfigError(f"{source}: mean, scale and every center have {len(FEATURES)} numbers")
    if not all(math.isfinite(x) for x in numbers) or min(found.scale) <= 0:
        raise ConfigError(f"{source}: numbers must be finite, and every scale above 0")
    return found


def write_centroids(centroids: Centroids) -> str:
    """Text of the file, indented for people."""
    return msgspec.json.format(msgspec.json.encode(centroids), indent=2).decode() + "\n"


def features_of(facts: Facts) -> Features:
    """Take what a cluster is told by out of all the facts."""
    return Features(facts.vol_24h, facts.spread_pct, facts.market_cap)


def find_nearest(vector: tuple[float | None, ...], centroids: Centroids) -> str | None:
    """Label of the nearest centroid over the features that are known; None when none is."""
    scaled = [
        None if x is None else (x - m) / s for x, m, s in zip(vector, centroids.mean, centroids.scale, strict=True)
    ]
    if all(x is None for x in scaled):
        return None

    def distance(cluster: Cluster) -> tuple[float, int]:
        square = sum((x - c) ** 2 for x, c in zip(scaled, cluster.center, strict=True) if x is not None)
        return square, LABELS.index(cluster.label)

    return min(centroids.clusters, key=distance).label


def place_symbol(facts: Facts, row: RegistryRow | None, centroids: Centroids) -> Placement:
    """Tell the cluster, with a note on every feature that is missing.

    The cluster of the row stays when nothing is known, and when a feature is missing only because its vendor did not
    answer: one vendor's bad night moves nobody from cluster to cluster.
    """
    vector = features_of(facts).vector()
    missing = [i for i, x in enumerate(vector) if x is None]
    before = row.liquidity_cluster if row else None
    absent = [_NAMES[i] for i in missing]
    away = [_VENDORS[i] for i in missing if _VENDORS[i] in facts.awaited]
    if before and away:
        return Placement(before, f"cluster {before} kept: {', '.join(away)} did not answer")
    label = find_nearest(vector, centroids)
    if label is None:
        return Placement(before, "cluster: neither volume, spread nor market cap is known")
    return Placement(label, f"cluster by the rest: {' and '.join(absent)} not known" if absent else "")
