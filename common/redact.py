"""Text without secrets: passwords cut out of DSNs and URLs, known secret values masked."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from urllib.parse import quote, quote_plus, unquote

MASK = "***"
SECRET_CHARS_MIN = 4
"""Shorter values are not searched for in free text: masking every "a" would leave nothing to read."""

_URL_SAFE = str.maketrans("+/", "-_")

# In a DSN everything up to the last "@" is user information: people forget to escape "/" and "@" in passwords.
_DSN_PASSWORD = re.compile(r"(://[^:/@\s]*):(.*)@", re.DOTALL)
# In free text "/" ends it, or "wss://host:9443/ws/btcusdt@aggTrade" would read like a password.
_URL_PASSWORD = re.compile(r"(://[^:/@\s]*):[^/@\s]+@")
_NAMED_PASSWORD = re.compile(
    r"(?i)\b([\w-]*(?:password|passwd|passphrase|secret|token|api_?key)[\w-]*\s*=\s*)('[^']*'|[^\s&#,;]+)"
)


def redact_dsn(dsn: str) -> str:
    """Show a DSN without its password, whether it stands before the host or in a parameter."""
    return _NAMED_PASSWORD.sub(rf"\1{MASK}", _DSN_PASSWORD.sub(rf"\1:{MASK}@", dsn))


def redact_text(text: str) -> str:
    """Cut passwords out of URLs and `password=...` pairs anywhere in a text."""
    return _NAMED_PASSWORD.sub(rf"\1{MASK}", _URL_PASSWORD.sub(rf"\1:{MASK}@", text))


def dsn_secrets(dsn: str) -> set[str]:
    """Answer the spellings of the password inside a DSN: as written, and percent-decoded."""
    found = {match[2] for match in _DSN_PASSWORD.finditer(dsn)}
    found |= {match[2].strip("'") for match in _NAMED_PASSWORD.finditer(dsn)}
    return {spelling for text in found for spelling in (text, unquote(text)) if spelling}


def dsn_logins(dsn: str) -> set[str]:
    """Answer "user:password" of a DSN, decoded, as it is sent in a Basic or PLAIN login."""
    found = (match for match in _DSN_PASSWORD.finditer(dsn))
    return {f"{unquote(match[1].removeprefix('://'))}:{unquote(match[2])}" for match in found}


def secret_spellings(secret: str) -> set[str]:
    """Answer the ways in which a secret gets into text: as it is, escaped for an address, quoted, in base64."""
    raw = secret.encode(errors="surrogateescape")
    in_base64 = base64.b64encode(raw).decode().rstrip("=")
    # A login as Basic (user:password) and as PLAIN (NUL user NUL password).
    plain = base64.b64encode(b"\0" + raw.replace(b":", b"\0", 1)).decode().rstrip("=") if ":" in secret else in_base64
    address = {quote(secret, safe="", errors="surrogateescape"), quote(secret, errors="surrogateescape")}
    quoted = {repr(secret)[1:-1], json.dumps(secret)[1:-1], quote_plus(secret, errors="surrogateescape")}
    return {secret, in_base64, in_base64.translate(_URL_SAFE), plain} | address | quoted


class Mask:
    """Replaces known secret values in all their spellings, and passwords in URLs, wherever they stand in a text."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        long_enough = (text for text in secrets if len(text) >= SECRET_CHARS_MIN)
        known = {spelling for text in long_enough for spelling in secret_spellings(text)}
        # Longest first, or a secret that begins with another one would leave its tail behind.
        parts = [re.escape(text) for text in sorted(known, key=len, reverse=True)]
        self._known = re.compile("|".join(parts)) if parts else None

    def hide(self, text: str) -> str:
        """Answer the text with every secret replaced by ***."""
        return redact_text(text if self._known is None else self._known.sub(MASK, text))
