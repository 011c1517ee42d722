from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Annotated
from urllib.parse import quote, quote_plus

import pytest
from pydantic import SecretStr

from common.errors import ConfigError
from common.redact import Mask, dsn_logins
from common.secret_files import SECRET_FILE_BYTES_MAX, fill_from_files, read_value_file
from common.settings import ServiceSettings, load_settings


class KeySettings(ServiceSettings):
    vendor_key: Annotated[SecretStr | None, "optional"] = None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "ts_dsn").write_text(" postgresql://w:pw@db/bus\n")
    (tmp_path / "vendor_key").write_text("k-e-y\n")
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "latin").write_bytes(b"p\xe4ss")
    (tmp_path / "large").write_text("x" * (SECRET_FILE_BYTES_MAX + 1))
    return tmp_path


def test_the_environment_then_the_named_file_then_the_directory(folder: Path) -> None:
    (folder / "other").write_text("postgresql://other/bus")
    directory = {"CREDENTIALS_DIRECTORY": str(folder)}
    named = {"TS_DSN_FILE": str(folder / "other")}
    assert read_value_file("TS_DSN", {"TS_DSN": "x", **directory}, secret=True) is None
    assert read_value_file("TS_DSN", {**named, **directory}, secret=True) == "postgresql://other/bus"
    assert read_value_file("TS_DSN", {"TS_DSN": "", "TS_DSN_FILE": "", **directory}, secret=True) == (
        "postgresql://w:pw@db/bus"
    )
    assert read_value_file("TS_DSN", {}, secret=True) is None
    # HTTP_PORT_FILE is a setting of its own, not the file of HTTP_PORT.
    assert read_value_file("HTTP_PORT", {"HTTP_PORT_FILE": str(folder / "absent")}, secret=False) is None


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("absent", "No such file"), ("empty", "is empty"), ("latin", "not UTF-8"), ("large", "larger than"),
        ("", "can not be read"),
    ],
)  # fmt: skip
def test_a_file_that_can_not_be_used_is_named(folder: Path, file: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        read_value_file("TS_DSN", {"TS_DSN_FILE": f"{folder}/{file}"}, secret=True)
    assert str(caught.value).startswith("TS_DSN: ")
    assert "TS_DSN_FILE" in str(caught.value)


def test_two_places_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="TS_DSN and TS_DSN_FILE are both set"):
        read_value_file("TS_DSN", {"TS_DSN": "x", "TS_DSN_FILE": str(folder / "ts_dsn")}, secret=True)


def test_a_service_reads_secrets_from_named_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TS_DSN", "RMQ_URL", "VENDOR_KEY", "CREDENTIALS_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RMQ_URL", "amqp://mq/")
    monkeypatch.setenv("TS_DSN_FILE", str(folder / "ts_dsn"))
    monkeypatch.setenv("VENDOR_KEY_FILE", str(folder / "vendor_key"))
    settings = load_settings(KeySettings)
    assert settings.ts_dsn.get_secret_value() == "postgresql://w:pw@db/bus"
    assert settings.vendor_key is not None
    assert settings.vendor_key.get_secret_value() == "k-e-y"
    monkeypatch.setenv("VENDOR_KEY_FILE", str(folder / "absent"))
    monkeypatch.setenv("TS_DSN_FILE", str(folder / "empty"))
    with pytest.raises(ConfigError) as caught:
        load_settings(KeySettings)
    assert [line.partition(":")[0] for line in str(caught.value).splitlines()] == ["TS_DSN", "VENDOR_KEY"]


def test_a_command_line_finds_them_where_it_looks(folder: Path) -> None:
    env = {"TS_DSN_FILE": str(folder / "ts_dsn"), "RMQ_URL": "amqp://mq/"}
    fill_from_files(("TS_DSN", "RMQ_URL", "MANAGEMENT_URL"), env)
    assert env == {"TS_DSN": "postgresql://w:pw@db/bus", "RMQ_URL": "amqp://mq/"}


def test_a_secret_is_masked_in_every_spelling() -> None:
    secret = "p@ss/w+rd 'q'\\"
    mask = Mask([secret, f"user:{secret}"])
    basic = base64.b64encode(f"user:{secret}".encode()).decode()
    plain = base64.b64encode(f"\0user\0{secret}".encode()).decode()
    for spelling in (secret, quote(secret), quote(secret, safe=""), quote_plus(secret), repr(secret),
                     json.dumps(secret), basic, plain, base64.b64encode(secret.encode()).decode()):  # fmt: skip
        shown = mask.hide(f"a {spelling} b")
        assert "ss" not in shown.replace("***", ""), shown
        assert basic[8:16] not in shown
        assert shown.startswith("a ")
        assert shown.endswith(" b")


def test_the_login_of_an_address_is_known() -> None:
    assert dsn_logins("amqp://us%40er:p%2Fw@h/v") == {"us@er:p/w"}
    assert dsn_logins("postgresql://user@h/d") == set()
