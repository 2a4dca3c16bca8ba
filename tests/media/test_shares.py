"""Players leave streams for others (docs/contract.md section 1, code 4 with 429)."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from app.settings import StorageConfig, WebDavConfig
from tests.media.test_players import LONG, ask
from tests.support.faults import Connection, CountingStorage, Request
from tests.support.media import Media, post_media
from tests.support.recordings import OPS_PATH, a_media_file, a_recording
from tests.support.service import USERS, StartService, assert_error
from tests.support.waiting import eventually

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


class SlowDeletions(CountingStorage):
    """Each DELETE takes a while."""

    async def answer(self, request: Request, connection: Connection) -> None:
        if request.method == "DELETE":
            await asyncio.sleep(0.05)
        await super().answer(request, connection)


async def test_a_deletion_of_very_many_media_answers_in_time_and_lets_another_pass(start_service: StartService) -> None:
    async with SlowDeletions() as storage:
        service = await start_service(storage=StorageConfig(webdav=(WebDavConfig(storage.url),)), delete_seconds=2.0)
        ops = service.client("ops")
        urls = [storage.put(f"{i}.wav", 10) for i in range(900)]
        files = [a_media_file(mediaDescriptor={"storage": "webDAV", "path": url}) for url in urls]
        assert (await ops.post(OPS_PATH, json=a_recording("many", mediaFiles=files))).status_code == 201
        other = a_media_file(mediaDescriptor={"storage": "webDAV", "path": storage.put("other.wav", 10)})
        assert (await ops.post(OPS_PATH, json=a_recording("other", mediaFiles=[other]))).status_code == 201
        many = asyncio.create_task(ops.delete(f"{OPS_PATH}/many", params={"subresources": "*"}))
        await eventually(lambda: len(storage.sizes) < 900)
        assert (await ops.delete(f"{OPS_PATH}/other", params={"subresources": "*"})).json() == {"statusCode": 0}
        assert not many.done()
        answer = (await many).json()
        assert answer["statusCode"] == 7
        assert 0 < len(answer["failed"]) == len(storage.sizes)
        assert {failed["statusMessage"] for failed in answer["failed"]} == {
            "The recording has too many media for one request: this one is deleted later, by itself."
        }


class Stalled(CountingStorage):
    """Answers nothing before the end of the test."""

    asked = 0

    async def answer(self, _: Request, __: Connection) -> None:
        self.asked += 1
        await asyncio.Event().wait()


async def test_deletions_on_a_storage_that_stalls_answer_in_time_and_hold_up_none_on_another(
    start_service: StartService, counting_storage: CountingStorage
) -> None:
    async with Stalled() as stalled:
        service = await start_service(
            storage=StorageConfig(webdav=(WebDavConfig(stalled.url), WebDavConfig(counting_storage.url))),
            delete_seconds=0.5,
            storage_first_byte_seconds=2.0,
        )
        ops = service.client("ops")
        for number in range(8):
            urls = [stalled.put(f"{number}-{i}.wav", 10) for i in range(8)]
            files = [a_media_file(mediaDescriptor={"storage": "webDAV", "path": url}) for url in urls]
            await ops.post(OPS_PATH, json=a_recording(f"stalled{number}", mediaFiles=files))
        healthy = a_media_file(mediaDescriptor={"storage": "webDAV", "path": counting_storage.put("other.wav", 10)})
        await ops.post(OPS_PATH, json=a_recording("healthy", mediaFiles=[healthy]))

        async def delete(name: str) -> tuple[float, int]:
            begun = asyncio.get_running_loop().time()
            answer = (await ops.delete(f"{OPS_PATH}/{name}", params={"subresources": "*"})).json()
            return asyncio.get_running_loop().time() - begun, len(answer.get("failed", ()))

        many = [asyncio.create_task(delete(f"stalled{number}")) for number in range(8)]
        await eventually(lambda: stalled.asked >= 16)
        assert (await delete("healthy"))[1] == 0
        assert not any(task.done() for task in many)
        # One call of two requests is in flight when the time is over. All of them one after the other take 16 s.
        outcomes = await asyncio.gather(*many)
        assert {failed for _, failed in outcomes} == {8}
        assert max(seconds for seconds, _ in outcomes) < 8
