"""Deleting recordings and their media from real storages (docs/contract.md section 7)."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from elasticsearch import AsyncElasticsearch
from prometheus_client import CollectorRegistry

from app.audit import AuditLog
from app.auth.scope import Scope
from app.lifecycle.deletion import Actor
from app.services import Services, open_services
from app.settings import Settings, StorageConfig, WebDavConfig
from app.store.documents import document_id
from app.store.repository import RecordingRepository
from tests.support.audit import lines_but_posts
from tests.support.faults import FaultServer
from tests.support.processes import AppProcess, kill_now_and_then
from tests.support.recordings import CONTACT_CENTER, OPS_PATH, OTHER_CONTACT_CENTER, REGION, a_media_file, a_recording
from tests.support.service import PATIENT, Service, StartService, assert_error
from tests.support.sizes import WORKED_ON_BESIDE_KILLS, size
from tests.support.storages import S3, WEBDAV_SERVERS, WebDav, storage_of, webdav_storage

pytestmark = pytest.mark.emptied_indices

Remembered = Callable[[], Awaitable[int]]

ALL = {"subresources": "*"}
OTHER_OPS_PATH = f"/api/v2/ops/contact-centers/{OTHER_CONTACT_CENTER}/recordings"


class Store:
    """A storage with media objects, and the service that may delete them."""

    def __init__(self, service: Service, server: WebDav | S3) -> None:
        self.server = server
        self.service = service
        self.ops = service.client("ops")
        self.admin = service.client("admin")

    def put(self, path: str) -> dict[str, Any]:
        """Puts an object and returns its media descriptor."""
        self.server.put(path, b"media")
        return self.server.descriptor(path)

    async def post(self, recording_id: str, *descriptors: dict[str, Any], path: str = OPS_PATH) -> None:
        media_files = [a_media_file(mediaDescriptor=descriptor) for descriptor in descriptors]
        response = await self.ops.post(path, json=a_recording(recording_id, mediaFiles=media_files))
        assert response.status_code in {200, 201}, response.text

    async def delete(self, recording_id: str, path: str = OPS_PATH, **params: str) -> httpx.Response:
        return await self.ops.delete(f"{path}/{recording_id}", params=params)

    async def exists(self, recording_id: str, path: str = OPS_PATH) -> bool:
        return (await self.ops.get(f"{path}/{recording_id}")).status_code == 200


# gofakes3 is part of rclone, and moto checks nothing.
@pytest.fixture(scope="module", params=[*WEBDAV_SERVERS, "versitygw", "versitygw_tls", "rclone_s3"])
async def each_store(request: pytest.FixtureRequest, module_settings: Settings) -> AsyncIterator[Store]:
    """Each of the storages, with a service for all of its tests."""
    server = request.getfixturevalue(request.param)
    service = Service(msgspec.structs.replace(module_settings, storage=storage_of(server), **PATIENT))
    await service.start()
    yield Store(service, server)
    await service.stop()


@pytest.fixture
def store(each_store: Store, settings: Settings) -> Store:
    """Each of the storages, with indices that are emptied after the test."""
    assert settings.index_prefix == each_store.service.settings.index_prefix
    return each_store


@pytest.fixture
async def webdav_store(apache: WebDav, start_service: StartService) -> Store:
    return Store(await start_service(storage=webdav_storage(apache)), apache)


@pytest.fixture
def remembered(elasticsearch: AsyncElasticsearch, settings: Settings) -> Callable[[], Awaitable[int]]:
    """How many media objects are still to be deleted."""

    async def count() -> int:
        index = f"{settings.index_prefix}-media-deletions"
        await elasticsearch.indices.refresh(index=index)
        return int((await elasticsearch.count(index=index))["count"])

    return count


@pytest.fixture
async def open_store(settings: Settings) -> AsyncIterator[Callable[[StorageConfig], Any]]:
    """What the service and the scripts work with, in this process."""
    opened: list[Any] = []

    async def open_it(storage: StorageConfig) -> Services:
        context = open_services(msgspec.structs.replace(settings, storage=storage), AuditLog(None), CollectorRegistry())
        services = await context.__aenter__()
        opened.append(context)
        return services

    yield open_it
    for context in opened:
        await context.__aexit__(None, None, None)


async def test_without_subresources_only_the_metadata_is_deleted(store: Store) -> None:
    await store.post("r", store.put("only-metadata.wav"))
    for value in ({}, {"subresources": "yes"}):
        await store.post("r", store.put("only-metadata.wav"))
        response = await store.delete("r", **value)
        assert (response.status_code, response.json()) == (200, {"statusCode": 0})
        assert not await store.exists("r")
        assert store.server.exists("only-metadata.wav")


async def test_with_subresources_the_media_are_deleted(store: Store, remembered: Remembered) -> None:
    await store.post("r", store.put("a folder/ü 1.wav"), store.put("a folder/2.wav"))
    response = await store.delete("r", **ALL)
    assert (response.status_code, response.json()) == (200, {"statusCode": 0})
    assert not await store.exists("r")
    assert not store.server.exists("a folder/ü 1.wav")
    assert not store.server.exists("a folder/2.wav")
    assert await remembered() == 0
    assert_error(await store.delete("r", **ALL), 404, 6, "Requested recording [r] cannot be found.")


async def test_each_deleted_object_is_an_audit_line(
    start_service: StartService, apache: WebDav, tmp_path: Path
) -> None:
    file = tmp_path / "audit.jsonl"
    store = Store(await start_service(storage=webdav_storage(apache), audit_log=str(file)), apache)
    await store.post("r", store.put("line/1.wav"), store.put("line/2.wav"), store.put("line/shared.wav"))
    await store.post("other", store.put("line/shared.wav"))
    await store.post("without", store.put("line/3.wav"))
    media = (await store.admin.get("/api/v2/recordings/r")).json()["recording"]["mediaFiles"]
    uuids = [one["mediaUri"].rpartition("/")[2].partition(".")[0] for one in media]
    assert (await store.delete("without")).json() == {"statusCode": 0}
    assert (await store.delete("r", **ALL)).json() == {"statusCode": 0}
    lines = lines_but_posts(file)
    found = [(line["operation"], line["recordingId"], line.get("media"), line.get("withMedia")) for line in lines]
    assert found[0] == ("delete", "without", None, False)
    assert sorted(found[1:3]) == sorted(("delete-media", "r", uuid, None) for uuid in uuids[:2])
    assert found[3:] == [("delete", "r", None, True)]
    assert {(line["user"], line["address"], line["outcome"]) for line in lines} == {("ops", "127.0.0.1", "success")}


async def test_missing_object_counts_as_deleted(store: Store) -> None:
    await store.post("r", store.put("there.wav"), store.put("gone.wav"))
    await store.post("other", store.put("gone.wav"))
    # The object of "other" is the same: it stays as long as that refers to it.
    assert (await store.delete("other", **ALL)).json() == {"statusCode": 0}
    assert store.server.exists("gone.wav")
    missing = store.put("there.wav")
    missing["path"] = missing["path"].replace("there.wav", "never-was.wav")
    await store.post("r", missing)
    assert (await store.delete("r", **ALL)).json() == {"statusCode": 0}
    assert not store.server.exists("gone.wav")


async def test_object_of_another_recording_is_kept(store: Store) -> None:
    shared = store.put("shared.wav")
    await store.post("first", shared)
    await store.post("second", shared, path=OTHER_OPS_PATH)
    assert (await store.delete("first", **ALL)).json() == {"statusCode": 0}
    assert store.server.exists("shared.wav")
    screens = OPS_PATH.replace("/recordings", "/screen-recordings")
    await store.post("third", shared, path=screens)
    assert (await store.delete("second", OTHER_OPS_PATH, **ALL)).json() == {"statusCode": 0}
    assert store.server.exists("shared.wav")
    assert (await store.delete("third", screens, **ALL)).json() == {"statusCode": 0}
    assert not store.server.exists("shared.wav")


async def test_two_spellings_of_a_url_are_one_object(webdav_store: Store) -> None:
    store = webdav_store
    descriptor = store.put("spelled.wav")
    await store.post("first", descriptor)
    await store.post("protected", {**descriptor, "path": descriptor["path"].replace("spelled", "s%70elled")})
    applied = await store.admin.post("/api/v2/recordings/protected", json={"operationName": "applyNonDelete"})
    assert applied.status_code == 200
    assert (await store.delete("first", **ALL)).json() == {"statusCode": 0}
    assert store.server.exists("spelled.wav")


async def test_protected_recording_is_unchanged(store: Store) -> None:
    await store.post("r", store.put("protected.wav"))
    protect = await store.admin.post("/api/v2/recordings/r", json={"operationName": "applyNonDelete"})
    assert protect.status_code == 200
    for params in ({}, ALL):
        response = await store.delete("r", **params)
        assert_error(response, 403, 3, "Requested recording [r] is protected from deletion.")
    assert await store.exists("r")
    assert store.server.exists("protected.wav")


@pytest.mark.parametrize(
    "params", [{"subresource": "*"}, {"force": "1"}, [("subresources", "*"), ("subresources", "*")]]
)
async def test_unknown_or_repeated_parameters_are_refused(webdav_store: Store, params: Any) -> None:
    await webdav_store.post("r", webdav_store.put("kept.wav"))
    response = await webdav_store.ops.delete(f"{OPS_PATH}/r", params=params)
    assert_error(response, 400, 2, "Parameter '")
    assert await webdav_store.exists("r")


async def test_deletion_is_limited_to_ops_contact_center_and_region(
    webdav_store: Store, start_service: StartService
) -> None:
    store = webdav_store
    await store.post("r", store.put("kept.wav"))
    for user in ("admin", "supervisor", "agent"):
        assert_error(await store.service.client(user).delete(f"{OPS_PATH}/r"), 403, 5)
    assert_error(await store.service.client().delete(f"{OPS_PATH}/r"), 401, 20)
    assert_error(await store.delete("r", OTHER_OPS_PATH, **ALL), 404, 6)
    elsewhere = await start_service(region="elsewhere", storage=store.service.settings.storage)
    assert_error(await elsewhere.client("ops").delete(f"{OPS_PATH}/r", params=ALL), 404, 6)
    assert await store.exists("r")
    assert store.server.exists("kept.wav")


# --- media that cannot be deleted ---


@pytest.mark.parametrize(
    "fault", ["status-500", "status-401", "redirect", "stall-before-headers", "stall-in-body", "reset-before-headers"]
)
async def test_media_that_cannot_be_deleted_are_reported_and_remembered(
    start_service: StartService,
    faults: FaultServer,
    apache: WebDav,
    remembered: Remembered,
    fault: str,
) -> None:
    storage = StorageConfig(webdav=(WebDavConfig(faults.url), WebDavConfig(apache.url)))
    store = Store(
        await start_service(storage=storage, storage_first_byte_seconds=0.5, storage_stall_seconds=0.5), apache
    )
    descriptor = {"storage": "webDAV", "path": faults.url_of(fault), "auth": {"a": "b"}}
    await store.post("r", store.put("works.wav"), descriptor)
    media = (await store.ops.get(f"{OPS_PATH}/r")).json()["recording"]["mediaFiles"][1]
    response = await store.delete("r", **ALL)
    assert response.status_code == 200
    assert response.json() == {
        "statusCode": 7,
        "failed": [
            {
                "id": media["playPath"].rpartition("/")[2].partition(".")[0],
                "mediaDescriptor": descriptor,
                "statusCode": 4,
                "statusMessage": f"Fail to send request deleting {faults.url_of(fault)}",
            }
        ],
    }
    assert not await store.exists("r")
    assert not apache.exists("works.wav")
    assert await remembered() == 1


async def test_a_single_media_file_that_cannot_be_deleted_is_reported_and_remembered(
    start_service: StartService, faults: FaultServer, remembered: Remembered
) -> None:
    ops = (await start_service(storage=StorageConfig((WebDavConfig(faults.url),)))).client("ops")
    screens = f"/internal-api/contact-centers/{CONTACT_CENTER}/screen-recordings"
    descriptors = [{"storage": "webDAV", "path": faults.url_of(name)} for name in ("status-500", "none")]
    media_files = [a_media_file(mediaDescriptor=descriptor) for descriptor in descriptors]
    assert (await ops.post(screens, json=a_recording("screen", mediaFiles=media_files))).status_code == 200
    broken, other = (await ops.get(f"{screens}/screen")).json()["recording"]["mediaFiles"]
    answer = (await ops.delete(broken["mediaUri"])).json()
    assert answer["statusCode"] == 7
    (failed,) = answer["failed"]
    assert failed["mediaDescriptor"] == descriptors[0]
    assert f"/{failed['id']}." in broken["mediaUri"]
    assert (await ops.get(f"{screens}/screen")).json()["recording"]["mediaFiles"] == [other]
    assert await remembered() == 1


@pytest.mark.parametrize("by", ["recordings", "criteria"])
async def test_an_operation_that_deletes_takes_the_media_only_with_subresources(
    start_service: StartService, faults: FaultServer, apache: WebDav, remembered: Remembered, *, tmp_path: Path, by: str
) -> None:
    file = tmp_path / "audit.jsonl"
    storage = StorageConfig(webdav=(WebDavConfig(faults.url), WebDavConfig(apache.url)))
    store = Store(await start_service(storage=storage, audit_log=str(file), **PATIENT), apache)
    broken = {"storage": "webDAV", "path": faults.url_of("status-500")}
    operations = OPS_PATH.replace("/recordings", "/recording-operations")

    async def delete(**body: str) -> dict[str, Any]:
        """What has failed, by id, after an operation that deletes everything."""
        await store.service.repository.make_searchable()
        which = {"recordings": ["r", "left"]} if by == "recordings" else {"criteria": {"startTime": "0"}}
        answer = (await store.ops.post(operations, json={"operationName": "delete", **which, **body})).json()
        over = answer
        while by == "criteria" and over.get("state", "running") == "running":
            over = (await store.ops.get(f"{operations}/{answer['id']}")).json()["operation"]
        failed = over.get("failed", []) if by == "recordings" else over["failures"]
        return {one["id"]: one["statusCode"] for one in failed}

    for with_media in (False, True):
        await store.post("r", store.put("of-an-operation.wav"))
        await store.post("left", broken)
        if with_media:
            assert await delete(subresources="*") == {"left": 7}
        else:
            assert await delete() == {}
        assert not await store.exists("r")
        assert not await store.exists("left")
        assert apache.exists("of-an-operation.wav") is not with_media
        assert await remembered() == with_media
    told = [(line["recordingId"], line["withMedia"]) for line in lines_but_posts(file) if line["operation"] == "delete"]
    assert sorted(told) == [("left", False), ("left", True), ("r", False), ("r", True)]


async def test_sweep_retries_failed_deletions(
    start_service: StartService,
    apache: WebDav,
    open_store: Any,
    remembered: Remembered,
) -> None:
    configured = webdav_storage(apache)
    store = Store(await start_service(storage=configured), apache)
    await store.post("r", store.put("later.wav"))
    # A server whose configuration does not know the storage any more.
    unknowing = Store(await start_service(storage=StorageConfig()), apache)
    assert (await unknowing.delete("r", **ALL)).json()["statusCode"] == 7
    services = await open_store(configured)
    swept = await services.deletion.sweep(only_due=True)
    assert (swept.deleted, swept.failed) == (0, 0)  # not yet: whoever deletes has a minute
    swept = await services.deletion.sweep(only_due=False)
    assert (swept.deleted, swept.needed, swept.failed) == (1, 0, 0)
    assert not apache.exists("later.wav")
    assert await remembered() == 0


async def test_sweep_keeps_media_of_a_new_recording(
    start_service: StartService, apache: WebDav, open_store: Any, remembered: Remembered
) -> None:
    configured = webdav_storage(apache)
    store = Store(await start_service(storage=configured), apache)
    descriptor = store.put("again.wav")
    await store.post("r", descriptor)
    unknowing = Store(await start_service(storage=StorageConfig()), apache)
    assert (await unknowing.delete("r", **ALL)).json()["statusCode"] == 7
    await store.post("r", descriptor)
    services = await open_store(configured)
    swept = await services.deletion.sweep(only_due=False)
    assert (swept.deleted, swept.needed, swept.failed) == (0, 1, 0)
    assert apache.exists("again.wav")
    assert await remembered() == 0


class Died(BaseException):
    """What a process that is killed at this point is like for what it has done so far."""


async def test_crash_between_journal_and_metadata_changes_nothing(
    webdav_store: Store, open_store: Any, remembered: Remembered, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = webdav_store
    await store.post("r", store.put("whole.wav"))
    services = await open_store(store.service.settings.storage)
    in_flight = await services.repositories["recordings"].get(Scope(CONTACT_CENTER, REGION), "r")

    async def die(*_: Any) -> Any:
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(RecordingRepository, "delete", die)
        with pytest.raises(Died):
            await services.deletion.delete_stored("recordings", [in_flight], with_media=True, by=Actor("test"))
    assert await remembered() == 1
    swept = await services.deletion.sweep(only_due=False)
    assert (swept.deleted, swept.needed) == (0, 1)
    assert await store.exists("r")
    assert store.server.exists("whole.wav")
    assert await remembered() == 0
    # Had that process only been slow, its deletion would now fail, for the journal has forgotten the media.
    assert await services.repositories["recordings"].delete([in_flight]) == [False]
    assert await store.exists("r")


async def test_killed_process_leaves_each_recording_complete_or_deleted(
    settings: Settings, apache: WebDav, tmp_path: Path, open_store: Any, remembered: Remembered
) -> None:
    configured = webdav_storage(apache)
    app = AppProcess(msgspec.structs.replace(settings, storage=configured, **PATIENT), tmp_path)
    descriptors = {
        f"r{i}": [{"storage": "webDAV", "path": apache.put(f"killed/{i}-{j}.wav", b"media")} for j in range(3)]
        for i in range(WORKED_ON_BESIDE_KILLS)
    }
    await app.start()
    async with app.client("ops") as ops:
        for recording_id, media in descriptors.items():
            media_files = [a_media_file(mediaDescriptor=descriptor) for descriptor in media]
            response = await ops.post(OPS_PATH, json=a_recording(recording_id, mediaFiles=media_files))
            assert response.status_code == 201

    async def delete(ops: httpx.AsyncClient, recording_id: str) -> None:
        response = await ops.delete(f"{OPS_PATH}/{recording_id}", params=ALL)
        assert response.json() == {"statusCode": 0}

    answered, kills = await kill_now_and_then(app, "ops", list(descriptors), delete, random.Random(9))
    assert kills >= WORKED_ON_BESIDE_KILLS // 33  # one at least in 29 that were done and 4 in flight
    services = await open_store(configured)
    swept = await services.deletion.sweep(only_due=False)
    assert swept.failed == 0
    assert await remembered() == 0
    for i in range(WORKED_ON_BESIDE_KILLS):
        there = {apache.exists(f"killed/{i}-{j}.wav") for j in range(3)}
        recording = await services.repositories["recordings"].read(document_id(CONTACT_CENTER, REGION, f"r{i}"))
        assert there == {recording is not None}, i
        assert recording is None or f"r{i}" not in answered


async def test_deletion_includes_a_concurrent_update(webdav_store: Store) -> None:
    store = webdav_store
    for round_number in range(size(10, full=30)):
        await store.post("r", store.put("old.wav"))
        deleted, updated = await asyncio.gather(
            store.delete("r", **ALL),
            store.ops.post(
                OPS_PATH,
                json=a_recording("r", mediaFiles=[a_media_file(mediaDescriptor=store.put(f"new-{round_number}.wav"))]),
            ),
        )
        assert deleted.json() == {"statusCode": 0}
        assert updated.status_code in {200, 201}
        # Deleted first and then created anew, or updated first and then deleted as a whole.
        assert await store.exists("r") == store.server.exists(f"new-{round_number}.wav") == (updated.status_code == 201)
        assert not store.server.exists("old.wav")
        await store.delete("r", **ALL)
