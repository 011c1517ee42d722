"""OKX's answers: the envelope, errors inside it, and parameters."""

from __future__ import annotations

from aiohttp import web

from sandbox.okx_frames import dump


class ApiError(Exception):
    """An answer with `code` and `msg`; the venue sends most of them with HTTP 200."""

    def __init__(self, code: str, msg: str, status: int = 200) -> None:
        super().__init__(msg)
        self.status = status
        self.text = dump({"code": code, "msg": msg, "data": []})


def read_ms(request: web.Request, name: str) -> int | None:
    """An optional time parameter."""
    text = request.query.get(name, "")
    if text and not (text.isascii() and text.isdecimal() and len(text) <= 20):
        raise ApiError("51000", f"Parameter {name} error")
    return int(text) if text else None
