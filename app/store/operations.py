"""Operations on many recordings, and the ids that they work on (docs/decisions/0037-operations.md).

The index has three kinds of documents: an operation, which is a lease's document with the state of the work; parts of
the list of its recordings; and the mark that a user has cancelled it.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal

import msgspec
from elasticsearch import AsyncElasticsearch, ConflictError

from app.errors import ElasticsearchUnavailable
from app.search.clauses import Query, all_of
from app.search.paging import Page, PageRequest, total_body, total_of
from app.settings import Settings
from app.store.client import store_errors
from app.store.indices import alias, refresh
from app.store.lease import Lease
from app.store.walk import walk

OperationName = Literal["applyNonDelete", "unapplyNonDelete", "addLabel", "removeLabel", "delete"]
State = Literal["running", "done", "cancelled", "failed"]
Standing = Literal["held", "cancelled", "lost"]

# The recordings of one part of a list: with ids of 400 bytes each it has less than 1 MB.
PART = 2_000

# A list that is older than this and has no operation belongs to a process that died before the operation was accepted.
_ABANDONED = 3_600_000

_MOST_RUNNING = 1_000
_BATCH = 500


class Failure(msgspec.Struct, frozen=True, rename="camel"):
    """A recording on which the operation failed, with the code and the sentence of a single operation."""

    id: str
    status_code: int
    status_message: str


class Operation(msgspec.Struct, kw_only=True, rename="camel"):
    """An operation on many recordings, and how far it is. Times are milliseconds since 1970.

    `criteria` is the JSON text that the client sent, None for an operation by ids, whose outcome alone is stored.
    `is_ops` if it came by the path for ops. `message` says why it has failed.

    Recordings have numbers, from 0, in the list. All before `position` are done, and those in `finished`. Those from
    `position` to before `begun` may be done: a process has begun with them at `begun_at`.

    As long as it has a `view`, the list has only the first `listed` of them; `after` is where the rest begins.
    """

    id: str = ""
    contact_center: str = ""
    region: str = ""
    operation_name: OperationName = "applyNonDelete"
    label: str = ""
    comment: str | None = None
    reason: str | None = None
    with_media: bool = False
    by: str = ""
    is_ops: bool = False
    address: str | None = None
    criteria: str | None = None
    state: State = "running"
    message: str = ""
    created_at: int = 0
    finished_at: int | None = None
    matched: int = 0
    succeeded: int = 0
    failed: int = 0
    failures: list[Failure] = []
    position: int = 0
    finished: list[int] = []
    begun: int = 0
    begun_at: int = 0
    view: str = ""
    listed: int = 0
    after: list[Any] = []

    @property
    def place(self) -> tuple[int, str]:
        """Its place in the order of the list that clients see."""
        return self.created_at, self.id


class Part(msgspec.Struct, frozen=True, rename="camel"):
    """A part of the list of an operation's recordings: their ids, and the versions that they had."""

    operation: str
    created_at: int
    ids: list[str]
    versions: list[tuple[int, int]]


class OperationStore:
    """The operations of all contact centers. Every method raises ElasticsearchUnavailable or InternalError."""

    def __init__(self, client: AsyncElasticsearch, settings: Settings) -> None:
        self._client = client
        self._index = alias(settings, "operations")
        self._seconds = settings.elasticsearch_timeout
        self._lease_seconds = settings.lease_seconds

    # --- For who asks for an operation ---

    async def add_part(self, number: int, part: Part) -> None:
        """Stores a part of a list, the first one before the operation itself. A process that takes over repeats one."""
        async with store_errors(self._seconds):
            await self._client.index(
                index=self._index,
                id=_part_id(part.operation, number),
                document=msgspec.to_builtins(part),
                require_alias=True,
            )

    async def create(self, operation: Operation) -> None:
        """Stores an operation. If it is running, every process of its region may carry it on from now on."""
        await self._put(operation.id, {**msgspec.to_builtins(operation), "holder": None, "heartbeat": 0})

    async def cancel(self, operation: Operation) -> None:
        """Marks that an operation is to end. Whoever works on it sees that before the next recording."""
        await self._put(_mark_id(operation.id), {"operation": operation.id, "createdAt": operation.created_at})

    async def read(self, operation_id: str) -> Operation | None:
        """Returns an operation as of its last acknowledged write, None if there is none."""
        source = await self._get(operation_id)
        return None if source is None else _decoded(source)

    async def search(
        self, contact_center: str, region: str, by: str | None, since: int, page: PageRequest
    ) -> Page[Operation]:
        """Returns a page of the operations of a contact center since a time, newest first; `by` one user, or all."""
        body = {"query": _query(contact_center, region, by, since), **page.body("createdAt")}
        hits = (await self._search(body))["hits"]["hits"]
        return page.page_of([_decoded(hit["_source"]) for hit in hits])

    async def total(self, contact_center: str, region: str, by: str | None, since: int) -> tuple[int, bool]:
        """Returns how many operations `search` finds, and whether that is exact: MAX_TOTAL stands for more, too."""
        return total_of(await self._search(total_body(_query(contact_center, region, by, since))))

    async def count_running(self, contact_center: str) -> int:
        """Returns how many operations of a contact center are running."""
        running = all_of([{"term": {"contactCenter": contact_center}}, {"term": {"state": "running"}}])
        count: int = (await self._search({"query": running, "size": 0}))["hits"]["total"]["value"]
        return count

    # --- For who carries operations on ---

    async def running(self, region: str) -> list[str]:
        """Returns the ids of the operations of a region that are running, the oldest first."""
        running = all_of([{"term": {"region": region}}, {"term": {"state": "running"}}])
        body = {"query": running, "sort": [{"createdAt": "asc"}], "size": _MOST_RUNNING, "_source": False}
        return [hit["_id"] for hit in (await self._search(body))["hits"]["hits"]]

    def lease(self, operation_id: str) -> Lease[Operation]:
        """Returns the lease of an operation that exists, not acquired yet."""
        return Lease(self._client, self._index, operation_id, Operation, seconds=self._lease_seconds, replicas=None)

    async def standing(self, operation_id: str, token: str) -> Standing:
        """Returns whether the holder of the operation's lease with this token may go on."""
        async with store_errors(self._seconds):
            answer = await self._client.mget(
                index=self._index,
                ids=[operation_id, _mark_id(operation_id)],
                source_includes=["holder"],
            )
        operation, mark = answer.body["docs"]
        if "error" in operation or "error" in mark:
            raise ElasticsearchUnavailable
        holder = operation["_source"].get("holder") if operation["found"] else None
        if holder is None or holder["token"] != token:
            return "lost"
        return "cancelled" if mark["found"] else "held"

    async def part(self, operation_id: str, number: int) -> Part:
        """Returns a part of an operation's list; raises LookupError if it is not there."""
        source = await self._get(_part_id(operation_id, number))
        if source is None:
            raise LookupError(f"part {number} of the operation {operation_id}")
        return msgspec.convert(source, Part)

    async def forget_list(self, operation: Operation) -> None:
        """Deletes the list of an operation that is over, and its mark."""
        parts = range(-(-operation.matched // PART))
        await self._delete([*(_part_id(operation.id, number) for number in parts), _mark_id(operation.id)])

    async def forget(self, created_before: int, now: int) -> int:
        """Deletes operations that are over and were created before a time, and what others left; returns how many."""
        old: Query = {
            "bool": {
                "filter": [{"exists": {"field": "id"}}, {"range": {"createdAt": {"lt": created_before}}}],
                "must_not": [{"term": {"state": "running"}}],
            }
        }
        count = 0
        async for hits in self._walk(old):
            await self._delete([hit["_id"] for hit in hits])
            count += len(hits)
        left = all_of([{"exists": {"field": "operation"}}, {"range": {"createdAt": {"lt": now - _ABANDONED}}}])
        running = set[str]()
        async for hits in self._walk(left):
            for operation_id in {hit["_source"]["operation"] for hit in hits} - running:
                operation = await self.read(operation_id)
                if operation is not None and operation.state == "running":
                    running.add(operation_id)
            await self._delete([hit["_id"] for hit in hits if hit["_source"]["operation"] not in running])
        return count

    # --- Requests ---

    async def _get(self, document_id: str) -> dict[str, Any] | None:
        async with store_errors(self._seconds):
            answer = await self._client.options(ignore_status=404).get(index=self._index, id=document_id)
        if "error" in answer.body:  # the index is missing
            raise ElasticsearchUnavailable
        source: dict[str, Any] | None = answer.body.get("_source")
        return source

    async def _put(self, document_id: str, document: dict[str, Any]) -> None:
        """Creates a document. One that is there stays: an earlier attempt has stored it, and its answer was lost."""
        async with store_errors(self._seconds):
            try:
                await self._client.index(
                    index=self._index, id=document_id, document=document, op_type="create", require_alias=True
                )
            except ConflictError:
                return

    async def _search(self, body: dict[str, Any]) -> dict[str, Any]:
        """Returns the answer to a search, as of the last acknowledged write."""
        async with store_errors(self._seconds):
            await refresh(self._client, self._index)
            answer = await self._client.search(index=self._index, body=body, allow_partial_search_results=False)
        found: dict[str, Any] = answer.body
        return found

    def _walk(self, query: Query) -> AsyncIterator[list[dict[str, Any]]]:
        return walk(
            self._client,
            self._index,
            query,
            # Parts of one list differ in nothing else. Those of two shards may not: the next run takes what is left.
            sort=("createdAt", "operation", "id", "_seq_no"),
            batch=_BATCH,
            seconds=self._seconds,
            source_includes=["operation"],
        )

    async def _delete(self, document_ids: Sequence[str]) -> None:
        if not document_ids:
            return
        async with store_errors(self._seconds):
            await self._client.bulk(
                index=self._index,
                operations=[{"delete": {"_id": document_id}} for document_id in document_ids],
                require_alias=True,
            )


def _query(contact_center: str, region: str, by: str | None, since: int) -> Query:
    clauses: list[Query] = [
        {"term": {"contactCenter": contact_center}},
        {"term": {"region": region}},
        {"range": {"createdAt": {"gte": since}}},
    ]
    if by is not None:
        clauses.append({"term": {"by": by}})
    return all_of(clauses)


def _decoded(source: dict[str, Any]) -> Operation:
    return msgspec.convert(source, Operation)


def _part_id(operation_id: str, number: int) -> str:
    return f"{operation_id}.{number}"


def _mark_id(operation_id: str) -> str:
    return f"{operation_id}.cancelled"
