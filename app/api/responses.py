"""The JSON responses of docs/contract.md section 1."""

from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from app import codec
from app.errors import RecallError


class Envelope(Response):
    """A JSON object with a `statusCode`, which `code` repeats for the audit log."""

    def __init__(self, content: Mapping[str, Any], http_status: int, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(codec.encode(content), http_status, headers, media_type="application/json")
        self.code: int = content["statusCode"]


def envelope(content: Mapping[str, Any], status: int = 200) -> Envelope:
    """Returns a success; `content` may have a `statusCode` other than 0."""
    return Envelope({"statusCode": 0, **content}, status)


def error_envelope(error: RecallError) -> Envelope:
    """Returns what the client is told of an error."""
    return Envelope({"statusCode": error.code, "statusMessage": error.message}, error.http_status, error.headers)
