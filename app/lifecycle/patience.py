"""Long work on many recordings: it waits while Elasticsearch is away, and can be stopped."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from app.errors import ElasticsearchUnavailable
from app.retry import Backoff

_INITIAL_BACKOFF = 0.5
_MAX_BACKOFF = 30.0

T = TypeVar("T")


class Patience:
    """Repeats calls for so many `seconds` while Elasticsearch does not answer, until `stop`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._stop = asyncio.Event()

    def stop(self) -> None:
        self._stop.set()

    @property
    def is_stopped(self) -> bool:
        return self._stop.is_set()

    async def call(self, work: Callable[[], Awaitable[T]]) -> T:
        """Calls until Elasticsearch answers; the call must be idempotent. Raises ElasticsearchUnavailable."""
        backoff = Backoff(self._seconds, initial=_INITIAL_BACKOFF, maximum=_MAX_BACKOFF)
        while True:
            try:
                return await work()
            except ElasticsearchUnavailable:
                wait = backoff.next_wait()
                if self.is_stopped or wait is None:
                    raise
            await self.pause(wait)

    async def pause(self, seconds: float) -> None:
        """Ends early when the work is to stop."""
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._stop.wait()
        except TimeoutError:
            pass
