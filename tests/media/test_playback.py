"""Playing media files from real storages (docs/contract.md section 6)."""

import random
from collections.abc import AsyncIterator

import httpx
import msgspec
import pytest

from app.settings import StorageConfig, WebDavConfig
from tests.support.faults import CountingStorage, FaultServer, Trap
from tests.support.media import Media, post_media
from tests.support.service import PATIENT, Service, StartService, assert_error, own_settings
from tests.support.sizes import MEDIA_RANGES
from tests.support.storages import S3, S3_SERVERS, WEBDAV_SERVERS, WebDav, storage_of
from tests.support.waiting import eventually

SIZE = 300_000
CONTENT = random.Random(4).randbytes(SIZE)


@pytest.fixture(scope="module", params=[*WEBDAV_SERVERS, *S3_SERVERS])
async def media(request: pytest.FixtureRequest, elasticsearch_url: str) -> AsyncIterator[Media]:
    """A file of CONTENT in each of the storages, and a service for all of its tests."""
    server: WebDav | S3 = request.getfixturevalue(request.param)
    server.put("a folder/ü 1.wav", CONTENT)
    descriptor = server.descriptor("a folder/ü 1.wav")
    async with own_settings(elasticsearch_url) as settings:
        service = Service(msgspec.structs.replace(settings, storage=storage_of(server), **PATIENT))
        await service.start()
        yield await post_media(service, descriptor, type="audio/wav", mediaId='the "first" ü.wav')
        await service.stop()


async def test_whole_file_has_its_exact_length_and_type(media: Media) -> None:
    response = await media.play()
    assert (response.status_code, response.content) == (200, CONTENT)
    assert response.headers["content-length"] == str(SIZE)
    assert response.headers["content-type"] == "audio/wav"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["etag"]
    assert "content-disposition" not in response.headers


async def test_head_has_the_headers_and_no_body(media: Media) -> None:
    response = await media.admin.head(media.path)
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-length"] == str(SIZE)


async def test_download_names_the_media_id(media: Media) -> None:
    response = await media.admin.get(f"{media.path}?download")
    assert response.headers["content-disposition"] == (
        "attachment; filename=\"the _first_ _.wav\"; filename*=UTF-8''the%20%22first%22%20%C3%BC.wav"
    )


async def test_random_ranges_are_byte_exact(media: Media, request: pytest.FixtureRequest) -> None:
    """Also with `If-Range`, malformed ones, several, and some beyond the end."""
    rng = random.Random(request.node.callspec.params["media"])
    etag = (await media.play(Range="bytes=0-0")).headers["etag"]

    async def check() -> None:
        header, part = a_range(rng)
        if_range = rng.choice([None, None, etag, '"another"'])
        response = await media.play(Range=header, **({"If_Range": if_range} if if_range else {}))
        if part is None or if_range == '"another"':
            assert response.status_code == 200, (header, if_range)
            assert "content-range" not in response.headers
            part = range(SIZE)
        elif not part:
            assert (response.status_code, response.headers["content-range"]) == (416, f"bytes */{SIZE}"), header
            return
        else:
            assert response.status_code == 206, (header, if_range, response.text[:200])
            assert response.headers["content-range"] == f"bytes {part.start}-{part.stop - 1}/{SIZE}", header
        assert response.headers["content-length"] == str(len(part))
        assert response.content == CONTENT[part.start : part.stop], header

    thorough = request.node.callspec.params["media"] in {"apache", "apache_tls", "versitygw"}
    for _ in range(MEDIA_RANGES if thorough else MEDIA_RANGES // 2):
        await check()


def a_range(rng: random.Random) -> tuple[str, range | None]:
    """A Range header and the bytes it asks for: none when it is beyond the end, None when the whole is to be sent."""
    first = rng.randrange(SIZE)
    last = rng.randrange(first, SIZE)
    beyond = SIZE + rng.randrange(1000)
    suffix = rng.randint(1, SIZE + 10)
    return rng.choice(
        [
            (f"bytes={first}-{last}", range(first, last + 1)),
            (f"bytes={first}-{first}", range(first, first + 1)),
            (f"bytes={first}-{beyond}", range(first, SIZE)),
            (f"bytes={first}-", range(first, SIZE)),
            (f"bytes=-{suffix}", range(max(0, SIZE - suffix), SIZE)),
            (f"bytes={beyond}-", range(0)),
            (f"bytes={beyond}-{beyond + first}", range(0)),
            (f"bytes={last + 1}-{first}", None),
            (f"bytes={first}-{last},-1", None),
            (f"bytes={first}--{last}", None),
            (f"bytes {first}-{last}", None),
        ]
    )


async def test_invalid_or_multiple_ranges_return_the_whole_file(media: Media) -> None:
    for header in ("bytes=x-", "bytes=5-2", "items=0-1", "bytes=0-1,5-6", "bytes", "bytes=-", ""):
        response = await media.play(Range=header)
        assert (response.status_code, len(response.content)) == (200, SIZE), header


async def test_range_beyond_the_end_is_416_with_the_length(media: Media) -> None:
    for header in (f"bytes={SIZE}-", f"bytes={SIZE + 5}-{SIZE + 9}"):
        response = await media.play(Range=header)
        assert_error(response, 416, 2, "Range")
        assert response.headers["content-range"] == f"bytes */{SIZE}", header


async def test_conditions_are_decided_by_tag_and_date(media: Media) -> None:
    whole = await media.play()
    etag, date = whole.headers["etag"], whole.headers["last-modified"]
    for headers in ({"If_None_Match": etag}, {"If_None_Match": f'"x", W/{etag}'}, {"If_Modified_Since": date}):
        response = await media.play(**headers)
        assert (response.status_code, response.content) == (304, b""), headers
        assert response.headers["etag"] == etag
    for headers in ({"If_None_Match": '"x"'}, {"If_Modified_Since": "Mon, 01 Jan 1990 00:00:00 GMT"}):
        assert (await media.play(**headers)).status_code == 200, headers
    for validator in (etag, date):
        assert (await media.play(Range="bytes=1-2", If_Range=validator)).content == CONTENT[1:3]
    for validator in ('"x"', f"W/{etag}", "Mon, 01 Jan 1990 00:00:00 GMT"):
        response = await media.play(Range="bytes=1-2", If_Range=validator)
        assert (response.status_code, len(response.content)) == (200, SIZE), validator
    assert (await media.play(Range=f"bytes={SIZE}-", If_Range=etag)).status_code == 416
    assert (await media.play(Range=f"bytes={SIZE}-", If_Range='"x"')).status_code == 200


async def test_missing_media_is_404(media: Media) -> None:
    base = media.path.rpartition("/")[0]
    assert_error(await media.admin.get(f"{base}/00000000-0000-0000-0000-000000000000.wav"), 404, 6)
    assert_error(await media.admin.get(media.path.replace("/recording/", "/other/")), 404, 6, "recording [other]")
    assert_error(await media.service.client("other-admin").get(media.path), 404, 6)
    assert_error(await media.service.client("agent").get(media.path), 403, 5)
    storage = media.service.settings.storage
    path = f"{storage.webdav[0].base_url}/gone.wav" if storage.webdav else "gone.wav"
    kind = {"storage": "webDAV"} if storage.webdav else {"storage": "awsS3", "data": {"bucket": "stage-recordings"}}
    gone = await post_media(media.service, {**kind, "path": path})
    recording = (await gone.admin.get("/api/v2/recordings/recording")).json()["recording"]
    response = await gone.admin.get("/api/v2" + recording["mediaFiles"][-1]["playPath"])
    assert_error(response, 404, 6, "media [")


async def test_media_of_another_region_are_404(start_service: StartService, apache: WebDav) -> None:
    apache.put("elsewhere.wav", CONTENT)
    service = await start_service(storage=storage_of(apache))
    media = await post_media(service, apache.descriptor("elsewhere.wav"))
    assert (await media.play()).status_code == 200
    elsewhere = await start_service(region="elsewhere", storage=storage_of(apache))
    assert_error(await elsewhere.client("admin").get(media.path), 404, 6)


@pytest.fixture
async def faulty(start_service: StartService, faults: FaultServer) -> Service:
    return await start_service(
        storage=StorageConfig(webdav=(WebDavConfig(faults.url),)),
        storage_first_byte_seconds=0.5,
        storage_stall_seconds=0.5,
    )


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        ("stall-before-headers", 504),
        ("stall-in-headers", 504),
        ("reset-before-headers", 502),
        ("not-http", 502),
        ("redirect", 502),
        ("wrong-range", 502),
        ("status-500", 502),
        ("status-401", 502),
    ],
)
async def test_storage_failure_before_the_first_byte_is_an_error(
    faulty: Service, faults: FaultServer, trap: Trap, fault: str, status: int
) -> None:
    media = await post_media(faulty, {"storage": "webDAV", "path": faults.url_of(fault)})
    response = await media.play(Range="bytes=5-9")
    assert_error(response, status, 4, "The media storage")
    assert FaultServer.SECRET not in response.text
    assert trap.connections == 0
    await eventually(lambda: faults.open_connections == 0 or faults.answering == 0)


@pytest.mark.parametrize("fault", ["stall-in-body", "short-body", "reset-in-body"])
async def test_storage_failure_in_the_body_ends_the_connection(
    faulty: Service, faults: FaultServer, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    media = await post_media(faulty, {"storage": "webDAV", "path": faults.url_of(fault)})
    with pytest.raises(httpx.RemoteProtocolError):
        await media.play()
    await eventually(lambda: faults.open_connections == 0)
    (line,) = [record.getMessage() for record in caplog.records if record.name == "app.media.response"]
    assert f"media storage {faults.url}: it" in line


async def test_storage_without_ranges_sends_the_whole_file(faulty: Service, faults: FaultServer) -> None:
    media = await post_media(faulty, {"storage": "webDAV", "path": faults.url_of("ignores-range")})
    response = await media.play(Range="bytes=5-9")
    assert response.status_code == 200
    assert "content-range" not in response.headers


async def test_stalled_player_frees_the_storage(start_service: StartService, counting_storage: CountingStorage) -> None:
    service = await start_service(
        storage=StorageConfig(webdav=(WebDavConfig(counting_storage.url),)), player_stall_seconds=0.5, **PATIENT
    )
    media = await post_media(service, {"storage": "webDAV", "path": counting_storage.put("long.wav", 200_000_000)})
    async with media.admin.stream("GET", media.path) as response:
        assert response.status_code == 200
        await eventually(lambda: counting_storage.open_connections == 0)


async def test_streams_of_a_storage_and_the_wait_for_them_are_bounded(
    start_service: StartService, counting_storage: CountingStorage
) -> None:
    service = await start_service(
        storage=StorageConfig(webdav=(WebDavConfig(counting_storage.url),)),
        storage_streams=1,
        storage_wait_seconds=0.3,
    )
    media = await post_media(service, {"storage": "webDAV", "path": counting_storage.put("long.wav", 200_000_000)})
    async with media.admin.stream("GET", media.path):
        response = await service.client("admin").get(media.path)
        assert_error(response, 503, 4, "busy")
        assert int(response.headers["retry-after"]) > 0
    assert (await media.play(Range="bytes=0-9")).status_code == 206
