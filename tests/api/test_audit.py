"""Each operation leaves exactly one line in the audit log (docs/operations.md, "Read the audit log")."""

import asyncio
import gc
import logging
import os
import re
import subprocess
import sys
from base64 import b64encode
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec
import pytest
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message

import app.audit
from app.api.audit import audit_entry
from app.api.dispatch import Dispatcher
from app.api.endpoint import Endpoint, Method
from app.api.errors import HANDLERS
from app.api.middleware import EncodedPath
from app.api.responses import envelope
from app.audit import AuditLog, Entry
from app.errors import ElasticsearchUnavailable, InsufficientRole, MissingParameter, NotAuthenticated, RecordingNotFound
from app.main import create_app
from app.settings import ConfigurationError, S3Config, Settings, StorageConfig, User, WebDavConfig
from app.shares import Activity
from tests.support.audit import lines_but_posts
from tests.support.faults import CountingStorage, FaultServer
from tests.support.processes import Scripts
from tests.support.recordings import CONTACT_CENTER, OPS_PATH, a_media_file, a_recording
from tests.support.service import USERS, Service, StartService, basic
from tests.support.storages import S3
from tests.support.waiting import eventually

ID = 'an "id"\n\u2028\x1b[31m/ü'
ID_IN_PATH = "an%20%22id%22%0A%E2%80%A8%1B%5B31m%2F%C3%BC"
SIZE = 1_000_000
EVERYWHERE = {
    "user": "admin",
    "contactCenter": CONTACT_CENTER,
    "address": "127.0.0.1",
    "operation": "play",
    "resource": "recordings",
    "recordingId": ID,
}


class Played:
    """A service with a playable recording, and its audit log."""

    def __init__(self, service: Service, file: Path) -> None:
        self.service = service
        self.file = file
        self.admin = service.client("admin")
        self.path = ""

    def lines(self) -> list[dict[str, Any]]:
        return lines_but_posts(self.file)

    async def post(self, url: str) -> None:
        media = a_media_file(mediaDescriptor={"storage": "webDAV", "path": url}, mediaId="the media")
        response = await self.service.client("ops").post(OPS_PATH, json=a_recording(ID, mediaFiles=[media]))
        assert response.status_code in {200, 201}, response.text
        read = await self.admin.get(f"/api/v2/recordings/{ID_IN_PATH}")
        self.path = "/api/v2" + read.json()["recording"]["mediaFiles"][-1]["playPath"]

    def only_line(self, **expected: Any) -> None:
        (line,) = self.lines()
        begun = datetime.fromisoformat(line.pop("time"))
        assert re.fullmatch("[0-9a-f]{24}", line.pop("id"))
        assert 0 <= (datetime.now(UTC) - begun).total_seconds() < 60
        assert 0 <= line.pop("seconds") < 60
        assert line == {**EVERYWHERE, "media": self.path.rpartition("/")[2], **expected}


@pytest.fixture
async def played(start_service: StartService, tmp_path: Path, counting_storage: CountingStorage) -> Played:
    file = tmp_path / "audit.jsonl"
    storage = StorageConfig(webdav=(WebDavConfig(counting_storage.url, "media", "media-secret"),))
    played = Played(await start_service(audit_log=str(file), storage=storage), file)
    await played.post(counting_storage.put("a.wav", SIZE))
    assert played.lines() == []
    return played


@pytest.fixture
async def faulty(start_service: StartService, tmp_path: Path, faults: FaultServer) -> Played:
    file = tmp_path / "audit.jsonl"
    service = await start_service(
        audit_log=str(file),
        storage=StorageConfig(webdav=(WebDavConfig(faults.url),)),
        storage_first_byte_seconds=0.3,
        storage_stall_seconds=0.3,
    )
    return Played(service, file)


# --- plays ---


@pytest.mark.parametrize(
    ("method", "headers", "status", "sent"),
    [
        ("GET", {}, 200, SIZE),
        ("HEAD", {}, 200, 0),
        ("GET", {"Range": "bytes=5-9"}, 206, 5),
        ("GET", {"If-None-Match": f'"{SIZE:x}"'}, 304, 0),
    ],
)
async def test_a_play_is_one_line_with_the_bytes_that_were_sent(
    played: Played, method: str, headers: dict[str, str], status: int, sent: int
) -> None:
    response = await played.admin.request(method, played.path, headers=headers)
    assert (response.status_code, len(response.content)) == (status, sent)
    played.only_line(
        outcome="success", httpStatus=status, statusCode=0, mediaId="the media", bytesSent=sent, completed=True
    )


async def test_the_line_is_there_when_the_last_byte_arrives(played: Played) -> None:
    for plays in range(1, 6):
        async with played.admin.stream("GET", played.path) as response:
            received = 0
            async for chunk in response.aiter_raw():
                received += len(chunk)
                if received == SIZE:
                    assert len(played.lines()) == plays


@pytest.mark.parametrize(
    ("user", "headers", "expected"),
    [
        (None, {}, {"user": None, "contactCenter": None, "httpStatus": 401, "statusCode": 20}),
        (
            None,
            {"Authorization": "Basic " + b64encode(b"admin:hunter2").decode()},
            {"contactCenter": None, "httpStatus": 401, "statusCode": 20},
        ),
        (
            None,
            {"Authorization": "Bearer hunter2"},
            {"user": None, "contactCenter": None, "httpStatus": 401, "statusCode": 20},
        ),
        ("agent", {}, {"user": "agent", "httpStatus": 403, "statusCode": 5}),
        ("ops", {}, {"user": "ops", "contactCenter": None, "httpStatus": 403, "statusCode": 5}),
        (
            "other-admin",
            {},
            {
                "user": "other-admin",
                "contactCenter": "0b7c1c3e-5e5b-4a53-9c61-0e6f0f7b3a11",
                "httpStatus": 404,
                "statusCode": 6,
            },
        ),
        (
            "admin",
            {"Range": f"bytes={SIZE}-"},
            {"httpStatus": 416, "statusCode": 2, "mediaId": "the media"},
        ),
    ],
)
async def test_a_refused_play_is_one_line_with_its_status(
    played: Played, user: str | None, headers: dict[str, str], expected: dict[str, Any]
) -> None:
    response = await played.service.client(user).get(played.path, headers=headers)
    assert response.status_code == expected["httpStatus"]
    played.only_line(outcome="refused", **expected)
    assert "hunter2" not in played.file.read_text()


@pytest.mark.parametrize(
    ("path", "recording", "media", "status"),
    [
        (f"{ID_IN_PATH}/play/other.wav", ID, "other.wav", 404),
        ("%FFa/play/b%0Ac", "\\xffa", "b\nc", 400),
        (f"{'x' * 5000}/play/b", "x" * 500, "b", 404),
    ],
)
async def test_a_play_of_what_is_not_there_is_one_line(
    played: Played, path: str, recording: str, media: str, status: int
) -> None:
    assert (await played.admin.get(f"/api/v2/recordings/{path}")).status_code == status
    played.only_line(
        outcome="refused", httpStatus=status, statusCode=6 if status == 404 else 2, recordingId=recording, media=media
    )


@pytest.mark.parametrize(("fault", "status"), [("status-404", 404), ("status-500", 502), ("stall-before-headers", 504)])
async def test_a_play_whose_storage_fails_is_one_line(
    faulty: Played, faults: FaultServer, fault: str, status: int
) -> None:
    await faulty.post(faults.url_of(fault))
    assert (await faulty.admin.get(faulty.path)).status_code == status
    faulty.only_line(
        outcome="refused" if status == 404 else "failed",
        httpStatus=status,
        statusCode=6 if status == 404 else 4,
        mediaId="the media",
    )


async def test_a_play_that_breaks_off_is_one_line(faulty: Played, faults: FaultServer) -> None:
    await faulty.post(faults.url_of("short-body"))
    received = 0

    async def receive(response: httpx.Response) -> None:
        nonlocal received
        async for chunk in response.aiter_raw():
            received += len(chunk)

    async with faulty.admin.stream("GET", faulty.path) as response:
        with pytest.raises(httpx.RemoteProtocolError):
            await receive(response)
    await eventually(lambda: bool(faulty.lines()))
    faulty.only_line(
        outcome="failed", httpStatus=200, statusCode=4, mediaId="the media", bytesSent=received, completed=False
    )


async def test_a_play_that_its_player_leaves(played: Played, counting_storage: CountingStorage) -> None:
    counting_storage.rate = 100_000
    async with played.admin.stream("GET", played.path) as response:
        await anext(response.aiter_raw())
    await eventually(lambda: bool(played.lines()))
    sent = played.lines()[0]["bytesSent"]
    assert 0 < sent < SIZE
    played.only_line(
        outcome="success", httpStatus=200, statusCode=0, mediaId="the media", bytesSent=sent, completed=False
    )


async def test_an_error_of_ours_is_a_line_too(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.api.playback.media_file_named", lambda *_: 1 / 0)
    assert (await played.admin.get(played.path)).status_code == 500
    played.only_line(outcome="failed", httpStatus=500, statusCode=4)


async def test_reads_and_searches_leave_none_unless_they_are_refused(played: Played) -> None:
    admin, ops = played.admin, played.service.client("ops")
    for path in (f"/api/v2/recordings/{ID_IN_PATH}", "/api/v2/recordings?startTime=0", "/api/v2/recordings?x=y"):
        await admin.get(path)
    for path in (OPS_PATH, f"{OPS_PATH}?startTime=0", f"{OPS_PATH}/missing"):
        await ops.get(path)
    await played.service.client().get("/health/live")
    await played.service.client().get("/api/v2/nowhere")
    await admin.put(played.path)
    assert played.lines() == []


async def test_a_post_that_is_not_stored_leaves_a_line(played: Played) -> None:
    await played.service.client("ops").post(OPS_PATH, json={})
    [line] = played.lines()
    assert (line["operation"], line["outcome"], line["httpStatus"], line["statusCode"]) == (
        "ops-post",
        "refused",
        400,
        1,
    )


REFUSED = (
    ("GET", "/api/v2/recordings?startTime=0", "agent", ("search", "recordings", "")),
    ("GET", f"/api/v2/recordings/{ID_IN_PATH}", "agent", ("read", "recordings", ID)),
    ("HEAD", f"/api/v2/recordings/{ID_IN_PATH}", "agent", ("read", "recordings", ID)),
    ("GET", "/api/v2/screen-recordings/s", "agent", ("read", "screen-recordings", "s")),
    ("GET", f"{OPS_PATH}?startTime=0", "admin", ("ops-search", "recordings", "")),
    ("GET", f"{OPS_PATH}/{ID_IN_PATH}", "admin", ("ops-read", "recordings", ID)),
    ("POST", OPS_PATH, "admin", ("ops-post", "recordings", "")),
    ("DELETE", f"{OPS_PATH}/{ID_IN_PATH}", "admin", ("delete", "recordings", ID)),
    ("POST", f"/internal-api/contact-centers/{CONTACT_CENTER}/recordings", "admin", ("ops-post", "recordings", "")),
)


@pytest.mark.parametrize(("method", "path", "user", "about"), REFUSED)
async def test_a_refusal_is_a_line_on_every_path(
    played: Played, method: str, path: str, user: str, about: tuple[str, str, str]
) -> None:
    names_one = "contact-centers" in path
    what = {"address": "127.0.0.1", **dict(zip(("operation", "resource", "recordingId"), about, strict=True))}
    guess = {"Authorization": "Basic " + b64encode(b"admin:hunter2").decode()}
    expected: list[dict[str, Any]] = []
    for client, headers, claimed, status, code in (
        (played.service.client(user), {}, user, 403, 5),
        (played.service.client(), {}, None, 401, 20),
        (played.service.client(), guess, "admin", 401, 20),
    ):
        assert (await client.request(method, path, headers=headers)).status_code == status
        knows = names_one or status == 403
        expected.append(
            {
                "user": claimed,
                "contactCenter": CONTACT_CENTER if knows else None,
                **what,
                "outcome": "refused",
                "httpStatus": status,
                "statusCode": code,
            }
        )
    lines = played.lines()
    assert [{name: line[name] for name in expected[0]} for line in lines] == expected
    assert "hunter2" not in played.file.read_text()


async def test_a_request_from_a_foreign_origin_is_a_line(played: Played) -> None:
    headers = {"Origin": "https://evil.example"}
    response = await played.service.client("ops").delete(f"{OPS_PATH}/held?subresources=*", headers=headers)
    assert response.status_code == 403
    (line,) = played.lines()
    del line["time"], line["id"]
    assert line == {
        "user": "ops",
        "contactCenter": None,
        "address": "127.0.0.1",
        "operation": "request",
        "resource": None,
        "recordingId": "",
        "outcome": "refused",
        "httpStatus": 403,
        "statusCode": 3,
        "path": f"{OPS_PATH}/held",
    }


async def test_refused_logins_cannot_fill_the_disk(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.audit._OF_AN_ADDRESS", (5, 0.0))
    client = played.service.client()
    for _ in range(20):
        assert (await client.get(f"/api/v2/recordings/{'x' * 5_000}/play/{'y' * 5_000}")).status_code == 401
    assert len(played.lines()) == 5
    assert played.file.stat().st_size < 5 * 800
    assert "recall_audit_lines_suppressed_total 15.0" in (await client.get("/metrics")).text
    assert (await played.service.client("agent").get("/api/v2/recordings?startTime=0")).status_code == 403
    assert played.lines()[-1]["user"] == "agent"  # whoever is authenticated is never left out


def test_lines_are_bounded_for_each_network_and_for_all() -> None:
    now = 0.0
    bound = app.audit._Bound(lambda: now)
    taken = [bound.take("192.0.2.1") for _ in range(100)]
    assert taken == [0] * 60 + [None] * 40
    assert bound.take("192.0.2.2") == 0
    now = 1.0
    assert [bound.take("192.0.2.1") for _ in range(2)] == [40, None]
    now = 3.0
    assert [bound.take("192.0.2.1") for _ in range(2)] == [1, 0]
    # One client may have a whole network of 64 bits.
    assert sum(bound.take(f"2001:db8::{n}") is not None for n in range(1, 100)) == 60
    assert sum(bound.take(f"10.{n // 200}.0.{n % 200}") is not None for n in range(2_000)) < 1_000
    assert len(bound._addresses) <= 10_000


async def test_many_plays_at_once_leave_one_line_each(played: Played) -> None:
    paths = [played.path if n % 2 else f"/api/v2/recordings/missing-{n}/play/x" for n in range(100)]
    await asyncio.gather(*(played.admin.get(path, headers={"Range": "bytes=0-9"}) for path in paths))
    lines = played.lines()
    assert len(lines) == 100
    assert sum(line["outcome"] == "success" for line in lines) == 50
    assert len({line["recordingId"] for line in lines}) == 51


async def test_no_secret_is_ever_in_it(
    start_service: StartService,
    tmp_path: Path,
    moto: S3,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "recall.audit")
    moto.put("secret.wav", b"bytes", bucket="stage-recordings")
    s3 = S3Config(("stage-recordings",), moto.url, moto.region, moto.access_key_id, moto.secret_access_key)
    file = tmp_path / "audit.jsonl"
    service = await start_service(storage=StorageConfig(s3=(s3,)), audit_log=str(file))
    descriptor = {"storage": "awsS3", "path": "secret.wav", "data": {"bucket": "stage-recordings"}}
    recording = a_recording(mediaFiles=[a_media_file(mediaDescriptor=descriptor)])
    assert (await service.client("ops").post(OPS_PATH, json=recording)).status_code == 201
    admin = service.client("admin")
    play = (await admin.get("/api/v2/recordings/recording")).json()["recording"]["mediaFiles"][0]["playPath"]
    assert (await admin.get(f"/api/v2{play}?token=hunter2")).content == b"bytes"
    assert (await service.client("agent").get(f"/api/v2{play}?token=hunter2")).status_code == 403
    text = file.read_text() + caplog.text
    assert text.count('"play"') == 2
    for secret in ("password", "hunter2", "Basic", "X-Amz", "http:", moto.secret_access_key, "argon2"):
        assert secret not in text, secret


# --- other operations ---


async def as_told(request: Request) -> Response:
    """Does what the test says, as a handler that deletes or protects would."""
    outcome = request.app.state.outcome
    if isinstance(outcome, BaseException):
        raise outcome
    audit_entry(request).operation = "apply"
    return envelope(outcome)


class AnyPassword:
    """Takes every caller for the user of the test."""

    async def authenticate(self, authorization: str | None, address: str) -> User:
        return USERS[0]


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        ({}, ("apply", "success", 200, 0)),
        ({"statusCode": 7}, ("apply", "success", 200, 7)),
        (MissingParameter("operationName"), ("protection", "refused", 400, 1)),
        (InsufficientRole(), ("protection", "refused", 403, 5)),
        (RecordingNotFound("x"), ("protection", "refused", 404, 6)),
        (ElasticsearchUnavailable(), ("protection", "failed", 503, 4)),
        (ZeroDivisionError(), ("protection", "failed", 500, 4)),
        (ClientDisconnect(), ("protection", "failed", None, None)),
        (asyncio.CancelledError(), ("protection", "failed", None, None)),
    ],
)
async def test_an_operation_that_answers_with_an_envelope(
    tmp_path: Path, outcome: Any, expected: tuple[str, str, int | None, int | None]
) -> None:
    file = tmp_path / "audit.jsonl"
    log = AuditLog(str(file))
    endpoint = Endpoint(
        name="table",
        path="/api/v2/ops/contact-centers/{contact_center}/screen-recordings/{id}",
        authentication="basic",
        resource="screen-recordings",
        post=Method(handler=as_told, operation="ops-delete", audit="protection"),
    )
    routes = [Route(endpoint.path, Dispatcher(endpoint))]
    app = Starlette(routes=routes, middleware=[Middleware(EncodedPath)], exception_handlers=HANDLERS)
    app.state.services, app.state.outcome = (
        SimpleNamespace(activity=Activity(), audit=log, authenticator=AnyPassword()),
        outcome,
    )
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://recall", auth=("ops", "hunter2")) as client:
        with suppress(asyncio.CancelledError):
            await client.post("/api/v2/ops/contact-centers/recordings/screen-recordings/a%2Fb")
    log.close()
    (data,) = file.read_bytes().splitlines()
    line = msgspec.json.decode(data)
    assert (line["operation"], line["outcome"], line["httpStatus"], line["statusCode"]) == expected
    assert (line["user"], line["contactCenter"], line["recordingId"]) == ("ops", "recordings", "a/b")
    assert line["resource"] == "screen-recordings"


def headers_in_memory(name: bytes) -> list[bytes]:
    """Returns the values of a header in every list of headers that this process holds."""
    return [
        item[1]
        for found in gc.get_objects()
        if type(found) is list
        for item in found
        if type(item) is tuple and len(item) == 2 and item[0] == name
    ]


async def test_a_play_and_an_idle_connection_hold_no_password(
    played: Played, counting_storage: CountingStorage
) -> None:
    counting_storage.rate = 100_000
    url = urlsplit(played.service.url)
    request = f"GET %s HTTP/1.1\r\nHost: x\r\nX-Mark: here\r\nAuthorization: {basic('admin', 'admin-password')}\r\n\r\n"
    writers = []
    for path in (played.path, "/api/v2/recordings/missing"):
        reader, writer = await asyncio.open_connection(url.hostname, url.port)
        writers.append(writer)
        writer.write((request % path).encode())
        assert b"HTTP/1.1" in await reader.readuntil(b"\r\n\r\n")
    values = headers_in_memory(b"authorization")
    assert headers_in_memory(b"x-mark")
    for writer in writers:
        writer.close()
    assert basic("admin", "admin-password").encode() not in values


@pytest.mark.parametrize("is_right", [True, False])
async def test_the_password_is_forgotten_before_the_answer(is_right: bool) -> None:
    async def handle(request: Request) -> Response:
        return Response()

    async def authenticate(authorization: str | None, address: str) -> User:
        assert authorization
        if not is_right:
            raise NotAuthenticated
        return USERS[0]

    endpoint = Endpoint(
        name="x",
        path="/x",
        authentication="basic",
        resource="recordings",
        get=Method(handler=handle, operation="ops-read", audit=None),
    )
    app = Starlette(exception_handlers=HANDLERS)
    app.state.services = SimpleNamespace(
        activity=Activity(), audit=AuditLog(None), authenticator=SimpleNamespace(authenticate=authenticate)
    )
    scope: dict[str, Any] = {
        "type": "http",
        "method": "GET",
        "path": "/x",
        "path_params": {},
        "query_string": b"",
        "client": None,
        "app": app,
        "headers": [(b"host", b"recall"), (b"authorization", basic("ops", "hunter2").encode())],
    }
    seen: list[Any] = []

    async def send(message: Message) -> None:
        seen.append(list(scope["headers"]))

    with suppress(NotAuthenticated):
        await Dispatcher(endpoint)(scope, None, send)  # type: ignore[arg-type]
    assert scope["headers"] == [(b"host", b"recall")]
    assert seen == [scope["headers"]] * (2 if is_right else 0)


# --- the file ---


def an_entry(recording_id: str = "r") -> Entry:
    return Entry(
        user="purge",
        contact_center="cc",
        address=None,
        operation="purge",
        resource="screen-recordings",
        recording_id=recording_id,
        outcome="success",
    )


def test_a_line_is_ascii_without_control_characters(tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    log = AuditLog(str(file))
    nasty = "".join(map(chr, range(0xA0))) + "\u2028\ud800"
    log.write(an_entry(nasty))
    log.close()
    data = file.read_bytes()
    assert re.fullmatch(rb"[ -~]+\n", data)
    line = msgspec.json.decode(data.replace(b"\\ud800", b"?"))
    assert line.pop("recordingId") == nasty[:-1] + "?"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert re.fullmatch("[0-9a-f]{24}", line.pop("id"))
    assert line == {
        "user": "purge",
        "contactCenter": "cc",
        "address": None,
        "operation": "purge",
        "resource": "screen-recordings",
        "outcome": "success",
        "httpStatus": None,
        "statusCode": None,
    }
    assert file.stat().st_mode & 0o007 == 0


def test_the_file_may_be_moved_deleted_or_truncated_meanwhile(tmp_path: Path) -> None:
    file, moved = tmp_path / "audit.jsonl", tmp_path / "audit.jsonl.1"
    log = AuditLog(str(file))
    log.write(an_entry("1"))
    file.rename(moved)
    log.write(an_entry("2"))
    assert b'"1"' in moved.read_bytes()
    assert (moved.read_bytes().count(b"\n"), file.read_bytes().count(b"\n")) == (1, 1)
    file.rename(moved)
    file.touch()  # as logrotate's "create" does
    log.write(an_entry("3"))
    assert b'"2"' in moved.read_bytes()
    assert b'"3"' in file.read_bytes()
    file.unlink()
    log.write(an_entry("4"))
    assert b'"4"' in file.read_bytes()
    os.truncate(file, 0)  # "copytruncate"
    log.write(an_entry("5"))
    assert file.read_bytes().startswith(b"{")
    log.close()
    log.write(an_entry("6"))
    assert file.read_bytes().count(b"\n") == 2
    log.close()


_WRITER = """
import sys
from app.audit import AuditLog, Entry
log = AuditLog(sys.argv[1])
for n in range(2000):
    recording_id = sys.argv[2] * 400 + str(n)
    log.write(
        Entry(
            user="purge", contact_center="cc", address=None, operation="purge", resource="recordings",
            recording_id=recording_id,
        )
    )
    if len(sys.argv) > 3:
        import os
        os.kill(os.getpid(), 9)
"""


def test_several_processes_write_to_one_file_while_it_is_rotated(tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    writers = [subprocess.Popen([sys.executable, "-c", _WRITER, file, name]) for name in "abc"]
    rotated: list[Path] = []
    while any(writer.poll() is None for writer in writers):
        if file.exists() and file.stat().st_size > 300_000:
            rotated.append(file.rename(tmp_path / f"audit.{len(rotated)}"))
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert rotated
    data = b"".join(path.read_bytes() for path in [*rotated, file] if path.exists())
    found = [msgspec.json.decode(line)["recordingId"] for line in data.splitlines()]
    assert sorted(found) == sorted(name * 400 + str(n) for name in "abc" for n in range(2000))


async def test_a_line_outlives_kill_9_right_after_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", _WRITER, file, "a", "kill")
    assert await process.wait() == -9
    assert file.read_bytes().count(b"\n") == 1


def test_a_file_that_cannot_be_opened_fails_at_the_start(tmp_path: Path) -> None:
    for path in (tmp_path / "missing" / "audit.jsonl", tmp_path, Path("a\0b")):
        with pytest.raises(ConfigurationError, match="audit log"):
            create_app(Settings(audit_log=str(path)))


async def test_the_start_says_so_in_one_line(tmp_path: Path) -> None:
    status, _, errors = await Scripts(Settings(audit_log=str(tmp_path)), tmp_path).run("-m", "app")
    assert status == 1
    told = [line for line in errors.splitlines() if "no [[users]] are configured" not in line]
    assert told == [f"the audit log cannot be opened: [Errno 21] Is a directory: '{tmp_path}'"]


def test_a_line_that_the_file_does_not_take_goes_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    metrics = CollectorRegistry()
    log = AuditLog("/dev/full", metrics)
    log.write(an_entry("not lost"))
    log.close()
    assert metrics.get_sample_value("recall_audit_lines_not_written_total") == 1
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("recall.audit", "ERROR")
    assert "not lost" in record.getMessage()


_ON_A_FULL_DISK = """
import resource, sys
from app.audit import AuditLog, Entry

def write(log, recording_id):
    log.write(
        Entry(
            user="purge", contact_center="cc", address=None, operation="purge", resource="recordings",
            recording_id=recording_id,
        )
    )

first, second = AuditLog(sys.argv[1]), AuditLog(sys.argv[1])
write(first, "before")
resource.setrlimit(resource.RLIMIT_FSIZE, (300, resource.RLIM_INFINITY))
write(first, "while full")
write(second, "while still full")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
write(second, "after")
write(first, "later")
"""


def test_a_full_disk_spoils_no_later_line(tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    run = subprocess.run([sys.executable, "-c", _ON_A_FULL_DISK, file], stderr=subprocess.PIPE, text=True, check=True)
    whole, partial = [], []
    for line in file.read_bytes().split(b"\n")[:-1]:
        try:
            whole.append(msgspec.json.decode(line)["recordingId"])
        except msgspec.DecodeError:
            partial.append(line)
    assert whole == ["before", "after", "later"]
    assert len(partial) == 1
    assert partial[0]
    for lost in ("while full", "while still full"):  # the service's log has them whole
        assert f'"recordingId": "{lost}", "outcome": "failed"' in run.stderr


async def test_without_a_file_lines_go_to_the_log(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "recall.audit")
    await service.client("admin").get("/api/v2/recordings/missing/play/x.wav")
    (record,) = [record for record in caplog.records if record.name == "recall.audit"]
    assert msgspec.json.decode(record.getMessage())["recordingId"] == "missing"
