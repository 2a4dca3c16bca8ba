"""The lines of the audit log in Elasticsearch, where they can be searched (docs/contract.md section 11).

A document is the line itself, under the line's id. So a line that is written twice is there once.
"""

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec
from elasticsearch import AsyncElasticsearch

from app import codec
from app.errors import ElasticsearchUnavailable
from app.recordings.identity import Resource
from app.search.clauses import Query, all_of
from app.search.paging import Page, PageRequest, total_body, total_of
from app.settings import Settings
from app.store.client import raw_request, store_errors
from app.store.hits import HitDecoder
from app.store.indices import alias, refresh
from app.store.walk import walk

log = logging.getLogger(__name__)

_CONFLICT = 409
# Of a document, and of a cluster that is about to change. Another attempt may help.
_TRANSIENT = frozenset({403, 404, 408, 429})
_BATCH = 1_000

T = TypeVar("T")


class IndexedLine(NamedTuple):
    """A line of the audit log as JSON, and its id, which is in it."""

    id: str
    text: bytes


class FoundLine(NamedTuple):
    """A line as JSON, and its place in the order of results: its time (an instant) and its id."""

    text: msgspec.Raw
    place: tuple[int, str]


class _Hit(msgspec.Struct, rename={"source": "_source"}):
    sort: tuple[str, str]  # the time in milliseconds since 1970, and the id
    source: msgspec.Raw


class _Subject(msgspec.Struct):
    resource: str | None = None


class _Hits(msgspec.Struct):
    hits: list[_Hit]


class _Found(msgspec.Struct):
    hits: _Hits


_found = msgspec.json.Decoder(_Found)


class AuditIndex:
    """The lines of all contact centers. Every method raises ElasticsearchUnavailable or InternalError."""

    def __init__(self, client: AsyncElasticsearch, settings: Settings) -> None:
        self._index = alias(settings, "audit")
        self._client = client
        self._seconds = settings.elasticsearch_timeout
        self._search_seconds = settings.elasticsearch_search_timeout
        self._write_seconds = settings.elasticsearch_write_timeout
        self._decoder = HitDecoder(dict[str, Any])
        self._bulk_target = f"/{self._index}/_bulk?require_alias=true&filter_path=items.*.status,items.*.error.type"
        self._search_target = f"/{self._index}/_search?allow_partial_search_results=false"

    async def add(self, lines: Sequence[IndexedLine]) -> list[IndexedLine]:
        """Stores lines that are not there yet; returns those that Elasticsearch will never take.

        After an error some of the lines may be stored.
        """
        body = b"".join(b'{"create":{"_id":"%b"}}\n%b\n' % (line.id.encode(), line.text) for line in lines)
        refused = []
        for line, outcome in zip(lines, await self._bulk(body), strict=True):
            if outcome["status"] in _TRANSIENT or outcome["status"] >= 500:
                log.warning("Elasticsearch did not take a line of the audit log: %s", outcome.get("error"))
                raise ElasticsearchUnavailable
            if outcome["status"] >= 400 and outcome["status"] != _CONFLICT:
                log.error("Elasticsearch refuses a line of the audit log (%s): %s", outcome, line.text.decode())
                refused.append(line)
        return refused

    async def missing(self, lines: Sequence[IndexedLine]) -> list[IndexedLine]:
        """Returns the lines that are not there."""
        body = codec.encode({"ids": [line.id for line in lines]})
        async with store_errors(self._seconds):
            answer = await raw_request(self._client, "POST", f"/{self._index}/_mget?_source=false", body, self._seconds)
            found = self._decoder.mget(answer.body)
        for hit in found:
            if hit.error is not None:
                raise ElasticsearchUnavailable
        return [line for line, hit in zip(lines, found, strict=True) if not hit.found]

    async def search(self, contact_center: str, conditions: Sequence[Query], page: PageRequest) -> Page[FoundLine]:
        """Returns a page of the lines that meet all conditions, the newest first."""
        body = {"query": _query(contact_center, conditions), **page.body("time", format="epoch_millis")}
        hits = (await self._search(body, _found.decode)).hits.hits
        # The copies let go of the answer.
        return page.page_of([FoundLine(hit.source.copy(), (int(hit.sort[0]), hit.sort[1])) for hit in hits])

    async def total(self, contact_center: str, conditions: Sequence[Query]) -> tuple[int, bool]:
        """Returns how many lines meet all conditions, and whether that is exact: MAX_TOTAL stands for more, too."""
        return total_of(await self._search(total_body(_query(contact_center, conditions)), codec.decode))

    async def about(self, contact_center: str, resource: Resource, recording_id: str) -> AsyncIterator[list[bytes]]:
        """Yields all lines about a recording, as they are, the oldest first, some at a time."""
        async with store_errors(self._seconds):
            await refresh(self._client, self._index)
        body: dict[str, Any] = {
            "query": _query(contact_center, [{"term": {"recordingId": recording_id}}]),
            "sort": [{"time": {"order": "asc", "format": "epoch_millis"}}, {"id": "asc"}],
            "size": _BATCH,
            "track_total_hits": False,
        }
        while True:
            hits = (await self._search(body, _found.decode)).hits.hits
            texts = [bytes(hit.source) for hit in hits]
            yield [text for text in texts if msgspec.json.decode(text, type=_Subject).resource == resource]
            if len(hits) < _BATCH:
                return
            body["search_after"] = list(hits[-1].sort)

    async def delete_before(self, instant: int) -> int:
        """Deletes the lines of before an instant; returns how many."""
        count = 0
        async for ids in self._ids_before(instant):
            await self._bulk(b"".join(b'{"delete":{"_id":"%b"}}\n' % each.encode() for each in ids))
            count += len(ids)
        return count

    async def _ids_before(self, instant: int) -> AsyncIterator[list[str]]:
        query = {"range": {"time": {"lt": instant, "format": "epoch_millis"}}}
        async for hits in walk(
            self._client, self._index, query, sort=("time", "id"), batch=_BATCH, seconds=self._seconds, source=False
        ):
            yield [hit["_id"] for hit in hits]

    async def _search(self, query: dict[str, Any], decode: Callable[[bytes], T]) -> T:
        async with store_errors(self._search_seconds):
            answer = await raw_request(
                self._client, "POST", self._search_target, codec.encode(query), self._search_seconds
            )
            return decode(answer.body)

    async def _bulk(self, body: bytes) -> list[dict[str, Any]]:
        """Returns what became of each operation."""
        async with store_errors(self._write_seconds):
            answer = await raw_request(self._client, "POST", self._bulk_target, body, self._write_seconds)
            items = codec.decode(answer.body)["items"]
        return [outcome for item in items for outcome in item.values()]


def _query(contact_center: str, conditions: Sequence[Query]) -> Query:
    return all_of([{"term": {"contactCenter": contact_center}}, *conditions])
