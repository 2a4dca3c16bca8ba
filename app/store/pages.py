"""Hits of a search within a budget of bytes (docs/contract.md section 5, docs/decisions/0019-shares.md).

A hit's source can be large, and Elasticsearch holds all sources of an answer in its memory. So a search asks for
sources only when even the largest recordings fit. Else it asks for their sizes first, and then for a few at a time.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from app.errors import ElasticsearchUnavailable
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


class BoundedSearch:
    """Searches one index. What `search`, `mget` and `ask` raise, this class raises too.

    `search` returns the hits of a search with this body, `mget` documents, and `ask` the whole answer to a search.
    """

    def __init__(self, search: Send, mget: Send, ask: Ask) -> None:
        self._search = search
        self._mget = mget
        self._ask = ask
        self._largest = 0
        self._largest_until = 0.0
        self._looking = asyncio.Lock()

    async def hits(self, body: dict[str, Any], wanted: int, reserve: Reserve = unlimited) -> Hits:
        """Returns the hits of a body of `size` hits, of which the sources of up to `wanted` are needed.

        `reserve` is awaited with the number of bytes before sources of so many bytes are asked for.
        """
        size = body["size"] * await self._largest_bytes()
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

    async def _largest_bytes(self) -> int:
        """Returns the size of the largest recording in the index, as of a second ago at most."""
        async with self._looking:
            if time.monotonic() >= self._largest_until:
                asked = time.monotonic()
                largest = {"max": {"field": "recordingBytes"}}
                found = await self._ask({"size": 0, "track_total_hits": False, "aggs": {"largest": largest}})
                value = found["aggregations"]["largest"]["value"]  # a decimal, or null without recordings
                self._largest = int(float(bytes(value))) if value is not None else 0
                self._largest_until = asked + _LARGEST_IS_VALID_SECONDS
            return self._largest


def _first_within(limit: int, hits: list[RecordingHit]) -> list[RecordingHit]:
    """Returns the first hits whose sources have so many bytes together at most, or a single one that is larger."""
    size = 0
    for count, hit in enumerate(hits):
        size += hit.size
        if count and size > limit:
            return hits[:count]
    return hits
