"""Hits of a search within a budget of bytes (docs/contract.md section 5, docs/decisions/0019-shares.md).

A hit's source can be large, and Elasticsearch holds all sources of an answer in its memory. So a search asks for
sources only when even the largest recordings fit. Else it asks for their sizes first, and then for a few at a time.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from app.auth.recent import put_newest
from app.errors import ElasticsearchUnavailable, RecallError
from app.recordings.merge import MAX_RECORDING_BYTES
from app.store.hits import RecordingHit

log = logging.getLogger(__name__)

Send = Callable[[dict[str, Any]], Awaitable[list[RecordingHit]]]
Ask = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
Reserve = Callable[[int], Awaitable[object]]

# The recordings of one page together, in bytes of their JSON.
PAGE_BYTES = 16 * 1024 * 1024
# The sources in one answer of Elasticsearch, except a single one that is larger.
_ANSWER_BYTES = 1024 * 1024
# Elasticsearch refreshes every second, so what is larger is hardly found sooner.
_LARGEST_IS_VALID_SECONDS = 1.0
_MAX_CONTACT_CENTERS = 1_000


@dataclass(frozen=True)
class Hits:
    """The first hits of a search, with their sources. `left_out` are the hits that follow them and did not fit.

    `bounded` tells that the search had to look at sizes.
    """

    hits: list[RecordingHit]
    left_out: int = 0
    bounded: bool = False


async def unlimited(size: int) -> None:
    """Reserves nothing."""


class _Largest:
    """The size of the largest recording in the index, or of one contact center.

    It is as of a second ago at most, or as of when a look began that is in flight.
    Requests that need it in the same moment share one look and its failure: each waits for one time limit at most.
    """

    def __init__(self, ask: Ask, contact_center: str | None = None) -> None:
        self._ask = ask
        self._contact_center = contact_center
        self._bytes = 0
        self._until = 0.0
        self._looking: asyncio.Task[None] | None = None

    async def bytes(self) -> int:
        if time.monotonic() >= self._until:
            await asyncio.shield(self._look_again())
        return self._bytes

    def lately(self) -> int:
        """Returns the size as it was known last, without waiting: a read by id does not wait for a search."""
        if time.monotonic() >= self._until:
            self._look_again()
        return self._bytes if self._until else MAX_RECORDING_BYTES

    def _look_again(self) -> "asyncio.Task[None]":
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._update())
            self._looking.add_done_callback(_retrieved)
        return self._looking

    async def _update(self) -> None:
        asked = time.monotonic()
        self._bytes = await self._look()
        self._until = asked + _LARGEST_IS_VALID_SECONDS

    async def _look(self) -> int:
        if self._contact_center is None:
            # Elasticsearch knows the largest value of a field without a search.
            largest = {"max": {"field": "recordingBytes"}}
            answer = await self._ask({"size": 0, "track_total_hits": False, "aggs": {"largest": largest}})
            value = answer["aggregations"]["largest"]["value"]  # a decimal, or null without recordings
            return int(float(bytes(value))) if value is not None else 0
        # Sorting by a number skips what is smaller than the largest found so far.
        answer = await self._ask(
            {
                "query": {"term": {"contactCenter": self._contact_center}},
                "sort": [{"recordingBytes": "desc"}],
                "size": 1,
                "_source": False,
                "track_total_hits": False,
            }
        )
        values = [hit["sort"][0] for hit in answer["hits"]["hits"]]
        return max(0, *values) if values else 0


def _retrieved(task: "asyncio.Task[None]") -> None:
    """Logs an unexpected error of a look, because there may be no request that waits for it."""
    if not task.cancelled() and (error := task.exception()) and not isinstance(error, RecallError):
        log.error("the largest recording is not known", exc_info=error)


class BoundedSearch:
    """Searches one index. What `search`, `mget` and `ask` raise, this class raises too.

    `search` returns the hits of a search with this body, `mget` documents, and `ask` the whole answer to a search.
    """

    def __init__(self, search: Send, mget: Send, ask: Ask) -> None:
        self._search = search
        self._mget = mget
        self._ask = ask
        self._largest = _Largest(ask)
        self._largest_of: OrderedDict[str, _Largest] = OrderedDict()

    def largest_lately(self) -> int:
        """Returns about how many bytes the largest recording has, without waiting."""
        return self._largest.lately()

    async def hits(
        self, body: dict[str, Any], wanted: int, reserve: Reserve = unlimited, *, contact_center: str | None = None
    ) -> Hits:
        """Returns the hits of a body of `size` hits, of which the sources of up to `wanted` are needed.

        `reserve` is awaited with the number of bytes before sources of so many bytes are asked for. All hits are of
        the `contact_center`, if there is one: another's large recordings do not make its searches slower.
        """
        size = body["size"] * await self._largest.bytes()
        if size > PAGE_BYTES and contact_center is not None:
            largest = self._largest_of.get(contact_center) or _Largest(self._ask, contact_center)
            put_newest(self._largest_of, contact_center, largest, max_entries=_MAX_CONTACT_CENTERS)
            size = body["size"] * await largest.bytes()
        if size <= PAGE_BYTES:
            await reserve(size)
            return Hits(await self._search(body))
        await reserve(PAGE_BYTES)
        sizes = {"_source": False, "docvalue_fields": ["recordingBytes"], "seq_no_primary_term": True}
        while True:
            hits = await self._search({**body, **sizes})
            kept = _first_within(PAGE_BYTES, hits[:wanted])
            complete: list[RecordingHit] = []
            done = 0
            while done < len(kept):
                some = _first_within(_ANSWER_BYTES, kept[done:])
                complete += await self._with_sources(some, body)
                done += len(some)
            if complete or not kept:  # otherwise all of them have been deleted meanwhile
                return Hits(complete, len(hits) - len(kept), bounded=True)

    async def _with_sources(self, hits: list[RecordingHit], body: dict[str, Any]) -> list[RecordingHit]:
        """Returns those of the hits that still match, with their sources, as of the same version.

        A hit has the place in the order (`sort`) at which it was found. Raises ElasticsearchUnavailable.
        """
        documents = await self._mget({"docs": [{"_index": hit.index, "_id": hit.id} for hit in hits]})
        complete: dict[str, RecordingHit] = {}
        changed: list[str] = []
        for hit, document in zip(hits, documents, strict=True):
            if document.error is not None:  # its shard is not active, or Elasticsearch has no memory for it
                log.warning("Elasticsearch cannot read a recording now: %s", document.error.get("type"))
                raise ElasticsearchUnavailable
            if (document.seq_no, document.primary_term) == (hit.seq_no, hit.primary_term):
                complete[hit.id] = msgspec.structs.replace(hit, read=document.read)
            elif document.found:
                changed.append(hit.id)
        if changed:
            query = {"bool": {"filter": [body["query"], {"ids": {"values": changed}}]}}
            again = {"query": query, "size": len(changed), "seq_no_primary_term": True}
            found = {hit.id: hit.read for hit in await self._search(again)}
            complete |= {hit.id: msgspec.structs.replace(hit, read=found[hit.id]) for hit in hits if hit.id in found}
        return [complete[hit.id] for hit in hits if hit.id in complete]


def _first_within(limit: int, hits: list[RecordingHit]) -> list[RecordingHit]:
    """Returns the first hits whose sources have so many bytes together at most, or a single one that is larger."""
    size = 0
    for count, hit in enumerate(hits):
        size += hit.size
        if count and size > limit:
            return hits[:count]
    return hits
