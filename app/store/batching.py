"""Groups concurrent calls into few requests."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

# The second batch keeps one that waits for a primary shard from blocking all other items.
_CONCURRENCY = 2
_MAX_ITEMS = 200
_MAX_BYTES = 4 * 1024 * 1024


class Batcher(Generic[_Item, _Result]):
    """Groups concurrent calls into batches.

    An item that arrives while fewer than `concurrency` batches are in flight is sent immediately. Later items share
    the next batch, which is sent when one of those in flight completes. A batch holds up to `max_items` items and
    `max_bytes` bytes, or a single item that is larger. `send` returns the result or the error of each item, in the
    order of the items, or raises the error of all of them.
    """

    def __init__(
        self,
        send: Callable[[list[_Item]], Awaitable[Sequence[_Result | Exception]]],
        *,
        concurrency: int = _CONCURRENCY,
        max_items: int = _MAX_ITEMS,
        max_bytes: int = _MAX_BYTES,
    ) -> None:
        self._send = send
        self._concurrency = concurrency
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._queue: deque[tuple[_Item, int, asyncio.Future[_Result]]] = deque()
        self._workers: set[asyncio.Task[None]] = set()

    async def submit(self, item: _Item, size: int = 0) -> _Result:
        """Returns the item's result, or raises its error. `size` is its number of bytes.

        An item whose caller is cancelled before its batch is sent is dropped.
        """
        result: asyncio.Future[_Result] = asyncio.get_running_loop().create_future()
        self._queue.append((item, size, result))
        if len(self._workers) < self._concurrency:
            worker = asyncio.create_task(self._work())
            self._workers.add(worker)  # the event loop keeps only a weak reference
        return await result

    async def _work(self) -> None:
        try:
            while batch := self._next_batch():
                await self._send_batch(batch)
        finally:
            # There is no await since the queue was seen empty, so a later item always starts a new worker.
            worker = asyncio.current_task()
            assert worker
            self._workers.discard(worker)

    def _next_batch(self) -> list[tuple[_Item, asyncio.Future[_Result]]]:
        """Returns the items of the next batch; an empty list when none is waiting."""
        batch: list[tuple[_Item, asyncio.Future[_Result]]] = []
        size = 0
        while self._queue and len(batch) < self._max_items:
            item, item_size, result = self._queue[0]
            if not result.done():
                if batch and size + item_size > self._max_bytes:
                    break
                batch.append((item, result))
                size += item_size
            self._queue.popleft()
        return batch

    async def _send_batch(self, batch: list[tuple[_Item, asyncio.Future[_Result]]]) -> None:
        results: Sequence[_Result | Exception]
        try:
            results = await self._send([item for item, _ in batch])
        except Exception as error:  # noqa: BLE001  # each caller gets it
            results = [error] * len(batch)
        except BaseException:
            for _, waiter in batch:
                waiter.cancel()
            raise
        for (_, waiter), result in zip(batch, results, strict=True):
            if waiter.done():  # cancelled
                continue
            if isinstance(result, Exception):
                waiter.set_exception(result)
            else:
                waiter.set_result(result)
