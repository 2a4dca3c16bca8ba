"""What goes wrong with a migration, and waiting until what went wrong is over."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from elasticsearch import ApiError, TransportError

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

# A node that is started again takes a minute or two; an operator who has to look after it, longer.
_GIVE_UP_AFTER = 900.0
_FIRST_PAUSE = 0.25
_LONGEST_PAUSE = 5.0
_TRANSIENT = frozenset({408, 429, 502, 503, 504})


class MigrationError(Exception):
    """The migration cannot go on; the text says why and what to do."""


class SnapshotLost(Exception):
    """A point in time is gone, because its node was restarted."""


class NotReady(Exception):
    """The cluster is there, but not all of what is needed."""


async def patiently(call: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """What `call` returns; while Elasticsearch is away or overloaded it is called again, after growing pauses.

    So it must be safe to repeat. Raises SnapshotLost, MigrationError after 15 minutes, and what else `call` raises.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _GIVE_UP_AFTER
    pause = _FIRST_PAUSE
    while True:
        try:
            return await call(*args, **kwargs)
        except (TransportError, NotReady) as error:
            reason: Exception = error
        except ApiError as error:
            if error.status_code == 404 and "search context" in str(error.body):
                raise SnapshotLost from error
            if error.status_code not in _TRANSIENT:
                raise
            reason = error
        if loop.time() > deadline:
            raise MigrationError(f"Elasticsearch has been away or overloaded for too long: {reason}") from reason
        log.warning("Elasticsearch cannot answer now, trying again: %s", reason)
        await asyncio.sleep(pause * random.uniform(0.7, 1.3))  # noqa: S311
        pause = min(pause * 2, _LONGEST_PAUSE)
