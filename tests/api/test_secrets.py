"""No password is in the log, whatever fails."""

import logging

import pytest

from app.settings import StorageConfig, WebDavConfig
from tests.support.faults import FaultServer
from tests.support.recordings import OPS_PATH, a_media_file, a_recording
from tests.support.service import StartService, basic

FAULTS = [fault for fault in FaultServer.FAULTS if fault != "endless"]


async def test_failures_of_storages_and_of_the_service_log_no_secret(
    start_service: StartService, faults: FaultServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("asyncio").setLevel(logging.INFO)
    service = await start_service(
        storage=StorageConfig(webdav=(WebDavConfig(faults.url, "media", "hunter2-of-storage"),)),
        elasticsearch_username="elastic",
        elasticsearch_password="hunter2-of-elasticsearch",
        storage_first_byte_seconds=0.3,
        storage_stall_seconds=0.3,
    )
    ops = service.client("ops")
    media = [a_media_file(mediaDescriptor={"storage": "webDAV", "path": faults.url_of(fault)}) for fault in FAULTS]
    assert (await ops.post(OPS_PATH, json=a_recording(mediaFiles=media))).status_code == 201
    read = (await ops.get(f"{OPS_PATH}/recording")).json()["recording"]
    for file in read["mediaFiles"]:
        try:
            await ops.get(f"/api/v2{file['playPath']}")
        except Exception:  # noqa: BLE001  # a fault that breaks the answer off
            continue
    await ops.delete(f"{OPS_PATH}/recording?subresources=*")
    for client in (service.client(), ops):
        await client.get("/api/v2/recordings/x", auth=("admin", "hunter2-of-user"))
    monkeypatch.setattr("app.api.playback.media_file_named", lambda *_: 1 / 0)
    await ops.post(OPS_PATH, json=a_recording("another", mediaFiles=media[:1]))
    assert (await ops.get(f"{OPS_PATH}/another/play/x.wav")).status_code == 500
    assert "ZeroDivisionError" in caplog.text
    assert "media storage" in caplog.text
    secrets = [basic("media", "hunter2-of-storage"), basic("elastic", "hunter2-of-elasticsearch"), "hunter2"]
    secrets += [basic("ops", "ops-password"), "ops-password", *(user.password_hash for user in service.settings.users)]
    for secret in secrets:
        assert secret.removeprefix("Basic ") not in caplog.text
