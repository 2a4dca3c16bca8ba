"""A migration as data: its options, its stored plan, the lease that protects the plan, and its report."""

from dataclasses import dataclass, field

import msgspec
from elasticsearch import AsyncElasticsearch

from app.settings import Settings
from app.store.lease import Lease, read_state


class MigrationError(Exception):
    """The migration cannot continue. The text tells the operator why, and what to do."""


class RejectsNotAllowed(MigrationError):
    """Some documents cannot be transformed, so the alias was not swapped."""


class CompletedMigration(msgspec.Struct):
    """A migration after its swap. `max_seq_nos` has, by shard of the target, the last write before the swap.

    `contact_centers` has the contact center of each source of schema v1, and `left_out` the ids of the documents that
    Elasticsearch did not take. `before_rollback` has, by source and shard, the last write before a rollback unblocked
    it.
    """

    target: str
    previous: str
    sources: list[str]
    max_seq_nos: dict[str, int] = msgspec.field(name="checkpoint")
    documents: int = msgspec.field(name="count")
    contact_centers: dict[str, str] = {}
    left_out: list[str] = []
    before_rollback: dict[str, dict[str, int]] | None = None


class Plan(msgspec.Struct):
    """A migration in progress. `result` is stored before the swap, so that another process can tell if it happened."""

    target: str
    sources: list[str]
    shards: int
    fence: str
    blocked: bool = False
    result: CompletedMigration | None = msgspec.field(name="ending", default=None)


class MigrationState(msgspec.Struct):
    """What the next run has to know. `superseded` are the indices that `--drop-old` may remove."""

    plan: Plan | None = None
    last: CompletedMigration | None = None
    superseded: list[str] = []


MigrationLease = Lease[MigrationState]


def migration_lease(client: AsyncElasticsearch, settings: Settings, resource: str) -> MigrationLease:
    """Returns the lease of a resource's indices, not acquired yet."""
    return Lease(
        client,
        _lease_index(settings),
        resource,
        MigrationState,
        seconds=settings.lease_seconds,
        replicas=settings.replicas,
    )


async def migration_state(client: AsyncElasticsearch, settings: Settings, resource: str) -> MigrationState:
    """Reads the state without the lease. Raises what the Elasticsearch client raises."""
    return await read_state(client, _lease_index(settings), resource, MigrationState)


def _lease_index(settings: Settings) -> str:
    return f"{settings.index_prefix}-migrations"


@dataclass(frozen=True)
class Options:
    """`workers` is the number of slices copied concurrently, `rate` a limit in documents a second.

    `shards` is the number of primary shards of the new index. `discard` starts over instead of continuing.
    """

    workers: int = 4
    rate: float | None = None
    allow_rejects: bool = False
    shards: int = 1
    discard: bool = False


@dataclass(frozen=True)
class RejectedDocument:
    """A document that cannot be transformed, or that Elasticsearch does not take, and why."""

    index: str
    id: str
    reason: str
    contact_center: str
    was_transformed: bool = False


@dataclass
class Report:
    """What a run has done so far. The alias points to `target` if `swapped`."""

    target: str = ""
    swapped: bool = False
    documents: int = 0
    read: int = 0
    repaired: int = 0
    removed: int = 0
    blocked_seconds: float = 0.0
    rejects: list[RejectedDocument] = field(default_factory=list)
