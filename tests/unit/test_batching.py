"""Batches of requests: each item gets its own result, whatever happens to the others."""

import asyncio
from collections.abc import Sequence
from random import Random

import hypothesis
from hypothesis import strategies

from app.store.batching import Batcher

TIMEOUT = 10.0


class Sent:
    """Records the batches that a batcher sends. Each is answered after `released` is set, `bad` items with an error."""

    def __init__(self, *bad: str, broken: str = "") -> None:
        self.batches: list[list[str]] = []
        self.released = asyncio.Event()
        self._bad = bad
        self._broken = broken

    async def __call__(self, batch: list[str]) -> Sequence[str | Exception]:
        self.batches.append(batch)
        await self.released.wait()
        if self._broken in batch:
            raise OSError("the whole request failed")
        return [ValueError(item) if item in self._bad else item for item in batch]


async def steps() -> None:
    """Runs the event loop until only answers are missing."""
    for _ in range(5):
        await asyncio.sleep(0)


def ask(batcher: Batcher[str, str], items: str) -> dict[str, asyncio.Task[str]]:
    """Submits each letter; returns a task for each."""
    return {item: asyncio.create_task(batcher.submit(item, 1)) for item in items}


async def test_an_item_is_sent_immediately_when_no_batch_is_in_flight() -> None:
    sent = Sent()
    sent.released.set()
    assert await Batcher(sent).submit("a") == "a"
    assert sent.batches == [["a"]]


async def test_items_arriving_during_a_request_share_the_next_batch() -> None:
    sent = Sent()
    batcher = Batcher(sent, concurrency=1)
    waiters = ask(batcher, "a")
    await steps()
    waiters |= ask(batcher, "bcd")
    await steps()
    assert sent.batches == [["a"]]
    sent.released.set()
    assert {item: await waiter for item, waiter in waiters.items()} == {item: item for item in "abcd"}
    assert sent.batches == [["a"], ["b", "c", "d"]]


async def test_a_slow_batch_does_not_block_the_next() -> None:
    sent = Sent()
    batcher = Batcher(sent, concurrency=2)
    waiters = ask(batcher, "a")
    await steps()
    waiters |= ask(batcher, "b")
    await steps()
    assert sent.batches == [["a"], ["b"]]
    sent.released.set()
    await asyncio.gather(*waiters.values())


async def test_batches_are_bounded_in_items_and_bytes_and_a_larger_item_has_a_batch_of_its_own() -> None:
    sent = Sent()
    sent.released.set()
    batcher = Batcher(sent, concurrency=1, max_items=3, max_bytes=10)
    await asyncio.gather(
        *(batcher.submit(item, size) for item, size in zip("abcdefg", (1, 1, 1, 6, 5, 5, 99), strict=True))
    )
    assert sent.batches == [["a", "b", "c"], ["d"], ["e", "f"], ["g"]]


async def test_each_item_gets_its_own_error() -> None:
    sent = Sent("b")
    sent.released.set()
    outcomes = await asyncio.gather(*ask(Batcher(sent), "abc").values(), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [str, ValueError, str]


async def test_a_failed_request_fails_the_items_of_its_batch_only() -> None:
    sent = Sent(broken="b")
    sent.released.set()
    batcher = Batcher(sent, concurrency=1, max_items=2)
    outcomes = await asyncio.gather(*ask(batcher, "abcd").values(), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [OSError, OSError, str, str]
    assert await batcher.submit("e") == "e"


async def test_a_cancelled_item_is_dropped_and_does_not_affect_the_others() -> None:
    sent = Sent()
    batcher = Batcher(sent, concurrency=1)
    waiters = ask(batcher, "ab")
    await steps()
    waiters |= ask(batcher, "cd")
    await steps()
    waiters["a"].cancel()
    waiters["c"].cancel()
    await steps()
    sent.released.set()
    assert [await waiters[item] for item in "bd"] == ["b", "d"]
    assert sent.batches == [["a", "b"], ["d"]]


class Lost(Exception):
    """A whole request failed; the arguments are the numbers in it."""


class Randomly:
    """Answers batches of numbers and sizes after a random time, or fails."""

    def __init__(self, rng: Random) -> None:
        self.batches: list[list[tuple[int, int]]] = []
        self._rng = rng

    async def __call__(self, batch: list[tuple[int, int]]) -> list[int | Exception]:
        self.batches.append(batch)
        for _ in range(self._rng.randint(0, 3)):
            await asyncio.sleep(0)
        if self._rng.random() < 0.1:
            raise Lost(*(number for number, _ in batch))
        return [ValueError(number) if number % 7 == 0 else number for number, _ in batch]


@hypothesis.settings(deadline=None)
@hypothesis.given(seed=strategies.integers())
async def test_every_item_that_is_not_cancelled_gets_its_own_result_from_a_bounded_batch(seed: int) -> None:
    rng = Random(seed)
    max_items, max_bytes = rng.randint(1, 5), rng.randint(1, 20)
    send = Randomly(rng)
    batcher = Batcher(send, concurrency=rng.randint(1, 3), max_items=max_items, max_bytes=max_bytes)
    waiters: list[asyncio.Task[int]] = []
    for number in range(rng.randint(1, 40)):
        size = rng.randint(0, 25)
        waiters.append(asyncio.create_task(batcher.submit((number, size), size)))
        if rng.random() < 0.3:
            await asyncio.sleep(0)
        if rng.random() < 0.2:
            rng.choice(waiters).cancel()
    for number, outcome in enumerate(await asyncio.gather(*waiters, return_exceptions=True)):
        if isinstance(outcome, Lost | ValueError):
            assert number in outcome.args
        elif not isinstance(outcome, asyncio.CancelledError):
            assert outcome == number
    sent = [number for batch in send.batches for number, _ in batch]
    assert len(sent) == len(set(sent))
    for batch in send.batches:
        assert len(batch) <= max_items
        assert len(batch) == 1 or sum(size for _, size in batch) <= max_bytes
