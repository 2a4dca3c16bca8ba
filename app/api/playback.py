"""`/recordings/{id}/play/{uuid}.{ext}`, screen recordings too: plays a media file (docs/contract.md section 6)."""

import logging
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response

from app.api.audit import audit_entry
from app.api.requests import owner_of, path_segment, query_parameters, repository, scope_of, services
from app.errors import MediaNotFound, MediaStorageRefused, OtherMediaObject
from app.media.answers import is_html, open_media
from app.media.location import Location, LocationNotAllowed, resolve_location
from app.media.response import MediaResponse, unless_client_leaves
from app.recordings.model import media_file_named
from app.shares import Place

log = logging.getLogger(__name__)

# Of every response of a play, errors too: what is stored may be deleted, and none of it may act as a page of ours.
HEADERS: Mapping[str, str] = {
    "Cache-Control": "private, no-store",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "script-src 'none'; object-src 'none'; base-uri 'none'; form-action 'none'",
}

# What a browser plays and never runs, with parameters (RFC 9110 section 8.3.1).
_TOKEN = r"[!#$%&'*+.^_`|~\w-]+"  # noqa: S105  # of HTTP's grammar
_PLAYABLE = re.compile(
    rf"(?:audio|video)/{_TOKEN}(?:[ \t]*;[ \t]*{_TOKEN}=(?:{_TOKEN}|\"[ !#-\[\]-~]*\"))*", re.IGNORECASE | re.ASCII
)

_EXTENSION = re.compile(r"\.[0-9A-Za-z]{1,10}")
_LISTEN = re.compile(r"[0-9A-Za-z-]{1,64}")
LONGEST_FILE_NAME = 200  # bytes in UTF-8


async def play(request: Request) -> Response:
    """`GET` and `HEAD /recordings/{id}/play/{uuid}.{ext}`"""
    name = path_segment(request, "name")
    parameters = dict(query_parameters(request))
    download = "download" in parameters
    scope = scope_of(request)
    recording = scope.visible((await repository(request).get(scope, path_segment(request, "id"))).recording)
    media = media_file_named(recording, name)
    audit_entry(request).media_id = media.get("mediaId", UNSET)
    audit_entry(request).download = download or UNSET
    # A browser asks for several ranges in one listening.
    if _LISTEN.fullmatch(parameters.get("listen", "")):
        audit_entry(request).listen = parameters["listen"]
    try:
        location = resolve_location(media["mediaDescriptor"], services(request).settings.storage)
    except LocationNotAllowed as error:
        log.warning("media file %s of recording %s is refused: %s", name, recording["id"], error)
        raise MediaStorageRefused from error
    place = await services(request).streams.take(owner_of(request))
    try:
        return await _open(request, media, name, location, place, download=download)
    except BaseException:
        place.release()
        raise


async def _open(
    request: Request, media: Mapping[str, Any], name: str, location: Location, place: Place, *, download: bool
) -> MediaResponse:
    """Returns a response that gives back the place at its end."""
    may_be_html = is_html(media.get("type"), name)
    opening = open_media(
        services(request).storages, request.method, location, request.headers, name, may_be_html=may_be_html
    )
    try:
        stream = await unless_client_leaves(request.receive, opening, lambda late: late.close())
    except OtherMediaObject as error:
        log.warning("media file %s of recording %s is missing: %s", name, path_segment(request, "id"), error.reason)
        raise MediaNotFound(name) from error
    try:
        headers = {**stream.headers, **HEADERS}
        headers.pop("content-type", None)
        if stream.status != 304:
            content_type = _playable(media.get("type") or stream.headers.get("Content-Type"))
            headers["Content-Type"] = content_type or "application/octet-stream"
            if content_type is None:
                headers["Content-Disposition"] = "attachment"
            if download:
                headers["Content-Disposition"] = attachment(_file_name(media, name))
        settings = services(request).settings
        return MediaResponse(
            stream,
            stream.status,
            headers,
            settings.player_stall_seconds,
            scarce_seconds=settings.player_stall_scarce_seconds,
            place=place,
        )
    except BaseException:
        stream.close()
        raise


def _playable(media_type: str | None) -> str | None:
    """The type, if browsers play it."""
    media_type = (media_type or "").strip()
    return media_type if _PLAYABLE.fullmatch(media_type) else None


def _file_name(media: Mapping[str, Any], name: str) -> str:
    """The mediaId as a file name, with the extension of `name` if it has none; without a mediaId it is `name`."""
    media_id = media.get("mediaId")
    if not media_id:
        return name
    # A character that is cut through is left out.
    shortened = media_id.encode(errors="replace")[:LONGEST_FILE_NAME].decode(errors="ignore")
    return str(shortened) if _suffix(shortened) else f"{shortened}{_suffix(name)}"


def _suffix(name: str) -> str:
    suffix = PurePosixPath(name).suffix
    return suffix if _EXTENSION.fullmatch(suffix) else ""


def attachment(file_name: str) -> str:
    """RFC 6266; old clients read the first name, in which what is special to them is replaced."""
    plain = "".join(c if c.isascii() and c.isprintable() and c not in '"\\/%' else "_" for c in file_name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(file_name, safe='')}"
