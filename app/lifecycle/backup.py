"""Copies recordings that match criteria, with their media, to an archive: `recall backup`.

See docs/decisions/0036-backup.md. The archive's format is in `app.recordings.backup`.
"""

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from typing import Any

import msgspec

from app.audit import AuditLog, Entry
from app.audit import Outcome as AuditOutcome
from app.auth.scope import Scope
from app.background import for_each
from app.errors import MediaNotFound, MediaStorageFailed, MediaStorageTimeout, OtherMediaObject, RecallError
from app.lifecycle.archiving import Archiving, TooLong, VersionsMissing
from app.lifecycle.labels import Labelling
from app.lifecycle.patience import Patience
from app.media.answers import is_html, open_media
from app.media.archives import LONGEST_FILE, Archive, ArchiveFailed, FileMissing
from app.media.location import LocationNotAllowed, resolve_location
from app.media.storages import MediaStorages
from app.media.stream import MediaStream, header_of
from app.media.zipped import ZippedArchive
from app.recordings.backup import (
    CONTENTS,
    MANIFEST,
    RECORDING,
    FileEntry,
    Malformed,
    Manifest,
    NameList,
    day_of,
    encode,
    folder_name,
    parse_manifest,
    parse_names,
)
from app.recordings.identity import Resource, media_name
from app.search.criteria import Criteria
from app.settings import StorageConfig
from app.store.repository import MatchCounts, RecordingRepository, StoredRecording

# How many recordings are copied concurrently: most of the time each of them waits for a storage, or for the disk.
PARALLEL = 16

# How many recordings one search reads.
_BATCH = 200

# So many recordings get recording.json and their manifests together, or as many as there are after so many seconds or
# bytes. The media of those that have none yet when a run is killed are copied again.
_FINISHED = 64
_FINISHED_SECONDS = 2.0
_FINISHED_BYTES = 16 * 1024 * 1024

# How many names the lists of days in memory have together. A list per contact center and tenant is in use at a time.
_NAMES = 200_000

# How many failures a report has one by one.
MAX_FAILURES = 1_000

_BY = "backup"


@dataclass(frozen=True)
class Task:
    """The recordings to copy, and how to copy them.

    `parallel` is the number of recordings that are copied concurrently. `patience` is how many seconds to keep trying
    while Elasticsearch does not answer. With `zips` each day that is over becomes a zip.
    """

    resource: Resource
    scope: Scope
    criteria: Criteria
    parallel: int = PARALLEL
    patience: float = 120.0
    zips: bool = False


class Failure(msgspec.Struct, frozen=True, rename="camel"):
    """A recording or a file that was not copied, or a day that did not become a zip.

    `file` is empty for the whole recording. Without a contact center the id is a path in the backup.
    """

    contact_center: str
    recording_id: str
    file: str
    reason: str


class Counts(msgspec.Struct, rename="camel"):
    """How many recordings had each outcome; the others count media files, and bytes of them.

    A recording of which some media could not be copied is `incomplete`. Of one that `failed` nothing new is there.
    """

    copied: int = 0
    unchanged: int = 0
    incomplete: int = 0
    failed: int = 0
    media_copied: int = 0
    media_unchanged: int = 0
    media_failed: int = 0
    bytes: int = 0

    @property
    def is_complete(self) -> bool:
        """Whether the archive has all that the run was to copy."""
        return not (self.incomplete or self.failed or self.media_failed)


@dataclass(frozen=True)
class _Finished:
    """A recording whose media are there. `content` is its recording.json, and `manifest`, None for what it has already.

    It has another manifest until now if it `has_manifest`.
    """

    stored: StoredRecording
    day: str
    name: str
    content: bytes | None
    manifest: Manifest | None
    has_manifest: bool
    is_incomplete: bool


class Backup:
    """One walk from the oldest matching recording to the newest, until `stop`.

    `counts` and `failures` are kept up to date. The archive may be of a former run, also one that was killed: what it
    has already is not copied again.
    """

    def __init__(
        self,
        repositories: Mapping[Resource, RecordingRepository],
        labelling: Labelling,
        storages: MediaStorages,
        configured: StorageConfig,
        *,
        archive: ZippedArchive,
        audit: AuditLog,
        task: Task,
    ) -> None:
        self._repository = repositories[task.resource]
        self._archiving = Archiving(repositories, labelling)
        self._storages = storages
        self._configured = configured
        self._archive = archive
        self._audit = audit
        self._task = task
        self._days = _Days(archive)
        self._finished: dict[str, _Finished] = {}
        self._finished_at = time.monotonic()
        self._finished_bytes = 0
        self._finishing = asyncio.Lock()
        self._advance: Callable[[int], object] = lambda _: None
        self._patience = Patience(task.patience)
        self.counts = Counts()
        self.failures: list[Failure] = []

    def stop(self) -> None:
        """Ends the walk after the recordings in flight."""
        self._patience.stop()

    @property
    def is_stopped(self) -> bool:
        return self._patience.is_stopped

    async def count(self) -> MatchCounts:
        """Counts what matches now. Raises ElasticsearchUnavailable or InternalError, as `run` does."""
        return await self._patience.call(partial(self._repository.count, self._task.scope, self._task.criteria))

    async def run(self, advance: Callable[[int], object] = lambda _: None) -> Counts:
        """Copies; `advance` gets the number of recordings that are done.

        Raises ElasticsearchUnavailable when Elasticsearch does not answer for longer than the task's patience,
        InternalError, and ArchiveFailed when the archive cannot be written.
        """
        self._advance = advance
        try:
            await for_each(self._matching(), self._back_up, self._task.parallel)
        finally:
            await self._finish()
            await self._days.close()
        if self._task.zips:
            await self._zip()
        return self.counts

    async def _zip(self) -> None:
        """Makes zips of the days that the run has met and that are over."""
        today = datetime.now(UTC).date().isoformat()
        for day in sorted(self._days.met):
            if self.is_stopped:
                return
            if day.rpartition("/")[2] >= today:
                continue
            try:
                await self._archive.zip_day(day)
            except ArchiveFailed as error:
                self.counts.failed += 1
                self._tell(Failure("", day, "", f"the day stays a folder: {error}"))

    async def _matching(self) -> AsyncGenerator[StoredRecording, None]:
        after: StoredRecording | None = None
        task = self._task
        while batch := await self._patience.call(
            partial(self._repository.scan, task.scope, task.criteria, size=_BATCH, after=after)
        ):
            for stored in batch:
                if self.is_stopped:
                    return
                yield stored
            after = batch[-1]

    # --- One recording ---

    async def _back_up(self, stored: StoredRecording) -> None:
        """Copies what the archive does not have. The manifest goes first and comes last: without it nothing counts."""
        day = day_of(stored.contact_center, stored.recording)
        name = folder_name(self._task.resource, stored.recording["id"])
        folder = f"{day}/{name}"
        sizes = await self._archive.sizes(folder)
        before = await self._manifest(folder) if MANIFEST in sizes else None
        if before is not None and not self._is_of(before, stored):
            self._fail_whole(
                stored, "", f"{folder} has a recording of the region {before.region!r}: back it up elsewhere"
            )
            return
        known = {
            file: entry for file, entry in (before.files if before else {}).items() if sizes.get(file) == entry.size
        }
        try:
            content = await self._patience.call(partial(self._archiving.content, self._task.resource, stored))
        except TooLong:
            self._fail_whole(stored, RECORDING, f"with its former versions it is larger than {LONGEST_FILE} bytes")
            return
        except VersionsMissing:
            await self._back_up_as_it_is_now(stored)
            return
        # One that the manifest names otherwise is damaged, and no copy to keep for whole.
        unnamed = sizes.keys() - (before.files.keys() if before else ())
        files, not_copied = await self._copy_media(stored, folder, known, unnamed)
        is_new = before is None or RECORDING not in known or not _is_content(known[RECORDING], content)
        if is_new:
            files[RECORDING] = FileEntry(len(content), sha256(content).hexdigest())
        manifest = self._manifest_of(stored, {**known, **files}, not_copied)
        # What was copied went without a manifest for a moment.
        is_copied = is_new or any(entry is not known.get(file) for file, entry in files.items())
        new = manifest if is_copied or manifest != before else None
        self._finished[folder] = _Finished(
            stored, day, name, content if is_new else None, new, before is not None, bool(not_copied)
        )
        self._finished_bytes += len(content)
        if (
            len(self._finished) >= _FINISHED
            or self._finished_bytes >= _FINISHED_BYTES
            or time.monotonic() - self._finished_at > _FINISHED_SECONDS
        ):
            await self._finish()

    async def _back_up_as_it_is_now(self, stored: StoredRecording) -> None:
        """Backs up a recording whose former versions are not there. If it is deleted, so are they: the backup stays."""
        now = await self._patience.call(partial(self._repository.read, stored.document_id))
        if now is None:
            self._advance(1)
        elif now.version == stored.version:
            self._fail_whole(stored, RECORDING, "a former version is missing in Elasticsearch; the backup was left")
        else:
            await self._back_up(now)

    async def _finish(self) -> None:
        """Writes recording.json and the manifest of recordings whose media are there. From then on these count."""
        async with self._finishing:
            finished, self._finished = self._finished, {}
            self._finished_at, self._finished_bytes = time.monotonic(), 0
            files: dict[str, bytes] = {}
            # Until the new one is there, nobody takes an old manifest for that of the new content.
            old = [
                f"{folder}/{MANIFEST}"
                for folder, done in finished.items()
                if done.has_manifest and done.content is not None
            ]
            for folder, done in finished.items():
                if done.content is not None:
                    files[f"{folder}/{RECORDING}"] = done.content
                if done.manifest is not None:
                    files[f"{folder}/{MANIFEST}"] = encode(done.manifest)
            await self._archive.write_last(files, removing=old)
            for done in finished.values():
                await self._days.add(done.day, done.name)
                if done.is_incomplete:
                    self.counts.incomplete += 1
                elif done.manifest is not None:
                    self.counts.copied += 1
                else:
                    self.counts.unchanged += 1
                if done.manifest is not None:
                    self._write(done.stored, "failed" if done.is_incomplete else "success")
                self._advance(1)

    async def _copy_media(
        self, stored: StoredRecording, folder: str, known: Mapping[str, FileEntry], unnamed: Collection[str]
    ) -> tuple[dict[str, FileEntry], dict[str, str]]:
        """Returns the entries of the media files that the archive has now, and why others could not be copied.

        `unnamed` are the files in the folder that no manifest names.
        """
        files: dict[str, FileEntry] = {}
        not_copied: dict[str, str] = {}
        for media in stored.recording["mediaFiles"]:
            name = media_name(media)
            try:
                entry = await self._copy(media, f"{folder}/{name}", known.get(name))
            except (RecallError, LocationNotAllowed) as error:
                reason = reason_of(error)
                self.counts.media_failed += 1
                self._fail(stored, name, reason)
                if name in known:
                    continue
                if name in unnamed:
                    files[name] = await self._adopt(f"{folder}/{name}")
                else:
                    not_copied[name] = reason
            else:
                files[name] = entry
        return files, not_copied

    async def _copy(self, media: Mapping[str, Any], path: str, known: FileEntry | None) -> FileEntry:
        """Returns the entry of a media file, which is copied unless it is `known` and unchanged.

        Raises LocationNotAllowed, MediaNotFound and what a storage's failure is.
        """
        if known is not None and await is_unchanged(media, known, self._storages, self._configured):
            self.counts.media_unchanged += 1
            return known
        stream = await _open("GET", media, self._storages, self._configured)
        try:
            async with self._archive.writing(path) as writer:
                while chunk := await stream.read():
                    await writer.write(chunk)
                if known is not None:
                    # As for recording.json: the old manifest is not that of the new file.
                    await self._archive.remove(f"{path.rpartition('/')[0]}/{MANIFEST}")
                written = await writer.commit()
        finally:
            stream.close()
        self.counts.media_copied += 1
        self.counts.bytes += written.size
        return FileEntry(written.size, written.sha256, **_told(stream))

    async def _adopt(self, path: str) -> FileEntry:
        """Returns the entry of a file that no manifest names: a run was killed before it wrote one.

        A file that is there is whole, and perhaps the only copy.
        """
        size, digest = 0, sha256()
        async for chunk in self._archive.chunks(path):
            size += len(chunk)
            await asyncio.to_thread(digest.update, chunk)
        return FileEntry(size, digest.hexdigest())

    # --- Manifests, failures, audit ---

    async def _manifest(self, folder: str) -> Manifest | None:
        """Returns the manifest in a folder, None for one that is damaged: everything is copied anew."""
        try:
            return parse_manifest(await self._archive.read(f"{folder}/{MANIFEST}"), folder)
        except (FileMissing, Malformed):
            return None

    def _is_of(self, manifest: Manifest, stored: StoredRecording) -> bool:
        recording = stored.recording
        return manifest.is_of(self._task.resource, stored.contact_center, recording["region"], recording["id"])

    def _manifest_of(
        self, stored: StoredRecording, files: dict[str, FileEntry], not_copied: dict[str, str]
    ) -> Manifest:
        return Manifest(
            resource=self._task.resource,
            contact_center=stored.contact_center,
            region=stored.recording["region"],
            id=stored.recording["id"],
            files=files,
            not_copied=not_copied,
        )

    def _fail_whole(self, stored: StoredRecording, file: str, reason: str) -> None:
        """Tells that nothing of a recording was copied."""
        self._fail(stored, file, reason)
        self.counts.failed += 1
        self._advance(1)

    def _fail(self, stored: StoredRecording, file: str, reason: str) -> None:
        self._tell(Failure(stored.contact_center, stored.recording["id"], file, reason))

    def _tell(self, failure: Failure) -> None:
        if len(self.failures) < MAX_FAILURES:
            self.failures.append(failure)

    def _write(self, stored: StoredRecording, outcome: AuditOutcome) -> None:
        self._audit.write(
            Entry(
                user=_BY,
                contact_center=stored.contact_center,
                address=None,
                operation="backup",
                resource=self._task.resource,
                recording_id=stored.recording["id"],
                outcome=outcome,
            )
        )


class _Days:
    """The lists of the days' folders, and the list of these. A list is written when others need its place."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._lists: OrderedDict[str, set[str]] = OrderedDict()
        self._names = 0
        self._changed: set[str] = set()
        self.met: set[str] = set()
        self._days: set[str] | None = None
        self._new_days = False
        self._lock = asyncio.Lock()

    async def add(self, day: str, name: str) -> None:
        """Adds a recording's folder whose manifest is written."""
        self.met.add(day)
        async with self._lock:
            names = self._lists.get(day)
            if names is None:
                names = self._lists[day] = await self._read(f"{day}.json")
                self._names += len(names)
                await self._add_day(day)
            self._lists.move_to_end(day)
            if name not in names:
                names.add(name)
                self._names += 1
                self._changed.add(day)
            while len(self._lists) > 1 and self._names > _NAMES:
                day, names = self._lists.popitem(last=False)
                self._names -= len(names)
                await self._write({day: names})

    async def close(self) -> None:
        """Writes what is not written."""
        async with self._lock:
            await self._write(self._lists)
            self._lists.clear()
            self._names = 0
            if self._new_days and self._days is not None:
                await self._archive.write_last({CONTENTS: encode(NameList(sorted(self._days)))})
                self._new_days = False

    async def _add_day(self, day: str) -> None:
        if self._days is None:
            self._days = await self._read(CONTENTS)
        if day not in self._days:
            self._days.add(day)
            self._new_days = True

    async def _write(self, lists: Mapping[str, set[str]]) -> None:
        changed = {day: names for day, names in lists.items() if day in self._changed}
        await self._archive.write_last(
            {f"{day}.json": encode(NameList(sorted(names))) for day, names in changed.items()}
        )
        self._changed.difference_update(changed)

    async def _read(self, path: str) -> set[str]:
        try:
            return set(parse_names(await self._archive.read(path)))
        except FileMissing:
            return set()
        except Malformed as error:
            raise ArchiveFailed(f"{path} of {self._archive.name} is damaged: {error}; remove it to go on") from None


def _is_content(entry: FileEntry, content: bytes) -> bool:
    return entry.size == len(content) and entry.sha256 == sha256(content).hexdigest()


def _told(stream: MediaStream) -> dict[str, str]:
    """Returns what a storage tells of an object, as attributes of FileEntry."""
    return {
        "etag": (header_of(stream.headers, "ETag") or "").removeprefix("W/"),
        "last_modified": header_of(stream.headers, "Last-Modified") or "",
        "content_type": header_of(stream.headers, "Content-Type") or "",
        "content_encoding": header_of(stream.headers, "Content-Encoding") or "",
    }


async def is_unchanged(
    media: Mapping[str, Any], known: FileEntry, storages: MediaStorages, configured: StorageConfig
) -> bool:
    """Returns whether a storage shows that its object is the one that was copied.

    One without a validator never is. Raises LocationNotAllowed, MediaNotFound and what a storage's failure is.
    """
    about = await _open("HEAD", media, storages, configured)
    about.close()
    told = _told(about)
    if not (known.etag or known.last_modified) or about.length not in {None, known.size}:
        return False
    return (told["etag"], told["last_modified"]) == (known.etag, known.last_modified)


async def _open(
    method: str, media: Mapping[str, Any], storages: MediaStorages, configured: StorageConfig
) -> MediaStream:
    location, name = resolve_location(media["mediaDescriptor"], configured), media_name(media)
    # Where a sound is expected, such a page is that of a login.
    may_be_html = is_html(media.get("type"), name)
    return await open_media(storages, method, location, {}, name, may_be_html=may_be_html)


def reason_of(error: Exception) -> str:
    """Returns why a media file cannot be read or written, in words for an operator."""
    if isinstance(error, MediaNotFound | OtherMediaObject):
        return "the media object is missing in its storage"
    if isinstance(error, MediaStorageFailed | MediaStorageTimeout) and error.reason:
        return error.reason
    return re.sub(r"\.$", "", str(error.message if isinstance(error, RecallError) else error))
