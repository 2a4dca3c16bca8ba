"""Evidence packages from real storages (docs/contract.md section 10)."""

import io
import json
import zipfile
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from app.recordings.package import Checked, NotAPackage, check
from app.settings import StorageConfig, User, WebDavConfig
from tests.media.test_players import ask
from tests.page.support import signed_in
from tests.support.faults import Connection, CountingStorage, FaultServer, Request, generated
from tests.support.recordings import CONTACT_CENTER, OPS_PATH, a_media_file, a_recording
from tests.support.service import PATIENT, USERS, Service, StartService, assert_error, hash_password
from tests.support.storages import S3, WebDav, storage_of
from tests.support.waiting import eventually

OPS_PACKAGE = f"{OPS_PATH}/recording/package"
PACKAGE = "/api/v2/recordings/recording/package"
SCREENS = OPS_PATH.replace("/recordings", "/screen-recordings")
SIZE = 300_000


def media_at(url: str, **attributes: Any) -> dict[str, Any]:
    return a_media_file(mediaDescriptor={"storage": "webDAV", "path": url}, **attributes)


async def post(service: Service, *media: dict[str, Any], recording_id: str = "recording", path: str = OPS_PATH) -> None:
    response = await service.client("ops").post(path, json=a_recording(recording_id, mediaFiles=[*media]))
    assert response.status_code in {200, 201}, response.text


def files_of(package: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(package)) as opened:
        assert opened.testzip() is None
        return {name: opened.read(name) for name in opened.namelist()}


def checked(package: bytes) -> Checked:
    """What `recall verify` finds in a package; it must be whole."""
    found = check(io.BytesIO(package), lambda size: None)
    assert found.problems == []
    return found


def exports(file: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in file.read_bytes().splitlines()]
    return [line for line in lines if line["operation"] == "export"]


async def audited(file: Path, count: int = 1) -> list[dict[str, Any]]:
    await eventually(lambda: len(exports(file)) >= count)
    return exports(file)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.mark.parametrize("storage", ["apache_basic", "versitygw"])
async def test_package_has_the_recording_its_media_its_screens_and_its_audit_lines(
    request: pytest.FixtureRequest, start_service: StartService, file: Path, storage: str
) -> None:
    server: WebDav | S3 = request.getfixturevalue(storage)
    service = await start_service(storage=storage_of(server), audit_log=str(file), **PATIENT)
    ops, admin = service.client("ops"), service.client("admin")
    contents = {name: generated(number, number + SIZE) for number, name in enumerate(("a.wav", "b.wav", "screen.mp4"))}
    contents["empty.wav"] = b""
    for name, content in contents.items():
        server.put(name, content)

    def stored(name: str, **attributes: Any) -> dict[str, Any]:
        return a_media_file(mediaDescriptor=server.descriptor(name), **attributes)

    await post(service, stored("a.wav"), stored("b.wav"), stored("empty.wav"))
    await post(service, stored("screen.mp4"), recording_id="screen/1", path=SCREENS)
    await post(service, stored("screen.mp4", callUUID="another call"), recording_id="screen 2", path=SCREENS)
    await post(service, stored("a.wav"), recording_id="other")
    assert (await admin.post("/api/v2/recordings/recording", json={"operationName": "applyNonDelete"})).is_success

    async def are_indexed() -> bool:
        found = (await admin.get("/api/v2/audit", params={"recordingId": "recording"})).json()["entries"]
        return {entry["operation"] for entry in found} == {"create", "apply"}

    await eventually(are_indexed)
    for client, path, user in ((ops, OPS_PATH, "ops"), (admin, "/api/v2/recordings", "admin")):
        response = await client.get(f"{path}/recording/package")
        assert response.status_code == 200, response.text
        files = files_of(response.content)
        recording = json.loads(files.pop("recording.json"))
        assert recording == (await client.get(f"{path}/recording")).json()["recording"]
        screen = json.loads(files.pop("screen-recordings/1/recording.json"))
        screen_path = path.replace("/recordings", "/screen-recordings")
        assert screen == (await client.get(f"{screen_path}/screen%2F1")).json()["screenRecording"]
        lines = [json.loads(line) for line in files.pop("audit.ndjson").splitlines()]
        assert [line["operation"] for line in lines][:2] == ["create", "apply"]
        assert {line["recordingId"] for line in lines} == {"recording"}
        found = checked(response.content)
        manifest = json.loads(files.pop("manifest.json"))
        assert manifest | {"files": []} == {
            "version": 1,
            "contactCenter": CONTACT_CENTER,
            "region": "test",
            "recordingId": "recording",
            "createdAt": manifest["createdAt"],
            "createdBy": user,
            "files": [],
            "missing": [],
            "leftOut": [],
        }
        names = [media["mediaPath"].rpartition("/")[2] for media in (*recording["mediaFiles"], *screen["mediaFiles"])]
        assert files == {
            f"media/{names[0]}": contents["a.wav"],
            f"media/{names[1]}": contents["b.wav"],
            f"media/{names[2]}": b"",
            f"screen-recordings/1/media/{names[3]}": contents["screen.mp4"],
        }
        for name, content in files.items():
            (entry,) = [each for each in manifest["files"] if each["path"] == name]
            assert entry == {"path": name, "size": len(content), "sha256": sha256(content).hexdigest()}
        (line,) = [each for each in await audited(file) if each["user"] == user]
        assert line["recordingId"] == "recording"
        assert line["contactCenter"] == CONTACT_CENTER
        assert (line["outcome"], line["httpStatus"], line["completed"]) == ("success", 200, True)
        assert (line["bytesSent"], line["digest"]) == (len(response.content), found.manifest_sha256)


@pytest.fixture
async def service(start_service: StartService, counting_storage: CountingStorage, file: Path) -> Service:
    storage = StorageConfig(webdav=(WebDavConfig(counting_storage.url),))
    return await start_service(storage=storage, audit_log=str(file), **PATIENT)


async def test_answer_is_never_kept_nor_shown_and_has_a_safe_name(
    service: Service, counting_storage: CountingStorage
) -> None:
    ids = {
        "recording": "recording.zip",
        "../a\\b": "_._a_b.zip",
        'x"\r\ny': "x___y.zip",
        "ü" * 200: f"{'ü' * 100}.zip",
        "a:b*c?": "a_b_c_.zip",
    }
    for recording_id, name in ids.items():
        await post(service, media_at(counting_storage.put("a.wav", 10)), recording_id=recording_id)
        url = f"/api/v2/recordings/{quote(recording_id, safe='')}/package"
        response = await service.client("admin").get(url)
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == "application/zip"
        assert response.headers["cache-control"] == "private, no-store"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert "content-security-policy" in response.headers
        assert response.headers["content-disposition"].startswith("attachment; ")
        assert response.headers["content-disposition"].endswith(f"filename*=UTF-8''{quote(name)}")


async def test_head_has_the_headers_and_reads_no_media(
    service: Service, counting_storage: CountingStorage, file: Path
) -> None:
    await post(service, media_at(counting_storage.put("a.wav", SIZE)))
    response = await service.client("admin").head(PACKAGE)
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-type"] == "application/zip"
    assert {request.method for request in counting_storage.requests} == {"HEAD"}
    (line,) = await audited(file)
    assert (line["bytesSent"], "digest" in line) == (0, False)
    assert_error(await service.client("admin").get("/api/v2/recordings/none/package"), 404, 6, "recording [none]")


async def test_media_that_their_storage_does_not_have_are_listed_with_the_reason(
    start_service: StartService, counting_storage: CountingStorage
) -> None:
    """Also those of a storage that is no longer configured; the rest is evidence all the same."""
    before = await start_service(
        storage=StorageConfig(webdav=(WebDavConfig(counting_storage.url), WebDavConfig("http://gone.example"))),
        **PATIENT,
    )
    here, gone = counting_storage.put("a.wav", SIZE), f"{counting_storage.url}/gone.wav"
    await post(before, media_at(gone), media_at("http://gone.example/b.wav"), media_at(here))
    now = await start_service(storage=StorageConfig(webdav=(WebDavConfig(counting_storage.url),)), **PATIENT)
    response = await now.client("admin").get(PACKAGE)
    files = files_of(response.content)
    names = [each["mediaPath"].rpartition("/")[2] for each in json.loads(files["recording.json"])["mediaFiles"]]
    assert files[f"media/{names[2]}"] == generated(0, SIZE)
    assert json.loads(files["manifest.json"])["missing"] == [
        {"path": f"media/{names[0]}", "reason": "Its storage does not have it."},
        {"path": f"media/{names[1]}", "reason": "It is not in a configured media storage."},
    ]
    assert [path for path in files if path.startswith("media/")] == [f"media/{names[2]}"]
    checked(response.content)


@pytest.mark.parametrize(
    ("fault", "status", "message"),
    [
        ("status-500", 502, "The media storage failed."),
        ("status-403", 502, "The media storage failed."),
        ("reset-before-headers", 502, "The media storage failed."),
        ("stall-before-headers", 504, "The media storage did not answer in time."),
    ],
)
async def test_storage_that_does_not_tell_is_an_error_and_no_package(
    start_service: StartService, faults: FaultServer, file: Path, fault: str, *, status: int, message: str
) -> None:
    service = await start_service(
        storage=StorageConfig(webdav=(WebDavConfig(faults.url),)),
        storage_first_byte_seconds=1.0,
        audit_log=str(file),
        **PATIENT,
    )
    await post(service, media_at(faults.url_of(fault)))
    response = await service.client("admin").get(PACKAGE)
    assert_error(response, status, 4, message)
    assert response.headers["cache-control"] == "private, no-store"
    (line,) = await audited(file)
    assert (line["outcome"], line["httpStatus"]) == ("failed", status)


class Fickle(CountingStorage):
    """What HEAD has shown may be otherwise for GET, as a test says."""

    fault = ""

    async def answer(self, request: Request, connection: Connection) -> None:
        if request.method == "HEAD" or "second" not in request.target or self.fault in {"", "changed", "deleted"}:
            await super().answer(request, connection)
        elif self.fault == "gone":
            await connection.respond(404)
        elif self.fault == "failing":
            await connection.respond(500)
        else:
            await connection.start(200, {"Content-Length": str(SIZE), "Content-Type": "audio/wav"})
            await connection.send(generated(0, SIZE // 2))
            if self.fault == "stalled":
                await connection.wait_until_client_leaves()
            connection.reset() if self.fault == "reset" else connection.transport.close()


@pytest.mark.parametrize("fault", ["gone", "failing", "reset", "short", "changed", "deleted"])
async def test_what_fails_on_the_way_cuts_the_connection(start_service: StartService, file: Path, fault: str) -> None:
    """Nobody takes what has come for a whole package."""
    async with Fickle() as storage:
        config = StorageConfig(webdav=(WebDavConfig(storage.url),))
        service = await start_service(storage=config, audit_log=str(file), **PATIENT)
        ops = service.client("ops")
        await post(service, media_at(storage.put("first.wav", SIZE)), media_at(storage.put("second.wav", SIZE)))
        await post(service, media_at(storage.put("screen.mp4", SIZE)), recording_id="screen", path=SCREENS)
        storage.fault = fault
        received = bytearray()

        async def receive() -> None:
            async with ops.stream("GET", OPS_PACKAGE) as response:
                assert response.status_code == 200
                async for piece in response.aiter_bytes():
                    if not received and fault == "changed":
                        more = media_at(storage.put("more.mp4", 1))
                        await post(service, more, recording_id="screen", path=SCREENS)
                    if not received and fault == "deleted":
                        assert (await ops.delete(f"{SCREENS}/screen")).is_success
                    received.extend(piece)

        if fault in {"changed", "deleted"}:
            storage.rate = 2 * SIZE
        with pytest.raises(httpx.RemoteProtocolError):
            await receive()
        assert generated(0, SIZE) in received
        with pytest.raises(NotAPackage):
            checked(bytes(received))
        (line,) = await audited(file)
        assert (line["outcome"], line["completed"], "digest" in line) == ("failed", False, False)
        assert line["bytesSent"] == len(received)
        await eventually(lambda: not storage.answering)


async def test_client_that_leaves_frees_the_storage_and_its_place(
    start_service: StartService, counting_storage: CountingStorage, file: Path
) -> None:
    """And one that reads nothing makes nobody read gigabytes for it."""
    storage = StorageConfig(webdav=(WebDavConfig(counting_storage.url),))
    service = await start_service(
        storage=storage, audit_log=str(file), streams_per_user=1, storage_wait_seconds=0.1, **PATIENT
    )
    size = 2 * 1024**3
    await post(service, media_at(counting_storage.put("a.wav", size)), media_at(counting_storage.put("b.wav", size)))
    reader, writer = await ask(service.url, PACKAGE, buffer=1024)
    assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
    await eventually(lambda: counting_storage.answering == 1)
    assert_error(await service.client("admin").get(PACKAGE), 429, 4, "The streams that the user may have in flight")
    assert counting_storage.bytes_sent < 64 * 1024 * 1024
    writer.transport.abort()
    await eventually(lambda: not counting_storage.answering)
    line = (await audited(file, 2))[-1]
    assert (line["outcome"], line["completed"]) == ("success", False)
    assert (await service.client("admin").head(PACKAGE)).status_code == 200


async def test_client_that_leaves_while_the_storage_says_nothing_frees_it_immediately(
    start_service: StartService, file: Path
) -> None:
    async with Fickle() as storage:
        config = StorageConfig(webdav=(WebDavConfig(storage.url),))
        service = await start_service(storage=config, audit_log=str(file), **PATIENT)
        await post(service, media_at(storage.put("second.wav", SIZE)))
        storage.fault = "stalled"
        reader, writer = await ask(service.url, PACKAGE)
        await reader.readuntil(generated(SIZE // 2 - 10, SIZE // 2))
        assert storage.answering == 1
        writer.transport.abort()
        await eventually(lambda: not storage.answering, seconds=10)
        (line,) = await audited(file)
        assert (line["outcome"], line["completed"]) == ("success", False)


async def test_client_that_leaves_before_the_first_byte_leaves_nothing(start_service: StartService, file: Path) -> None:
    async with Stuck() as storage:
        config = StorageConfig(webdav=(WebDavConfig(storage.url),))
        service = await start_service(
            storage=config, audit_log=str(file), streams_per_user=1, storage_wait_seconds=0.1, **PATIENT
        )
        await post(service, media_at(f"{storage.url}/a.wav"))
        _, writer = await ask(service.url, PACKAGE)
        await eventually(lambda: storage.answering == 1)
        writer.transport.abort()
        await eventually(lambda: not storage.answering)
        (line,) = await audited(file)
        assert (line["httpStatus"], line["outcome"]) == (None, "failed")


class Stuck(CountingStorage):
    async def answer(self, request: Request, connection: Connection) -> None:
        await connection.wait_until_client_leaves()


# --- who ---


@pytest.mark.parametrize("user", ["supervisor", "agent", "ops", "seer"])
async def test_others_than_administrators_are_refused(
    start_service: StartService, counting_storage: CountingStorage, user: str
) -> None:
    seer = User("seer", hash_password("seer-password"), ("supervisor",), CONTACT_CENTER, access_groups=("/",))
    service = await start_service(
        users=(*USERS, seer), storage=StorageConfig(webdav=(WebDavConfig(counting_storage.url),)), **PATIENT
    )
    await post(service, media_at(counting_storage.put("a.wav", 10)))
    for path in (PACKAGE, "/api/v2/recordings/none/package"):
        assert_error(await service.client(user).get(path), 403, 5)
    if user != "ops":
        assert_error(await service.client(user).get(OPS_PACKAGE), 403, 5)
    assert_error(await service.client("admin").get(OPS_PACKAGE), 403, 5)
    assert_error(await service.client("other-admin").get(PACKAGE), 404, 6)
    assert_error(await service.client(None).get(PACKAGE), 401, 20)


async def test_administrator_with_limits_gets_what_she_sees_and_the_package_says_so(
    start_service: StartService, counting_storage: CountingStorage
) -> None:
    amy = User("amy", hash_password("amy-password"), ("admin",), CONTACT_CENTER, access_groups=("/US",))
    service = await start_service(
        users=(*USERS, amy), storage=StorageConfig(webdav=(WebDavConfig(counting_storage.url),)), **PATIENT
    )

    def media(name: str, group: str) -> Mapping[str, Any]:
        return media_at(counting_storage.put(name, 10), accessgroups=[group])

    await post(service, dict(media("a.wav", "/US/CA")), dict(media("hidden.wav", "/EU")))
    screens = dict(media("screen.mp4", "/US")), dict(media("hidden-too.mp4", "/EU"))
    await post(service, *screens, recording_id="shown", path=SCREENS)
    await post(service, dict(media("hidden.mp4", "/EU")), recording_id="hidden", path=SCREENS)
    await post(service, dict(media("c.wav", "/EU")), recording_id="other")
    response = await service.client("amy").get(PACKAGE)
    checked(response.content)
    files = files_of(response.content)
    assert len(json.loads(files["recording.json"])["mediaFiles"]) == 1
    assert json.loads(files["screen-recordings/1/recording.json"])["id"] == "shown"
    assert sum("media/" in path for path in files) == 2
    assert "audit.ndjson" not in files
    assert b"hidden" not in response.content
    assert json.loads(files["manifest.json"])["leftOut"] == [
        "What the user who made the package may not see.",
        "The audit lines: only users who see everything may see them.",
    ]
    assert_error(await service.client("amy").get("/api/v2/recordings/other/package"), 404, 6, "recording [other]")
    whole = files_of((await service.client("admin").get(PACKAGE)).content)
    assert sum("media/" in path for path in whole) == 5


async def test_service_without_an_audit_index_says_that_the_lines_are_left_out(
    start_service: StartService, counting_storage: CountingStorage
) -> None:
    service = await start_service(
        audit_days=0, storage=StorageConfig(webdav=(WebDavConfig(counting_storage.url),)), **PATIENT
    )
    await post(service, media_at(counting_storage.put("a.wav", 10)))
    package = (await service.client("admin").get(PACKAGE)).content
    assert checked(package).manifest.left_out == ["The audit lines: the service does not index the audit log."]
    assert "audit.ndjson" not in files_of(package)


async def test_session_of_the_page_gets_it_too(service: Service, counting_storage: CountingStorage) -> None:
    await post(service, media_at(counting_storage.put("a.wav", SIZE)))
    browser = await signed_in(service)
    response = await browser.get("/ui/api/recordings/recording/package")
    assert generated(0, SIZE) in files_of(response.content).values()
    checked(response.content)
