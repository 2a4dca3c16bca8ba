"""Tasks that run beside the requests of a process."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
U = TypeVar("U")

# What is larger is worked on in a thread, so that it delays other requests by milliseconds and not by a second.
_LARGE_BYTES = 64 * 1024
# Whenever the event loop needs the interpreter's lock, the thread gives it up after this many seconds.
_SWITCH_SECONDS = 0.001

# One thread: large requests wait for each other, not for a processor that the others need.
_thread = ThreadPoolExecutor(1, "large", initializer=lambda: sys.setswitchinterval(_SWITCH_SECONDS))


async def apart(size: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Returns what `work` returns, which does not wait for anything; if it is about many bytes, a thread does it."""
    if size < _LARGE_BYTES:
        return work(*args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(_thread, partial(work, *args, **kwargs))


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


# Each takes less than half a millisecond.
_PIECES_OF_A_TURN = 8


class Pieces:
    """Lets other requests go between many small pieces of work that become possible in the same moment.

    Hundreds of tasks may wait for one answer of Elasticsearch.
    """

    def __init__(self) -> None:
        self._left = _PIECES_OF_A_TURN

    async def turn(self) -> None:
        """Returns when it is the turn of a piece."""
        while not self._left:  # noqa: ASYNC110  # a few iterations of the event loop
            await asyncio.sleep(0)
        if self._left == _PIECES_OF_A_TURN:
            asyncio.get_running_loop().call_soon(self._renew)
        self._left -= 1

    def _renew(self) -> None:
        self._left = _PIECES_OF_A_TURN


async def in_turns(work: Callable[[U], T], items: Iterable[U], size: Callable[[U], int]) -> list[T]:
    """Returns what `work` makes of each item, of so many bytes as `size` returns; large ones apart, others in turns."""
    results, small = list[T](), 0
    for item in items:
        this = size(item)
        results.append(work(item) if this < _LARGE_BYTES else await apart(this, work, item))
        small += this
        if small >= _BYTES_OF_A_TURN:
            small = 0
            await asyncio.sleep(0)
    return results


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
