"""Uploads of a restore to real storages: whole files, in new folders, and never over another file."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.errors import MediaStorageFailed
from app.media.location import Location, resolve_location
from app.media.uploads import ObjectExists, Uploads
from app.settings import Settings
from tests.support.storages import BUCKETS, S3, WebDav, storage_of

CONTENT = b"RIFF" + bytes(range(256)) * 100
LARGE = CONTENT * 330  # in parts, where there are any

# Dufs ignores conditions, and nginx knows neither MKCOL nor MOVE.
SERVERS = ("wsgidav_basic", "apache_tls", "dufs", "nginx_webdav", "versitygw", "moto")


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> WebDav | S3:
    found: WebDav | S3 = request.getfixturevalue(request.param)
    return found


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
