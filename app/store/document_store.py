"""Documents of Elasticsearch by id: reads in real time, and writes that are conditional on a version.

Concurrent reads become one `_mget`, concurrent writes one `_bulk` (docs/decisions/0014-a-changing-cluster.md).
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import msgspec
from elastic_transport import ApiResponseMeta, ConnectionTimeout, TransportError
from elasticsearch import ApiError, AsyncElasticsearch, ConflictError, NotFoundError
from elasticsearch.exceptions import HTTP_EXCEPTIONS

from app import codec
from app.background import apart
from app.retry import TRANSIENT_STATUSES, Backoff
from app.store.batching import Batcher
from app.store.client import raw_request
from app.store.hits import EASIER, Hit, HitDecoder
from app.store.transport import CircuitOpen

S = TypeVar("S")

# With fewer in flight, reads wait for each other when Elasticsearch is far away (docs/performance.md).
_CONCURRENT_READS = 8

# Elasticsearch takes long to index what is larger, and small documents do not wait for it.
_LARGE_BYTES = 64 * 1024
# So many bytes of them go in a request, or a single one that is larger.
_MAX_LARGE_BYTES = 512 * 1024


@dataclass(frozen=True)
class Version:
    """The state of a document that a write is conditional on (optimistic concurrency).

    It includes the index: after a migration the alias points to another one, where the same numbers mean other states.
    """

    index: str
    seq_no: int
    primary_term: int

    def target(self, document_id: str) -> dict[str, Any]:
        """Returns the parameters of an action of a `_bulk` request."""
        return {
            "_index": self.index,
            "_id": document_id,
            "if_seq_no": self.seq_no,
            "if_primary_term": self.primary_term,
        }


def version_of(hit: Hit[Any]) -> Version:
    """Returns the version of a document that was read."""
    return Version(hit.index, hit.seq_no, hit.primary_term)


class IndexBlocked(Exception):
    """The index of a version is blocked for writes. The alias may point to another index soon, or already does."""


class DocumentReader(Generic[S]):
    """Reads documents by id, as of their last acknowledged write. `decoder` knows the type of their `_source`.

    Elasticsearch holds all documents of an answer in its memory, so `largest` tells how many bytes one of them may
    have: an answer has 4 MiB at most, or a single document. Raises the errors of the Elasticsearch client, and
    TimeoutError after `timeout` seconds.
    """

    def __init__(
        self, client: AsyncElasticsearch, timeout: float, decoder: HitDecoder[S], largest: Callable[[], int] = int
    ) -> None:
        # Half of the time is left for another node when one has stalled.
        self._seconds = timeout / 2
        self._client = client
        self._decoder = decoder
        self._timeout = timeout
        self._largest = largest
        self._batcher: Batcher[tuple[str, str], Hit[S] | None] = Batcher(self._send, concurrency=_CONCURRENT_READS)

    async def get(self, index: str, document_id: str) -> Hit[S] | None:
        """Returns a document, or None when there is no such document."""
        backoff = Backoff(self._timeout)
        async with asyncio.timeout(self._timeout):
            while True:
                try:
                    return await self._batcher.submit((index, document_id), self._largest())
                except (ApiError, TransportError) as error:
                    transient = _is_transient(error) or isinstance(error, ConnectionTimeout)
                    if not transient or not await backoff.wait():
                        raise

    async def _send(self, batch: list[tuple[str, str]]) -> list[Hit[S] | Exception | None]:
        if len(batch) == 1:  # Elasticsearch answers a GET with fewer thread changes than an `_mget`
            ((index, document_id),) = batch
            return [await self._get(index, document_id)]
        docs = [{"_index": index, "_id": document_id} for index, document_id in batch]
        # `get` repeats each read by itself, for the errors of single documents, too.
        body = codec.encode({"docs": docs})
        answer = await raw_request(self._client, "POST", "/_mget", body, self._seconds, repeat=False)
        documents = await apart(len(answer.body) // EASIER, self._decoder.mget, answer.body)
        return [_hit(document, answer.meta) for document in documents]

    async def _get(self, index: str, document_id: str) -> Hit[S] | None:
        target = f"/{index}/_doc/{quote(document_id, safe='')}"
        try:
            # `get` repeats a single read; the transport would make the items that are queued behind it wait.
            answer = await raw_request(self._client, "GET", target, None, self._seconds, repeat=False)
        except NotFoundError as error:
            if isinstance(error.body, dict) and "error" in error.body:  # no document is missing, but the index
                raise
            return None
        return await apart(len(answer.body) // EASIER, self._decoder.get, answer.body)


class DocumentWriter:
    """Writes documents by id, each on a condition.

    Raises the errors of the Elasticsearch client. On return the document is stored; after ConflictError it is not;
    after any other error it may be. `timeout` and `refresh_timeout` are seconds.
    """

    def __init__(
        self, client: AsyncElasticsearch, reader: DocumentReader[Any], *, timeout: float, refresh_timeout: float
    ) -> None:
        self._client = client
        self._reader = reader
        self._timeout = timeout
        self._refresh_timeout = refresh_timeout
        # Elasticsearch waits for a primary shard for half of the time; the rest is for another attempt.
        self._target = f"/_bulk?require_alias=true&timeout={round(timeout * 500)}ms&refresh="
        self._batcher: Batcher[bytes, None] = Batcher(self._send)
        # Elasticsearch indexes a request without a break, and others wait for its processors.
        self._large_batcher: Batcher[bytes, None] = Batcher(self._send, concurrency=1, max_bytes=_MAX_LARGE_BYTES)

    async def put(
        self, index: str, document_id: str, body: bytes, version: Version | None, *, wait_for_refresh: bool = False
    ) -> None:
        """Replaces a version of a document with the JSON object `body`; without a version it creates the document.

        Raises ConflictError when the document has another version or exists already, IndexBlocked. `index` must be
        an alias.
        """
        operation = _operation(index, document_id, body, version)
        backoff = Backoff(self._timeout)
        uncertain = False
        while True:
            try:
                if wait_for_refresh:
                    await self._send_waiting(operation)
                else:
                    batcher = self._batcher if len(operation) < _LARGE_BYTES else self._large_batcher
                    await batcher.submit(operation, len(operation))
            except ConflictError:
                # The conflict may be with our own previous attempt, whose answer was lost.
                if uncertain and await self._is_stored(index, document_id, body):
                    return
                raise
            except (ApiError, TransportError) as error:
                if version and _is_block(error):
                    raise IndexBlocked from error
                if not _is_transient(error) or not await backoff.wait():
                    raise
                uncertain = uncertain or not _is_rejection(error)
            else:
                return

    async def _send(self, batch: list[bytes]) -> list[Exception | None]:
        return await self._bulk(batch, "false", self._timeout)

    async def _send_waiting(self, operation: bytes) -> None:
        for error in await self._bulk([operation], "wait_for", self._refresh_timeout):
            if error:
                raise error

    async def _bulk(self, lines: list[bytes], refresh: str, seconds: float) -> list[Exception | None]:
        answer = await raw_request(self._client, "POST", self._target + refresh, b"".join(lines), seconds)
        return _results(codec.decode(answer.body), answer.meta)

    async def _is_stored(self, index: str, document_id: str, body: bytes) -> bool:
        hit = await self._reader.get(index, document_id)
        document = codec.decode(body)
        return hit is not None and all(
            document.get(key) == value for key, value in msgspec.to_builtins(hit.source).items()
        )


def _operation(index: str, document_id: str, body: bytes, version: Version | None) -> bytes:
    """Returns the action and the document as two lines of a `_bulk` request."""
    action: dict[str, Any]
    if version:
        action = {"index": {**version.target(document_id), "require_alias": False}}
    else:
        action = {"create": {"_index": index, "_id": document_id}}
    return b"%b\n%b\n" % (codec.encode(action), body)


def _results(body: dict[str, Any], meta: ApiResponseMeta) -> list[Exception | None]:
    """Returns the error of each operation of a `_bulk` request, None for those that succeeded."""
    if not body["errors"]:
        return [None] * len(body["items"])
    outcomes = [outcome for item in body["items"] for outcome in item.values()]
    return [_error(outcome["error"], outcome["status"], meta) if "error" in outcome else None for outcome in outcomes]


def _hit(document: Hit[S], meta: ApiResponseMeta) -> Hit[S] | Exception | None:
    """Returns a document of an `_mget`, its error, or None when it does not exist."""
    if document.error is not None:
        # Errors of an `_mget` have no status. An error of one document means a missing index or an inactive shard.
        missing = document.error["type"] == "index_not_found_exception"
        return _error(document.error, 404 if missing else 503, meta)
    return document if document.found else None


def _error(error: dict[str, Any], status: int, meta: ApiResponseMeta) -> ApiError:
    """Returns the exception that the client raises when the operation is a request of its own."""
    body = {"error": error, "status": status}
    return HTTP_EXCEPTIONS.get(status, ApiError)(error["type"], replace(meta, status=status), body)


def _is_transient(error: ApiError | TransportError) -> bool:
    """Whether another attempt may succeed."""
    if isinstance(error, ApiError):
        return error.status_code in TRANSIENT_STATUSES or _is_block(error)
    return not isinstance(error, ConnectionTimeout | CircuitOpen)


def _is_rejection(error: ApiError | TransportError) -> bool:
    """Whether it is certain that nothing was written."""
    return _is_block(error) or (isinstance(error, ApiError) and error.status_code == 429)


def _is_block(error: ApiError | TransportError) -> bool:
    return isinstance(error, ApiError) and error.error == "cluster_block_exception"
