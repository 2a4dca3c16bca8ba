"""Requests of long-running work, which waits for an Elasticsearch that is unavailable or overloaded.

The service gives up after seconds, because a client waits for its answer. A migration or a job waits for minutes.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from elasticsearch import ApiError, TransportError

from app.errors import ElasticsearchUnavailable
from app.retry import TRANSIENT_STATUSES, Backoff

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

# A restart of a node takes a minute or two. An operator who has to repair it needs longer.
_DEADLINE_SECONDS = 900.0
_INITIAL_BACKOFF = 0.5
# Below the duration of a lease, so that a heartbeat soon follows an outage.
_MAX_BACKOFF = 6.0


class NotReady(Exception):
    """Elasticsearch answers, but a shard that the caller needs is not available yet. `with_retries` retries it."""


async def with_retries(call: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """Returns what `call` returns. Retries it with back-off while Elasticsearch is unavailable or overloaded.

    `call` must therefore be idempotent. Raises ElasticsearchUnavailable after 15 minutes, and every other error of
    `call`.
    """
    backoff = Backoff(_DEADLINE_SECONDS, initial=_INITIAL_BACKOFF, maximum=_MAX_BACKOFF)
    while True:
        try:
            return await call(*args, **kwargs)
        except (TransportError, NotReady) as error:
            reason: Exception = error
        except ApiError as error:
            if error.status_code not in TRANSIENT_STATUSES:
                raise
            reason = error
        log.warning("Elasticsearch is unavailable or overloaded, retrying: %s", reason)
        if not await backoff.wait():
            raise ElasticsearchUnavailable from reason
