"""Settings of the macro ingestor: each limit with its unit, its default and why."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr, field_validator

from common.errors import ConfigError
from common.settings import ServiceSettings, Words
from macro_ingestor.chains import order_sources, read_chains
from macro_ingestor.providers import dune
from macro_ingestor.registrations import ALIASES, PROVIDERS

DEFAULT_SOURCES = (
    "glassnode", "coinmetrics", "bgeometrics", "etherscan", "jsonrpc", "dune", "covalent", "bitquery",
)  # fmt: skip
NONE = SecretStr("")


class MacroSettings(ServiceSettings):
    """Environment of the macro ingestor, beside what every service reads.

    A provider without its key is off, and its columns fall to the next of their chain.
    """

    # who is asked, and in which order; single columns: "eth_gas_price=jsonrpc>etherscan; mvrv=coinmetrics"
    onchain_sources: Words = DEFAULT_SOURCES
    onchain_chains: str = ""

    glassnode_url: str = PROVIDERS["glassnode"].url
    glassnode_api_key: SecretStr = NONE
    # Of the light API; 0 is without limit, as for all of these.
    glassnode_calls_per_day: int = Field(default=50, ge=0)
    coinmetrics_url: str = PROVIDERS["coinmetrics"].url
    bgeometrics_url: str = PROVIDERS["bgeometrics"].url
    bgeometrics_token: SecretStr = NONE
    bgeometrics_calls_per_day: int = Field(default=15, ge=0)
    bgeometrics_calls_per_hour: int = Field(default=10, ge=0)
    etherscan_url: str = PROVIDERS["etherscan"].url
    etherscan_api_key: SecretStr = NONE
    etherscan_calls_per_day: int = Field(default=100_000, ge=0)
    # The whole address of a node: it may hold a key.
    eth_rpc_url: SecretStr = NONE
    dune_url: str = PROVIDERS["dune"].url
    dune_api_key: SecretStr = NONE
    # Column=number of a saved query, see docs/MACRO.md.
    dune_queries: Words = ()
    goldrush_url: str = PROVIDERS["goldrush"].url
    goldrush_api_key: SecretStr = NONE
    bitquery_url: str = PROVIDERS["bitquery"].url
    bitquery_token: SecretStr = NONE
    # A JSON file {"eth": ["0x..."], "sol": ["..."]} with the exchanges' addresses.
    bitquery_addresses: Path | None = None

    # calls
    connect_timeout_s: float = Field(default=5.0, gt=0, le=60)
    read_timeout_s: float = Field(default=20.0, gt=0, le=120)
    call_timeout_s: float = Field(default=30.0, gt=0, le=180)
    # Tries within one pull, for what may pass by itself; each counts as a call.
    attempts_max: int = Field(default=3, ge=1, le=10)
    retry_first_s: float = Field(default=0.5, gt=0, le=60)
    retry_max_s: float = Field(default=5.0, gt=0, le=60)
    answer_bytes_max: int = Field(default=8 * 2**20, ge=1_000)

    # time: of the daily pull, UTC; like any quarter's it asks for what is due by then, and for nothing else
    daily_at: str = Field(default="00:20", pattern=r"^([01]\d|2[0-3]):[0-5]\d$")

    @field_validator("onchain_sources")
    @classmethod
    def _check_sources(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        try:
            return order_sources(value, PROVIDERS, ALIASES)
        except ConfigError as error:
            raise ValueError(str(error).removeprefix("ONCHAIN_SOURCES: ")) from error

    @field_validator("onchain_chains")
    @classmethod
    def _check_chains(cls, value: str) -> str:
        try:
            read_chains(value, PROVIDERS, ALIASES)
        except ConfigError as error:
            raise ValueError(str(error).removeprefix("ONCHAIN_CHAINS: ")) from error
        return value

    @field_validator("dune_queries")
    @classmethod
    def _check_queries(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for word in value:
            column, _, number = word.partition("=")
            if column not in dune.COLUMNS or not number.isdecimal():
                raise ValueError(f"{word!r} is not column=number; columns: {', '.join(dune.COLUMNS)}")
        return value

    def chains_given(self) -> dict[str, tuple[str, ...]]:
        """Chains of single columns."""
        return read_chains(self.onchain_chains, PROVIDERS, ALIASES)

    def queries(self) -> dict[str, int]:
        """Dune's saved queries by column."""
        return {column: int(number) for column, _, number in (word.partition("=") for word in self.dune_queries)}
