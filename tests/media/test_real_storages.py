"""What one real server does in another way than the next: folders, listings, short files, proxies, cut connections."""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator
from datetime import timedelta
from random import Random

import botocore.auth
import httpx
import msgspec
import pytest

from app.errors import MediaStorageFailed
from app.media.answers import open_media
from app.media.location import Location, resolve_location
from app.media.storages import MediaStorages, open_storages
from app.settings import Settings, StorageConfig
from tests.support import storages
from tests.support.answers import RANGES, honest_answer, play
from tests.support.relay import Relay
from tests.support.storages import S3, S3_SERVERS, WEBDAV_SERVERS, WebDav, storage_of
from tests.support.waiting import eventually

SHORT = b"0123456789"
LONG = Random(6).randbytes(3_000_000)


@pytest.fixture(params=[*WEBDAV_SERVERS, *S3_SERVERS])
def server(request: pytest.FixtureRequest) -> WebDav | S3:
    """Each of the servers."""
    found: WebDav | S3 = request.getfixturevalue(request.param)
    return found


@pytest.fixture(params=WEBDAV_SERVERS)
def dav(request: pytest.FixtureRequest) -> WebDav:
    """Each of the WebDAV servers."""
    found: WebDav = request.getfixturevalue(request.param)
    return found


@pytest.fixture
async def dav_storages(dav: WebDav) -> AsyncIterator[MediaStorages]:
    async with open_storages(Settings(storage=storage_of(dav))) as storages:
        yield storages


def located(server: WebDav | S3, path: str, config: StorageConfig | None = None) -> Location:
    return resolve_location(server.descriptor(path), config or storage_of(server))


# --- Deletion ---------------------------------------------------------------------------------------------------


async def test_a_folder_is_never_deleted(dav: WebDav, dav_storages: MediaStorages) -> None:
    """All of these servers but nginx delete a folder with all that is in it, and some list it as a page."""
    for name in ("tree/call.wav", "tree/sub/x.wav", "tree/sub.wav/y.wav", "tree/empty.wav"):
        dav.put(name, b"" if "empty" in name else b"others")
    (dav.folder / "tree/nothing.wav").mkdir(exist_ok=True)
    for folder in ("tree", "tree/sub", "tree/sub.wav", "tree/nothing.wav"):
        with contextlib.suppress(MediaStorageFailed):
            # A server that answers 404 to GET of a folder has shown that there is no file of that name.
            assert await dav_storages.delete(located(dav, folder)) == "missing"
    files = sorted(str(path.relative_to(dav.folder)) for path in (dav.folder / "tree").rglob("*"))
    assert files == [
        "tree/call.wav", "tree/empty.wav", "tree/nothing.wav", "tree/sub", "tree/sub.wav", "tree/sub.wav/y.wav",
        "tree/sub/x.wav",
    ]  # fmt: skip


async def test_exactly_the_file_is_deleted(server: WebDav | S3) -> None:
    names = ["exactly/a.wav", "exactly/a.wav2", "exactly/b c%20+ü;=&.wav", "exactly/d%2Fe.wav", "exactly/d/e.wav"]
    async with open_storages(Settings(storage=storage_of(server))) as storages:
        for name in names:
            server.put(name, name.encode())  # nginx makes the validator of the length and the time
        for number, name in enumerate(names):
            assert await storages.delete(located(server, name)) == "deleted", name
            assert [server.exists(one) for one in names] == [i > number for i in range(len(names))]
        # S3 does not tell whether there was an object.
        again = "missing" if isinstance(server, WebDav) else "deleted"
        for name in names:
            assert await storages.delete(located(server, name)) == again


async def test_an_empty_file_is_deleted_if_it_is_certainly_a_file(server: WebDav | S3) -> None:
    server.put("nothing/empty.wav", b"")
    # They ignore a slash at the end, and PROPFIND is refused: nothing tells this file from an empty folder.
    is_uncertain = isinstance(server, WebDav) and await _ignores_slash_without_propfind(server, "nothing/empty.wav")
    async with open_storages(Settings(storage=storage_of(server))) as storages:
        if is_uncertain:
            with pytest.raises(MediaStorageFailed):
                await storages.delete(located(server, "nothing/empty.wav"))
        else:
            assert await storages.delete(located(server, "nothing/empty.wav")) == "deleted"
        assert server.exists("nothing/empty.wav") == is_uncertain


async def _ignores_slash_without_propfind(server: WebDav, path: str) -> bool:
    tls = ssl.create_default_context(cafile=server.ca_file)
    async with httpx.AsyncClient(auth=server.auth, verify=tls) as client:
        refuses = (await client.request("PROPFIND", server.url_of(path), headers={"Depth": "0"})).status_code == 405
        return refuses and (await client.get(f"{server.url_of(path)}/")).status_code == 200


async def test_a_404_counts_only_while_the_presence_url_answers(dav: WebDav) -> None:
    dav.put("presence/mounted", b"")
    (configured,) = storage_of(dav).webdav
    configured = msgspec.structs.replace(configured, presence_url=dav.url_of("presence/mounted"))
    config = StorageConfig(webdav=(configured,))
    location = located(dav, "presence/gone.wav", config)
    async with open_storages(Settings(storage=config)) as storages:
        assert await storages.delete(location) == "missing"
        assert await storages.is_gone(location)
        share = dav.folder / "presence"
        share.rename(dav.folder / "unmounted")
        with pytest.raises(MediaStorageFailed) as raised:
            await storages.delete(location)
        assert "presence_url" in raised.value.reason
        with pytest.raises(MediaStorageFailed):
            await storages.is_gone(location)
        (dav.folder / "unmounted").rename(share)
        assert await storages.delete(location) == "missing"
        dav.put("presence/gone.wav", b"back")
        assert await storages.delete(location) == "deleted"


async def test_a_missing_object_is_gone_but_one_in_a_missing_bucket_is_not(server: WebDav | S3) -> None:
    config = storage_of(server)
    config = msgspec.structs.replace(
        config, s3=tuple(msgspec.structs.replace(one, buckets=(*one.buckets, "no-such-bucket")) for one in config.s3)
    )
    server.put("asked/here.wav", SHORT)
    server.put("asked/empty.wav", b"")
    async with open_storages(Settings(storage=config)) as storages:
        assert not await storages.is_gone(located(server, "asked/here.wav", config))
        if isinstance(server, S3):  # WebDAV servers cannot always tell an empty file from a folder
            assert not await storages.is_gone(located(server, "asked/empty.wav", config))
        assert await storages.is_gone(located(server, "asked/never.wav", config))
        if isinstance(server, S3):
            elsewhere = server.descriptor("asked/here.wav")
            elsewhere["data"]["bucket"] = "no-such-bucket"
            with pytest.raises(MediaStorageFailed):
                await storages.is_gone(resolve_location(elsewhere, config))


# --- Playback ---------------------------------------------------------------------------------------------------


async def test_ranges_of_short_and_empty_files_are_served_or_416(server: WebDav | S3) -> None:
    """dufs, gofakes3 and rclone answer 416 to `bytes=-20` of 10 bytes."""
    async with open_storages(Settings(storage=storage_of(server))) as storages:
        for size in (10, 1, 0):
            content = SHORT[:size]
            # A file that changes within a second may keep its validator.
            server.put(f"short/{size}.wav", content)
            location = located(server, f"short/{size}.wav")
            for request_range in RANGES:
                outcome = await play(storages, "GET", location, {"range": request_range} if request_range else {})
                right = honest_answer(content, request_range)
                expected = b"" if right.status == 416 else right.body
                about = (size, request_range, outcome)
                assert (outcome.status, outcome.body, outcome.complete) == (right.status, expected, True), about
                if right.status == 416:
                    assert outcome.headers["Content-Range"] == f"bytes */{size}", about
            head = await play(storages, "HEAD", location, {})
            assert (head.status, head.headers["content-length"]) == (200, str(size))


async def test_a_listing_of_a_folder_is_not_played(
    dav: WebDav, dav_storages: MediaStorages, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    dav.put("listed/a.wav", b"media")
    (dav.folder / "listed/empty").mkdir(exist_ok=True)
    for folder in ("listed", "listed/empty"):
        for headers in ({}, {"range": "bytes=0-3"}, {"range": "bytes=-3"}):
            assert (await play(dav_storages, "GET", located(dav, folder), headers)).status in {404, 502}
        assert (await play(dav_storages, "HEAD", located(dav, folder), {})).status in {404, 502}


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_what_is_missing_is_404(server: WebDav | S3, method: str) -> None:
    async with open_storages(Settings(storage=storage_of(server))) as storages:
        assert (await play(storages, method, located(server, "never/was.wav"), {"range": "bytes=0-3"})).status == 404


@pytest.mark.parametrize("ahead", [-800, -62, 62])
async def test_clocks_that_differ_by_minutes_refuse_no_play(
    versitygw: S3, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    now = botocore.auth.get_current_datetime
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: now() + timedelta(seconds=ahead))
    versitygw.put("clock.wav", SHORT)
    async with open_storages(Settings(storage=storage_of(versitygw))) as opened:
        assert (await play(opened, "GET", located(versitygw, "clock.wav"), {})).body == SHORT


# --- Connections ------------------------------------------------------------------------------------------------


def through(relay: Relay, config: StorageConfig) -> StorageConfig:
    """The same storage, with the address of the relay."""
    return StorageConfig(
        webdav=tuple(msgspec.structs.replace(one, base_url=relay.through(one.base_url)) for one in config.webdav),
        s3=tuple(msgspec.structs.replace(one, endpoint_url=relay.through(one.endpoint_url or "")) for one in config.s3),
    )


def located_through(relay: Relay, server: WebDav | S3, path: str, config: StorageConfig) -> Location:
    descriptor = server.descriptor(path)
    return resolve_location({**descriptor, "path": relay.through(descriptor["path"])}, config)


async def test_every_play_of_a_row_is_whole(server: WebDav | S3) -> None:
    """Some servers close a connection after each answer, or after some. Slow players see what is cut then."""
    server.put("row.wav", LONG[:700_000])
    async with open_storages(Settings(storage=storage_of(server))) as storages:
        for pause in (0.0, 0.0, 0.002, 0.0, 0.002, 0.0, 0.002):
            stream = await open_media(storages, "GET", located(server, "row.wav"), {}, "row.wav")
            body = b""
            while chunk := await stream.read():
                body += chunk
                await asyncio.sleep(pause)
            assert body == LONG[:700_000]


@pytest.mark.parametrize("tls", [False, True])
async def test_the_last_play_of_a_connection_to_nginx_is_whole(tls: bool) -> None:
    """By default nginx closes a connection behind its thousandth answer."""
    content = LONG[:20_000]
    with storages.nginx_webdav(defaults=True, tls=tls) as nginx:
        nginx.put("thousand.wav", content)
        async with Relay(nginx.url) as relay:
            config = through(relay, storage_of(nginx))
            async with open_storages(Settings(storage=config)) as opened:
                location = located_through(relay, nginx, "thousand.wav", config)
                for number in range(1_003):
                    outcome = await play(opened, "GET", location, {})
                    assert (outcome.status, outcome.body == content, outcome.complete) == (200, True, True), number
            assert relay.connections == 2


async def test_a_body_that_breaks_off_goes_on(server: WebDav | S3) -> None:
    server.put("cut.wav", LONG)
    for asked, expected in ({}, LONG), ({"range": "bytes=7-2999000"}, LONG[7:2_999_001]):
        async with Relay(server.url, breaks=(1_000_000, 20_000, 700_000)) as relay:
            config = through(relay, storage_of(server))
            async with open_storages(Settings(storage=config)) as storages:
                outcome = await play(storages, "GET", located_through(relay, server, "cut.wav", config), asked)
        assert (outcome.complete, outcome.body == expected) == (True, True)
        assert relay.connections == 4


async def test_a_player_that_leaves_frees_the_storage_immediately(server: WebDav | S3) -> None:
    server.put("long.wav", bytes(30_000_000))
    async with Relay(server.url) as relay:
        config = through(relay, storage_of(server))
        async with open_storages(Settings(storage=config)) as storages:
            for wanted in (0, 1, 1_000_000):
                before = relay.bytes_back
                stream = await open_media(
                    storages, "GET", located_through(relay, server, "long.wav", config), {}, "long.wav"
                )
                received = 0
                while received < wanted:
                    received += len(await stream.read())
                stream.close()
                async with asyncio.timeout(2):
                    await eventually(lambda: relay.open_connections == 0)
                assert relay.bytes_back - before < 20_000_000
