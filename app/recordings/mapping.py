"""Where a restore brings recordings: to other contact centers, regions and storages. No I/O here."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import msgspec

from app.ids import id_error
from app.media_urls import AmbiguousUrl, parse_url
from app.recordings.identity import Resource, media_path, media_url, storage_folder
from app.recordings.model import Recording

_S3 = "s3://"


class StorageMapping(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"origin": "from"}):
    """Media below one URL are below another one: a WebDAV folder, or `s3://bucket` with or without a prefix."""

    origin: str
    to: str

    def __post_init__(self) -> None:
        for url in (self.origin, self.to):
            if not url.startswith(_S3):
                try:
                    parse_url(url.rstrip("/"))
                except AmbiguousUrl as error:
                    raise ValueError(
                        f"{url!r} is neither s3://BUCKET nor the URL of a WebDAV folder: {error}"
                    ) from None
            elif not url.removeprefix(_S3).strip("/"):
                raise ValueError(f"{url!r} names no bucket")

    def rest_of(self, descriptor: Mapping[str, Any]) -> list[str] | None:
        """Returns the path of a descriptor's object below `origin`, part by part, None if it is elsewhere."""
        if descriptor["storage"] == "awsS3":
            base = f"{self.origin.rstrip('/')}/"
            url = f"{_S3}{descriptor['data']['bucket']}/{descriptor['path']}"
            return url.removeprefix(base).split("/") if url.startswith(base) else None
        if self.origin.startswith(_S3):
            return None
        try:
            origin, parts = parse_url(media_url(descriptor))
        except AmbiguousUrl:
            return None
        base_origin, base_parts = parse_url(self.origin.rstrip("/"))
        if origin != base_origin or parts[: len(base_parts)] != base_parts or len(parts) == len(base_parts):
            return None
        return parts[len(base_parts) :]

    def applied_to(self, descriptor: dict[str, Any], rest: list[str]) -> dict[str, Any]:
        """Returns the descriptor of the object with this path below `to`."""
        data = descriptor.get("data")
        others = {k: v for k, v in (data or {}).items() if k not in {"bucket", "storagePath"}}
        if self.to.startswith(_S3):
            bucket, _, prefix = self.to.removeprefix(_S3).rstrip("/").partition("/")
            key = "/".join([*([prefix] if prefix else []), *rest])
            return {**descriptor, "storage": "awsS3", "path": key, "data": {**others, "bucket": bucket}}
        to = self.to.rstrip("/")
        folder = storage_folder(descriptor) if descriptor["storage"] == "webDAV" else None
        if folder is not None:  # a name in a folder stays one
            above = rest[: len(rest) - len(descriptor["path"].split("/"))]
            moved = "/".join([to, *(quote(part, safe="") for part in above)])
            return {**descriptor, "data": {**(data or {}), "storagePath": moved}}
        url = "/".join([to, *(quote(part, safe="") for part in rest)])
        if descriptor["storage"] == "webDAV":
            spelled = descriptor["path"]
            if spelled.startswith(f"{self.origin.rstrip('/')}/"):  # as it was spelled
                url = to + spelled[len(self.origin.rstrip("/")) :]
            return {**descriptor, "path": url}
        moved_descriptor = {**descriptor, "storage": "webDAV", "path": url}
        return (
            {**moved_descriptor, "data": others}
            if others
            else {k: v for k, v in moved_descriptor.items() if k != "data"}
        )


class Destination(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file of `recall restore --mapping`. What it does not name stays what it was."""

    contact_centers: dict[str, str] = {}
    regions: dict[str, str] = {}
    storages: tuple[StorageMapping, ...] = ()

    def __post_init__(self) -> None:
        for contact_center in self.contact_centers.values():
            if error := id_error(contact_center):
                raise ValueError(f"the contact center {contact_center!r} is invalid: {error}")
        for region in self.regions.values():
            if not region or region != region.strip():
                raise ValueError("a region is a non-empty string without leading or trailing white space")

    def contact_center(self, contact_center: str) -> str:
        return self.contact_centers.get(contact_center, contact_center)

    def region(self, region: str) -> str:
        return self.regions.get(region, region)

    def descriptor(self, descriptor: dict[str, Any]) -> dict[str, Any]:
        """Returns where a media object is to be; the longest `from` counts."""
        for storage in self._storages():
            if (rest := storage.rest_of(descriptor)) is not None:
                return storage.applied_to(descriptor, rest)
        return descriptor

    def names(self) -> set[str]:
        """Returns what the file has an entry for, in words. One that no recording uses may be misspelt."""
        return {
            *(f"contact center {contact_center}" for contact_center in self.contact_centers),
            *(f"region {region}" for region in self.regions),
            *(f"storage {storage.origin}" for storage in self.storages),
        }

    def names_of(self, contact_center: str, recording: Recording) -> set[str]:
        """Returns those of the `names` that apply to a recording."""
        descriptors = [media["mediaDescriptor"] for media in recording["mediaFiles"]]
        storages = (
            next((storage for storage in self._storages() if storage.rest_of(descriptor) is not None), None)
            for descriptor in descriptors
        )
        return {
            f"contact center {contact_center}",
            f"region {recording['region']}",
            *(f"storage {storage.origin}" for storage in storages if storage is not None),
        }

    def _storages(self) -> list[StorageMapping]:
        return sorted(self.storages, key=lambda storage: -len(storage.origin.rstrip("/")))

    def recording(self, resource: Resource, recording: Recording) -> Recording:
        """Returns a recording in its stored form as it is to be stored."""
        moved = {**recording, "region": self.region(recording["region"])}
        moved["mediaFiles"] = [self._media_file(resource, recording["id"], media) for media in recording["mediaFiles"]]
        return moved

    def _media_file(self, resource: Resource, recording_id: str, media: dict[str, Any]) -> dict[str, Any]:
        descriptor = self.descriptor(media["mediaDescriptor"])
        if descriptor == media["mediaDescriptor"]:
            return media
        moved = {**media, "mediaDescriptor": descriptor}
        # The address of a media file follows from where it is (docs/contract.md section 4).
        return moved | {"mediaPath": media_path(resource, recording_id, moved)}
