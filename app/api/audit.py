"""Writes one audit line for each audited request, whatever becomes of it (`app.audit`)."""

import time
from collections.abc import Awaitable
from urllib.parse import unquote_to_bytes

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.requests import address_of, services
from app.api.responses import Envelope
from app.audit import Entry, Operation
from app.auth import policy
from app.errors import InternalError, RecallError
from app.media.response import MediaResponse

# The codes of docs/contract.md section 1 that say who may do what: permission, role, login.
_REFUSALS = frozenset({3, 5, 20})
# The status of a caller who asks for too much: attempts to log in, or a share that is in use.
_TOO_MANY = 429


def audit_entry(request: Request) -> Entry:
    """Returns the line of this request before it is written, so that a handler can complete it."""
    entry: Entry = request.state.audit_entry
    return entry


def audited_request(request: Request) -> "AuditedRequest":
    """Returns what writes the line of this request."""
    audited: AuditedRequest = request.state.audited
    return audited


def write_refused_request(request: Request, user: str | None, error: RecallError) -> None:
    """Writes the line of a request that is refused before its path is looked at. `user` is the name that it claims."""
    entry = Entry(
        user=user,
        contact_center=None,
        address=address_of(request),
        operation="request",
        resource=None,
        recording_id="",
        outcome="refused",
        http_status=error.http_status,
        status_code=error.code,
        path=request.scope["path"],
    )
    services(request).audit.write_unverified(entry)


class AuditedRequest:
    """A request and its line, which is written whatever becomes of the request.

    For an envelope the line is written before the client has any byte. For a stream it is written when the last byte
    goes out, or when the stream breaks off. `user` is the name that the caller claims. A handler can add attributes
    through `audit_entry`. With `only_refusals` there is a line only for a caller who may not do what it asks for, or
    asks for too much.
    """

    def __init__(
        self,
        request: Request,
        operation: Operation | policy.Operation,
        user: str | None,
        *,
        only_refusals: bool = False,
    ) -> None:
        self._request = request
        self._only_refusals = only_refusals
        self._begun = time.monotonic()
        self.entry = Entry(
            user=user,
            contact_center=_segment(request, "contact_center"),
            address=address_of(request),
            operation=operation,
            resource=request.state.endpoint.resource,
            recording_id=_segment(request, "id") or "",
        )
        if media := _segment(request, "name"):
            self.entry.media = media
        if label := _segment(request, "label"):
            self.entry.label = label
        self._has_parts = False
        request.state.audit_entry = self.entry
        request.state.audited = self

    async def run(self, answer: Awaitable[Response]) -> ASGIApp:
        """Returns the response, or for a stream an application that writes the line when it ends."""
        try:
            response = await answer
        except BaseException as error:
            if not self._only_refusals or _is_refusal(error):
                self._raised(error)
            raise
        if self._only_refusals:
            return response
        if isinstance(response, Envelope):
            if not self._has_parts:
                self.write(response.status_code, response.code)
            return response
        return AuditedStream(response, self)

    def _raised(self, error: BaseException) -> None:
        if isinstance(error, Exception) and not isinstance(error, ClientDisconnect):
            answer = error if isinstance(error, RecallError) else InternalError()
            self.write(answer.http_status, answer.code)
        else:  # the client is gone
            self.write(None, None)

    def write(self, http_status: int | None, status_code: int | None) -> None:
        """Writes the line; its outcome follows from what the client is told."""
        self._write(self.entry, http_status, status_code)

    def entry_of_part(self, recording_id: str) -> Entry:
        """Returns the line of one recording of many, to be completed and given to `write_part`."""
        return msgspec.structs.replace(self.entry, recording_id=recording_id)

    def write_part(self, entry: Entry, http_status: int, status_code: int) -> None:
        """Writes the line of one recording of many. The request then has none of its own, unless it fails."""
        self._has_parts = True
        self._write(entry, http_status, status_code)

    def _write(self, entry: Entry, http_status: int | None, status_code: int | None) -> None:
        entry.http_status, entry.status_code = http_status, status_code
        if http_status is not None and (status_code != 4 or http_status == _TOO_MANY):
            entry.outcome = "success" if http_status < 400 else "refused"
        entry.seconds = round(time.monotonic() - self._begun, 3)
        user = getattr(self._request.state, "user", None)
        if entry.contact_center is None and user is not None:
            entry.contact_center = user.contact_center
        if user is None:
            services(self._request).audit.write_unverified(entry)
        else:
            services(self._request).audit.write(entry)


class AuditedStream:
    """A stream; its line says how many bytes the client got."""

    def __init__(self, response: Response, request: AuditedRequest) -> None:
        self._response = response
        self._request = request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response, entry = self._response, self._request.entry
        length = response.headers.get("content-length")
        sent = 0
        client_left = written = False

        def write(*, completed: bool) -> None:
            nonlocal written
            if not written:
                written = True
                entry.bytes_sent, entry.completed = sent, completed
                # A client that leaves, or stops reading, has received what it played so far: that is no failure.
                client_ended = client_left or (isinstance(response, MediaResponse) and response.player_stalled)
                self._request.write(response.status_code, 0 if completed or client_ended else 4)

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


def _is_refusal(error: BaseException) -> bool:
    return isinstance(error, RecallError) and (error.code in _REFUSALS or error.http_status == _TOO_MANY)


def _segment(request: Request, name: str) -> str | None:
    """Returns a segment of the path; bytes that are not UTF-8 are escaped."""
    text = request.path_params.get(name)
    return unquote_to_bytes(text.encode("latin-1")).decode(errors="backslashreplace") if text is not None else None
