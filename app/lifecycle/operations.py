"""Operations on many recordings (docs/contract.md section 10, docs/decisions/0037-operations.md).

Each recording goes through the code of the single operation. An operation by criteria is a job: the ids of its
recordings are stored before it is accepted, and any process of the region carries it on under a lease.
"""

import asyncio
import logging
import random
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from uuid import uuid4
from weakref import WeakValueDictionary

import msgspec
from msgspec import UNSET
from prometheus_client import CollectorRegistry, Counter

from app import audit, codec
from app.audit import AuditLog, Entry
from app.auth import policy
from app.auth.passwords import Authenticator
from app.auth.policy import require_permission, require_role
from app.auth.scope import Scope, limits_of
from app.background import work_for
from app.errors import (
    ElasticsearchUnavailable,
    InternalError,
    LabelDefinitionNotFound,
    LabelNotFound,
    MediaBeingDeleted,
    MediaLeft,
    OperationNotFound,
    RecallError,
    RecordingChanged,
    RecordingNotFound,
    RecordingProtected,
    ShareInUse,
)
from app.ids import MAX_ID_BYTES
from app.lifecycle.deletion import Actor, Deletion
from app.lifecycle.labels import Labelling
from app.lifecycle.protection import Protection
from app.recordings.labels import name_key
from app.retry import Backoff
from app.search.criteria import ANY_LABEL, Condition, Criteria, parse_criteria
from app.search.paging import Page, PageRequest
from app.settings import Settings, User
from app.store.documents import document_id
from app.store.journal import now_milliseconds
from app.store.lease import Lease, LeaseError
from app.store.operations import PART, Failure, Operation, OperationName, OperationStore, Part
from app.store.repository import VIEW_SECONDS, RecordingRepository, ViewGone

log = logging.getLogger(__name__)

# What the user of each operation must be allowed to do, for the users of a contact center and for ops.
NEEDED: Mapping[OperationName, policy.Operation] = {
    "applyNonDelete": "apply",
    "unapplyNonDelete": "unapply",
    "addLabel": "label",
    "removeLabel": "unlabel",
}
NEEDED_BY_OPS: Mapping[OperationName, policy.Operation] = {
    "applyNonDelete": "ops-protect",
    "unapplyNonDelete": "ops-protect",
    "addLabel": "ops-label",
    "removeLabel": "ops-label",
    "delete": "ops-delete",
}
_AUDITED: Mapping[OperationName, audit.Operation] = {
    "applyNonDelete": "apply",
    "unapplyNonDelete": "unapply",
    "addLabel": "add-label",
    "removeLabel": "delete-label",
    "delete": "delete",
}

# How long operations are listed.
DAYS = 30
_DAY = 86_400_000

MAX_FAILURES = 100
_MAX_RUNNING = 20

# Of operations by ids, whose clients wait; and of all jobs of a process, so that other requests hardly notice them.
_CONCURRENT_OF_IDS = 8
_CONCURRENT_OF_JOBS = 2
# After each recording a job pauses for as long as the recording took, times this.
_PAUSE = 1.0

# A process that takes over does so many recordings again at most. Each so many cost one write of the state.
_SLICE = 20

# A job tries again after these: for ever while Elasticsearch is away, for so long while a media object is deleted.
_WAITED_FOR = (ElasticsearchUnavailable, MediaBeingDeleted)
_PATIENCE_SECONDS = 30.0
_CANCEL_SECONDS = 10.0
_FORGET_SECONDS = 3_600.0
_TOO_MANY = 429

_OPERATION_ID = re.compile("[0-9a-f]{32}")

_LIST_LOST = "Elasticsearch has lost the list of what matched before it was complete. Nothing was done: try again."


@dataclass(frozen=True)
class Asked:
    """What a client asks for: an operation, and its attributes as far as they apply to it."""

    operation_name: OperationName
    label: str = ""
    comment: str | None = None
    reason: str | None = None
    with_media: bool = False


@dataclass(frozen=True)
class By:
    """Who asks, from which address, and for which contact center; `is_ops` by the path for ops."""

    user: User
    contact_center: str
    is_ops: bool
    address: str | None


@dataclass(frozen=True)
class _Redo:
    """An earlier process began with the recording at this time, and may have done it. It had this version before."""

    begun_at: int
    version: tuple[int, int]


class _Ended(Exception):
    """The work must not go on: by a cancellation, or because its user may not do it any more (`why`)."""

    def __init__(self, why: str = "") -> None:
        super().__init__(why)
        self.why = why


class Operations:
    """Takes operations on many recordings, and carries them on."""

    def __init__(  # noqa: PLR0917
        self,
        store: OperationStore,
        recordings: RecordingRepository,
        protection: Protection,
        labelling: Labelling,
        deletion: Deletion,
        authenticator: Authenticator,
        log_: AuditLog,
        settings: Settings,
        registry: CollectorRegistry,
    ) -> None:
        self._store = store
        self._recordings = recordings
        self._protection = protection
        self._labelling = labelling
        self._deletion = deletion
        self._authenticator = authenticator
        self._audit = log_
        self._settings = settings
        self._slots = asyncio.Semaphore(_CONCURRENT_OF_JOBS)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._new: set[str] = set()
        # By contact center, while one of its operations starts.
        self._starts: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._wake = asyncio.Event()
        self._forgotten_at: float | None = None
        self._handled = Counter(
            "recall_operation_recordings",
            "Recordings that operations on many have handled, by what became of each (success or failed).",
            ["outcome"],
            registry=registry,
        )

    # --- For who asks ---

    async def start(self, by: By, asked: Asked, criteria: Criteria, shown: Mapping[str, str]) -> Operation:
        """Stores an operation on all recordings that match now and that its user may see; it goes on by itself.

        The list of these has its first PART of them on return, and the job adds the rest. `shown` is what clients read
        of the criteria: they parse to the same. Raises LabelDefinitionNotFound, SearchTooLarge, and ShareInUse if
        the contact center has too many running.
        """
        await self._check_label(by, asked)
        # One start after the other, so that the next one counts this one.
        async with self._starts.setdefault(by.contact_center, asyncio.Lock()):
            if await self._store.count_running(by.contact_center) >= _MAX_RUNNING:
                raise ShareInUse("operations by criteria", "contact center")
            operation = self._new_operation(by, asked, codec.encode(shown).decode(), new_operation_id())
            operation.view = await self._recordings.open_view()
            try:
                operation.matched = await self._list_some(operation, self._scope_of(by), criteria) or 0
            except ViewGone:
                raise ElasticsearchUnavailable from None
            except BaseException:
                await self._recordings.close_view(operation.view)
                raise
            if not operation.matched:
                operation.state, operation.finished_at = "done", now_milliseconds()
            await self._store.create(operation)
        self._new.add(operation.id)
        self._wake.set()
        return operation

    async def apply(self, by: By, asked: Asked, recording_ids: Sequence[str], operation_id: str) -> Operation:
        """Does an operation on these recordings, each once, and returns what became of it, with every failure.

        Raises LabelDefinitionNotFound.
        """
        await self._check_label(by, asked)
        operation = self._new_operation(by, asked, None, operation_id)
        scope = self._scope_of(by)
        different = list(dict.fromkeys(recording_ids))
        operation.matched = len(different)
        until = time.monotonic() + self._settings.delete_seconds
        waiting = iter(different)

        async def work() -> None:
            for recording_id in waiting:
                seconds = max(0.0, until - time.monotonic())
                _count(operation, await self._handle(operation, scope, recording_id, seconds))

        await asyncio.gather(*(work() for _ in range(_CONCURRENT_OF_IDS)))
        operation.state, operation.finished_at = "done", now_milliseconds()
        failures = [*map(_shortened, operation.failures[:MAX_FAILURES])]
        stored = msgspec.structs.replace(operation, failures=failures)
        try:
            await self._store.create(stored)
        except RecallError:
            log.warning("operation %s is done, but cannot be listed", operation.id)
        return operation

    async def read(self, by: By, operation_id: str) -> Operation:
        """Returns an operation as of its last checkpoint; raises OperationNotFound."""
        operation = await self._store.read(operation_id) if _OPERATION_ID.fullmatch(operation_id) else None
        if (
            operation is None
            or operation.contact_center != by.contact_center
            or operation.region != self._settings.region
            or operation.created_at < _listed_since()
            or self._of_whom(by) not in {None, operation.by}
        ):
            raise OperationNotFound(operation_id)
        return operation

    async def search(self, by: By, page: PageRequest) -> tuple[Page[Operation], tuple[int, bool] | None]:
        """Returns a page of the operations of the last DAYS days, and how many there are, if the page asks for it."""
        where = by.contact_center, self._settings.region, self._of_whom(by), _listed_since()
        found = await self._store.search(*where, page)
        return found, await self._store.total(*where) if page.total else None

    async def cancel(self, by: By, operation_id: str) -> Operation:
        """Ends an operation. On return nothing more happens to any recording, or, after some seconds, begins.

        One that is over stays as it is. Raises OperationNotFound.
        """
        operation = await self.read(by, operation_id)
        if operation.state != "running":
            return operation
        await self._store.cancel(operation)
        self._new.add(operation_id)
        self._wake.set()
        backoff = Backoff(_CANCEL_SECONDS, initial=0.05, maximum=0.3)
        while operation.state == "running" and await backoff.wait():
            operation = await self.read(by, operation_id)
        return operation

    def _of_whom(self, by: By) -> str | None:
        """Returns whose operations somebody may see, None for all of the contact center."""
        sees_all = by.is_ops or ("admin" in by.user.roles and not by.user.is_limited)
        return None if sees_all else by.user.name

    async def _check_label(self, by: By, asked: Asked) -> None:
        """Raises LabelDefinitionNotFound. A label without a definition can be taken from those that have it.

        Those are recordings that the user may see: the answer must not tell of others.
        """
        if not asked.label:
            return
        key = name_key(asked.label)
        if key in await self._labelling.definitions(by.contact_center):
            return
        if asked.operation_name == "removeLabel":
            labelled = (Condition(ANY_LABEL, [asked.label]),)
            if (await self._recordings.count(self._scope_of(by), labelled)).total:
                return
        raise LabelDefinitionNotFound(asked.label)

    def _scope_of(self, by: By) -> Scope:
        return Scope(by.contact_center, self._settings.region, None if by.is_ops else limits_of(by.user))

    def _new_operation(self, by: By, asked: Asked, criteria: str | None, operation_id: str) -> Operation:
        return Operation(
            id=operation_id,
            contact_center=by.contact_center,
            region=self._settings.region,
            operation_name=asked.operation_name,
            label=asked.label,
            comment=asked.comment,
            reason=asked.reason,
            with_media=asked.with_media,
            by=by.user.name,
            is_ops=by.is_ops,
            address=by.address,
            criteria=criteria,
            created_at=now_milliseconds(),
        )

    # --- Each recording ---

    def _scope_now(self, operation: Operation) -> Scope:
        """Returns what the operation's user sees, as configured now; raises _Ended if she may not do it any more."""
        user = self._authenticator.user(operation.by)
        if user is None:
            raise _Ended(f"The user {operation.by} does not exist any more.")
        if not operation.is_ops and user.contact_center != operation.contact_center:
            raise _Ended(f"The user {operation.by} belongs to another contact center now.")
        needed = (NEEDED_BY_OPS if operation.is_ops else NEEDED)[operation.operation_name]
        try:
            require_role(user, needed)
            require_role(user, "ops-search" if operation.is_ops else "search")
            require_permission(user, needed)
        except RecallError as error:
            raise _Ended(f"The user {operation.by} may not do it any more: {error.message}") from None
        return Scope(operation.contact_center, operation.region, None if operation.is_ops else limits_of(user))

    async def _handle(  # noqa: PLR0917
        self,
        operation: Operation,
        scope: Scope,
        recording_id: str,
        seconds: float,
        redo: _Redo | None = None,
        raised: tuple[type[RecallError], ...] = (),
    ) -> Failure | None:
        """Does the operation on one recording and writes its line of the audit log; returns why it has failed.

        No media object is begun after so many seconds. Errors that are to be `raised` leave no line.
        """
        begun = time.monotonic()
        entry = Entry(
            user=operation.by,
            contact_center=operation.contact_center,
            address=operation.address,
            operation=_AUDITED[operation.operation_name],
            resource="recordings",
            recording_id=recording_id,
            operation_id=operation.id,
            label=operation.label or UNSET,
        )
        error: RecallError | None = None
        try:
            await self._do(operation, scope, recording_id, seconds, redo, entry)
        except raised:
            raise
        except asyncio.CancelledError:
            # It may have been done. A job is carried on by another process, which writes the line.
            if operation.criteria is None:
                self._audit.write(entry)
            raise
        except RecallError as answer:
            error = answer
        except Exception:
            log.exception("an operation has failed on a recording")
            error = InternalError()
        code = error.code if error else 0
        if code != 4 or (error and error.http_status == _TOO_MANY):
            entry.outcome = "success" if error is None or error.http_status < 400 else "refused"
        entry.status_code, entry.seconds = code, round(time.monotonic() - begun, 3)
        self._audit.write(entry)
        self._handled.labels("failed" if error else "success").inc()
        return Failure(recording_id, error.code, error.message) if error else None

    async def _do(  # noqa: PLR0917
        self,
        operation: Operation,
        scope: Scope,
        recording_id: str,
        seconds: float,
        redo: _Redo | None,
        entry: Entry,
    ) -> None:
        """Raises what the single operation raises."""
        name = operation.operation_name
        if name == "addLabel":
            if operation.comment is not None:
                entry.comment = operation.comment
            await self._labelling.give(scope, recording_id, operation.label, operation.comment, by=operation.by)
        elif name == "removeLabel":
            with suppress(LabelNotFound):
                begun_at = redo.begun_at if redo else None
                await self._labelling.take(scope, recording_id, operation.label, begun_at=begun_at)
        elif name == "delete":
            entry.with_media = operation.with_media
            await self._delete(operation, scope, recording_id, seconds, redo)
        else:
            if operation.reason is not None:
                entry.reason = operation.reason
            taken = entry.screen_recordings = []
            await self._protection.change(
                scope,
                recording_id,
                protect=name == "applyNonDelete",
                by=operation.by,
                reason=operation.reason,
                took_along=taken.append,
                begun_at=redo.begun_at if redo else None,
            )

    async def _delete(
        self, operation: Operation, scope: Scope, recording_id: str, seconds: float, redo: _Redo | None
    ) -> None:
        """Raises MediaLeft, RecordingNotFound, RecordingProtected, RecordingChanged."""
        by, with_media = Actor(operation.by, operation.address), operation.with_media
        if redo is None:
            failed = await self._deletion.delete(
                "recordings", scope, recording_id, with_media=with_media, by=by, seconds=seconds
            )
        else:
            # It may be another one, which was posted after the first attempt had deleted this one.
            try:
                stored = await self._recordings.get(scope, recording_id)
            except RecordingNotFound:
                deleted = document_id(operation.contact_center, operation.region, recording_id)
                left = await self._deletion.count_left("recordings", deleted) if with_media else 0
                if left:
                    raise MediaLeft(recording_id, left) from None
                return
            if (stored.version.seq_no, stored.version.primary_term) != redo.version:
                raise RecordingChanged(recording_id)
            (outcome,) = await self._deletion.delete_stored(
                "recordings", [stored], with_media=with_media, by=by, seconds=seconds
            )
            if outcome.status == "protected":
                raise RecordingProtected(recording_id)
            if outcome.status == "changed":
                raise RecordingChanged(recording_id)
            failed = outcome.failed
        if failed:
            raise MediaLeft(recording_id, len(failed))

    # --- Jobs ---

    async def carry_on(self) -> None:
        """Carries on, for ever, the operations that no other process works on."""
        try:
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(random.uniform(0.5, 1.0) * self._settings.lease_seconds / 3):  # noqa: S311
                        await self._wake.wait()
                self._wake.clear()
                new, self._new = self._new, set()
                try:
                    running = await self._store.running(self._settings.region)
                except RecallError:  # the store has told why; the next look may see more
                    running = []
                self._tasks = {each: task for each, task in self._tasks.items() if not task.done()}
                for operation_id in dict.fromkeys([*running, *new]):
                    if operation_id not in self._tasks:
                        self._tasks[operation_id] = asyncio.create_task(self._carry_on(operation_id))
        finally:
            tasks = list(self._tasks.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def forget(self) -> None:
        """Removes operations that are not listed any more, once an hour."""
        now = time.monotonic()
        if self._forgotten_at is not None and now - self._forgotten_at < _FORGET_SECONDS:
            return
        await self._store.forget(_listed_since(), now_milliseconds())
        self._forgotten_at = now

    async def _carry_on(self, operation_id: str) -> None:
        """Takes the lease of an operation, unless another process holds it, and works until the operation is over."""
        lease = self._store.lease(operation_id)
        try:
            operation = await self._store.read(operation_id)
            if operation is None or operation.state != "running":
                return
            work_for(operation.contact_center)
            async with lease.acquire():
                if lease.state.state == "running":
                    await self._work(lease)
            await self._store.forget_list(lease.state)
        except (LeaseError, RecallError) as error:
            log.info("operation %s goes on later, or elsewhere: %s", operation_id, error)
        except Exception:
            log.exception("operation %s was interrupted", operation_id)

    async def _work(self, lease: Lease[Operation]) -> None:
        operation = lease.state
        try:
            await self._complete_list(lease)
            await self._work_on_list(lease)
        except _Ended as end:
            operation.state, operation.message = ("failed" if end.why else "cancelled"), end.why
            if operation.view:
                await self._recordings.close_view(operation.view)
        else:
            operation.state = "done"
        operation.finished_at = now_milliseconds()
        await lease.save()

    async def _complete_list(self, lease: Lease[Operation]) -> None:
        """Adds to the list what it does not have yet. Raises _Ended."""
        operation = lease.state
        if not operation.view:
            return
        assert operation.criteria is not None
        criteria = parse_criteria(list(codec.decode(operation.criteria).items()))
        backoff = Backoff(VIEW_SECONDS, initial=0.2, maximum=5.0)
        while operation.view:
            try:
                async with self._slots:
                    await self._check_standing(lease)
                    await self._list_some(operation, self._scope_now(operation), criteria)
                    await lease.save()
            except ViewGone:
                raise _Ended(_LIST_LOST) from None
            except ElasticsearchUnavailable:
                if not await backoff.wait():
                    raise _Ended(_LIST_LOST) from None
            else:
                backoff = Backoff(VIEW_SECONDS, initial=0.2, maximum=5.0)
        operation.matched = operation.listed

    async def _list_some(self, operation: Operation, scope: Scope, criteria: Criteria) -> int | None:
        """Adds a part to the list; returns how many match, if it is the first. Raises ViewGone."""
        some = await self._recordings.matching(operation.view, scope, criteria, size=PART, after=operation.after)
        if some.found:
            ids = [each.recording_id for each in some.found]
            versions = [(each.seq_no, each.primary_term) for each in some.found]
            part = Part(operation.id, operation.created_at, ids, versions)
            await self._store.add_part(operation.listed // PART, part)
        operation.listed += len(some.found)
        operation.view, operation.after = some.view, some.after
        if len(some.found) < PART:
            await self._recordings.close_view(operation.view)
            operation.view, operation.after = "", []
        return some.total

    async def _work_on_list(self, lease: Lease[Operation]) -> None:
        """Does what is left of the list, slice by slice, with a checkpoint before each. Raises _Ended."""
        operation = lease.state
        begun, begun_at = operation.begun, operation.begun_at
        part, number = Part("", 0, [], []), -1
        while operation.position < operation.matched:
            if operation.position // PART != number:
                number = operation.position // PART
                part = await self._store.part(operation.id, number)
            end = min(operation.position + _SLICE, (number + 1) * PART, operation.matched)
            if operation.position < begun:
                end = begun  # what an earlier process began with keeps the time of that
            else:
                operation.begun, operation.begun_at = end, now_milliseconds()
                await lease.save()
            finished = set(operation.finished)
            numbers = iter([each for each in range(operation.position, end) if each not in finished])
            # All of them end, or none goes on after the others.
            async with asyncio.TaskGroup() as workers:
                tasks = [
                    workers.create_task(self._work_on(lease, part, numbers, begun, begun_at))
                    for _ in range(_CONCURRENT_OF_JOBS)
                ]
            for task in tasks:
                if (reason := task.result()) is not None:
                    raise reason
            operation.position, operation.finished = end, []

    async def _work_on(
        self, lease: Lease[Operation], part: Part, numbers: Iterator[int], begun: int, begun_at: int
    ) -> _Ended | LeaseError | None:
        """Does one recording after the other. Returns why it must not go on, if so."""
        for number in numbers:
            version = part.versions[number % PART]
            redo = _Redo(begun_at, version) if number < begun else None
            try:
                await self._patiently(lease, number, part.ids[number % PART], version, redo)
            except (_Ended, LeaseError) as reason:
                return reason
        return None

    async def _check_standing(self, lease: Lease[Operation]) -> None:
        """Raises LeaseError if another process works on the operation, _Ended if it is cancelled."""
        standing = await self._store.standing(lease.state.id, lease.token)
        if standing == "lost":
            raise LeaseError("another process works on it")
        if standing == "cancelled":
            raise _Ended

    async def _patiently(
        self, lease: Lease[Operation], number: int, recording_id: str, version: tuple[int, int], redo: _Redo | None
    ) -> None:
        """Does one recording, again while Elasticsearch does not answer. Raises _Ended, LeaseError."""
        operation = lease.state
        backoff = Backoff(initial=0.2, maximum=5.0)
        until = time.monotonic() + _PATIENCE_SECONDS
        has_begun = False
        while True:
            try:
                async with self._slots:
                    begun = time.monotonic()
                    await self._check_standing(lease)
                    scope = self._scope_now(operation)
                    raised = _WAITED_FOR if begun < until else (ElasticsearchUnavailable,)
                    seconds = self._settings.delete_seconds
                    has_begun = True
                    failure = await self._handle(operation, scope, recording_id, seconds, redo, raised)
                    # Nothing is awaited between the line of the audit log and this.
                    operation.finished.append(number)
                    _count(operation, failure)
                    await asyncio.sleep((time.monotonic() - begun) * _PAUSE)
                    return
            except _WAITED_FOR:
                # It may have been done all the same.
                if has_begun:
                    redo = redo or _Redo(operation.begun_at, version)
                await backoff.wait()


def new_operation_id() -> str:
    """Returns a new id for an operation."""
    return uuid4().hex


def _shortened(failure: Failure) -> Failure:
    """Returns a failure as a list of operations shows it. What cannot be an id may be as long as a request."""
    encoded = failure.id.encode()
    if len(encoded) <= MAX_ID_BYTES:
        return failure
    cut = encoded[:MAX_ID_BYTES].decode(errors="ignore") + "…"
    return Failure(cut, failure.status_code, failure.status_message.replace(failure.id, cut))


def _count(operation: Operation, failure: Failure | None) -> None:
    if failure is None:
        operation.succeeded += 1
        return
    operation.failed += 1
    if operation.criteria is None or len(operation.failures) < MAX_FAILURES:
        operation.failures.append(failure)


def _listed_since() -> int:
    return now_milliseconds() - DAYS * _DAY
