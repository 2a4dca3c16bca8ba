"""The service behind docs/examples/nginx.conf.template: a real nginx, and a name server that a test can change."""

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, urlsplit

import httpx
import msgspec
import pytest

from app.settings import StorageConfig, WebDavConfig
from tests.support import proxy
from tests.support.faults import CountingStorage, generated
from tests.support.recordings import OPS_PATH, a_media_file, a_recording
from tests.support.service import Service, assert_error, own_settings
from tests.support.waiting import eventually

IDS = ("a/b", "a//b", "a/../b", "%", "100%2F", "two words", "+", "?q=1#f;v", "Żółć ☎ 電話", "play/x", "metrics")


class NameServer(asyncio.DatagramProtocol):
    """Every name has these IPv4 addresses."""

    addresses: tuple[str, ...] = ("127.0.0.1",)
    asked = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        self.asked += 1
        question = data[12:]
        addresses = self.addresses if question[-4:-2] == b"\0\1" else ()  # it is asked for IPv6, too
        header = data[:2] + struct.pack(">5H", 0x8180, 1, len(addresses), 0, 0)
        answers = [b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, 4) + socket.inet_aton(item) for item in addresses]
        self._transport.sendto(header + question + b"".join(answers), address)


@dataclass
class Proxied:
    """The service and what is around it; `url` is nginx's."""

    url: str
    service: Service
    names: NameServer
    storage: CountingStorage
    audit_log: Path

    def client(self, user: str) -> httpx.AsyncClient:
        client = self.service.client(user)
        client.base_url = httpx.URL(self.url)
        return client

    async def post(self, recording_id: str, size: int = 1000, query: str = "") -> str:
        """Posts a recording with a media file of that many bytes; the file's `mediaUri`."""
        posted = await self.client("ops").post(OPS_PATH + query, json=self.recording(recording_id, size))
        assert posted.status_code == 201, posted.text
        found = (await self.client("admin").get(path_of(recording_id))).json()
        assert found["recording"]["id"] == recording_id
        media_uri: str = found["recording"]["mediaFiles"][0]["mediaUri"]
        return media_uri

    async def move(self, *addresses: str) -> None:
        """Where the service is, as far as nginx knows, from now on."""
        self.names.addresses, self.names.asked = addresses, 0

        async def nginx_has_asked() -> bool:
            await self.client("admin").get("/health/live")
            return self.names.asked > 1  # for IPv4 and IPv6

        await eventually(nginx_has_asked)

    def recording(self, recording_id: str, size: int = 1000) -> dict[str, Any]:
        descriptor = {"storage": "webDAV", "path": self.storage.put("call.wav", size)}
        return a_recording(recording_id, mediaFiles=[a_media_file(mediaDescriptor=descriptor)])


def path_of(recording_id: str) -> str:
    return f"/api/v2/recordings/{quote(recording_id, safe='')}"


@pytest.fixture(scope="module")
async def nginx_and_all(elasticsearch_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Proxied]:
    audit_log = tmp_path_factory.mktemp("audit") / "audit.log"
    async with CountingStorage() as storage, own_settings(elasticsearch_url) as settings:
        storages = StorageConfig(webdav=(WebDavConfig(storage.url),))
        service = Service(msgspec.structs.replace(settings, storage=storages, audit_log=str(audit_log)))
        await service.start()
        loop = asyncio.get_running_loop()
        transport, names = await loop.create_datagram_endpoint(NameServer, local_addr=("127.0.0.1", 0))
        nginx = proxy.nginx(
            f"recall.test:{urlsplit(service.url).port}", f"127.0.0.1:{transport.get_extra_info('sockname')[1]}"
        )
        with ExitStack() as stack:
            # In a thread, for it waits until nginx answers, and nginx asks us.
            url = await asyncio.to_thread(stack.enter_context, nginx)
            yield Proxied(url, service, names, storage, audit_log)
        transport.close()
        await service.stop()


@pytest.fixture
async def proxied(nginx_and_all: Proxied) -> Proxied:
    if nginx_and_all.names.addresses != ("127.0.0.1",):  # the test before has moved it
        await nginx_and_all.move("127.0.0.1")
    return nginx_and_all


async def test_any_id_passes_through_nginx(proxied: Proxied) -> None:
    admin = proxied.client("admin")
    for recording_id in IDS:
        media_uri = await proxied.post(recording_id)
        assert (await admin.get(media_uri)).content == generated(0, 1000)


async def test_links_lead_through_nginx(proxied: Proxied) -> None:
    admin = proxied.client("admin")
    media_uris = [await proxied.post(f"page {i}") for i in range(2)] + [
        await proxied.post("page", query="?refresh=wait_for")
    ]
    assert all(uri.startswith(f"{proxied.url}/api/v2/recordings/") for uri in media_uris)
    first = (await admin.get("/api/v2/recordings?startTime=0&limit=2")).json()
    assert first["nextUri"].startswith(f"{proxied.url}/api/v2/recordings?")
    second = (await admin.get(first["nextUri"])).json()
    assert second["recordings"]
    assert second["prevUri"].startswith(f"{proxied.url}/api/v2/recordings?")
    assert (await admin.get(second["prevUri"])).json()["recordings"] == first["recordings"]


async def test_ranges_and_conditions_pass_through_nginx(proxied: Proxied) -> None:
    admin = proxied.client("admin")
    url = await proxied.post("recording", 200_000)
    part = await admin.get(url, headers={"Range": "bytes=70000-150000"})
    assert (part.status_code, part.content) == (206, generated(70_000, 150_001))
    assert part.headers["content-range"] == "bytes 70000-150000/200000"
    etag = part.headers["etag"]
    same = await admin.get(url, headers={"Range": "bytes=-5", "If-Range": etag})
    assert (same.status_code, same.content) == (206, generated(199_995, 200_000))
    changed = await admin.get(url, headers={"Range": "bytes=-5", "If-Range": '"another"'})
    assert (changed.status_code, changed.content) == (200, generated(0, 200_000))
    assert (await admin.get(url, headers={"If-None-Match": etag})).status_code == 304
    assert (await admin.get(url, headers={"Range": "bytes=200000-"})).headers["content-range"] == "bytes */200000"
    head = await admin.head(url)
    assert (head.headers["content-length"], head.headers["accept-ranges"]) == ("200000", "bytes")


async def test_play_is_not_buffered_and_ends_with_the_player(proxied: Proxied) -> None:
    size = 200_000_000
    url = await proxied.post("long", size)
    async with proxied.client("admin").stream("GET", url) as response:
        assert response.status_code == 200
        before = -1

        async def stands_still() -> bool:
            nonlocal before
            before, now = proxied.storage.bytes_sent, proxied.storage.bytes_sent
            await asyncio.sleep(0.2)
            return 0 < now == proxied.storage.bytes_sent

        await eventually(stands_still)
        assert proxied.storage.bytes_sent < size / 4  # what sockets hold
    await eventually(lambda: proxied.storage.open_connections == 0)


async def test_client_address_cannot_be_forged_through_nginx(proxied: Proxied) -> None:
    url = await proxied.post("who")
    await proxied.client("admin").get(url, headers={"X-Forwarded-For": "192.0.2.7", "Forwarded": "for=192.0.2.7"})
    line = proxied.audit_log.read_text().splitlines()[-1]
    assert json.loads(line)["address"] == "127.0.0.1"


async def test_stopped_process_behind_nginx_is_not_noticed_by_clients(proxied: Proxied) -> None:
    ops, admin = proxied.client("ops"), proxied.client("admin")
    await proxied.move("127.0.0.2", "127.0.0.1")  # nothing listens at the first
    for i in range(6):
        assert (await ops.post(OPS_PATH, json=proxied.recording(f"gone {i}"))).status_code == 201
        assert (await admin.get(path_of(f"gone {i}"))).status_code == 200


async def test_errors_of_nginx_have_the_envelope(proxied: Proxied) -> None:
    admin, ops = proxied.client("admin"), proxied.client("ops")
    assert_error(await ops.post(OPS_PATH, content=b" " * 1_500_000), 413, 2, "larger than 1048576 bytes")
    assert_error(await ops.post(OPS_PATH, content=b" " * 2_500_000), 413, 2)
    assert_error(await admin.get("/api/v2/recordings", params={"userName": "x" * 20_000}), 400, 2)
    assert_error(await admin.get("/api/v2/recordings?userName=x", headers={"X": "x" * 20_000}), 400, 2)
    assert_error(await admin.get("/metrics"), 404, 6)
    await proxied.move("127.0.0.2")
    away = await admin.get("/api/v2/recordings?userName=x")
    assert_error(away, 503, 4)
    assert away.headers["retry-after"] == "2"
