"""The order of a migration: copy, verify, catch up, block writes, catch up for the last time, swap."""

import asyncio
import logging
import os
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Executor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from elasticsearch import AsyncElasticsearch, NotFoundError

from app import codec
from app.migration.generation import (
    Copied,
    Digest,
    Generation,
    counts_by_contact_center,
    create_generation,
    fence_name,
    fences,
    move_fence,
)
from app.migration.patience import MigrationError, SnapshotLost, patiently
from app.migration.snapshot import Shard, Snapshot
from app.migration.sources import (
    Fields,
    Filled,
    Hit,
    Readable,
    Rejected,
    Source,
    digest_of,
    transform_encoded,
    transform_page,
)
from app.settings import Settings
from app.store.client import store_errors
from app.store.indices import RESOURCES, alias, load_schema
from app.store.lease import Ended, Lease, Plan, hold, state_of
from app.workers import processes

log = logging.getLogger(__name__)

_REQUEST_SECONDS = 60.0
# Writes are blocked once a round of catching up takes no longer than this, or after so many rounds.
_SHORT_ROUND = 0.5
_ROUNDS = 20
_ATTEMPTS = 5
# Other processes pay from so many documents in a pass on, and for a page of so many.
_MANY = 5_000
_FEW = 50

S = TypeVar("S", bound=Readable)

# Total and what is done → a context in which progress is told by calling with a number of documents.
Progress = Callable[[int, str], AbstractContextManager[Callable[[int], object]]]


@dataclass(frozen=True)
class Options:
    """`workers`: slices at a time; `rate`: documents a second at most; `shards`: of the new generation."""

    workers: int = 4
    rate: float | None = None
    allow_rejects: bool = False
    shards: int = 1
    discard: bool = False


@dataclass(frozen=True)
class Reject:
    """A document that was left out, and why."""

    index: str
    id: str
    reason: str
    contact_center: str


@dataclass
class Report:
    """What a run did. `target` is what the alias points to at the end if `swapped`."""

    target: str = ""
    swapped: bool = False
    resumed: bool = False
    documents: int = 0
    read: int = 0
    repaired: int = 0
    removed: int = 0
    blocked_seconds: float = 0.0
    rejects: list[Reject] = field(default_factory=list)


class RejectsNotAllowed(MigrationError):
    """There are rejects, so nothing was swapped."""


class _Differs(Exception):
    """What was copied is not what is in the sources, though it should be."""


class Migration:
    """One run that fills a new generation and swaps it in."""

    def __init__(
        self,
        client: AsyncElasticsearch,
        settings: Settings,
        resource: str,
        *,
        sources: Sequence[Source],
        options: Options,
        progress: Progress,
    ) -> None:
        self._client = client.options(request_timeout=_REQUEST_SECONDS)
        self._settings = settings
        self._alias = alias(settings, resource)
        self._resource = resource
        self._schema = load_schema(resource)
        self._kept: Fields = self._schema["mappings"].get("_source", {}).get("includes")
        self._sources = sources
        self._options = options
        self._progress = progress
        # By source and shard, the rejects' sequence numbers.
        self._rejects: dict[tuple[str, int], dict[int, Reject]] = defaultdict(dict)
        self._next_read = 0.0
        self._pool: Executor | None = None
        self._generation: Generation
        self.report = Report()

    @property
    def rejects(self) -> list[Reject]:
        return [reject for rejects in self._rejects.values() for reject in rejects.values()]

    async def rehearse(self) -> Report:
        """Transforms everything and writes nothing."""
        snapshot = await Snapshot.take(self._client, self._sources)

        async def look(shard: Shard[Source], hits: list[Hit]) -> None:
            self.report.read += len(hits)
            await self._transform(shard, hits)

        try:
            await self._disjoint(snapshot)
            await self._each_page(snapshot, None, "transforming", look)
        finally:
            await snapshot.close()
        self.report.rejects = self.rejects
        self.report.documents = self.report.read - len(self.rejects)
        return self.report

    async def run(self, lease: Lease, previous: str) -> Report:
        """`previous` is the index behind the alias. Raises MigrationError; nothing is then swapped, or blocked."""
        fresh = await self._prepare(lease)
        plan = lease.state.plan
        assert plan is not None
        self.report.target, self.report.resumed = plan.target, not fresh
        for attempt in range(1, _ATTEMPTS + 1):
            self._rejects.clear()
            try:
                async with _unblocking(self._client, lease, plan, self._alias):
                    await self._once(lease, plan, previous, fresh=fresh)
                break
            except (SnapshotLost, _Differs) as error:
                if attempt == _ATTEMPTS:
                    raise MigrationError(f"gave up after {attempt} attempts: {error}") from error
                fresh = False
            finally:
                self.report.rejects = self.rejects
        return self.report

    async def _prepare(self, lease: Lease) -> bool:
        """Makes the new generation, or takes over the one of an earlier run. True if it is new."""
        names = [source.index for source in self._sources]
        plan = lease.state.plan
        if plan and self._options.discard:
            await self._client.options(ignore_status=404).indices.delete(index=plan.target)
            plan = lease.state.plan = None
        if plan and (plan.sources, plan.shards) != (names, self._options.shards):
            raise MigrationError(
                f"{plan.target} is half filled from {', '.join(plan.sources)} with {plan.shards} shards: finish that "
                "with the same arguments, or give it up with --discard"
            )
        exists = plan is not None and bool(await self._client.indices.exists(index=plan.target))
        if plan is None:
            fence = fence_name(self._alias, lease.holder)
            plan = lease.state.plan = Plan(await self._next_name(), names, self._options.shards, fence)
            await lease.save()
        elif exists and plan.fence not in await fences(self._client, self._alias, plan.target):
            raise MigrationError(f"{plan.target} is not being filled by a migration; remove it, or use --discard")
        if not exists:
            await create_generation(self._client, plan.target, plan.fence, self._schema, plan.shards)
        self._generation = Generation(self._client, plan.target, plan.fence, by_contact_center=self._by_contact_center)
        return not exists

    @property
    def _by_contact_center(self) -> bool:
        return "contactCenter" in self._schema["mappings"]["properties"]

    async def _next_name(self) -> str:
        found = (await patiently(self._client.indices.get, index=f"{self._alias}-v2-*", features="aliases")).body
        numbers = [int(name.rpartition("-")[2]) for name in found if name.rpartition("-")[2].isdecimal()]
        return f"{self._alias}-v2-{max(numbers, default=0) + 1:06}"

    async def _once(self, lease: Lease, plan: Plan, previous: str, *, fresh: bool) -> None:
        snapshot = await Snapshot.take(self._client, self._sources)
        try:
            total = sum((await self._disjoint(snapshot)).values())
            await self._generation.refresh()
            copied = await self._copy(snapshot, total, only_missing=not fresh)
            await self._generation.settle(self._settings.replicas)
            await self._generation.refresh()
            verified = fresh and await self._read_back() == copied
            if not fresh:
                await self._sweep(snapshot)
            snapshot = await self._catch_up(snapshot)
            if not verified:
                await self._verify(snapshot)
            self._check_rejects()
            for _ in range(_ROUNDS):
                begun = time.monotonic()
                snapshot = await self._catch_up(snapshot)
                if time.monotonic() - begun < _SHORT_ROUND:
                    break
            self._check_rejects()
            await self._last_pass(lease, plan, previous, snapshot)
        finally:
            await snapshot.close()

    async def _last_pass(self, lease: Lease, plan: Plan, previous: str, before: Snapshot[Source]) -> None:
        plan.blocked = True
        await lease.save()
        begun = time.monotonic()
        # Each returns when every write that was under way is done. First the one behind the alias: a client that is
        # turned away by an earlier deployment and comes to this one must wait for the swap.
        for index in reversed(plan.sources):
            await patiently(self._client.indices.add_block, index=index, block="write")
        snapshot = await self._catch_up(before)
        try:
            self._check_rejects()
            counts, copied, numbers = await asyncio.gather(
                self._counts(snapshot), self._generation.counts(), self._generation.numbers()
            )
            if counts != copied:
                raise _Differs(f"{plan.target} has another number of documents than its sources")
            self.report.documents = sum(counts.values())
            plan.ending = Ended(plan.target, previous, plan.sources, numbers, self.report.documents)
            await lease.save()
            await _swap(self._client, self._alias, previous, plan.target, plan.fence)
            self.report.blocked_seconds = time.monotonic() - begun
            self.report.swapped = True
        finally:
            await snapshot.close()
        await finish(lease)

    # --- The passes -----------------------------------------------------------------------------------------

    async def _copy(self, snapshot: Snapshot[Source], total: int, *, only_missing: bool) -> Digest:
        """Of what it has written."""
        digest = Digest()
        segments = _Segments(self._generation, total)

        async def copy(shard: Shard[Source], hits: list[Hit]) -> None:
            self.report.read += len(hits)
            if only_missing:
                hits = await self._differing(shard, hits)
            copies = await self._transform(shard, hits)
            refused = await self._generation.write(copies)
            self._refuse(refused)
            left_out = {copied.id for copied, _ in refused}
            for copied in copies:
                if copied.id not in left_out:
                    digest.add(copied.made.digest)
            await segments.written(len(copies))

        await self._each_page(snapshot, None, "copying", copy)
        return digest

    async def _read_back(self) -> Digest:
        """Of all that is in the new generation, as of the last refresh."""
        digest = Digest()

        async def add(_: Shard[Filled], hits: list[Hit]) -> None:
            for hit in hits:
                digest.add(digest_of(hit["_id"], hit["_source"]))

        filled = await Snapshot.take(self._client, [Filled(self._generation.index, ())])
        try:
            await self._each_page(filled, None, "reading back", add)
        finally:
            await filled.close()
        return digest

    async def _verify(self, snapshot: Snapshot[Source], since: Snapshot[Source] | None = None) -> None:
        """Compares every document, or every one written since, with what can be read of it; mends what differs."""

        async def verify(shard: Shard[Source], hits: list[Hit]) -> None:
            differing = await self._transform(shard, await self._differing(shard, hits))
            self.report.repaired += len(differing)
            for force in (False, True):
                if not differing:
                    return
                refused = await self._generation.write(differing, force=force)
                self._refuse(refused)
                await self._generation.refresh()
                gone = {copied.id for copied, _ in refused}
                self.report.repaired -= len(gone)
                differing = await self._generation.differing([c for c in differing if c.id not in gone])
            if differing:
                raise MigrationError(
                    f"{differing[0].source.index}/{differing[0].source_id} cannot be read back as it was written"
                )

        await self._each_page(snapshot, since, "verifying", verify)

    async def _catch_up(self, before: Snapshot[Source]) -> Snapshot[Source]:
        """Brings the new generation, which is as `before`, to a new snapshot, checks that, and closes `before`."""
        after = await Snapshot.take(self._client, self._sources)
        try:
            await self._remove_gone(before, after)

            async def copy(shard: Shard[Source], hits: list[Hit]) -> None:
                self._refuse(await self._generation.write(await self._transform(shard, hits)))

            await self._each_page(after, before, "catching up", copy)
            await self._generation.refresh()
            await self._verify(after, since=before)
        except BaseException:
            await after.close()
            raise
        await before.close()
        return after

    async def _remove_gone(self, before: Snapshot[Source], after: Snapshot[Source]) -> None:
        async for shard, then, hits in before.gone(after):
            rejects = self._rejects[shard.source.index, shard.number]
            copied = [hit for hit in hits if rejects.pop(hit["_seq_no"], None) is None]
            ids = [_id for hit in copied if (_id := _new_id(shard.source, hit))]
            # What was overwritten is there again, mostly under the same id.
            again = await after.with_ids(then, [hit["_id"] for hit in copied])
            kept = {_new_id(shard.source, hit) for hit in again}
            await self._remove([_id for _id in ids if _id not in kept])

    async def _sweep(self, snapshot: Snapshot[Source]) -> None:
        """Removes what an earlier run has copied and what is no longer in the sources."""
        expected = sum([await snapshot.count(source) for source in self._sources]) - len(self.rejects)
        if await self._generation.count() == expected:
            return
        fields = ("contactCenter", "id") if self._by_contact_center else ()
        filled = await Snapshot.take(self._client, [Filled(self._generation.index, fields)])
        try:
            for part in filled.slices():
                async for hits in filled.pages(part, source=False):
                    present: set[str | None] = set()
                    for source in self._sources:
                        ids = [_id for hit in hits if (_id := source.source_id(hit)) is not None]
                        for shard in snapshot.shards_of(source) if ids else ():
                            present |= {_new_id(source, hit) for hit in await snapshot.with_ids(shard, ids)}
                    await self._remove([hit["_id"] for hit in hits if hit["_id"] not in present])
        finally:
            await filled.close()
        await self._generation.refresh()

    async def _remove(self, ids: list[str]) -> None:
        await self._generation.delete(ids)
        self.report.removed += len(ids)

    # --- What passes are made of ----------------------------------------------------------------------------

    async def _each_page(
        self,
        snapshot: Snapshot[S],
        since: Snapshot[S] | None,
        what: str,
        handle: Callable[[Shard[S], list[Hit]], Awaitable[None]],
    ) -> None:
        slices = snapshot.slices(since)
        todo = iter(slices)

        async def work(advance: Callable[[int], object]) -> None:
            for part in todo:  # all workers take from the same iterator
                async for hits in snapshot.pages(part):
                    if since is None:
                        await self._pace(len(hits))
                    await handle(part.shard, hits)
                    advance(len(hits))

        if since is not None:  # short, and perhaps while writes are blocked
            await _together(work(lambda _: None) for _ in range(min(self._options.workers, len(slices))))
            return
        total = await snapshot.total(slices)
        with self._progress(total, what) as advance, ExitStack() as pool:
            cores = os.cpu_count() or 1
            if total >= _MANY and cores > 1:
                self._pool = pool.enter_context(processes(min(self._options.workers, cores)))
            try:
                await _together(work(advance) for _ in range(min(self._options.workers, len(slices))))
            finally:
                self._pool = None

    async def _pace(self, documents: int) -> None:
        if self._options.rate:
            now = time.monotonic()
            self._next_read = max(self._next_read, now) + documents / self._options.rate
            await asyncio.sleep(self._next_read - documents / self._options.rate - now)

    async def _differing(self, shard: Shard[Source], hits: list[Hit]) -> list[Hit]:
        """Those whose documents are not in the new generation as they should be, as of the last refresh."""
        copies = await self._transform(shard, hits, kept_only=True)
        numbers = {copied.seq_no for copied in await self._generation.differing(copies)}
        return [hit for hit in hits if hit["_seq_no"] in numbers]

    async def _transform(self, shard: Shard[Source], hits: list[Hit], *, kept_only: bool = False) -> list[Copied]:
        if self._pool and len(hits) > _FEW:
            page = partial(transform_encoded, shard.source, codec.encode(hits), self._kept, kept_only=kept_only)
            try:
                transformed = await asyncio.get_running_loop().run_in_executor(self._pool, page)
            except BrokenProcessPool as error:
                raise MigrationError("a process that transforms was killed; another run goes on from here") from error
        else:
            transformed = transform_page(shard.source, hits, self._kept, kept_only=kept_only)
        copies = []
        rejects = self._rejects[shard.source.index, shard.number]
        for hit, result in zip(hits, transformed, strict=True):
            number = hit["_seq_no"]
            if isinstance(result, Rejected):
                (contact_center,) = hit.get("fields", {}).get("contactCenter", [shard.source.contact_center or ""])
                rejects[number] = Reject(shard.source.index, hit["_id"], str(result), contact_center)
            elif number not in rejects:  # Elasticsearch has refused it before
                copies.append(Copied(result, shard.source, shard.number, number, hit["_id"]))
        return copies

    def _refuse(self, refused: list[tuple[Copied, str]]) -> None:
        for copied, reason in refused:
            reject = Reject(copied.source.index, copied.source_id, reason, copied.made.contact_center)
            self._rejects[copied.source.index, copied.shard][copied.seq_no] = reject

    def _check_rejects(self) -> None:
        if self.rejects and not self._options.allow_rejects:
            raise RejectsNotAllowed(
                f"{len(self.rejects)} documents cannot be transformed: mend them and run this again, which goes on "
                "from here, or leave them behind with --allow-rejects"
            )

    async def _counts(self, snapshot: Snapshot[Source]) -> dict[str, int]:
        """Contact center → documents that the new generation must have."""
        counts = await self._disjoint(snapshot)
        for reject in self.rejects:
            counts[reject.contact_center if self._by_contact_center else ""] -= 1
        return {contact_center: count for contact_center, count in counts.items() if count}

    async def _disjoint(self, snapshot: Snapshot[Source]) -> dict[str, int]:
        """Contact center → documents in the sources. Raises MigrationError if one is in several of them."""
        total: dict[str, int] = {}
        for source in self._sources:
            for contact_center, count in (await self._counts_of(snapshot, source)).items():
                if contact_center in total:
                    raise MigrationError(
                        f"the contact center {contact_center} is in {source.index} and in another source: which of two "
                        "recordings of the same id is the newer cannot be told"
                    )
                total[contact_center] = count
        return total

    async def _counts_of(self, snapshot: Snapshot[Source], source: Source) -> dict[str, int]:
        if source.contact_center is not None or not self._by_contact_center:
            count = await snapshot.count(source)
            return {source.contact_center or "": count} if count else {}
        counts: dict[str, int] = defaultdict(int)
        for shard in snapshot.shards_of(source):
            found = await counts_by_contact_center(self._client, pit={"id": shard.pit, "keep_alive": "15m"})
            for contact_center, count in found.items():
                counts[contact_center] += count
        return counts


class _Segments:
    """Has Elasticsearch write its segments while other documents are transformed, so that little is left at the end.

    Not too often: small segments cost merges.
    """

    def __init__(self, generation: Generation, total: int) -> None:
        self._generation = generation
        self._size = max(_MANY, total // 20)
        self._documents = 0

    async def written(self, documents: int) -> None:
        self._documents += documents
        if self._documents >= self._size:
            self._documents = 0
            await self._generation.refresh()


# --- Around a migration -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Since:
    """What a rollback leaves behind in the newer generation: as contact center and id, and how many were deleted."""

    index: str
    written: list[tuple[str, str]]
    gone: int


async def current_index(client: AsyncElasticsearch, name: str) -> str:
    """The index behind an alias. Raises MigrationError unless it is one."""
    try:
        found: list[str] = list((await patiently(client.indices.get_alias, name=name)).body)
    except NotFoundError:
        found = []
    if len(found) != 1:
        raise MigrationError(f"the alias {name} points to {', '.join(found) or 'nothing'} instead of one index")
    return found[0]


@asynccontextmanager
async def holding(client: AsyncElasticsearch, settings: Settings, resource: str) -> AsyncIterator[Lease]:
    """The lease, after what a killed run left behind was put right: blocked writes, a swap not written down."""
    client = client.options(request_timeout=_REQUEST_SECONDS)
    async with hold(client, settings, resource) as lease:
        if plan := lease.state.plan:
            await _put_right(client, lease, plan, alias(settings, resource))
        yield lease


async def _put_right(client: AsyncElasticsearch, lease: Lease, plan: Plan, name: str) -> None:
    if not await _is_swapped(client, name, plan):
        await _shut_out_others(client, lease, plan, name)
    # Asked again: now it cannot happen any more.
    if await _is_swapped(client, name, plan):
        log.warning("a run was killed after it had swapped %s to %s", name, plan.target)
        await finish(lease)
    elif await patiently(_is_blocked, client, plan):
        await _lift_block(client, lease, plan)
        log.warning("a run was killed while writes to %s were blocked; they are not any more", name)


async def lift_abandoned_blocks(client: AsyncElasticsearch, settings: Settings) -> None:
    """Lifts the blocks of writes that killed migrations left, or finishes their swaps; any process may do it.

    Raises StoreUnavailable.
    """
    for resource in RESOURCES:
        async with store_errors(settings.elasticsearch_timeout):
            plan = (await state_of(client, settings, resource)).plan
            abandoned = plan is not None and await _is_blocked(client, plan)
        if abandoned:
            with suppress(MigrationError):  # most often, that run lives
                async with holding(client, settings, resource):
                    pass


async def _is_blocked(client: AsyncElasticsearch, plan: Plan) -> bool:
    """Whether writes are or may be: a block that a run asked for can come after another has noted that there is none.

    Of the sources only the last one, which is behind the alias, is surely blocked by nobody but migrations.
    """
    if plan.blocked:
        return True
    current = plan.sources[-1]
    found = await client.indices.get_settings(index=current, name="index.blocks.write", ignore_unavailable=True)
    return bool(found.body)


async def _is_swapped(client: AsyncElasticsearch, name: str, plan: Plan) -> bool:
    return plan.ending is not None and await current_index(client, name) == plan.target


async def _shut_out_others(client: AsyncElasticsearch, lease: Lease, plan: Plan, name: str) -> None:
    """Whoever had the plan may only be paused: it writes and swaps no more."""
    plan.fence = fence_name(name, lease.holder)
    # Written down first: a run that is killed here leaves one that no alias has.
    await lease.save()
    for fence in await fences(client, name, plan.target):
        await move_fence(client, plan.target, fence, plan.fence)


async def finish(lease: Lease) -> None:
    """Writes down that a plan has become true."""
    plan = lease.state.plan
    assert plan is not None
    lease.state.last, lease.state.plan = plan.ending, None
    lease.state.superseded = [*lease.state.superseded, *plan.sources]
    await lease.save()


async def roll_back(client: AsyncElasticsearch, settings: Settings, lease: Lease, resource: str) -> Since:
    """Swaps the last migration back and unblocks its sources. Can be repeated. Raises MigrationError."""
    last = lease.state.last
    name = alias(settings, resource)
    if last is None or lease.state.plan:
        raise MigrationError("a migration is unfinished" if lease.state.plan else "there is nothing to roll back")
    for index in {last.target, last.previous, *last.sources}:
        if not await client.indices.exists(index=index):
            raise MigrationError(f"{index} is gone, so there is nothing to go back to")
    await patiently(client.indices.add_block, index=last.target, block="write")
    since = await _since(client, last)
    if await current_index(client, name) == last.target:
        await _swap(client, name, last.target, last.previous)
    await _unblock(client, last.sources)
    lease.state.last = None
    lease.state.superseded = [i for i in lease.state.superseded if i not in last.sources] + [last.target]
    await lease.save()
    return since


async def drop_old(client: AsyncElasticsearch, settings: Settings, lease: Lease, resource: str) -> list[str]:
    """Removes what migrations and rollbacks have left behind, and returns the names."""
    current = await current_index(client, alias(settings, resource))
    dropped = [index for index in lease.state.superseded if index != current]
    for index in dropped:
        await client.options(ignore_status=404).indices.delete(index=index)
    lease.state.superseded, lease.state.last = [], None
    await lease.save()
    return dropped


async def _since(client: AsyncElasticsearch, last: Ended) -> Since:
    """What was written after the swap."""
    has_ids = (await client.indices.get_mapping(index=last.target)).body[last.target]["mappings"].get("properties", {})
    fields = ("contactCenter", "id") if {"contactCenter", "id"} <= has_ids.keys() else ()
    snapshot = await Snapshot.take(client, [Filled(last.target, fields)])
    written = []
    try:
        for part in snapshot.slices():
            newer = replace(part, after=max(part.after, last.checkpoint[str(part.shard.number)]))
            async for hits in snapshot.pages(newer, source=False):
                for hit in hits:
                    found = hit.get("fields", {})
                    written.append(
                        (found.get("contactCenter", [""])[0], found["id"][0] if "id" in found else hit["_id"])
                    )
        total = await snapshot.count(snapshot.shards[0].source)
    finally:
        await snapshot.close()
    return Since(last.target, written, last.count - (total - len(written)))


async def _swap(client: AsyncElasticsearch, name: str, old: str, new: str, fence: str | None = None) -> None:
    """Atomically; nothing happens if the alias is no longer with `old`, or the fence with `new`."""
    actions: list[dict[str, object]] = [
        {"remove": {"index": old, "alias": name, "must_exist": True}},
        {"add": {"index": new, "alias": name, "is_write_index": True}},
    ]
    if fence:
        actions.append({"remove": {"index": new, "alias": fence, "must_exist": True}})
    try:
        await patiently(client.indices.update_aliases, actions=actions)
    except NotFoundError as error:
        # Done, if an answer got lost.
        if await current_index(client, name) != new:
            raise MigrationError(f"the aliases of {old} and {new} were changed by somebody else") from error


@asynccontextmanager
async def _unblocking(client: AsyncElasticsearch, lease: Lease, plan: Plan, name: str) -> AsyncIterator[None]:
    """Whatever ends this, writes are not left blocked unless the swap has been done."""
    try:
        yield
    except BaseException:
        if plan.blocked and not await _is_swapped(client, name, plan):
            await _lift_block(client, lease, plan)
        raise


async def _lift_block(client: AsyncElasticsearch, lease: Lease, plan: Plan) -> None:
    """Raises MigrationError when another run has taken over, which may have blocked writes itself."""
    await lease.save()
    await _unblock(client, plan.sources)
    plan.blocked, plan.ending = False, None
    await lease.save()


async def _unblock(client: AsyncElasticsearch, indices: Sequence[str]) -> None:
    for index in indices:
        await patiently(
            client.options(ignore_status=404).indices.put_settings, index=index, settings={"index.blocks.write": None}
        )


def _new_id(source: Source, hit: Hit) -> str | None:
    try:
        return source.transform(hit, kept_only=True)[0]
    except Rejected:
        return None


async def _together(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Runs them; the first failure ends all."""
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
