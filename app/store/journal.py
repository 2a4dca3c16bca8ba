"""The media objects that are still to be deleted (CONTRACT.md section 7, docs/decisions/0009-deletion.md)."""

import logging
import time
from collections.abc import AsyncIterator, Collection, Sequence
from typing import Any

import msgspec
from elasticsearch import AsyncElasticsearch

from app.errors import StoreUnavailable
from app.recordings.identity import Resource
from app.settings import Settings
from app.store.client import store_errors
from app.store.indices import alias, refresh

log = logging.getLogger(__name__)

# How many entries are read or written at once.
_BATCH = 500

# The pause before another attempt doubles from the first to the longest, in seconds.
_FIRST_PAUSE = 60
_LONGEST_PAUSE = 6 * 3600

_CONFLICT = 409


class MediaDeletion(msgspec.Struct, frozen=True, rename="camel"):
    """A media object to be deleted after its recording.

    `document`, `seq_no` and `primary_term` are the state of the recording that was to be deleted: where it still is as
    it was then, its deletion never happened. `descriptor` is JSON text; times are milliseconds since 1970.
    """

    resource: Resource
    contact_center: str
    recording_id: str
    media_id: str
    descriptor: str
    media_identity: str
    document: str
    seq_no: int
    primary_term: int
    created: int
    next_attempt: int
    attempts: int = 0

    @property
    def entry_id(self) -> str:
        """Trying again to delete the same state of a recording makes no second entry."""
        return f"{self.document}.{self.primary_term}.{self.seq_no}.{self.media_id}"


# An action of a bulk request and, where it has one, its document.
_Operation = tuple[dict[str, Any], dict[str, Any] | None]


class DeletionJournal:
    """What must be deleted is written here before the recording goes, and removed when it is gone.

    Every method raises StoreUnavailable when Elasticsearch is away or overloaded.
    """

    def __init__(self, client: AsyncElasticsearch, settings: Settings) -> None:
        self._client = client
        self._index = alias(settings, "media-deletions")
        self._recordings = [alias(settings, "recordings"), alias(settings, "screen-recordings")]
        self._seconds = settings.elasticsearch_timeout

    async def add(self, deletions: Sequence[MediaDeletion]) -> None:
        """On return all of them are stored."""
        await self._bulk([({"index": {"_id": entry.entry_id}}, msgspec.to_builtins(entry)) for entry in deletions])

    async def remove(self, deletions: Sequence[MediaDeletion]) -> None:
        await self._bulk([({"delete": {"_id": entry.entry_id}}, None) for entry in deletions])

    async def claim(self, due: int | None = None) -> AsyncIterator[list[MediaDeletion]]:
        """All entries, or those whose next attempt is due by an instant, oldest first, in batches, for an attempt now.

        The attempt after it is put off, the longer the more there were: whoever dies over an entry, or fails, need do
        nothing. What another has claimed at the same moment is left out.
        """
        async for hits in self._hits(due):
            yield await self._claim(hits)

    async def entries(self) -> AsyncIterator[list[MediaDeletion]]:
        """All entries, oldest first, in batches."""
        async for hits in self._hits():
            yield [msgspec.convert(hit["_source"], MediaDeletion) for hit in hits]

    async def count(self) -> int:
        async with store_errors(self._seconds):
            await refresh(self._client, self._index)
            response = await self._client.count(index=self._index)
        count: int = response.body["count"]
        return count

    async def _hits(self, due: int | None = None) -> AsyncIterator[list[dict[str, Any]]]:
        async with store_errors(self._seconds):
            await refresh(self._client, self._index)
        after: list[Any] | None = None
        while True:
            async with store_errors(self._seconds):
                response = await self._client.search(
                    index=self._index,
                    query={"range": {"nextAttempt": {"lte": due}}} if due is not None else {"match_all": {}},
                    sort=["created", "document", "mediaIdentity"],
                    search_after=after,
                    seq_no_primary_term=True,
                    size=_BATCH,
                    allow_partial_search_results=False,
                )
            hits = response.body["hits"]["hits"]
            if hits:
                after = hits[-1]["sort"]
                yield hits
            if len(hits) < _BATCH:
                return

    async def still_needed(self, media_identities: Collection[str]) -> set[str]:
        """Those of these objects that a recording of any contact center still refers to."""
        wanted = sorted(set(media_identities))
        needed: set[str] = set()
        async with store_errors(self._seconds):
            await refresh(self._client, *self._recordings)
            for start in range(0, len(wanted), _BATCH):
                some = wanted[start : start + _BATCH]
                response = await self._client.search(
                    index=self._recordings,
                    query={"terms": {"mediaIdentities": some}},
                    aggs={
                        "needed": {
                            "terms": {
                                "field": "mediaIdentities",
                                "include": some,
                                "size": len(some),
                                # Of the few recordings that were found, not of all identities there are.
                                "execution_hint": "map",
                            }
                        }
                    },
                    size=0,
                    allow_partial_search_results=False,
                )
                needed |= {bucket["key"] for bucket in response.body["aggregations"]["needed"]["buckets"]}
        return needed

    async def _claim(self, hits: Sequence[dict[str, Any]]) -> list[MediaDeletion]:
        claimed: list[MediaDeletion] = []
        operations: list[_Operation] = []
        for hit in hits:
            entry = msgspec.convert(hit["_source"], MediaDeletion)
            pause = min(_FIRST_PAUSE * 2 ** min(entry.attempts, 30), _LONGEST_PAUSE)
            entry = msgspec.structs.replace(
                entry, next_attempt=now_milliseconds() + pause * 1000, attempts=entry.attempts + 1
            )
            claimed.append(entry)
            version = {"if_seq_no": hit["_seq_no"], "if_primary_term": hit["_primary_term"]}
            operations.append(({"index": {"_id": entry.entry_id, **version}}, msgspec.to_builtins(entry)))
        statuses = await self._bulk(operations)
        return [entry for entry, status in zip(claimed, statuses, strict=True) if status != _CONFLICT]

    async def _bulk(self, operations: Sequence[_Operation]) -> list[int]:
        """The status of each, which is success, 404 or 409; raises StoreUnavailable for anything else."""
        statuses: list[int] = []
        for start in range(0, len(operations), _BATCH):
            some = operations[start : start + _BATCH]
            lines = [line for action, entry in some for line in (action, entry) if line is not None]
            async with store_errors(self._seconds):
                response = await self._client.bulk(index=self._index, operations=lines, require_alias=True)
            items = [next(iter(item.values())) for item in response.body["items"]]
            for item in items:
                if item["status"] not in {200, 201, 404, _CONFLICT}:
                    log.warning("Elasticsearch did not write an entry of the journal of deletions: %s", item)
                    raise StoreUnavailable
            statuses += [item["status"] for item in items]
        return statuses


def now_milliseconds() -> int:
    return time.time_ns() // 1_000_000
