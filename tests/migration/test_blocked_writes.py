"""Writes that a migration has blocked: until it swaps, after it was killed, and when it only seemed to be."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from elasticsearch import AsyncElasticsearch

from app import main
from app.migration import run as migration
from app.migration.patience import MigrationError
from app.migration.sources import V2Recordings
from app.settings import Settings
from app.store import lease
from app.store.lease import Holder, state_of
from tests.conftest import StartService
from tests.migration.support import behind_alias, callers, run, start
from tests.support import OPS_PATH, a_recording, eventually

# A migration that has blocked writes and stands still until the event is set.
Standing = contextlib.AbstractAsyncContextManager[tuple[asyncio.Event, "asyncio.Task[None]"]]


@pytest.fixture(autouse=True)
def rare_upkeep(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service lifts no block before a test wants it to."""
    monkeypatch.setattr(main, "_UPKEEP_SECONDS", 1000.0)


@pytest.fixture
def all_seem_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that only stands still is taken for dead by everybody."""
    monkeypatch.setattr(Holder, "is_dead", lambda _: True)


async def is_blocked(elasticsearch: AsyncElasticsearch, index: str) -> bool:
    found = (await elasticsearch.indices.get_settings(index=index, name="index.blocks.write")).body
    return bool(found)


async def kill_while_blocked(elasticsearch: AsyncElasticsearch, settings: Settings, cwd: Path) -> None:
    """Tries until it has."""
    while True:
        index = await behind_alias(elasticsearch, settings)
        process = await start(settings, "reindex.py", cwd=cwd)
        while process.returncode is None and not await is_blocked(elasticsearch, index):
            pass
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()
        state = await state_of(elasticsearch, settings, "recordings")
        if state.plan and state.plan.blocked and await is_blocked(elasticsearch, index):
            return


async def test_the_service_takes_writes_again_after_a_migration_was_killed_in_its_last_pass(
    start_service: StartService,
    elasticsearch: AsyncElasticsearch,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service = await start_service()
    ops = service.client("ops")
    assert (await ops.post(OPS_PATH, json=a_recording("before"))).status_code == 201
    await kill_while_blocked(elasticsearch, settings, tmp_path)
    assert (await ops.post(OPS_PATH, json=a_recording("meanwhile"))).status_code == 503
    monkeypatch.setattr(main, "_UPKEEP_SECONDS", 0.1)
    another = (await start_service()).client("ops")

    async def is_taken() -> bool:
        return (await another.post(OPS_PATH, json=a_recording("after"))).is_success

    await eventually(is_taken)
    assert not await is_blocked(elasticsearch, await behind_alias(elasticsearch, settings))
    # And the next run goes on from there.
    status, out, err = await run(settings, "reindex.py", cwd=tmp_path)
    assert status == 0, out + err
    for recording_id in ("before", "after"):
        assert (await ops.get(f"{OPS_PATH}/{recording_id}")).status_code == 200


@pytest.fixture
def about_to_swap(
    elasticsearch: AsyncElasticsearch, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], Standing]:
    return lambda: _about_to_swap(elasticsearch, settings, monkeypatch)


@contextlib.asynccontextmanager
async def _about_to_swap(
    elasticsearch: AsyncElasticsearch, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[asyncio.Event, "asyncio.Task[None]"]]:
    stands, goes_on = asyncio.Event(), asyncio.Event()
    swap = migration._swap

    async def late(*arguments: Any) -> None:
        stands.set()
        await goes_on.wait()
        await swap(*arguments)

    async def migrate() -> None:
        async with migration.holding(elasticsearch, settings, "recordings") as held:
            index = await behind_alias(elasticsearch, settings)
            run_ = migration.Migration(
                elasticsearch,
                settings,
                "recordings",
                sources=[V2Recordings(index)],
                options=migration.Options(),
                progress=lambda *_: contextlib.nullcontext(lambda _: None),
            )
            await run_.run(held, index)

    with monkeypatch.context() as patch:
        patch.setattr(migration, "_swap", late)
        task = asyncio.create_task(migrate())
        try:
            standing = asyncio.create_task(stands.wait())
            await asyncio.wait([task, standing], return_when=asyncio.FIRST_COMPLETED)
            assert standing.done(), task
            yield goes_on, task
        finally:
            standing.cancel()
            task.cancel()
            await asyncio.wait([task])


@pytest.mark.usefixtures("all_seem_dead")
async def test_a_migration_that_was_only_paused_swaps_nothing_after_its_block_was_lifted(
    ops: httpx.AsyncClient, elasticsearch: AsyncElasticsearch, settings: Settings, about_to_swap: Callable[[], Standing]
) -> None:
    assert (await ops.post(OPS_PATH, json=a_recording("before"))).status_code == 201
    index = await behind_alias(elasticsearch, settings)
    async with about_to_swap() as (goes_on, paused):
        assert await is_blocked(elasticsearch, index)
        await migration.lift_abandoned_blocks(elasticsearch, settings)
        assert (await ops.post(OPS_PATH, json=a_recording("after"))).status_code == 201
        goes_on.set()
        with pytest.raises(MigrationError):
            await paused
    assert await behind_alias(elasticsearch, settings) == index
    assert (await ops.post(OPS_PATH, json=a_recording("at last"))).status_code == 201
    assert (await ops.get(f"{OPS_PATH}/after")).status_code == 200


@pytest.mark.usefixtures("all_seem_dead")
async def test_a_migration_that_was_only_paused_lifts_no_block_of_another(
    ops: httpx.AsyncClient, elasticsearch: AsyncElasticsearch, settings: Settings, about_to_swap: Callable[[], Standing]
) -> None:
    assert (await ops.post(OPS_PATH, json=a_recording())).status_code == 201
    index = await behind_alias(elasticsearch, settings)
    async with (
        about_to_swap() as (goes_on, paused),
        migration.holding(elasticsearch, settings, "recordings"),
    ):
        await elasticsearch.indices.add_block(index=index, block="write")  # as the other would
        goes_on.set()
        with pytest.raises(MigrationError):
            await paused
        assert await is_blocked(elasticsearch, index)


async def test_posts_that_meet_the_block_wait_for_the_swap(
    ops: httpx.AsyncClient, elasticsearch: AsyncElasticsearch, settings: Settings, about_to_swap: Callable[[], Standing]
) -> None:
    for recording_id in ("old", "same"):
        assert (await ops.post(OPS_PATH, json=a_recording(recording_id))).status_code == 201
    async with about_to_swap() as (goes_on, migrating):
        bodies = [
            a_recording("old", callerPhoneNumber="+1"),
            a_recording("same"),
            a_recording("new", callerPhoneNumber="+1"),
        ]
        posts = [asyncio.create_task(ops.post(OPS_PATH, json=body)) for body in bodies]
        done, _ = await asyncio.wait(posts, timeout=0.5)
        assert not done
        goes_on.set()
        await migrating
        assert [(await post).status_code for post in posts] == [200, 200, 201]
    target = await behind_alias(elasticsearch, settings)
    assert target.endswith("000002")
    assert await callers(elasticsearch, target) == {body["id"]: body["callerPhoneNumber"] for body in bodies}


async def test_a_block_of_a_migration_that_lives_stays(
    ops: httpx.AsyncClient, elasticsearch: AsyncElasticsearch, settings: Settings, about_to_swap: Callable[[], Standing]
) -> None:
    assert (await ops.post(OPS_PATH, json=a_recording())).status_code == 201
    index = await behind_alias(elasticsearch, settings)
    async with about_to_swap() as (goes_on, migrating):
        await migration.lift_abandoned_blocks(elasticsearch, settings)
        assert await is_blocked(elasticsearch, index)
        goes_on.set()
        await migrating
    assert await behind_alias(elasticsearch, settings) != index


async def test_a_block_that_came_late_is_lifted_though_nothing_is_written_down_of_it(
    ops: httpx.AsyncClient, elasticsearch: AsyncElasticsearch, settings: Settings, tmp_path: Path
) -> None:
    assert (await ops.post(OPS_PATH, json=a_recording())).status_code == 201
    await kill_while_blocked(elasticsearch, settings, tmp_path)
    index = await behind_alias(elasticsearch, settings)
    await migration.lift_abandoned_blocks(elasticsearch, settings)
    await elasticsearch.indices.add_block(index=index, block="write")
    await migration.lift_abandoned_blocks(elasticsearch, settings)
    assert not await is_blocked(elasticsearch, index)


async def test_a_holder_that_lives_and_is_not_heard_of_loses_the_lease(
    elasticsearch: AsyncElasticsearch, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "_BEAT_SECONDS", 1000.0)
    monkeypatch.setattr(lease, "_DEAD_AFTER", 1.0)
    async with (
        lease.hold(elasticsearch, settings, "recordings") as silent,
        lease.hold(elasticsearch, settings, "recordings") as another,
    ):
        await another.save()
        for _ in range(2):
            with pytest.raises(MigrationError, match="another run has taken over"):
                await silent.save()
        await another.save()
