"""Work on large JSON, in one thread for all contact centers."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from itertools import pairwise

import pytest

from app.background import apart, for_each, in_turns, work_for
from tests.support.waiting import eventually

LARGE = 1_000_000


async def test_large_requests_of_one_contact_center_do_not_hold_up_anothers() -> None:
    done: list[str] = []
    first_may_end = threading.Event()

    async def request(contact_center: str, work: Callable[[], object]) -> None:
        work_for(contact_center)
        await apart(LARGE, work)
        done.append(contact_center)

    async with asyncio.timeout(20), asyncio.TaskGroup() as requests:
        requests.create_task(request("a", first_may_end.wait))
        await asyncio.sleep(0)
        for _ in range(5):
            requests.create_task(request("a", lambda: None))
        await asyncio.sleep(0)
        requests.create_task(request("b", lambda: None))
        await asyncio.sleep(0)
        first_may_end.set()
    assert done.index("b") <= 2
    assert sorted(done) == ["a"] * 6 + ["b"]


async def test_a_request_that_ends_while_it_waits_lets_the_next_one_in() -> None:
    may_end = threading.Event()
    working = asyncio.create_task(apart(LARGE, may_end.wait))
    leaving = asyncio.create_task(apart(LARGE, lambda: "never"))
    waiting = asyncio.create_task(apart(LARGE, lambda: "done"))
    await asyncio.sleep(0)
    leaving.cancel()
    await eventually(leaving.done)
    may_end.set()
    async with asyncio.timeout(20):
        assert await waiting == "done"
        assert await working


async def test_while_many_pages_are_ready_every_other_request_goes_on_after_one_of_them() -> None:
    worked_on: list[str] = []
    iterations: list[int] = []

    async def page(contact_center: str) -> None:
        work_for(contact_center)
        await in_turns(worked_on.append, [contact_center] * 10, lambda _: 10_000)

    async def other_request() -> None:
        while len(worked_on) < 90:
            await asyncio.sleep(0)
            iterations.append(len(worked_on))

    async with asyncio.timeout(20), asyncio.TaskGroup() as requests:
        for _ in range(8):
            requests.create_task(page("a"))
        requests.create_task(page("b"))
        requests.create_task(other_request())
    assert max(later - before for before, later in pairwise(iterations)) <= 10
    assert worked_on.index("b") <= 20


class Numbers:
    """Numbers that are read one by one; `fails_at` one of them raises."""

    def __init__(self, count: int, fails_at: int = -1) -> None:
        self.read = 0
        self.is_closed = False
        self._count = count
        self._fails_at = fails_at

    async def all(self) -> AsyncGenerator[int, None]:
        try:
            for number in range(self._count):
                if number == self._fails_at:
                    raise ValueError("items")
                self.read += 1
                yield number
        finally:
            self.is_closed = True


async def test_each_item_is_worked_on_once_so_many_at_a_time_and_few_are_read_ahead() -> None:
    numbers, done, most = Numbers(50), list[int](), 0
    working = set[int]()

    async def work(number: int) -> None:
        nonlocal most
        working.add(number)
        most = max(most, len(working))
        assert numbers.read - len(done) <= 3 + 3 + 1
        await asyncio.sleep(0)
        working.remove(number)
        done.append(number)

    await for_each(numbers.all(), work, 3)
    assert sorted(done) == [*range(50)]
    assert (most, numbers.is_closed) == (3, True)


async def test_the_first_error_of_work_ends_everything() -> None:
    numbers, cancelled = Numbers(1_000), list[int]()

    async def work(number: int) -> None:
        if number == 5:
            raise KeyError("work")
        try:
            await asyncio.sleep(60 if number > 1 else 0)
        except asyncio.CancelledError:
            cancelled.append(number)
            raise

    before = asyncio.all_tasks()  # services of other tests may run in the same loop
    with pytest.raises(KeyError, match="work"):
        await for_each(numbers.all(), work, 4)
    assert numbers.is_closed
    assert sorted(cancelled) == [2, 3, 4]
    assert asyncio.all_tasks() <= before


async def test_an_error_of_the_items_ends_everything() -> None:
    numbers = Numbers(1_000, fails_at=7)

    async def work(_: int) -> None:
        await asyncio.sleep(0)

    with pytest.raises(ValueError, match="items"):
        await for_each(numbers.all(), work, 2)
    assert numbers.is_closed
