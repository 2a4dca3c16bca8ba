"""Programs that read with ops credentials: a softphone, an exporter, a muxer (docs/contract.md section 3)."""

import asyncio
import itertools
import re
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from app.settings import StorageConfig, WebDavConfig
from tests.support.faults import CountingStorage
from tests.support.recordings import CONTACT_CENTER, OPS_PATH, a_media_file, a_recording
from tests.support.service import Service, StartService, assert_error, basic
from tests.support.storages import WebDav, webdav_storage

INTERNAL = f"/internal-api/contact-centers/{CONTACT_CENTER}/screen-recordings"
SCREENS = OPS_PATH.replace("recordings", "screen-recordings")


@pytest.fixture
async def playing(counting_storage: CountingStorage, start_service: StartService) -> Service:
    url = counting_storage.put("any", 1).rpartition("/")[0]
    return await start_service(storage=StorageConfig(webdav=(WebDavConfig(url),)))


async def test_a_softphone_that_reads_one_line_finds_the_path(service: Service, ops: httpx.AsyncClient) -> None:
    assert (await ops.post(OPS_PATH, json=a_recording("call-1"))).status_code == 201
    host, port = ops.base_url.host, ops.base_url.port
    reader, writer = await asyncio.open_connection(host, port)
    login = basic("ops", "ops-password")
    writer.write(f"GET {OPS_PATH}/call-1 HTTP/1.0\r\nHost: {host}\r\nAuthorization: {login}\r\n\r\n".encode())
    async with asyncio.timeout(30):
        answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.split(b" ")[1] == b"200"
    first_line = body.split(b"\n")[0].decode()
    assert re.findall(r'"originalMediaDescriptor":\{[^{}]*"path":"([^"]*)"', first_line) == ["calls/sample1.mp3"]


async def test_an_exporter_reads_what_recorders_posted(service: Service, ops: httpx.AsyncClient) -> None:
    media = a_media_file(mediaId="call_2013", duration="12523", parameters={"agentId": "alchoi4"})
    assert (await ops.post(OPS_PATH, json=a_recording("exported", mediaFiles=[media]))).status_code == 201
    answer = (await ops.get(f"{OPS_PATH}/exported")).json()
    (found,) = answer["recording"]["mediaFiles"]
    assert (found["mediaId"], int(found["duration"]), found["parameters"]["agentId"]) == ("call_2013", 12523, "alchoi4")
    assert found["originalMediaDesc"] == found["originalMediaDescriptor"] == media["mediaDescriptor"]


@pytest.mark.parametrize("path", [OPS_PATH, SCREENS])
async def test_who_reads_with_ops_credentials_fetches_what_it_reads(
    playing: Service, counting_storage: CountingStorage, path: str
) -> None:
    ops, admin = playing.client("ops"), playing.client("admin")
    descriptor = {"storage": "webDAV", "path": counting_storage.put("call.mp3", 1000)}
    posted = a_recording("a/b", mediaFiles=[a_media_file(mediaDescriptor=descriptor)])
    assert (await ops.post(path, json=posted, params={"refresh": "wait_for"})).status_code == 201
    answer = (await ops.get(f"{path}/a%2Fb")).json()
    recording = answer.get("recording") or answer["screenRecording"]
    listed = (await ops.get(path, params={"startTime": 0})).json()
    (found,) = listed.get("recordings") or listed["screenRecordings"]
    assert found == recording
    (media,) = recording["mediaFiles"]
    assert media["mediaPath"] == media["playPath"]
    assert media["mediaPath"].startswith(f"{path.removeprefix('/api/v2')}/a%2Fb/play/")
    assert media["mediaUri"] == f"{playing.url}/api/v2{media['mediaPath']}"
    played = await ops.get(media["mediaUri"], headers={"Range": "bytes=0-9"})
    assert (played.status_code, len(played.content)) == (206, 10)
    assert (await ops.head(media["mediaUri"])).headers["content-length"] == "1000"
    assert_error(await admin.get(media["mediaUri"]), 403, 5)
    assert_error(await ops.get(media["mediaUri"].replace(CONTACT_CENTER, "another")), 404, 6)


class Muxer:
    """Joins the parts of a screen recording: posts, reads, fetches and deletes one media file after the other."""

    def __init__(self, client: httpx.AsyncClient, folder: str) -> None:
        self.client = client
        self.folder = folder

    def recording(self, recording_id: str, *names: str) -> dict[str, Any]:
        media_files = []
        for name in names:
            descriptor = {"storage": "webDAV", "path": name, "data": {"storagePath": self.folder}}
            media = a_media_file(mediaDescriptor=descriptor, type="video/mp4", mediaId=name)
            del media["callUUID"]
            media_files.append(media)
        return a_recording(recording_id, mediaFiles=media_files, eventHistory=[])

    async def post(self, recording: dict[str, Any]) -> None:
        response = await self.client.post(INTERNAL, json=recording)
        assert response.status_code == 200, response.text

    async def media_files(self, recording_id: str) -> list[dict[str, Any]]:
        response = await self.client.get(f"{INTERNAL}/{quote(recording_id, safe='')}")
        assert response.status_code == 200, response.text
        found: list[dict[str, Any]] = response.json()["recording"]["mediaFiles"]
        return found


@pytest.fixture
async def muxer(wsgidav: WebDav, start_service: StartService) -> Muxer:
    service = await start_service(storage=webdav_storage(wsgidav))
    for name in ("one.mp4", "two.mp4", "three.mp4"):
        wsgidav.put(f"screens/{name}", name.encode() * 100)
    return Muxer(service.client("ops"), wsgidav.put("screens/any", b"x").rpartition("/")[0])


async def test_a_muxer_reads_fetches_and_deletes_single_media_files(muxer: Muxer, wsgidav: WebDav) -> None:
    client = muxer.client
    await muxer.post(muxer.recording("call/7", "one.mp4", "two.mp4"))
    media_files = await muxer.media_files("call/7")
    for media, name in zip(media_files, ("one.mp4", "two.mp4"), strict=True):
        path = media["mediaPath"]
        assert re.fullmatch(
            rf"/contact-centers/{CONTACT_CENTER}/screen-recordings/call%2F7/content/[0-9a-f-]{{36}}\.mp4", path
        )
        assert media["mediaUri"] == f"{str(client.base_url).rstrip('/')}/internal-api{path}"
        assert media["originalMediaDescriptor"]["data"] == {"storagePath": muxer.folder}
        assert (await client.get(media["mediaUri"])).content == name.encode() * 100
        head = await client.head(media["mediaUri"])
        assert (head.status_code, head.headers["content-length"]) == (200, "700")

    # A name is one segment of the path.
    for method, prefix in itertools.product(("GET", "HEAD", "DELETE"), ("play%2F", "content%2F", "%2F")):
        uri = media_files[0]["mediaUri"].replace("/content/", f"/content/{prefix}")
        assert (await client.request(method, uri)).status_code == 404
    deleted = await client.delete(media_files[0]["mediaUri"])
    assert (deleted.status_code, deleted.json()) == (200, {"statusCode": 0})
    assert_error(await client.get(media_files[0]["mediaUri"]), 404, 6)
    assert_error(await client.delete(media_files[0]["mediaUri"]), 404, 6)
    assert not wsgidav.exists("screens/one.mp4")
    assert [media["mediaId"] for media in await muxer.media_files("call/7")] == ["two.mp4"]
    assert_error(await client.delete(media_files[1]["mediaUri"]), 400, 2, "the last media file")
    assert wsgidav.exists("screens/two.mp4")


async def test_a_single_media_file_that_is_protected_or_needed_stays(
    muxer: Muxer, wsgidav: WebDav, start_service: StartService
) -> None:
    client = muxer.client
    await muxer.post(muxer.recording("held", "one.mp4", "two.mp4"))
    await muxer.post(muxer.recording("sharing", "two.mp4"))
    # Without a callUUID the id stands for it, so protecting the call protects the screen.
    call = a_recording("call", mediaFiles=[a_media_file("x", callUUID="held", mediaDescriptor={
        "storage": "webDAV", "path": f"{muxer.folder}/three.mp4"})])  # fmt: skip
    assert (await client.post(OPS_PATH, json=call)).status_code == 201
    admin = httpx.AsyncClient(base_url=client.base_url, auth=("admin", "admin-password"), timeout=30)
    async with admin:
        hold = {"operationName": "applyNonDelete"}
        assert (await admin.post("/api/v2/recordings/call", json=hold)).status_code == 200
        one, two = await muxer.media_files("held")
        assert_error(await client.delete(two["mediaUri"]), 403, 3)
        assert len(await muxer.media_files("held")) == 2
        assert (await admin.post("/api/v2/recordings/call", json={"operationName": "unapplyNonDelete"})).is_success
    assert (await client.delete(two["mediaUri"])).json() == {"statusCode": 0}
    assert wsgidav.exists("screens/two.mp4")  # the other recording refers to it
    assert [media["mediaId"] for media in await muxer.media_files("held")] == ["one.mp4"]
    assert (await client.get(one["mediaUri"])).status_code == 200
