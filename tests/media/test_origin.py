"""A play never acts as a page of our origin, and nothing of it stays in a cache (docs/contract.md sections 1 and 6)."""

import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from app.settings import StorageConfig, WebDavConfig
from tests.support.audit import lines_but_posts
from tests.support.faults import SOUND, CountingStorage, TypedStorage
from tests.support.media import post_media
from tests.support.recordings import OPS_PATH, a_media_file, a_recording
from tests.support.service import Service, StartService, assert_error
from tests.support.waiting import eventually

HEADERS = {
    "cache-control": "private, no-store",
    "x-content-type-options": "nosniff",
    "content-security-policy": "script-src 'none'; object-src 'none'; base-uri 'none'; form-action 'none'",
}


@pytest.fixture
async def storage() -> AsyncIterator[TypedStorage]:
    async with TypedStorage() as server:
        yield server


@pytest.fixture
async def service(start_service: StartService, storage: TypedStorage) -> Service:
    return await start_service(storage=StorageConfig(webdav=(WebDavConfig(storage.url),)))


async def post_all(service: Service, files: list[dict[str, Any]]) -> list[str]:
    """Stores one recording with these media files; the paths that play them."""
    recording = a_recording(mediaFiles=files)
    response = await service.client("ops").post(OPS_PATH, json=recording)
    assert response.status_code == 201, response.text
    read = await service.client("admin").get("/api/v2/recordings/recording")
    return ["/api/v2" + file["playPath"] for file in read.json()["recording"]["mediaFiles"]]


OCTETS = "application/octet-stream"
# The media file's type, its path, the storage's type: what the client gets.
TYPES: list[tuple[str | None, str, str | None, str | None]] = [
    ("audio/wav", "a.wav", None, "audio/wav"),
    ("audio/wav", "a.wav", "video/mp4", "audio/wav"),
    ("Video/MP4", "a", None, "Video/MP4"),
    ('audio/webm; codecs="opus, x"', "a", None, 'audio/webm; codecs="opus, x"'),
    ("audio/vnd.wave;codec=1", "a", None, "audio/vnd.wave;codec=1"),
    (None, "a.wav", "audio/mpeg", "audio/mpeg"),
    (None, "a.wav", "video/webm;codecs=vp8", "video/webm;codecs=vp8"),
    ("text/html", "a.wav", "text/html", OCTETS),
    ("text/html", "a.wav", "audio/wav", OCTETS),
    ("TEXT/HTML; charset=utf-8", "a.html", "text/html", OCTETS),
    ("image/svg+xml", "a.svg", "image/svg+xml", OCTETS),
    ("application/xml", "a.xml", "audio/wav", OCTETS),
    (None, "a.html", "text/html", OCTETS),
    (None, "a.svg", "image/svg+xml", OCTETS),
    (None, "a.wav", None, OCTETS),
    (None, "a.wav", OCTETS, OCTETS),
    ("audio/", "a.wav", "audio/wav", OCTETS),
    ("audio/wav, text/html", "a.wav", "audio/wav", OCTETS),
    ("audio/wav\r\nX-Evil: 1", "a.wav", "audio/wav", OCTETS),
    ("audio/wäv", "a.wav", "audio/wav", OCTETS),
    (None, "a.wav", "audio/é", OCTETS),
    # A page where a sound was expected.
    ("audio/wav", "a.wav", "text/html", None),
    (None, "a.wav", "text/html; charset=utf-8", None),
    (None, "a", "application/xhtml+xml", None),
]


async def test_only_sounds_and_pictures_have_their_type(service: Service, storage: TypedStorage) -> None:
    files = []
    for number, (media_type, path, stored_type, _) in enumerate(TYPES):
        url = storage.put(f"{number}/{path}", {} if stored_type is None else {"Content-Type": stored_type})
        attributes = {} if media_type is None else {"type": media_type}
        files.append(a_media_file(mediaDescriptor={"storage": "webDAV", "path": url}, **attributes))
    admin = service.client("admin")
    for path, case in zip(await post_all(service, files), TYPES, strict=True):
        for method in ("GET", "HEAD"):
            response = await admin.request(method, path)
            headers = response.headers
            assert {name: headers.get(name) for name in HEADERS} == HEADERS, case
            if case[3] is None:
                assert response.status_code == 502, case
                continue
            assert (response.status_code, headers["content-type"]) == (200, case[3]), case
            assert headers.get("content-disposition") == ("attachment" if case[3] == OCTETS else None), case
            assert "x-evil" not in headers
            assert response.content == (SOUND if method == "GET" else b"")


async def test_every_answer_of_a_play_says_that_it_is_not_to_be_kept(
    service: Service, storage: TypedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    descriptor = {"storage": "webDAV", "path": storage.put("a.wav", {"ETag": '"x"'})}
    gone = {"storage": "webDAV", "path": f"{storage.url}/gone.wav"}
    path, gone_path = await post_all(service, [a_media_file(mediaDescriptor=each) for each in (descriptor, gone)])
    answers: list[tuple[int, str, str, str | None, dict[str, str]]] = [
        (200, "GET", path, "admin", {}),
        (200, "HEAD", path, "admin", {}),
        (304, "GET", path, "admin", {"If-None-Match": '"x"'}),
        (412, "GET", path, "admin", {"If-Match": '"y"'}),
        (416, "GET", path, "admin", {"Range": "bytes=1000000-"}),
        (401, "GET", path, None, {}),
        (401, "HEAD", path, None, {}),
        (403, "GET", path, "agent", {}),
        (404, "GET", gone_path, "admin", {}),
        (404, "GET", path, "other-admin", {}),
        (404, "GET", path.replace("/recordings/", "/screen-recordings/"), "admin", {}),
        (405, "POST", path, "admin", {}),
        (405, "DELETE", path, "admin", {}),
    ]
    for status, method, target, user, headers in answers:
        response = await service.client(user).request(method, target, headers=headers)
        assert response.status_code == status, (method, target, user, response.text)
        assert {name: response.headers.get(name) for name in HEADERS} == HEADERS, (status, method)
    monkeypatch.setattr("app.api.playback.media_file_named", lambda *_: 1 / 0)
    response = await service.client("admin").get(path)
    assert_error(response, 500, 4)
    assert {name: response.headers.get(name) for name in HEADERS} == HEADERS


async def test_every_json_response_says_that_it_is_not_to_be_kept(module_service: Service) -> None:
    admin, ops = module_service.client("admin"), module_service.client("ops")
    assert (await ops.post(OPS_PATH, json=a_recording())).status_code in {200, 201}
    responses = [
        await admin.get("/api/v2/recordings/recording"),
        await admin.get("/api/v2/recordings?userName=dima"),
        await admin.get("/api/v2/recordings"),
        await admin.post("/api/v2/recordings/recording", json={"operationName": "applyNonDelete"}),
        await admin.get("/api/v2/recordings/none"),
        await module_service.client().get("/api/v2/recordings/recording"),
        await admin.get("/nothing/here"),
        await admin.put("/api/v2/recordings"),
        await ops.delete(f"{OPS_PATH}/none"),
        await admin.get("/health/live"),
    ]
    for response in responses:
        assert response.headers["cache-control"] == "no-store", response.request.url
    assert len({response.status_code for response in responses}) >= 5


# The mediaId, the path, and the name to save the file under.
NAMES = [
    ("call 1.wav", "a.mp3", "call 1.wav"),
    ("call 1", "a.mp3", "call 1.mp3"),
    ("call 1.", "a.mp3", "call 1..mp3"),
    ("2013-05-17 11.45 Uhr", "a.mp3", "2013-05-17 11.45 Uhr.mp3"),
    ("../../etc/passwd", "a.mp3", "../../etc/passwd.mp3"),
    ("x" * 5000, "a.mp3", "x" * 200 + ".mp3"),
    ("x" * 197 + ".wav", "a.mp3", "x" * 197 + ".wa"),
    ("ü" * 101, "a.mp3", "ü" * 100 + ".mp3"),
    ("x" + "😀" * 50, "a.mp3", "x" + "😀" * 49 + ".mp3"),
    ("call", "folder.d/a", "call.wav"),
]


async def test_a_download_has_a_short_name_with_an_extension(service: Service, storage: TypedStorage) -> None:
    files = [
        a_media_file(
            mediaDescriptor={"storage": "webDAV", "path": storage.put(f"{number}/{path}", {})},
            mediaId=media_id,
            type="audio/wav",
        )
        for number, (media_id, path, _) in enumerate(NAMES)
    ]
    admin = service.client("admin")
    for path, (_, _, name) in zip(await post_all(service, files), NAMES, strict=True):
        response = await admin.get(f"{path}?download")
        disposition = response.headers["content-disposition"]
        assert disposition.partition("; filename=")[0] == "attachment"
        assert disposition.rpartition("filename*=UTF-8''")[2] == quote(name, safe="")
        assert len(disposition) < 1000


async def test_without_a_media_id_the_name_is_that_of_the_path(service: Service, storage: TypedStorage) -> None:
    media = await post_media(service, {"storage": "webDAV", "path": storage.put("a.mp3", {})})
    name = media.path.rpartition("/")[2]
    response = await media.admin.get(f"{media.path}?download")
    assert response.headers["content-disposition"] == f"attachment; filename=\"{name}\"; filename*=UTF-8''{name}"


async def test_a_header_of_a_storage_outside_ascii_is_no_error_of_ours(service: Service, storage: TypedStorage) -> None:
    headers = {"ETag": '"é"', "Last-Modified": "gestern, früh", "Content-Type": "audio/é", "X-Other": "ü"}
    media = await post_media(service, {"storage": "webDAV", "path": storage.put("a.wav", headers)}, type="audio/wav")
    response = await media.play()
    assert (response.status_code, response.content) == (200, SOUND)
    assert dict(response.headers.raw)[b"etag"] == b'"\xe9"'


async def test_a_listener_who_pauses_for_long_is_no_failure(
    start_service: StartService, counting_storage: CountingStorage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "app.media.response")
    audit = tmp_path / "audit.jsonl"
    service = await start_service(
        storage=StorageConfig(webdav=(WebDavConfig(counting_storage.url),)),
        player_stall_seconds=0.3,
        audit_log=str(audit),
    )
    url = counting_storage.put("long.wav", 200_000_000)
    media = await post_media(service, {"storage": "webDAV", "path": url})
    async with media.admin.stream("GET", media.path) as response:
        assert response.status_code == 200
        await eventually(lambda: bool(lines_but_posts(audit)))
    (line,) = lines_but_posts(audit)
    assert (line["outcome"], line["statusCode"], line["completed"]) == ("success", 0, False)
    assert 0 < line["bytesSent"] < 200_000_000
    (message,) = [record.getMessage() for record in caplog.records if record.name == "app.media.response"]
    assert re.search(r"has taken nothing for [0-9.]+ seconds", message)
