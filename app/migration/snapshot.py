"""Points in time of the sources, read by sequence number.

Elasticsearch numbers the writes of a shard (`_seq_no`), and a document has the number of its last write. So what was
written since a snapshot are the documents with higher numbers, and what was overwritten or deleted since are numbers
that a later snapshot no longer has.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from elasticsearch import ApiError, AsyncElasticsearch, TransportError

from app.migration.patience import NotReady, patiently
from app.migration.sources import Hit, Readable

# How long a snapshot outlives its last use: longer than a node that is away and comes back without a restart.
_KEEP_ALIVE = "15m"
_USE_SECONDS = 300.0
_SLICE = 5_000
_PAGE = 500

_FINER = 32
_MOST_BUCKETS = 8_192
# This times _FINER buckets stay below `search.max_buckets`.
_RANGES_AT_ONCE = 1_000
_TERMS_AT_ONCE = 500

Query = dict[str, Any]
S = TypeVar("S", bound=Readable)


@dataclass
class Shard(Generic[S]):
    """One shard of a source at a point in time.

    Every write up to the number `settled` is in it, or was overwritten by a later one that is; of the numbers above,
    up to `top`, some may have been on their way.
    """

    source: S
    number: int
    settled: int
    pit: str
    top: int = -1


@dataclass(frozen=True)
class Slice(Generic[S]):
    """The documents of a shard with numbers above `after`, up to `upto`."""

    shard: Shard[S]
    after: int
    upto: int


class Snapshot(Generic[S]):
    """All sources at one time; close it to let go of what Elasticsearch keeps for it."""

    def __init__(self, client: AsyncElasticsearch) -> None:
        self._client = client
        self.shards: Sequence[Shard[S]] = ()
        self._use = asyncio.create_task(self._use_now_and_then())

    @classmethod
    async def take(cls, client: AsyncElasticsearch, sources: Iterable[S]) -> "Snapshot[S]":
        """Everything that was acknowledged before is in it."""
        snapshot = cls(client)
        try:
            # All sources at once: the last snapshot is taken while writes are blocked.
            found = await asyncio.gather(*(snapshot._shards_now(source) for source in sources))
        except BaseException:
            await snapshot.close()
            raise
        snapshot.shards = [shard for shards in found for shard in shards]
        return snapshot

    async def _shards_now(self, source: S) -> list[Shard[S]]:
        settled = await patiently(_settled, self._client, source.index)
        await patiently(self._client.indices.refresh, index=source.index)
        shards = []
        for number, upto in settled.items():
            answer = await patiently(
                self._client.open_point_in_time,
                index=source.index,
                keep_alive=_KEEP_ALIVE,
                preference=f"_shards:{number}",
            )
            shard = Shard(source, number, upto, answer.body["id"])
            newest = await self.search(shard, size=1, sort=[{"_seq_no": "desc"}], source=False)
            shard.top = max([hit["_seq_no"] for hit in newest["hits"]["hits"]], default=-1)
            shards.append(shard)
        return shards

    async def _use_now_and_then(self) -> None:
        """A pass over millions takes longer than Elasticsearch keeps what is not used, and comes to one shard last."""
        while True:
            await asyncio.sleep(_USE_SECONDS)
            for shard in self.shards:
                with suppress(TransportError, ApiError):  # whoever needs it finds out
                    await self._client.search(pit={"id": shard.pit, "keep_alive": _KEEP_ALIVE}, size=0)

    async def close(self) -> None:
        """Never fails: what is not closed expires."""
        self._use.cancel()
        # All at once: one is closed while writes are blocked.
        closing = (self._client.close_point_in_time(id=shard.pit) for shard in self.shards)
        for result in await asyncio.gather(*closing, return_exceptions=True):
            if isinstance(result, BaseException) and not isinstance(result, TransportError | ApiError):
                raise result

    def slices(self, since: "Snapshot[S] | None" = None) -> list[Slice[S]]:
        """All documents, or all that were written after `since` (and perhaps some before)."""
        begin = {(s.source.index, s.number): s.settled for s in since.shards} if since else {}
        return [
            Slice(shard, after, min(after + _SLICE, shard.top))
            for shard in self.shards
            for after in range(begin.get((shard.source.index, shard.number), -1), shard.top, _SLICE)
        ]

    def shards_of(self, source: S) -> list[Shard[S]]:
        return [shard for shard in self.shards if shard.source == source]

    async def count(self, source: S) -> int:
        return sum([await self.count_shard(shard) for shard in self.shards_of(source)])

    async def count_shard(self, shard: Shard[S], query: Query | None = None) -> int:
        answer = await self.search(shard, size=0, track_total_hits=True, query=query or {"match_all": {}})
        return int(answer["hits"]["total"]["value"])

    async def total(self, slices: Iterable[Slice[S]]) -> int:
        """How many documents are in slices that follow each other."""
        bounds: dict[int, tuple[Shard[S], int, int]] = {}
        for part in slices:
            _, after, upto = bounds.get(id(part.shard), (part.shard, part.after, part.upto))
            bounds[id(part.shard)] = (part.shard, min(after, part.after), max(upto, part.upto))
        return sum([await self.count_shard(shard, _between(after, upto)) for shard, after, upto in bounds.values()])

    async def pages(self, part: Slice[S], *, source: bool = True) -> AsyncIterator[list[Hit]]:
        """The documents of a slice, by number."""
        after = part.after
        while after < part.upto:
            answer = await self.search(
                part.shard,
                query=_between(part.after, part.upto),
                sort=[{"_seq_no": "asc"}],
                search_after=[after],
                size=_PAGE,
                source=source,
            )
            hits = answer["hits"]["hits"]
            if hits:
                yield hits
            if len(hits) < _PAGE:
                return
            after = hits[-1]["_seq_no"]

    async def with_ids(self, shard: Shard[S], ids: Sequence[str]) -> list[Hit]:
        """The documents of a shard with these ids, at most a page of them."""
        answer = await self.search(shard, query={"ids": {"values": ids}}, size=max(len(ids), 1))
        hits: list[Hit] = answer["hits"]["hits"]
        return hits

    async def gone(self, later: "Snapshot[S]") -> AsyncIterator[tuple[Shard[S], Shard[S], list[Hit]]]:
        """The documents, as they are here, that were overwritten or deleted until `later`; by shard here and then.

        The search goes from coarse to fine: only where there are fewer than before are they counted in narrower
        ranges, down to single numbers.
        """
        then = {(shard.source.index, shard.number): shard for shard in later.shards}
        for shard in self.shards:
            if shard.top < 0:
                continue
            after = then[shard.source.index, shard.number]
            numbers = await self._gone_numbers(shard, later, after)
            for i in range(0, len(numbers), _TERMS_AT_ONCE):
                some = numbers[i : i + _TERMS_AT_ONCE]
                answer = await self.search(shard, query={"terms": {"_seq_no": some}}, size=len(some))
                yield shard, after, answer["hits"]["hits"]

    async def _gone_numbers(self, before: Shard[S], later: "Snapshot[S]", after: Shard[S]) -> list[int]:
        # Above `settled`, numbers may also appear between the two snapshots, which would make up for those that go.
        # There are few: each is looked at.
        gone: list[int] = []
        if before.top > before.settled:
            gone = await self._fewer(before, later, after, [_between(before.settled, before.top)], 1)
        interval = 1
        while before.settled // interval > _MOST_BUCKETS:
            interval *= _FINER
        ranges = [_between(-1, before.settled)]
        while True:
            fewer = [
                number
                for i in range(0, len(ranges), _RANGES_AT_ONCE)
                for number in await self._fewer(before, later, after, ranges[i : i + _RANGES_AT_ONCE], interval)
            ]
            if interval == 1 or not fewer:
                return gone + fewer
            ranges = [_between(number - 1, min(number + interval - 1, before.settled)) for number in fewer]
            interval //= _FINER

    async def _fewer(
        self, before: Shard[S], later: "Snapshot[S]", after: Shard[S], ranges: list[Query], interval: int
    ) -> list[int]:
        """The beginning of each interval in these ranges that has fewer documents than before."""
        earlier, now = await asyncio.gather(
            self._histogram(before, ranges, interval), later._histogram(after, ranges, interval)
        )
        return [number for number, count in earlier.items() if now.get(number, 0) < count]

    async def _histogram(self, shard: Shard[S], ranges: list[Query], interval: int) -> dict[int, int]:
        answer = await self.search(
            shard,
            query={"bool": {"should": ranges}},
            size=0,
            aggs={"numbers": {"histogram": {"field": "_seq_no", "interval": interval, "min_doc_count": 1}}},
        )
        # The keys are numbers with a fraction, which app.codec leaves as text.
        return {
            int(float(bytes(bucket["key"]))): bucket["doc_count"]
            for bucket in answer["aggregations"]["numbers"]["buckets"]
        }

    async def search(self, shard: Shard[S], *, source: bool = True, **body: Any) -> Any:
        """A search in one shard. Raises SnapshotLost."""
        answer = await patiently(
            self._client.search,
            pit={"id": shard.pit, "keep_alive": _KEEP_ALIVE},
            seq_no_primary_term=True,
            source=source,
            docvalue_fields=[{"field": name} for name in shard.source.docvalue_fields],
            allow_partial_search_results=False,
            **{"track_total_hits": False, **body},
        )
        shard.pit = answer.body["pit_id"]
        return answer.body


def _between(after: int, upto: int) -> Query:
    return {"range": {"_seq_no": {"gt": after, "lte": upto}}}


async def _settled(client: AsyncElasticsearch, index: str) -> dict[int, int]:
    """Shard → the number up to which every write has been done on every copy."""
    settings = (await client.indices.get_settings(index=index, flat_settings=True)).body
    ((_, found),) = settings.items()
    stats = (await client.indices.stats(index=index, level="shards", metric="docs")).body
    settled = {
        int(number): int(copy["seq_no"]["global_checkpoint"])
        for number, copies in stats["indices"].get(index, {"shards": {}})["shards"].items()
        for copy in copies
        if copy["routing"]["primary"]
    }
    if len(settled) < int(found["settings"]["index.number_of_shards"]):
        raise NotReady(f"{index} does not have all its shards")
    return settled
