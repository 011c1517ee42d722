"""Settings from the environment and systemd credentials: read once, checked whole, shown without secrets."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict, SettingsError

from common.errors import ConfigError
from common.redact import MASK, Mask, dsn_logins, dsn_secrets, redact_dsn, redact_text
from common.secret_files import read_value_file
from common.shards import Shard, parse_shard

__all__ = ["Dsn", "ServiceSettings", "Words", "describe_settings", "load_settings", "redact_dsn", "secret_values"]

SettingsT = TypeVar("SettingsT", bound="ServiceSettings")


@dataclass(frozen=True)
class Dsn:
    """Marks a SecretStr that holds a server address: shown without its password instead of wholly hidden."""

    example: str
    schemes: tuple[str, ...]

    def check(self, value: SecretStr) -> SecretStr:
        """Raise ValueError, without quoting the value, when it can not be an address of this kind."""
        try:
            parts = urlsplit(value.get_secret_value())
            good = parts.scheme in self.schemes and (parts.port is None or parts.port > 0)
        except ValueError:
            good = False
        if not good:
            raise ValueError(f"is not an address like {self.example}")
        return value

    def require(self, value: str, what: str) -> None:
        """Raise ConfigError, which names `what` and quotes nothing, when it can not be an address of this kind."""
        try:
            self.check(SecretStr(value))
        except ValueError as error:
            raise ConfigError(f"{what}: {error}") from None


POSTGRES = Dsn("postgresql://user:password@host:5432/database", ("postgresql", "postgres"))
RABBITMQ = Dsn("amqp://user:password@host:5672/vhost", ("amqp", "amqps"))


def _read_shard(value: object) -> object:
    try:
        return parse_shard(value) if isinstance(value, str) else value
    except ConfigError as error:  # pydantic collects ValueError only
        raise ValueError(str(error)) from error


def _split_words(value: object) -> object:
    if not isinstance(value, str):
        return value
    words = (word.strip() for word in value.split(","))
    return tuple(dict.fromkeys(word for word in words if word))


def _upper(value: object) -> object:
    return value.strip().upper() if isinstance(value, str) else value


Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_words)]
"""A setting written "a,b,c": order kept, repetitions and blanks dropped."""


class ServiceSettings(BaseSettings):
    """What every service needs; a service adds its own fields, an environment variable is the field in capitals.

    An empty variable counts as unset. Validators raise ValueError and never quote a secret.
    """

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore", frozen=True, arbitrary_types_allowed=True)

    ts_dsn: Annotated[SecretStr, POSTGRES, AfterValidator(POSTGRES.check)]
    rmq_url: Annotated[SecretStr, RABBITMQ, AfterValidator(RABBITMQ.check)]
    shard: Annotated[Shard, NoDecode, BeforeValidator(_read_shard)] = Shard()
    # Appended to message ids after the database was restored from a backup.
    bus_epoch: str = Field(default="", max_length=32, pattern=r"^[A-Za-z0-9_.-]*$")
    http_host: str = "127.0.0.1"
    # 0 takes a free port, told in the log and in http_port_file.
    http_port: int = Field(default=0, ge=0, le=65535)
    http_port_file: Path | None = None
    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(_upper)] = "INFO"
    # Tests and tapes only: venue time runs this many times faster than ours.
    clock_rate: float = Field(default=1.0, gt=0, le=100_000, allow_inf_nan=False)
    # Added to this machine's wall clock: for one that is known to be wrong, and for tests that make it wrong.
    clock_offset_s: float = Field(default=0.0, ge=-86_400, le=86_400, allow_inf_nan=False)
    stop_timeout_s: float = Field(default=10.0, gt=0, le=300, allow_inf_nan=False)
    commit_timeout_s: float = Field(default=15.0, gt=0)
    # Size of trading.bus.log; arguments of queues that exist already are kept.
    bus_log_max_bytes: int = Field(default=5_000_000_000, ge=1_000_000)


def load_settings(cls: type[SettingsT]) -> SettingsT:
    """Read settings from the environment, then from files (see `common.secret_files`).

    Raises ConfigError with every problem at once, one line each: the variable and what is wrong, never a secret.
    """
    credentials, problems = _read_credentials(cls)
    values: dict[str, Any] = dict(credentials)
    try:
        settings = cls(**values)
    except ValidationError as error:
        broken = {line.partition(":")[0] for line in problems}
        lines = _describe_errors(cls, error)
        problems += [line for line in lines if line.partition(":")[0] not in broken]
    except SettingsError as error:
        problems.append(redact_text(f"settings: {error}"))
    else:
        if not problems:
            return settings
    raise ConfigError("\n".join(problems))


def _read_credentials(cls: type[ServiceSettings]) -> tuple[dict[str, str], list[str]]:
    """Files of settings the environment leaves unset, by field; unusable ones as problem lines."""
    values: dict[str, str] = {}
    problems: list[str] = []
    for field, info in cls.model_fields.items():
        try:
            text = read_value_file(field.upper(), os.environ, secret=_is_secret(info.annotation))
        except ConfigError as error:
            problems.append(str(error))
            continue
        if text is not None:
            values[field] = text
    return values, problems


def _describe_errors(cls: type[ServiceSettings], error: ValidationError) -> list[str]:
    lines: list[str] = []
    for detail in error.errors(include_url=False):
        field = str(detail["loc"][0]) if detail["loc"] else ""
        lines.append(f"{field.upper() or 'settings'}: {_describe_error(cls, field, detail)}")
    return list(dict.fromkeys(lines))  # a union complains once per member


def _describe_error(cls: type[ServiceSettings], field: str, detail: ErrorDetails) -> str:
    info = cls.model_fields.get(field)
    dsn = next((mark for mark in info.metadata if isinstance(mark, Dsn)), None) if info else None
    if detail["type"] == "missing":
        return f"is not set; expected something like {dsn.example}" if dsn else "is not set"
    told = detail["msg"].removeprefix("Value error, ")
    told = told[:1].lower() + told[1:]
    given = detail["input"]
    if not isinstance(given, str):
        return told
    if info is None or _is_secret(info.annotation):
        return Mask({given} | dsn_secrets(given)).hide(told)
    return redact_text(told if repr(given) in told else f"{told}, not {given!r}")


def _is_secret(annotation: object) -> bool:
    return "Secret" in repr(annotation)  # also inside unions and containers


def describe_settings(settings: ServiceSettings) -> dict[str, str | int | float | None]:
    """Settings for the log, by environment variable: secrets as ***, DSNs without passwords."""
    fields = type(settings).model_fields
    return {name.upper(): _show(value, fields[name].metadata) for name, value in settings}


def _show(value: object, marks: list[Any]) -> str | int | float | None:
    if isinstance(value, SecretStr):
        is_dsn = any(isinstance(mark, Dsn) for mark in marks)
        return redact_dsn(value.get_secret_value()) if is_dsn else MASK
    if value is None or isinstance(value, (int, float)):
        return value
    if isinstance(value, tuple):
        return redact_text(",".join(str(part) for part in value))  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return redact_text(str(value))


def secret_values(settings: ServiceSettings) -> set[str]:
    """Every text the log must never show: secret values, and the passwords inside DSNs."""
    return set(_secrets_of(settings))


def _secrets_of(settings: ServiceSettings) -> Iterator[str]:
    for _, value in settings:
        if isinstance(value, SecretStr):
            text = value.get_secret_value()
            yield text
            if "://" in text:
                yield from dsn_secrets(text)
                yield from dsn_logins(text)
