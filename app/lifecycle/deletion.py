"""Deletion of recordings and of their media objects (docs/contract.md section 7).

Every media object is entered in the journal before its recording is deleted, so a process that dies leaves none behind.
An object is deleted only when no recording refers to it any more. See docs/decisions/0009-deletion.md and
docs/decisions/0021-claims.md.
"""

import asyncio
import logging
import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Literal
from uuid import uuid4

from app import codec
from app.audit import AuditLog, Entry
from app.auth.scope import Scope
from app.errors import (
    ElasticsearchUnavailable,
    InvalidParameter,
    MediaStorageTimeout,
    RecallError,
    RecordingProtected,
)
from app.lifecycle.protection import Protection, is_protected
from app.media.http import REQUEST_WATCH
from app.media.identity import claim_keys, same_object_keys
from app.media.location import LocationNotAllowed, resolve_location
from app.media.missing import MissingMedia
from app.media.storages import MediaStorages
from app.recordings.identity import Resource, media_object_key, media_url, media_uuid
from app.recordings.merge import merge
from app.recordings.model import media_file_named
from app.settings import StorageConfig
from app.store.batching import Batcher
from app.store.claims import Claim, ClaimHeld, MediaClaims
from app.store.journal import DeletionJournal, MediaDeletion, now_milliseconds
from app.store.repository import RecordingRepository, StoredRecording, Update, conflict_backoff

log = logging.getLogger(__name__)

# The process that deletes a recording has this long to delete its media, before a sweep tries. In milliseconds.
_GRACE = 60_000

# The limit of each storage. A storage that stalls delays no deletion on another.
_CONCURRENT_OBJECTS = 16
# Of one deletion, so that another's objects do not wait behind all of them.
_CONCURRENT_OBJECTS_OF_ONE = 8

# A storage call ends at most so many seconds after its claim was marked: far less than CLAIM_SECONDS, after which
# another process takes the claim for abandoned.
_CALL_SECONDS = 60.0

# How often a deletion claims an object again whose claim was cancelled by a POST.
_CLAIM_ATTEMPTS = 5

# Statuses after which a DELETE may still take effect: it was accepted, or a gateway has no answer.
_UNFINISHED = frozenset({202, 502, 504})


@dataclass(frozen=True)
class FailedMedia:
    """A media object that could not be deleted. A sweep will try again."""

    media_uuid: str
    descriptor: dict[str, Any]
    message: str


@dataclass(frozen=True)
class Actor:
    """Who deletes, as the audit log says: the name of a user or of a task, and the address of a client."""

    name: str
    address: str | None = None


_SWEEP = Actor("sweep")


@dataclass(frozen=True)
class Outcome:
    """The result for one recording. One that has `changed` since it was read was not deleted.

    Without `was_there` a deleted one was gone already: another process has deleted it, or an earlier attempt whose
    answer was lost.
    """

    status: Literal["deleted", "protected", "changed"]
    failed: tuple[FailedMedia, ...] = ()
    was_there: bool = True


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

    def __init__(  # noqa: PLR0917
        self,
        repositories: Mapping[Resource, RecordingRepository],
        protection: Protection,
        journal: DeletionJournal,
        claims: MediaClaims,
        storages: MediaStorages,
        configured: StorageConfig,
        audit: AuditLog,
    ) -> None:
        self._repositories = repositories
        self._protection = protection
        self._journal = journal
        self._claims = claims
        self._storages = storages
        self._configured = configured
        self._audit = audit
        self._slots: defaultdict[object, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(_CONCURRENT_OBJECTS)
        )
        self._questions: Batcher[frozenset[str], bool] = Batcher(self._ask)

    def judging(self, missing: MissingMedia) -> "Deletion":
        """Returns the same with another judgement of missing objects: those it doubts stay in the journal as failed."""
        judging = copy(self)
        judging._storages = self._storages.judging(missing)  # noqa: SLF001  # of this class
        return judging

    async def delete(
        self, resource: Resource, scope: Scope, recording_id: str, *, with_media: bool, by: Actor, seconds: float
    ) -> tuple[FailedMedia, ...]:
        """Deletes a recording, and its media objects `with_media`; returns those that could not be deleted.

        No object is begun after so many seconds. Those that are left are returned too, and a sweep deletes them.
        Raises RecordingNotFound or RecordingProtected; then nothing was deleted.
        """
        repository = self._repositories[resource]
        conflicts = conflict_backoff()
        while True:
            stored = await repository.get(scope, recording_id)
            (outcome,) = await self.delete_stored(resource, [stored], with_media=with_media, by=by, seconds=seconds)
            if outcome.status == "protected":
                raise RecordingProtected(recording_id)
            if outcome.status == "deleted":
                return outcome.failed
            await conflicts.wait()

    async def count_left(self, resource: Resource, document_id: str) -> int:
        """Returns how many media objects of a deleted recording are left to a sweep."""
        return await self._journal.count_of(resource, document_id)

    async def delete_media(
        self, resource: Resource, scope: Scope, recording_id: str, name: str, *, by: Actor, seconds: float
    ) -> tuple[FailedMedia, ...]:
        """Deletes one media file of a recording, which must have others, and its object; returns what failed.

        The object is not begun after so many seconds; then a sweep deletes it. Raises RecordingNotFound, MediaNotFound,
        RecordingProtected, or InvalidParameter for the last media file; then nothing was deleted.
        """
        begun = time.monotonic()
        repository = self._repositories[resource]
        conflicts = conflict_backoff()
        while True:
            stored = await repository.get(scope, recording_id)
            media = media_file_named(stored.recording, name)
            if is_protected(stored.recording):
                raise RecordingProtected(recording_id)
            if len(stored.recording["mediaFiles"]) == 1:
                raise InvalidParameter("name", "the last media file is deleted only together with its recording")
            (entry,) = (one for one in _entries(resource, stored) if name.startswith(f"{one.media_uuid}."))
            await self._journal.add([entry])
            if await self._remove_media(repository, stored, media):
                return tuple((await self._delete_objects([entry], by, until=begun + seconds)).values())
            await self._journal.remove([entry])
            await conflicts.wait()

    async def _remove_media(
        self, repository: RecordingRepository, stored: StoredRecording, media: Mapping[str, Any]
    ) -> bool:
        """Removes a media file from a recording in the state in which it was read; returns False if it has changed."""

        async def without(now: StoredRecording | None) -> Update | None:
            if now is None or now.version != stored.version:
                return None
            others = [other for other in now.recording["mediaFiles"] if other["mediaPath"] != media["mediaPath"]]
            return Update(now.contact_center, merge(None, {**now.recording, "mediaFiles": others}), now.protection)

        before, update = await repository.update_document(stored.document_id, without)
        if update is not None:
            return True
        # A conflict may be with our own first attempt, whose answer was lost: then the media file is gone.
        return before is not None and all(
            other["mediaPath"] != media["mediaPath"] for other in before.recording["mediaFiles"]
        )

    async def delete_stored(
        self,
        resource: Resource,
        recordings: Sequence[StoredRecording],
        *,
        with_media: bool,
        by: Actor,
        seconds: float = math.inf,
    ) -> list[Outcome]:
        """Deletes recordings in the state in which they were read; returns their outcomes in the same order.

        Media objects that are not begun after so many seconds are left to a sweep. Each one that goes has its line in
        the audit log.
        """
        begun = time.monotonic()
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
        versions = self._repositories[resource].version_store
        # Only a recording that was once protected has former versions.
        histories = {stored.document_id: stored.protection.history for stored in deletable if stored.protection}
        await versions.begin_deletion([*histories.items()])
        unchanged = await self._repositories[resource].delete(deletable) if deletable else []
        gone: dict[str, bool] = {}
        for stored, deleted in zip(deletable, unchanged, strict=True):
            # A conflict may be with our own first attempt, whose answer was lost: then the recording is gone.
            if deleted or await self._repositories[resource].read(stored.document_id) is None:
                gone[stored.document_id] = deleted
            else:
                outcomes[stored.document_id] = Outcome("changed")
        await self._journal.remove(
            [entry for document, some in entries.items() if document in outcomes for entry in some]
        )
        try:
            # The notes of others stay for a sweep: another deletion of the recording may have made the same one.
            await versions.delete([(document, history) for document, history in histories.items() if document in gone])
        except ElasticsearchUnavailable:
            log.warning("former versions of deleted recordings are left; a sweep will delete them")
        objects = [entry for document in gone for entry in entries[document]]
        failed = await self._delete_objects(objects, by, until=begun + seconds)
        for document, was_there in gone.items():
            left = tuple(failed[entry.entry_id] for entry in entries[document] if entry.entry_id in failed)
            outcomes[document] = Outcome("deleted", left, was_there)
        return [outcomes[stored.document_id] for stored in recordings]

    async def expire_claims(self) -> None:
        """Removes the claims of processes that did not end their deletions, also while a sweep takes hours."""
        await self._claims.expire()

    async def sweep(
        self,
        *,
        only_due: bool,
        advance: Callable[[int], object] = lambda _: None,
        is_over: Callable[[], bool] = lambda: False,
    ) -> SweepResult:
        """Deletes the media objects that deletions left behind, with `only_due` only those whose next attempt is due.

        `advance` gets the number of objects of each batch that was tried. The sweep ends after the batch in which
        `is_over` becomes true.
        """
        swept = SweepResult()
        await self._claims.expire()
        await self._delete_versions(now_milliseconds() - (_GRACE if only_due else 0))
        async for batch in self._journal.claim(now_milliseconds() if only_due else None):
            orphans = [entry for entry in batch if not await self._revived(entry)]
            failed = await self._delete_objects(orphans, _SWEEP, swept)
            swept.failed += len(failed)
            swept.needed += len(batch) - len(orphans)
            await self._journal.remove([entry for entry in batch if entry not in orphans])
            advance(len(batch))
            if is_over():
                break
        return swept

    async def _delete_versions(self, before: int) -> None:
        """Deletes what is left of former versions whose recordings were deleted, and the notes of these deletions."""
        for repository in self._repositories.values():
            async for noted in repository.version_store.deletions(before):
                found = await asyncio.gather(*(repository.read(document) for document, _ in noted))
                exist = {
                    (stored.document_id, stored.protection.history)
                    for stored in found
                    if stored is not None and stored.protection is not None
                }
                await repository.version_store.delete([one for one in noted if one not in exist])
                await repository.version_store.end_deletion(noted)

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

    async def _ask(self, questions: list[frozenset[str]]) -> list[bool | Exception]:
        """Returns, for the digests of each object, whether a recording of any resource refers to it now."""
        keys = frozenset[str]().union(*questions)
        found = await asyncio.gather(*(repository.references(keys) for repository in self._repositories.values()))
        referenced = set[str]().union(*found)
        return [not referenced.isdisjoint(question) for question in questions]

    async def _delete_objects(
        self,
        entries: Sequence[MediaDeletion],
        by: Actor,
        swept: SweepResult | None = None,
        *,
        until: float = math.inf,
    ) -> dict[str, FailedMedia]:
        """Deletes the objects that no recording refers to; returns those that stay in the journal, by entry id.

        None is begun after `until`, a time of the monotonic clock.
        """
        results: dict[str, str] = {}
        waiting = iter(entries)

        async def work() -> None:
            for entry in waiting:
                if time.monotonic() >= until:
                    return
                results[entry.entry_id] = await self._delete_object(entry, by, until)

        await asyncio.gather(*(work() for _ in range(_CONCURRENT_OBJECTS_OF_ONE)))
        outcomes = {entry: results.get(entry.entry_id, "left") for entry in entries}
        failed = {
            entry.entry_id: _failed(entry) if outcome == "failed" else _left(entry)
            for entry, outcome in outcomes.items()
            if outcome in {"failed", "left"}
        }
        if swept is not None:
            swept.deleted += list(results.values()).count("deleted")
            swept.needed += list(results.values()).count("needed")
        try:
            await self._journal.remove([entry for entry in entries if entry.entry_id not in failed])
        except ElasticsearchUnavailable:
            log.warning("the journal of deletions still names media objects that are gone; a sweep will see that")
        return failed

    async def _delete_object(
        self, entry: MediaDeletion, by: Actor, until: float
    ) -> Literal["deleted", "needed", "failed", "left"]:
        descriptor = codec.decode(entry.descriptor)
        try:
            async with self._slots[_storage_of(descriptor, self._configured)]:
                if time.monotonic() >= until:  # the storage is slow, and the slots are those of other deletions
                    return "left"
                for _ in range(_CLAIM_ATTEMPTS):
                    outcome = await self._delete_claimed(descriptor)
                    if outcome in {"deleted", "lost"}:
                        self._audit.write(_audit_line(entry, by))
                    if outcome is not None:
                        return "needed" if outcome == "lost" else outcome
        except (LocationNotAllowed, ClaimHeld, RecallError, TimeoutError) as error:
            log.warning(
                "media object %s of recording %s is not deleted: %s",
                entry.media_uuid,
                entry.recording_id,
                getattr(error, "reason", None) or error or type(error).__name__,
            )
        return "failed"

    async def _delete_claimed(self, descriptor: dict[str, Any]) -> Literal["deleted", "needed", "lost"] | None:
        """Claims an object, asks whether a recording needs it, and deletes it if none does.

        Returns None if a recording that refers to it was stored meanwhile and cancelled the claim. An object that is
        needed is "lost" if an earlier deletion, which did not live to say so, had deleted it already.
        """
        claim = await self._claims.acquire(claim_keys(descriptor, self._configured))
        call = _StorageCall()
        try:
            # Asked after the claim is there: a recording that this misses sees the claim (`MediaClaims.refuse`).
            if await self._questions.submit(frozenset(same_object_keys(descriptor, self._configured))):
                return "lost" if claim.follows_a_call and await self._is_gone(descriptor) else "needed"
            location = resolve_location(descriptor, self._configured)
            call.restart()
            if not await self._claims.begin(claim):
                return None
            watch = REQUEST_WATCH.set(call)
            try:
                async with asyncio.timeout(_CALL_SECONDS):
                    await self._storages.delete(location)
            finally:
                REQUEST_WATCH.reset(watch)
            call.is_unanswered = False  # the storage has shown that the object is gone, even after a 202
            return "deleted"
        finally:
            await self._release(claim, unanswered=call.is_unanswered)

    async def _is_gone(self, descriptor: dict[str, Any]) -> bool:
        return await self._storages.is_gone(resolve_location(descriptor, self._configured))

    async def _release(self, claim: Claim, *, unanswered: bool) -> None:
        try:
            await self._claims.release(claim, unanswered=unanswered)
        except ElasticsearchUnavailable:
            log.warning("the claim of a media object stays until it expires")


class _StorageCall:
    """Watches the requests of one deletion: none may be sent with a claim that another process may have taken over.

    `is_unanswered` tells whether the storage may still carry out a DELETE.
    """

    def __init__(self) -> None:
        self.is_unanswered = False
        self._is_delete = False
        self.restart()

    def restart(self) -> None:
        """Counts the time from now. Call it before the claim is marked."""
        self._begun = _clocks()

    def sending(self, method: str) -> None:
        """Raises MediaStorageTimeout if too much time has passed, for example because the process was paused."""
        if any(abs(now - then) > _CALL_SECONDS for now, then in zip(_clocks(), self._begun, strict=True)):
            raise MediaStorageTimeout("the claim is too old, so the storage is not called")
        self._is_delete = method == "DELETE"
        self.is_unanswered = self.is_unanswered or self._is_delete

    def answered(self, status: int) -> None:
        if self._is_delete:
            self.is_unanswered = status in _UNFINISHED


def _clocks() -> tuple[float, float]:
    """Returns two clocks: one may stand still while a machine sleeps, the other may be set by an operator."""
    return time.monotonic(), time.time()


def _entries(resource: Resource, stored: StoredRecording) -> list[MediaDeletion]:
    now = now_milliseconds()
    return [
        MediaDeletion(
            entry_id=uuid4().hex,
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


def _storage_of(descriptor: dict[str, Any], configured: StorageConfig) -> object:
    """Returns the configured storage of an object, None if there is none."""
    try:
        return resolve_location(descriptor, configured).storage
    except LocationNotAllowed:
        return None


def _audit_line(entry: MediaDeletion, by: Actor) -> Entry:
    return Entry(
        user=by.name,
        contact_center=entry.contact_center,
        address=by.address,
        operation="delete-media",
        resource=entry.resource,
        recording_id=entry.recording_id,
        media=entry.media_uuid,
        outcome="success",
        status_code=0,
    )


def _failed(entry: MediaDeletion) -> FailedMedia:
    descriptor = codec.decode(entry.descriptor)
    where = (
        media_url(descriptor)
        if descriptor["storage"] == "webDAV"
        else f"{descriptor['data']['bucket']}/{descriptor['path']}"
    )
    return FailedMedia(entry.media_uuid, descriptor, f"Fail to send request deleting {where}")


def _left(entry: MediaDeletion) -> FailedMedia:
    message = "The recording has too many media for one request: this one is deleted later, by itself."
    return FailedMedia(entry.media_uuid, codec.decode(entry.descriptor), message)
