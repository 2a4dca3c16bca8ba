"""Uploads of a restore to real storages: whole files, in new folders, and never over another file."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from app.errors import MediaStorageFailed
from app.media.location import Location, resolve_location
from app.media.uploads import ObjectExists, Uploads
from app.settings import Settings, StorageConfig
from tests.support.faults import Connection, LocalServer, Request
from tests.support.storages import BUCKETS, S3, WebDav, storage_of

CONTENT = b"RIFF" + bytes(range(256)) * 100
LARGE = CONTENT * 330  # in parts, where there are any

# Dufs ignores conditions, and nginx knows neither MKCOL nor MOVE.
SERVERS = ("wsgidav_basic", "apache_tls", "dufs", "nginx_webdav", "versitygw", "moto")


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> WebDav | S3:
    found: WebDav | S3 = request.getfixturevalue(request.param)
    return found


class RecklessStorage(LocalServer):
    """It replaces whatever it is asked to, and answers HEAD with a status of the test's."""

    def __init__(self, head: int) -> None:
        super().__init__()
        self.head = head
        self.files: dict[str, bytes] = {}

    async def answer(self, request: Request, connection: Connection) -> None:
        if request.method == "PUT":
            self.files[request.target] = request.body
        elif request.method == "MOVE":
            destination = request.headers["destination"].removeprefix(self.origin)
            self.files[destination] = self.files.pop(request.target)
        elif request.method == "DELETE":
            self.files.pop(request.target, None)
        await connection.respond(self.head if request.method == "HEAD" else 201)


@pytest.mark.parametrize(("head", "is_stored"), [(404, True), (405, True), (200, False), (302, False), (503, False)])
async def test_a_storage_that_does_not_tell_whether_it_has_an_object_gets_none(head: int, is_stored: bool) -> None:
    async with RecklessStorage(head) as server:
        storage = StorageConfig(webdav=(server.config,))
        path = "/recordings/call.wav"
        server.files[path] = b"another"
        location = resolve_location({"storage": "webDAV", "path": f"{server.origin}{path}"}, storage)

        async def content() -> AsyncIterator[bytes]:
            yield CONTENT

        async with Uploads(Settings(storage=storage), 4) as uploads:
            putting = uploads.put(location, content, size=len(CONTENT), content_type="audio/wav", content_encoding="")
            if is_stored:
                await putting
            else:
                with pytest.raises((ObjectExists, MediaStorageFailed)):
                    await putting
        assert server.files == {path: CONTENT if is_stored else b"another"}


async def put(server: WebDav | S3, location: Location, *chunks: bytes, size: int | None = None) -> None:
    async def content() -> AsyncIterator[bytes]:
        for chunk in chunks:
            if chunk == b"damaged":
                raise MediaStorageFailed("it is damaged")
            yield chunk

    whole = sum(map(len, chunks)) if size is None else size
    async with Uploads(Settings(storage=storage_of(server)), 4) as uploads:
        await uploads.put(location, content, size=whole, content_type="audio/wav", content_encoding="")


def stored(server: WebDav | S3, path: str) -> bytes | None:
    if isinstance(server, WebDav):
        file = server.folder / path
        return file.read_bytes() if file.is_file() else None
    if not server.exists(path):
        return None
    content: bytes = server.client.get_object(Bucket=BUCKETS[0], Key=path)["Body"].read()
    return content


async def test_a_file_is_stored_as_a_whole_and_never_replaced(
    server: WebDav | S3, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    base = f"uploads-{tmp_path.name}"
    is_nginx = "nginx" in request.node.name  # as it is configured here, it refuses large files
    if isinstance(server, WebDav):
        server.put(f"{base}/a b/é/here" if is_nginx else f"{base}/here", b"")
    for name, content in (
        ("a b/é/c.wav", CONTENT),
        ("a b/d.wav", CONTENT if is_nginx else LARGE),
        ("a b/empty.wav", b""),
    ):
        path = f"{base}/{name}"
        location = resolve_location(server.descriptor(path), storage_of(server))
        chunks = [content[i : i + 1_000_000] for i in range(0, len(content), 1_000_000)]
        with pytest.raises(MediaStorageFailed):
            await put(server, location, *chunks, b"damaged", size=len(content) + 1)
        assert stored(server, path) is None
        await put(server, location, *chunks)
        assert stored(server, path) == content
        with pytest.raises(ObjectExists):
            await put(server, location, b"other")
        assert stored(server, path) == content
    if isinstance(server, WebDav):
        left = [path.name for path in (server.folder / base).rglob("*") if path.is_file()]
        assert set(left) == {"c.wav", "d.wav", "empty.wav", "here"}


async def test_concurrent_uploads_of_one_object_do_not_spoil_each_other(server: WebDav | S3, tmp_path: Path) -> None:
    """Two recordings may share an object."""
    path = f"uploads-{tmp_path.name}/shared.wav"
    if isinstance(server, WebDav):
        server.put(f"uploads-{tmp_path.name}/here", b"")
    location = resolve_location(server.descriptor(path), storage_of(server))

    async def content() -> AsyncIterator[bytes]:
        for start in range(0, len(CONTENT), 5_000):
            await asyncio.sleep(0.01)
            yield CONTENT[start : start + 5_000]

    async with Uploads(Settings(storage=storage_of(server)), 4) as uploads:
        options: dict[str, Any] = {"size": len(CONTENT), "content_type": "audio/wav", "content_encoding": ""}
        outcomes = await asyncio.gather(
            *(uploads.put(location, content, **options) for _ in range(3)), return_exceptions=True
        )
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["NoneType", "ObjectExists", "ObjectExists"]
    assert stored(server, path) == CONTENT
