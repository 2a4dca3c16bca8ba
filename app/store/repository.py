"""Recordings in Elasticsearch: the only place that reads and writes them."""

import asyncio
import logging
import random
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

from elasticsearch import AsyncElasticsearch, BadRequestError, ConflictError

from app import codec
from app.auth.scope import Scope
from app.errors import RecordingNotFound, RecordingTooLarge, SearchTooLarge, StoreUnavailable
from app.recordings.dates import parse_instant
from app.recordings.identity import Resource
from app.recordings.merge import merge
from app.recordings.model import Recording
from app.retry import Backoff
from app.search.criteria import Criteria
from app.search.fields import call_uuids
from app.search.paging import ORDER, PageRequest
from app.search.query import query, search_body
from app.settings import Settings
from app.store.client import store_errors
from app.store.document_store import DocumentReader, DocumentWriter, IndexBlocked, Version, version_of
from app.store.documents import Decision, decision_of, document_id, from_source, to_document
from app.store.indices import alias, refresh

log = logging.getLogger(__name__)

# How many recordings are read or written at once by what works on many.
_BATCH = 500

_OLDEST_FIRST = ({"startTime": "asc"}, {"id": "asc"}, {"contactCenter": "asc"})

# What all updates together may make of one document: one that Elasticsearch still indexes in good time.
MAX_DOCUMENT_BYTES = 16 * 1024 * 1024

# A refresh is due every second; an operator may have made that longer.
_WAIT_FOR_REFRESH_SECONDS = 60.0


@dataclass(frozen=True)
class Stored:
    """A recording as it was read; a write or a deletion happens only if nothing else has happened to it since."""

    document: str
    contact_center: str
    recording: Recording
    decision: Decision | None
    version: Version


@dataclass(frozen=True)
class Found:
    """A page of recordings in their stored form, and whether others follow it."""

    recordings: list[Recording]
    more: bool


@dataclass(frozen=True)
class Matching:
    """How many recordings match, and how many of them are protected from deletion."""

    total: int
    protected: int


class RecordingRepository:
    """The recordings, or screen recordings, of all contact centers and regions.

    A method that takes a scope sees only what the scope admits. Every method raises StoreUnavailable when
    Elasticsearch is away or overloaded.
    """

    def __init__(self, client: AsyncElasticsearch, settings: Settings, resource: Resource = "recordings") -> None:
        self.resource = resource
        self._client = client
        self._index = alias(settings, resource)
        self._seconds = settings.elasticsearch_timeout
        self._search_seconds = settings.elasticsearch_search_timeout
        self._write_seconds = settings.elasticsearch_write_timeout
        self._searching = client.options(request_timeout=self._search_seconds)
        self._reader = DocumentReader(client, self._seconds)
        self._writer = DocumentWriter(
            client, self._reader, timeout=self._write_seconds, refresh_timeout=_WAIT_FOR_REFRESH_SECONDS
        )
        # A write that waits for a refresh keeps its connection meanwhile: half of them stay for everything else.
        self._waiting = asyncio.Semaphore(settings.elasticsearch_connections // 2)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def check(self) -> None:
        """Returns when a search would be answered: Elasticsearch is there, with the alias and all its shards."""
        async with store_errors(self._search_seconds):
            await self._searching.search(
                index=self._index, query={"match_none": {}}, size=0, allow_partial_search_results=False
            )

    async def get(self, scope: Scope, recording_id: str) -> Stored:
        """The recording as of its last acknowledged write, searchable or not yet.

        Raises RecordingNotFound when there is none, or none that the scope admits: nothing else decides whether a
        recording that is read by its id exists for the caller. The scope must name a contact center, without which
        an id names no recording.
        """
        if scope.contact_center is None:
            raise ValueError("a recording's id names it only within a contact center")
        stored = await self.read(document_id(scope.contact_center, scope.region, recording_id))
        if stored is None or not scope.admits(stored):
            raise RecordingNotFound(recording_id)
        return stored

    async def read(self, document: str) -> Stored | None:
        """The recording of a document id, as of its last acknowledged write, whoever may see it."""
        async with store_errors(self._seconds):
            return await self._read(document)

    async def search(self, scope: Scope, criteria: Criteria, page: PageRequest) -> Found:
        """Newest start time first, then id. Raises SearchTooLarge when it is too much for this Elasticsearch."""
        response = await self._search(search_body(scope, criteria, page))
        hits, more = page.in_order(response["hits"]["hits"])
        return Found([from_source(hit["_source"]) for hit in hits], more)

    async def count(self, scope: Scope, criteria: Criteria) -> Matching:
        """How many match; all whose write was acknowledged before are counted."""
        await self._refresh()
        response = await self._search(
            {
                "query": query(scope, criteria),
                "aggs": {"protected": {"filter": {"term": {"nonDelete": True}}}},
                "size": 0,
                "track_total_hits": True,
            }
        )
        return Matching(response["hits"]["total"]["value"], response["aggregations"]["protected"]["doc_count"])

    async def oldest(self, scope: Scope, criteria: Criteria, size: int, after: Stored | None = None) -> list[Stored]:
        """Up to `size` that match, oldest start time first, those that follow `after`; none at the end.

        A walk holds nothing in Elasticsearch between its steps, so it may take days while others write.
        """
        body: dict[str, Any] = {
            "query": query(scope, criteria),
            "sort": _OLDEST_FIRST,
            "size": size,
            "track_total_hits": False,
            "seq_no_primary_term": True,
        }
        if after is not None:
            start_time = parse_instant(after.recording["startTime"])
            body["search_after"] = [start_time, after.recording["id"], after.contact_center]
        return [_stored(hit) for hit in (await self._search(body))["hits"]["hits"]]

    async def still_matching(self, scope: Scope, criteria: Criteria, recordings: Sequence[Stored]) -> list[Stored]:
        """Those of a batch of recordings that still match, as of their last acknowledged write."""
        await self._refresh()
        matching = query(scope, criteria)
        ids = {"ids": {"values": [stored.document for stored in recordings]}}
        response = await self._search(
            {"query": {"bool": {"filter": [matching, ids]}}, "size": len(recordings), "seq_no_primary_term": True}
        )
        return [_stored(hit) for hit in response["hits"]["hits"]]

    async def save(self, contact_center: str, posted: Recording, *, wait_for_refresh: bool = False) -> bool:
        """Creates the recording, or merges what was posted into it; True when it was created.

        A client may post for any region, so this takes no scope.
        On return it is stored, and searchable too with `wait_for_refresh`. Raises RecordingTooLarge when the
        updates together have made too much of it.
        """
        document = document_id(contact_center, posted["region"], posted["id"])
        conflicts = 0
        backoff = Backoff(self._write_seconds)
        seconds = _WAIT_FOR_REFRESH_SECONDS if wait_for_refresh else self._write_seconds
        async with store_errors(seconds), self._turn(document, wait_for_refresh=wait_for_refresh):
            # Most are new. A write that may take a minute is not what finds out whether Elasticsearch answers at all.
            stored = await self._read(document) if wait_for_refresh else None
            while True:
                merged = merge(stored.recording if stored else None, posted)
                body = codec.encode(to_document(contact_center, merged, stored.decision if stored else None))
                if len(body) > MAX_DOCUMENT_BYTES:
                    raise RecordingTooLarge(posted["id"])
                try:
                    await self._write(document, body, stored, wait_for_refresh=wait_for_refresh)
                except ConflictError:
                    await pause_after_conflict(conflicts)  # not after the first one: it may only not be new
                    conflicts += 1
                except IndexBlocked as error:
                    if not await backoff.wait():
                        raise StoreUnavailable from error
                else:
                    return stored is None
                stored = await self._read(document)

    def _turn(self, document: str, *, wait_for_refresh: bool) -> AbstractAsyncContextManager[object]:
        """Posts for one id take turns within a process, or each would mostly meet the others' conflicts.

        Not those that wait for a refresh, which would wait for each other's.
        """
        return self._waiting if wait_for_refresh else self._locks.setdefault(document, asyncio.Lock())

    async def replace(self, stored: Stored, recording: Recording, decision: Decision | None) -> bool:
        """Writes a recording back; False when something has happened to it since it was read."""
        body = codec.encode(to_document(stored.contact_center, recording, decision))
        async with store_errors(self._write_seconds):
            try:
                await self._write(stored.document, body, stored)
            except ConflictError:
                return False
            except IndexBlocked as error:
                raise StoreUnavailable from error
        return True

    async def delete(self, recordings: Sequence[Stored]) -> list[bool]:
        """Deletes recordings; False for each to which something has happened since it was read."""
        operations = [{"delete": stored.version.target(stored.document)} for stored in recordings]
        async with store_errors(self._write_seconds):
            response = await self._client.bulk(operations=operations)
        return [_was_deleted(item["delete"]) for item in response.body["items"]]

    async def associated(self, stored: Stored) -> list[Stored]:
        """Those of the same contact center, in any region, that share a media `callUUID` with a recording.

        All whose write was acknowledged before are among them, also those that the caller cannot see.
        """
        await self._refresh()
        clauses = [
            {"term": {"contactCenter": stored.contact_center}},
            {"terms": {"callUUIDs": call_uuids(stored.recording)}},
        ]
        body: dict[str, Any] = {
            "query": {"bool": {"filter": clauses}},
            "sort": [*ORDER, {"region": "asc"}],
            "seq_no_primary_term": True,
            "size": _BATCH,
        }
        found: list[Stored] = []
        while True:
            hits = (await self._search(body))["hits"]["hits"]
            found += map(_stored, hits)
            if len(hits) < _BATCH:
                return found
            body["search_after"] = hits[-1]["sort"]

    async def pending(self) -> list[str]:
        """The document ids of some recordings whose screen recordings have not all followed a decision yet."""
        body = {"query": {"term": {"protectionPending": True}}, "size": _BATCH, "_source": False}
        return [hit["_id"] for hit in (await self._search(body))["hits"]["hits"]]

    async def _refresh(self) -> None:
        """Makes every write that was acknowledged searchable."""
        async with store_errors(self._seconds):
            await refresh(self._client, self._index)

    async def _search(self, body: dict[str, Any]) -> dict[str, Any]:
        """Raises SearchTooLarge."""
        async with store_errors(self._search_seconds):
            try:
                response = await self._searching.search(
                    index=self._index,
                    body=body,
                    # An answer that some shards are missing from would be taken for the whole.
                    allow_partial_search_results=False,
                )
            except BadRequestError as error:
                if "too many clauses" in str(error):
                    raise SearchTooLarge from error
                raise
        answer: dict[str, Any] = response.body
        return answer

    async def _read(self, document: str) -> Stored | None:
        hit = await self._reader.get(self._index, document)
        return _stored(hit) if hit else None

    async def _write(
        self, document: str, body: bytes, stored: Stored | None, *, wait_for_refresh: bool = False
    ) -> None:
        """Creates a document, or replaces what was `stored`; raises ConflictError."""
        version = stored.version if stored else None
        await self._writer.put(self._index, document, body, version, wait_for_refresh=wait_for_refresh)


async def pause_after_conflict(conflicts: int) -> None:
    """Lets the others finish; `conflicts` is how many there were in a row."""
    await asyncio.sleep(random.uniform(0, 0.005 * min(conflicts, 10)))  # noqa: S311


def _stored(hit: dict[str, Any]) -> Stored:
    source = hit["_source"]
    return Stored(
        document=hit["_id"],
        contact_center=source["contactCenter"],
        recording=from_source(source),
        decision=decision_of(source),
        version=version_of(hit),
    )


def _was_deleted(item: dict[str, Any]) -> bool:
    """Raises StoreUnavailable for anything but success and a conflict."""
    if item["status"] in {200, 404, 409}:
        return bool(item["status"] == 200)
    log.warning("Elasticsearch did not delete a recording: %s", item)
    raise StoreUnavailable
