"""When two media files, or two events, are the same, and the address a media file gets (CONTRACT.md section 4)."""

import re
from collections.abc import Hashable, Mapping
from typing import Any, Literal
from urllib.parse import quote, unquote, urlsplit
from uuid import UUID, uuid5

import msgspec

from app.media_urls import AmbiguousUrl, parse_url

Resource = Literal["recordings", "screen-recordings"]

# Part of every media address that was ever handed out: it must never change.
_NAMESPACE = UUID("5f0c7a52-6a0e-5b0d-9a3e-3c1f5f6a7d21")
_EXTENSION = re.compile(r"\.([A-Za-z0-9]{1,10})$")
_UNKNOWN_EXTENSION = "bin"
# The module mimetypes reads the machine's own tables, and an address must be the same everywhere.
_SUBTYPE = re.compile(r"[a-z]+/(?:x-)?([a-z0-9]{1,10})")


def media_identity(descriptor: Mapping[str, Any]) -> tuple[str, ...]:
    """What makes two media descriptors the same: awsS3 bucket and path, webDAV path."""
    if descriptor["storage"] == "awsS3":
        return ("awsS3", descriptor["data"]["bucket"], descriptor["path"])
    return (descriptor["storage"], descriptor["path"])


def media_object(descriptor: Mapping[str, Any]) -> tuple[str, ...]:
    """The object in a storage that a descriptor names, the same for every spelling of its URL.

    More than `media_identity` it tells who else needs an object that is to be deleted.
    """
    if descriptor["storage"] == "webDAV":
        try:
            origin, segments = parse_url(descriptor["path"])
        except AmbiguousUrl:  # never contacted
            return media_identity(descriptor)
        return ("webDAV", origin, *segments)
    return media_identity(descriptor)


def event_identity(event: Mapping[str, Any]) -> Hashable:
    """What makes two events the same: the instant, which stored dates spell in one way, `event` and `phoneNumber`."""
    return (event["occurredAt"], event["event"], event["contact"]["phoneNumber"])


def media_uuid(recording_id: str, descriptor: Mapping[str, Any]) -> UUID:
    """The uuid of a media file: derived, so that it never changes."""
    name = msgspec.json.encode([recording_id, *media_identity(descriptor)])
    return uuid5(_NAMESPACE, name.decode())


def media_path(resource: Resource, recording_id: str, media_file: Mapping[str, Any]) -> str:
    """`/recordings/{id}/play/{uuid}.{ext}`, percent-encoded."""
    descriptor = media_file["mediaDescriptor"]
    name = f"{media_uuid(recording_id, descriptor)}.{_extension(descriptor, media_file.get('type'))}"
    return f"/{resource}/{encode_segment(recording_id)}/play/{name}"


def encode_segment(text: str) -> str:
    """One segment of a URL path; also for `.` and `..`, which clients would otherwise resolve."""
    return quote(text, safe="") if text not in {".", ".."} else text.replace(".", "%2E")


def _extension(descriptor: Mapping[str, Any], media_type: str | None) -> str:
    path = descriptor["path"]
    if descriptor["storage"] == "webDAV":
        path = unquote(urlsplit(path).path)
    if match := _EXTENSION.search(path.rpartition("/")[2]):
        return match[1]
    media_type = (media_type or "").partition(";")[0].strip().lower()
    if media_type == "audio/mpeg":
        return "mp3"
    subtype = _SUBTYPE.fullmatch(media_type)
    return subtype[1] if subtype else _UNKNOWN_EXTENSION
