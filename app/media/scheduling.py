"""Who goes next when many players share one event loop."""

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

# For how long a player who waits for its first byte goes first: a storage that has stalled must not hold up all others.
_FIRST_SECONDS = 0.05

# While somebody goes first, those who play get one chunk in so many seconds, all together.
_CHUNK_SECONDS = 0.005

# Otherwise so many in a turn of the event loop: with one the turns count, with more a request waits longer for its own.
_CHUNKS = 2


class PlaybackScheduler:
    """Players take turns, two chunks in each turn of the event loop.

    So a request never waits for more than a few chunks, however many play; and while a player waits for its first byte
    the others almost stop, for it needs several turns, and a processor for Elasticsearch and for the storage.
    """

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._going_first = 0
        self._next: asyncio.Handle | None = None

    @contextmanager
    def priority(self) -> Iterator[None]:
        """A player waits for its first byte."""
        going = True

        def leave() -> None:
            nonlocal going
            if going:
                going = False
                self._going_first -= 1
                if not self._going_first and self._next:
                    self._next.cancel()
                    self._plan()

        self._going_first += 1
        limit = asyncio.get_running_loop().call_later(_FIRST_SECONDS, leave)
        try:
            yield
        finally:
            limit.cancel()
            leave()

    async def turn(self) -> None:
        """Returns when it is one's turn to send a chunk."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        if self._next is None:
            self._plan()
        await turn

    def _plan(self) -> None:
        loop = asyncio.get_running_loop()
        self._next = loop.call_later(_CHUNK_SECONDS, self._go) if self._going_first else loop.call_soon(self._go)

    def _go(self) -> None:
        self._next = None
        chunks = 1 if self._going_first else _CHUNKS
        while self._waiting and chunks:
            turn = self._waiting.popleft()
            if not turn.done():  # cancelled
                turn.set_result(None)
                chunks -= 1
        if self._waiting:
            self._plan()
