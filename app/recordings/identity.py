"""The identity of media files and events, and the addresses of media files (docs/contract.md section 4)."""

import re
from base64 import urlsafe_b64encode
from collections.abc import Hashable, Iterable, Mapping
from hashlib import sha256
from typing import Any, Literal
from unicodedata import normalize
from urllib.parse import quote, unquote, urlsplit
from uuid import UUID, uuid5

import msgspec

from app.media_urls import AmbiguousUrl, parse_url

Resource = Literal["recordings", "screen-recordings"]

# Part of every media address that a client has ever received: it must never change.
_NAMESPACE = UUID("5f0c7a52-6a0e-5b0d-9a3e-3c1f5f6a7d21")
_EXTENSION = re.compile(r"\.([A-Za-z0-9]{1,10})$")
_UNKNOWN_EXTENSION = "bin"
# The module mimetypes reads the machine's own tables, but an address must be the same on every machine.
_SUBTYPE = re.compile(r"[a-z]+/(?:x-)?([a-z0-9]{1,10})")


def media_url(descriptor: Mapping[str, Any]) -> str:
    """Returns the URL of a webDAV descriptor: its `path`, or `path` in the folder `data.storagePath`."""
    path: str = descriptor["path"]
    folder = storage_folder(descriptor)
    return path if folder is None else f"{folder.rstrip('/')}/{quote(path, errors='surrogatepass')}"


def storage_folder(descriptor: Mapping[str, Any]) -> str | None:
    """Returns `data.storagePath` of a descriptor whose `path` is no URL, else None (docs/contract.md section 3)."""
    data = descriptor.get("data")
    folder = data.get("storagePath") if isinstance(data, dict) else None
    return folder if isinstance(folder, str) and not is_http_url(descriptor["path"]) else None


def is_http_url(text: str) -> bool:
    """Returns whether a text is an absolute http or https URL with a host."""
    if " " in text or not text.isprintable():  # other white space is not printable
        return False
    try:
        url = urlsplit(text)
        return url.scheme in {"http", "https"} and bool(url.hostname) and url.port != 0
    except ValueError:  # a malformed port or IPv6 address
        return False


def media_identity(descriptor: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns what two descriptors of the same media file share: awsS3 bucket and path, or the webDAV URL."""
    if descriptor["storage"] == "awsS3":
        return ("awsS3", descriptor["data"]["bucket"], descriptor["path"])
    return (descriptor["storage"], media_url(descriptor))


def media_object_key(descriptor: Mapping[str, Any]) -> str:
    """Returns a digest of the object that a descriptor names, the same for every spelling of its URL."""
    return digest(*_media_object(descriptor))


def media_object_keys(descriptor: Mapping[str, Any]) -> tuple[str, str]:
    """Returns the two digests that `mediaIdentities` holds for a descriptor: the exact one, and a folded one.

    All spellings that some storage takes for the same object have the same folded digest. Neither depends on the
    configuration: `app.media.identity` decides which digests a deletion asks for.
    """
    exact = _media_object(descriptor)
    return digest(*exact), digest("folded", *_fold(exact))


def _media_object(descriptor: Mapping[str, Any]) -> tuple[str, ...]:
    if descriptor["storage"] == "webDAV":
        try:
            origin, segments = parse_url(media_url(descriptor))
        except AmbiguousUrl:  # such a URL is never requested
            return media_identity(descriptor)
        return ("webDAV", origin, *segments)
    return media_identity(descriptor)


def _fold(media_object: tuple[str, ...]) -> tuple[str, ...]:
    storage, container, *path = media_object
    if storage == "awsS3":
        return (storage, container, *resolve_segments("/".join(path).split("/")))
    return (storage, container, *map(fold_name, path))


def resolve_segments(segments: Iterable[str]) -> list[str]:
    """Returns the segments of a path without empty and dot segments, as a file system understands them."""
    resolved: list[str] = []
    for segment in segments:
        if segment == "..":
            del resolved[-1:]
        elif segment not in {"", "."}:
            resolved.append(segment)
    return resolved


def fold_name(name: str) -> str:
    """Returns a file name in a form that all its spellings share where the storage ignores case.

    Such storages compare compatible characters alike too, and Windows ignores dots and spaces at the end.
    """
    return normalize("NFKC", normalize("NFKC", name).casefold()).rstrip(". ") or name


def digest(*texts: str) -> str:
    """Returns a short text that is different for different arguments."""
    return urlsafe_b64encode(sha256(msgspec.json.encode(texts)).digest()).decode().rstrip("=")


def event_identity(event: Mapping[str, Any]) -> Hashable:
    """Returns what two equal events share: `occurredAt` (stored dates have one spelling), `event`, `phoneNumber`."""
    return (event["occurredAt"], event["event"], event["contact"]["phoneNumber"])


def media_uuid(recording_id: str, descriptor: Mapping[str, Any]) -> UUID:
    """Returns the uuid of a media file, which is derived and so never changes."""
    name = msgspec.json.encode([recording_id, *media_identity(descriptor)])
    return uuid5(_NAMESPACE, name.decode())


def media_path(resource: Resource, recording_id: str, media_file: Mapping[str, Any]) -> str:
    """Returns `/recordings/{id}/play/{uuid}.{ext}`, percent-encoded."""
    descriptor = media_file["mediaDescriptor"]
    name = f"{media_uuid(recording_id, descriptor)}.{_extension(descriptor, media_file.get('type'))}"
    return f"/{resource}/{encode_segment(recording_id)}/play/{name}"


def media_name(media_file: Mapping[str, Any]) -> str:
    """Returns `{uuid}.{ext}`, the end of a stored media file's `mediaPath`."""
    path: str = media_file["mediaPath"]
    return path.rpartition("/")[2]


def encode_segment(text: str) -> str:
    """Returns one segment of a URL path; encodes `.` and `..` too, which clients would otherwise resolve."""
    return quote(text, safe="") if text not in {".", ".."} else text.replace(".", "%2E")


def _extension(descriptor: Mapping[str, Any], media_type: str | None) -> str:
    path = descriptor["path"]
    if descriptor["storage"] == "webDAV":
        path = unquote(urlsplit(media_url(descriptor)).path)
    if match := _EXTENSION.search(path.rpartition("/")[2]):
        return match[1]
    media_type = (media_type or "").partition(";")[0].strip().lower()
    if media_type == "audio/mpeg":
        return "mp3"
    subtype = _SUBTYPE.fullmatch(media_type)
    return subtype[1] if subtype else _UNKNOWN_EXTENSION
