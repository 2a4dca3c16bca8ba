"""Evidence packages: a recording with all that belongs to it, as one zip (docs/contract.md section 10).

A package is made while it is sent: `app.recordings.package` makes the zip, and this module reads what goes in.
docs/decisions/0035-evidence-package.md.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from app import codec
from app.auth.scope import Scope
from app.background import apart
from app.errors import (
    MediaNotFound,
    MediaStorageBusy,
    MediaStorageFailed,
    MediaStorageTimeout,
    OtherMediaObject,
    RecallError,
)
from app.media.answers import is_html, open_media
from app.media.location import Location, LocationNotAllowed, resolve_location
from app.media.storages import MediaStorages
from app.media.stream import MediaStream
from app.recordings.dates import format_instant
from app.recordings.identity import Resource, media_name
from app.recordings.model import Recording
from app.recordings.package import PackageWriter
from app.recordings.package_manifest import Manifest, MissingFile
from app.retry import Backoff
from app.search.fields import call_uuids
from app.settings import StorageConfig
from app.store.audit_index import AuditIndex
from app.store.journal import now_milliseconds
from app.store.repository import RecordingRepository

log = logging.getLogger(__name__)

# Returns the JSON of a recording as the caller reads it.
Read = Callable[[Resource, str], Awaitable[bytes]]

# How many media files are asked for concurrently, before the first byte.
_CONCURRENT = 4
# A package waits this long for a storage with too many streams, because another attempt begins with the first byte.
_PATIENCE_SECONDS = 60.0

_NOT_THERE = "Its storage does not have it."
_ELSEWHERE = "It is not in a configured media storage."


@dataclass(frozen=True)
class _Media:
    """A media file that its storage has. `name` is the last segment of its path."""

    name: str
    location: Location
    may_be_html: bool


@dataclass
class _Part:
    """A recording or screen recording, and the folder of its files in the package (empty, or with a slash at its end).

    `names` are those of all its media files, in their order.
    """

    resource: Resource
    recording_id: str
    folder: str
    names: list[str]
    media: list[_Media] = field(default_factory=list)


@dataclass
class Plan:
    """What goes into a package, and the manifest as far as it is known before."""

    manifest: Manifest
    parts: list[_Part] = field(default_factory=list)
    with_audit_lines: bool = True


class Packages:
    """Makes evidence packages. `audit_index` is None for a service that does not index the audit log."""

    def __init__(
        self,
        repositories: Mapping[Resource, RecordingRepository],
        storages: MediaStorages,
        configured: StorageConfig,
        audit_index: AuditIndex | None,
    ) -> None:
        self._repositories = repositories
        self._storages = storages
        self._configured = configured
        self._audit_index = audit_index

    async def plan(self, scope: Scope, recording_id: str, *, by: str) -> Plan:
        """Finds what goes into the package of a recording, for a user who sees what the scope does.

        Raises RecordingNotFound, ElasticsearchUnavailable, and an error of `Storage.open` if a storage does not tell
        whether it has a media file.
        """
        stored = await self._repositories["recordings"].get(scope, recording_id)
        recording = scope.visible(stored.recording)
        manifest = Manifest(
            contact_center=stored.contact_center,
            region=scope.region,
            recording_id=recording_id,
            created_at=format_instant(now_milliseconds()),
            created_by=by,
        )
        plan = Plan(manifest)
        await self._add(plan, "recordings", recording, "")
        calls = call_uuids(recording)
        async for screen in self._repositories["screen-recordings"].within_calls(scope, calls):
            folder = f"screen-recordings/{len(plan.parts)}/"
            await self._add(plan, "screen-recordings", scope.visible(screen.recording), folder)
        if scope.limits is not None:
            manifest.left_out.append("What the user who made the package may not see.")
        if scope.limits is not None or self._audit_index is None:
            plan.with_audit_lines = False
            manifest.left_out.append(
                "The audit lines: only users who see everything may see them."
                if self._audit_index is not None
                else "The audit lines: the service does not index the audit log."
            )
        return plan

    async def _add(self, plan: Plan, resource: Resource, recording: Recording, folder: str) -> None:
        files = recording["mediaFiles"]
        part = _Part(resource, recording["id"], folder, [media_name(media) for media in files])
        plan.parts.append(part)
        for start in range(0, len(files), _CONCURRENT):
            some = files[start : start + _CONCURRENT]
            for media, found in zip(some, await asyncio.gather(*map(self._find, some)), strict=True):
                if isinstance(found, _Media):
                    part.media.append(found)
                else:
                    plan.manifest.missing.append(MissingFile(_media_path(part, media_name(media)), found))

    async def _find(self, media: Mapping[str, Any]) -> _Media | str:
        """Returns a media file, or why there is none."""
        name = media_name(media)
        try:
            location = resolve_location(media["mediaDescriptor"], self._configured)
        except LocationNotAllowed:
            return _ELSEWHERE
        found = _Media(name, location, may_be_html=is_html(media.get("type"), name))
        try:
            (await self._open("HEAD", found)).close()
        except (MediaNotFound, OtherMediaObject):
            return _NOT_THERE
        return found

    def stream(self, plan: Plan, read: Read, finished: Callable[[str], object]) -> "PackageStream":
        """Returns the package; `finished` gets the SHA-256 of the manifest before the last bytes are read."""
        return PackageStream(self, plan, read, finished)

    async def open(self, media: _Media) -> MediaStream:
        """Opens a media file; waits for a storage that has too many streams."""
        backoff = Backoff(_PATIENCE_SECONDS, initial=0.5, maximum=5.0)
        while True:
            try:
                return await self._open("GET", media)
            except MediaStorageBusy:
                if not await backoff.wait():
                    raise

    async def _open(self, method: str, media: _Media) -> MediaStream:
        return await open_media(self._storages, method, media.location, {}, media.name, may_be_html=media.may_be_html)

    async def audit_lines(self, manifest: Manifest) -> AsyncIterator[bytes]:
        """Yields the lines of the audit log about the recording, some at a time, each with its end."""
        assert self._audit_index is not None
        about = self._audit_index.about(manifest.contact_center, "recordings", manifest.recording_id)
        async for lines in about:
            yield b"".join(line + b"\n" for line in lines)


class PackageStream:
    """A package as a `MediaStream`, whose end alone makes it whole. It has one media file open at a time."""

    status = 200
    length = None

    def __init__(self, packages: Packages, plan: Plan, read: Read, finished: Callable[[str], object]) -> None:
        self.headers: Mapping[str, str] = {}
        self._packages = packages
        self._plan = plan
        self._read = read
        self._finished = finished
        self._writer = PackageWriter()
        self._pieces = self._made()
        self._upstream: MediaStream | None = None
        self._step: asyncio.Future[bytes] | None = None
        self._is_closed = False

    async def read(self) -> bytes:
        """As `MediaStream.read`. MediaStorageFailed stands for everything that keeps a package from becoming whole."""
        if self._is_closed:
            raise MediaStorageFailed("the package was given up")
        self._step = asyncio.ensure_future(anext(self._pieces, b""))
        try:
            return await self._step
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise MediaStorageFailed("the package was given up") from None  # by `close`
        except (MediaStorageFailed, MediaStorageTimeout):
            raise
        except RecallError as error:
            raise MediaStorageFailed(error.message) from error

    def close(self) -> None:
        """As `MediaStream.close`."""
        self._is_closed = True
        if self._step is not None:
            self._step.cancel()
        if self._upstream is not None:
            self._upstream.close()
        self._writer.abort()

    async def _made(self) -> AsyncIterator[bytes]:
        plan, writer = self._plan, self._writer
        for part in plan.parts:
            text = await self._read(part.resource, part.recording_id)
            # What was found before is what the package has. Of anything else it would have only a part.
            found = await apart(len(text), codec.decode, text)
            if [media_name(media) for media in found["mediaFiles"]] != part.names:
                raise MediaStorageFailed(f"{part.resource} {part.recording_id} has changed since the package began")
            yield writer.file(f"{part.folder}recording.json", text + b"\n")
            if part.resource == "recordings" and plan.with_audit_lines:
                yield writer.begin("audit.ndjson", None)
                async for lines in self._packages.audit_lines(plan.manifest):
                    if lines:
                        yield writer.write(lines)
                yield writer.end()
            for media in part.media:
                async for piece in self._media(media, _media_path(part, media.name)):
                    yield piece
        manifest = plan.manifest
        manifest.files = writer.files
        encoded = manifest.encoded()
        self._finished(sha256(encoded).hexdigest())
        yield writer.finish(encoded)

    async def _media(self, media: _Media, path: str) -> AsyncIterator[bytes]:
        self._upstream = stream = await self._packages.open(media)
        try:
            yield self._writer.begin(path, stream.length, stream.headers.get("Content-Encoding"))
            while chunk := await stream.read():
                yield self._writer.write(chunk)
            yield self._writer.end()
        finally:
            stream.close()


def _media_path(part: _Part, name: str) -> str:
    return f"{part.folder}media/{name}"
