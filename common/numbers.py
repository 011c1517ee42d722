"""Exact decimals as scaled integers: venue text in, canonical text out, floats nowhere."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

from common.errors import BadInput

_POWERS = tuple(10**i for i in range(40))
PLAIN_DIGITS_MAX = 40
"""On either side of the point; a short "1E999999" would become a megabyte of digits, or an infinite double."""


def parse_scaled(text: str, scale: int) -> int:
    """Turn a venue's plain decimal text into an integer counting units of 10**-scale.

    Raises BadInput when the text is not a plain decimal, or is finer than the scale: a digit that would be
    rounded away is an error, because a sum of rounded numbers is not the venue's sum.
    """
    head, point, tail = text.partition(".")
    if point and len(tail) > scale:
        tail = tail.rstrip("0")
        if len(tail) > scale:
            raise BadInput(f"{text!r} is finer than {scale} decimals")
    digits = head + tail
    # isdecimal() also takes other scripts' digits; isascii() keeps to 0-9.
    if not (digits.isascii() and (digits.isdecimal() or (digits[:1] == "-" and digits[1:].isdecimal()))):
        raise BadInput(f"{text!r} is not a plain decimal")
    return int(digits) * _POWERS[scale - len(tail)]


def format_scaled(value: int, scale: int) -> str:
    """Write a scaled integer as the shortest plain decimal text: no exponent, no trailing zeros."""
    if value < 0:
        return "-" + format_scaled(-value, scale)
    whole, part = divmod(value, _POWERS[scale])
    if not part:
        return str(whole)
    return f"{whole}.{part:0{scale}d}".rstrip("0")


def trim_decimal(text: str) -> str:
    """Canonical form of plain decimal text, such as PostgreSQL prints for NUMERIC ("64500.10" -> "64500.1")."""
    if "." not in text:
        return text
    return text.rstrip("0").rstrip(".") or "0"


def parse_plain(text: str | None) -> Decimal:
    """Exact value of a venue's decimal text.

    Raises BadInput for "", NaN, infinities, what is not a number, and what no venue means (PLAIN_DIGITS_MAX).
    """
    try:
        value = Decimal(text or "")
    except InvalidOperation as error:
        raise BadInput(f"{text!r} is not a number") from error
    exponent = value.as_tuple().exponent
    if not isinstance(exponent, int):
        raise BadInput(f"{text!r} is not a number")
    if value.adjusted() >= PLAIN_DIGITS_MAX or -exponent > PLAIN_DIGITS_MAX:
        raise BadInput(f"{(text or '')[:40]!r} has more than {PLAIN_DIGITS_MAX} digits")
    return value
