"""Real storages where one name leads to another file, to a folder, or nowhere (docs/contract.md section 7)."""

import asyncio
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from prometheus_client import CollectorRegistry

from app.errors import MediaStorageFailed
from app.media.location import resolve_location
from app.media.storages import open_storages
from app.media.versioning import versioned_buckets_reported
from app.settings import S3Config, Settings, StorageConfig, WebDavConfig
from tests.support import storages
from tests.support.processes import Scripts
from tests.support.recordings import CONTACT_CENTER, OPS_PATH, a_media_file, a_recording
from tests.support.service import Service, StartService
from tests.support.storages import S3, WebDav, s3_storage, webdav_storage

ALL = {"subresources": "*"}


@pytest.fixture(scope="module")
def multi_views() -> Iterator[WebDav]:
    with storages.apache(multi_views=True) as server:
        yield server


async def post(service: Service, recording_id: str, *descriptors: dict[str, Any]) -> None:
    media = [a_media_file(mediaDescriptor=one) for one in descriptors]
    answer = await service.client("ops").post(OPS_PATH, json=a_recording(recording_id, mediaFiles=media))
    assert answer.status_code in {200, 201}, answer.text


async def protect(service: Service, recording_id: str) -> None:
    answer = await service.client("admin").post(
        f"/api/v2/recordings/{recording_id}", json={"operationName": "applyNonDelete"}
    )
    assert answer.status_code == 200, answer.text


async def delete(service: Service, recording_id: str) -> int:
    """The code of the answer."""
    answer = await service.client("ops").delete(f"{OPS_PATH}/{recording_id}", params=ALL)
    code: int = answer.json()["statusCode"]
    return code


async def play(service: Service, recording_id: str) -> httpx.Response:
    admin = service.client("admin")
    read = (await admin.get(f"/api/v2/recordings/{recording_id}")).json()["recording"]
    return await admin.get(f"/api/v2{read['mediaFiles'][0]['playPath']}")


def webdav(url: str) -> dict[str, Any]:
    return {"storage": "webDAV", "path": url}


async def delete_object(config: StorageConfig, descriptor: dict[str, Any]) -> str:
    async with open_storages(Settings(storage=config)) as opened:
        return await opened.delete(resolve_location(descriptor, config))


async def test_a_name_that_apache_negotiates_is_neither_played_nor_deleted(
    multi_views: WebDav, start_service: StartService
) -> None:
    service = await start_service(storage=webdav_storage(multi_views))
    protected = multi_views.put("x/call.wav", b"of the protected recording")
    async with httpx.AsyncClient() as client:
        negotiated = await client.get(protected.removesuffix(".wav"))
    assert negotiated.content == b"of the protected recording"
    await post(service, "b", webdav(protected))
    await protect(service, "b")
    await post(service, "a", webdav(protected.removesuffix(".wav")))
    assert (await play(service, "a")).status_code == 404
    assert (await play(service, "b")).content == b"of the protected recording"
    assert await delete(service, "a") == 7
    assert multi_views.exists("x/call.wav")
    # A file of exactly that name is deleted, and the negotiated one stays.
    multi_views.put("x/call", b"own")
    assert await delete_object(webdav_storage(multi_views), webdav(protected.removesuffix(".wav"))) == "deleted"
    assert not multi_views.exists("x/call")
    assert multi_views.exists("x/call.wav")


@pytest.mark.parametrize(("one", "other"), [("al//x.wav", "al/x.wav"), ("/al/x.wav", "al/x.wav")])
async def test_an_s3_key_that_is_the_same_file_keeps_it(
    versitygw: S3, start_service: StartService, one: str, other: str
) -> None:
    configured = s3_storage(versitygw)
    exact = StorageConfig(s3=(msgspec.structs.replace(configured.s3[0], exact_keys=True),))
    service = await start_service(storage=exact)
    versitygw.put(other, b"media", bucket="stage-recordings")
    descriptor = {"storage": "awsS3", "path": other, "data": {"bucket": "stage-recordings"}}
    await post(service, "protected", descriptor)
    await protect(service, "protected")
    await post(service, "a", {**descriptor, "path": one})
    assert await delete(service, "a") == 0
    assert versitygw.exists(other)

    strict = await start_service(storage=configured)
    refused = await strict.client("ops").post(
        OPS_PATH, json=a_recording("b", mediaFiles=[a_media_file(mediaDescriptor={**descriptor, "path": one})])
    )
    assert (refused.status_code, refused.json()["statusCode"]) == (400, 2)
    assert "mediaFiles[0].mediaDescriptor.path" in refused.json()["statusMessage"]


async def test_one_file_under_two_names_stays_while_a_recording_needs_it(
    apache: WebDav, start_service: StartService
) -> None:
    localhost = apache.url.replace("127.0.0.1", "localhost")
    config = StorageConfig(
        webdav=(WebDavConfig(apache.url, aliases=(localhost,), case_sensitive=False), WebDavConfig(localhost))
    )
    service = await start_service(storage=config)
    url = apache.put("two-names/call.wav", b"media")
    await post(service, "protected", webdav(url))
    await protect(service, "protected")
    for other in (url.replace("call", "CALL"), url.replace("127.0.0.1", "localhost")):
        await post(service, "a", webdav(other))
        assert await delete(service, "a") == 0
        assert apache.exists("two-names/call.wav")


async def test_a_file_name_in_a_folder_is_played_and_deleted(apache: WebDav, start_service: StartService) -> None:
    service = await start_service(storage=webdav_storage(apache))
    url = apache.put("screens/a b%20ü.mp4", b"a screen recording")
    folder = apache.url_of("screens")
    descriptor = {"storage": "webDAV", "path": "a b%20ü.mp4", "data": {"storagePath": folder}}
    await post(service, "r", descriptor)
    assert (await play(service, "r")).content == b"a screen recording"
    read = (await service.client("ops").get(f"{OPS_PATH}/r")).json()["recording"]
    assert read["mediaFiles"][0]["originalMediaDesc"] == descriptor
    # Its URL names the same media file, so this update replaces it.
    await post(service, "r", webdav(url))
    assert len((await service.client("ops").get(f"{OPS_PATH}/r")).json()["recording"]["mediaFiles"]) == 1
    await post(service, "r", descriptor)
    assert await delete(service, "r") == 0
    assert not apache.exists("screens/a b%20ü.mp4")


async def test_all_versions_of_exactly_the_key_are_deleted(moto: S3, caplog: pytest.LogCaptureFixture) -> None:
    bucket = "versioned"
    moto.client.create_bucket(Bucket=bucket)
    moto.client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    for key in ("a/call.wav", "a/call.wav", "a/call.wav2"):
        moto.put(key, b"media", bucket=bucket)
    moto.client.delete_object(Bucket=bucket, Key="a/call.wav")
    moto.put("a/call.wav", b"media", bucket=bucket)
    plain = S3Config((bucket,), moto.url, moto.region, moto.access_key_id, moto.secret_access_key)
    descriptor = {"storage": "awsS3", "path": "a/call.wav", "data": {"bucket": bucket}}

    def versions() -> list[str]:
        listed = moto.client.list_object_versions(Bucket=bucket)
        return sorted(one["Key"] for kind in ("Versions", "DeleteMarkers") for one in listed.get(kind, ()))

    registry = CollectorRegistry()
    caplog.set_level(logging.WARNING)
    async with (
        open_storages(Settings(storage=StorageConfig(s3=(plain,)))) as opened,
        versioned_buckets_reported(opened, registry),
    ):
        deadline = time.monotonic() + 20
        while registry.get_sample_value("recall_media_bucket_versioned", {"bucket": bucket}) != 1:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
    assert "bucket versioned is versioned" in caplog.text

    assert await delete_object(StorageConfig(s3=(plain,)), descriptor) == "deleted"
    assert versions().count("a/call.wav") == 5  # it has only got another marker
    thorough = StorageConfig(s3=(msgspec.structs.replace(plain, delete_versions=True),))
    assert await delete_object(thorough, descriptor) == "deleted"
    assert versions() == ["a/call.wav2"]
    assert await delete_object(thorough, descriptor) == "missing"


async def test_a_bucket_that_is_not_there_is_not_a_missing_object(versitygw: S3) -> None:
    config = msgspec.structs.replace(s3_storage(versitygw).s3[0], buckets=("no-such-bucket",))
    descriptor = {"storage": "awsS3", "path": "x.wav", "data": {"bucket": "no-such-bucket"}}
    with pytest.raises(MediaStorageFailed) as raised:
        await delete_object(StorageConfig(s3=(config,)), descriptor)
    assert "NoSuchBucket" in raised.value.reason


@pytest.mark.parametrize("count", [2, 7])
async def test_a_purge_forgets_no_file_of_a_share_that_is_not_mounted(
    apache: WebDav, start_service: StartService, tmp_path: Path, count: int
) -> None:
    service = await start_service(storage=webdav_storage(apache))
    scripts = Scripts(service.settings, tmp_path)
    for i in range(count):
        await post(service, f"r{i}", webdav(apache.put(f"share/{i}.wav", b"media")))
    (apache.folder / "share").rename(apache.folder / "unmounted")
    old = ("--older-than", "90d", "--contact-center", CONTACT_CENTER, "--with-media", "--yes")
    status, out, err = await scripts.run("purge.py", *old)
    assert status == 1, out
    assert f"media objects not deleted {count}" in out
    assert "--missing-media-ok" in (err if count == 7 else out)
    if count < 7:
        (apache.folder / "unmounted").rename(apache.folder / "share")
        assert all(apache.exists(f"share/{i}.wav") for i in range(count))
        return
    status, out, _ = await scripts.run("sweep_media.py")
    assert status == 1
    assert out.startswith("deleted 0, ")
    (apache.folder / "unmounted").rename(apache.folder / "share")
    assert (await scripts.run("sweep_media.py"))[0] == 0
    assert not any(apache.exists(f"share/{i}.wav") for i in range(count))


async def test_an_operator_may_say_that_missing_media_are_gone(
    apache: WebDav, start_service: StartService, tmp_path: Path
) -> None:
    service = await start_service(storage=webdav_storage(apache))
    scripts = Scripts(service.settings, tmp_path)
    for i in range(7):
        await post(service, f"r{i}", webdav(apache.url_of(f"never/{i}.wav")))
    old = ("--older-than", "90d", "--contact-center", CONTACT_CENTER, "--with-media", "--yes")
    status, out, err = await scripts.run("purge.py", *old, "--missing-media-ok")
    assert status == 0, err
    assert "deleted 7, " in out
    assert (await scripts.run("sweep_media.py"))[1] == "deleted 0, still needed 0, failed 0\n"
