"""Every exception → the envelope (CONTRACT.md section 1)."""

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from app import codec
from app.errors import InternalError, InvalidParameter, MethodNotAllowed, RecallError, ResourceNotFound


async def _recall_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RecallError)
    return _answer(error)


async def _http_exception(request: Request, error: Exception) -> Response:
    """What Starlette itself raises."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return _answer(ResourceNotFound())
    if error.status_code == 405:
        return _answer(MethodNotAllowed((error.headers or {}).get("Allow", "")))
    return _answer(InvalidParameter("request", "it is not a valid HTTP request"))


async def _unexpected(request: Request, error: Exception) -> Response:
    """Starlette raises the error again after this answer, so the server logs it."""
    return _answer(InternalError())


async def _client_left(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # nobody reads it


def _answer(error: RecallError) -> Response:
    content = codec.encode({"statusCode": error.code, "statusMessage": error.message})
    return Response(content, error.http_status, error.headers, media_type="application/json")


HANDLERS = {
    RecallError: _recall_error,
    HTTPException: _http_exception,
    ClientDisconnect: _client_left,
    Exception: _unexpected,
}
