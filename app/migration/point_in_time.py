"""Points in time of indices, read by sequence number.

Elasticsearch numbers the writes of each shard. A document carries the number of its last write in `_seq_no`. A document
that was written after a point in time has a higher number than any document in it. A document that was replaced or
deleted since leaves a gap: its number is missing from a later point in time.
"""

import asyncio
import math
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Literal, Protocol, TypeVar

from elasticsearch import ApiError, AsyncElasticsearch, NotFoundError, TransportError

from app import codec
from app.store.retrying import NotReady, with_retries

# Longer than a network partition may last. A restart of the node loses the point in time in any case.
_KEEP_ALIVE = "15m"
_RENEWAL_SECONDS = 300.0
_SLICE = 5_000
_PAGE = 500
# The recordings in one answer of Elasticsearch, which holds all of them in its memory, except a single larger one.
_PAGE_BYTES = 16 * 1024 * 1024
_FIRST_PAGE = 4  # of documents that do not tell their size, which are up to 4 MiB each

# How much narrower the intervals of each round of the search for gaps are.
_REFINEMENT = 32
_MAX_BUCKETS = 8_192
# _REFINEMENT buckets for each of these ranges stay below Elasticsearch's `search.max_buckets`.
_RANGES_PER_SEARCH = 1_000
_TERMS_PER_SEARCH = _PAGE
_CONTACT_CENTERS_PER_SEARCH = 1_000

Query = dict[str, Any]
# A search hit with `_seq_no` and, if its index names `docvalue_fields`, `fields`.
Hit = dict[str, Any]


class PointInTimeLost(Exception):
    """Elasticsearch no longer has a point in time, because a node was restarted or it has expired."""


class ReadableIndex(Protocol):
    """An index, and the fields that its hits need in addition to their `_source`."""

    @property
    def index(self) -> str: ...

    @property
    def docvalue_fields(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class PlainIndex:
    """An index that is only read, for example the target of a migration."""

    index: str
    docvalue_fields: tuple[str, ...] = ()


S = TypeVar("S", bound=ReadableIndex)


@dataclass
class ShardView(Generic[S]):
    """One shard at a point in time.

    Every write up to `global_checkpoint` is visible, unless a later visible write has replaced it. Some writes between
    `global_checkpoint` and `max_seq_no` may have been in flight.
    """

    source: S
    number: int
    global_checkpoint: int
    pit_id: str
    max_seq_no: int = -1


@dataclass(frozen=True)
class Slice(Generic[S]):
    """The documents of a shard whose `_seq_no` is above `after` and at most `upto`."""

    shard: ShardView[S]
    after: int
    upto: int


class PointInTime(Generic[S]):
    """All indices of a migration at one time. Elasticsearch keeps their old segments until `close`."""

    def __init__(self, client: AsyncElasticsearch) -> None:
        self._client = client
        self.shards: Sequence[ShardView[S]] = ()
        # Index → how many documents, which do not tell their size, to ask for next.
        self._page_sizes: dict[str, int] = {}
        self._renewal = asyncio.create_task(self._renew())

    @classmethod
    async def open(cls, client: AsyncElasticsearch, sources: Iterable[S]) -> "PointInTime[S]":
        """Opens one that includes every write acknowledged before the call."""
        point = cls(client)
        try:
            # Concurrently, because the last point in time is opened while writes are blocked.
            views = await asyncio.gather(*map(point.open_shards, sources))
        except BaseException:
            await point.close()
            raise
        point.shards = [shard for shards in views for shard in shards]
        return point

    async def open_shards(self, source: S) -> list[ShardView[S]]:
        checkpoints = await with_retries(_global_checkpoints, self._client, source.index)
        await with_retries(self._client.indices.refresh, index=source.index)
        shards = []
        for number, global_checkpoint in checkpoints.items():
            answer = await with_retries(
                self._client.open_point_in_time,
                index=source.index,
                keep_alive=_KEEP_ALIVE,
                preference=f"_shards:{number}",
            )
            shard = ShardView(source, number, global_checkpoint, answer.body["id"])
            newest = await self.search(shard, size=1, sort=[{"_seq_no": "desc"}], source=False)
            shard.max_seq_no = max([hit["_seq_no"] for hit in newest["hits"]["hits"]], default=-1)
            shards.append(shard)
        return shards

    async def _renew(self) -> None:
        """Keeps all shards' points in time alive: a long pass may reach a shard only after its keep_alive."""
        while True:
            await asyncio.sleep(_RENEWAL_SECONDS)
            for shard in self.shards:
                with suppress(TransportError, ApiError):  # the next reader of this shard reports the failure
                    await self._client.search(pit={"id": shard.pit_id, "keep_alive": _KEEP_ALIVE}, size=0)

    async def close(self) -> None:
        """Never fails, because a point in time that cannot be closed expires."""
        self._renewal.cancel()
        # Concurrently, because one is closed while writes are blocked.
        closing = (self._client.close_point_in_time(id=shard.pit_id) for shard in self.shards)
        for result in await asyncio.gather(*closing, return_exceptions=True):
            if isinstance(result, BaseException) and not isinstance(result, TransportError | ApiError):
                raise result

    def slices(self, since: "PointInTime[S] | None" = None) -> list[Slice[S]]:
        """Returns slices with all documents, or with those written after `since` and possibly a few older ones."""
        begin = {(s.source.index, s.number): s.global_checkpoint for s in since.shards} if since else {}
        return [
            Slice(shard, after, min(after + _SLICE, shard.max_seq_no))
            for shard in self.shards
            for after in range(begin.get((shard.source.index, shard.number), -1), shard.max_seq_no, _SLICE)
        ]

    def shards_of(self, source: S) -> list[ShardView[S]]:
        return [shard for shard in self.shards if shard.source == source]

    async def count(self, source: S) -> int:
        return sum([await self._count_in(shard) for shard in self.shards_of(source)])

    async def counts_by_contact_center(self, source: S) -> dict[str, int]:
        """Returns contact center → number of documents."""
        counts: dict[str, int] = defaultdict(int)
        for shard in self.shards_of(source):
            for contact_center, count in (await counts_by_contact_center(partial(self.search, shard))).items():
                counts[contact_center] += count
        return counts

    async def _count_in(self, shard: ShardView[S], query: Query | None = None) -> int:
        answer = await self.search(shard, size=0, track_total_hits=True, query=query or {"match_all": {}})
        return int(answer["hits"]["total"]["value"])

    async def total(self, slices: Iterable[Slice[S]]) -> int:
        """Returns the number of documents in adjacent slices, with one search for each shard."""
        bounds: dict[int, tuple[ShardView[S], int, int]] = {}
        for part in slices:
            _, after, upto = bounds.get(id(part.shard), (part.shard, part.after, part.upto))
            bounds[id(part.shard)] = (part.shard, min(after, part.after), max(upto, part.upto))
        return sum([await self._count_in(shard, _between(after, upto)) for shard, after, upto in bounds.values()])

    async def pages(self, part: Slice[S], *, source: bool = True) -> AsyncIterator[list[Hit]]:
        """Yields the documents of a slice in the order of their `_seq_no`."""
        query = _between(part.after, part.upto)
        async for hits in self._pages(part.shard, query, part.after, part.upto, source=source):
            yield hits

    def with_ids(self, shard: ShardView[S], ids: Sequence[str]) -> AsyncIterator[list[Hit]]:
        """Yields the documents of a shard that have one of at most a page of ids."""
        return self._pages(shard, {"ids": {"values": ids}})

    async def _pages(
        self, shard: ShardView[S], query: Query, after: int = -1, upto: float = math.inf, *, source: bool = True
    ) -> AsyncIterator[list[Hit]]:
        """Yields the documents of a query whose `_seq_no` is above `after` and at most `upto`, in its order."""
        sizes = await self._sizes(shard, query) if source else "small"
        order: Query = {"sort": [{"_seq_no": "asc"}]}
        while after < upto:
            size = self._page_sizes.get(shard.source.index, _FIRST_PAGE) if sizes == "unknown" else _PAGE
            more = {"fields": ("recordingBytes",)} if sizes == "large" else {}
            page = {"query": query, "search_after": [after], "size": size, **order, **more}
            hits = (await self.search(shard, source=source and sizes != "large", **page))["hits"]["hits"]
            if sizes == "unknown" and hits:
                self._page_sizes[shard.source.index] = _next_size(size, hits)
            if sizes != "large" and hits:
                yield hits
            elif hits:
                for some in _fitting(hits):
                    numbers = _between(some[0]["_seq_no"] - 1, some[-1]["_seq_no"])
                    found = {"query": {"bool": {"filter": [query, numbers]}}, "size": len(some), **order}
                    yield (await self.search(shard, **found))["hits"]["hits"]
            if len(hits) < size:
                return
            after = hits[-1]["_seq_no"]

    async def _sizes(self, shard: ShardView[S], query: Query) -> Literal["small", "large", "unknown"]:
        """Returns "small" if a page fits into one answer even if all of it is as large as the largest that is found.

        Documents of schema v1 and former versions do not tell their size.
        """
        answer = await self.search(shard, query=query, size=0, aggs={"largest": {"max": {"field": "recordingBytes"}}})
        largest = answer["aggregations"]["largest"]["value"]  # a decimal, or null
        if largest is None:
            return "unknown"
        return "small" if float(bytes(largest)) * _PAGE <= _PAGE_BYTES else "large"

    async def replaced_or_deleted(
        self, later: "PointInTime[S]"
    ) -> AsyncIterator[tuple[ShardView[S], ShardView[S], list[Hit]]]:
        """Yields documents of this point in time that were replaced or deleted before `later`, up to a page at a time.

        Each item has the shard at both times. The search goes from coarse to fine: only intervals that have lost
        documents are divided, down to single sequence numbers.
        """
        shards_later = {(shard.source.index, shard.number): shard for shard in later.shards}
        for shard in self.shards:
            if shard.max_seq_no < 0:
                continue
            shard_later = shards_later[shard.source.index, shard.number]
            numbers = await self._missing_seq_nos(shard, later, shard_later)
            for i in range(0, len(numbers), _TERMS_PER_SEARCH):
                chunk = numbers[i : i + _TERMS_PER_SEARCH]
                async for hits in self._pages(shard, {"terms": {"_seq_no": chunk}}):
                    yield shard, shard_later, hits

    async def _missing_seq_nos(self, before: ShardView[S], later: "PointInTime[S]", after: ShardView[S]) -> list[int]:
        # Above the global checkpoint new numbers may have become visible between the two points in time, which would
        # compensate for missing ones in a count. These numbers are few, so each is compared.
        missing: list[int] = []
        checkpoint = before.global_checkpoint
        if before.max_seq_no > checkpoint:
            above = [_between(checkpoint, before.max_seq_no)]
            missing = await self._intervals_with_fewer_documents(before, later, after, above, 1)
        interval = 1
        while checkpoint // interval > _MAX_BUCKETS:
            interval *= _REFINEMENT
        ranges = [_between(-1, checkpoint)]
        while True:
            fewer = [
                number
                for i in range(0, len(ranges), _RANGES_PER_SEARCH)
                for number in await self._intervals_with_fewer_documents(
                    before, later, after, ranges[i : i + _RANGES_PER_SEARCH], interval
                )
            ]
            if interval == 1 or not fewer:
                return missing + fewer
            ranges = [_between(number - 1, min(number + interval - 1, checkpoint)) for number in fewer]
            interval //= _REFINEMENT

    async def _intervals_with_fewer_documents(
        self, before: ShardView[S], later: "PointInTime[S]", after: ShardView[S], ranges: list[Query], interval: int
    ) -> list[int]:
        """Returns the lowest number of each interval within the ranges that has fewer documents than before."""
        counts_before, counts_after = await asyncio.gather(
            self.histogram(before, ranges, interval), later.histogram(after, ranges, interval)
        )
        return [number for number, count in counts_before.items() if counts_after.get(number, 0) < count]

    async def histogram(self, shard: ShardView[S], ranges: list[Query], interval: int) -> dict[int, int]:
        """Returns the lowest `_seq_no` of each interval that has documents → their number."""
        answer = await self.search(
            shard,
            query={"bool": {"should": ranges}},
            size=0,
            aggs={"numbers": {"histogram": {"field": "_seq_no", "interval": interval, "min_doc_count": 1}}},
        )
        # The keys have a fraction, and app.codec leaves such numbers as text.
        return {
            int(float(bytes(bucket["key"]))): bucket["doc_count"]
            for bucket in answer["aggregations"]["numbers"]["buckets"]
        }

    async def search(self, shard: ShardView[S], *, source: bool = True, fields: Sequence[str] = (), **body: Any) -> Any:
        """Searches one shard and returns the response's body; hits have `fields` beside those that the source names.

        Raises PointInTimeLost and ElasticsearchUnavailable.
        """
        try:
            answer = await with_retries(
                self._client.search,
                pit={"id": shard.pit_id, "keep_alive": _KEEP_ALIVE},
                seq_no_primary_term=True,
                source=source,
                docvalue_fields=[{"field": name} for name in (*shard.source.docvalue_fields, *fields)],
                allow_partial_search_results=False,
                **{"track_total_hits": False, **body},
            )
        except NotFoundError as error:
            if "search context" in str(error.body):
                raise PointInTimeLost from error
            raise
        shard.pit_id = answer.body["pit_id"]
        return answer.body


async def counts_by_contact_center(search: Callable[..., Awaitable[Any]]) -> dict[str, int]:
    """Returns contact center → number of documents. `search` takes the body of a search and returns the response's."""
    counts: dict[str, int] = {}
    after: dict[str, Any] = {}
    while True:
        composite = {
            "size": _CONTACT_CENTERS_PER_SEARCH,
            "sources": [{"contactCenter": {"terms": {"field": "contactCenter"}}}],
            **after,
        }
        answer = await search(size=0, track_total_hits=False, aggs={"counts": {"composite": composite}})
        found = answer["aggregations"]["counts"]
        for bucket in found["buckets"]:
            counts[bucket["key"]["contactCenter"]] = bucket["doc_count"]
        if "after_key" not in found:
            return counts
        after = {"after": found["after_key"]}


def _next_size(size: int, hits: list[Hit]) -> int:
    """Returns how many documents to ask for next: so many of the largest of these fit, and at most twice as many."""
    largest = max(len(codec.encode(hit["_source"])) for hit in hits)
    return max(1, min(_PAGE_BYTES // largest, 2 * size, _PAGE))


def _fitting(hits: list[Hit]) -> Iterator[list[Hit]]:
    """Yields the hits, which have their `recordingBytes`, as many at a time as fit into one answer, or a single one."""
    some: list[Hit] = []
    size = 0
    for hit in hits:
        (hit_size,) = hit.get("fields", {}).get("recordingBytes", [0])
        if some and size + hit_size > _PAGE_BYTES:
            yield some
            some, size = [], 0
        some.append(hit)
        size += hit_size
    if some:
        yield some


def _between(after: int, upto: int) -> Query:
    return {"range": {"_seq_no": {"gt": after, "lte": upto}}}


async def _global_checkpoints(client: AsyncElasticsearch, index: str) -> dict[int, int]:
    """Returns shard → the number up to which every write has been done on every copy."""
    settings = (await client.indices.get_settings(index=index, flat_settings=True)).body
    ((_, found),) = settings.items()
    stats = (await client.indices.stats(index=index, level="shards", metric="docs")).body
    checkpoints = {
        int(number): int(copy["seq_no"]["global_checkpoint"])
        for number, copies in stats["indices"].get(index, {"shards": {}})["shards"].items()
        for copy in copies
        if copy["routing"]["primary"]
    }
    if len(checkpoints) < int(found["settings"]["index.number_of_shards"]):
        raise NotReady(f"some primary shards of {index} are unassigned")
    return checkpoints
