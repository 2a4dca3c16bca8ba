"""Players leave streams for others (docs/contract.md section 1, code 4 with 429)."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from app.settings import StorageConfig, WebDavConfig
from tests.media.test_players import LONG, ask
from tests.support.faults import CountingStorage
from tests.support.media import Media, post_media
from tests.support.recordings import OPS_PATH
from tests.support.service import USERS, StartService, assert_error

SHARE = 4


@pytest.fixture
async def media(start_service: StartService, counting_storage: CountingStorage) -> Media:
    service = await start_service(
        storage=StorageConfig(webdav=(WebDavConfig(counting_storage.url),)),
        storage_streams=8,
        streams_per_user=SHARE,
        streams_per_contact_center=6,
        storage_wait_seconds=0.3,
        users=(*USERS, msgspec.structs.replace(next(user for user in USERS if user.name == "admin"), name="colleague")),
    )
    return await post_media(service, {"storage": "webDAV", "path": counting_storage.put("long.wav", LONG)})


@pytest.fixture
async def unread(media: Media) -> AsyncIterator[list[asyncio.StreamWriter]]:
    """All plays that the administrator may have, whose players read only the beginning."""
    players = [await ask(media.service.url, media.path, buffer=1024) for _ in range(SHARE)]
    for reader, _ in players:
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
    yield [writer for _, writer in players]
    for _, writer in players:
        writer.transport.abort()


async def test_more_than_a_share_of_streams_is_429_and_leaves_others_theirs(
    media: Media, unread: list[asyncio.StreamWriter]
) -> None:
    assert_error(await media.play(Range="bytes=0-9"), 429, 4, "The streams that the user may have in flight are in use")
    ops = media.service.client("ops")
    colleague = media.service.client()
    response = await colleague.get(media.path, headers={"Range": "bytes=0-9"}, auth=("colleague", "admin-password"))
    assert response.status_code == 206
    assert 'recall_streams_refused_total{share="user"} 1.0' in (await ops.get("/metrics")).text
    unread[0].transport.abort()
    assert (await media.play(Range="bytes=0-9")).status_code == 206


async def test_streams_that_are_all_in_use_do_not_hold_up_a_deletion(
    start_service: StartService, counting_storage: CountingStorage
) -> None:
    service = await start_service(
        storage=StorageConfig(webdav=(WebDavConfig(counting_storage.url),)), storage_streams=2, storage_wait_seconds=5
    )
    media = await post_media(service, {"storage": "webDAV", "path": counting_storage.put("long.wav", LONG)})
    players = [await ask(service.url, media.path, buffer=1024) for _ in range(2)]
    for reader, _ in players:
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
    recording = media.path.removeprefix("/api/v2/recordings/").partition("/play/")[0]
    async with asyncio.timeout(4):
        response = await service.client("ops").delete(f"{OPS_PATH}/{recording}", params={"subresources": "*"})
    assert response.json() == {"statusCode": 0}
    assert not counting_storage.exists("long.wav")
    for _, writer in players:
        writer.transport.abort()


async def test_a_player_that_reads_nothing_loses_its_stream_sooner_when_another_waits(
    start_service: StartService, counting_storage: CountingStorage
) -> None:
    service = await start_service(
        storage=StorageConfig(webdav=(WebDavConfig(counting_storage.url),)),
        streams_per_user=1,
        player_stall_scarce_seconds=1.0,
    )
    media = await post_media(service, {"storage": "webDAV", "path": counting_storage.put("long.wav", LONG)})
    reader, writer = await ask(service.url, media.path, buffer=1024)
    assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
    assert (await media.play(Range="bytes=0-9")).status_code == 206
    writer.transport.abort()
