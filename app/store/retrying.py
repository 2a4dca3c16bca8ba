"""Requests of long-running work, which waits for an Elasticsearch that is unavailable or overloaded.

The service gives up after seconds, because a client waits for its answer. A migration or a job waits for minutes.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from elasticsearch import ApiError, TransportError

from app.errors import StoreUnavailable

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

# A restart of a node takes a minute or two. An operator who has to repair it needs longer.
_DEADLINE_SECONDS = 900.0
_INITIAL_BACKOFF = 0.25
_MAX_BACKOFF = 5.0
_TRANSIENT = frozenset({408, 429, 502, 503, 504})


class NotReady(Exception):
    """Elasticsearch answers, but a shard that the caller needs is not available yet. `with_retries` retries it."""


async def with_retries(call: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """Returns what `call` returns. Retries it with back-off while Elasticsearch is unavailable or overloaded.

    `call` must therefore be idempotent. Raises StoreUnavailable after 15 minutes, and every other error of `call`.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _DEADLINE_SECONDS
    backoff = _INITIAL_BACKOFF
    while True:
        try:
            return await call(*args, **kwargs)
        except (TransportError, NotReady) as error:
            reason: Exception = error
        except ApiError as error:
            if error.status_code not in _TRANSIENT:
                raise
            reason = error
        if loop.time() > deadline:
            raise StoreUnavailable from reason
        log.warning("Elasticsearch is unavailable or overloaded, retrying: %s", reason)
        await asyncio.sleep(backoff * random.uniform(0.7, 1.3))  # noqa: S311
        backoff = min(backoff * 2, _MAX_BACKOFF)
