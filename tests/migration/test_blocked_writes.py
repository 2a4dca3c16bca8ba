"""Writes that a migration has blocked: until it swaps, after it was killed, and while it is paused."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from elasticsearch import AsyncElasticsearch

from app.lifecycle import maintenance
from app.migration import cutover
from app.migration.plan import MigrationError, migration_state
from app.migration.sources import V2Recordings
from app.settings import Settings
from app.store import lease
from tests.migration.support import behind_alias, callers, migration, run, start
from tests.support.recordings import OPS_PATH, a_recording
from tests.support.service import StartService
from tests.support.waiting import eventually

pytestmark = pytest.mark.no_indices

# A migration that has blocked writes and does not swap before the event is set.
AboutToSwap = Callable[[], contextlib.AbstractAsyncContextManager[tuple[asyncio.Event, "asyncio.Task[None]"]]]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """The lease of a killed migration expires soon."""
    return msgspec.structs.replace(settings, lease_seconds=3.0)


@pytest.fixture(autouse=True)
def rare_maintenance(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service does not recover from killed migrations before a test asks for it."""
    monkeypatch.setattr(maintenance, "_INTERVAL_SECONDS", 1000.0)


@pytest.fixture
def no_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """A migration that waits in a test sends no heartbeats, like a paused process."""
    monkeypatch.setattr(lease, "_HEARTBEATS_PER_LEASE", 0.001)


async def is_blocked(elasticsearch: AsyncElasticsearch, index: str) -> bool:
    found = (await elasticsearch.indices.get_settings(index=index, name="index.blocks.write")).body
    return bool(found)


async def kill_while_blocked(elasticsearch: AsyncElasticsearch, settings: Settings, cwd: Path) -> None:
    """Kills migrations until one was killed between block and swap."""
    while True:
        index = await behind_alias(elasticsearch, settings)
        process = await start(settings, "reindex.py", cwd=cwd)
        while process.returncode is None and not await is_blocked(elasticsearch, index):
            pass
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()
        state = await migration_state(elasticsearch, settings, "recordings")
        if state.plan and state.plan.blocked and await is_blocked(elasticsearch, index):
            return


async def test_service_recovers_from_migration_killed_while_writes_are_blocked(
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
    monkeypatch.setattr(maintenance, "_INTERVAL_SECONDS", 0.1)
    another = (await start_service()).client("ops")

    async def is_taken() -> bool:
        return (await another.post(OPS_PATH, json=a_recording("after"))).is_success

    await eventually(is_taken)
    assert not await is_blocked(elasticsearch, await behind_alias(elasticsearch, settings))
    # The next run continues from there.
    status, out, err = await run(settings, "reindex.py", cwd=tmp_path)
    assert status == 0, out + err
    for recording_id in ("before", "after"):
        assert (await ops.get(f"{OPS_PATH}/{recording_id}")).status_code == 200


@pytest.fixture
def about_to_swap(
    elasticsearch: AsyncElasticsearch, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> AboutToSwap:
    return lambda: _about_to_swap(elasticsearch, settings, monkeypatch)


@contextlib.asynccontextmanager
async def _about_to_swap(
    elasticsearch: AsyncElasticsearch, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[asyncio.Event, "asyncio.Task[None]"]]:
    waits, goes_on = asyncio.Event(), asyncio.Event()
    swap = cutover.swap

    async def late(*arguments: Any) -> None:
        waits.set()
        await goes_on.wait()
        await swap(*arguments)

    async def migrate() -> None:
        async with cutover.acquire_and_recover(elasticsearch, settings, "recordings") as held:
            index = await behind_alias(elasticsearch, settings)
            await migration(elasticsearch, settings, [V2Recordings(index)]).run(held, index)

    with monkeypatch.context() as patch:
        patch.setattr(cutover, "swap", late)
        task = asyncio.create_task(migrate())
        try:
            waiting = asyncio.create_task(waits.wait())
            await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
            assert waiting.done(), task
            yield goes_on, task
        finally:
            waiting.cancel()
            task.cancel()
            await asyncio.wait([task])


@pytest.mark.usefixtures("no_heartbeats")
async def test_paused_migration_does_not_swap_after_takeover(
    ops: httpx.AsyncClient,
    elasticsearch: AsyncElasticsearch,
    settings: Settings,
    about_to_swap: AboutToSwap,
) -> None:
    assert (await ops.post(OPS_PATH, json=a_recording("before"))).status_code == 201
    index = await behind_alias(elasticsearch, settings)
    async with about_to_swap() as (goes_on, paused):
        assert await is_blocked(elasticsearch, index)
        await cutover.recover_abandoned_migrations(elasticsearch, settings)
        assert (await ops.post(OPS_PATH, json=a_recording("after"))).status_code == 201
        goes_on.set()
        with pytest.raises(MigrationError):
            await paused
    assert await behind_alias(elasticsearch, settings) == index
    assert (await ops.post(OPS_PATH, json=a_recording("at last"))).status_code == 201
    assert (await ops.get(f"{OPS_PATH}/after")).status_code == 200


@pytest.mark.usefixtures("no_heartbeats")
async def test_paused_migration_does_not_remove_block_of_new_holder(
    ops: httpx.AsyncClient,
    elasticsearch: AsyncElasticsearch,
    settings: Settings,
    about_to_swap: AboutToSwap,
) -> None:
    assert (await ops.post(OPS_PATH, json=a_recording())).status_code == 201
    index = await behind_alias(elasticsearch, settings)
    async with (
        about_to_swap() as (goes_on, paused),
        cutover.acquire_and_recover(elasticsearch, settings, "recordings"),
    ):
        await elasticsearch.indices.add_block(index=index, block="write")  # as the new holder would
        goes_on.set()
        with pytest.raises(MigrationError):
            await paused
        assert await is_blocked(elasticsearch, index)


async def test_posts_wait_for_the_swap_while_writes_are_blocked(
    ops: httpx.AsyncClient,
    elasticsearch: AsyncElasticsearch,
    settings: Settings,
    about_to_swap: AboutToSwap,
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


async def test_recovery_leaves_running_migration_alone(
    ops: httpx.AsyncClient,
    elasticsearch: AsyncElasticsearch,
    settings: Settings,
    about_to_swap: AboutToSwap,
) -> None:
    assert (await ops.post(OPS_PATH, json=a_recording())).status_code == 201
    index = await behind_alias(elasticsearch, settings)
    async with about_to_swap() as (goes_on, migrating):
        await cutover.recover_abandoned_migrations(elasticsearch, settings)
        assert await is_blocked(elasticsearch, index)
        goes_on.set()
        await migrating
    assert await behind_alias(elasticsearch, settings) != index


async def test_late_block_is_removed_although_plan_is_not_blocked(
    ops: httpx.AsyncClient, elasticsearch: AsyncElasticsearch, settings: Settings, tmp_path: Path
) -> None:
    assert (await ops.post(OPS_PATH, json=a_recording())).status_code == 201
    await kill_while_blocked(elasticsearch, settings, tmp_path)
    index = await behind_alias(elasticsearch, settings)
    await cutover.recover_abandoned_migrations(elasticsearch, settings)
    await elasticsearch.indices.add_block(index=index, block="write")
    await cutover.recover_abandoned_migrations(elasticsearch, settings)
    assert not await is_blocked(elasticsearch, index)


async def test_a_swap_that_was_sent_before_ctrl_c_does_not_happen_after_the_block_is_removed(
    start_service: StartService,
    elasticsearch: AsyncElasticsearch,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Elasticsearch has the request in its queue when nobody waits for the answer any more."""
    ops = (await start_service()).client("ops")
    assert (await ops.post(OPS_PATH, json=a_recording("before"))).status_code == 201
    index, swap = await behind_alias(elasticsearch, settings), cutover.swap
    queued: list[Any] = []

    async def interrupted(*arguments: Any) -> None:
        queued.extend(arguments)
        raise asyncio.CancelledError

    with monkeypatch.context() as patch:
        patch.setattr(cutover, "swap", interrupted)
        with pytest.raises(asyncio.CancelledError):
            async with cutover.acquire_and_recover(elasticsearch, settings, "recordings") as held:
                await migration(elasticsearch, settings, [V2Recordings(index)]).run(held, index)
    assert not await is_blocked(elasticsearch, index)
    with pytest.raises(MigrationError):
        await swap(*queued)
    assert await behind_alias(elasticsearch, settings) == index
    assert (await ops.post(OPS_PATH, json=a_recording("after"))).status_code == 201
    status, out, err = await run(settings, "reindex.py", cwd=tmp_path)
    assert status == 0, out + err
    for recording_id in ("before", "after"):
        assert (await ops.get(f"{OPS_PATH}/{recording_id}")).status_code == 200


async def test_the_index_behind_the_alias_is_never_discarded(
    start_service: StartService,
    elasticsearch: AsyncElasticsearch,
    settings: Settings,
    tmp_path: Path,
    about_to_swap: AboutToSwap,
) -> None:
    ops = (await start_service()).client("ops")
    assert (await ops.post(OPS_PATH, json=a_recording("kept"))).status_code == 201
    async with about_to_swap() as (_, task):
        plan = (await migration_state(elasticsearch, settings, "recordings")).plan
        assert plan is not None
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    await cutover.swap(elasticsearch, f"{settings.index_prefix}-recordings", plan.sources[-1], plan.target)
    status, out, err = await run(settings, "reindex.py", "--discard", cwd=tmp_path)
    assert status == 1
    assert "so it is not discarded" in out + err
    assert (await ops.get(f"{OPS_PATH}/kept")).status_code == 200
