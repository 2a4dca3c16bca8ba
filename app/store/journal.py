"""The journal: media objects that are still to be deleted (docs/contract.md section 7).

See docs/decisions/0009-deletion.md.
"""

import logging
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
from elasticsearch import AsyncElasticsearch

from app.errors import ElasticsearchUnavailable
from app.recordings.identity import Resource
from app.search.clauses import Query, all_of
from app.settings import Settings
from app.store.client import store_errors
from app.store.indices import alias, refresh
from app.store.walk import walk

log = logging.getLogger(__name__)

# The number of entries in one request.
_BATCH = 500

# The wait before the next attempt doubles from one to the other, in seconds.
_INITIAL_BACKOFF = 60
_MAX_BACKOFF = 6 * 3600

_CONFLICT = 409


class MediaDeletion(msgspec.Struct, frozen=True, rename="camel"):
    """A media object to be deleted after its recording.

    Each attempt to delete a recording has entries of its own: one that fails removes only these. `entry_id` is their
    `_id`; those of version 0.1.0 are made of the state below.

    `document_id`, `seq_no` and `primary_term` name the state of the recording that was to be deleted. If the recording
    is still in that state, it was not deleted. `descriptor` is JSON text; times are milliseconds since 1970.
    """

    entry_id: str
    resource: Resource
    contact_center: str
    recording_id: str
    media_uuid: str = msgspec.field(name="mediaId")
    descriptor: str
    media_object_key: str = msgspec.field(name="mediaIdentity")
    document_id: str = msgspec.field(name="document")
    seq_no: int
    primary_term: int
    created: int
    next_attempt: int
    attempts: int = 0


# The action of an operation in a bulk request, and its document if it has one.
_Operation = tuple[dict[str, Any], dict[str, Any] | None]


class DeletionJournal:
    """Media objects are entered here before their recording is deleted, and removed after they are deleted themselves.

    Every method raises ElasticsearchUnavailable when Elasticsearch is away or overloaded.
    """

    def __init__(self, client: AsyncElasticsearch, settings: Settings) -> None:
        self._client = client
        self._index = alias(settings, "media-deletions")
        self._seconds = settings.elasticsearch_timeout

    async def add(self, deletions: Sequence[MediaDeletion]) -> None:
        """Stores entries; on return all of them are stored."""
        await self._bulk([({"index": {"_id": entry.entry_id}}, _document(entry)) for entry in deletions])

    async def remove(self, deletions: Sequence[MediaDeletion]) -> None:
        """Removes entries; entries that do not exist are skipped."""
        await self._bulk([({"delete": {"_id": entry.entry_id}}, None) for entry in deletions])

    async def claim(self, due: int | None = None) -> AsyncIterator[list[MediaDeletion]]:
        """Yields batches of entries to attempt now, oldest first; with `due` only entries due by that instant.

        Claiming an entry postpones its next attempt with exponential back-off, so a process that fails or dies needs
        no cleanup. Entries that another process claims concurrently are skipped.
        """
        async for hits in self._hits(due):
            yield await self._claim(hits)

    async def entries(self) -> AsyncIterator[list[MediaDeletion]]:
        """Yields all entries in batches, oldest first."""
        async for hits in self._hits():
            yield [_entry(hit) for hit in hits]

    async def count(self) -> int:
        """Returns the number of entries."""
        return await self._count({"match_all": {}})

    async def count_of(self, resource: Resource, document_id: str) -> int:
        """Returns the number of entries of a recording that was deleted."""
        return await self._count(all_of([{"term": {"resource": resource}}, {"term": {"document": document_id}}]))

    async def _count(self, query: Query) -> int:
        async with store_errors(self._seconds):
            await refresh(self._client, self._index)
            response = await self._client.count(index=self._index, query=query)
        count: int = response.body["count"]
        return count

    async def _hits(self, due: int | None = None) -> AsyncIterator[list[dict[str, Any]]]:
        async with store_errors(self._seconds):
            await refresh(self._client, self._index)
        query = {"range": {"nextAttempt": {"lte": due}}} if due is not None else {"match_all": {}}
        async for hits in walk(
            self._client,
            self._index,
            query,
            sort=("created", "document", "mediaIdentity"),
            batch=_BATCH,
            seconds=self._seconds,
            seq_no_primary_term=True,
        ):
            yield hits

    async def _claim(self, hits: Sequence[dict[str, Any]]) -> list[MediaDeletion]:
        claimed: list[MediaDeletion] = []
        operations: list[_Operation] = []
        for hit in hits:
            entry = _entry(hit)
            wait = min(_INITIAL_BACKOFF * 2 ** min(entry.attempts, 30), _MAX_BACKOFF)
            entry = msgspec.structs.replace(
                entry, next_attempt=now_milliseconds() + wait * 1000, attempts=entry.attempts + 1
            )
            claimed.append(entry)
            version = {"if_seq_no": hit["_seq_no"], "if_primary_term": hit["_primary_term"]}
            operations.append(({"index": {"_id": entry.entry_id, **version}}, _document(entry)))
        statuses = await self._bulk(operations)
        return [entry for entry, status in zip(claimed, statuses, strict=True) if status != _CONFLICT]

    async def _bulk(self, operations: Sequence[_Operation]) -> list[int]:
        """Returns the status of each operation: success, 404 or 409. Raises ElasticsearchUnavailable for any other."""
        statuses: list[int] = []
        for start in range(0, len(operations), _BATCH):
            chunk = operations[start : start + _BATCH]
            lines = [line for action, entry in chunk for line in (action, entry) if line is not None]
            async with store_errors(self._seconds):
                response = await self._client.bulk(index=self._index, operations=lines, require_alias=True)
            items = [next(iter(item.values())) for item in response.body["items"]]
            for item in items:
                if item["status"] not in {200, 201, 404, _CONFLICT}:
                    log.warning("Elasticsearch did not write an entry of the journal of deletions: %s", item)
                    raise ElasticsearchUnavailable
            statuses += [item["status"] for item in items]
        return statuses


def _document(entry: MediaDeletion) -> dict[str, Any]:
    document: dict[str, Any] = msgspec.to_builtins(entry)
    del document["entryId"]
    return document


def _entry(hit: dict[str, Any]) -> MediaDeletion:
    return msgspec.convert({**hit["_source"], "entryId": hit["_id"]}, MediaDeletion)


def now_milliseconds() -> int:
    """Returns the time in milliseconds since 1970."""
    return time.time_ns() // 1_000_000
