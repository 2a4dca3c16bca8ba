"""`/ops/contact-centers/{cc}/…`: for the component that makes recordings (docs/contract.md sections 3, 4 and 7).

`/internal-api/contact-centers/{cc}/…` is the same for clients that exist, with differences in what is answered.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from app import codec
from app.api.audit import audit_entry
from app.api.recordings import NAMES, read_one, search_page
from app.api.requests import (
    address_of,
    api_url,
    base_url,
    contact_center_of,
    path_segment,
    query_parameters,
    repository,
    resource_of,
    scope_of,
    services,
    user_of,
)
from app.api.responses import envelope
from app.background import Turns, apart
from app.errors import InvalidParameter
from app.lifecycle.deletion import Actor, FailedMedia
from app.recordings.dates import format_instant
from app.recordings.identity import encode_segment
from app.recordings.render import MediaAddresses, render
from app.store.versions import FormerVersion

# An answer with more former versions is sent while it is made.
_BYTES_IN_MEMORY = 4 * 1024 * 1024


async def search(request: Request) -> Response:
    """`GET /ops/contact-centers/{cc}/recordings?…`"""
    return await search_page(request, ops_addresses(request))


async def read(request: Request) -> Response:
    """`GET /ops/contact-centers/{cc}/recordings/{id}`"""
    return await read_one(request, NAMES[resource_of(request)].one, ops_addresses(request))


async def read_internal(request: Request) -> Response:
    """`GET /internal-api/contact-centers/{cc}/screen-recordings/{id}`: always under the key `recording`."""
    prefix = f"/contact-centers/{encode_segment(contact_center_of(request))}"
    base = f"{base_url(request)}/internal-api"
    return await read_one(request, "recording", MediaAddresses(base, prefix, "content", descriptors=True))


async def contact_centers(request: Request) -> Response:
    """`GET /ops/contact-centers`: those of the configured users and those that have recordings."""
    found = set(services(request).authenticator.contact_centers)
    for repository_ in services(request).repositories.values():
        found |= await repository_.contact_centers(services(request).settings.region)
    here = f"{api_url(request)}/ops/contact-centers"
    return envelope({"uris": [f"{here}/{encode_segment(contact_center)}" for contact_center in sorted(found)]})


async def delete(request: Request) -> Response:
    """`DELETE /ops/contact-centers/{cc}/recordings/{id}`"""
    with_media = audit_entry(request).with_media = _with_media(request)
    failed = await services(request).deletion.delete(
        resource_of(request),
        scope_of(request),
        path_segment(request, "id"),
        with_media=with_media,
        by=Actor(user_of(request).name, address_of(request)),
        seconds=services(request).settings.delete_seconds,
    )
    return _deleted(failed)


async def delete_media(request: Request) -> Response:
    """`DELETE /internal-api/contact-centers/{cc}/screen-recordings/{id}/content/{uuid}.{ext}`"""
    failed = await services(request).deletion.delete_media(
        resource_of(request),
        scope_of(request),
        path_segment(request, "id"),
        path_segment(request, "name"),
        by=Actor(user_of(request).name, address_of(request)),
        seconds=services(request).settings.delete_seconds,
    )
    return _deleted(failed)


async def versions(request: Request) -> Response:
    """`GET /ops/contact-centers/{cc}/recordings/{id}/versions`: what it said while it was protected, oldest first."""
    recordings = repository(request)
    stored = await recordings.get(scope_of(request), path_segment(request, "id"))
    found = await recordings.versions(stored)
    texts = _version_texts(recordings.version_store.with_content(found), ops_addresses(request))
    if sum(former.bytes for former in found) <= _BYTES_IN_MEMORY:
        return envelope({"versions": [msgspec.Raw(text) async for text in texts]})
    return StreamingResponse(_streamed(texts), headers={"Cache-Control": "no-store"}, media_type="application/json")


async def _version_texts(versions: AsyncIterator[FormerVersion], addresses: MediaAddresses) -> AsyncIterator[bytes]:
    """Yields former versions as clients see them, as JSON."""
    turns = Turns()
    async for former in versions:
        yield await apart(former.bytes, _version_text, former, addresses)
        await turns.worked_on(former.bytes)


def _version_text(former: FormerVersion, addresses: MediaAddresses) -> bytes:
    recording = render(former.content(), addresses)
    return codec.encode({"at": format_instant(former.at), "by": former.by, "recording": recording})


async def _streamed(texts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yields an envelope: a recording may have gigabytes of former versions."""
    before = b'{"statusCode":0,"versions":['
    async for text in texts:
        yield before + text
        before = b","
    yield (b"" if before == b"," else before) + b"]}"


def _with_media(request: Request) -> bool:
    """Returns whether `subresources` is `*`; anything else means no ("Recording Access", "Delete a Call Recording")."""
    parameters = query_parameters(request)
    for name, _ in parameters:
        if name != "subresources":
            raise InvalidParameter(name, "it is not known; known is subresources")
    if len(parameters) > 1:
        raise InvalidParameter("subresources", "it is given more than once")
    return parameters == [("subresources", "*")]


def ops_addresses(request: Request) -> MediaAddresses:
    """Returns how ops reach the media files of the contact center that the path names."""
    prefix = f"/ops/contact-centers/{encode_segment(contact_center_of(request))}"
    return MediaAddresses(api_url(request), prefix, descriptors=True)


def _deleted(failed: Sequence[FailedMedia]) -> Response:
    if not failed:
        return envelope({})
    return envelope({"statusCode": 7, "failed": [_render_failed(media) for media in failed]})


def _render_failed(media: FailedMedia) -> dict[str, Any]:
    return {
        "id": media.media_uuid,
        "mediaDescriptor": media.descriptor,
        "statusCode": 4,
        "statusMessage": media.message,
    }
