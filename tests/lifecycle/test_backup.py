"""`scripts/backup.py`: all recordings and media that match are copied, whatever happens meanwhile."""

import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from app.settings import StorageConfig
from tests.support.processes import Scripts
from tests.support.recordings import CONTACT_CENTER, OPS_PATH, a_media_file, a_recording
from tests.support.service import PATIENT, Service, StartService
from tests.support.storages import S3, WebDav, s3_storage, webdav_storage

pytestmark = pytest.mark.emptied_indices

ALL = ("--contact-center", CONTACT_CENTER)
SCREENS_PATH = OPS_PATH.replace("recordings", "screen-recordings")

Descriptor = Callable[[str], dict[str, Any]]


def a_call(recording_id: str, *descriptors: dict[str, Any], **attributes: Any) -> dict[str, Any]:
    media = [
        {**a_media_file(callUUID=recording_id), "mediaDescriptor": descriptor, "tenant": "Acme"}
        for descriptor in descriptors
    ]
    return a_recording(recording_id, **{"mediaFiles": media, **attributes})


class Store:
    """A service with recordings on Apache and on versitygw, the scripts, and a folder for backups."""

    def __init__(self, service: Service, apache: WebDav, versitygw: S3, folder: Path) -> None:
        self.service = service
        self.apache, self.s3 = apache, versitygw
        self.ops = service.client("ops")
        self.admin = service.client("admin")
        self.scripts = Scripts(msgspec.structs.replace(service.settings, audit_log=str(folder / "audit.log")), folder)
        self.place = folder / "backup"
        self._run = folder.name

    def put(self, name: str, content: bytes) -> dict[str, Any]:
        """Puts a media object into one of the storages, by the parity of its name's digest; its descriptor."""
        path = f"{self._run}/{name}"
        if hashlib.sha256(name.encode()).digest()[0] % 2:
            self.s3.put(path, content)
            return self.s3.descriptor(path)
        self.apache.put(path, content)
        return self.apache.descriptor(path)

    async def post(self, *recordings: dict[str, Any], path: str = OPS_PATH) -> None:
        for recording in recordings:
            response = await self.ops.post(path, json=recording)
            assert response.status_code in {200, 201}, response.text

    async def read(self, recording_id: str, path: str = OPS_PATH) -> bytes:
        response = await self.ops.get(f"{path}/{recording_id}")
        assert response.status_code == 200, response.text
        return response.content.replace(self.service.url.encode() + b"/api/v2", b"")

    async def backup(self, *arguments: str, place: str | None = None) -> tuple[int, str, str]:
        return await self.scripts.run("backup.py", place or str(self.place), *arguments)

    def files(self) -> dict[str, bytes]:
        """All files of the backup, by their paths."""
        found = (path for path in self.place.rglob("*") if path.is_file())
        return {path.relative_to(self.place).as_posix(): path.read_bytes() for path in found}


@pytest.fixture
async def store(start_service: StartService, apache: WebDav, versitygw: S3, tmp_path: Path) -> Store:
    storage = StorageConfig(webdav_storage(apache).webdav, s3_storage(versitygw).s3)
    return Store(await start_service(storage=storage, **PATIENT), apache, versitygw, tmp_path)


async def test_a_backup_has_each_recording_as_ops_reads_it_and_its_media(store: Store) -> None:
    one, two = store.put("one.wav", b"RIFF" + random.Random(1).randbytes(100_000)), store.put("two.wav", b"RIFFtwo")
    await store.post(a_call("Call/1", one, two), a_call("call/1", two))
    status, out, err = await store.backup(*ALL)
    assert (status, err) == (0, "")
    assert "copied 2, unchanged 0, incomplete 0, failed 0; media files copied 3 (0.1 MiB), unchanged 0, failed 0" in out
    files = store.files()
    folder = f"{CONTACT_CENTER}/=41cme/2013-05-17/=43all=2f1"
    manifest = json.loads(files[f"{folder}/manifest.json"])
    assert (manifest["contactCenter"], manifest["id"], manifest["format"]) == (CONTACT_CENTER, "Call/1", 1)
    for name, entry in manifest["files"].items():
        content = files[f"{folder}/{name}"]
        assert (entry["size"], entry["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    shown = json.loads(await store.read("Call%2F1"))["recording"]
    archived = json.loads(files[f"{folder}/recording.json"])
    assert archived["recording"] == shown
    assert {media["mediaPath"].rpartition("/")[2] for media in shown["mediaFiles"]} | {"recording.json"} == set(
        manifest["files"]
    )
    status, out, err = await store.backup("--verify")
    assert (status, err) == (0, ""), out
    assert "2 recordings, 5 files" in out
    status, out, _ = await store.backup(*ALL)
    assert status == 0
    assert "copied 0, unchanged 2, incomplete 0, failed 0; media files copied 0 (0.0 MiB), unchanged 3" in out
    assert store.files() == files
