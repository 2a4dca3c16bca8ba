"""Every exception → the envelope (docs/contract.md section 1)."""

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from app.api.responses import error_envelope
from app.errors import InternalError, InvalidParameter, RecallError, ResourceNotFound


async def _recall_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RecallError)
    return error_envelope(error)


async def _http_exception(request: Request, error: Exception) -> Response:
    """What Starlette itself raises."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return error_envelope(ResourceNotFound())
    return error_envelope(InvalidParameter("request", "it is not a valid HTTP request"))


async def _unexpected(request: Request, error: Exception) -> Response:
    """Starlette raises the error again after this answer, so the server logs it."""
    return error_envelope(InternalError())


async def _client_left(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # no client is left to read it


HANDLERS = {
    RecallError: _recall_error,
    HTTPException: _http_exception,
    ClientDisconnect: _client_left,
    Exception: _unexpected,
}
