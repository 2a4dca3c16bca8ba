"""Deletion of recordings and of their media objects (docs/contract.md section 7).

Every media object is entered in the journal before its recording is deleted, so a process that dies leaves none behind.
An object is deleted only when no recording refers to it any more. See docs/decisions/0009-deletion.md.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from app import codec
from app.auth.scope import Scope
from app.errors import ElasticsearchUnavailable, RecallError, RecordingProtected
from app.lifecycle.protection import Protection, is_protected
from app.media.identity import same_object_keys
from app.media.location import LocationNotAllowed, resolve_location
from app.media.storages import MediaStorages
from app.recordings.identity import Resource, media_object_key, media_url, media_uuid
from app.settings import StorageConfig
from app.store.journal import DeletionJournal, MediaDeletion, now_milliseconds
from app.store.repository import RecordingRepository, StoredRecording, Update, conflict_backoff

log = logging.getLogger(__name__)

# The process that deletes a recording has this long to delete its media, before a sweep tries. In milliseconds.
_GRACE = 60_000

_CONCURRENT_OBJECTS = 8


@dataclass(frozen=True)
class FailedMedia:
    """A media object that could not be deleted. A sweep will try again."""

    media_uuid: str
    descriptor: dict[str, Any]
    message: str


@dataclass(frozen=True)
class Outcome:
    """The result for one recording. One that has `changed` since it was read was not deleted."""

    status: Literal["deleted", "protected", "changed"]
    failed: tuple[FailedMedia, ...] = ()


@dataclass
class SweepResult:
    """How many media objects a sweep deleted, kept because a recording refers to them, and failed to delete."""

    deleted: int = 0
    needed: int = 0
    failed: int = 0


class Deletion:
    """Deletes recordings and media objects.

    Every method raises ElasticsearchUnavailable when Elasticsearch is away or overloaded.
    """

    def __init__(
        self,
        repositories: Mapping[Resource, RecordingRepository],
        protection: Protection,
        journal: DeletionJournal,
        storages: MediaStorages,
        configured: StorageConfig,
    ) -> None:
        self._repositories = repositories
        self._protection = protection
        self._journal = journal
        self._storages = storages
        self._configured = configured
        self._slots = asyncio.Semaphore(_CONCURRENT_OBJECTS)

    async def delete(
        self, resource: Resource, scope: Scope, recording_id: str, *, with_media: bool
    ) -> tuple[FailedMedia, ...]:
        """Deletes a recording, and its media objects `with_media`; returns those that could not be deleted.

        Raises RecordingNotFound or RecordingProtected; then nothing was deleted.
        """
        repository = self._repositories[resource]
        conflicts = conflict_backoff()
        while True:
            stored = await repository.get(scope, recording_id)
            (outcome,) = await self.delete_stored(resource, [stored], with_media=with_media)
            if outcome.status == "protected":
                raise RecordingProtected(recording_id)
            if outcome.status == "deleted":
                return outcome.failed
            await conflicts.wait()

    async def delete_stored(
        self, resource: Resource, recordings: Sequence[StoredRecording], *, with_media: bool
    ) -> list[Outcome]:
        """Deletes recordings in the state in which they were read; returns their outcomes in the same order."""
        outcomes: dict[str, Outcome] = {}
        deletable = []
        for stored in recordings:
            if is_protected(stored.recording):
                outcomes[stored.document_id] = Outcome("protected")
            elif stored.protection is not None and stored.protection.pending:
                # The list of screen recordings that must follow would be deleted with the recording.
                await self._protection.complete(stored)
                outcomes[stored.document_id] = Outcome("changed")
            else:
                deletable.append(stored)
        entries = {stored.document_id: _entries(resource, stored) if with_media else [] for stored in deletable}
        await self._journal.add([entry for some in entries.values() for entry in some])
        unchanged = await self._repositories[resource].delete(deletable) if deletable else []
        gone = []
        for stored, deleted in zip(deletable, unchanged, strict=True):
            # A conflict may be with our own first attempt, whose answer was lost: then the recording is gone.
            if deleted or await self._repositories[resource].read(stored.document_id) is None:
                gone.append(stored.document_id)
            else:
                outcomes[stored.document_id] = Outcome("changed")
        await self._journal.remove(
            [entry for document, some in entries.items() if document in outcomes for entry in some]
        )
        failed = await self._delete_objects([entry for document in gone for entry in entries[document]])
        for document in gone:
            outcomes[document] = Outcome(
                "deleted", tuple(failed[entry.entry_id] for entry in entries[document] if entry.entry_id in failed)
            )
        return [outcomes[stored.document_id] for stored in recordings]

    async def sweep(self, *, only_due: bool, advance: Callable[[int], object] = lambda _: None) -> SweepResult:
        """Deletes the media objects that deletions left behind, with `only_due` only those whose next attempt is due.

        `advance` gets the number of objects of each batch that was tried.
        """
        swept = SweepResult()
        async for batch in self._journal.claim(now_milliseconds() if only_due else None):
            orphans = [entry for entry in batch if not await self._revived(entry)]
            failed = await self._delete_objects(orphans, swept)
            swept.failed += len(failed)
            swept.needed += len(batch) - len(orphans)
            await self._journal.remove([entry for entry in batch if entry not in orphans])
            advance(len(batch))
        return swept

    async def _revived(self, entry: MediaDeletion) -> bool:
        """Returns whether the recording was not deleted; then this attempt to delete it never succeeds either.

        Rewriting the recording, unchanged, ensures that: the conditional deletion of a process that is only slow fails.
        """

        async def rewrite(stored: StoredRecording | None) -> Update | None:
            version = (stored.version.seq_no, stored.version.primary_term) if stored else None
            if stored is None or version != (entry.seq_no, entry.primary_term):
                return None
            return Update(stored.contact_center, stored.recording, stored.protection)

        _, update = await self._repositories[entry.resource].update_document(entry.document_id, rewrite)
        return update is not None

    async def _needed(self, entries: Sequence[MediaDeletion]) -> set[str]:
        """Returns the ids of the entries to whose objects a recording of any resource refers, under any spelling."""
        keys = {entry.entry_id: same_object_keys(codec.decode(entry.descriptor), self._configured) for entry in entries}
        referenced: set[str] = set()
        for repository in self._repositories.values():
            referenced |= await repository.references(set().union(*keys.values()))
        return {entry_id for entry_id, some in keys.items() if some & referenced}

    async def _delete_objects(
        self, entries: Sequence[MediaDeletion], swept: SweepResult | None = None
    ) -> dict[str, FailedMedia]:
        """Deletes the objects that no recording refers to; returns those that stay in the journal, by entry id."""
        if not entries:
            return {}
        try:
            needed = await self._needed(entries)
        except ElasticsearchUnavailable:
            # The recording is deleted already; a later sweep deletes the objects.
            return {entry.entry_id: _failed(entry) for entry in entries}
        unneeded = [entry for entry in entries if entry.entry_id not in needed]
        results = await asyncio.gather(*(self._delete_object(entry) for entry in unneeded))
        failed = {entry.entry_id: _failed(entry) for entry, done in zip(unneeded, results, strict=True) if not done}
        if swept is not None:
            swept.deleted += len(unneeded) - len(failed)
            swept.needed += len(entries) - len(unneeded)
        try:
            await self._journal.remove([entry for entry in entries if entry.entry_id not in failed])
        except ElasticsearchUnavailable:
            log.warning("the journal of deletions still names media objects that are gone; a sweep will see that")
        return failed

    async def _delete_object(self, entry: MediaDeletion) -> bool:
        try:
            async with self._slots:
                await self._storages.delete(resolve_location(codec.decode(entry.descriptor), self._configured))
        except (LocationNotAllowed, RecallError) as error:
            log.warning(
                "media object %s of recording %s is not deleted: %s",
                entry.media_uuid,
                entry.recording_id,
                getattr(error, "reason", None) or error,
            )
            return False
        return True


def _entries(resource: Resource, stored: StoredRecording) -> list[MediaDeletion]:
    now = now_milliseconds()
    return [
        MediaDeletion(
            resource=resource,
            contact_center=stored.contact_center,
            recording_id=stored.recording["id"],
            media_uuid=str(media_uuid(stored.recording["id"], media["mediaDescriptor"])),
            descriptor=codec.encode(media["mediaDescriptor"]).decode(),
            media_object_key=media_object_key(media["mediaDescriptor"]),
            document_id=stored.document_id,
            seq_no=stored.version.seq_no,
            primary_term=stored.version.primary_term,
            created=now,
            next_attempt=now + _GRACE,
        )
        for media in stored.recording["mediaFiles"]
    ]


def _failed(entry: MediaDeletion) -> FailedMedia:
    descriptor = codec.decode(entry.descriptor)
    where = (
        media_url(descriptor)
        if descriptor["storage"] == "webDAV"
        else f"{descriptor['data']['bucket']}/{descriptor['path']}"
    )
    return FailedMedia(entry.media_uuid, descriptor, f"Fail to send request deleting {where}")
