"""Who gets a place, who waits, and who is refused (docs/contract.md section 1, code 4)."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from prometheus_client import CollectorRegistry

from app.errors import ShareInUse
from app.shares import Activity, Limits, Owner, Place, Shares

A, A2, B, C = Owner("a", "1"), Owner("a", "2"), Owner("b", "1"), Owner("c", "1")


def some(*, total: int = 4, contact_center: int = 2, user: int = 2, wait: float = 0.05, **more: float) -> Shares:
    registry = CollectorRegistry()
    return Shares("searches", "searches", Limits(total, contact_center, user), registry, wait=wait, **more)  # type: ignore[arg-type]


@pytest.fixture
async def tasks() -> AsyncIterator[asyncio.TaskGroup]:
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        yield group


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("limits", "others", "share", "status"),
    [
        ({"user": 1}, [A], "user", 429),
        ({"user": 1}, [A, A2], "contact center", 429),
        ({"total": 3}, [B, B, C], "service", 503),
    ],
)
async def test_a_place_that_does_not_come_free_is_refused_after_a_wait_and_says_whose_share_it_is(
    limits: dict[str, int], others: list[Owner], share: str, status: int
) -> None:
    shares = some(**limits)
    for owner in others:
        await shares.take(owner)
    with pytest.raises(ShareInUse) as raised:
        await shares.take(A)
    assert (raised.value.http_status, raised.value.code) == (status, 4)
    assert share in raised.value.message
    assert raised.value.headers
    assert int(raised.value.headers["Retry-After"]) > 0


async def test_one_contact_center_leaves_places_to_others() -> None:
    shares = some(wait=0)
    await shares.take(A)
    await shares.take(A)
    for owner in (A, A2):
        with pytest.raises(ShareInUse):
            await shares.take(owner)
    await shares.take(B)
    await shares.take(B)


async def test_a_place_given_back_goes_to_the_contact_center_and_the_user_who_use_least(
    tasks: asyncio.TaskGroup,
) -> None:
    shares = some(total=3, contact_center=3, user=3, wait=5)
    held = [await shares.take(B), await shares.take(A), await shares.take(A)]
    order: list[Owner] = []

    async def ask(owner: Owner) -> None:
        await shares.take(owner)
        order.append(owner)

    for owner in (A, A2, C):
        tasks.create_task(ask(owner))
        await turn()
    assert not order
    for place in held:
        place.release()
        place.release()  # the second time does nothing
        await turn()
    assert order == [C, A2, A]


async def test_a_large_amount_is_not_overtaken_by_small_ones(tasks: asyncio.TaskGroup) -> None:
    shares = some(total=4, contact_center=4, user=4, wait=5)
    first, second = await shares.take(A, 2), await shares.take(B, 2)
    large = tasks.create_task(shares.take(C, 3))
    await turn()
    small = tasks.create_task(shares.take(B, 1))
    first.release()
    await turn()
    assert not small.done()
    second.release()
    await turn()
    assert large.done()
    assert small.done()


async def test_an_amount_larger_than_a_share_takes_all_of_it() -> None:
    shares = some()
    place = await shares.take(A, 100)
    assert place.amount == 2


async def test_a_user_within_the_patient_share_waits_longer(tasks: asyncio.TaskGroup) -> None:
    shares = some(contact_center=1, wait=0.05, patience=5, patient=2)
    first = await shares.take(A)
    second = tasks.create_task(shares.take(A))
    await turn()
    with pytest.raises(ShareInUse):
        await shares.take(A)
    assert not second.done()
    first.release()
    (await second).release()


async def test_requests_that_are_cancelled_or_refused_leave_nothing_behind() -> None:
    shares = some(total=2, contact_center=1, user=1, wait=0.01)
    held: Place = await shares.take(A)
    for delay in range(30):
        waiting = asyncio.create_task(shares.take(A))
        for _ in range(delay % 6):
            await asyncio.sleep(0)
        if delay % 2:
            held.release()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        if delay % 2:
            held = await shares.take(A)
    held.release()
    assert not shares._waiting
    assert (shares._used, shares._by_contact_center, shares._by_user, shares._requests) == (0, {}, {}, {})


# --- Beside others ------------------------------------------------------------------------------------------


async def test_a_contact_center_has_fewer_places_while_others_are_active(tasks: asyncio.TaskGroup) -> None:
    activity = Activity()
    shares = some(total=8, contact_center=4, user=4, wait=5, activity=activity)  # type: ignore[arg-type]
    shares.leave_room(2)
    activity.note("a")
    alone = [await shares.take(A) for _ in range(4)]
    activity.note("b")
    waiting = tasks.create_task(shares.take(A))
    for place in alone[:2]:
        place.release()
        await turn()
    assert not waiting.done()  # two are in use
    alone[2].release()
    await turn()
    assert waiting.done()
    await shares.take(B)
    await shares.take(B)


async def test_what_takes_more_places_than_are_left_beside_others_goes_alone(tasks: asyncio.TaskGroup) -> None:
    activity = Activity()
    shares = some(total=8, contact_center=4, user=4, wait=5, activity=activity)  # type: ignore[arg-type]
    shares.leave_room(2)
    activity.note("a")
    activity.note("b")
    first = await shares.take(A, 3)
    waiting = tasks.create_task(shares.take(A, 3))
    await turn()
    assert not waiting.done()
    first.release()
    await turn()
    assert waiting.done()


async def test_none_overtakes_a_larger_one_of_its_contact_center(tasks: asyncio.TaskGroup) -> None:
    shares = some(total=8, contact_center=4, user=4, wait=5)
    held = [await shares.take(A) for _ in range(3)]
    order: list[str] = []

    async def ask(owner: Owner, amount: int, name: str) -> Place:
        place = await shares.take(owner, amount)
        order.append(name)
        return place

    asked = []
    for owner, amount, name in ((A, 3, "large"), (A, 1, "small"), (A2, 1, "of another user"), (B, 1, "of others")):
        asked.append(tasks.create_task(ask(owner, amount, name)))
        await turn()
    assert order == ["of others"]
    for place in held:
        place.release()
        await turn()
    assert order[:2] == ["of others", "large"]
    for one in asked:
        (await one).release()


async def test_a_large_one_that_only_the_service_has_no_room_for_is_told_so() -> None:
    activity = Activity()
    shares = some(total=4, contact_center=4, user=4, wait=0.05, activity=activity)  # type: ignore[arg-type]
    shares.leave_room(1)
    activity.note("a")
    activity.note("b")
    await shares.take(B, 2)
    with pytest.raises(ShareInUse) as refused:
        await shares.take(A, 3)
    assert refused.value.http_status == 503


async def test_places_come_free_when_others_are_active_no_more(
    tasks: asyncio.TaskGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    activity = Activity()
    shares = some(total=8, contact_center=4, user=4, wait=0.05, activity=activity)  # type: ignore[arg-type]
    shares.leave_room(1)
    activity.note("b")
    activity.note("a")
    await shares.take(A)
    waiting = tasks.create_task(shares.take(A))
    await turn()
    assert not waiting.done()
    monkeypatch.setattr(activity, "has_others", lambda _: False)
    await waiting  # at the end of its time
    monkeypatch.setattr(activity, "has_others", lambda _: True)
    more = tasks.create_task(shares.take(A))
    await turn()
    assert not more.done()
    shares.leave_room(3)
    await turn()
    assert more.done()


def test_others_are_active_for_a_minute_after_each_request(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    activity = Activity()
    assert not activity.has_others("a")
    for contact_center in ("a", "b", "a", "a"):
        activity.note(contact_center)
        now += 10
    assert activity.has_others("a")
    assert activity.has_others("b")
    assert activity.has_others("c")
    now += 31  # 61 s since "b"
    assert not activity.has_others("a")
    assert activity.has_others("b")
