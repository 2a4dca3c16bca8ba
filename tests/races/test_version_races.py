"""Former versions under concurrent updates, kills and migrations (docs/contract.md section 4)."""

import asyncio
import random
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from elasticsearch import AsyncElasticsearch
from prometheus_client import CollectorRegistry

from app.audit import AuditLog
from app.services import open_services
from app.settings import Settings
from tests.migration.support import run as run_script
from tests.support.processes import AppProcess, kill_now_and_then
from tests.support.recordings import OPS_PATH, a_recording
from tests.support.service import PATIENT
from tests.support.sizes import size

APPLY, UNAPPLY = {"operationName": "applyNonDelete"}, {"operationName": "unapplyNonDelete"}
UPDATES = size(30, full=600)
KILLED_UPDATES = size(40, full=600)


async def post(client: httpx.AsyncClient, recording_id: str, note: str) -> None:
    response = await client.post(OPS_PATH, json=a_recording(recording_id, note=note))
    assert response.status_code in {200, 201}, response.text


async def change(client: httpx.AsyncClient, recording_id: str, operation: dict[str, str]) -> None:
    response = await client.post(f"/api/v2/recordings/{recording_id}", json=operation)
    assert response.status_code == 200, response.text


async def notes(client: httpx.AsyncClient, recording_id: str) -> list[str]:
    """What a recording has said, oldest first; the last is what it says now."""
    answer = (await client.get(f"{OPS_PATH}/{recording_id}/versions")).json()
    now = (await client.get(f"{OPS_PATH}/{recording_id}")).json()["recording"]
    return [*(version["recording"]["note"] for version in answer["versions"]), now["note"]]


async def stored_versions(elasticsearch: AsyncElasticsearch, settings: Settings) -> list[dict[str, Any]]:
    index = f"{settings.index_prefix}-recording-versions"
    await elasticsearch.indices.refresh(index=index)
    answer = await elasticsearch.search(index=index, size=10_000)
    return [hit["_source"] for hit in answer["hits"]["hits"]]


async def test_concurrent_updates_keep_each_version_once(
    settings: Settings, elasticsearch: AsyncElasticsearch, tmp_path: Path
) -> None:
    processes = [AppProcess(msgspec.structs.replace(settings, **PATIENT), tmp_path) for _ in range(3)]
    for process in processes:
        await process.start()
    clients = [process.client("ops") for process in processes]
    try:
        async with processes[0].client("admin") as admin:
            await post(clients[0], "r", "first")
            await change(admin, "r", APPLY)
            posted = [f"{n}" for n in range(UPDATES)]
            waiting = iter(posted)

            async def work(client: httpx.AsyncClient) -> None:
                for note in waiting:
                    await post(client, "r", note)
                    if random.random() < 0.2:
                        await change(admin, "r", APPLY)

            await asyncio.gather(*(work(client) for client in clients * 3))
            said = await notes(clients[0], "r")
            assert said[0] == "first"
            assert sorted(said[1:]) == sorted(posted)
            # None is left of an update that met a conflict.
            assert len(await stored_versions(elasticsearch, settings)) == UPDATES
    finally:
        for client in clients:
            await client.aclose()
        for process in processes:
            await process.stop()


async def test_killed_updates_lose_no_version(settings: Settings, tmp_path: Path) -> None:
    app = AppProcess(msgspec.structs.replace(settings, **PATIENT), tmp_path)
    await app.start()
    async with app.client("ops") as ops, app.client("admin") as admin:
        for recording_id in "ab":
            await post(ops, recording_id, "first")
            await change(admin, recording_id, APPLY)
    works = [f"{'ab'[n % 2]}.{n}" for n in range(KILLED_UPDATES)]

    async def update(client: httpx.AsyncClient, work: str) -> None:
        await post(client, work.partition(".")[0], work)

    answered, kills = await kill_now_and_then(app, "ops", works, update, random.Random(7))
    assert kills > 1
    await app.start()
    try:
        async with app.client("ops") as ops:
            for recording_id in "ab":
                said = await notes(ops, recording_id)
                assert said[0] == "first"
                assert len(said) == len(set(said))
                mine = {work for work in works if work.startswith(recording_id)}
                assert answered & mine <= set(said[1:]) <= mine
    finally:
        await app.stop()


async def test_versions_go_with_a_recording_whose_updates_were_killed(
    settings: Settings, elasticsearch: AsyncElasticsearch, tmp_path: Path
) -> None:
    app = AppProcess(msgspec.structs.replace(settings, **PATIENT), tmp_path)
    await app.start()
    async with app.client("ops") as ops, app.client("admin") as admin:
        await post(ops, "r", "first")
        await change(admin, "r", APPLY)

    async def update(client: httpx.AsyncClient, work: str) -> None:
        await post(client, "r", work)

    await kill_now_and_then(app, "ops", [f"{n}" for n in range(20)], update, random.Random(3))
    await app.start()
    try:
        async with app.client("ops") as ops, app.client("admin") as admin:
            assert (await ops.delete(f"{OPS_PATH}/r")).status_code == 403
            await change(admin, "r", UNAPPLY)
            assert (await ops.delete(f"{OPS_PATH}/r")).json() == {"statusCode": 0}
            await post(ops, "r", "another recording")
            assert await notes(ops, "r") == ["another recording"]
    finally:
        await app.stop()
    async with open_services(settings, AuditLog(None), CollectorRegistry()) as services:
        await services.deletion.sweep(only_due=False)
    assert await stored_versions(elasticsearch, settings) == []


@pytest.mark.parametrize("resource", ["recordings", "recording-versions"])
async def test_versions_survive_reindex_rollback_and_an_index_of_the_same_name(
    settings: Settings, tmp_path: Path, resource: str
) -> None:
    app = AppProcess(msgspec.structs.replace(settings, **PATIENT), tmp_path)
    await app.start()
    expected = ["0"]
    try:
        async with app.client("ops") as ops, app.client("admin") as admin:

            async def say() -> None:
                expected.append(f"{len(expected)}")
                await post(ops, "r", expected[-1])
                assert await notes(ops, "r") == expected

            await post(ops, "r", "0")
            await change(admin, "r", APPLY)
            await say()
            for arguments in ((), ("--rollback",), ("--drop-old",), (), ("--rollback",)):
                status, out, err = await run_script(
                    settings, "reindex.py", "--resource", resource, *arguments, cwd=tmp_path
                )
                assert status in {0, 1}, err
                assert "Traceback" not in err, err
                assert await notes(ops, "r") == expected, (arguments, out, err)
                await say()
                await say()
    finally:
        await app.stop()
