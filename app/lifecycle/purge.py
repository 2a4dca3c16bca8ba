"""Deletes recordings that match criteria and that nothing protects: `recall purge` (docs/decisions/0015-purge.md)."""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

import msgspec

from app.audit import AuditLog, Entry
from app.audit import Outcome as AuditOutcome
from app.auth.scope import Scope
from app.lifecycle.deletion import Actor, Deletion, Outcome
from app.lifecycle.patience import Patience
from app.media.missing import MissingMedia
from app.recordings.identity import Resource
from app.search.criteria import Criteria
from app.store.repository import MatchCounts, RecordingRepository, StoredRecording, conflict_backoff

# How many recordings are read, and deleted concurrently. With media fewer, because each may take a storage some time.
_BATCH = 500
_BATCH_WITH_MEDIA = 100
_FIRST_BATCH = 10

# How often recordings that other processes change meanwhile are read again.
_ATTEMPTS = 20

_PURGE = Actor("purge")
_SUCCESS, _PROTECTED, _FAILED, _MEDIA_LEFT = 0, 3, 4, 7  # statusCode (docs/contract.md section 1)


# Returns those of some recordings that may be deleted.
MayDelete = Callable[[Sequence[StoredRecording]], Awaitable[Sequence[StoredRecording]]]


@dataclass(frozen=True)
class Task:
    """What to delete, and how.

    Missing media objects of a storage that has shown none stop it, unless `missing_media_ok`. `rate` is in recordings
    per second at most. `patience` is how many seconds to keep trying while Elasticsearch does
    not answer.
    """

    resource: Resource
    scope: Scope
    criteria: Criteria
    with_media: bool
    missing_media_ok: bool
    rate: int | None
    patience: float


class Counts(msgspec.Struct, rename="camel"):
    """How many recordings had each outcome.

    `changed` ones no longer matched, or no longer existed, when they were about to be deleted. `media_failed` counts
    media objects.
    """

    deleted: int = 0
    protected: int = 0
    changed: int = 0
    failed: int = 0
    media_failed: int = 0

    @property
    def is_complete(self) -> bool:
        """Whether everything that was to go is gone."""
        return not (self.failed or self.media_failed)


class Purge:
    """One walk from the oldest matching recording to the newest, until `stop`, or until `missing` suspects a storage.

    `counts` is kept up to date.
    """

    def __init__(
        self,
        repository: RecordingRepository,
        deletion: Deletion,
        audit: AuditLog,
        task: Task,
        may_delete: MayDelete | None = None,
    ) -> None:
        """`repository` is that of the task's resource. What `may_delete` does not return stays."""
        self._repository = repository
        self.missing = MissingMedia(believes_all=task.missing_media_ok)
        self._deletion = deletion.judging(self.missing)
        self._audit = audit
        self._task = task
        self._may_delete = may_delete
        self._patience = Patience(task.patience)
        self.counts = Counts()
        batch = _BATCH_WITH_MEDIA if task.with_media else _BATCH
        self._batch = min(batch, task.rate) if task.rate else batch

    def stop(self) -> None:
        """Ends the walk after the batch in flight."""
        self._patience.stop()

    @property
    def is_stopped(self) -> bool:
        return self._patience.is_stopped

    async def count(self) -> MatchCounts:
        """Counts what matches now. Raises ElasticsearchUnavailable or InternalError, as `run` does."""
        return await self._patience.call(partial(self._repository.count, self._task.scope, self._task.criteria))

    async def run(self, advance: Callable[[int], object]) -> None:
        """Deletes; `advance` gets the number of recordings of each batch that is done.

        Raises ElasticsearchUnavailable when Elasticsearch does not answer for longer than the task's patience,
        InternalError when it cannot do what it should.
        """
        after: StoredRecording | None = None
        # The media objects of the first few tell whether a storage has its share.
        size = min(self._batch, _FIRST_BATCH) if self._task.with_media else self._batch
        while not self.is_stopped:
            begun = time.monotonic()
            batch = await self._patience.call(
                partial(self._repository.scan, self._task.scope, self._task.criteria, size=size, after=after)
            )
            if not batch:
                return
            after = batch[-1]
            await self._delete(batch)
            advance(len(batch))
            size = self._batch
            if self.missing.suspect is not None:
                self.stop()
            if self._task.rate:
                await self._patience.pause(begun + len(batch) / self._task.rate - time.monotonic())

    async def _delete(self, batch: Sequence[StoredRecording]) -> None:
        """Deletes each recording in the state that matched. One that has changed since is matched again."""
        task = self._task
        attempts = 0

        async def delete() -> list[Outcome]:
            nonlocal attempts
            attempts += 1
            return await self._deletion.delete_stored(task.resource, batch, with_media=task.with_media, by=_PURGE)

        try:
            conflicts = conflict_backoff()
            for _ in range(_ATTEMPTS):
                if self._may_delete is not None:
                    batch = await self._patience.call(partial(self._may_delete, batch))
                attempts = 0
                outcomes = await self._patience.call(delete)
                changed = []
                for stored, outcome in zip(batch, outcomes, strict=True):
                    if outcome.status == "changed":
                        changed.append(stored)
                    elif outcome.status == "protected":
                        self.counts.protected += 1
                        self._write(stored, "refused", _PROTECTED)
                    elif not outcome.was_there and attempts == 1:
                        # Another process has deleted it, and counts it.
                        self.counts.changed += 1
                    else:
                        self.counts.deleted += 1
                        self.counts.media_failed += len(outcome.failed)
                        self._write(stored, "success", _MEDIA_LEFT if outcome.failed else _SUCCESS)
                batch = changed
                if not batch:
                    return
                await conflicts.wait()
                batch = await self._patience.call(
                    partial(self._repository.still_matching, task.scope, task.criteria, changed)
                )
                self.counts.changed += len(changed) - len(batch)
        finally:
            # After too many attempts, or when Elasticsearch failed: it is unknown whether these were deleted.
            for stored in batch:
                self.counts.failed += 1
                self._write(stored, "failed", _FAILED)

    def _write(self, stored: StoredRecording, outcome: AuditOutcome, code: int) -> None:
        self._audit.write(
            Entry(
                user=_PURGE.name,
                contact_center=stored.contact_center,
                address=None,
                operation="purge",
                resource=self._task.resource,
                recording_id=stored.recording["id"],
                outcome=outcome,
                status_code=code,
                with_media=self._task.with_media,
            )
        )
