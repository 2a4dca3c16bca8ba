"""The order of a migration: copy, verify, catch up, block writes, catch up for the last time, swap the alias."""

import asyncio
import time
from collections.abc import Sequence

from elasticsearch import AsyncElasticsearch

from app.migration import cutover
from app.migration.passes import Passes, Progress
from app.migration.plan import CompletedMigration, MigrationError, MigrationLease, Options, Plan, Report
from app.migration.point_in_time import PointInTime, PointInTimeLost
from app.migration.sources import Source
from app.migration.target import TargetIndex, prepare_target
from app.settings import Settings
from app.store.indices import alias, load_schema

# Writes are blocked after a round of catching up that was this short, or after this many rounds.
_SHORT_ROUND_SECONDS = 0.5
_MAX_ROUNDS = 20
_MAX_ATTEMPTS = 5


class _CountsDiffer(Exception):
    """The target does not have as many documents as its sources."""


class Migration:
    """One run that fills a new index and points the alias at it (docs/architecture.md, "Migration").

    The last of the sources is the index behind the alias.
    """

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
        self._client = client.options(request_timeout=cutover.REQUEST_SECONDS)
        self._replicas = settings.replicas
        self._alias = alias(settings, resource)
        self._schema = load_schema(resource)
        self._sources = sources
        self._options = options
        self.report = Report()
        self._passes = Passes(
            self._client, sources, self._schema, options=options, progress=progress, report=self.report
        )

    async def dry_run(self) -> Report:
        """Transforms every document and writes nothing. Raises MigrationError and ElasticsearchUnavailable."""
        point = await PointInTime.open(self._client, self._sources)
        try:
            await self._passes.source_counts(point)
            await self._passes.transform_only(point)
        finally:
            await point.close()
        self.report.rejects = self._passes.rejects
        self.report.documents = self.report.read - len(self.report.rejects)
        return self.report

    async def run(self, lease: MigrationLease, previous: str) -> Report:
        """Migrates, or continues the migration in the lease's plan. `previous` is the index behind the alias.

        Raises MigrationError and ElasticsearchUnavailable. Then nothing was swapped, and writes are not blocked.
        """
        target, is_new = await prepare_target(
            self._client, lease, self._alias, self._schema, self._sources, options=self._options
        )
        plan = lease.state.plan
        assert plan is not None
        self.report.target = plan.target
        for attempt in range(1, _MAX_ATTEMPTS + 1):
            self._passes.forget_rejects()
            try:
                async with cutover.unblocked_on_failure(self._client, lease, plan, self._alias):
                    point = await self._fill(target, is_new=is_new)
                    await self._finish(lease, plan, previous, point, target)
                break
            except (PointInTimeLost, _CountsDiffer) as error:
                if attempt == _MAX_ATTEMPTS:
                    raise MigrationError(f"gave up after {attempt} attempts: {error}") from error
                is_new = False
            finally:
                self.report.rejects = self._passes.rejects
        return self.report

    async def _fill(self, target: TargetIndex, *, is_new: bool) -> PointInTime[Source]:
        """Fills the target while writes continue. Returns the point in time that it has reached."""
        passes = self._passes
        point = await PointInTime.open(self._client, self._sources)
        try:
            total = sum((await passes.source_counts(point)).values())
            await target.refresh()
            copied = await passes.copy(point, target, total, only_missing=not is_new)
            # Before writes are blocked, because copying shards to replicas takes long.
            await target.restore_settings_and_wait(self._replicas)
            await target.refresh()
            verified = is_new and await passes.read_back(target) == copied
            if not is_new:
                await passes.sweep(point, target)
            point = await passes.catch_up(point, target)
            if not verified:
                await passes.verify(point, target)
            passes.check_rejects()
            for _ in range(_MAX_ROUNDS):
                begun = time.monotonic()
                point = await passes.catch_up(point, target)
                if time.monotonic() - begun < _SHORT_ROUND_SECONDS:
                    break
            passes.check_rejects()
        except BaseException:
            await point.close()
            raise
        return point

    async def _finish(
        self, lease: MigrationLease, plan: Plan, previous: str, before: PointInTime[Source], target: TargetIndex
    ) -> None:
        """Blocks writes, catches up, compares the counts and swaps."""
        point, begun = before, time.monotonic()
        try:
            await cutover.block_writes(self._client, lease, plan)
            point = await self._passes.catch_up(before, target)
            self._passes.check_rejects()
            expected, actual, max_seq_nos = await asyncio.gather(
                self._passes.expected_counts(point), target.counts(), target.max_seq_nos()
            )
            if expected != actual:
                raise _CountsDiffer(f"{plan.target} does not have as many documents as its sources")
            self.report.documents = sum(expected.values())
            plan.result = CompletedMigration(
                plan.target,
                previous,
                plan.sources,
                max_seq_nos,
                self.report.documents,
                {source.index: source.contact_center for source in self._sources if source.contact_center is not None},
                [reject.id for reject in self._passes.rejects if reject.was_transformed],
            )
            await lease.save()
            await cutover.swap(self._client, self._alias, previous, plan.target, plan.fence)
            self.report.blocked_seconds = time.monotonic() - begun
            self.report.swapped = True
        finally:
            await point.close()
        await cutover.complete(lease)
