"""The new index, while it is being filled."""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from elasticsearch import AsyncElasticsearch, BadRequestError, NotFoundError

from app import codec
from app.migration.patience import MigrationError, NotReady, patiently
from app.migration.sources import Made, Source, digest_of
from app.store.lease import Holder

_BULK_BYTES = 4_000_000
_READ_AT_ONCE = 500
_OVERLOADED = frozenset({429, 503})
_LONGEST_PAUSE = 15.0
_HEALTH_SECONDS = 1_800.0
_BUCKETS = 1_000


@dataclass(frozen=True)
class Copied:
    """A document for the new generation, and where it comes from."""

    made: Made
    source: Source
    shard: int
    seq_no: int
    source_id: str

    @property
    def id(self) -> str:
        return self.made.id

    @property
    def version(self) -> int:
        """Grows with each write of the document, also when it is deleted and made again."""
        return self.seq_no + 1


@dataclass
class Digest:
    """Of a set of documents, in whatever order they are added: equal when (but for chance) all are."""

    documents: int = 0
    sum: int = 0

    def add(self, digest: int) -> None:
        """`digest_of` one of them."""
        self.documents += 1
        self.sum += digest


class Generation:
    """An index that is written through an alias of this run's own, the fence.

    The swap takes the fence away, and so does a run that takes over: whatever a killed or paused run still has under
    way then fails, instead of overwriting something.
    """

    def __init__(self, client: AsyncElasticsearch, index: str, fence: str, *, by_contact_center: bool) -> None:
        self._client = client
        self.index = index
        self._fence = fence
        self._by_contact_center = by_contact_center

    async def write(self, copies: Iterable[Copied], *, force: bool = False) -> list[tuple[Copied, str]]:
        """Stores them, unless a newer version is there; with `force` whatever is there.

        Returns those that Elasticsearch refuses, with its reason.
        """
        refused: list[tuple[Copied, str]] = []
        for some, operations in _requests(copies, force=force):
            answers = await self._bulk(operations)
            for copied, answer in zip(some, answers, strict=True):
                if answer["status"] == 400:
                    refused.append((copied, f"Elasticsearch refuses it: {_reason(answer)}"))
                elif answer["status"] not in {200, 201, 409}:
                    raise MigrationError(f"cannot write to {self.index}: {_reason(answer)}")
        return refused

    async def delete(self, ids: Sequence[str]) -> None:
        for i in range(0, len(ids), _READ_AT_ONCE):
            operations = [codec.encode({"delete": {"_id": _id}}) for _id in ids[i : i + _READ_AT_ONCE]]
            for answer in await self._bulk([[operation] for operation in operations]):
                if answer["status"] not in {200, 404}:
                    raise MigrationError(f"{self.index} refuses a deletion: {_reason(answer)}")

    async def _bulk(self, operations: list[list[bytes]]) -> list[dict[str, Any]]:
        """The answer to each operation; those that were too much for Elasticsearch are repeated."""
        answers: dict[int, dict[str, Any]] = {}
        waiting = list(range(len(operations)))
        pause = 0.25
        while True:
            response = await patiently(
                self._client.bulk,
                index=self._fence,
                operations=_lines(operations, waiting),
                require_alias=True,
                filter_path=["items.*.status", "items.*.error"],
            )
            for i, item in zip(waiting, response.body["items"], strict=True):
                (answers[i],) = item.values()
            waiting = [i for i in waiting if answers[i]["status"] in _OVERLOADED]
            if not waiting:
                return [answers[i] for i in range(len(operations))]
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def differing(self, copies: Sequence[Copied]) -> list[Copied]:
        """Those that are not here as they should be, as of the last refresh."""
        differing: list[Copied] = []
        for i in range(0, len(copies), _READ_AT_ONCE):
            some = copies[i : i + _READ_AT_ONCE]
            # Not _mget, which unpacks a whole block of stored documents for each.
            answer = await patiently(
                self._client.search,
                index=self._fence,
                query={"ids": {"values": [copied.id for copied in some]}},
                sort="_doc",
                size=len(some),
                track_total_hits=False,
                allow_partial_search_results=False,
                filter_path=["hits.hits._id", "hits.hits._source"],
            )
            hits = answer.body.get("hits", {}).get("hits", [])
            found = {hit["_id"]: digest_of(hit["_id"], hit["_source"]) for hit in hits}
            differing += [copied for copied in some if found.get(copied.id) != copied.made.digest]
        return differing

    async def refresh(self) -> None:
        await patiently(self._client.indices.refresh, index=self.index)

    async def count(self) -> int:
        """As of the last refresh."""
        return int((await patiently(self._client.count, index=self.index)).body["count"])

    async def counts(self) -> dict[str, int]:
        """Contact center → documents, as of the last refresh; all under "" where there are no contact centers."""
        if not self._by_contact_center:
            return {"": await self.count()}
        return await counts_by_contact_center(self._client, index=self.index)

    async def numbers(self) -> dict[str, int]:
        """Shard → the number of its last write."""
        stats = (await patiently(self._client.indices.stats, index=self.index, level="shards", metric="docs")).body
        return {
            number: max(int(copy["seq_no"]["max_seq_no"]) for copy in copies)
            for number, copies in stats["indices"][self.index]["shards"].items()
        }

    async def settle(self, replicas: int) -> None:
        """Replicas and refreshing as in normal times; returns when all copies are there."""
        await patiently(
            self._client.indices.put_settings,
            index=self.index,
            settings={"index.number_of_replicas": replicas, "index.refresh_interval": None},
        )
        deadline = asyncio.get_running_loop().time() + _HEALTH_SECONDS
        while True:
            health = await patiently(_health, self._client, self.index)
            if health == "green":
                return
            if asyncio.get_running_loop().time() > deadline:
                raise MigrationError(
                    f"{self.index} is still {health}: its replicas find no node. Add nodes, or run again with fewer "
                    "RECALL_REPLICAS; the copy is kept"
                )


async def counts_by_contact_center(client: AsyncElasticsearch, **where: Any) -> dict[str, int]:
    """Contact center → documents. `where` are arguments of a search."""
    counts: dict[str, int] = {}
    after: dict[str, Any] = {}
    while True:
        composite = {"size": _BUCKETS, "sources": [{"cc": {"terms": {"field": "contactCenter"}}}], **after}
        answer = await patiently(
            client.search, size=0, track_total_hits=False, aggs={"counts": {"composite": composite}}, **where
        )
        found = answer.body["aggregations"]["counts"]
        for bucket in found["buckets"]:
            counts[bucket["key"]["cc"]] = bucket["doc_count"]
        if "after_key" not in found:
            return counts
        after = {"after": found["after_key"]}


async def create_generation(
    client: AsyncElasticsearch, index: str, fence: str, schema: dict[str, Any], shards: int
) -> None:
    """Makes an empty index in the state in which it is filled fastest. Raises MigrationError."""
    try:
        await patiently(
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
        # Ours, if its answer got lost.
        if error.error != "resource_already_exists_exception" or not await client.indices.exists_alias(
            name=fence, index=index
        ):
            raise MigrationError(f"cannot make the index {index}: {error}") from error


def fence_name(name: str, holder: Holder) -> str:
    """The alias through which one run fills the next generation behind the alias `name`."""
    return f"{name}-filling-{holder.token}"


async def fences(client: AsyncElasticsearch, name: str, index: str) -> list[str]:
    """Those that an index has; none if it does not exist."""
    answer = await patiently(client.options(ignore_status=404).indices.get_alias, index=index)
    return [
        fence for fence in answer.body.get(index, {"aliases": {}})["aliases"] if fence.startswith(f"{name}-filling-")
    ]


async def move_fence(client: AsyncElasticsearch, index: str, old: str, new: str) -> None:
    """Shuts out the run that writes through `old`."""
    actions: list[dict[str, Any]] = [{"add": {"index": index, "alias": new}}]
    try:
        await patiently(
            client.indices.update_aliases,
            actions=[*actions, {"remove": {"index": index, "alias": old, "must_exist": True}}],
        )
    except NotFoundError:  # its answer got lost
        await patiently(client.indices.update_aliases, actions=actions)


async def _health(client: AsyncElasticsearch, index: str) -> str:
    """Waits a while for green; green is also what has as many copies as there are nodes for."""
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


def _requests(copies: Iterable[Copied], *, force: bool) -> Iterator[tuple[list[Copied], list[list[bytes]]]]:
    """In parts that Elasticsearch takes."""
    some: list[Copied] = []
    operations: list[list[bytes]] = []
    size = 0
    for copied in copies:
        action: dict[str, Any] = {"_id": copied.id}
        if not force:
            action |= {"version": copied.version, "version_type": "external_gte"}
        body = copied.made.body
        if some and size + len(body) > _BULK_BYTES:
            yield some, operations
            some, operations, size = [], [], 0
        some.append(copied)
        operations.append([codec.encode({"index": action}), body])
        size += len(body)
    if some:
        yield some, operations


def _lines(operations: list[list[bytes]], chosen: list[int]) -> Any:
    """Encoded already; the client passes them on as they are."""
    return [line for i in chosen for line in operations[i]]


def _reason(answer: dict[str, Any]) -> str:
    error = answer.get("error", {})
    cause = error.get("caused_by", {}).get("reason")
    return f"{error.get('type')}: {error.get('reason')}{f' ({cause})' if cause else ''}"
