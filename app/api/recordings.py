"""`/recordings` and `/screen-recordings`: search, read, protect (CONTRACT.md sections 3, 5 and 8)."""

from typing import Literal, NamedTuple
from urllib.parse import quote

import msgspec
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
from app.recordings.dates import parse_instant
from app.recordings.identity import Resource
from app.recordings.model import Recording
from app.recordings.render import render
from app.search.criteria import Page, parse_search
from app.search.cursor import Cursor
from app.store.repository import Found


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
    for name, (offset, cursor) in page_links(found, page).items():
        content[name] = _link(here, parameters, offset, cursor)
    return envelope(content)


async def read(request: Request, scope: Scope, *, for_ops: bool) -> Response:
    """One recording; raises RecordingNotFound."""
    stored = await repository(request).get(scope, path_segment(request, "id"))
    return envelope({_NAMES[resource_of(request)].one: render(stored.recording, api_url(request), for_ops=for_ops)})


def page_links(found: Found, page: Page) -> dict[str, tuple[int, Cursor | None]]:
    """The offset and the cursor of `prevUri` and `nextUri`, as far as there are such pages."""
    links: dict[str, tuple[int, Cursor | None]] = {}
    recordings = found.recordings
    if page.offset > 0:
        offset = max(page.offset - page.limit, 0)
        if recordings:
            cursor: Cursor | None = _cursor("before", recordings[0])
        else:  # an empty page has only the place it was asked from
            cursor = msgspec.structs.replace(page.cursor, direction="before") if page.cursor else None
        links["prevUri"] = (offset, cursor if offset else None)
    if found.more:
        links["nextUri"] = (page.offset + len(recordings), _cursor("after", recordings[-1]))
    return links


def _cursor(direction: Literal["after", "before"], recording: Recording) -> Cursor:
    return Cursor(direction, parse_instant(recording["startTime"]), recording["id"])


def _link(here: str, parameters: list[tuple[str, str]], offset: int, cursor: Cursor | None) -> str:
    """The URL of another page: every parameter as it was but for the place."""
    kept = [(name, value) for name, value in parameters if name not in {"offset", "cursor"}]
    place = [("offset", str(offset))] + ([("cursor", cursor.encode())] if cursor else [])
    query = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in [*kept, *place])
    return f"{here}?{query}"
