"""Rounds of a race: many, several at once, until each outcome was seen."""

import asyncio
import random
from collections.abc import Awaitable, Callable

from tests.support.sizes import RACE_ROUNDS

CONCURRENT_ROUNDS = 6


async def in_rounds(
    name: str, run: Callable[[str, random.Random], Awaitable[None]], *, seen_enough: Callable[[], bool] = lambda: True
) -> None:
    """Runs RACE_ROUNDS, and up to ten times as many until `seen_enough`; each has an id of its own."""
    numbers = iter(range(10 * RACE_ROUNDS))

    async def work() -> None:
        for number in numbers:
            if number >= RACE_ROUNDS and seen_enough():
                break
            await run(f"{name}-{number}", random.Random(number))

    async with asyncio.TaskGroup() as workers:
        for _ in range(CONCURRENT_ROUNDS):
            workers.create_task(work())


async def a_little_later(rng: random.Random, awaitable: Awaitable[int]) -> int:
    await asyncio.sleep(rng.uniform(0, 0.02))
    return await awaitable
