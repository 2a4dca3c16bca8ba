"""Puts media objects into the configured storages, for a restore. Nothing that exists is ever replaced.

A WebDAV server gets the file under another name and moves it when it is whole: not every server knows conditions, or
drops a file whose upload broke off. An S3 object appears when its upload has ended.
"""

import asyncio
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from hashlib import sha256
from typing import Any
from urllib.parse import quote
from weakref import WeakValueDictionary

import aiohttp
from botocore.exceptions import BotoCoreError, ClientError
from yarl import URL

from app.errors import MediaStorageFailed, MediaStorageTimeout
from app.media.archives import open_s3
from app.media.location import Location, S3Location, WebDavLocation, parse_base
from app.media.proof import GONE
from app.media_urls import parse_url
from app.settings import S3Config, Settings, WebDavConfig

# What is uploaded to S3 in one request; more goes in parts.
_PART = 8 * 1024 * 1024

# How a WebDAV server says that a folder is missing: 409 (RFC 4918), and what others answer.
_NO_FOLDER = frozenset({403, 404, 409})
_CANNOT_MOVE = frozenset({403, 405, 501})
# What an answer to HEAD may be: the object is there, it is not, or the server does not know HEAD.
_TELLS = frozenset({200, 206, *GONE, 405, 501})

# Yields the bytes of the object. Raises at its end, or before, if they are not the right ones.
Content = Callable[[], AsyncIterator[bytes]]


class ObjectExists(Exception):
    """There is an object of this name already."""


class Uploads:
    """Uploads to all configured storages, over connections of its own. `connections` bounds them for each storage."""

    def __init__(self, settings: Settings, connections: int) -> None:
        self._settings = settings
        self._connections = connections
        self._stack = AsyncExitStack()
        self._webdav: dict[WebDavConfig, aiohttp.ClientSession] = {}
        self._s3: dict[S3Config, Any] = {}
        self._folders: set[str] = set()
        self._opening = asyncio.Lock()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def __aenter__(self) -> "Uploads":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def put(
        self, location: Location, content: Content, *, size: int, content_type: str, content_encoding: str
    ) -> None:
        """Stores an object of so many bytes. Raises ObjectExists, MediaStorageFailed, MediaStorageTimeout.

        It raises what `content` raises too, and then has stored nothing.
        """
        try:
            if isinstance(location, S3Location):
                headers = {"ContentType": content_type, "ContentEncoding": content_encoding}
                await self._put_s3(location, content, size, {name: value for name, value in headers.items() if value})
            else:
                # Two recordings may share an object: both uploads have the same temporary name.
                async with self._locks.setdefault(location.url, asyncio.Lock()):
                    await self._put_webdav(location, content, size, content_type)
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code in {"PreconditionFailed", "412"}:
                raise ObjectExists from None
            raise MediaStorageFailed(f"it refuses the upload: {code or error}") from error
        except TimeoutError as error:
            raise MediaStorageTimeout("the upload took too long") from error
        except (BotoCoreError, aiohttp.ClientError, OSError) as error:
            raise MediaStorageFailed(f"the upload failed: {error}") from error

    # --- S3 ---

    async def _put_s3(self, location: S3Location, content: Content, size: int, headers: dict[str, str]) -> None:
        client = await self._client(location.storage)
        names = {"Bucket": location.bucket, "Key": location.key}
        if size <= _PART:
            body = b"".join([chunk async for chunk in content()])
            await client.put_object(**names, **headers, Body=body, IfNoneMatch="*")
            return
        upload = {**names, "UploadId": (await client.create_multipart_upload(**names, **headers))["UploadId"]}
        try:
            parts = [
                {
                    "PartNumber": number,
                    "ETag": (await client.upload_part(**upload, PartNumber=number, Body=part))["ETag"],
                }
                async for number, part in _parts(content())
            ]
            await client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts}, IfNoneMatch="*")
        except BaseException:
            with suppress(ClientError, BotoCoreError, OSError):
                await client.abort_multipart_upload(**upload)
            raise

    async def _client(self, config: S3Config) -> Any:
        async with self._opening:
            if config not in self._s3:
                self._s3[config] = await self._stack.enter_async_context(open_s3(config, self._connections))
        return self._s3[config]

    # --- WebDAV ---

    async def _put_webdav(self, location: WebDavLocation, content: Content, size: int, content_type: str) -> None:
        session = await self._session(location.storage)
        folder = location.url.rpartition("/")[0]
        await self._make_folder(session, location.storage, folder)
        # The same for each attempt, so that a run that was killed leaves one file, which the next one replaces.
        temporary = f"{folder}/recall-{sha256(location.url.encode()).hexdigest()[:32]}.part"
        headers = {"Content-Length": str(size), **({"Content-Type": content_type} if content_type else {})}
        try:
            await self._request(session, "PUT", temporary, {200, 201, 204}, headers, content())
            # Some servers ignore conditions. One that does not say whether it has the object gets none in its place.
            if await self._request(session, "HEAD", location.url, _TELLS) in {200, 206}:
                raise ObjectExists
            moving = {"Destination": location.url, "Overwrite": "F"}
            status = await self._request(session, "MOVE", temporary, {201, 204, 412, *_CANNOT_MOVE}, moving)
        except BaseException:
            with suppress(MediaStorageFailed, aiohttp.ClientError, OSError):
                await self._request(session, "DELETE", temporary, {200, 204, 404})
            raise
        if status in {201, 204}:
            return
        await self._request(session, "DELETE", temporary, {200, 204, 404})
        if status == 412:
            raise ObjectExists
        headers["If-None-Match"] = "*"
        status = await self._request(session, "PUT", location.url, {200, 201, 204, 412}, headers, content())
        if status == 412:
            raise ObjectExists

    async def _make_folder(self, session: aiohttp.ClientSession, storage: WebDavConfig, folder: str) -> None:
        """Makes a folder and those above it, below the base URL.

        Without that one, the storage's share may not be mounted.
        """
        _, base = parse_base(storage.base_url)
        origin, parts = parse_url(folder)
        for depth in range(len(base) + 1, len(parts) + 1):
            url = "/".join([origin, *(quote(part, safe="") for part in parts[:depth])])
            if url not in self._folders:
                # 405: it exists. Others say so in other ways; the upload shows whether it does.
                status = await self._request(session, "MKCOL", f"{url}/", {200, 201, 301, 405, *_NO_FOLDER, 501})
                if status not in _NO_FOLDER:
                    self._folders.add(url)

    async def _request(  # noqa: PLR0917
        self,
        session: aiohttp.ClientSession,
        method: str,
        url: str,
        expected: set[int] | frozenset[int],
        headers: dict[str, str] | None = None,
        data: AsyncIterator[bytes] | None = None,
    ) -> int:
        request = session.request(method, URL(url, encoded=True), headers=headers, data=data, allow_redirects=False)
        async with request as answer:
            if answer.status not in expected:
                raise MediaStorageFailed(f"it answers {method} with {answer.status}")
            return answer.status

    async def _session(self, config: WebDavConfig) -> aiohttp.ClientSession:
        async with self._opening:
            if config not in self._webdav:
                self._webdav[config] = await self._stack.enter_async_context(self._new_session(config))
        return self._webdav[config]

    def _new_session(self, config: WebDavConfig) -> aiohttp.ClientSession:
        settings = self._settings
        tls = ssl.create_default_context(cafile=config.ca_file)
        # A kept connection that the server closes would take the beginning of a file with it.
        connector = aiohttp.TCPConnector(limit=self._connections, ssl=tls, force_close=True)
        headers = {}
        if config.username is not None:
            credentials = b64encode(f"{config.username}:{config.password or ''}".encode()).decode()
            headers["Authorization"] = f"Basic {credentials}"
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=settings.storage_connect_seconds, sock_read=settings.storage_stall_seconds
        )
        return aiohttp.ClientSession(connector=connector, headers=headers, timeout=timeout, trust_env=False)


async def _parts(chunks: AsyncIterator[bytes]) -> AsyncIterator[tuple[int, bytes]]:
    """Yields the parts of an upload, with their numbers."""
    number, waiting = 1, bytearray()
    async for chunk in chunks:
        waiting += chunk
        if len(waiting) >= _PART:
            yield number, bytes(waiting)
            number, waiting = number + 1, bytearray()
    if waiting:
        yield number, bytes(waiting)
