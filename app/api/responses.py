"""The JSON responses of docs/contract.md section 1."""

from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from app import codec
from app.errors import RecallError


class Envelope(Response):
    """A JSON object with a `statusCode`, which `code` repeats for the audit log."""

    def __init__(self, content: Mapping[str, Any], http_status: int, headers: Mapping[str, str] | None = None) -> None:
        all_headers = {"Cache-Control": "no-store", **(headers or {})}
        super().__init__(codec.encode(content), http_status, all_headers, media_type="application/json")
        self.code: int = content["statusCode"]


def envelope(content: Mapping[str, Any], status: int = 200) -> Envelope:
    """Returns a success; `content` may have a `statusCode` other than 0."""
    return Envelope({"statusCode": 0, **content}, status)


def error_envelope(error: RecallError, headers: Mapping[str, str] | None = None) -> Envelope:
    """Returns what the client is told of an error, with these headers and the error's own."""
    return Envelope(
        {"statusCode": error.code, "statusMessage": error.message},
        error.http_status,
        {**(headers or {}), **(error.headers or {})},
    )
