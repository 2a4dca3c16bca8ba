"""Players that leave, stall or are many, seen from the storage's side and from the process's."""

import asyncio
import base64
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
import uvloop

from app.settings import StorageConfig
from tests.support.certificates import Certificate
from tests.support.faults import CountingStorage, FaultServer, generated
from tests.support.media import Media, post_media
from tests.support.processes import AppProcess
from tests.support.service import PATIENT, StartService
from tests.support.sizes import LEAVING_PLAYERS, size
from tests.support.waiting import eventually

LONG = 200_000_000
AUTHORIZATION = f"Basic {base64.b64encode(b'admin:admin-password').decode()}"
HEADERS_END = b"\r\n\r\n"
# A busy machine's "immediately", in seconds. A polite end of TLS takes 30.
SOON = 10


@pytest.fixture(params=["tcp", "tls"])
def used_certificate(request: pytest.FixtureRequest, certificate: Certificate) -> Certificate | None:
    """Of the storages: each test has them over TCP and over TLS."""
    return certificate if request.param == "tls" else None


@pytest.fixture
async def counting_storage(used_certificate: Certificate | None) -> AsyncIterator[CountingStorage]:
    async with CountingStorage(certificate=used_certificate) as server:
        yield server


@pytest.fixture
async def faults(used_certificate: Certificate | None) -> AsyncIterator[FaultServer]:
    async with FaultServer(certificate=used_certificate) as server:
        yield server


async def test_the_event_loop_is_that_of_production() -> None:
    assert isinstance(asyncio.get_running_loop(), uvloop.Loop)


async def ask(url: str, path: str, *, buffer: int = 1 << 16) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Asks for a file over a connection of its own, and reads nothing yet."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port, limit=buffer)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {AUTHORIZATION}\r\n\r\n".encode())
    return reader, writer


@pytest.mark.parametrize("endless", [False, True], ids=["known length", "in chunks"])
async def test_disconnected_players_free_the_storage_immediately(
    start_service: StartService, counting_storage: CountingStorage, faults: FaultServer, endless: bool
) -> None:
    storage: CountingStorage | FaultServer = faults if endless else counting_storage
    counting_storage.rate = 8_000_000  # or filling the network's buffers is what takes the time
    url = faults.url_of("endless") if endless else counting_storage.put("long.wav", LONG)
    # As many streams as players: one that is not freed would make the others wait.
    service = await start_service(storage=StorageConfig(webdav=(storage.config,)), storage_streams=16)
    media = await post_media(service, {"storage": "webDAV", "path": url})
    rng = random.Random(6)
    before = asyncio.all_tasks()
    received = 0

    async def leave_somewhere() -> None:
        nonlocal received
        reader, writer = await ask(service.url, media.path)
        wanted = rng.choice([0, 1, rng.randrange(2000), rng.randrange(500_000)])
        while wanted > 0 and (data := await reader.read(wanted)):
            wanted -= len(data)
            received += len(data)
        assert wanted <= 0
        if rng.random() < 0.5:  # before the service has heard of it, or while it sends
            await asyncio.sleep(rng.random() / 200)
        writer.transport.abort()

    async def leave_often(times: int) -> None:
        for _ in range(times):
            await leave_somewhere()

    await asyncio.gather(*(leave_often(LEAVING_PLAYERS // 3 if endless else LEAVING_PLAYERS) for _ in range(16)))
    assert received > 1_000_000
    await eventually(lambda: storage.open_connections == 0)
    await eventually(lambda: asyncio.all_tasks() <= before)
    if not endless:
        response = await media.play(Range="bytes=7-99999")
        assert (response.status_code, response.content) == (206, generated(7, 100_000))


async def test_a_player_that_leaves_before_the_first_byte_frees_the_storage_immediately(
    start_service: StartService, faults: FaultServer
) -> None:
    service = await start_service(
        storage=StorageConfig(webdav=(faults.config,)), storage_first_byte_seconds=60, storage_streams=1
    )
    for fault in ("stall-before-headers", "stall-in-headers"):
        media = await post_media(service, {"storage": "webDAV", "path": faults.url_of(fault)})
        _, writer = await ask(service.url, media.path)
        await eventually(lambda: faults.answering == 1)
        writer.transport.abort()
        await eventually(lambda: faults.open_connections == 0, SOON)


async def test_an_answer_whose_body_is_not_wanted_frees_the_storage_immediately(
    start_service: StartService, counting_storage: CountingStorage
) -> None:
    """The storage sends the whole file, whatever the conditions are."""
    service = await start_service(storage=StorageConfig(webdav=(counting_storage.config,)), storage_streams=1)
    media = await post_media(service, {"storage": "webDAV", "path": counting_storage.put("long.wav", LONG)})
    etag = (await media.admin.head(media.path)).headers["etag"]
    for _ in range(3):
        assert (await media.play(If_None_Match=etag)).status_code == 304
        await eventually(lambda: counting_storage.open_connections == 0, SOON)
        before = counting_storage.connections
        headers = {"Range": "bytes=1-", "If-Range": '"another"'}
        async with media.admin.stream("GET", media.path, headers=headers) as response:
            assert (response.status_code, response.headers["content-length"]) == (200, str(LONG))
            await eventually(lambda: counting_storage.open_connections == 1, SOON)
            assert counting_storage.connections == before + 2
        await eventually(lambda: counting_storage.open_connections == 0, SOON)
    assert counting_storage.bytes_sent < LONG


@pytest.mark.parametrize("end", ["pauses", "leaves"])
async def test_listener_that_pauses_or_leaves_is_not_a_failure(
    start_service: StartService,
    counting_storage: CountingStorage,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    end: str,
) -> None:
    caplog.set_level("INFO", "app.media")
    file = tmp_path / "audit.jsonl"
    service = await start_service(
        storage=StorageConfig(webdav=(counting_storage.config,)),
        player_stall_seconds=0.5 if end == "pauses" else 60,
        audit_log=str(file),
    )
    media = await post_media(service, {"storage": "webDAV", "path": counting_storage.put("long.wav", LONG)})
    reader, writer = await ask(service.url, media.path, buffer=1024)
    assert (await reader.readuntil(HEADERS_END)).startswith(b"HTTP/1.1 200")
    if end == "leaves":
        writer.transport.abort()

    def lines() -> list[dict[str, Any]]:
        return [line for line in map(json.loads, file.read_text().splitlines()) if line["operation"] == "play"]

    await eventually(lambda: bool(lines()))
    writer.transport.abort()
    (line,) = lines()
    assert (line["outcome"], line["httpStatus"], line["completed"]) == ("success", 200, False)
    messages = [record.getMessage() for record in caplog.records if record.name == "app.media.response"]
    # On a busy machine it takes a little longer.
    assert [message.partition(" for ")[0] for message in messages] == (
        ["a media stream ends: its player has taken nothing"] if end == "pauses" else []
    )


async def test_storage_connection_is_reused_by_later_plays(
    start_service: StartService, counting_storage: CountingStorage
) -> None:
    service = await start_service(storage=StorageConfig(webdav=(counting_storage.config,)))
    media = await post_media(service, {"storage": "webDAV", "path": counting_storage.put("a.wav", 3_000_000)})
    for _ in range(5):
        response = await media.play()
        assert response.content == generated(0, 3_000_000)
    assert (counting_storage.connections, len(counting_storage.requests)) == (1, 5)


def peak_memory(app: AppProcess) -> int:
    """The most bytes the process ever had in memory."""
    status = Path(f"/proc/{app.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


@pytest.fixture
async def long_media(start_service: StartService, counting_storage: CountingStorage) -> Media:
    service = await start_service(storage=StorageConfig(webdav=(counting_storage.config,)), **PATIENT)
    return await post_media(service, {"storage": "webDAV", "path": counting_storage.put("long.wav", LONG)})


@pytest.fixture
async def app(long_media: Media, tmp_path: Path) -> AsyncIterator[AppProcess]:
    """The service as a process of its own, on the same indices and storage as `long_media`."""
    app = AppProcess(msgspec.structs.replace(long_media.service.settings, shutdown_seconds=1), tmp_path)
    await app.start()
    yield app
    await app.kill()


async def test_memory_per_slow_player_is_bounded(
    app: AppProcess, long_media: Media, counting_storage: CountingStorage, used_certificate: Certificate | None
) -> None:
    """A megabyte, and half as much again for what TLS holds encrypted."""
    players, most = size(120, full=200), 1_500_000 if used_certificate else 1_000_000
    _, first = await ask(app.url, long_media.path)
    await eventually(lambda: counting_storage.bytes_sent > 0)
    first.transport.abort()
    await eventually(lambda: counting_storage.open_connections == 0)
    before = peak_memory(app)

    async def play_slowly() -> asyncio.StreamWriter:
        reader, writer = await ask(app.url, long_media.path, buffer=1024)
        head = await reader.readuntil(HEADERS_END)
        assert head.startswith(b"HTTP/1.1 200"), head
        for _ in range(20):
            await reader.readexactly(5_000)
            await asyncio.sleep(0.05)
        return writer

    writers = await asyncio.gather(*(play_slowly() for _ in range(players)))
    open_connections, memory = counting_storage.open_connections, peak_memory(app) - before
    for writer in writers:
        writer.transport.abort()
    assert open_connections == players
    assert memory < players * most
    await eventually(lambda: counting_storage.open_connections == 0)


async def test_shutdown_frees_the_storage(
    app: AppProcess, long_media: Media, counting_storage: CountingStorage
) -> None:
    players = [await ask(app.url, long_media.path, buffer=1024) for _ in range(5)]
    for reader, _ in players:
        await reader.readuntil(HEADERS_END)
    app.terminate()
    await eventually(lambda: counting_storage.open_connections == 0)
    await asyncio.wait_for(app.stop(), 20)
    for _, writer in players:
        writer.transport.abort()
