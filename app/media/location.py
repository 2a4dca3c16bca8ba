"""Where a media file is: only storage that the configuration names is ever contacted (docs/contract.md section 6)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from app.media_urls import AmbiguousUrl, parse_url
from app.recordings.identity import media_url, resolve_segments
from app.settings import S3Config, StorageConfig, WebDavConfig


class LocationNotAllowed(ValueError):
    """A media descriptor names no storage of the configuration; the text says why."""


@dataclass(frozen=True)
class WebDavLocation:
    """A file below a configured base; `url` is made anew from the base and normalised segments."""

    storage: WebDavConfig
    url: str

    @property
    def name(self) -> str:
        """What the log calls the storage."""
        return self.storage.base_url


@dataclass(frozen=True)
class S3Location:
    """An object in a configured bucket."""

    storage: S3Config
    bucket: str
    key: str

    @property
    def name(self) -> str:
        """What the log calls the storage."""
        return f"bucket {self.bucket}"


Location = WebDavLocation | S3Location


def resolve_location(descriptor: Mapping[str, Any], storages: StorageConfig) -> Location:
    """The location of a media descriptor (valid by `app.recordings.model`); raises LocationNotAllowed."""
    if descriptor["storage"] == "awsS3":
        return _locate_s3(descriptor["data"]["bucket"], descriptor["path"], storages)
    return _locate_webdav(media_url(descriptor), storages)


def check_key(location: Location) -> None:
    """Raises LocationNotAllowed for an S3 key that some storages take for another spelling of a key.

    Recordings from before this rule keep such keys, and play.
    """
    if isinstance(location, S3Location) and not location.storage.exact_keys:
        segments = location.key.split("/")
        if resolve_segments(segments) != segments:
            raise LocationNotAllowed("it has a leading or trailing slash, an empty segment or a dot segment")


def _locate_s3(bucket: str, key: str, storages: StorageConfig) -> S3Location:
    for storage in storages.s3:
        if bucket in storage.buckets:
            return S3Location(storage, bucket, key)
    raise LocationNotAllowed("its bucket is not one of the configured storage")


def _locate_webdav(url: str, storages: StorageConfig) -> WebDavLocation:
    try:
        origin, segments = parse_url(url)
    except AmbiguousUrl as error:
        raise LocationNotAllowed(str(error)) from None
    if not segments or not segments[-1]:
        raise LocationNotAllowed("it names a folder, not a file")
    # Of several bases the longest: it may have credentials of its own.
    found: tuple[int, WebDavConfig] | None = None
    for storage in storages.webdav:
        base_origin, base = parse_base(storage.base_url)
        if origin == base_origin and len(segments) > len(base) and segments[: len(base)] == base:
            found = max(found or (-1, storage), (len(base), storage), key=lambda match: match[0])
    if found is None:
        raise LocationNotAllowed("it is not below a base URL of the configured storage")
    path = "/".join(quote(segment, safe="") for segment in segments)
    return WebDavLocation(found[1], f"{origin}/{path}")


@lru_cache
def parse_base(url: str) -> tuple[str, list[str]]:
    """Returns the origin and the path segments of a base URL or alias of the configuration."""
    return parse_url(url.rstrip("/"))
