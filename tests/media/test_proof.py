"""No file but the one named is ever deleted, and none that is still there is reported (docs/contract.md section 7)."""

import asyncio
import logging
import random
from collections import Counter
from typing import Any
from urllib.parse import quote, unquote

import pytest

from app.errors import RecallError
from app.media import http
from app.media.http import HttpPool
from app.media.location import Location, S3Location, resolve_location
from app.media.missing import Sightings
from app.media.s3 import S3Storage, Signer, s3_client
from app.media.storages import Storage
from app.media.stream import Removal
from app.media.webdav import WebDavStorage
from app.settings import S3Config, Settings, StorageConfig, WebDavConfig
from tests.support.quirky import OWN_HREFS, REDIRECTS, QuirkyS3, QuirkyWebDav, WebDavScene, s3_scene, webdav_scene
from tests.support.sizes import DELETION_SCENES

_CONCURRENT = 64
# A busy machine's time.
_PATIENT = Settings(storage_connect_seconds=60, storage_first_byte_seconds=60, storage_wait_seconds=60)


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="app.media")
    monkeypatch.setattr(http, "_BUSY_PAUSES", (0.001,) * len(http._BUSY_PAUSES))


def descriptor_of(server: QuirkyWebDav, scene: WebDavScene) -> dict[str, object]:
    return {"storage": "webDAV", "path": f"{server.url}/{scene.name}/{quote(scene.target)}"}


async def reported(storage: Storage[Any], location: Location) -> Removal | None:
    """What a deletion reports, None for a failure."""
    try:
        return await storage.delete(location)
    except RecallError:
        return None


def is_honest(scene: WebDavScene) -> bool:
    """Whether a client can delete what the target names, if it is a file, and finds out that it has."""
    return (
        scene.mounted
        and not scene.swap
        and scene.propfind in {"good", *OWN_HREFS}
        and scene.get in {"good", "no ranges", "bare"}
        and scene.delete in {"good", "204 with a body", "200 with 100 kB", "207"}
    )


async def test_webdav_answers_at_random_destroy_nothing_and_never_pretend(caplog: pytest.LogCaptureFixture) -> None:
    rng = random.Random(11)
    outcomes: Counter[tuple[bool, Removal | None]] = Counter()
    slots = asyncio.Semaphore(_CONCURRENT)

    async def play(number: int) -> None:
        scene = webdav_scene(f"s{number}", rng)
        before = dict(scene.files)
        server.scenes[scene.name] = scene
        base = f"{server.url}/{scene.name}"
        config = WebDavConfig(base, presence_url=f"{base}/.mounted")
        location = resolve_location(descriptor_of(server, scene), StorageConfig(webdav=(config,)))
        async with slots:
            removal = await reported(WebDavStorage(config, pool, Sightings()), location)
        swapped = {scene.target} if scene.swap else set()
        assert set(before) - set(scene.files) <= {scene.target} | swapped, scene
        if removal is not None:
            assert scene.target not in scene.files, scene
            assert scene.mounted, scene
        if removal == "deleted":
            assert scene.delete != "207 failed", scene
            assert scene.delete not in REDIRECTS, scene
        if removal == "missing":
            assert scene.presence == 200, scene
        # No redirect is followed, and no other object is asked for, but for the name decoded twice.
        asked_for = {path.rstrip("/") for path in scene.requests}
        assert asked_for <= {scene.target, unquote(scene.target), ".mounted"}, scene
        if scene.is_folder(scene.target):
            assert removal is None, scene
        if is_honest(scene) and scene.target in before:
            assert removal == "deleted", scene
        outcomes[scene.target in before, removal] += 1
        del server.scenes[scene.name]

    async with QuirkyWebDav() as server, HttpPool("quirky", None, _PATIENT) as pool:
        await asyncio.gather(*map(play, range(DELETION_SCENES * 4 // 5)))
    # Of all kinds there were many.
    expected: list[tuple[bool, Removal | None]] = [(True, "deleted"), (True, None), (False, "missing"), (False, None)]
    for outcome in expected:
        assert outcomes[outcome] > DELETION_SCENES / 100, outcomes
    # Each failure is a line that names the storage.
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) >= outcomes[True, None] + outcomes[False, None]
    assert all(line.startswith("media storage ") for line in lines)


async def test_s3_answers_at_random_destroy_nothing_and_never_pretend() -> None:
    rng = random.Random(12)
    outcomes: Counter[tuple[bool, Removal | None]] = Counter()
    slots = asyncio.Semaphore(_CONCURRENT)

    async def play(number: int) -> None:
        scene = s3_scene(f"bucket-{number}", rng)
        server.scenes[scene.name] = scene
        before = {key: list(versions) for key, versions in scene.objects.items()}
        deletes_versions = rng.random() < 0.5
        config = S3Config((scene.name,), server.origin, "us-east-1", delete_versions=deletes_versions)
        async with slots:
            removal = await reported(S3Storage(signer, pool), S3Location(config, scene.name, scene.target))
        for key, versions in before.items():
            if key != scene.target:
                assert scene.objects.get(key) == versions, scene
        if removal is not None:
            assert not scene.has(scene.target), scene
            if deletes_versions:
                assert scene.target not in scene.objects, scene
        outcomes[scene.target in before, removal] += 1

    async with (
        QuirkyS3() as server,
        HttpPool("quirky", None, _PATIENT) as pool,
        s3_client(endpoint := S3Config((), server.origin, "us-east-1", "key", "secret")) as client,
    ):
        signer = Signer(client, endpoint)
        await asyncio.gather(*map(play, range(DELETION_SCENES // 5)))
    expected: list[tuple[bool, Removal | None]] = [(True, "deleted"), (True, None), (False, "deleted"), (False, None)]
    for outcome in expected:
        assert outcomes[outcome] > DELETION_SCENES / 1000, outcomes
