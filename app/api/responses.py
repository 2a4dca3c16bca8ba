"""The JSON responses of docs/contract.md section 1."""

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app import codec
from app.errors import RecallError
from app.shares import Place

# A client that does not read gets so much, and then no more.
_PIECE_BYTES = 256 * 1024


class Envelope(Response):
    """A JSON object with a `statusCode`, which `code` repeats for the audit log.

    `places` are given back when the client has the response, or leaves.
    """

    places: Sequence[Place] = ()

    def __init__(self, content: Mapping[str, Any], http_status: int, headers: Mapping[str, str] | None = None) -> None:
        all_headers = {"Cache-Control": "no-store", **(headers or {})}
        super().__init__(codec.encode(content), http_status, all_headers, media_type="application/json")
        self.code: int = content["statusCode"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            body = memoryview(self.body)
            for start in range(0, max(len(body), 1), _PIECE_BYTES):
                end = start + _PIECE_BYTES
                piece = bytes(body[start:end])
                await send({"type": "http.response.body", "body": piece, "more_body": end < len(body)})
        finally:
            for place in self.places:
                place.release()


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
