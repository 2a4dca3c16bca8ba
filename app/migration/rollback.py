"""Going back to the index before a migration, and what its operator has to do afterwards."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from elasticsearch import AsyncElasticsearch

from app.migration.cutover import current_index, swap, unblock
from app.migration.plan import CompletedMigration, MigrationError, MigrationLease
from app.migration.point_in_time import Hit, PlainIndex, PointInTime, ReadableIndex, ShardView, Slice
from app.migration.sources import Source, Unchanged, V1Recordings, V2Recordings, target_id
from app.settings import Settings
from app.store.documents import from_source, labels_of, protection_of, to_document
from app.store.indices import add_optional_fields, alias, load_schema
from app.store.retrying import with_retries

_CONCURRENCY = 4

# Without these fields an index cannot hold what is protected, or labels.
_OF_PROTECTION = ("nonDelete", "protectionPending")
_OF_LABELS = ("labels", "labelNames")

S = TypeVar("S", bound=ReadableIndex)

# A contact center, "" if the documents have none, and an id.
Name = tuple[str, str]


@dataclass
class Changes:
    """What was written to `index` and deleted there between the swap and the rollback.

    `carried` is in the old index as it was in the new one: what is protected or was ever labelled, and everything of an
    index without recordings. The rest is for the operator: `not_carried` is protected and could not be written to the
    old index, `written` has to be posted, or labelled, again, `deleted` is back and has to be deleted again.
    """

    index: str
    carried: list[Name] = field(default_factory=list)
    not_carried: list[Name] = field(default_factory=list)
    written: list[Name] = field(default_factory=list)
    deleted: list[Name] = field(default_factory=list)

    @property
    def leave_something_to_do(self) -> bool:
        return bool(self.not_carried or self.written or self.deleted)


async def roll_back(client: AsyncElasticsearch, settings: Settings, lease: MigrationLease, resource: str) -> Changes:
    """Swaps the last migration back and unblocks its sources. Idempotent. Raises MigrationError.

    Nothing that is protected in the new index is unprotected in the old one, and labels stay as they are now: such
    recordings are carried over before the alias goes back.
    """
    last = lease.state.last
    name = alias(settings, resource)
    if last is None or lease.state.plan:
        raise MigrationError("a migration is unfinished" if lease.state.plan else "there is nothing to roll back")
    for index in {last.target, last.previous, *last.sources}:
        if not await client.indices.exists(index=index):
            raise MigrationError(f"{index} no longer exists, so the migration cannot be rolled back")
    await with_retries(client.indices.add_block, index=last.target, block="write")
    has_recordings = load_schema(resource)["mappings"].get("_source") is not None
    changes = Changes(last.target)
    # Run again after a kill, it finds what it has carried over already.
    async with _point_in_time(client, _sources(last, has_recordings=has_recordings)) as sources:
        if last.before_rollback is None:
            last.before_rollback = {}
            for shard in sources.shards:
                last.before_rollback.setdefault(shard.source.index, {})[str(shard.number)] = shard.max_seq_no
            await lease.save()
        deletions = [] if has_recordings else await _deleted(client, last, sources, changes)
        if await current_index(client, name) == last.target:
            await with_retries(add_optional_fields, client, resource, last.previous)
            # The old index gets its writes back first, while the alias still leads to the blocked one.
            await unblock(client, [last.previous])
            await _carry_over(client, last, changes, has_recordings=has_recordings)
            for _id in deletions:
                await with_retries(client.options(ignore_status=404).delete, index=last.previous, id=_id)
            # A deletion that asks after the swap which recordings refer to a media object must find all of them.
            await with_retries(client.indices.refresh, index=last.previous)
            await swap(client, name, last.target, last.previous)
        else:
            await _carry_over(client, last, changes, has_recordings=has_recordings, write=False)
        await unblock(client, last.sources)
        # Comparing takes long, and the service can write meanwhile.
        if has_recordings:
            await _deleted(client, last, sources, changes)
        else:
            changes.deleted.clear()
    lease.state.last = None
    lease.state.superseded = [i for i in lease.state.superseded if i not in last.sources] + [last.target]
    await lease.save()
    return changes


@asynccontextmanager
async def _point_in_time(client: AsyncElasticsearch, indices: Sequence[S]) -> AsyncIterator[PointInTime[S]]:
    point = await PointInTime.open(client, indices)
    try:
        yield point
    finally:
        await point.close()


def _sources(last: CompletedMigration, *, has_recordings: bool) -> list[Source]:
    of_v1 = _contact_centers(last)
    others = partial(V2Recordings, docvalue_fields=("contactCenter", "id")) if has_recordings else Unchanged
    return [V1Recordings(index, of_v1[index]) if index in of_v1 else others(index) for index in last.sources]


def _contact_centers(last: CompletedMigration) -> dict[str, str]:
    """The contact center of each source of schema v1."""
    if last.contact_centers:
        return last.contact_centers
    # A former version has stored none of them. Then the name of the index tells.
    names = {index: index.partition("-v1-")[2] for index in last.sources if index != last.previous}
    return {index: contact_center for index, contact_center in names.items() if contact_center}


# --- Written since the swap ---------------------------------------------------------------------------------


async def _carry_over(
    client: AsyncElasticsearch,
    last: CompletedMigration,
    changes: Changes,
    *,
    has_recordings: bool,
    write: bool = True,
) -> None:
    """Writes what is to be carried over to the index before the migration, as it is now, and notes what is not.

    A recording of a contact center with an index of schema v1 is not written: that index would not know of it, and a
    later migration would find its contact center in two sources.
    """
    mapping = (await with_retries(client.indices.get_mapping, index=last.previous)).body[last.previous]["mappings"]
    fields = set(mapping["properties"])
    holds_labels = fields.issuperset(_OF_LABELS)
    elsewhere = {*_contact_centers(last).values()}
    async with _point_in_time(client, [PlainIndex(last.target)]) as point:
        for part in point.slices():
            newer = replace(part, after=max(part.after, last.max_seq_nos[str(part.shard.number)]))
            async for hits in point.pages(newer):
                documents: dict[str, dict[str, Any]] = {}
                for hit in hits:
                    name, document = (("", hit["_id"]), hit["_source"])
                    if has_recordings:
                        name, document = _to_carry(hit, labels_not_of=elsewhere if holds_labels else None)
                    if document is None:
                        changes.written.append(name)
                    elif has_recordings and (name[0] in elsewhere or not fields.issuperset(_OF_PROTECTION)):
                        changes.not_carried.append(name)
                    else:
                        documents[hit["_id"]] = {key: value for key, value in document.items() if key in fields}
                        changes.carried.append(name)
                if write:
                    await asyncio.gather(
                        *(
                            with_retries(client.index, index=last.previous, id=_id, document=document)
                            for _id, document in documents.items()
                        )
                    )


def _to_carry(hit: Hit, *, labels_not_of: set[str] | None) -> tuple[Name, dict[str, Any] | None]:
    """Returns the name of a recording and, if it is to be carried over, its document.

    `labels_not_of` are the contact centers whose old index holds no labels, None for all of them.
    """
    source = hit["_source"]
    recording, labels = from_source(source), labels_of(source)
    contact_center = source["contactCenter"]
    name = (contact_center, recording["id"])
    holds_labels = labels_not_of is not None and contact_center not in labels_not_of
    if not recording.get("nonDelete") and not (holds_labels and labels is not None):
        return name, None
    return name, to_document(contact_center, recording, protection_of(source), labels)


# --- Deleted since the swap ---------------------------------------------------------------------------------


async def _deleted(
    client: AsyncElasticsearch, last: CompletedMigration, point: PointInTime[Source], changes: Changes
) -> list[str]:
    """Notes which documents of the sources the new index no longer has. Returns their ids there.

    The new index is blocked. What was written to the sources after a first attempt to roll back does not count.
    """
    found: list[str] = []
    slices = iter(point.slices())
    copied_all = (
        sum([await point.count(source) for source in {shard.source for shard in point.shards}]) == last.documents
    )
    assert last.before_rollback is not None
    before = last.before_rollback

    async def compare(part: Slice[Source]) -> None:
        shard = part.shard
        upto = min(part.upto, before[shard.source.index][str(shard.number)])
        async for hits in point.pages(replace(part, upto=upto), source=isinstance(shard.source, V1Recordings)):
            ids = {_id: hit for hit in hits if (_id := _id_of_copy(shard.source, hit)) is not None}
            if not ids:
                continue
            answer = await with_retries(client.mget, index=last.target, ids=[*ids], source=False, realtime=False)
            gone = [doc["_id"] for doc in answer.body["docs"] if not doc.get("found")]
            if not copied_all:
                gone = await _copied(point, shard, {_id: ids[_id] for _id in gone}, {*last.left_out})
            found.extend(gone)
            changes.deleted.extend(_name(shard.source, ids[_id]) for _id in gone)

    async def work() -> None:
        for part in slices:  # all workers take slices from the same iterator
            await compare(part)

    await with_retries(client.indices.refresh, index=last.target)
    await asyncio.gather(*(work() for _ in range(_CONCURRENCY)))
    changes.deleted.sort()
    return found


async def _copied(
    point: PointInTime[Source], shard: ShardView[Source], hits: dict[str, Hit], left_out: set[str]
) -> list[str]:
    """Returns which of these documents the migration has copied: those that it could not transform were left out."""
    copied = []
    for _id, hit in hits.items():
        if hit["_id"] not in left_out:
            ((whole,),) = [hits async for hits in point.with_ids(shard, [hit["_id"]])]
            if target_id(shard.source, whole) == _id:
                copied.append(_id)
    return copied


def _id_of_copy(source: Source, hit: Hit) -> str | None:
    return target_id(source, hit) if isinstance(source, V1Recordings) else str(hit["_id"])


def _name(source: Source, hit: Hit) -> Name:
    fields = hit.get("fields", {})
    return (source.contact_center or fields.get("contactCenter", [""])[0], fields.get("id", [hit["_id"]])[0])
