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
    body_size,
    contact_center_of,
    json_body,
    path_segment,
    query_parameters,
    repository,
    resource_of,
    scope_of,
    services,
    user_of,
)
from app.api.responses import envelope
from app.audit import Entry
from app.background import Turns, apart
from app.errors import InvalidParameter
from app.lifecycle.deletion import Actor, FailedMedia
from app.media.location import LocationNotAllowed, check_key, resolve_location
from app.recordings.changes import changed_paths, content_digest
from app.recordings.dates import format_instant
from app.recordings.identity import encode_segment
from app.recordings.model import Recording, parse_recording
from app.recordings.render import MediaAddresses, render
from app.settings import StorageConfig
from app.store.versions import FormerVersion

# An answer with more former versions is sent while it is made.
_BYTES_IN_MEMORY = 4 * 1024 * 1024


async def search(request: Request) -> Response:
    """`GET /ops/contact-centers/{cc}/recordings?…`"""
    return await search_page(request, _ops_addresses(request))


async def read(request: Request) -> Response:
    """`GET /ops/contact-centers/{cc}/recordings/{id}`"""
    return await read_one(request, NAMES[resource_of(request)].one, _ops_addresses(request))


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
    )
    return _deleted(failed)


async def post(request: Request) -> Response:
    """`POST /ops/contact-centers/{cc}/recordings`: creates or updates a recording."""
    body = await json_body(request)
    if isinstance(body, dict) and "id" not in body and body.get("operationName") == "createCRCF":
        return envelope({})  # it prepared the tables of a contact center
    posted = await apart(body_size(request), parse_recording, body, resource_of(request))
    return await _post(request, posted, created_status=201)


async def post_internal(request: Request) -> Response:
    """`POST /internal-api/contact-centers/{cc}/recordings`: recorders that exist take only 200 for success."""
    body = await json_body(request)
    posted = await apart(body_size(request), parse_recording, body, resource_of(request), needs_events=False)
    return await _post(request, posted, created_status=200)


async def _post(request: Request, posted: Recording, *, created_status: int) -> Response:
    contact_center = contact_center_of(request)
    wait_for_refresh = _wait_for_refresh(request)
    resource = resource_of(request)
    await apart(body_size(request), _check_storages, posted, services(request).settings.storage)
    entry = audit_entry(request)
    entry.recording_id = posted["id"]
    before, after = await repository(request).save(
        contact_center, posted, by=user_of(request).name, wait_for_refresh=wait_for_refresh
    )
    await apart(body_size(request), _tell_change, entry, before, after)
    path = f"/ops/contact-centers/{encode_segment(contact_center)}/{resource}/{encode_segment(posted['id'])}"
    status = created_status if before is None else 200
    return envelope({"id": posted["id"], "uri": api_url(request) + path}, status=status)


def _tell_change(entry: Entry, before: Recording | None, after: Recording) -> None:
    """Completes the audit line of a POST."""
    entry.digest_after = content_digest(after)
    if before is None:
        entry.operation = "create"
    else:
        entry.operation = "update"
        entry.digest_before, entry.changed = content_digest(before), changed_paths(before, after)


async def versions(request: Request) -> Response:
    """`GET /ops/contact-centers/{cc}/recordings/{id}/versions`: what it said while it was protected, oldest first."""
    recordings = repository(request)
    stored = await recordings.get(scope_of(request), path_segment(request, "id"))
    found = await recordings.versions(stored)
    texts = _version_texts(recordings.version_store.with_content(found), _ops_addresses(request))
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


def _check_storages(posted: Recording, configured: StorageConfig) -> None:
    """Refuses media outside the configured storage (docs/contract.md section 6)."""
    for i, media in enumerate(posted["mediaFiles"]):
        descriptor = media["mediaDescriptor"]
        try:
            location = resolve_location(descriptor, configured)
        except LocationNotAllowed as error:
            attribute = "data.bucket" if descriptor["storage"] == "awsS3" else "path"
            raise InvalidParameter(f"mediaFiles[{i}].mediaDescriptor.{attribute}", str(error)) from None
        try:
            check_key(location)
        except LocationNotAllowed as error:
            raise InvalidParameter(f"mediaFiles[{i}].mediaDescriptor.path", str(error)) from None


def _with_media(request: Request) -> bool:
    """Returns whether `subresources` is `*`; anything else means no ("Recording Access", "Delete a Call Recording")."""
    parameters = query_parameters(request)
    for name, _ in parameters:
        if name != "subresources":
            raise InvalidParameter(name, "it is not known; known is subresources")
    if len(parameters) > 1:
        raise InvalidParameter("subresources", "it is given more than once")
    return parameters == [("subresources", "*")]


def _ops_addresses(request: Request) -> MediaAddresses:
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


def _wait_for_refresh(request: Request) -> bool:
    parameters = query_parameters(request)
    for name, value in parameters:
        if name != "refresh":
            raise InvalidParameter(name, "it is not known; known is refresh")
        if value != "wait_for":
            raise InvalidParameter(name, "it must be wait_for")
    return bool(parameters)
