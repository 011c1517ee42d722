"""Every provider, one line each: a new one is a module in `providers` and a line here. Pure."""

from __future__ import annotations

from macro_ingestor.providers import (
    bgeometrics,
    bitquery,
    coinmetrics,
    dune,
    etherscan,
    glassnode,
    goldrush,
    jsonrpc,
)
from macro_ingestor.providers.shape import Provider

PROVIDERS: dict[str, Provider] = {
    module.PROVIDER.name: module.PROVIDER
    for module in (
        glassnode,
        coinmetrics,
        bgeometrics,
        etherscan,
        jsonrpc,
        dune,
        goldrush,
        bitquery,
    )
}
ALIASES = {"covalent": goldrush.NAME}
"""Other names that ONCHAIN_SOURCES may use."""
