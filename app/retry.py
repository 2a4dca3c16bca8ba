"""Repeating what failed: which answers of Elasticsearch are worth another attempt, and how long to wait before it.

See docs/decisions/0014-a-changing-cluster.md.
"""

import asyncio
import math
import random
import time

TRANSIENT_STATUSES = frozenset(
    {
        408,  # the cluster did not reach the state that the request waits for
        429,  # overloaded: a queue is full, or a memory circuit breaker is open
        502,  # a load balancer reaches no node
        503,  # no master is elected, or a primary shard is not active
        504,  # a load balancer got no answer from its node
    }
)


class Backoff:
    """The waits between the attempts of one operation: random ("full jitter"), each time from a range twice as long.

    `timeout` is the number of seconds from now after which there is no further attempt; `initial` and `maximum` are
    the longest first wait and the longest wait, in seconds.
    """

    __slots__ = ("_ceiling", "_deadline", "_maximum")

    def __init__(self, timeout: float = math.inf, *, initial: float = 0.05, maximum: float = 0.8) -> None:
        self._deadline = time.monotonic() + timeout
        self._ceiling = initial
        self._maximum = maximum

    @property
    def seconds_left(self) -> float:
        """The seconds until the deadline; below 0 when it has passed."""
        return self._deadline - time.monotonic()

    def next_wait(self) -> float | None:
        """Returns how many seconds to wait before the next attempt, or None when there is no time for one."""
        seconds = random.uniform(0, self._ceiling)  # noqa: S311  # no secret
        self._ceiling = min(2 * self._ceiling, self._maximum)
        return seconds if seconds < self.seconds_left else None

    async def wait(self) -> bool:
        """Waits for the next attempt; returns False, without waiting, when there is no time for one."""
        seconds = self.next_wait()
        if seconds is None:
            return False
        await asyncio.sleep(seconds)
        return True
