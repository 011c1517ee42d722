import os
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field, SecretStr

from common.errors import ConfigError
from common.redact import Mask, dsn_secrets, redact_text
from common.settings import ServiceSettings, Words, describe_settings, load_settings, redact_dsn, secret_values
from common.shards import Shard

TS = "postgresql://writer:s3cr3t%2Fpw@db:5432/bus"
MQ = "amqp://bus:hunter22@mq:5672/trading"


class FeedSettings(ServiceSettings):
    agg_ws_url: str = "wss://stream.binance.com:9443/stream"
    symbols: Words = ()
    vendor_key: SecretStr | None = None
    ring_minutes: int = Field(default=5, ge=1)
    small_secret: Annotated[SecretStr, Field(max_length=3)] = SecretStr("")


@pytest.fixture(autouse=True)
def env(monkeypatch):
    for name in list(os.environ):
        if name.lower() in FeedSettings.model_fields or name == "CREDENTIALS_DIRECTORY":
            monkeypatch.delenv(name)
    monkeypatch.setenv("TS_DSN", TS)
    monkeypatch.setenv("RMQ_URL", MQ)
    return monkeypatch.setenv


def problems() -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_settings(FeedSettings)
    return str(caught.value).splitlines()


def test_defaults_and_values(env):
    env("SHARD", "2/8")
    env("SYMBOLS", "BTCUSDT, ETHUSDT,,BTCUSDT")
    env("LOG_LEVEL", "debug")
    settings = load_settings(FeedSettings)
    assert settings.ts_dsn.get_secret_value() == TS
    assert (settings.shard, settings.symbols, settings.log_level) == (Shard(2, 8), ("BTCUSDT", "ETHUSDT"), "DEBUG")
    assert (settings.http_host, settings.http_port, settings.stop_timeout_s) == ("127.0.0.1", 0, 10.0)


def test_empty_is_unset(env):
    for name in ("SHARD", "HTTP_PORT", "LOG_LEVEL", "VENDOR_KEY", "HTTP_PORT_FILE", "SYMBOLS"):
        env(name, "")
    settings = load_settings(FeedSettings)
    assert settings.shard == Shard(0, 1)
    assert settings.vendor_key is None and settings.http_port_file is None and settings.symbols == ()


def test_empty_required_is_a_problem(env):
    env("TS_DSN", "")
    assert [line.partition(":")[0] for line in problems()] == ["TS_DSN"]
    assert "not set" in problems()[0] and "postgresql://" in problems()[0]


def test_all_problems_at_once_without_secrets(env):
    env("TS_DSN", "mysql://writer:s3cr3t@db/bus")
    env("RMQ_URL", "amqp://bus:hunter22@mq:notaport/x")
    env("SHARD", "8/8")
    env("HTTP_PORT", "eighty")
    env("LOG_LEVEL", "loud")
    env("CLOCK_RATE", "nan")
    env("STOP_TIMEOUT_S", "-1")
    env("RING_MINUTES", "0")
    env("SMALL_SECRET", "hush-hush")
    env("BUS_EPOCH", "a b")
    lines = problems()
    wrong = "TS_DSN RMQ_URL SHARD HTTP_PORT LOG_LEVEL CLOCK_RATE STOP_TIMEOUT_S RING_MINUTES SMALL_SECRET BUS_EPOCH"
    assert sorted(line.partition(":")[0] for line in lines) == sorted(wrong.split())
    text = "\n".join(lines)
    assert not [secret for secret in ("s3cr3t", "hunter22", "hush", "writer") if secret in text]
    assert "'8/8' is outside: 8 instances are numbered 0 to 7" in text
    assert "not 'eighty'" in text


def test_credentials_fill_what_the_environment_leaves(env, tmp_path: Path):
    (tmp_path / "ts_dsn").write_text("postgresql://file/bus\n")
    (tmp_path / "RMQ_URL").write_text("amqp://file/\n")
    (tmp_path / "vendor_key").write_text("from-file\n")
    (tmp_path / "shard").write_text("  \n")
    env("CREDENTIALS_DIRECTORY", str(tmp_path))
    env("TS_DSN", "")
    settings = load_settings(FeedSettings)
    assert settings.ts_dsn.get_secret_value() == "postgresql://file/bus"
    assert settings.rmq_url.get_secret_value() == MQ
    assert settings.vendor_key is not None and settings.vendor_key.get_secret_value() == "from-file"
    assert settings.shard == Shard()


def test_unreadable_credential_is_one_problem(env, tmp_path: Path):
    (tmp_path / "ts_dsn").write_bytes(b"postgresql://\xff\xfe")
    env("CREDENTIALS_DIRECTORY", str(tmp_path))
    env("TS_DSN", "")
    env("SHARD", "x")
    lines = problems()
    assert [line.partition(":")[0] for line in lines] == ["TS_DSN", "SHARD"]
    assert "credential file" in lines[0]


def test_described_settings_show_no_secret(env):
    env("VENDOR_KEY", "https://hooks.example/T00/very-secret-path")
    env("AGG_WS_URL", "wss://me:pw1234@proxy:9443/ws/btcusdt@aggTrade")
    env("SYMBOLS", "A,B")
    shown = describe_settings(load_settings(FeedSettings))
    assert shown["TS_DSN"] == "postgresql://writer:***@db:5432/bus"
    assert shown["RMQ_URL"] == "amqp://bus:***@mq:5672/trading"
    assert shown["VENDOR_KEY"] == "***"
    assert shown["AGG_WS_URL"] == "wss://me:***@proxy:9443/ws/btcusdt@aggTrade"
    assert (shown["SYMBOLS"], shown["SHARD"], shown["HTTP_PORT"]) == ("A,B", "0/1", 0)


def test_secret_values_know_every_spelling(env):
    env("VENDOR_KEY", "abcd1234")
    assert {TS, "s3cr3t%2Fpw", "s3cr3t/pw", MQ, "hunter22", "abcd1234"} <= secret_values(load_settings(FeedSettings))


@pytest.mark.parametrize(
    ("dsn", "shown"),
    [
        ("postgresql://u:p@h/d", "postgresql://u:***@h/d"),
        ("postgresql://u:p@ss/w:o?rd@h:1/d", "postgresql://u:***@h:1/d"),
        ("postgresql://:p@h/d", "postgresql://:***@h/d"),
        ("postgresql://u@h:5432/d", "postgresql://u@h:5432/d"),
        ("postgresql://h/d?user=u&password=p%40&x=1", "postgresql://h/d?user=u&password=***&x=1"),
        ("host=h user=u password='a b' dbname=d", "host=h user=u password=*** dbname=d"),
        ("amqps://h", "amqps://h"),
    ],
)
def test_redacted_dsn(dsn, shown):
    assert redact_dsn(dsn) == shown


def test_free_text_keeps_stream_addresses_and_loses_passwords():
    stream = "wss://stream.binance.com:9443/ws/btcusdt@aggTrade"
    assert redact_text(f"connect {stream}") == f"connect {stream}"
    assert (
        redact_text("at http://a:b@h/ and https://h/?apiKey=K1&x=2")
        == "at http://a:***@h/ and https://h/?apiKey=***&x=2"
    )


def test_mask_takes_the_longest_secret_first():
    mask = Mask(["secret", "secret-and-more", "abc", ""])
    assert mask.hide("secret-and-more secret abc") == "*** *** abc"
    assert dsn_secrets("amqp://u:a%20b@h") == {"a%20b", "a b"}
