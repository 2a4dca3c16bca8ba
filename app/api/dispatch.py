"""What happens around every handler, as the row of its route says: authentication, authorization, auditing."""

import asyncio

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.audit import AuditedRequest, audit_entry
from app.api.authentication import BACKENDS, Backend
from app.api.endpoint import Endpoint, Method
from app.api.requests import chosen, named_contact_center, services
from app.api.responses import Envelope
from app.auth.policy import Operation, require_permission, require_role
from app.background import work_for
from app.errors import MethodNotAllowed


class Dispatcher:
    """The ASGI application of one row of the route table."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._methods = endpoint.methods
        self._backend = BACKENDS[endpoint.authentication] if endpoint.authentication != "none" else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        request.state.endpoint = self.endpoint
        method = self._methods.get(request.method)
        if method is None:
            raise MethodNotAllowed(", ".join(self._methods))
        response = await self._audited(request, method)
        if self._backend is not None and not isinstance(response, Envelope):
            receive = _until_refused(request, receive, self._backend)
        await response(scope, receive, send)

    async def _audited(self, request: Request, method: Method) -> ASGIApp:
        if self._backend is None:
            return await self._authorized(request, method)
        operation = method.audit or method.operations[0]
        name = self._backend.claimed_name(request)
        audited = AuditedRequest(request, operation, name, only_refusals=method.audit is None)
        return await audited.run(self._authorized(request, method))

    async def _authorized(self, request: Request, method: Method) -> Response:
        """Returns the handler's response to a caller who may ask for it.

        The order is that of docs/contract.md section 8: role, body, permission, and only then existence.
        """
        if self._backend is not None:
            try:
                user = await self._backend.authenticate(request)
            finally:
                _forget_credentials(request)
            contact_center = named_contact_center(request) or user.contact_center or ""
            work_for(contact_center)
            request.state.user = user  # also for the audit line of a user who is refused from here on
            audit_entry(request).user = user.name
            require_role(user, *method.operations, contact_center=named_contact_center(request))
            if contact_center:
                services(request).activity.note(contact_center)
            request.state.operation = await _operation(request, method)
            require_permission(user, request.state.operation)
        return await method.handler(request)


def _forget_credentials(request: Request) -> None:
    """Removes password and token from what lasts as long as the request: hours for a play.

    `app.server.protocol.Cycle` does the same with what lasts as long as the connection.
    """
    headers = request.scope["headers"]
    headers[:] = [header for header in headers if header[0] not in {b"authorization", b"cookie"}]


def _until_refused(request: Request, receive: Receive, backend: Backend) -> Receive:
    """For a stream, which may last for hours: to it, a user who is removed or changed is a client that leaves."""

    async def receive_or_leave() -> Message:
        received = asyncio.ensure_future(receive())
        refused = asyncio.ensure_future(backend.until_refused(request))
        try:
            await asyncio.wait((received, refused), return_when=asyncio.FIRST_COMPLETED)
            return received.result() if received.done() else {"type": "http.disconnect"}
        finally:
            received.cancel()
            refused.cancel()

    return receive_or_leave


async def _operation(request: Request, method: Method) -> Operation:
    """Returns what the method does, if need be as its body tells."""
    assert method.operation is not None  # a row with authentication has one
    if isinstance(method.operation, str):
        return method.operation
    choice = await chosen(request, method.operation)
    if choice.audit is not None:
        audit_entry(request).operation = choice.audit
    return choice.operation
