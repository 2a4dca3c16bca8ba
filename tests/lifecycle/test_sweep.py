"""`scripts/sweep_media.py`: deletes what deletions left behind, and says what is still left."""

import json
from pathlib import Path

import msgspec
import pytest

from app.settings import Settings
from tests.support.processes import Scripts
from tests.support.recordings import CONTACT_CENTER, OPS_PATH, a_media_file, a_recording
from tests.support.service import StartService
from tests.support.storages import WebDav, webdav_storage


@pytest.fixture
async def left_behind(start_service: StartService, apache: WebDav, tmp_path: Path) -> Scripts:
    """A deleted recording, of whose three media objects two are left; in the place of each is a folder now."""
    service = await start_service(storage=webdav_storage(apache))
    paths = ["left/1.wav", "left/2.wav", "left/3.wav"]
    descriptors = [{"storage": "webDAV", "path": apache.put(path, b"media")} for path in paths]
    recording = a_recording("r\n\x1b", mediaFiles=[a_media_file(mediaDescriptor=one) for one in descriptors])
    ops = service.client("ops")
    assert (await ops.post(OPS_PATH, json=recording)).status_code == 201
    for path in paths[:2]:
        (apache.folder / path).unlink()
        (apache.folder / path).mkdir()
    answer = (await ops.delete(f"{OPS_PATH}/r%0A%1B?subresources=*")).json()
    assert (answer["statusCode"], len(answer["failed"])) == (7, 2)
    return Scripts(msgspec.structs.replace(service.settings, audit_log=str(tmp_path / "audit.jsonl")), tmp_path)


async def test_sweep_continues_until_nothing_is_left(left_behind: Scripts, apache: WebDav) -> None:
    status, out, err = await left_behind.run("sweep_media.py", "--dry-run")
    assert (status, err) == (0, "2 media objects are to be deleted\n")
    lines = [json.loads(line) for line in out.splitlines()]
    assert {line["mediaDescriptor"]["path"] for line in lines} == {apache.url_of(f"left/{i}.wav") for i in (1, 2)}
    for line in lines:
        assert (line["recordingId"], line["resource"], line["attempts"]) == ("r\n\x1b", "recordings", 0)
        assert line["contactCenter"] == CONTACT_CENTER

    (apache.folder / "left/1.wav").rmdir()
    apache.put("left/1.wav", b"media")
    status, out, err = await left_behind.run("sweep_media.py")
    assert (status, out) == (1, "deleted 1, still needed 0, failed 1\n")
    assert "media object" in err
    assert not apache.exists("left/1.wav")
    (line,) = [json.loads(line) for line in (left_behind.folder / "audit.jsonl").read_text().splitlines()]
    (media,) = {line["mediaId"] for line in lines if line["mediaDescriptor"]["path"] == apache.url_of("left/1.wav")}
    assert line.pop("time")
    assert line.pop("id")
    assert line == {
        "user": "sweep",
        "contactCenter": CONTACT_CENTER,
        "address": None,
        "operation": "delete-media",
        "resource": "recordings",
        "recordingId": "r\n\x1b",
        "outcome": "success",
        "httpStatus": None,
        "statusCode": 0,
        "media": media,
    }

    # At once again, whenever the service would.
    (apache.folder / "left/2.wav").rmdir()
    assert (await left_behind.run("sweep_media.py")) == (0, "deleted 1, still needed 0, failed 0\n", "")
    assert (await left_behind.run("sweep_media.py")) == (0, "deleted 0, still needed 0, failed 0\n", "")


async def test_unreachable_elasticsearch_is_reported(tmp_path: Path) -> None:
    scripts = Scripts(Settings(elasticsearch_url="http://127.0.0.1:1"), tmp_path)
    status, out, err = await scripts.run("sweep_media.py")
    assert (status, out) == (1, "")
    assert err.splitlines()[-1].startswith("cannot use the Elasticsearch at http://127.0.0.1:1: ")
