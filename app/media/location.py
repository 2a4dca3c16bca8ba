"""Where a media file is: only storage that the configuration names is ever contacted (CONTRACT.md section 6)."""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote_to_bytes, urlsplit

from app.settings import S3Storage, Storages, WebDavStorage

_DEFAULT_PORTS = {"http": 80, "https": 443}
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


class NotConfigured(ValueError):
    """A media descriptor names no storage of the configuration; the text says why."""


@dataclass(frozen=True)
class WebDavLocation:
    """A file below a configured base; `url` is made anew from the base and normalised segments."""

    storage: WebDavStorage
    url: str


@dataclass(frozen=True)
class S3Location:
    """An object in a configured bucket."""

    storage: S3Storage
    bucket: str
    key: str


Location = WebDavLocation | S3Location


def locate(descriptor: Mapping[str, Any], storages: Storages) -> Location:
    """The location of a media descriptor (valid by `app.recordings.model`); raises NotConfigured."""
    if descriptor["storage"] == "awsS3":
        return _locate_s3(descriptor["data"]["bucket"], descriptor["path"], storages)
    return _locate_webdav(descriptor["path"], storages)


def _locate_s3(bucket: str, key: str, storages: Storages) -> S3Location:
    for storage in storages.s3:
        if bucket in storage.buckets:
            return S3Location(storage, bucket, key)
    raise NotConfigured("its bucket is not one of the configured storage")


def _locate_webdav(url: str, storages: Storages) -> WebDavLocation:
    origin, segments = parse_url(url)
    if not segments or not segments[-1]:
        raise NotConfigured("it names a folder, not a file")
    # Of several bases the longest: it may have credentials of its own.
    found: tuple[int, WebDavStorage] | None = None
    for storage in storages.webdav:
        base_origin, base = parse_url(storage.base_url.rstrip("/"))
        if origin == base_origin and len(segments) > len(base) and segments[: len(base)] == base:
            found = max(found or (-1, storage), (len(base), storage), key=lambda match: match[0])
    if found is None:
        raise NotConfigured("it is not below a base URL of the configured storage")
    path = "/".join(quote(segment, safe="") for segment in segments)
    return WebDavLocation(found[1], f"{origin}/{path}")


def parse_url(url: str) -> tuple[str, list[str]]:
    """Origin (`http://host:port`, normalised) and decoded path segments; raises NotConfigured.

    Whatever different programs read differently is refused: user info, dot segments (encoded too), encoded slashes,
    backslashes, control characters, a query, a fragment.
    """
    if any(character.isspace() or not character.isprintable() or character in "\\?#" for character in url):
        raise NotConfigured("it has a query, a fragment, a backslash, white space or a control character")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise NotConfigured("it is not a URL") from None
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or "@" in parts.netloc:
        raise NotConfigured("it must be an http or https URL with a host and without user name or password")
    host = _normal_host(parts.hostname)
    origin = f"{parts.scheme}://{host}:{port if port is not None else _DEFAULT_PORTS[parts.scheme]}"
    return origin, _segments(parts.path)


def _normal_host(host: str) -> str:
    if ":" not in host:
        return host.lower()
    try:
        return f"[{ipaddress.IPv6Address(host)}]"
    except ValueError:
        raise NotConfigured("its host is not an address") from None


def _segments(path: str) -> list[str]:
    if _BAD_PERCENT.search(path):
        raise NotConfigured("it has a % that is not followed by two hexadecimal digits")
    try:
        segments = [unquote_to_bytes(segment).decode() for segment in path.split("/")[1:]]
    except UnicodeDecodeError:
        raise NotConfigured("its path is not UTF-8") from None
    for segment in segments:
        if segment in {".", ".."} or any(c in "/\\" or not c.isprintable() for c in segment):
            raise NotConfigured("its path has a dot segment, an encoded slash, a backslash or a control character")
    if "" in segments[:-1]:
        raise NotConfigured("its path has an empty segment")
    return segments
