"""Tasks that run beside the requests of a process."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

# Less than 5 ms of work on JSON.
_BYTES_OF_A_TURN = 256 * 1024


class Turns:
    """Lets other requests have their turns in the middle of work on much data."""

    def __init__(self) -> None:
        self._bytes = 0

    async def worked_on(self, size: int) -> None:
        """Counts what was done. After so many bytes that others have waited for some milliseconds, they go first."""
        self._bytes += size
        if self._bytes >= _BYTES_OF_A_TURN:
            self._bytes = 0
            await asyncio.sleep(0)


@asynccontextmanager
async def in_background(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Runs `work` as a task while the context is open, and cancels it at the end."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
