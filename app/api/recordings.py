"""`/recordings` and `/screen-recordings`: search, read, protect (docs/contract.md sections 3, 5 and 8)."""

from collections.abc import Iterable
from typing import NamedTuple

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from app import codec
from app.api.audit import audit_entry
from app.api.requests import (
    api_url,
    base_url,
    operation_of,
    owner_of,
    path_segment,
    query_parameters,
    repository,
    resource_of,
    scope_of,
    services,
    user_of,
)
from app.api.responses import envelope
from app.background import Turns
from app.recordings.identity import Resource
from app.recordings.model import Recording
from app.recordings.render import MediaAddresses, render
from app.search.criteria import Criteria, dictionary_walks, parse_search
from app.search.paging import page_links, unpacked
from app.shares import Place

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
    await services(request).protection.change(
        scope_of(request),
        path_segment(request, "id"),
        protect=protect,
        by=user_of(request).name,
        took_along=taken_along.append,
    )
    return envelope({})


def _places(criteria: Criteria) -> int:
    """Returns how many places a search takes; those that cost most leave Elasticsearch's search threads to others."""
    return 1 + _PLACES_OF_A_WALK * dictionary_walks(criteria)


async def search_page(request: Request, addresses: MediaAddresses) -> Response:
    """A page of recordings with links to the pages before and after it."""
    scope = scope_of(request)
    parameters = unpacked(query_parameters(request))
    criteria, wanted = parse_search(parameters)
    owner, places = owner_of(request), list[Place]()

    async def reserve(size: int) -> None:
        places.append(await services(request).search_bytes.take(owner, size))

    try:
        async with services(request).searches.place(owner, _places(criteria)):
            page = await repository(request).search(scope, criteria, wanted, reserve)
        content: dict[str, object] = {
            NAMES[resource_of(request)].many: await _encoded(map(scope.visible, page.hits), addresses)
        }
        query = request.scope["query_string"].decode("latin-1")
        url = f"{base_url(request)}{request.scope['path']}?{query}"
        response = envelope(content | dict(page_links(url, parameters, wanted, page)))
    except BaseException:
        for place in places:
            place.release()
        raise
    response.places = places
    return response


async def _encoded(recordings: Iterable[Recording], addresses: MediaAddresses) -> list[msgspec.Raw]:
    """Returns recordings as clients see them, as JSON."""
    encoded, turns = list[msgspec.Raw](), Turns()
    for recording in recordings:
        text = codec.encode(render(recording, addresses))
        encoded.append(msgspec.Raw(text))
        await turns.worked_on(len(text))
    return encoded


async def read_one(request: Request, name: str, addresses: MediaAddresses) -> Response:
    """One recording under a name; raises RecordingNotFound."""
    scope = scope_of(request)
    stored = await repository(request).get(scope, path_segment(request, "id"))
    return envelope({name: render(scope.visible(stored.recording), addresses)})
