"""Operations on many recordings against single operations, and against `kill -9` (docs/contract.md section 10)."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from elasticsearch import AsyncElasticsearch

from app.settings import Settings
from app.store.documents import document_id
from app.store.indices import alias
from tests.support.audit import lines_but_posts
from tests.support.processes import AppProcess
from tests.support.recordings import (
    CONTACT_CENTER,
    OPS_PATH,
    REGION,
    a_media_file,
    a_recording,
    batched,
    store_many,
)
from tests.support.rounds import a_little_later
from tests.support.service import PATIENT, Service, own_settings
from tests.support.sizes import OPERATED_RECORDINGS, OPERATION_KILLS, OPERATION_RACES
from tests.support.waiting import eventually

PATH = "/api/v2/recording-operations"
OPS_OPERATIONS = OPS_PATH.replace("/recordings", "/recording-operations")
SCREENS_PATH = OPS_PATH.replace("/recordings", "/screen-recordings")
RECORDINGS = "/api/v2/recordings"
APPLY, UNAPPLY = {"operationName": "applyNonDelete"}, {"operationName": "unapplyNonDelete"}


# --- Against single operations, with two processes ---

Single = Callable[[str], Awaitable[int]]


@dataclass
class Pair:
    """Two services over one Elasticsearch: operations on many go to the first, single ones to the second."""

    first: Service
    second: Service

    def __post_init__(self) -> None:
        self.many, self.ops = self.first.client("ops"), self.second.client("ops")
        self.admin = self.second.client("admin")

    async def post(self, recording_id: str, **attributes: Any) -> int:
        body = a_recording(recording_id, mediaFiles=[a_media_file(recording_id, callUUID=recording_id)], **attributes)
        return (await self.ops.post(OPS_PATH, json=body)).status_code

    async def prepare(self, recording_id: str, *, protect: bool) -> None:
        """A recording with a screen recording of its call."""
        await self.post(recording_id)
        screen = a_recording(recording_id, mediaFiles=[a_media_file(f"s-{recording_id}", callUUID=recording_id)])
        assert (await self.ops.post(SCREENS_PATH, json=screen)).status_code == 201
        if protect:
            assert await self.change(recording_id, APPLY) == 200

    async def change(self, recording_id: str, body: dict[str, str]) -> int:
        return (await self.admin.post(f"{RECORDINGS}/{recording_id}", json=body)).status_code

    async def delete(self, recording_id: str) -> int:
        return (await self.ops.delete(f"{OPS_PATH}/{recording_id}")).status_code

    async def operate(self, recording_id: str, body: dict[str, Any], *, as_job: bool) -> int:
        """By an id, or by criteria as a job; the code for the recording, 0 for success, -1 if it did not match."""
        if not as_job:
            answer = (await self.many.post(OPS_OPERATIONS, json={**body, "recordings": [recording_id]})).json()
            return int(answer["failed"][0]["statusCode"]) if "failed" in answer else 0
        answer = (await self.many.post(OPS_OPERATIONS, json={**body, "criteria": {"callUUID": recording_id}})).json()
        operation: dict[str, Any] = {}

        async def is_over() -> bool:
            nonlocal operation
            operation = (await self.many.get(f"{OPS_OPERATIONS}/{answer['id']}")).json()["operation"]
            return bool(operation["state"] != "running")

        await eventually(is_over)
        assert operation["state"] == "done"
        if not operation["matched"]:
            return -1
        return int(operation["failures"][0]["statusCode"]) if operation["failed"] else 0

    async def state(self, recording_id: str) -> tuple[bool, bool] | None:
        """Whether the recording and its screen recording are protected, None if the recording is gone."""
        states = []
        for path in (OPS_PATH, SCREENS_PATH):
            answer = await self.ops.get(f"{path}/{recording_id}")
            if answer.status_code == 404:
                return None
            (one,) = (value for key, value in answer.json().items() if key != "statusCode")
            states.append(one.get("nonDelete", False))
        return states[0], states[1]


@pytest.fixture(scope="module")
async def pair(elasticsearch_url: str) -> AsyncIterator[Pair]:
    async with own_settings(elasticsearch_url) as settings:
        services = [Service(msgspec.structs.replace(settings, **PATIENT)) for _ in range(2)]
        for service in services:
            await service.start()
        yield Pair(*services)
        for service in services:
            await service.stop()


async def race(
    pair: Pair,
    name: str,
    operation: dict[str, Any],
    single: Single,
    check: Callable[[int, int, tuple[bool, bool] | None], bool],
    *,
    protect: bool = False,
) -> None:
    """`check` gets the operation's code for the recording, the single one's status, and the state afterwards."""
    seen: Counter[tuple[int, int, object]] = Counter()

    async def run(number: int) -> None:
        recording_id, rng = f"{name}-{number}", random.Random(number)
        await pair.prepare(recording_id, protect=protect)
        code, status = await asyncio.gather(
            a_little_later(rng, pair.operate(recording_id, operation, as_job=bool(number % 2))),
            a_little_later(rng, single(recording_id)),
        )
        state = await pair.state(recording_id)
        seen[code, status, state] += 1
        assert check(code, status, state), (recording_id, code, status, state)

    for numbers in batched(range(OPERATION_RACES), 5):
        await asyncio.gather(*map(run, numbers))


async def test_an_operation_that_protects_against_a_single_unapply(pair: Pair) -> None:
    def check(code: int, status: int, state: object) -> bool:
        return code == 0 and status == 200 and state in {(True, True), (False, False)}

    await race(pair, "unapply", APPLY, lambda each: pair.change(each, UNAPPLY), check)


async def test_an_operation_that_unprotects_against_a_single_apply(pair: Pair) -> None:
    def check(code: int, status: int, state: object) -> bool:
        return code == 0 and status == 200 and state in {(True, True), (False, False)}

    await race(pair, "apply", UNAPPLY, lambda each: pair.change(each, APPLY), check, protect=True)


async def test_an_operation_that_protects_against_an_update(pair: Pair) -> None:
    async def update(recording_id: str) -> int:
        return await pair.post(recording_id, note="updated")

    def check(code: int, status: int, state: object) -> bool:
        return code == 0 and status == 200 and state == (True, True)

    await race(pair, "update", APPLY, update, check)
    for number in range(OPERATION_RACES):
        recording = (await pair.ops.get(f"{OPS_PATH}/update-{number}")).json()["recording"]
        assert recording["note"] == "updated"


async def test_an_operation_that_protects_against_a_deletion(pair: Pair) -> None:
    def check(code: int, status: int, state: object) -> bool:
        if status == 200:
            return code in {-1, 6} and state is None
        return (code, status, state) == (0, 403, (True, True))

    await race(pair, "deletion", APPLY, pair.delete, check)


async def test_an_operation_that_deletes_against_a_single_apply(pair: Pair) -> None:
    def check(code: int, status: int, state: object) -> bool:
        if status == 200:
            return code == 3 and state == (True, True)
        return (code, status, state) == (0, 404, None)

    await race(pair, "delete", {"operationName": "delete"}, lambda each: pair.change(each, APPLY), check)


async def test_an_operation_that_deletes_against_an_update(pair: Pair) -> None:
    async def update(recording_id: str) -> int:
        return await pair.post(recording_id, note="updated")

    def check(code: int, status: int, state: tuple[bool, bool] | None) -> bool:
        # An update that comes later creates it again.
        return code == 0 and (status, state) in {(200, None), (201, (False, False))}

    await race(pair, "posted", {"operationName": "delete"}, update, check)


# --- Against `kill -9`, with three processes ---


async def test_processes_that_are_killed_lose_and_repeat_nothing(
    settings: Settings, elasticsearch: AsyncElasticsearch, tmp_path: Path
) -> None:
    """Each recording is protected by exactly one write, and has its line of the audit log."""
    ids = [f"r{number}" for number in range(OPERATED_RECORDINGS)]
    audit_log = tmp_path / "audit.jsonl"
    settings = msgspec.structs.replace(settings, **PATIENT, lease_seconds=2.0, audit_log=str(audit_log))
    processes = [AppProcess(settings, tmp_path) for _ in range(3)]
    await asyncio.gather(*(process.start() for process in processes))
    rng = random.Random(7)
    down = set[AppProcess]()

    async def restart(process: AppProcess) -> None:
        await process.start()
        down.remove(process)

    def running() -> dict[int, AppProcess]:
        return {process.pid: process for process in processes if process not in down}

    restarts = []
    try:
        await store_many(elasticsearch, settings, map(a_recording, ids))
        async with processes[0].client("admin") as admin:
            body = {**APPLY, "criteria": {"callerPhoneNumber": "*"}}
            operation_id = (await admin.post(PATH, json=body)).json()["id"]
        for kill in range(OPERATION_KILLS):
            least = len(ids) * (kill + rng.random() * 0.9) / (OPERATION_KILLS + 1)
            killed = await _holder_after(elasticsearch, settings, operation_id, least, running)
            await asyncio.sleep(rng.uniform(0, 0.05))
            down.add(killed)
            await killed.kill()
            restarts.append(asyncio.create_task(restart(killed)))
        await asyncio.gather(*restarts)
        async with processes[1].client("admin") as admin:
            await eventually(lambda: _is_done(admin, operation_id), seconds=60 + len(ids) / 5)
            over = (await admin.get(f"{PATH}/{operation_id}")).json()["operation"]
    finally:
        await asyncio.gather(*(process.stop() for process in processes))
    assert (over["state"], over["matched"], over["succeeded"]) == ("done", len(ids), len(ids))
    assert over["failures"] == []
    index = alias(settings, "recordings")
    for some in batched((document_id(CONTACT_CENTER, REGION, each) for each in ids), 1_000):
        for document in (await elasticsearch.mget(index=index, ids=some))["docs"]:
            assert document["_version"] == 2
            assert '"nonDelete":true' in document["_source"]["recording"]
    lines = [line for line in lines_but_posts(audit_log) if line["operation"] == "apply"]
    assert {line["operationId"] for line in lines} == {operation_id}
    assert {line["outcome"] for line in lines} == {"success"}
    told = Counter(line["recordingId"] for line in lines)
    assert told.keys() == set(ids)
    # Only what a killed process had begun and could not say to be done.
    assert len(lines) - len(ids) <= 20 * OPERATION_KILLS


async def _holder_after(
    elasticsearch: AsyncElasticsearch,
    settings: Settings,
    operation_id: str,
    least: float,
    running: Callable[[], dict[int, AppProcess]],
) -> AppProcess:
    """The running process that holds the operation's lease when so many recordings are done."""
    found: AppProcess | None = None

    async def is_there() -> bool:
        nonlocal found
        document = (await elasticsearch.get(index=alias(settings, "operations"), id=operation_id))["_source"]
        assert document["state"] == "running", "it was over before all kills"
        holder = document["holder"]
        found = running().get(holder["pid"]) if holder and document["succeeded"] >= least else None
        return found is not None

    await eventually(is_there, seconds=60 + OPERATED_RECORDINGS / 5)
    assert found is not None
    return found


async def _is_done(client: httpx.AsyncClient, operation_id: str) -> bool:
    return bool((await client.get(f"{PATH}/{operation_id}")).json()["operation"]["state"] != "running")
