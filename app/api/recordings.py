"""`/recordings` and `/screen-recordings`: search, read, protect (CONTRACT.md sections 3, 5 and 8)."""

from typing import Literal, NamedTuple

from starlette.endpoints import HTTPEndpoint
from starlette.requests import Request
from starlette.responses import Response

from app.api.audit import audit_entry, audited
from app.api.requests import (
    api_url,
    authenticated,
    envelope,
    json_body,
    own_scope,
    path_segment,
    query_parameters,
    repository,
    resource_of,
    services,
)
from app.auth.policy import require_permission
from app.auth.scope import Scope
from app.errors import InvalidParameter, MissingParameter
from app.recordings.identity import Resource
from app.recordings.render import render
from app.search.criteria import parse_search
from app.search.paging import page_links


class _Names(NamedTuple):
    """Under which names an answer has one resource, and a list of them."""

    one: str
    many: str


_NAMES: dict[Resource, _Names] = {
    "recordings": _Names("recording", "recordings"),
    "screen-recordings": _Names("screenRecording", "screenRecordings"),
}


class Recordings(HTTPEndpoint):
    """`GET /recordings?…`"""

    async def get(self, request: Request) -> Response:
        user = await authenticated(request, "search")
        return await search(request, own_scope(request, user), for_ops=False)


class OneScreenRecording(HTTPEndpoint):
    """`GET /screen-recordings/{id}`"""

    async def get(self, request: Request) -> Response:
        user = await authenticated(request, "read")
        return await read(request, own_scope(request, user), for_ops=False)


class OneRecording(OneScreenRecording):
    """`GET /recordings/{id}`, and `POST` to protect it from deletion, or no longer."""

    @audited("protection")
    async def post(self, request: Request) -> Response:
        user = await authenticated(request, "apply", "unapply")
        operation = await _operation(request)
        audit_entry(request).operation = operation
        require_permission(user, operation)
        await services(request).protection.change(
            own_scope(request, user), path_segment(request, "id"), protect=operation == "apply"
        )
        return envelope({})


async def _operation(request: Request) -> Literal["apply", "unapply"]:
    """What `operationName` asks for (seeds/recording-non-deletion.txt)."""
    body = await json_body(request, empty={})
    if not isinstance(body, dict):
        raise InvalidParameter("body", "it must be a JSON object")
    if "operationName" not in body:
        raise MissingParameter("operationName")
    match body["operationName"]:
        case "applyNonDelete":
            return "apply"
        case "unapplyNonDelete" | "unapplyNonDeletion":
            return "unapply"
    raise InvalidParameter("operationName", "The specified value is not within valid range")


async def search(request: Request, scope: Scope, *, for_ops: bool) -> Response:
    """A page of recordings with links to the pages before and after it."""
    parameters = query_parameters(request)
    criteria, page = parse_search(parameters)
    found = await repository(request).search(scope, criteria, page)
    url = api_url(request)
    content: dict[str, object] = {
        _NAMES[resource_of(request)].many: [render(recording, url, for_ops=for_ops) for recording in found.recordings]
    }
    here = f"{url}{request.scope['path'].removeprefix('/api/v2')}"
    for name, query in page_links(parameters, page, found.recordings, more=found.more):
        content[name] = f"{here}?{query}"
    return envelope(content)


async def read(request: Request, scope: Scope, *, for_ops: bool) -> Response:
    """One recording; raises RecordingNotFound."""
    stored = await repository(request).get(scope, path_segment(request, "id"))
    return envelope({_NAMES[resource_of(request)].one: render(stored.recording, api_url(request), for_ops=for_ops)})
