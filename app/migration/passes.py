"""The passes of a migration over its documents: copy, read back, verify, catch up, sweep."""

import asyncio
import os
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Executor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import Any, TypeVar

from elasticsearch import AsyncElasticsearch

from app import codec
from app.migration.plan import MigrationError, Options, RejectedDocument, RejectsNotAllowed, Report
from app.migration.point_in_time import Hit, PlainIndex, PointInTime, ReadableIndex, ShardView
from app.migration.sources import (
    CannotTransform,
    Source,
    SourceFields,
    digest_of,
    target_id,
    transform_encoded_page,
    transform_page,
)
from app.migration.target import Digest, PendingWrite, TargetIndex, has_contact_centers
from app.workers import processes

# A pass over fewer documents, or a smaller page, is transformed in this process.
_MIN_DOCUMENTS_FOR_PROCESSES = 5_000
_MAX_PAGE_IN_THIS_PROCESS = 50

S = TypeVar("S", bound=ReadableIndex)

# (total, what is being done) → a context that yields a function to be called with numbers of processed documents.
Progress = Callable[[int, str], AbstractContextManager[Callable[[int], object]]]


class Passes:
    """Passes over `sources`. Counts in `report` what they do.

    `schema` is the target's. All passes may raise MigrationError, PointInTimeLost and ElasticsearchUnavailable.
    """

    def __init__(
        self,
        client: AsyncElasticsearch,
        sources: Sequence[Source],
        schema: dict[str, Any],
        *,
        options: Options,
        progress: Progress,
        report: Report,
    ) -> None:
        self._client = client
        self._sources = sources
        self._by_contact_center = has_contact_centers(schema)
        self._source_fields: SourceFields = schema["mappings"].get("_source", {}).get("includes")
        self._options = options
        self._progress = progress
        self._report = report
        # (source, shard) → `_seq_no` of a document → why it was rejected.
        self._rejects: dict[tuple[str, int], dict[int, RejectedDocument]] = defaultdict(dict)
        self._next_read = 0.0
        self._pool: Executor | None = None

    @property
    def rejects(self) -> list[RejectedDocument]:
        return [reject for rejects in self._rejects.values() for reject in rejects.values()]

    def forget_rejects(self) -> None:
        """Call this before documents are read from the beginning again."""
        self._rejects.clear()

    def check_rejects(self) -> None:
        """Raises RejectsNotAllowed if a document was rejected and the options do not allow that."""
        if self.rejects and not self._options.allow_rejects:
            raise RejectsNotAllowed(
                f"{len(self.rejects)} documents cannot be transformed: correct them and run again, which continues "
                "from here, or leave them behind with --allow-rejects"
            )

    # --- The passes -----------------------------------------------------------------------------------------

    async def transform_only(self, point: PointInTime[Source]) -> None:
        """Transforms every document and writes nothing."""

        async def transform(shard: ShardView[Source], hits: list[Hit]) -> None:
            self._report.read += len(hits)
            await self._transform(shard, hits)

        await self._for_each_page(point, None, "transforming", transform)

    async def copy(self, point: PointInTime[Source], target: TargetIndex, total: int, *, only_missing: bool) -> Digest:
        """Writes every document, or every one that the target does not have. Returns the digest of what it wrote."""
        digest = Digest()
        refresher = _Refresher(target, total)

        async def copy(shard: ShardView[Source], hits: list[Hit]) -> None:
            self._report.read += len(hits)
            if only_missing:
                hits = await self._differing(target, shard, hits)
            writes = await self._transform(shard, hits)
            rejected = await self._write(target, writes)
            for write in writes:
                if write.id not in rejected:
                    digest.add(write.document.digest)
            await refresher.written(len(writes))

        await self._for_each_page(point, None, "copying", copy)
        return digest

    async def read_back(self, target: TargetIndex) -> Digest:
        """Returns the digest of all documents in the target, as of the last refresh."""
        digest = Digest()

        async def add(_: ShardView[PlainIndex], hits: list[Hit]) -> None:
            for hit in hits:
                digest.add(digest_of(hit["_id"], hit["_source"]))

        point = await PointInTime.open(self._client, [PlainIndex(target.index)])
        try:
            await self._for_each_page(point, None, "reading back", add)
        finally:
            await point.close()
        return digest

    async def verify(
        self, point: PointInTime[Source], target: TargetIndex, since: PointInTime[Source] | None = None
    ) -> None:
        """Compares every document, or every one written after `since`, with its copy. Repairs copies that differ."""

        async def verify(shard: ShardView[Source], hits: list[Hit]) -> None:
            differing = await self._transform(shard, await self._differing(target, shard, hits))
            self._report.repaired += len(differing)
            for force in (False, True):
                if not differing:
                    return
                rejected = await self._write(target, differing, force=force)
                self._report.repaired -= len(rejected)
                await target.refresh()
                differing = await target.differing([write for write in differing if write.id not in rejected])
            if differing:
                raise MigrationError(
                    f"the copy of {differing[0].source.index}/{differing[0].source_id} differs from the document "
                    "even after it was written again"
                )

        await self._for_each_page(point, since, "verifying", verify)

    async def catch_up(self, before: PointInTime[Source], target: TargetIndex) -> PointInTime[Source]:
        """Brings a target that is in the state `before` up to now. Returns the new point in time, closes `before`."""
        now = await PointInTime.open(self._client, self._sources)
        try:
            await self._remove_replaced_and_deleted(before, now, target)

            async def copy(shard: ShardView[Source], hits: list[Hit]) -> None:
                await self._write(target, await self._transform(shard, hits))

            await self._for_each_page(now, before, "catching up", copy)
            await target.refresh()
            await self.verify(now, target, since=before)
        except BaseException:
            await now.close()
            raise
        await before.close()
        return now

    async def _remove_replaced_and_deleted(
        self, before: PointInTime[Source], now: PointInTime[Source], target: TargetIndex
    ) -> None:
        async for shard, shard_now, hits in before.replaced_or_deleted(now):
            rejects = self._rejects[shard.source.index, shard.number]
            copied = [hit for hit in hits if rejects.pop(hit["_seq_no"], None) is None]
            ids = [_id for hit in copied if (_id := target_id(shard.source, hit))]
            # A replaced document exists now too, usually with the same id in the target.
            same = now.with_ids(shard_now, [hit["_id"] for hit in copied])
            present = {target_id(shard.source, hit) async for hits in same for hit in hits}
            await self._delete(target, [_id for _id in ids if _id not in present])

    async def sweep(self, point: PointInTime[Source], target: TargetIndex) -> None:
        """Deletes documents that an earlier run has copied and that no source has any more."""
        expected = sum([await point.count(source) for source in self._sources]) - len(self.rejects)
        if await target.count() == expected:
            return
        fields = ("contactCenter", "id") if self._by_contact_center else ()
        copies = await PointInTime.open(self._client, [PlainIndex(target.index, fields)])
        try:
            for part in copies.slices():
                async for hits in copies.pages(part, source=False):
                    present: set[str | None] = set()
                    for source in self._sources:
                        ids = [_id for hit in hits if (_id := source.source_id(hit)) is not None]
                        for shard in point.shards_of(source) if ids else ():
                            same = point.with_ids(shard, ids)
                            present |= {target_id(source, hit) async for hits in same for hit in hits}
                    await self._delete(target, [hit["_id"] for hit in hits if hit["_id"] not in present])
        finally:
            await copies.close()
        await target.refresh()

    # --- Counts ---------------------------------------------------------------------------------------------

    async def expected_counts(self, point: PointInTime[Source]) -> dict[str, int]:
        """Returns contact center → number of documents that the target must have."""
        counts = await self.source_counts(point)
        for reject in self.rejects:
            counts[reject.contact_center if self._by_contact_center else ""] -= 1
        return {contact_center: count for contact_center, count in counts.items() if count}

    async def source_counts(self, point: PointInTime[Source]) -> dict[str, int]:
        """Returns contact center → documents. Raises MigrationError if a contact center is in more than one source."""
        total: dict[str, int] = {}
        for source in self._sources:
            for contact_center, count in (await self._counts_in(point, source)).items():
                if contact_center in total:
                    raise MigrationError(
                        f"the contact center {contact_center} is in {source.index} and in another source, and there is "
                        "no way to tell which of two recordings with the same id is newer"
                    )
                total[contact_center] = count
        return total

    async def _counts_in(self, point: PointInTime[Source], source: Source) -> dict[str, int]:
        if source.contact_center is not None or not self._by_contact_center:
            count = await point.count(source)
            return {source.contact_center or "": count} if count else {}
        return await point.counts_by_contact_center(source)

    # --- The parts of passes --------------------------------------------------------------------------------

    async def _for_each_page(
        self,
        point: PointInTime[S],
        since: PointInTime[S] | None,
        description: str,
        handle: Callable[[ShardView[S], list[Hit]], Awaitable[None]],
    ) -> None:
        slices = point.slices(since)
        remaining = iter(slices)

        async def work(advance: Callable[[int], object]) -> None:
            for part in remaining:  # all workers take slices from the same iterator
                async for hits in point.pages(part):
                    if since is None:
                        await self._throttle(len(hits))
                    await handle(part.shard, hits)
                    advance(len(hits))

        workers = min(self._options.workers, len(slices))
        if since is not None:  # a short pass, and writes may be blocked
            await _gather_or_cancel(work(lambda _: None) for _ in range(workers))
            return
        total = await point.total(slices)
        with self._progress(total, description) as advance, ExitStack() as pool:
            cores = os.cpu_count() or 1
            if total >= _MIN_DOCUMENTS_FOR_PROCESSES and cores > 1:
                self._pool = pool.enter_context(processes(min(self._options.workers, cores)))
            try:
                await _gather_or_cancel(work(advance) for _ in range(workers))
            finally:
                self._pool = None

    async def _throttle(self, documents: int) -> None:
        if self._options.rate:
            now = time.monotonic()
            self._next_read = max(self._next_read, now) + documents / self._options.rate
            await asyncio.sleep(self._next_read - documents / self._options.rate - now)

    async def _differing(self, target: TargetIndex, shard: ShardView[Source], hits: list[Hit]) -> list[Hit]:
        """Returns the hits whose copy is missing or different, as of the last refresh."""
        writes = await self._transform(shard, hits, source_only=True)
        numbers = {write.seq_no for write in await target.differing(writes)}
        return [hit for hit in hits if hit["_seq_no"] in numbers]

    async def _transform(
        self, shard: ShardView[Source], hits: list[Hit], *, source_only: bool = False
    ) -> list[PendingWrite]:
        """Transforms hits, in another process if that is faster. Notes which of them are rejected."""
        source, fields = shard.source, self._source_fields
        if self._pool and len(hits) > _MAX_PAGE_IN_THIS_PROCESS:
            page = partial(transform_encoded_page, source, codec.encode(hits), fields, source_only=source_only)
            try:
                results = await asyncio.get_running_loop().run_in_executor(self._pool, page)
            except BrokenProcessPool as error:
                raise MigrationError("a worker process was killed; run again to continue from here") from error
        else:
            results = transform_page(source, hits, fields, source_only=source_only)
        writes = []
        rejects = self._rejects[source.index, shard.number]
        for hit, result in zip(hits, results, strict=True):
            number = hit["_seq_no"]
            if isinstance(result, CannotTransform):
                (contact_center,) = hit.get("fields", {}).get("contactCenter", [source.contact_center or ""])
                rejects[number] = RejectedDocument(source.index, hit["_id"], str(result), contact_center)
            elif number not in rejects:  # otherwise Elasticsearch has rejected it before
                writes.append(PendingWrite(result, source, shard.number, number, hit["_id"]))
        return writes

    async def _write(self, target: TargetIndex, writes: list[PendingWrite], *, force: bool = False) -> set[str]:
        """Writes to the target. Notes which documents Elasticsearch rejects, and returns their ids in the target."""
        rejected = await target.write(writes, force=force)
        for write, reason in rejected:
            reject = RejectedDocument(
                write.source.index, write.source_id, reason, write.document.contact_center, was_transformed=True
            )
            self._rejects[write.source.index, write.shard][write.seq_no] = reject
        return {write.id for write, _ in rejected}

    async def _delete(self, target: TargetIndex, ids: list[str]) -> None:
        await target.delete(ids)
        self._report.removed += len(ids)


class _Refresher:
    """Refreshes the target after each twentieth of the documents.

    Elasticsearch then writes segments while the next documents are transformed, and little is left at the end. More
    refreshes would make small segments, which cost merges.
    """

    def __init__(self, target: TargetIndex, total: int) -> None:
        self._target = target
        self._interval = max(_MIN_DOCUMENTS_FOR_PROCESSES, total // 20)
        self._documents = 0

    async def written(self, documents: int) -> None:
        self._documents += documents
        if self._documents >= self._interval:
            self._documents = 0
            await self._target.refresh()


async def _gather_or_cancel(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Runs coroutines concurrently. The first failure cancels the others and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
