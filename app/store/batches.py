"""Many requests at once become few: concurrent reads one `_mget`, concurrent writes one `_bulk`."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from elastic_transport import ApiResponseMeta, ConnectionTimeout, TransportError
from elasticsearch import ApiError, AsyncElasticsearch, ConflictError
from elasticsearch.exceptions import HTTP_EXCEPTIONS

from app import codec
from app.store.transport import RETRIED_STATUSES, CircuitOpen, Retries

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

Hit = dict[str, Any]

# One batch is sent while the next one gathers; the second is there so that one that takes long does not hold up all.
_AT_ONCE = 2
_MOST_ITEMS = 200
_MOST_BYTES = 4 * 1024 * 1024


class Batcher(Generic[_Item, _Result]):
    """Sends what is asked for at once together: at once when idle, else as soon as a batch under way is done.

    `send` returns the result or the error of each item of a batch, in their order, or raises what is then the
    error of them all.
    """

    def __init__(
        self,
        send: Callable[[list[_Item]], Awaitable[Sequence[_Result | Exception]]],
        *,
        at_once: int = _AT_ONCE,
        most_items: int = _MOST_ITEMS,
        most_bytes: int = _MOST_BYTES,
    ) -> None:
        self._send = send
        self._at_once = at_once
        self._most_items = most_items
        self._most_bytes = most_bytes
        self._waiting: deque[tuple[_Item, int, asyncio.Future[_Result]]] = deque()
        self._workers: set[asyncio.Task[None]] = set()

    async def __call__(self, item: _Item, size: int = 0) -> _Result:
        """The item's own result, or raises its own error. Cancelled before it was sent, it never is."""
        result: asyncio.Future[_Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, size, result))
        if len(self._workers) < self._at_once:
            worker = asyncio.create_task(self._work())
            self._workers.add(worker)  # the event loop itself does not keep it
        return await result

    async def _work(self) -> None:
        try:
            while batch := self._next_batch():
                await self._send_batch(batch)
        finally:
            # In the same step in which nobody waited: who comes later starts another.
            worker = asyncio.current_task()
            assert worker
            self._workers.discard(worker)

    def _next_batch(self) -> list[tuple[_Item, asyncio.Future[_Result]]]:
        """As many as fit, at least one if one waits."""
        batch: list[tuple[_Item, asyncio.Future[_Result]]] = []
        size = 0
        while self._waiting and len(batch) < self._most_items:
            item, item_size, result = self._waiting[0]
            if not result.done():
                if batch and size + item_size > self._most_bytes:
                    break
                batch.append((item, result))
                size += item_size
            self._waiting.popleft()
        return batch

    async def _send_batch(self, batch: list[tuple[_Item, asyncio.Future[_Result]]]) -> None:
        results: Sequence[_Result | Exception]
        try:
            results = await self._send([item for item, _ in batch])
        except Exception as error:  # noqa: BLE001  # its waiters are told
            results = [error] * len(batch)
        except BaseException:
            for _, waiter in batch:
                waiter.cancel()
            raise
        for (_, waiter), result in zip(batch, results, strict=True):
            if waiter.done():  # cancelled
                continue
            if isinstance(result, Exception):
                waiter.set_exception(result)
            else:
                waiter.set_result(result)


@dataclass(frozen=True)
class Version:
    """The state of a document that a write is conditional on.

    With its index, because the numbers of the next generation, which the alias may point to by then, mean other states.
    """

    index: str
    seq_no: int
    primary_term: int

    def target(self, document_id: str) -> dict[str, Any]:
        """Of a bulk action."""
        return {
            "_index": self.index,
            "_id": document_id,
            "if_seq_no": self.seq_no,
            "if_primary_term": self.primary_term,
        }


def version_of(hit: Hit) -> Version:
    """The state in which a document was found."""
    return Version(hit["_index"], hit["_seq_no"], hit["_primary_term"])


class WritesBlocked(Exception):
    """The index of a version takes no writes: another one may be behind the alias soon, or already."""


class Reads:
    """Documents by their id, as of their last acknowledged write.

    Raises what the Elasticsearch client raises, TimeoutError when it takes longer than `seconds`.
    """

    def __init__(self, client: AsyncElasticsearch, seconds: float) -> None:
        # Leaves time to ask another node when one has stalled.
        self._client = client.options(request_timeout=seconds / 2)
        # Repeated in `get`: who comes later must not wait for it.
        self._client_for_one = self._client.options(ignore_status=404, max_retries=0)
        self._seconds = seconds
        self._batcher: Batcher[tuple[str, str], Hit | None] = Batcher(self._send)

    async def get(self, index: str, document_id: str) -> Hit | None:
        """`_source`, `_seq_no`, `_primary_term` and so on, None when there is no such document."""
        retries = Retries(self._seconds)
        async with asyncio.timeout(self._seconds):
            while True:
                try:
                    return await self._batcher((index, document_id))
                except (ApiError, TransportError) as error:
                    passes = _passes(error) or isinstance(error, ConnectionTimeout)
                    if not passes or not await retries.pause():
                        raise

    async def _send(self, batch: list[tuple[str, str]]) -> list[Hit | Exception | None]:
        if len(batch) == 1:  # Elasticsearch is quicker at that
            ((index, document_id),) = batch
            answer = await self._client_for_one.get(index=index, id=document_id)
            return [_hit(answer.body, answer.meta)]
        docs = [{"_index": index, "_id": document_id} for index, document_id in batch]
        response = await self._client.mget(docs=docs)
        return [_hit(doc, response.meta) for doc in response.body["docs"]]


class Writes:
    """Documents by their id, each written on a condition.

    Raises what the Elasticsearch client raises. On return the write is stored; after ConflictError it is not; after
    any other error it may be.
    """

    def __init__(self, client: AsyncElasticsearch, reads: Reads, *, seconds: float, refresh_seconds: float) -> None:
        self._client = client.options(request_timeout=seconds)
        self._refresh_client = client.options(request_timeout=refresh_seconds)
        self._reads = reads
        self._seconds = seconds
        # How long Elasticsearch waits for a primary shard: so that there is time left to ask again.
        self._timeout = f"{round(seconds * 500)}ms"
        self._batcher: Batcher[bytes, None] = Batcher(self._send)

    async def put(
        self, index: str, document_id: str, body: bytes, version: Version | None, *, wait_for_refresh: bool = False
    ) -> None:
        """Writes the JSON object `body`: over that version, or as a new document.

        Raises ConflictError when that is not what is there, WritesBlocked. `index` must be an alias.
        """
        operation = _operation(index, document_id, body, version)
        retries = Retries(self._seconds)
        uncertain = False
        while True:
            try:
                if wait_for_refresh:
                    await self._send_waiting(operation)
                else:
                    await self._batcher(operation, len(operation))
            except ConflictError:
                # Perhaps with our own write, whose answer we did not get.
                if uncertain and await self._is_stored(index, document_id, body):
                    return
                raise
            except (ApiError, TransportError) as error:
                if version and _is_block(error):
                    raise WritesBlocked from error
                if not _passes(error) or not await retries.pause():
                    raise
                uncertain = uncertain or not _is_refusal(error)
            else:
                return

    async def _send(self, batch: list[bytes]) -> list[Exception | None]:
        return await self._bulk(self._client, batch)

    async def _send_waiting(self, operation: bytes) -> None:
        for error in await self._bulk(self._refresh_client, [operation], refresh="wait_for"):
            if error:
                raise error

    async def _bulk(
        self, client: AsyncElasticsearch, lines: list[bytes], refresh: str = "false"
    ) -> list[Exception | None]:
        # Not `client.bulk`, which is a PUT: aiohttp repeats those, and we would not know.
        response = await client.perform_request(
            "POST",
            "/_bulk",
            params={"require_alias": "true", "timeout": self._timeout, "refresh": refresh},
            headers={"accept": "application/json", "content-type": "application/x-ndjson"},
            body=lines,
        )
        return _results(response.body, response.meta)

    async def _is_stored(self, index: str, document_id: str, body: bytes) -> bool:
        hit = await self._reads.get(index, document_id)
        document = codec.decode(body)
        return hit is not None and all(document.get(key) == value for key, value in hit["_source"].items())


def _operation(index: str, document_id: str, body: bytes, version: Version | None) -> bytes:
    """The two lines of a `_bulk`."""
    action: dict[str, Any]
    if version:
        action = {"index": {**version.target(document_id), "require_alias": False}}
    else:
        action = {"create": {"_index": index, "_id": document_id}}
    return b"%b\n%b\n" % (codec.encode(action), body)


def _results(body: dict[str, Any], meta: ApiResponseMeta) -> list[Exception | None]:
    """What became of each operation of a `_bulk`."""
    if not body["errors"]:
        return [None] * len(body["items"])
    outcomes = [outcome for item in body["items"] for outcome in item.values()]
    return [_error(outcome["error"], outcome["status"], meta) if "error" in outcome else None for outcome in outcomes]


def _hit(doc: dict[str, Any], meta: ApiResponseMeta) -> Hit | Exception | None:
    """What one document is, of an `_mget` or by itself."""
    if "error" in doc:
        # It has no status; as far as it concerns one document only, its shard is away or its index is not there.
        return _error(doc["error"], 404 if doc["error"]["type"] == "index_not_found_exception" else 503, meta)
    return doc if doc["found"] else None


def _error(error: dict[str, Any], status: int, meta: ApiResponseMeta) -> ApiError:
    """What the client would have raised, had the operation been the only one."""
    body = {"error": error, "status": status}
    return HTTP_EXCEPTIONS.get(status, ApiError)(error["type"], replace(meta, status=status), body)


def _passes(error: ApiError | TransportError) -> bool:
    """Whether it may be over soon."""
    if isinstance(error, ApiError):
        return error.status_code in RETRIED_STATUSES or _is_block(error)
    return not isinstance(error, ConnectionTimeout | CircuitOpen)


def _is_refusal(error: ApiError | TransportError) -> bool:
    """Whether surely nothing was written."""
    return _is_block(error) or (isinstance(error, ApiError) and error.status_code == 429)


def _is_block(error: ApiError | TransportError) -> bool:
    return isinstance(error, ApiError) and error.error == "cluster_block_exception"
