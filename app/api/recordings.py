"""`/recordings` and `/screen-recordings`: search, read, protect (docs/contract.md sections 3, 5 and 8)."""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from app import codec
from app.api.requests import (
    API,
    api_url,
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
from app.recordings.render import render
from app.search.criteria import parse_search
from app.search.paging import page_links, unpacked
from app.shares import Place


class _Names(NamedTuple):
    """Under which names an answer has one resource, and a list of them."""

    one: str
    many: str


_NAMES: dict[Resource, _Names] = {
    "recordings": _Names("recording", "recordings"),
    "screen-recordings": _Names("screenRecording", "screenRecordings"),
}


async def search(request: Request) -> Response:
    """`GET /recordings?…`: a page of the caller's contact center."""
    return await search_page(request, for_ops=False)


async def read(request: Request) -> Response:
    """`GET /recordings/{id}`"""
    return await read_one(request, for_ops=False)


async def protect(request: Request) -> Response:
    """`POST /recordings/{id}`: protects a recording from deletion, or no longer (docs/contract.md section 8)."""
    protect = operation_of(request) == "apply"
    await services(request).protection.change(
        scope_of(request), path_segment(request, "id"), protect=protect, by=user_of(request).name
    )
    return envelope({})


async def search_page(request: Request, *, for_ops: bool) -> Response:
    """A page of recordings with links to the pages before and after it."""
    scope = scope_of(request)
    parameters = unpacked(query_parameters(request))
    criteria, wanted = parse_search(parameters)
    owner, places = owner_of(request), list[Place]()

    async def reserve(size: int) -> None:
        places.append(await services(request).search_bytes.take(owner, size))

    try:
        async with services(request).searches.place(owner):
            page = await repository(request).search(scope, criteria, wanted, reserve)
        url = api_url(request)
        content: dict[str, object] = {
            _NAMES[resource_of(request)].many: await _encoded(page.hits, url, for_ops=for_ops)
        }
        here = f"{url}{request.scope['path'].removeprefix(API)}"
        response = envelope(content | dict(page_links(here, parameters, wanted, page)))
    except BaseException:
        for place in places:
            place.release()
        raise
    response.places = places
    return response


async def _encoded(recordings: Sequence[Recording], url: str, *, for_ops: bool) -> list[msgspec.Raw]:
    """Returns recordings as clients see them, as JSON."""
    encoded, turns = list[msgspec.Raw](), Turns()
    for recording in recordings:
        text = codec.encode(render(recording, url, for_ops=for_ops))
        encoded.append(msgspec.Raw(text))
        await turns.worked_on(len(text))
    return encoded


async def read_one(request: Request, *, for_ops: bool) -> Response:
    """One recording; raises RecordingNotFound."""
    stored = await repository(request).get(scope_of(request), path_segment(request, "id"))
    return envelope({_NAMES[resource_of(request)].one: render(stored.recording, api_url(request), for_ops=for_ops)})
