"""Who goes first when many players share one process."""

import asyncio

from app.media.scheduling import PlaybackScheduler


async def play(scheduler: PlaybackScheduler, name: str, played: list[str], pieces: int) -> None:
    for _ in range(pieces):
        await scheduler.turn()
        played.append(name)


async def test_players_take_turns() -> None:
    scheduler, played = PlaybackScheduler(), list[str]()
    await asyncio.gather(*(play(scheduler, name, played, 3) for name in "abc"))
    assert played == list("abcabcabc")


async def test_one_turn_of_the_event_loop_moves_two_pieces() -> None:
    scheduler, played = PlaybackScheduler(), list[str]()
    players = asyncio.gather(*(play(scheduler, name, played, 5) for name in "abcd"))
    while not players.done():
        before = len(played)
        await asyncio.sleep(0)
        assert len(played) - before <= 2
    assert len(played) == 20


async def test_players_almost_stop_while_one_waits_for_its_first_byte() -> None:
    scheduler, played = PlaybackScheduler(), list[str]()
    with scheduler.priority():
        players = asyncio.gather(play(scheduler, "a", played, 1000))
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(played) < 50
    for _ in range(2100):
        await asyncio.sleep(0)
    assert len(played) == 1000
    await players


async def test_who_waits_too_long_for_its_first_byte_holds_up_nobody() -> None:
    scheduler, played = PlaybackScheduler(), list[str]()
    with scheduler.priority():
        async with asyncio.timeout(2):
            await play(scheduler, "a", played, 1000)
    assert len(played) == 1000


async def test_a_player_who_leaves_gives_its_turn_away() -> None:
    scheduler, played = PlaybackScheduler(), list[str]()
    leaving, staying = (asyncio.create_task(play(scheduler, name, played, 1)) for name in "ab")
    await asyncio.sleep(0)
    leaving.cancel()
    await staying
    assert played == ["b"]
