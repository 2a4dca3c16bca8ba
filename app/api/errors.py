"""Every exception → the envelope (docs/contract.md section 1)."""

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from app.api.endpoint import Endpoint
from app.api.responses import error_envelope
from app.errors import InternalError, InvalidParameter, RecallError, ResourceNotFound


async def _recall_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RecallError)
    return _error_envelope(request, error)


async def _http_exception(request: Request, error: Exception) -> Response:
    """What Starlette itself raises."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return _error_envelope(request, ResourceNotFound())
    return _error_envelope(request, InvalidParameter("request", "it is not a valid HTTP request"))


async def unexpected(request: Request, error: Exception) -> Response:
    """Starlette raises the error again after this answer, so the server logs it."""
    return _error_envelope(request, InternalError())


async def _client_left(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # no client is left to read it


def _error_envelope(request: Request, error: RecallError) -> Response:
    """The envelope with the endpoint's headers, if a route was found, or what the endpoint has in its place."""
    endpoint: Endpoint | None = getattr(request.state, "endpoint", None)
    if endpoint and endpoint.error_answer:
        return endpoint.error_answer(request, error)
    return error_envelope(error, endpoint.headers if endpoint else None)


HANDLERS = {
    RecallError: _recall_error,
    HTTPException: _http_exception,
    ClientDisconnect: _client_left,
    Exception: unexpected,
}
