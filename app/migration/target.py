"""The index that a migration fills."""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from elasticsearch import AsyncElasticsearch, BadRequestError

from app import codec
from app.migration.cutover import fence_name, fences
from app.migration.plan import MigrationError, MigrationLease, Options, Plan
from app.migration.point_in_time import counts_by_contact_center
from app.migration.sources import Source, TransformedDocument, digest_of
from app.retry import TRANSIENT_STATUSES, Backoff
from app.store.retrying import NotReady, with_retries

_MAX_BULK_BYTES = 4_000_000
_MAX_ITEMS = 500
_INITIAL_BACKOFF = 0.5
_MAX_BACKOFF = 30.0
_HEALTH_SECONDS = 1_800.0


@dataclass(frozen=True)
class PendingWrite:
    """A document for the target, and the document of a source from which it was made."""

    document: TransformedDocument
    source: Source
    shard: int
    seq_no: int
    source_id: str

    @property
    def id(self) -> str:
        return self.document.id

    @property
    def version(self) -> int:
        """Increases with each write of the source's document, also if that is deleted and created again."""
        return self.seq_no + 1


@dataclass
class Digest:
    """A digest of a set of documents, independent of their order. Two sets with equal digests are equal."""

    documents: int = 0
    sum: int = 0

    def add(self, digest: int) -> None:
        """Adds the `digest_of` one document."""
        self.documents += 1
        self.sum += digest


class TargetIndex:
    """A new index, written through a fence: an alias that only the current holder of the lease uses.

    The swap removes the fence, and a run that takes over replaces it. A bulk request of a killed or paused run then
    fails instead of overwriting a newer document.
    """

    def __init__(self, client: AsyncElasticsearch, index: str, fence: str, *, by_contact_center: bool) -> None:
        self._client = client
        self.index = index
        self._fence = fence
        self._by_contact_center = by_contact_center

    async def write(self, writes: Iterable[PendingWrite], *, force: bool = False) -> list[tuple[PendingWrite, str]]:
        """Stores documents unless a newer version exists, or in any case with `force`.

        Returns those that Elasticsearch rejects, and why. Raises MigrationError and ElasticsearchUnavailable.
        """
        rejected: list[tuple[PendingWrite, str]] = []
        for chunk, operations in _bulk_requests(writes, force=force):
            answers = await self._bulk(operations)
            for write, answer in zip(chunk, answers, strict=True):
                if answer["status"] == 400:
                    rejected.append((write, f"Elasticsearch rejects the document: {_reason(answer)}"))
                elif answer["status"] not in {200, 201, 409}:
                    raise MigrationError(f"writing to {self.index} failed: {_reason(answer)}")
        return rejected

    async def delete(self, ids: Sequence[str]) -> None:
        for i in range(0, len(ids), _MAX_ITEMS):
            operations = [codec.encode({"delete": {"_id": _id}}) for _id in ids[i : i + _MAX_ITEMS]]
            for answer in await self._bulk([[operation] for operation in operations]):
                if answer["status"] not in {200, 404}:
                    raise MigrationError(f"deletion in {self.index} failed: {_reason(answer)}")

    async def _bulk(self, operations: list[list[bytes]]) -> list[dict[str, Any]]:
        """Returns the response to each operation. Operations that Elasticsearch turns away as overload are repeated."""
        answers: dict[int, dict[str, Any]] = {}
        waiting = list(range(len(operations)))
        backoff = Backoff(initial=_INITIAL_BACKOFF, maximum=_MAX_BACKOFF)
        while True:
            response = await with_retries(
                self._client.bulk,
                index=self._fence,
                operations=_lines(operations, waiting),
                require_alias=True,
                filter_path=["items.*.status", "items.*.error"],
            )
            for i, item in zip(waiting, response.body["items"], strict=True):
                (answers[i],) = item.values()
            waiting = [i for i in waiting if answers[i]["status"] in TRANSIENT_STATUSES]
            if not waiting:
                return [answers[i] for i in range(len(operations))]
            await backoff.wait()

    async def differing(self, writes: Sequence[PendingWrite]) -> list[PendingWrite]:
        """Returns those whose document is missing or different, as of the last refresh."""
        differing: list[PendingWrite] = []
        for i in range(0, len(writes), _MAX_ITEMS):
            chunk = writes[i : i + _MAX_ITEMS]
            # _mget would decompress a whole block of stored documents for each one.
            answer = await with_retries(
                self._client.search,
                index=self._fence,
                query={"ids": {"values": [write.id for write in chunk]}},
                sort="_doc",
                size=len(chunk),
                track_total_hits=False,
                allow_partial_search_results=False,
                filter_path=["hits.hits._id", "hits.hits._source"],
            )
            hits = answer.body.get("hits", {}).get("hits", [])
            digests = {hit["_id"]: digest_of(hit["_id"], hit["_source"]) for hit in hits}
            differing += [write for write in chunk if digests.get(write.id) != write.document.digest]
        return differing

    async def refresh(self) -> None:
        await with_retries(self._client.indices.refresh, index=self.index)

    async def count(self) -> int:
        """Returns the number of documents as of the last refresh."""
        return int((await with_retries(self._client.count, index=self.index)).body["count"])

    async def counts(self) -> dict[str, int]:
        """Returns contact center → documents as of the last refresh. The key is "" if there are no contact centers."""
        if not self._by_contact_center:
            return {"": await self.count()}

        async def search(**body: Any) -> Any:
            return (await with_retries(self._client.search, index=self.index, **body)).body

        return await counts_by_contact_center(search)

    async def max_seq_nos(self) -> dict[str, int]:
        """Returns shard → the number of its last write."""
        stats = (await with_retries(self._client.indices.stats, index=self.index, level="shards", metric="docs")).body
        return {
            number: max(int(copy["seq_no"]["max_seq_no"]) for copy in copies)
            for number, copies in stats["indices"][self.index]["shards"].items()
        }

    async def restore_settings_and_wait(self, replicas: int) -> None:
        """Gives the index its normal replicas and refresh interval. Returns when every copy is allocated."""
        await with_retries(
            self._client.indices.put_settings,
            index=self.index,
            settings={"index.number_of_replicas": replicas, "index.refresh_interval": None},
        )
        deadline = asyncio.get_running_loop().time() + _HEALTH_SECONDS
        while True:
            health = await with_retries(_health, self._client, self.index)
            if health == "green":
                return
            if asyncio.get_running_loop().time() > deadline:
                raise MigrationError(
                    f"{self.index} is still {health}: Elasticsearch allocates no node to its replicas. Add nodes, or "
                    "run again with fewer RECALL_REPLICAS. The copied documents are kept"
                )


async def prepare_target(
    client: AsyncElasticsearch,
    lease: MigrationLease,
    name: str,
    schema: dict[str, Any],
    sources: Sequence[Source],
    *,
    options: Options,
) -> tuple[TargetIndex, bool]:
    """Creates the next index behind the alias `name`, or takes over the one that an earlier run has partly filled.

    Returns it, and whether it is new. The lease then has a plan. Raises MigrationError and ElasticsearchUnavailable.
    """
    plan, indices = lease.state.plan, [source.index for source in sources]
    if plan and options.discard:
        if plan.target in (await client.options(ignore_status=404).indices.get_alias(name=name)).body:
            raise MigrationError(f"{plan.target} is the index behind {name}, so it is not discarded")
        await client.options(ignore_status=404).indices.delete(index=plan.target)
        plan = lease.state.plan = None
    if plan and (plan.sources, plan.shards) != (indices, options.shards):
        raise MigrationError(
            f"{plan.target} is partly filled from {', '.join(plan.sources)} with {plan.shards} shards: run again "
            "with the same arguments, or start over with --discard"
        )
    exists = plan is not None and bool(await client.indices.exists(index=plan.target))
    if plan is None:
        plan = lease.state.plan = Plan(await _next_name(client, name), indices, options.shards, fence_name(name, lease))
        await lease.save()
    elif exists and plan.fence not in await fences(client, name, plan.target):
        raise MigrationError(f"no migration is filling {plan.target}: delete that index, or use --discard")
    if not exists:
        await _create_index(client, plan.target, plan.fence, schema, plan.shards)
    by_contact_center = has_contact_centers(schema)
    return TargetIndex(client, plan.target, plan.fence, by_contact_center=by_contact_center), not exists


def has_contact_centers(schema: dict[str, Any]) -> bool:
    """Returns whether the documents of a schema belong to contact centers."""
    return "contactCenter" in schema["mappings"]["properties"]


async def _next_name(client: AsyncElasticsearch, name: str) -> str:
    found = (await with_retries(client.indices.get, index=f"{name}-v2-*", features="aliases")).body
    numbers = [int(index.rpartition("-")[2]) for index in found if index.rpartition("-")[2].isdecimal()]
    return f"{name}-v2-{max(numbers, default=0) + 1:06}"


async def _create_index(
    client: AsyncElasticsearch, index: str, fence: str, schema: dict[str, Any], shards: int
) -> None:
    """Creates an empty index with the settings for the fastest bulk indexing. Raises MigrationError."""
    try:
        await with_retries(
            client.indices.create,
            index=index,
            mappings=schema["mappings"],
            settings={
                **schema["settings"],
                "index.number_of_shards": shards,
                "index.number_of_replicas": 0,
                "index.refresh_interval": "-1",
            },
            aliases={fence: {}},
        )
    except BadRequestError as error:
        # An index that has our fence was created by an earlier attempt whose answer was lost.
        if error.error != "resource_already_exists_exception" or not await client.indices.exists_alias(
            name=fence, index=index
        ):
            raise MigrationError(f"cannot create the index {index}: {error}") from error


async def _health(client: AsyncElasticsearch, index: str) -> str:
    """Waits a few seconds for green. Missing copies count only if there are nodes for them."""
    answer = await client.options(ignore_status=408).cluster.health(
        index=index, wait_for_status="green", wait_for_no_initializing_shards=True, level="indices", timeout="5s"
    )
    if answer.body["status"] == "red":
        raise NotReady(f"{index} is red")
    nodes = int(answer.body["number_of_data_nodes"])
    possible = sum(
        shards * min(int(found["number_of_replicas"]) + 1, nodes)
        for found in answer.body["indices"].values()
        for shards in [int(found["number_of_shards"])]
    )
    return "green" if int(answer.body["active_shards"]) >= possible else str(answer.body["status"])


def _bulk_requests(
    writes: Iterable[PendingWrite], *, force: bool
) -> Iterator[tuple[list[PendingWrite], list[list[bytes]]]]:
    """Yields chunks of at most _MAX_BULK_BYTES with their bulk operations."""
    chunk: list[PendingWrite] = []
    operations: list[list[bytes]] = []
    size = 0
    for write in writes:
        action: dict[str, Any] = {"_id": write.id}
        if not force:
            action |= {"version": write.version, "version_type": "external_gte"}
        body = write.document.body
        if chunk and size + len(body) > _MAX_BULK_BYTES:
            yield chunk, operations
            chunk, operations, size = [], [], 0
        chunk.append(write)
        operations.append([codec.encode({"index": action}), body])
        size += len(body)
    if chunk:
        yield chunk, operations


def _lines(operations: list[list[bytes]], chosen: list[int]) -> Any:
    """Returns lines of encoded JSON, which the client sends unchanged."""
    return [line for i in chosen for line in operations[i]]


def _reason(answer: dict[str, Any]) -> str:
    error = answer.get("error", {})
    cause = error.get("caused_by", {}).get("reason")
    return f"{error.get('type')}: {error.get('reason')}{f' ({cause})' if cause else ''}"
