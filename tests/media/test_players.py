"""Players that leave, stall or are many, seen from the storage's side and from the process's."""

import asyncio
import base64
import json
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest

from app.settings import Settings, StorageConfig, WebDavConfig
from tests.support.faults import CountingStorage, FaultServer, generated
from tests.support.media import Media, post_media
from tests.support.service import StartService
from tests.support.waiting import eventually

LONG = 200_000_000
AUTHORIZATION = f"Basic {base64.b64encode(b'admin:admin-password').decode()}"
HEADERS_END = b"\r\n\r\n"


async def ask(url: str, path: str, *, buffer: int = 1 << 16) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Asks for a file over a connection of its own, and reads nothing yet."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port, limit=buffer)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {AUTHORIZATION}\r\n\r\n".encode())
    return reader, writer


@pytest.mark.parametrize("endless", [False, True], ids=["known length", "in chunks"])
async def test_players_that_leave_free_the_storage_at_once(
    start_service: StartService, counting_storage: CountingStorage, faults: FaultServer, endless: bool
) -> None:
    storage: CountingStorage | FaultServer = faults if endless else counting_storage
    counting_storage.rate = 8_000_000  # or filling the network's buffers is what takes the time
    url = faults.url_of("endless") if endless else counting_storage.put("long.wav", LONG)
    # As many streams as players: one that is not freed would make the others wait.
    service = await start_service(storage=StorageConfig(webdav=(WebDavConfig(storage.url),)), storage_streams=16)
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

    await asyncio.gather(*(leave_often(12 if endless else 125) for _ in range(16)))
    assert received > 1_000_000
    await eventually(lambda: storage.open_connections == 0)
    await eventually(lambda: asyncio.all_tasks() <= before)
    if not endless:
        response = await media.play(Range="bytes=7-99999")
        assert (response.status_code, response.content) == (206, generated(7, 100_000))


async def test_a_connection_to_the_storage_serves_one_play_after_the_other(
    start_service: StartService, counting_storage: CountingStorage
) -> None:
    service = await start_service(storage=StorageConfig(webdav=(WebDavConfig(counting_storage.url),)))
    media = await post_media(service, {"storage": "webDAV", "path": counting_storage.put("a.wav", 3_000_000)})
    for _ in range(5):
        response = await media.play()
        assert response.content == generated(0, 3_000_000)
    assert (counting_storage.connections, len(counting_storage.requests)) == (1, 5)


class App:
    """The service as a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self.process = process
        self.url = url

    def peak_memory(self) -> int:
        """The most bytes it ever had in memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024


@pytest.fixture
async def long_media(start_service: StartService, counting_storage: CountingStorage) -> Media:
    service = await start_service(storage=StorageConfig(webdav=(WebDavConfig(counting_storage.url),)))
    return await post_media(service, {"storage": "webDAV", "path": counting_storage.put("long.wav", LONG)})


@pytest.fixture
async def app(long_media: Media, tmp_path: Path) -> AsyncIterator[App]:
    """On the same indices and storage as `long_media`."""
    settings: Settings = long_media.service.settings
    values = msgspec.to_builtins(msgspec.structs.replace(settings, port=0, shutdown_seconds=1))
    tables = {"users": values.pop("users"), "storage.webdav": values.pop("storage")["webdav"]}
    lines = [toml(values), *(f"[[{name}]]\n{toml(entry)}" for name, entries in tables.items() for entry in entries)]
    (tmp_path / "recall.toml").write_text("\n".join(lines))
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RECALL_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "app",
        env={**inherited, "RECALL_CONFIG": str(tmp_path / "recall.toml")},
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr
    url = ""
    async for line in process.stderr:
        if b"running on" in line:
            url = line.split(b"running on ")[1].split()[0].decode()
            break
    assert url, "the app did not start"
    yield App(process, url)
    if process.returncode is None:
        process.kill()
    await process.communicate()


def toml(values: dict[str, object]) -> str:
    """JSON strings, numbers and lists are TOML ones."""
    return "\n".join(f"{name} = {json.dumps(value)}" for name, value in values.items() if value is not None)


async def test_memory_does_not_grow_by_a_megabyte_for_each_slow_player(
    app: App, long_media: Media, counting_storage: CountingStorage
) -> None:
    players = 200
    _, first = await ask(app.url, long_media.path)
    await eventually(lambda: counting_storage.bytes_sent > 0)
    first.transport.abort()
    await eventually(lambda: counting_storage.open_connections == 0)
    before = app.peak_memory()

    async def play_slowly() -> asyncio.StreamWriter:
        reader, writer = await ask(app.url, long_media.path, buffer=1024)
        head = await reader.readuntil(HEADERS_END)
        assert head.startswith(b"HTTP/1.1 200"), head
        for _ in range(20):
            await reader.readexactly(5_000)
            await asyncio.sleep(0.05)
        return writer

    writers = await asyncio.gather(*(play_slowly() for _ in range(players)))
    assert counting_storage.open_connections == players
    assert app.peak_memory() - before < players * 1_000_000
    for writer in writers:
        writer.transport.abort()
    await eventually(lambda: counting_storage.open_connections == 0)


async def test_a_server_that_stops_frees_the_storage(
    app: App, long_media: Media, counting_storage: CountingStorage
) -> None:
    players = [await ask(app.url, long_media.path, buffer=1024) for _ in range(5)]
    for reader, _ in players:
        await reader.readuntil(HEADERS_END)
    app.process.send_signal(signal.SIGTERM)
    await eventually(lambda: counting_storage.open_connections == 0)
    await asyncio.wait_for(app.process.wait(), 20)
    for _, writer in players:
        writer.transport.abort()
