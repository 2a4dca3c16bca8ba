"""Clients without credentials cannot make a process grow, and what they took is back within seconds.

Neither can the screen recordings of one call.
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest
from elasticsearch import AsyncElasticsearch

from app.settings import Settings
from tests.support.processes import AppProcess
from tests.support.recordings import OPS_PATH, a_media_file, a_recording, store_many
from tests.support.service import PATIENT
from tests.support.sizes import FULL, size
from tests.support.waiting import eventually

SECONDS = size(3.0, full=20.0)
MIB = 2**20
# More than the process needs for 1,000 connections, and far less than the clients send.
MOST_GROWTH = 60 * MIB
# What Python's allocator keeps.
MOST_LEFT = 25 * MIB
BACK_WITHIN_SECONDS = 10.0
CONNECTIONS = 300

# Screen recordings of one call, with three media files each, and the bytes of each. Ten are worked on at once, each of
# which is in memory several times: as bytes, as text, decoded, and as the document that is written.
CALLS = [(200, 4 * MIB - 10_000), (1_000, 1_000)] if FULL else [(60, MIB)]
MOST_OF_SCREENS = 20 * MIB

PIPELINED = b"GET /api/v2/recordings HTTP/1.1\r\nHost: x\r\n\r\n" * 500
HEAD = b"GET / HTTP/1.1\r\n" + b"".join(b"x-%d: %b\r\n" % (i, b"y" * 600) for i in range(95))
BODY = b"POST /api/v2/recordings HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n" + b"x" * 60_000


@pytest.fixture
async def process(settings: Settings, tmp_path: Path) -> AsyncIterator[AppProcess]:
    process = AppProcess(msgspec.structs.replace(settings, **PATIENT), tmp_path)
    await process.start()
    yield process
    await process.stop()


def memory(process: AppProcess) -> int:
    resident = Path(f"/proc/{process.pid}/statm").read_text().split()[1]
    return int(resident) * os.sysconf("SC_PAGE_SIZE")


def descriptors(process: AppProcess) -> int:
    return len(list(Path(f"/proc/{process.pid}/fd").iterdir()))


class Unread(asyncio.Protocol):
    """A client that sends the same again and again, as long as it may, and never reads."""

    def __init__(self, data: bytes, *, again: bool) -> None:
        self._data, self._again = data, again

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        transport.pause_reading()  # type: ignore[attr-defined]
        self.resume_writing()

    def resume_writing(self) -> None:
        self.transport.write(self._data)  # type: ignore[attr-defined]
        if self._again and not self.transport.is_closing():
            asyncio.get_running_loop().call_later(0.01, self.resume_writing)


async def opened(process: AppProcess, data: bytes, *, again: bool) -> asyncio.BaseTransport:
    address = urlsplit(process.url)
    client = socket.socket()
    client.setblocking(False)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, (address.hostname, address.port))
    transport, _ = await loop.create_connection(lambda: Unread(data, again=again), sock=client)
    return transport


async def pipelining(process: AppProcess) -> list[asyncio.BaseTransport]:
    return [await opened(process, PIPELINED, again=False) for _ in range(CONNECTIONS)]


async def unfinished_heads(process: AppProcess) -> list[asyncio.BaseTransport]:
    return [await opened(process, HEAD, again=False) for _ in range(CONNECTIONS)]


async def idle(process: AppProcess) -> list[asyncio.BaseTransport]:
    return [await opened(process, b"", again=False) for _ in range(CONNECTIONS)]


async def unwanted_bodies(process: AppProcess) -> list[asyncio.BaseTransport]:
    return [await opened(process, BODY, again=True) for _ in range(8)]


@pytest.mark.parametrize("attack", [pipelining, unfinished_heads, idle, unwanted_bodies])
async def test_memory_and_descriptors_are_back_seconds_after_an_attack(
    process: AppProcess, attack: Callable[[AppProcess], Awaitable[list[asyncio.BaseTransport]]]
) -> None:
    async with process.client() as client:
        assert (await client.get("/health/live")).status_code == 200
    before, opened_before = memory(process), descriptors(process)
    transports = await attack(process)
    largest = before
    with suppress(TimeoutError):
        async with asyncio.timeout(SECONDS):
            while True:
                largest = max(largest, memory(process))
                await asyncio.sleep(0.05)
    for transport in transports:
        transport.abort()  # type: ignore[attr-defined]
    assert largest - before < MOST_GROWTH
    await eventually(lambda: descriptors(process) <= opened_before + 5, seconds=BACK_WITHIN_SECONDS)
    await eventually(lambda: memory(process) - before < MOST_LEFT, seconds=BACK_WITHIN_SECONDS)


@pytest.mark.parametrize(("count", "each"), CALLS)
async def test_protecting_a_call_needs_no_more_memory_for_more_screen_recordings(
    process: AppProcess, settings: Settings, elasticsearch: AsyncElasticsearch, count: int, each: int
) -> None:
    for start in range(0, count, 10):
        screens = (
            a_recording(f"{i}", notes="n" * each, mediaFiles=[a_media_file(f"{i}-{j}.mp4") for j in range(3)])
            for i in range(start, min(start + 10, count))
        )
        await store_many(elasticsearch, settings, screens, resource="screen-recordings")
    async with process.client("ops") as ops, process.client("admin") as admin:
        assert (await ops.post(OPS_PATH, json=a_recording("r"))).status_code == 201
        before = largest = memory(process)
        operation = {"operationName": "applyNonDelete"}
        applying = asyncio.create_task(admin.post("/api/v2/recordings/r", json=operation, timeout=600))
        while not applying.done():
            largest = max(largest, memory(process))
            await asyncio.sleep(0.01)
        assert (await applying).json() == {"statusCode": 0}
        path = OPS_PATH.replace("/recordings", "/screen-recordings")
        for i in (0, count - 1):
            assert (await ops.get(f"{path}/{i}")).json()["screenRecording"]["nonDelete"] is True
    assert largest - before < MOST_OF_SCREENS + 8 * 10 * each
