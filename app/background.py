"""Tasks that run beside the requests of a process."""

import asyncio
import sys
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager, suppress
from contextvars import ContextVar
from functools import partial
from typing import Any, ParamSpec, TypeVar

from prometheus_client import CollectorRegistry, Gauge, Histogram

P = ParamSpec("P")
T = TypeVar("T")
U = TypeVar("U")

# What is larger is worked on in a thread, so that it delays other requests by milliseconds and not by a second.
_LARGE_BYTES = 64 * 1024
# Whenever the event loop needs the interpreter's lock, the thread gives it up after this many seconds.
_SWITCH_SECONDS = 0.0002

# The contact center that a request is about, so that one's large requests do not wait for all of another's.
_contact_center: ContextVar[str] = ContextVar("contact_center", default="")

# One thread: large requests wait for each other, not for a processor that the others need.
_thread = ThreadPoolExecutor(1, "large", initializer=lambda: sys.setswitchinterval(_SWITCH_SECONDS))


class FairQueue:
    """Lets one at a time in: of each owner in turn, and of one owner in the order in which they came.

    The next one comes in a later iteration of the event loop, after what else is ready by then.
    """

    def __init__(self) -> None:
        # The owners who wait, the next one first.
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._is_taken = False

    @asynccontextmanager
    async def turn(self, owner: str) -> AsyncIterator[None]:
        """Waits for this owner's turn, which lasts while the context is open."""
        if self._is_taken:
            granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(owner, deque()).append(granted)
            try:
                await granted
            except asyncio.CancelledError:
                if granted.done() and not granted.cancelled():  # in the same moment
                    self._next()
                raise
        self._is_taken = True
        try:
            yield
        finally:
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        self._is_taken = False
        while self._waiting:
            owner, queue = self._waiting.popitem(last=False)
            granted = queue.popleft()
            if queue:
                self._waiting[owner] = queue  # behind the others
            if not granted.done():
                self._is_taken = True
                granted.set_result(None)
                return


_queue = FairQueue()
# For work in the event loop itself.
_loop_queue = FairQueue()


def work_for(contact_center: str) -> None:
    """Says for which contact center the running task works from now on."""
    _contact_center.set(contact_center)


async def apart(size: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Returns what `work` returns, which does not wait for anything; if it is about many bytes, a thread does it."""
    if size < _LARGE_BYTES:
        return work(*args, **kwargs)
    async with _queue.turn(_contact_center.get()):
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
    """Returns what `work` makes of each item, of so many bytes as `size` returns; large ones apart, others in turns.

    In one iteration of the event loop only one page is worked on, of each contact center in turn. Otherwise every
    request would wait, at each of its steps, for all pages that are ready.
    """
    left, results = deque(items), list[T]()
    if sum(map(size, left)) < _LARGE_BYTES:
        return [work(item) for item in left]
    while left:
        if size(left[0]) >= _LARGE_BYTES:
            results.append(await apart(size(left[0]), work, left.popleft()))
            continue
        async with _loop_queue.turn(_contact_center.get()):
            small = 0
            while left and size(left[0]) < _LARGE_BYTES and small < _BYTES_OF_A_TURN:
                small += size(left[0])
                results.append(work(left.popleft()))
    return results


async def concurrently(work: Iterable[Awaitable[T]]) -> list[T]:
    """Awaits all, also when one fails; then raises the first error in their order.

    `asyncio.TaskGroup` raises a group instead, which no client of the service could be told.
    """
    results: list[T] = []
    for result in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
        results.append(result)
    return results


# How often the event loop is looked at.
_LOOK_SECONDS = 0.1
_DELAYS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


async def watch_event_loop(registry: CollectorRegistry) -> None:
    """Measures for ever how late the event loop is, and counts its tasks."""
    delay = Histogram(
        "recall_event_loop_delay_seconds",
        "How late the event loop runs a timer: what holds it delays every request.",
        registry=registry,
        buckets=_DELAYS,
    )
    tasks = Gauge("recall_tasks", "Tasks of the event loop.", registry=registry, multiprocess_mode="livesum")
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + _LOOK_SECONDS
        await asyncio.sleep(_LOOK_SECONDS)
        delay.observe(max(0.0, loop.time() - due))
        tasks.set(len(asyncio.all_tasks()))


async def for_each(items: AsyncGenerator[T, None], work: Callable[[T], Awaitable[None]], parallel: int) -> None:
    """Does the work for each item, for so many concurrently. Few more than these are read ahead.

    The first error of the work or the items ends everything, and is raised.
    """
    queue: asyncio.Queue[T] = asyncio.Queue(parallel)

    async def take() -> None:
        while True:
            await work(await queue.get())
            queue.task_done()

    try:
        async with asyncio.TaskGroup() as tasks, aclosing(items):
            takers = [tasks.create_task(take()) for _ in range(parallel)]
            async for item in items:
                await queue.put(item)
            await queue.join()
            for taker in takers:
                taker.cancel()
    except BaseExceptionGroup as failures:
        error: BaseException = failures
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None


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
