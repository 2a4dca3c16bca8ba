"""Recordings in Elasticsearch: the only place that reads and writes them."""

import asyncio
import random
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

from elasticsearch import AsyncElasticsearch, BadRequestError, ConflictError, NotFoundError

from app import codec
from app.errors import RecordingTooLarge, SearchTooLarge
from app.recordings.merge import merge
from app.recordings.model import Recording
from app.search.criteria import Criteria, Page
from app.search.query import search_body
from app.settings import Settings
from app.store.client import store_errors
from app.store.documents import document_id, from_source, to_document
from app.store.indices import alias

# What all updates together may make of one document: one that Elasticsearch still indexes in good time.
MAX_DOCUMENT_BYTES = 16 * 1024 * 1024

# A refresh is due every second; an operator may have made that longer.
_WAIT_FOR_REFRESH_SECONDS = 60.0


@dataclass(frozen=True)
class Version:
    """The state of a document that a write is conditional on."""

    if_seq_no: int
    if_primary_term: int


@dataclass(frozen=True)
class Found:
    """A page of recordings in their stored form, and whether others follow it."""

    recordings: list[Recording]
    more: bool


class RecordingRepository:
    """The recordings of all contact centers in this server's region.

    Every method raises StoreUnavailable when Elasticsearch is away or overloaded.
    """

    def __init__(self, client: AsyncElasticsearch, settings: Settings) -> None:
        self._client = client
        self._region = settings.region
        self._index = alias(settings, "recordings")
        self._seconds = settings.elasticsearch_timeout
        # A write that waits for a refresh keeps its connection meanwhile: half of them stay for everything else.
        self._waiting = asyncio.Semaphore(settings.elasticsearch_connections // 2)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def check(self) -> None:
        """Returns when a search would be answered: Elasticsearch is there, with the alias and all its shards."""
        async with store_errors(self._seconds):
            await self._client.search(
                index=self._index, query={"match_none": {}}, size=0, allow_partial_search_results=False
            )

    async def get(self, contact_center: str, recording_id: str) -> Recording | None:
        """The recording as of its last acknowledged write, searchable or not yet."""
        async with store_errors(self._seconds):
            stored, _ = await self._read(document_id(contact_center, self._region, recording_id))
        return stored

    async def search(self, contact_center: str, criteria: Criteria, page: Page) -> Found:
        """Newest start time first, then id. Raises SearchTooLarge when it is too much for this Elasticsearch."""
        async with store_errors(self._seconds):
            try:
                response = await self._client.search(
                    index=self._index,
                    body=search_body(contact_center, self._region, criteria, page),
                    # An answer that some shards are missing from would be taken for the whole.
                    allow_partial_search_results=False,
                )
            except BadRequestError as error:
                if "too many clauses" in str(error):
                    raise SearchTooLarge from error
                raise
        hits = response.body["hits"]["hits"]
        more = len(hits) > page.limit
        recordings = [from_source(hit["_source"]) for hit in hits[: page.limit]]
        if page.cursor is not None and page.cursor.direction == "before":
            # Read backwards, from the recording that follows.
            return Found(recordings[::-1], more=bool(recordings))
        return Found(recordings, more)

    async def save(self, contact_center: str, posted: Recording, *, wait_for_refresh: bool = False) -> bool:
        """Creates the recording, or merges what was posted into it; True when it was created.

        On return it is stored, and searchable too with `wait_for_refresh`. Raises RecordingTooLarge when the
        updates together have made too much of it.
        """
        document = document_id(contact_center, posted["region"], posted["id"])
        attempted: Recording | None = None
        conflicts = 0
        seconds = _WAIT_FOR_REFRESH_SECONDS if wait_for_refresh else self._seconds
        client = self._client.options(request_timeout=seconds)
        async with store_errors(seconds), self._turn(document, wait_for_refresh=wait_for_refresh):
            while True:
                stored, version = await self._read(document)
                merged = merge(stored, posted)
                try:
                    await client.index(
                        index=self._index,
                        id=document,
                        body=_encode(contact_center, merged),
                        refresh="wait_for" if wait_for_refresh else None,
                        require_alias=True,
                        # How long Elasticsearch waits for a primary shard: no longer than we do.
                        timeout=f"{round(self._seconds * 1000)}ms",
                        **(vars(version) if version else {"op_type": "create"}),
                    )
                except ConflictError:
                    # The client, and aiohttp below it, repeat a write whose answer got lost: this may be our own.
                    if stored is None:
                        attempted = merged
                    conflicts += 1
                    await asyncio.sleep(random.uniform(0, 0.005 * min(conflicts, 10)))  # noqa: S311
                else:
                    return stored is None or stored == attempted

    def _turn(self, document: str, *, wait_for_refresh: bool) -> AbstractAsyncContextManager[object]:
        """Posts for one id take turns within a process, or each would mostly meet the others' conflicts.

        Not those that wait for a refresh, which would wait for each other's.
        """
        return self._waiting if wait_for_refresh else self._locks.setdefault(document, asyncio.Lock())

    async def _read(self, document: str) -> tuple[Recording | None, Version | None]:
        try:
            response = await self._client.get(index=self._index, id=document)
        except NotFoundError as error:
            if isinstance(error.body, dict) and error.body.get("found") is False:
                return None, None
            raise
        version = Version(response.body["_seq_no"], response.body["_primary_term"])
        return from_source(response.body["_source"]), version


def _encode(contact_center: str, recording: Recording) -> Any:
    """The bytes of a document, to know their number; the client passes them on as they are."""
    body = codec.encode(to_document(contact_center, recording))
    if len(body) > MAX_DOCUMENT_BYTES:
        raise RecordingTooLarge(recording["id"])
    return body
