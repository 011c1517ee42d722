"""Reading vendors' JSON without a float: every number stays the digits that were sent. Pure."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Context, Decimal, InvalidOperation
from typing import NoReturn, cast

from common.errors import BadInput, Refused, TryLater

DIGITS_MAX = 60
"""More digits before or behind the point than any metric has: a number like 1e999999999 would fill the memory."""
FRACTION_DIGITS = 10
"""Of what we divide ourselves."""

_EXACT = Context(prec=300)
"""Sums and products of such numbers fit; Python's own 28 digits would round them."""

Row = Mapping[str, object]

_FINE = re.compile(r"(\.\d{6})\d+")
_NO = re.compile(r"4\d\d")
_PASSING = ("408", "429")


def read_json(body: bytes) -> object:
    """The document, its numbers as Decimal; raises BadInput."""
    try:
        return json.loads(body, parse_float=Decimal, parse_int=Decimal, parse_constant=_refuse)
    except (ValueError, RecursionError, InvalidOperation) as error:
        raise BadInput(f"no JSON: {type(error).__name__}: {body[:120]!r}") from error


def as_row(value: object, what: str) -> Row:
    """An object; raises BadInput."""
    if not isinstance(value, dict):
        raise BadInput(f"{what} is not an object: {str(value)[:120]}")
    return cast("Row", value)


def as_rows(value: object, what: str) -> Sequence[Row]:
    """A list of objects; raises BadInput."""
    if not isinstance(value, list):
        raise BadInput(f"{what} is not a list: {str(value)[:120]}")
    return [as_row(row, what) for row in cast("list[object]", value)]


def read_decimal(value: object, what: str) -> Decimal | None:
    """A number or its text; None for null and "", which mean absent. Raises BadInput for anything else."""
    if value is None or value == "":
        return None
    if not isinstance(value, str | Decimal):
        raise BadInput(f"{what} is no number: {str(value)[:80]}")
    try:
        number = Decimal(value)
    except InvalidOperation as error:
        raise BadInput(f"{what} is no number: {str(value)[:80]!r}") from error
    if not number.is_finite() or abs(number.adjusted()) > DIGITS_MAX or len(number.as_tuple().digits) > DIGITS_MAX:
        raise BadInput(f"{what} can not be right: {str(value)[:80]}")
    return number


def read_whole(value: object, what: str) -> int:
    """A whole number; raises BadInput."""
    number = read_decimal(value, what)
    if number is None or number != number.to_integral_value():
        raise BadInput(f"{what} is no whole number: {str(value)[:80]}")
    return int(number)


def read_time(value: object, what: str) -> int:
    """Epoch seconds of an ISO 8601 time, date, or "2026-09-28 10:00:00.000 UTC"; without a zone it is UTC.

    Raises BadInput.
    """
    if not isinstance(value, str):
        raise BadInput(f"{what} is no time: {str(value)[:80]}")
    # Vendors send up to nine digits of a second.
    text = _FINE.sub(r"\1", value.strip().removesuffix(" UTC"))
    try:
        moment = dt.datetime.fromisoformat(text)
        return int((moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp())
    except (ValueError, OverflowError) as error:
        raise BadInput(f"{what} is no time: {value[:80]!r}") from error


def write_decimal(number: Decimal) -> str:
    """Canonical plain text: no exponent, no trailing zeros."""
    text = format(number, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def add_exact(numbers: Iterable[Decimal]) -> Decimal:
    """Their sum, every digit of it."""
    total = Decimal(0)
    for number in numbers:
        total = _EXACT.add(total, number)
    return total


def multiply_exact(number: Decimal, factor: int) -> Decimal:
    """The product, every digit of it."""
    return _EXACT.multiply(number, Decimal(factor))


def divide(number: Decimal, by: Decimal | int) -> Decimal:
    """The quotient, rounded once to ten decimals, half to even."""
    quotient = _EXACT.divide(number, Decimal(by))
    return quotient.quantize(Decimal(1).scaleb(-FRACTION_DIGITS), context=_EXACT)


def wei_to_gwei(wei: Decimal) -> Decimal:
    """Exact."""
    return wei.scaleb(-9, context=_EXACT)


def judge_error(text: str, is_no: bool) -> TryLater | Refused:
    """The error for what a vendor said inside a 200.

    Only what is known to be a no counts as one: it is not asked again for hours, which is too long for a hiccup.
    """
    return Refused(text) if is_no else TryLater(text)


def says_no(status: object) -> bool:
    """Is it an HTTP status, number or text, by which a vendor says no?"""
    return bool(_NO.fullmatch(str(status))) and str(status) not in _PASSING


def has_words(text: str, words: Iterable[str]) -> bool:
    """Is any of these, in lower case, in the text?"""
    text = text.lower()
    return any(word in text for word in words)


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")
