"""Control frames of the market streams: what a client may say and what the venue answers."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple, cast

METHODS = ("SUBSCRIBE", "UNSUBSCRIBE", "LIST_SUBSCRIPTIONS", "SET_PROPERTY", "GET_PROPERTY")
_TEXT_ID = re.compile(r"[A-Za-z0-9_-]{1,36}")


class Order(NamedTuple):
    """A control frame that can be carried out."""

    method: str
    params: list[Any]
    id: int | str | None


class Complaint(NamedTuple):
    """What the venue says about a control frame that can not be carried out."""

    code: int
    msg: str
    id: int | str | None = None

    def as_text(self) -> str:
        """The error frame; the id is there when it is known."""
        body: dict[str, object] = {"code": self.code, "msg": self.msg}
        if self.id is not None:
            body["id"] = self.id
        return json.dumps(body, separators=(",", ":"))


def reply_text(result: object, frame_id: int | str | None) -> str:
    """The reply to a control frame that was carried out."""
    return json.dumps({"result": result, "id": frame_id}, separators=(",", ":"))


def _is_good_id(value: object) -> bool:
    if value is None:
        return True
    if isinstance(value, str):
        return _TEXT_ID.fullmatch(value) is not None
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def read_control(text: str) -> Order | Complaint:
    """Understand a control frame, or say what is wrong with it."""
    try:
        parsed = json.loads(text)
    except ValueError:
        return Complaint(3, "Invalid JSON: expected value at line 1 column 1")
    if not isinstance(parsed, dict):
        return Complaint(2, "Invalid request: expected an object")
    frame = cast("dict[str, Any]", parsed)
    if not _is_good_id(frame.get("id")):
        return Complaint(2, "Invalid request: request ID must be an integer, a short string or null")
    frame_id, method, params = frame.get("id"), frame.get("method"), frame.get("params", [])
    if "method" not in frame:
        return Complaint(2, "Invalid request: missing field `method` at line 1 column 1", frame_id)
    if method not in METHODS:
        return Complaint(
            2, f"Invalid request: unknown variant `{method}`, expected one of `{'`, `'.join(METHODS)}`", frame_id
        )
    if not isinstance(params, list):
        return Complaint(2, "Invalid request: params must be an array", frame_id)
    return _check_params(Order(str(method), cast("list[Any]", params), frame_id))


def _check_params(order: Order) -> Order | Complaint:
    method, params, frame_id = order
    if method in {"SUBSCRIBE", "UNSUBSCRIBE"}:
        if not params or not all(isinstance(name, str) for name in params):
            return Complaint(2, "Invalid request: params must be an array of stream names", frame_id)
    elif method in {"SET_PROPERTY", "GET_PROPERTY"}:
        if not params or not isinstance(params[0], str):
            return Complaint(2, "Invalid request: property name must be a string", frame_id)
        if params[0] != "combined":
            return Complaint(0, "Unknown property", frame_id)
        if method == "SET_PROPERTY" and (len(params) != 2 or not isinstance(params[1], bool)):
            return Complaint(1, "Invalid value type: expected Boolean", frame_id)
    return order
