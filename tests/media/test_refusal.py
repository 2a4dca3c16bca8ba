"""What is not configured is refused at play, and sees no connection (docs/contract.md section 6)."""

import logging
import sys
from typing import Any
from urllib.parse import urlsplit

import pytest
from elasticsearch import AsyncElasticsearch

from app.settings import Settings, StorageConfig, WebDavConfig
from tests.support.faults import CountingStorage, FaultServer, Trap
from tests.support.recordings import OPS_PATH, a_media_file, a_recording, store_many
from tests.support.service import StartService, assert_error

# Every address that this process connects to; an audit hook cannot be removed.
connected: list[Any] = []
sys.addaudithook(lambda event, arguments: connected.append(arguments[1]) if event == "socket.connect" else None)


# URLs below none of the configured bases, or such that programs read differently.
PATHS = [
    "http://127.0.0.1:{trap}/recordings/a.wav",
    "http://localhost:{trap}/recordings/a.wav",
    "http://LocalHost:{trap}/recordings/a.wav",
    "http://localhost:{allowed}/recordings/a.wav",
    "http://[::1]:{trap}/recordings/a.wav",
    "http://[::1]:{allowed}/recordings/a.wav",
    "http://[::ffff:127.0.0.1]:{allowed}/recordings/a.wav",
    "http://2130706433:{allowed}/recordings/a.wav",
    "http://0x7f.1:{allowed}/recordings/a.wav",
    "http://127.1:{allowed}/recordings/a.wav",
    "http://0.0.0.0:{trap}/recordings/a.wav",
    "http://127.0.0.1:{allowed}@127.0.0.1:{trap}/recordings/a.wav",
    "http://allowed.example@127.0.0.1:{trap}/recordings/a.wav",
    "http://127.0.0.1:{trap}#@127.0.0.1:{allowed}/recordings/a.wav",
    "http://127.0.0.1:{trap}\\\\@127.0.0.1:{allowed}/recordings/a.wav",
    "http://127.0.0.1:{allowed}/recordings/../other/a.wav",
    "http://127.0.0.1:{allowed}/recordings/%2e%2e/other/a.wav",
    "http://127.0.0.1:{allowed}/recordings/..%2fother/a.wav",
    "http://127.0.0.1:{allowed}/recordings/x%2Fallowed.wav",
    "http://127.0.0.1:{allowed}/recordings%2Fallowed.wav",
    "http://127.0.0.1:{allowed}/recordings/%5Callowed.wav",
    "http://127.0.0.1:{allowed}/recordings/allowed%00.wav",
    "http://127.0.0.1:{allowed}/other/a.wav",
    "http://169.254.169.254/recordings/a.wav",
    "http://169.254.169.254:{allowed}/recordings/latest/meta-data",
    "https://127.0.0.1:{allowed}/recordings/a.wav",
]


async def test_unconfigured_storage_receives_no_connection(
    start_service: StartService,
    elasticsearch: AsyncElasticsearch,
    settings: Settings,
    counting_storage: CountingStorage,
    trap: Trap,
) -> None:
    """Stored behind the service's back, as when the configuration has changed since it was posted."""
    service = await start_service(storage=StorageConfig(webdav=(WebDavConfig(counting_storage.url),)))
    urls = [path.format(trap=trap.port, allowed=counting_storage.port) for path in PATHS]
    descriptors: list[dict[str, Any]] = [{"storage": "webDAV", "path": url} for url in urls]
    descriptors += [
        {"storage": "awsS3", "path": "a.wav", "data": {"bucket": "stage-recordings"}},
        {"storage": "webDAV", "path": counting_storage.put("allowed.wav", 1000)},
    ]
    media = [a_media_file(mediaDescriptor=descriptor) for descriptor in descriptors]
    await store_many(elasticsearch, settings, [a_recording(mediaFiles=media)])
    admin = service.client("admin")
    recording = (await admin.get("/api/v2/recordings/recording")).json()["recording"]
    *refused, played = ("/api/v2" + file["playPath"] for file in recording["mediaFiles"])
    connected.clear()
    for descriptor, path in zip(descriptors, refused, strict=False):
        assert (await admin.head(path)).status_code == 502, descriptor
        assert_error(await admin.get(path), 502, 4, "not in a configured media storage")
        assert (trap.connections, counting_storage.connections) == (0, 0), descriptor
    here = {int(url.rpartition(":")[2]) for url in (service.url, settings.elasticsearch_url)}
    assert {address[1] for address in connected} <= here
    # What is allowed is played, and seen both ways.
    assert (await admin.get(played)).status_code == 200
    assert counting_storage.connections == 1
    assert ("127.0.0.1", counting_storage.port) in connected


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirect_is_not_followed(
    start_service: StartService, faults: FaultServer, trap: Trap, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    """To another object, another host, itself, a folder, or nowhere: of GET, HEAD, PROPFIND and DELETE."""
    service = await start_service(storage=StorageConfig(webdav=(WebDavConfig(faults.url),)))
    urls = [
        faults.url_of(f"redirect-{status}-{to}") for to in ("trap", "self", "other", "relative", "folder", "nowhere")
    ]
    media = [a_media_file(mediaDescriptor={"storage": "webDAV", "path": url}) for url in urls]
    ops, admin = service.client("ops"), service.client("admin")
    assert (await ops.post(OPS_PATH, json=a_recording(mediaFiles=media))).status_code == 201
    recording = (await admin.get("/api/v2/recordings/recording")).json()["recording"]
    for file in recording["mediaFiles"]:
        for method in ("GET", "HEAD"):
            caplog.clear()
            response = await admin.request(method, "/api/v2" + file["playPath"], follow_redirects=True)
            assert response.status_code == 502
            (line,) = logged(caplog)
            assert line.startswith(f"media storage {faults.url}: it redirects, which is not followed")
        assert_error(await admin.get("/api/v2" + file["playPath"]), 502, 4, "The media storage")
    caplog.clear()
    response = await ops.delete(f"{OPS_PATH}/recording", params={"subresources": "*"})
    assert response.json()["statusCode"] == 7
    assert [failed["mediaDescriptor"]["path"] for failed in response.json()["failed"]] == urls
    assert sum("a redirect, which is not followed" in line for line in logged(caplog)) == len(urls)
    assert {request.target.rstrip("/") for request in faults.requests} == {urlsplit(url).path for url in urls}
    assert "DELETE" not in {request.method for request in faults.requests}
    assert trap.connections == 0


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the log says of storages."""
    messages = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    return [message for message in messages if message.startswith("media storage ")]
