"""The transport below the Elasticsearch client: it repeats requests that may be repeated, with a circuit breaker.

See docs/decisions/0014-a-changing-cluster.md.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from elastic_transport import (
    ApiResponseMeta,
    AsyncTransport,
    ConnectionError,  # noqa: A004
    ConnectionTimeout,
    HttpHeaders,
    TransportApiResponse,
    TransportError,
)

from app.retry import TRANSIENT_STATUSES, Backoff
from app.store.node import Node

log = logging.getLogger(__name__)

# Endpoints that change nothing, whatever the method.
_READ_ONLY_ENDPOINTS = frozenset({"_search", "_msearch", "_count", "_pit", "_mget"})
# What a client of the service looks for decides how long these take.
_EXPENSIVE_ENDPOINTS = frozenset({"_search", "_msearch", "_count"})
# A node that is merely busy with searches answers other requests sooner.
_QUESTION_SECONDS = 1.0
# A write on one of these conditions cannot take effect twice: the second attempt meets the first one as a conflict.
_WRITE_CONDITIONS = ("if_seq_no=", "op_type=create", "version_type=external")


_NO_HEADERS = HttpHeaders()
# A node that gives another answer is asked less, as the library does it.
_STATUSES_OF_A_LIVE_NODE = frozenset({*range(200, 299), 400, 401, 402, 403, 404, 409})


_Perform = Callable[..., Awaitable[TransportApiResponse]]


class CircuitOpen(ConnectionError):
    """The request was not sent, because Elasticsearch has not been answering."""


class CircuitBreaker:
    """Opens when no node has answered for a while, so that requests fail immediately instead of piling up.

    While it is open, one request is let through at a time as a probe; the first answer closes it. `clock` returns
    monotonic seconds.
    """

    # It opens after this many failures in a row, spread over this many seconds or more.
    FAILURES = 3
    FAILURE_WINDOW = 1.0
    HALF_OPEN_INTERVAL = 0.5

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._first_failure = 0.0
        self._next_probe: float | None = None

    def before_call(self) -> None:
        """Raises CircuitOpen, unless the circuit is closed or this attempt is to be the probe."""
        if self._next_probe is None:
            return
        now = self._clock()
        if now < self._next_probe:
            raise CircuitOpen("Elasticsearch does not answer")
        self._next_probe = now + self.HALF_OPEN_INTERVAL

    def record_success(self) -> None:
        """Closes the circuit: a node has answered, whatever its answer was."""
        self._failures = 0
        if self._next_probe is not None:
            self._next_probe = None
            log.warning("Elasticsearch answers again")

    def record_failure(self) -> None:
        """Counts an attempt that got no answer."""
        now = self._clock()
        self._failures += 1
        if self._failures == 1:
            self._first_failure = now
        elif (
            self._next_probe is None
            and self._failures >= self.FAILURES
            and now - self._first_failure >= self.FAILURE_WINDOW
        ):
            self._next_probe = now + self.HALF_OPEN_INTERVAL
            log.warning("Elasticsearch does not answer: refusing requests until it does")


class ResilientTransport(AsyncTransport):
    """Sends each request to a node that seems alive, and repeats it before its deadline when that is safe and may help.

    It may help when the connection broke or the answer was one of TRANSIENT_STATUSES. It is safe when the request only
    reads, or writes on a condition. Raises CircuitOpen immediately while no node answers.
    """

    def __init__(self, *arguments: Any, retry_seconds: float, raw_headers: Mapping[str, str], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._raw_headers = raw_headers
        self._breaker = CircuitBreaker()
        # A write that waits for a refresh may take a minute, but is not repeated for so long.
        self._retry_seconds = retry_seconds
        self._closed = False
        self._question: asyncio.Task[None] | None = None

    async def perform_request(  # type: ignore[override]
        self, method: str, target: str, *, request_timeout: float | None, **options: Any
    ) -> TransportApiResponse:
        # A caller that repeats its request by itself passes max_retries=0.
        repeatable = options.get("max_retries") != 0 and may_be_repeated(method, target)
        options |= {"max_retries": 0, "retry_on_status": (), "retry_on_timeout": False}
        perform = partial(super().perform_request, method, target, **options)
        return await self._until_answered(target, request_timeout, perform, repeatable=repeatable)

    async def perform_raw(
        self, method: str, target: str, body: bytes | None, *, request_timeout: float, repeat: bool = True
    ) -> TransportApiResponse:
        """Sends a request as `perform_request` does, and returns the bytes of the answer.

        It costs a third. With `repeat` it repeats requests, as far as that is safe.
        """
        perform = partial(self._perform_raw, method, target, body)
        repeatable = repeat and may_be_repeated(method, target)
        return await self._until_answered(target, request_timeout, perform, repeatable=repeatable)

    async def _perform_raw(
        self, method: str, target: str, body: bytes | None, *, request_timeout: float
    ) -> TransportApiResponse:
        node = self.node_pool.get()
        assert isinstance(node, Node)
        begun = time.monotonic()
        try:
            status, answer = await node.exchange(
                method, target, self._raw_headers, body, request_timeout, again=_only_reads(method, target)
            )
        except (ConnectionTimeout, ConnectionError):
            self.node_pool.mark_dead(node)
            raise
        if status in _STATUSES_OF_A_LIVE_NODE:
            self.node_pool.mark_live(node)
        else:
            self.node_pool.mark_dead(node)
        meta = ApiResponseMeta(status, "1.1", _NO_HEADERS, time.monotonic() - begun, node.config)
        return TransportApiResponse(meta, answer)

    async def _until_answered(
        self,
        target: str,
        request_timeout: float | None,
        perform: _Perform,
        *,
        repeatable: bool,
    ) -> TransportApiResponse:
        backoff = Backoff(self._retry_seconds if request_timeout is None else min(request_timeout, self._retry_seconds))
        timeout = request_timeout
        while True:
            try:
                response = await self._attempt(target, partial(perform, request_timeout=timeout))
            except (ConnectionTimeout, CircuitOpen):
                raise
            except TransportError:
                if not repeatable or not await backoff.wait():
                    raise
            else:
                if not repeatable or response.meta.status not in TRANSIENT_STATUSES or not await backoff.wait():
                    return response
            if request_timeout is not None:
                timeout = backoff.seconds_left

    async def _attempt(self, target: str, perform: _Perform) -> TransportApiResponse:
        if self._closed:  # the node would open new connections, which are never closed
            raise CircuitOpen("the client is closed")
        self._breaker.before_call()
        begun = time.monotonic()
        try:
            response = await perform()
            _require_json(response)
        except (TransportError, asyncio.CancelledError) as error:
            # After a long wait the caller's deadline has passed, or its client has disconnected.
            is_cancelled = isinstance(error, asyncio.CancelledError)
            if is_cancelled and time.monotonic() - begun < CircuitBreaker.FAILURE_WINDOW:
                raise
            if (is_cancelled or isinstance(error, ConnectionTimeout)) and _endpoint(target) in _EXPENSIVE_ENDPOINTS:
                self._ask_whether_it_answers()
            else:
                self._breaker.record_failure()
            raise
        # With these a load balancer reports that no node answers it.
        if response.meta.status in {502, 504}:
            self._breaker.record_failure()
        else:
            self._breaker.record_success()
        return response

    def _ask_whether_it_answers(self) -> None:
        """A search that takes too long may have done so by its own cost. An answer to a cheap request tells."""
        if self._question is None or self._question.done():
            self._question = asyncio.create_task(self._ask())

    async def _ask(self) -> None:
        with suppress(TransportError):
            await self._attempt("/", partial(super().perform_request, "HEAD", "/", request_timeout=_QUESTION_SECONDS))

    async def close(self) -> None:  # type: ignore[override]
        self._closed = True
        if self._question is not None:
            self._question.cancel()
            with suppress(asyncio.CancelledError):
                await self._question
        await super().close()


def _require_json(response: TransportApiResponse) -> None:
    """Raises ConnectionError for a success that is not Elasticsearch's, such as the login page of a proxy."""
    body = response.body
    if response.meta.status < 300 and (isinstance(body, str) or (isinstance(body, bytes) and body[:1] != b"{")):
        raise ConnectionError("the answer is not Elasticsearch's: it is no JSON")


def may_be_repeated(method: str, target: str) -> bool:
    """Whether a request whose outcome is unknown can be sent again without harm."""
    is_conditional = method in {"PUT", "DELETE"} and any(condition in target for condition in _WRITE_CONDITIONS)
    return is_conditional or _only_reads(method, target)


def _only_reads(method: str, target: str) -> bool:
    return method in {"GET", "HEAD"} or _endpoint(target) in _READ_ONLY_ENDPOINTS


def _endpoint(target: str) -> str:
    """`/index/_doc/1?refresh` → `_doc`"""
    path = target.partition("?")[0]
    return next((part for part in path.split("/") if part.startswith("_")), "")
