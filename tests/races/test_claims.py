"""Deletions of media objects against POSTs and holds that refer to them (docs/contract.md section 7)."""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry

from app.audit import AuditLog
from app.lifecycle import deletion
from app.media.identity import claim_keys
from app.media.storages import MediaStorages
from app.services import open_services
from app.settings import StorageConfig, WebDavConfig
from app.store.claims import Claim, MediaClaims
from tests.support.faults import Connection, CountingStorage, Request
from tests.support.recordings import OPS_PATH, a_media_file, a_recording
from tests.support.service import PATIENT, Service, StartService, assert_error
from tests.support.sizes import CLAIM_ROUNDS
from tests.support.waiting import eventually

APPLY = {"operationName": "applyNonDelete"}
ALL = {"subresources": "*"}


class SlowStorage(CountingStorage):
    """Carries out a DELETE after a random time, and never while `gate` is closed. Notes when it did."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()
        self.slowest = 0.0
        self.deleted: dict[str, float] = {}
        self.deleting: set[str] = set()

    async def answer(self, request: Request, connection: Connection) -> None:
        if request.method == "DELETE":
            self.deleting.add(request.target)
            await self.gate.wait()
            await asyncio.sleep(random.uniform(0, self.slowest))
            self.deleted[request.target] = asyncio.get_running_loop().time()
        await super().answer(request, connection)


@pytest.fixture
async def storage() -> AsyncIterator[SlowStorage]:
    async with SlowStorage() as server:
        yield server
        server.gate.set()


def configured(storage: SlowStorage) -> StorageConfig:
    return StorageConfig(webdav=(WebDavConfig(storage.url),))


@pytest.fixture
async def services(start_service: StartService, storage: SlowStorage) -> list[Service]:
    """Two servers over one Elasticsearch and one storage."""
    return [await start_service(storage=configured(storage), **PATIENT) for _ in range(2)]


async def post(ops: httpx.AsyncClient, recording_id: str, *urls: str) -> httpx.Response:
    media = [a_media_file(mediaDescriptor={"storage": "webDAV", "path": url}, callUUID=recording_id) for url in urls]
    return await ops.post(OPS_PATH, json=a_recording(recording_id, mediaFiles=media))


async def apply(service: Service, recording_id: str) -> httpx.Response:
    return await service.client("admin").post(f"/api/v2/recordings/{recording_id}", json=APPLY)


async def test_a_hold_during_a_long_deletion_keeps_its_media(services: list[Service], storage: SlowStorage) -> None:
    urls = [storage.put(f"{i}.wav", 10) for i in range(60)]
    ops = services[0].client("ops")
    assert (await post(ops, "long", *urls)).status_code == 201
    storage.gate.clear()
    deletion = asyncio.create_task(ops.delete(f"{OPS_PATH}/long", params=ALL))
    await eventually(lambda: len(storage.deleting) > 0)
    held = urls[-1]
    assert (await post(services[1].client("ops"), "held", held)).status_code == 201
    assert (await apply(services[1], "held")).status_code == 200
    storage.gate.set()
    assert (await deletion).json() == {"statusCode": 0}
    assert [storage.exists(f"{i}.wav") for i in range(60)] == [False] * 59 + [True]


async def test_a_sweep_keeps_what_is_held_while_it_runs(services: list[Service], storage: SlowStorage) -> None:
    urls = [storage.put(f"{i}.wav", 10) for i in range(60)]
    ops = services[0].client("ops")
    assert (await post(ops, "long", *urls)).status_code == 201
    settings = services[0].settings
    async with open_services(settings, AuditLog(None), CollectorRegistry()) as own:
        with pytest.MonkeyPatch.context() as patch:

            async def fail(*_: object) -> None:
                raise TimeoutError

            patch.setattr(MediaStorages, "delete", fail)
            assert (await ops.delete(f"{OPS_PATH}/long", params=ALL)).json()["statusCode"] == 7
        storage.gate.clear()
        sweep = asyncio.create_task(own.deletion.sweep(only_due=False))
        await eventually(lambda: len(storage.deleting) > 0)
        held = next(i for i, url in enumerate(urls) if url.removeprefix(storage.origin) not in storage.deleting)
        assert (await post(services[1].client("ops"), "held", urls[held])).status_code == 201
        storage.gate.set()
        swept = await sweep
    assert (swept.deleted, swept.needed, swept.failed) == (59, 1, 0)
    assert storage.exists(f"{held}.wav")


async def test_what_refers_to_an_object_that_is_being_deleted_is_told_to_come_again(
    services: list[Service], storage: SlowStorage
) -> None:
    url = storage.put("shared.wav", 10)
    ops, other = services[0].client("ops"), services[1].client("ops")
    assert (await post(ops, "deleted", url)).status_code == 201
    storage.gate.clear()
    deletion = asyncio.create_task(ops.delete(f"{OPS_PATH}/deleted", params=ALL))
    await eventually(lambda: len(storage.deleting) > 0)
    # Folded, the spelling is the same.
    response = await post(other, "held", url.replace("shared", "s%68ared"))
    assert_error(response, 503, 4, "A media object of the recording is being deleted at the moment")
    assert response.headers["retry-after"] == "2"
    response = await apply(services[1], "held")
    assert_error(response, 503, 4, "A media object of the recording is being deleted at the moment")
    # Of many lines only the one that refers to it.
    media = [a_media_file(mediaDescriptor={"storage": "webDAV", "path": path}) for path in (url, f"{url}-other")]
    lines = [json.dumps(a_recording(f"line{i}", mediaFiles=[media[i % 2]])) for i in range(4)]
    headers = {"Content-Type": "application/x-ndjson"}
    answer = (await other.post(OPS_PATH, content="\n".join(lines), headers=headers)).json()
    assert answer["created"] == 2
    assert [(one["line"], one["statusCode"]) for one in answer["failed"]] == [(1, 4), (3, 4)]
    storage.gate.set()
    assert (await deletion).json() == {"statusCode": 0}
    assert (await post(other, "held", url)).status_code == 200
    assert (await apply(services[1], "held")).status_code == 200


async def test_a_storage_that_refuses_a_deletion_leaves_no_claim(services: list[Service], storage: SlowStorage) -> None:
    url = f"{storage.url}/refused.wav"
    storage.put("refused.wav", 10)
    ops = services[0].client("ops")
    assert (await post(ops, "first", url)).status_code == 201
    answer = SlowStorage.answer

    async def refuse(self: SlowStorage, request: Request, connection: Connection) -> None:
        if request.method == "DELETE":
            await connection.respond(423)
        else:
            await answer(self, request, connection)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SlowStorage, "answer", refuse)
        assert (await ops.delete(f"{OPS_PATH}/first", params=ALL)).json()["statusCode"] == 7
    assert (await post(ops, "second", url)).status_code == 201
    assert storage.exists("refused.wav")


async def test_an_object_whose_deletion_was_not_answered_has_its_audit_line_though_it_is_needed_by_then(
    start_service: StartService, storage: SlowStorage, tmp_path: Path
) -> None:
    audit = tmp_path / "audit.jsonl"
    service = await start_service(storage=configured(storage), audit_log=str(audit), **PATIENT)
    url = storage.put("lost.wav", 10)
    ops = service.client("ops")
    assert (await post(ops, "deleted", url)).status_code == 201
    answer = SlowStorage.answer

    async def delete_without_an_answer(self: SlowStorage, request: Request, connection: Connection) -> None:
        if request.method == "DELETE":
            del self.sizes[request.target]
            connection.reset()
        else:
            await answer(self, request, connection)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SlowStorage, "answer", delete_without_an_answer)
        assert (await ops.delete(f"{OPS_PATH}/deleted", params=ALL)).json()["statusCode"] == 7
    assert_error(await post(ops, "needs it", url), 503, 4)
    assert "delete-media" not in audit.read_text()
    swept = await service.services.deletion.sweep(only_due=False)
    assert (swept.deleted, swept.needed, swept.failed) == (0, 1, 0)
    lines = [json.loads(line) for line in audit.read_text().splitlines()]
    assert [(line["user"], line["recordingId"]) for line in lines if line["operation"] == "delete-media"] == [
        ("sweep", "deleted")
    ]


async def test_an_unmounted_share_does_not_prove_that_a_deletion_without_an_answer_took_effect(
    start_service: StartService, storage: SlowStorage, tmp_path: Path
) -> None:
    audit = tmp_path / "audit.jsonl"
    presence = storage.put("mounted", 1)
    storage_config = StorageConfig(webdav=(WebDavConfig(storage.url, presence_url=presence),))
    service = await start_service(storage=storage_config, audit_log=str(audit), **PATIENT)
    url = storage.put("kept.wav", 10)
    ops, sweep = service.client("ops"), service.services.deletion.sweep
    assert (await post(ops, "deleted", url)).status_code == 201
    answer = SlowStorage.answer

    async def reset_deletes(self: SlowStorage, request: Request, connection: Connection) -> None:
        if request.method == "DELETE":
            connection.reset()
        else:
            await answer(self, request, connection)

    async def unmounted(_: SlowStorage, __: Request, connection: Connection) -> None:
        await connection.respond(404)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SlowStorage, "answer", reset_deletes)
        assert (await ops.delete(f"{OPS_PATH}/deleted", params=ALL)).json()["statusCode"] == 7
        assert_error(await post(ops, "needs it", url), 503, 4)
        patch.setattr(SlowStorage, "answer", unmounted)
        swept = await sweep(only_due=False)
        assert (swept.deleted, swept.needed, swept.failed) == (0, 0, 1)
    swept = await sweep(only_due=False)
    assert (swept.deleted, swept.needed, swept.failed) == (0, 1, 0)
    assert storage.exists("kept.wav")
    assert "delete-media" not in audit.read_text()


async def test_random_interleavings_lose_nothing(services: list[Service], storage: SlowStorage) -> None:
    storage.slowest = 0.03
    outcomes: set[tuple[int, bool]] = set()
    longest_deletion = 0.2  # in seconds; on a busy machine it is longer
    ops, admin = [service.client("ops") for service in services], services[1].client("admin")
    loop = asyncio.get_running_loop()
    numbers = iter(range(10 * CLAIM_ROUNDS))
    both = {(201, True), (201, False)}

    async def round_of(number: int) -> None:
        rng = random.Random(number)
        name = f"{number}.wav"
        url = storage.put(name, 10)
        assert (await post(ops[0], f"gone-{number}", url)).status_code == 201

        async def delete() -> None:
            nonlocal longest_deletion
            await asyncio.sleep(rng.uniform(0, 0.05))
            begun = loop.time()
            assert (await ops[0].delete(f"{OPS_PATH}/gone-{number}", params=ALL)).json() == {"statusCode": 0}
            longest_deletion = max(longest_deletion, loop.time() - begun)

        async def hold() -> tuple[int, float]:
            await asyncio.sleep(rng.uniform(0, 2 * longest_deletion))
            posted = await post(ops[1], f"held-{number}", url)
            acknowledged = loop.time()
            assert posted.status_code in {201, 503}, posted.text
            if posted.status_code == 201:
                applied = await admin.post(f"/api/v2/recordings/held-{number}", json=APPLY)
                assert applied.status_code == 200, applied.text
            return posted.status_code, acknowledged

        _, (status, acknowledged) = await asyncio.gather(delete(), hold())
        deleted = storage.deleted.get(f"/recordings/{name}")
        if status == 201 and deleted is not None:
            assert deleted < acknowledged, f"round {number}: the object was deleted after the answer"
        assert storage.exists(name) == (deleted is None)
        outcomes.add((status, deleted is None))

    async def work() -> None:
        for number in numbers:
            if number >= CLAIM_ROUNDS and both <= outcomes:
                break
            await round_of(number)

    async with asyncio.TaskGroup() as workers:
        for _ in range(6):
            workers.create_task(work())
    assert both <= outcomes  # or this was no race


async def test_a_claim_of_a_dead_process_expires(services: list[Service], storage: SlowStorage) -> None:
    url = storage.put("claimed.wav", 10)
    ops = services[0].client("ops")
    keys = claim_keys({"storage": "webDAV", "path": url}, configured(storage))
    async with open_services(services[0].settings, AuditLog(None), CollectorRegistry()) as own:
        claims = MediaClaims(own.client, own.settings)
        # Before its call it is cancelled, and then cannot begin any more.
        claim = await claims.acquire(keys)
        assert (await post(ops, "held", url)).status_code == 201
        assert not await claims.begin(claim)
        # During its call it stays until it has been seen for long enough.
        claim = await claims.acquire(keys)
        assert await claims.begin(claim)
        await own.client.indices.refresh(index=f"{own.settings.index_prefix}-media-claims")
        assert await claims.expire() == 0
        assert_error(await post(ops, "held", url), 503, 4)
        assert await claims.expire(after_seconds=0) == 1
        assert (await post(ops, "held", url)).status_code == 200
        # A DELETE without an answer may still take effect.
        claim = await claims.acquire(keys)
        assert await claims.begin(claim)
        await claims.release(claim, unanswered=True)
        assert_error(await post(ops, "held", url), 503, 4)


async def test_a_process_that_was_paused_calls_no_storage(
    services: list[Service], storage: SlowStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = storage.put("paused.wav", 10)
    ops = services[0].client("ops")
    assert (await post(ops, "r", url)).status_code == 201
    begin = MediaClaims.begin

    async def paused(self: MediaClaims, claim: Claim) -> bool:
        begun = await begin(self, claim)
        monkeypatch.setattr(deletion, "_clocks", lambda: (time.monotonic() + 61, time.time()))
        return begun

    monkeypatch.setattr(MediaClaims, "begin", paused)
    assert (await ops.delete(f"{OPS_PATH}/r", params=ALL)).json()["statusCode"] == 7
    assert storage.exists("paused.wav")
    assert not storage.requests
