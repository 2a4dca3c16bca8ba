"""Runs rules of retention: `recall retention` (docs/decisions/0038-retention.md).

A rule's tasks are purges and backups, as `recall purge` and `recall backup` do them. A rule is run by one process at a
time, which holds its lease.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, AsyncExitStack
from hashlib import sha256
from typing import Any, Literal

import msgspec

from app.audit import AuditLog
from app.auth.scope import Scope
from app.errors import MediaNotFound, RecallError
from app.lifecycle import backup, purge
from app.lifecycle.archiving import Archiving, TooLong, VersionsMissing
from app.lifecycle.backup import is_unchanged, reason_of
from app.lifecycle.deletion import Deletion
from app.lifecycle.labels import Labelling
from app.lifecycle.protection import is_protected
from app.lifecycle.retention_rules import Rule, Task
from app.media.archives import Archive, ArchiveFailed, FileMissing
from app.media.location import LocationNotAllowed
from app.media.storages import MediaStorages
from app.media.zipped import open_archive
from app.recordings.backup import CONTENTS, MANIFEST, RECORDING, FileEntry, Malformed, folder_of, parse_manifest
from app.recordings.dates import format_instant
from app.recordings.identity import Resource, media_name
from app.recordings.labels import name_key
from app.settings import Settings, StorageConfig
from app.store.journal import now_milliseconds
from app.store.lease import LeaseError, LeaseHeld
from app.store.repository import RecordingRepository, StoredRecording
from app.store.retention import RetentionStore

log = logging.getLogger(__name__)

Outcome = Literal["success", "failed", "refused", "interrupted", "done already", "not run"]

# Makes what shows the progress of a number of recordings.
Show = Callable[[int, str], AbstractContextManager[Callable[[int], object]]]

# How many recordings are copied, or looked up in a backup, concurrently.
_PARALLEL = 8


class TaskResult(msgspec.Struct, rename="camel", kw_only=True):
    """What became of a task for one resource and contact center (None for all).

    `matched` and `protected` are the numbers at its beginning. `counts` are those of `recall purge` or `recall backup`;
    a purge has `notBackedUp` too, the recordings that it left because the backup does not have them as they are.
    """

    kind: str
    resource: Resource
    contact_center: str | None
    outcome: Outcome = "not run"
    matched: int = 0
    protected: int = 0
    counts: dict[str, int] = {}
    error: str | None = None


class RuleResult(msgspec.Struct, rename="camel", kw_only=True):
    """What became of a rule. `error` says why, if it is no success."""

    name: str
    started: str
    outcome: Outcome = "success"
    error: str | None = None
    tasks: list[TaskResult] = []
    ended: str | None = None

    @property
    def counts(self) -> dict[str, int]:
        """The counts of all its tasks together."""
        names = dict.fromkeys(name for task in self.tasks for name in task.counts)
        return {name: sum(task.counts.get(name, 0) for task in self.tasks) for name in names}


class Retention:
    """Runs rules, one after the other, until `stop`."""

    def __init__(
        self,
        repositories: Mapping[Resource, RecordingRepository],
        deletion: Deletion,
        labelling: Labelling,
        storages: MediaStorages,
        *,
        store: RetentionStore,
        settings: Settings,
        audit: AuditLog,
        show: Show,
        rate: int | None,
        patience: float,
    ) -> None:
        """`rate` is in recordings per second at most, of purges. `patience` is that of `recall purge`."""
        self._repositories = repositories
        self._deletion = deletion
        self._labelling = labelling
        self._archiving = Archiving(repositories, labelling)
        self._storages = storages
        self._store = store
        self._settings = settings
        self._audit = audit
        self._show = show
        self._rate = rate
        self._patience = patience
        self._working: purge.Purge | backup.Backup | None = None
        self._is_stopped = False

    def stop(self) -> None:
        """Ends the rule after what is in flight."""
        self._is_stopped = True
        if self._working is not None:
            self._working.stop()

    @property
    def is_stopped(self) -> bool:
        return self._is_stopped

    async def run(self, rule: Rule, now: int, *, slot: int = 0, dry_run: bool = False) -> RuleResult:
        """Runs a rule with the ages of an instant (milliseconds since 1970); nothing is raised that a rule may meet.

        A `slot` is the daily time that the run is for: it is "done already" if a run for it has come to its end. A dry
        run counts, and changes nothing.
        """
        result = RuleResult(name=rule.name, started=format_instant(now_milliseconds()))
        try:
            if dry_run:
                await self._run_tasks(rule, now, result, dry_run=True)
            else:
                await self._run_leased(rule, now, slot, result)
        except LeaseHeld as error:
            result.outcome, result.error = "refused", f"{error}; it is running this rule"
        except LeaseError as error:
            result.outcome, result.error = "failed", f"another process may run the rule now: {error}"
        except RecallError as error:
            result.outcome, result.error = "failed", _why(error)
        except Exception as error:
            log.exception("the rule %s was interrupted", rule.name)
            result.outcome, result.error = "failed", f"{type(error).__name__}: {error}"
        result.ended = format_instant(now_milliseconds())
        return result

    async def _run_leased(self, rule: Rule, now: int, slot: int, result: RuleResult) -> None:
        lease = self._store.lease(rule.name)
        async with lease.acquire():
            done = lease.state
            if slot and done.slot >= slot:
                if done.digest not in {"", rule.digest}:
                    result.outcome, result.error = "refused", "another rule of this name has run: names must differ"
                elif done.failed:
                    result.outcome, result.error = "failed", "the run for this time, of another process, has failed"
                else:
                    result.outcome = "done already"
                return
            await self._run_tasks(rule, now, result, dry_run=False)
            if result.outcome == "interrupted":
                return  # the slot is still to be done
            state = lease.state
            state.slot, state.ended, state.counts = max(slot, state.slot), now_milliseconds(), result.counts
            state.digest, state.failed = rule.digest, result.outcome != "success"
            if result.outcome == "success":
                state.succeeded = state.ended
            await lease.save()

    async def _run_tasks(self, rule: Rule, now: int, result: RuleResult, *, dry_run: bool) -> None:
        """Runs the tasks in their order. After a failure only a purge goes on that asks the backup by itself."""
        objection = await self._unknown_exclusion(rule)
        if objection is None and not dry_run:
            objection = await self._unbegun_backup(rule)
        if objection is not None:
            result.outcome, result.error = "failed", objection
            return
        for task in rule.tasks:
            for contact_center in rule.contact_centers or (None,):
                for resource in task.resources:
                    done = TaskResult(kind=task.kind, resource=resource, contact_center=contact_center)
                    result.tasks.append(done)
                    if self._is_stopped:
                        result.outcome = done.outcome = "interrupted"
                    elif result.outcome == "success" or (task.require_backup and result.outcome == "failed"):
                        scope = Scope(contact_center, self._settings.region)
                        await self._run_task(task, resource, scope, now, done, dry_run=dry_run)
                    else:
                        done.error = "a task before it has failed"
                    if done.outcome in {"failed", "interrupted"}:
                        result.outcome = done.outcome
                        result.error = result.error or done.error

    async def _unbegun_backup(self, rule: Rule) -> str | None:
        """Returns why a purge of the rule cannot ask its backup, None if all can.

        A rule that begins it would delete what is then only in a folder over which the real disk is mounted later.
        """
        for location in {task.location for task in rule.tasks if task.require_backup and task.location}:
            try:
                async with open_archive(location, self._settings.storage.s3, to_write=False, connections=1) as archive:
                    await archive.read(CONTENTS)
            except FileMissing:
                why = "is its disk mounted? Make the first one by hand, with `recall backup`"
                return f"{location} has no backup, which require_backup asks: {why}"
            except ArchiveFailed as error:
                return str(error)
        return None

    async def _unknown_exclusion(self, rule: Rule) -> str | None:
        """Returns why a purge must not run: its excluded label, which no contact center has, may be misspelt."""
        excluded = [label for task in rule.tasks if task.kind == "purge" for label in task.exclude_labels]
        contact_centers: Collection[str] = rule.contact_centers
        if excluded and not contact_centers:  # all of them
            contact_centers = await self._repositories["recordings"].contact_centers(self._settings.region)
        for label in excluded if contact_centers else ():
            key = name_key(label)
            for contact_center in contact_centers:
                if key in await self._labelling.definitions(contact_center):
                    break
                if await self._repositories["recordings"].carry_label(contact_center, key):
                    break
            else:
                return f'exclude_labels: no contact center of the rule has the label "{label}"'
        return None

    async def _run_task(
        self, task: Task, resource: Resource, scope: Scope, now: int, done: TaskResult, *, dry_run: bool
    ) -> None:
        criteria = task.conditions(resource, now)
        try:
            if dry_run:
                found = await self._repositories[resource].count(scope, criteria)
                done.matched, done.protected, done.outcome = found.total, found.protected, "success"
            elif task.kind == "purge":
                how = purge.Task(
                    resource, scope, criteria, task.with_media, task.missing_media_ok, self._rate, self._patience
                )
                await self._purge(task, how, done)
            else:
                await self._back_up(task, backup.Task(resource, scope, criteria, _PARALLEL, self._patience), done)
        except ArchiveFailed as error:
            done.outcome, done.error = "failed", str(error)
        except RecallError as error:
            done.outcome, done.error = "failed", _why(error)
        finally:
            self._working = None

    async def _purge(self, task: Task, how: purge.Task, done: TaskResult) -> None:
        """Raises RecallError, ArchiveFailed."""
        async with AsyncExitStack() as stack:
            backed_up: _BackedUp | None = None
            if task.require_backup:
                assert task.location is not None
                archive = await stack.enter_async_context(
                    open_archive(task.location, self._settings.storage.s3, to_write=False, connections=2 * _PARALLEL)
                )
                backed_up = _BackedUp(
                    archive,
                    self._archiving,
                    self._storages,
                    self._settings.storage,
                    resource=how.resource,
                    with_media=how.with_media,
                )
            may_delete = backed_up.those if backed_up else None
            purging = purge.Purge(self._repositories[how.resource], self._deletion, self._audit, how, may_delete)
            try:
                await self._work(purging, purging.run, done, f"{done.kind} of {done.resource}")
            finally:
                done.counts = msgspec.to_builtins(purging.counts)
                if backed_up is not None:
                    done.counts["notBackedUp"] = backed_up.missing
        counts = purging.counts
        if purging.missing.suspect is not None:
            self._fail(
                done, f"the first media objects of {purging.missing.suspect} are all missing: see missing_media_ok"
            )
        elif counts.failed or counts.media_failed:
            self._fail(done, f"recordings that failed: {counts.failed}, media objects: {counts.media_failed}")
        elif backed_up is not None and backed_up.missing:
            self._fail(done, f"recordings left because the backup does not have them as they are: {backed_up.missing}")

    async def _back_up(self, task: Task, how: backup.Task, done: TaskResult) -> None:
        """Raises RecallError, ArchiveFailed."""
        assert task.location is not None
        storage = self._settings.storage
        async with open_archive(task.location, storage.s3, to_write=True, connections=2 * _PARALLEL) as archive:
            copying = backup.Backup(
                self._repositories,
                self._labelling,
                self._storages,
                storage,
                archive=archive,
                audit=self._audit,
                task=how,
            )
            try:
                await self._work(copying, copying.run, done, f"{done.kind} of {done.resource}")
            finally:
                done.counts = msgspec.to_builtins(copying.counts)
        if not copying.counts.is_complete:
            reasons = "; ".join(f"{each.recording_id} {each.file}: {each.reason}" for each in copying.failures[:3])
            self._fail(done, f"not all was copied: {reasons}")

    async def _work(
        self,
        work: purge.Purge | backup.Backup,
        run: Callable[[Callable[[int], object]], object],
        done: TaskResult,
        what: str,
    ) -> None:
        self._working = work
        matching = await work.count()
        done.matched, done.protected = matching.total, matching.protected
        with self._show(matching.total, what) as advance:
            await work.run(advance)
        # A purge stops by itself, too.
        done.outcome = "interrupted" if self._is_stopped else "success"

    @staticmethod
    def _fail(done: TaskResult, error: str) -> None:
        if done.outcome == "success":
            done.outcome, done.error = "failed", error


class _BackedUp:
    """Tells which recordings a backup has as they are now; `missing` counts those that it has not."""

    def __init__(
        self,
        archive: Archive,
        archiving: Archiving,
        storages: MediaStorages,
        configured: StorageConfig,
        *,
        resource: Resource,
        with_media: bool,
    ) -> None:
        self._archive = archive
        self._archiving = archiving
        self._storages = storages
        self._configured = configured
        self._resource = resource
        self._with_media = with_media
        self.missing = 0

    async def those(self, recordings: Sequence[StoredRecording]) -> list[StoredRecording]:
        """Returns those that a purge may take: it refuses protected ones by itself."""
        found: list[StoredRecording] = []
        for start in range(0, len(recordings), _PARALLEL):
            some = recordings[start : start + _PARALLEL]
            has = await asyncio.gather(*map(self._has, some))
            found += [stored for stored, is_there in zip(some, has, strict=True) if is_there]
        self.missing += len(recordings) - len(found)
        return found

    async def _has(self, stored: StoredRecording) -> bool:
        """Raises ArchiveFailed if the backup cannot be read."""
        if is_protected(stored.recording):
            return True
        try:
            return await self._has_all(stored)
        except (FileMissing, Malformed, TooLong, VersionsMissing):
            return False

    async def _has_all(self, stored: StoredRecording) -> bool:
        """Raises FileMissing, Malformed, TooLong, VersionsMissing, and ArchiveFailed if the backup cannot be read."""
        folder = folder_of(self._resource, stored.contact_center, stored.recording)
        manifest = parse_manifest(await self._archive.read(f"{folder}/{MANIFEST}"), folder)
        sizes = await self._archive.sizes(folder)
        region, recording_id = stored.recording["region"], stored.recording["id"]
        if not manifest.is_of(self._resource, stored.contact_center, region, recording_id):
            return False
        media = stored.recording["mediaFiles"] if self._with_media else []
        names = (RECORDING, *map(media_name, media))
        if any(name not in manifest.files or sizes.get(name) != manifest.files[name].size for name in names):
            return False
        content = await self._archiving.content(self._resource, stored)
        if manifest.files[RECORDING].sha256 != sha256(content).hexdigest():
            return False
        return all([await self._has_media(each, manifest.files[media_name(each)]) for each in media])

    async def _has_media(self, media: Mapping[str, Any], known: FileEntry) -> bool:
        """Returns whether the object that would be deleted is the one that the backup has, or is gone already."""
        try:
            return await is_unchanged(media, known, self._storages, self._configured)
        except MediaNotFound:
            return True
        except (RecallError, LocationNotAllowed) as error:
            log.warning("media file %s is not compared with the backup: %s", media_name(media), reason_of(error))
            return False


def _why(error: RecallError) -> str:
    return f"Elasticsearch cannot be used: {error.__cause__ or error}"
