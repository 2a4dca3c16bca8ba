"""`/recordings` and `/screen-recordings`: search, read, protect (docs/contract.md sections 3, 5 and 8)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from app import codec
from app.api.audit import audit_entry
from app.api.requests import (
    api_url,
    operation_body,
    operation_of,
    owner_of,
    path_segment,
    query_parameters,
    repository,
    request_url,
    resource_of,
    scope_of,
    services,
    user_of,
)
from app.api.responses import envelope
from app.auth.scope import Scope
from app.background import in_turns
from app.errors import InvalidParameter
from app.recordings.identity import Resource
from app.recordings.labels import Definitions
from app.recordings.render import MediaAddresses, render
from app.recordings.text import TextRenderer, from_text, marked
from app.search.criteria import Criteria, dictionary_walks, parse_search
from app.search.paging import page_links, unpacked
from app.shares import Place
from app.store.documents import Source, state_of

_LONGEST_REASON = 500

# A walk through a dictionary costs as much as tens of searches, in one of Elasticsearch's few search threads.
_PLACES_OF_A_WALK = 2


class Names(NamedTuple):
    """Under which names an answer has one resource, and a list of them."""

    one: str
    many: str


NAMES: dict[Resource, Names] = {
    "recordings": Names("recording", "recordings"),
    "screen-recordings": Names("screenRecording", "screenRecordings"),
}


async def search(request: Request) -> Response:
    """`GET /recordings?…`: a page of the caller's contact center."""
    return await search_page(request, MediaAddresses(api_url(request)))


async def read(request: Request) -> Response:
    """`GET /recordings/{id}`"""
    return await read_one(request, NAMES[resource_of(request)].one, MediaAddresses(api_url(request)))


async def protect(request: Request) -> Response:
    """`POST /recordings/{id}`: protects a recording from deletion, or no longer (docs/contract.md section 8)."""
    protect = operation_of(request) == "apply"
    # In the audit line also when not all could follow yet.
    taken_along = audit_entry(request).screen_recordings = []
    reason = parse_reason(operation_body(request))
    if reason is not None:
        audit_entry(request).reason = reason
    await services(request).protection.change(
        scope_of(request),
        path_segment(request, "id"),
        protect=protect,
        by=user_of(request).name,
        reason=reason,
        took_along=taken_along.append,
    )
    return envelope({})


def parse_reason(body: Mapping[str, Any]) -> str | None:
    """Returns why the caller asks for it, None if the body does not say; raises InvalidParameter."""
    reason = body.get("reason")
    if reason is not None and not (isinstance(reason, str) and len(reason) <= _LONGEST_REASON):
        raise InvalidParameter("reason", f"it must be a string of up to {_LONGEST_REASON} characters")
    return reason or None


def places_of(criteria: Criteria) -> int:
    """Returns how many places a search takes; those that cost most leave Elasticsearch's search threads to others."""
    return 1 + _PLACES_OF_A_WALK * dictionary_walks(criteria)


async def search_page(request: Request, addresses: MediaAddresses) -> Response:
    """A page of recordings with links to the pages before and after it."""
    scope = scope_of(request)
    parameters = unpacked(query_parameters(request))
    criteria, wanted = parse_search(parameters, resource_of(request))
    owner, places = owner_of(request), list[Place]()

    async def reserve(size: int) -> None:
        places.append(await services(request).search_bytes.take(owner, size))

    try:
        async with services(request).searches.place(owner, places_of(criteria)):
            page = await repository(request).search(scope, criteria, wanted, reserve)
            total = await _total(request, criteria) if wanted.total else {}
        shown = await shown_to(request, [hit.source for hit in page.hits], addresses)
        content: dict[str, object] = {NAMES[resource_of(request)].many: msgspec.Raw(b"[%b]" % b",".join(shown))}
        response = envelope(content | total | dict(page_links(request_url(request), parameters, wanted, page)))
    except BaseException:
        for place in places:
            place.release()
        raise
    response.places = places
    return response


async def _total(request: Request, criteria: Criteria) -> dict[str, object]:
    total, is_exact = await repository(request).total(scope_of(request), criteria)
    return {"total": total, "totalIsExact": is_exact}


async def read_one(request: Request, name: str, addresses: MediaAddresses) -> Response:
    """One recording under a name; raises RecordingNotFound."""
    source = await repository(request).find(scope_of(request), path_segment(request, "id"))
    (shown,) = await shown_to(request, [source], addresses)
    return envelope({name: msgspec.Raw(shown)})


async def shown_to(request: Request, sources: Sequence[Source], addresses: MediaAddresses) -> list[bytes]:
    """Returns the JSON that the client sees of stored recordings of one contact center."""
    labelled = next((source for source in sources if source.has_labels), None)
    # Read again for each answer, because any process may change a display name. Without labels it costs nothing.
    definitions = await services(request).labelling.definitions(labelled.contact_center) if labelled else {}
    return await in_turns(_shower(scope_of(request), addresses, definitions), sources, _size)


def _shower(scope: Scope, addresses: MediaAddresses, definitions: Definitions) -> Callable[[Source], bytes]:
    """Returns what makes the JSON that a client sees of a stored recording.

    A limit on what the client sees needs the decoded recording. Without one the text stays text.
    """
    renderer = TextRenderer(addresses)

    def from_the_text(source: Source) -> bytes:
        text = marked(source.recording)
        return renderer.render(text, state_of(source, text, definitions))

    def from_the_recording(source: Source) -> bytes:
        text = marked(source.recording)
        return codec.encode(render(scope.visible(from_text(text)), addresses) | state_of(source, text, definitions))

    return from_the_text if scope.limits is None else from_the_recording


def _size(source: Source) -> int:
    return len(source.recording)
