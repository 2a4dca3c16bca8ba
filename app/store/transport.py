"""Going on while Elasticsearch changes (docs/decisions/0014-a-changing-cluster.md): repeating what may be repeated,
and refusing at once while nobody answers."""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from typing import Any

from elastic_transport import (
    AsyncTransport,
    ConnectionError,  # noqa: A004
    ConnectionTimeout,
    TransportApiResponse,
    TransportError,
)

log = logging.getLogger(__name__)

# Overloaded, no master, a primary shard just being promoted, or a load balancer without a node behind it.
RETRIED_STATUSES = frozenset({429, 502, 503, 504})

# A pause is a random part of these seconds, which double each time.
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 0.8

# What asks and changes nothing, beside GET and HEAD. `_mget` and `_bulk` are repeated item by item (app.store.batches).
_ASKING = frozenset({"_search", "_msearch", "_count", "_pit"})
# A write that did happen cannot happen again: it meets its own first one as a conflict.
_CONDITIONS = ("if_seq_no=", "op_type=create", "version_type=external")


class CircuitOpen(ConnectionError):
    """Elasticsearch has not been answering, so it was not asked."""


class Retries:
    """The pauses between attempts, growing and random, within `seconds` from now."""

    def __init__(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds
        self._longest = _FIRST_PAUSE

    @property
    def seconds_left(self) -> float:
        return self._deadline - time.monotonic()

    async def pause(self) -> bool:
        """Waits for the next attempt; False, at once, when there is no time for one."""
        pause = random.uniform(0, self._longest)  # noqa: S311
        self._longest = min(2 * self._longest, _LONGEST_PAUSE)
        if pause >= self.seconds_left:
            return False
        await asyncio.sleep(pause)
        return True


class Circuit:
    """Opens when nobody has answered for a while, so that requests fail at once instead of piling up.

    While it is open one request is let through at a time, as a probe; the first answer closes it. `clock` is in
    seconds, monotonic.
    """

    # At least so many attempts in a row without an answer, and over at least so many seconds.
    FAILURES = 3
    PATIENCE = 1.0
    PROBE_PAUSE = 0.5

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._failing_since = 0.0
        self._next_probe: float | None = None

    def check(self) -> None:
        """Raises CircuitOpen, unless the circuit is closed or this attempt is to be the probe."""
        if self._next_probe is None:
            return
        now = self._clock()
        if now < self._next_probe:
            raise CircuitOpen("Elasticsearch does not answer")
        self._next_probe = now + self.PROBE_PAUSE

    def answered(self) -> None:
        """Whatever the answer was, somebody is there."""
        self._failures = 0
        if self._next_probe is not None:
            self._next_probe = None
            log.warning("Elasticsearch answers again")

    def failed(self) -> None:
        """An attempt got no answer."""
        now = self._clock()
        self._failures += 1
        if self._failures == 1:
            self._failing_since = now
        elif (
            self._next_probe is None and self._failures >= self.FAILURES and now - self._failing_since >= self.PATIENCE
        ):
            self._next_probe = now + self.PROBE_PAUSE
            log.warning("Elasticsearch does not answer: refusing requests until it does")


class ResilientTransport(AsyncTransport):
    """Sends each request to a node that seems alive, and again, within its time, when that is safe and may help.

    That is so when the connection broke or the answer was one of RETRIED_STATUSES, and the request only asks
    or is a write on a condition. Raises CircuitOpen at once while no node answers.
    """

    def __init__(self, *arguments: Any, retry_seconds: float, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._circuit = Circuit()
        # A write that waits for a refresh may take long, but that is no time to begin again in.
        self._retry_seconds = retry_seconds
        self._closed = False

    async def perform_request(  # type: ignore[override]
        self, method: str, target: str, *, request_timeout: float | None, **options: Any
    ) -> TransportApiResponse:
        # Who repeats its requests itself says so by 0.
        again = options.get("max_retries") != 0 and may_be_repeated(method, target)
        options |= {"max_retries": 0, "retry_on_status": (), "retry_on_timeout": False}
        retries = Retries(self._retry_seconds if request_timeout is None else min(request_timeout, self._retry_seconds))
        timeout = request_timeout
        while True:
            try:
                response = await self._attempt(method, target, request_timeout=timeout, **options)
            except (ConnectionTimeout, CircuitOpen):
                raise
            except TransportError:
                if not again or not await retries.pause():
                    raise
            else:
                if not again or response.meta.status not in RETRIED_STATUSES or not await retries.pause():
                    return response
            if request_timeout is not None:
                timeout = retries.seconds_left

    async def _attempt(self, method: str, target: str, **options: Any) -> TransportApiResponse:
        if self._closed:  # the client would open connections again, and nobody would close them
            raise CircuitOpen("the client is closed")
        self._circuit.check()
        begun = time.monotonic()
        try:
            response = await super().perform_request(method, target, **options)
        except TransportError:
            self._circuit.failed()
            raise
        except asyncio.CancelledError:
            # A caller's time was over, or a client has left who had waited long.
            if time.monotonic() - begun >= Circuit.PATIENCE:
                self._circuit.failed()
            raise
        # A load balancer's word for nobody being there.
        if response.meta.status in {502, 504}:
            self._circuit.failed()
        else:
            self._circuit.answered()
        return response

    async def close(self) -> None:  # type: ignore[override]
        self._closed = True
        await super().close()


def may_be_repeated(method: str, target: str) -> bool:
    """Whether a request whose outcome is not known can be sent again without doing harm."""
    if method in {"GET", "HEAD"} or _endpoint(target) in _ASKING:
        return True
    return method in {"PUT", "DELETE"} and any(condition in target for condition in _CONDITIONS)


def _endpoint(target: str) -> str:
    """`/index/_doc/1?refresh` → `_doc`"""
    path = target.partition("?")[0]
    return next((part for part in path.split("/") if part.startswith("_")), "")
