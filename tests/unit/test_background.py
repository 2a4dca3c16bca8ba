"""Work on large JSON, in one thread for all contact centers."""

import asyncio
import threading
from collections.abc import Callable
from itertools import pairwise

from app.background import apart, in_turns, work_for
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
