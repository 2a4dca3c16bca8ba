"""Brings the recordings of an archive back, with labels, protection and media: `recall restore`.

See docs/decisions/0036-backup.md. What exists is never replaced, and a media object never overwritten.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from typing import Literal
from uuid import uuid4

import msgspec

from app import codec
from app.audit import AuditLog, Entry
from app.background import for_each
from app.errors import (
    DisplayNameExists,
    ElasticsearchUnavailable,
    InternalError,
    LabelDefinitionExists,
    MediaNotFound,
    OtherMediaObject,
    RecallError,
    TooManyLabelDefinitions,
)
from app.lifecycle.archiving import as_ops_reads_it, protection_from
from app.lifecycle.backup import MAX_FAILURES, PARALLEL, Failure, reason_of
from app.lifecycle.labels import Labelling
from app.lifecycle.patience import Patience
from app.lifecycle.protection import Protection, is_protected
from app.lifecycle.verification import Folder, folders
from app.media.answers import open_media
from app.media.archives import Archive, ArchiveFailed
from app.media.location import Location, LocationNotAllowed, resolve_location
from app.media.storages import MediaStorages
from app.media.uploads import ObjectExists, Uploads
from app.media.zipped import is_zip_of_day
from app.recordings.backup import (
    MANIFEST,
    RECORDING,
    ArchivedRecording,
    FileEntry,
    Malformed,
    Manifest,
    parse_archived,
    parse_manifest,
)
from app.recordings.changes import is_same
from app.recordings.identity import Resource, media_name
from app.recordings.labels import Labels, label_named, name_key
from app.recordings.mapping import Destination
from app.recordings.merge import check_size, merge
from app.recordings.model import Recording
from app.settings import StorageConfig
from app.store.document_store import Version
from app.store.documents import ProtectionChange, document_id
from app.store.journal import now_milliseconds
from app.store.repository import MAX_DOCUMENT_BYTES, RecordingRepository, StoredRecording, Update

_BY = "restore"

_NO_VERSION = Version("", 0, 0)


@dataclass(frozen=True)
class RestoreTask:
    """What to bring back, and where to. None for the recordings of all contact centers.

    `merges` lets a recording that exists get what only the archive has. `parallel` is the number of recordings that are
    worked on concurrently; `patience` is how many seconds to keep trying while Elasticsearch does not answer.
    """

    destination: Destination
    contact_center: str | None = None
    merges: bool = False
    dry_run: bool = False
    parallel: int = PARALLEL
    patience: float = 120.0


class RestoreCounts(msgspec.Struct, rename="camel"):
    """How many recordings had each outcome; the others count media files, and bytes of them.

    One that is `different` exists and says otherwise, so it was left. In a dry run they tell what would happen.
    `labels_failed` are definitions of labels that the contact center has otherwise, or cannot have.
    """

    restored: int = 0
    merged: int = 0
    unchanged: int = 0
    different: int = 0
    failed: int = 0
    media_restored: int = 0
    media_unchanged: int = 0
    media_failed: int = 0
    labels_failed: int = 0
    bytes: int = 0

    @property
    def is_complete(self) -> bool:
        """Whether everything that the archive has is there now, as the archive has it."""
        return not (self.different or self.failed or self.media_failed or self.labels_failed)


@dataclass(frozen=True)
class _Wanted:
    """A recording of the archive as it is to be stored. `media` are the files to upload, by where to."""

    folder: str
    resource: Resource
    manifest: Manifest
    archived: ArchivedRecording
    update: Update
    document_id: str
    media: Mapping[str, Location]

    @property
    def recording_id(self) -> str:
        recording_id: str = self.update.recording["id"]
        return recording_id

    def reads_as(self, stored: StoredRecording) -> bool:
        """Returns whether an ops client reads the same of what is stored."""
        update = self.update
        mine = StoredRecording(
            self.document_id, update.contact_center, update.recording, update.protection, _NO_VERSION, update.labels
        )
        return is_same(codec.decode(as_ops_reads_it(stored, {})), codec.decode(as_ops_reads_it(mine, {})))


class _Differs(Exception):
    """Another client has stored the recording during the restore, and it says otherwise."""


class _NotRestored(Exception):
    """A recording, or a file of it, cannot be restored; the text says why."""


class Restore:
    """One walk through an archive, until `stop`. `counts` and `failures` are kept up to date."""

    def __init__(
        self,
        repositories: Mapping[Resource, RecordingRepository],
        labelling: Labelling,
        protection: Protection,
        storages: MediaStorages,
        configured: StorageConfig,
        *,
        uploads: Uploads,
        archive: Archive,
        audit: AuditLog,
        task: RestoreTask,
    ) -> None:
        self._repositories = repositories
        self._labelling = labelling
        self._protection = protection
        self._storages = storages
        self._configured = configured
        self._uploads = uploads
        self._archive = archive
        self._audit = audit
        self._task = task
        self._patience = Patience(task.patience)
        self._defined: set[tuple[str, str]] = set()
        self._defining = asyncio.Lock()
        self._has_begun = False
        # The entries of the mapping that no recording has used so far.
        self.unused = task.destination.names()
        self.counts = RestoreCounts()
        self.failures: list[Failure] = []

    def stop(self) -> None:
        """Ends the walk after the recordings in flight."""
        self._patience.stop()

    @property
    def is_stopped(self) -> bool:
        return self._patience.is_stopped

    async def run(self, advance: Callable[[int], object] = lambda _: None) -> RestoreCounts:
        """Restores; `advance` gets the number of recordings that are done.

        Raises ElasticsearchUnavailable when Elasticsearch does not answer for longer than the task's patience,
        InternalError, and ArchiveFailed when the archive cannot be read, or has nothing that was asked for.
        """

        async def restore(folder: Folder) -> None:
            await self._restore(folder)
            advance(1)

        await for_each(self._folders(), restore, self._task.parallel)
        if not (self._has_begun or self.failures or self.is_stopped):
            of = f" of {self._task.contact_center}" if self._task.contact_center else ""
            raise ArchiveFailed(f"{self._archive.name} has no recording{of}")
        if not self._task.dry_run:
            await self._let_screen_recordings_follow()
        return self.counts

    async def _folders(self) -> AsyncGenerator[Folder, None]:
        async for folder in folders(self._archive, self._other):
            if self.is_stopped:
                return
            yield folder

    def _other(self, path: str) -> None:
        """Takes a file that is in no recording's folder."""
        if is_zip_of_day(path):
            self.counts.failed += 1
            self._fail("", path, "", "it cannot be read as a zip")

    async def _let_screen_recordings_follow(self) -> None:
        """Those that were there already have yet to follow the recordings that hold them."""
        while True:
            await self._patience.call(self._repositories["recordings"].make_searchable)
            if not await self._patience.call(partial(self._protection.repair, older_than_seconds=0.0)):
                return

    # --- One recording ---

    async def _restore(self, folder: Folder) -> None:
        try:
            wanted = await self._read(folder)
        except (_NotRestored, Malformed, ArchiveFailed, LocationNotAllowed) as error:
            self.counts.failed += 1
            self._fail("", folder.path, "", str(error))
            return
        if wanted is None:
            return
        try:
            await self._bring(wanted)
        except (_NotRestored, RecallError) as error:
            if _is_of_elasticsearch(error):
                raise
            self.counts.failed += 1
            self._fail_of(wanted, "", str(error) if isinstance(error, _NotRestored) else reason_of(error))

    async def _read(self, folder: Folder) -> _Wanted | None:
        """Returns what a folder has, None if it is of another contact center. Checks the digest of recording.json."""
        if MANIFEST not in folder.sizes:
            raise _NotRestored("it has no manifest: the backup was not finished")
        manifest = parse_manifest(await self._archive.read(f"{folder.path}/{MANIFEST}"), folder.path)
        if self._task.contact_center not in {None, manifest.contact_center}:
            return None
        self._has_begun = True
        content = await self._archive.read(f"{folder.path}/{RECORDING}")
        if sha256(content).hexdigest() != manifest.files[RECORDING].sha256:
            raise _NotRestored(f"{RECORDING} is damaged: its SHA-256 is another one than the manifest says")
        archived, recording = parse_archived(content, manifest)
        destination = self._task.destination
        contact_center = destination.contact_center(manifest.contact_center)
        moved = destination.recording(archived.resource, recording)
        if self.unused:
            self.unused -= destination.names_of(manifest.contact_center, recording)
        protection = None
        if archived.protection is not None:
            protection = protection_from(archived.protection, contact_center, destination)
        labels = None if archived.labels is None else tuple(label.label() for label in archived.labels)
        return _Wanted(
            folder.path,
            archived.resource,
            manifest,
            archived,
            Update(contact_center, moved, protection, labels),
            document_id(contact_center, moved["region"], moved["id"]),
            {
                media_name(before): resolve_location(after["mediaDescriptor"], self._configured)
                for before, after in zip(recording["mediaFiles"], moved["mediaFiles"], strict=True)
            },
        )

    async def _bring(self, wanted: _Wanted) -> None:
        """Stores a recording, and then its media. So no deletion that began before takes one for an orphan."""
        repository = self._repositories[wanted.resource]
        stored = await self._patience.call(partial(repository.read, wanted.document_id))
        has_versions = stored is None or await self._patience.call(partial(_has_versions, repository, stored, wanted))
        is_same = stored is not None and has_versions and wanted.reads_as(stored)
        if stored is not None and not is_same and not self._task.merges:
            self._differs(wanted)
            return
        absent = [name for name in wanted.media if await self._is_absent(wanted, name)]
        if self._task.dry_run:
            outcome: _Outcome = "unchanged" if is_same else "restored" if stored is None else "merged"
        else:
            await self._define(wanted)
            try:
                outcome = "unchanged" if is_same else await self._store(wanted, repository, stored)
            except _Differs:
                self._differs(wanted)
                return
            if not has_versions and stored is not None and _latest_version(stored):
                self.counts.different += 1
                self._fail_of(wanted, "", "it has other former versions; those of the backup were not added")
            if absent or not is_same:
                await self._patience.call(partial(repository.keep_media, [wanted.update.recording]))
            if not is_same:
                absent += await self._gone_since(wanted, absent)
        await self._upload(wanted, absent)
        if outcome == "restored":
            self.counts.restored += 1
        elif outcome == "merged":
            self.counts.merged += 1
        else:
            self.counts.unchanged += 1
        if not self._task.dry_run and (outcome != "unchanged" or absent):
            self._write(wanted)

    async def _store(
        self, wanted: _Wanted, repository: RecordingRepository, stored: StoredRecording | None
    ) -> "_Outcome":
        """Creates a recording with its former versions, or merges it into the one that exists. Raises _Differs."""
        update = wanted.update
        if stored is None and update.protection is not None and is_protected(update.recording):
            update = replace(update, protection=await self._decided_anew(wanted, update.protection))
        has_none = stored is None or not _latest_version(stored)
        if has_none and update.protection is not None and wanted.archived.versions:
            update = replace(update, protection=await self._store_versions(wanted, repository, update.protection))

        async def change(now: StoredRecording | None) -> Update | None:
            if now is None:
                return update
            if self._task.merges:
                return _merged(now, update, wanted.resource)
            # It may be the first attempt's, whose answer was lost.
            if wanted.reads_as(now):
                return None
            raise _Differs

        before, after = await self._patience.call(
            partial(
                repository.update_document,
                wanted.document_id,
                change,
                max_bytes=MAX_DOCUMENT_BYTES,
                versions_by=_BY,
            )
        )
        if after is None:
            return "unchanged" if stored else "restored"
        return "restored" if before is None else "merged"

    async def _gone_since(self, wanted: _Wanted, absent: Collection[str]) -> list[str]:
        """Returns which other media objects were deleted before the recording was there, which keeps them now."""
        gone: list[str] = []
        for name in wanted.media.keys() - absent:
            if name in wanted.manifest.files:
                try:
                    (await open_media(self._storages, "HEAD", wanted.media[name], {}, name, may_be_html=True)).close()
                except (MediaNotFound, OtherMediaObject):
                    self.counts.media_unchanged -= 1
                    gone.append(name)
        return gone

    def _differs(self, wanted: _Wanted) -> None:
        self.counts.different += 1
        self._fail_of(wanted, "", "it exists and says otherwise; --merge adds what only the backup has")

    async def _decided_anew(self, wanted: _Wanted, protection: ProtectionChange) -> ProtectionChange:
        """Returns the hold as a new decision, if it was lifted after the backup.

        Its screen recordings may still be there. They have followed the end of it, and follow no older change.
        """
        screens = self._repositories["screen-recordings"]
        for document in dict.fromkeys([*protection.pending, *protection.taken]):
            screen = await self._patience.call(partial(screens.read, document))
            holders = screen.protection.holders if screen is not None and screen.protection is not None else {}
            hold = holders.get(wanted.document_id)
            if hold is not None and not hold.protects and hold.decided_at >= protection.decided_at:
                return msgspec.structs.replace(
                    protection,
                    decided_at=max(now_milliseconds(), hold.decided_at + 1),
                    change_id=uuid4().hex,
                    since=protection.since or protection.decided_at,
                )
        return protection

    async def _store_versions(
        self, wanted: _Wanted, repository: RecordingRepository, protection: ProtectionChange
    ) -> ProtectionChange:
        """Stores the former versions, which count once the recording names the last of them."""
        latest = ""
        for version in wanted.archived.versions:
            recording = self._task.destination.recording(wanted.resource, codec.decode(bytes(version.recording)))
            former = await self._patience.call(
                partial(
                    repository.version_store.add,
                    wanted.document_id,
                    history=protection.history,
                    previous=latest,
                    recording=recording,
                    by=version.by,
                    at=version.at,
                )
            )
            latest = former.key
        return msgspec.structs.replace(protection, version=latest)

    async def _define(self, wanted: _Wanted) -> None:
        """Defines the labels of a recording that the contact center does not define."""
        contact_center = wanted.update.contact_center
        async with self._defining:
            for archived in wanted.archived.label_definitions:
                key = contact_center, name_key(archived.name)
                if key in self._defined:
                    continue
                try:
                    await self._patience.call(partial(self._labelling.define, contact_center, archived.definition()))
                except LabelDefinitionExists:
                    definitions = await self._patience.call(partial(self._labelling.definitions, contact_center))
                    there = definitions.get(key[1])
                    if there is not None and there.display_name != archived.display_name:
                        self.counts.labels_failed += 1
                        self._fail_of(wanted, "", f"the label {archived.name} is called {there.display_name!r} there")
                except (DisplayNameExists, TooManyLabelDefinitions) as error:
                    self.counts.labels_failed += 1
                    self._fail_of(wanted, "", f"the label {archived.name} cannot be defined: {error.message}")
                self._defined.add(key)

    # --- Media ---

    async def _is_absent(self, wanted: _Wanted, name: str) -> bool:
        """Returns whether a media object is to be uploaded, and False if it is there already.

        Raises _NotRestored if another object has its name: a recording must not show what is none of it.
        """
        entry = wanted.manifest.files.get(name)
        if entry is None:
            self.counts.media_failed += 1
            self._fail_of(wanted, name, f"the backup has no copy: {wanted.manifest.not_copied.get(name, 'unknown')}")
            return False
        state = await self._state(wanted.media[name], entry, name)
        if state == "different":
            raise _NotRestored(f"another media object is where {name} is to be; it was left, and so was the recording")
        if state == "same":
            self.counts.media_unchanged += 1
        return state == "absent"

    async def _state(self, location: Location, entry: FileEntry, name: str) -> Literal["absent", "same", "different"]:
        """Compares the object of a storage with the backup's. Raises as `open_media` does."""
        try:
            stream = await open_media(self._storages, "GET", location, {}, name, may_be_html=True)
        except (MediaNotFound, OtherMediaObject):
            return "absent"
        size, digest = 0, sha256()
        try:
            if stream.length not in {None, entry.size}:
                return "different"
            while size <= entry.size and (chunk := await stream.read()):
                size += len(chunk)
                digest.update(chunk)
        finally:
            stream.close()
        return "same" if (size, digest.hexdigest()) == (entry.size, entry.sha256) else "different"

    async def _upload(self, wanted: _Wanted, names: list[str]) -> None:
        for name in names:
            entry = wanted.manifest.files[name]
            if not self._task.dry_run:
                try:
                    await self._put(wanted, name, entry)
                except (_NotRestored, RecallError) as error:
                    self.counts.media_failed += 1
                    self._fail_of(wanted, name, str(error) if isinstance(error, _NotRestored) else reason_of(error))
                    continue
            self.counts.media_restored += 1
            self.counts.bytes += entry.size

    async def _put(self, wanted: _Wanted, name: str, entry: FileEntry) -> None:
        content = _Content(self._archive, f"{wanted.folder}/{name}", entry)
        try:
            await self._uploads.put(
                wanted.media[name],
                content.chunks,
                size=entry.size,
                content_type=entry.content_type,
                content_encoding=entry.content_encoding,
            )
        except ObjectExists:
            if await self._state(wanted.media[name], entry, name) != "same":
                raise _NotRestored("another media object has got its name meanwhile; it was left") from None
        except (_NotRestored, RecallError):
            if content.problem:
                raise _NotRestored(content.problem) from None
            raise

    # --- Failures, audit ---

    def _fail_of(self, wanted: _Wanted, file: str, reason: str) -> None:
        self._fail(wanted.update.contact_center, wanted.recording_id, file, reason)

    def _fail(self, contact_center: str, recording_id: str, file: str, reason: str) -> None:
        if len(self.failures) < MAX_FAILURES:
            self.failures.append(Failure(contact_center, recording_id, file, reason))

    def _write(self, wanted: _Wanted) -> None:
        self._audit.write(
            Entry(
                user=_BY,
                contact_center=wanted.update.contact_center,
                address=None,
                operation="restore",
                resource=wanted.resource,
                recording_id=wanted.recording_id,
                outcome="success",
            )
        )


_Outcome = Literal["restored", "merged", "unchanged"]


class _Content:
    """A media file of the archive, whose last bytes come only if all of them have the digest of the manifest."""

    def __init__(self, archive: Archive, path: str, entry: FileEntry) -> None:
        self._archive = archive
        self._path = path
        self._entry = entry
        self.problem = ""

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yields the content; raises _NotRestored, and `problem` says why, because not every client passes that on."""
        size, digest, last = 0, sha256(), b""
        try:
            async for chunk in self._archive.chunks(self._path):
                if last:
                    yield last
                size += len(chunk)
                digest.update(chunk)
                last = chunk
        except ArchiveFailed as error:
            self.problem = str(error)
            raise _NotRestored(self.problem) from None
        if (size, digest.hexdigest()) != (self._entry.size, self._entry.sha256):
            self.problem = "it is damaged in the backup: its SHA-256 is another one than the manifest says"
            raise _NotRestored(self.problem)
        if last:
            yield last


def _merged(stored: StoredRecording, archived: Update, resource: Resource) -> Update | None:
    """Returns what exists with what only the archive has, None if that is nothing.

    Of what both say, what exists counts: it is younger. Of two protection changes the later one counts.
    """
    recording: Recording = merge(archived.recording, stored.recording)
    check_size(recording)
    recording.pop("nonDelete", None)
    protection, is_protected = _merged_protection(stored, archived, resource)
    if is_protected:
        recording["nonDelete"] = True
    labels = _merged_labels(stored.labels, archived.labels)
    if (recording, protection, labels) == (stored.recording, stored.protection, stored.labels):
        return None
    return Update(stored.contact_center, recording, protection, labels)


def _merged_protection(
    stored: StoredRecording, archived: Update, resource: Resource
) -> tuple[ProtectionChange | None, bool]:
    before, other = stored.protection, archived.protection
    was_protected = bool(stored.recording.get("nonDelete"))
    if other is None:
        return before, was_protected
    if before is None:
        return other, was_protected or bool(archived.recording.get("nonDelete"))
    if resource == "screen-recordings" and (before.holders or other.holders):
        holders = {**other.holders, **before.holders}
        for holder, hold in other.holders.items():
            if (hold.decided_at, hold.change_id) > (holders[holder].decided_at, holders[holder].change_id):
                holders[holder] = hold
        latest = max(before, other, key=lambda change: (change.decided_at, change.change_id))
        merged = msgspec.structs.replace(
            before, decided_at=latest.decided_at, change_id=latest.change_id, holders=holders
        )
        return _with_versions(merged, before, other), merged.is_held()
    if not before.is_before(other):
        return _with_versions(before, before, other), was_protected
    later = msgspec.structs.replace(
        other,
        pending=tuple(dict.fromkeys([*other.pending, *before.pending, *before.taken])),
    )
    return _with_versions(later, before, other), bool(archived.recording.get("nonDelete"))


def _with_versions(change: ProtectionChange, before: ProtectionChange, other: ProtectionChange) -> ProtectionChange:
    """Returns a change that names the former versions of `before`, or, if that has none, the other's."""
    named = before if before.version or not other.version else other
    return msgspec.structs.replace(change, history=named.history, version=named.version)


def _latest_version(stored: StoredRecording) -> str:
    return stored.protection.version if stored.protection else ""


async def _has_versions(repository: RecordingRepository, stored: StoredRecording, wanted: _Wanted) -> bool:
    """Returns whether a stored recording has all former versions that the archive has."""
    if not wanted.archived.versions:
        return True
    there = {(version.at, version.by) for version in await repository.versions(stored)}
    return there >= {(version.at, version.by) for version in wanted.archived.versions}


def _merged_labels(stored: Labels | None, archived: Labels | None) -> Labels | None:
    if not archived:
        return stored
    added = [label for label in archived if label_named(stored or (), label.name) is None]
    return tuple(sorted((*(stored or ()), *added), key=lambda label: name_key(label.name)))


def _is_of_elasticsearch(error: Exception) -> bool:
    return isinstance(error, ElasticsearchUnavailable | InternalError)
