"""`/recordings/{id}/play/{uuid}.{ext}`, screen recordings too: plays a media file (docs/contract.md section 6)."""

import logging
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response

from app.api.audit import audit_entry
from app.api.requests import path_segment, query_parameters, repository, scope_of, services
from app.errors import MediaNotFound, MediaStorageRefused
from app.media.answers import open_media
from app.media.conditions import not_modified
from app.media.location import LocationNotAllowed, resolve_location
from app.media.response import MediaResponse, unless_client_leaves
from app.media.stream import MediaStream

log = logging.getLogger(__name__)

# What a storage says of a file, and a player wants to know.
_OF_THE_FILE = ("ETag", "Last-Modified", "Accept-Ranges")
_OF_THE_BYTES = ("Content-Length", "Content-Range")


async def play(request: Request) -> Response:
    """`GET` and `HEAD /recordings/{id}/play/{uuid}.{ext}`"""
    name = path_segment(request, "name")
    download = any(parameter == "download" for parameter, _ in query_parameters(request))
    recording = (await repository(request).get(scope_of(request), path_segment(request, "id"))).recording
    media = _media_file(recording, name)
    audit_entry(request).media_id = media.get("mediaId", UNSET)
    try:
        location = resolve_location(media["mediaDescriptor"], services(request).settings.storage)
    except LocationNotAllowed as error:
        log.warning("media file %s of recording %s is refused: %s", name, recording["id"], error)
        raise MediaStorageRefused from error
    opening = open_media(services(request).storages, request.method, location, request.headers, name)
    stream = await unless_client_leaves(request.receive, opening)
    try:
        unchanged = not_modified(request.headers, stream.headers)
        wanted = _OF_THE_FILE if unchanged else _OF_THE_FILE + _OF_THE_BYTES
        headers = {header: stream.headers[header] for header in wanted if header in stream.headers}
        headers["X-Content-Type-Options"] = "nosniff"
        if not unchanged:
            headers["Content-Type"] = _content_type(media, stream)
        if download:
            headers["Content-Disposition"] = _attachment(media.get("mediaId") or name)
        status = 304 if unchanged else stream.status
        return MediaResponse(stream, status, headers, services(request).settings.player_stall_seconds)
    except BaseException:  # a storage's header that cannot be passed on, for one
        stream.close()
        raise


def _media_file(recording: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    for media in recording["mediaFiles"]:
        if media["mediaPath"].endswith(f"/{name}"):
            found: Mapping[str, Any] = media
            return found
    raise MediaNotFound(name)


def _content_type(media: Mapping[str, Any], stream: MediaStream) -> str:
    """The media file's `type`, if it can stand in a header, else the storage's."""
    media_type = media.get("type")
    if media_type and media_type.isascii() and media_type.isprintable():
        return str(media_type)
    return stream.headers.get("Content-Type", "application/octet-stream")


def _attachment(file_name: str) -> str:
    """RFC 6266; old clients read the first name, in which what is special to them is replaced."""
    plain = "".join(c if c.isascii() and c.isprintable() and c not in '"\\/%' else "_" for c in file_name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(file_name, safe='')}"
