"""One audit line for each operation, whatever becomes of it (`app.audit`)."""

import time
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any
from urllib.parse import unquote_to_bytes

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import codec
from app.api.requests import resource_of, services
from app.audit import Entry, Operation
from app.auth.basic import parse_basic
from app.errors import InternalError, RecallError

_Handler = Callable[[Any, Request], Awaitable[Response]]


def audited(operation: Operation) -> Callable[[_Handler], Callable[[Any, Request], Awaitable[ASGIApp]]]:
    """For a method of an endpoint whose path has `{id}`: writes what it answers or raises, before the client has it.

    A play's line is written when its last byte goes out, or when the stream breaks off. The method may
    say more with `audit_entry`.
    """

    def decorate(handler: _Handler) -> Callable[[Any, Request], Awaitable[ASGIApp]]:
        @wraps(handler)
        async def handle(endpoint: Any, request: Request) -> ASGIApp:
            attempt = _Attempt(request, operation)
            try:
                response = await handler(endpoint, request)
            except BaseException as error:
                attempt.raised(error)
                raise
            if operation == "play":
                return _Streamed(response, attempt)
            attempt.write(response.status_code, codec.decode(bytes(response.body))["statusCode"])
            return response

        return handle

    return decorate


def audit_entry(request: Request) -> Entry:
    """The line that will be written of this request, to say more in it."""
    entry: Entry = request.state.audit_entry
    return entry


class _Attempt:
    """A request and its line."""

    def __init__(self, request: Request, operation: Operation) -> None:
        self._request = request
        self._begun = time.monotonic()
        credentials = parse_basic(request.headers.get("authorization"))
        self.entry = Entry(
            user=credentials[0] if credentials else None,
            contact_center=_segment(request, "contact_center"),
            address=request.client.host if request.client else None,
            operation=operation,
            resource=resource_of(request),
            recording_id=_segment(request, "id") or "",
        )
        if media := _segment(request, "name"):
            self.entry.media = media
        request.state.audit_entry = self.entry

    def raised(self, error: BaseException) -> None:
        if isinstance(error, Exception) and not isinstance(error, ClientDisconnect):
            answer = error if isinstance(error, RecallError) else InternalError()
            self.write(answer.http_status, answer.code)
        else:  # nobody is answered
            self.write(None, None)

    def write(self, http_status: int | None, status_code: int | None) -> None:
        """The outcome follows from what the client is told."""
        entry = self.entry
        entry.http_status, entry.status_code = http_status, status_code
        if http_status is not None and status_code != 4:
            entry.outcome = "success" if http_status < 400 else "refused"
        entry.seconds = round(time.monotonic() - self._begun, 3)
        user = getattr(self._request.state, "user", None)
        if entry.contact_center is None and user is not None:
            entry.contact_center = user.contact_center
        services(self._request).audit.write(entry)


class _Streamed:
    """A stream whose line says how far it came."""

    def __init__(self, response: Response, attempt: _Attempt) -> None:
        self._response = response
        self._attempt = attempt

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response, entry = self._response, self._attempt.entry
        length = response.headers.get("content-length")
        sent = 0
        client_left = written = False

        def write(*, completed: bool) -> None:
            nonlocal written
            if not written:
                written = True
                entry.bytes_sent, entry.completed = sent, completed
                # Who goes away has got what was played so far: that is no failure.
                self._attempt.write(response.status_code, 0 if completed or client_left else 4)

        async def watched_receive() -> Message:
            nonlocal client_left
            message = await receive()
            client_left = client_left or message["type"] == "http.disconnect"
            return message

        async def watched_send(message: Message) -> None:
            nonlocal sent
            if message["type"] == "http.response.body":
                sent += len(message.get("body", b""))
                # With all its bytes the client has the whole answer, even if the last message never comes.
                if not message.get("more_body") or str(sent) == length:
                    write(completed=not client_left)
            await send(message)

        try:
            await response(scope, watched_receive, watched_send)
        finally:
            write(completed=False)


def _segment(request: Request, name: str) -> str | None:
    """A segment of the path, decoded as far as it can be."""
    text = request.path_params.get(name)
    return unquote_to_bytes(text.encode("latin-1")).decode(errors="backslashreplace") if text is not None else None
