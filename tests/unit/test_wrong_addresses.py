"""A command that is given what is no address says so in a line; nothing of what was given is quoted."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from common.errors import ConfigError
from ops.cli import SECRETS, cli

NEAR = "postgres//w:s3cr3t-pw@h/x"
DATABASE = (
    "status", "migrate", "retain", "gaps", "outbox status", "outbox drain --rmq-url amqp://h/",
    "gaps --repair --rmq-url amqp://h/ --rest-url http://127.0.0.1:1", "access show",
)  # fmt: skip
BROKER = ("dead list", "dead drop --all", "tail # --for 1", "tail # --from first --idle 1")


@pytest.mark.parametrize(
    "command", [*(f"{words} --dsn {NEAR}" for words in DATABASE), *(f"{words} --rmq-url {NEAR}" for words in BROKER)]
)
def test_a_wrong_address_is_wrong_use(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRETS:
        monkeypatch.delenv(name, raising=False)
    answer = CliRunner().invoke(cli, command.split())
    assert isinstance(answer.exception, ConfigError), answer.exception
    assert "is not an address like" in str(answer.exception) and "s3cr3t" not in str(answer.exception)
