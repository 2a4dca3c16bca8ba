"""Media objects in their storages: one streaming path over HTTP for WebDAV and, by presigned URLs, for S3."""

import asyncio
import logging
import re
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Protocol

import aiohttp
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError, ClientError
from yarl import URL

from app.errors import StorageBusy, StorageFailed, StorageTimeout
from app.media.location import Location, S3Location, WebDavLocation
from app.media.turns import Turns
from app.settings import S3Storage, Settings, WebDavStorage

log = logging.getLogger(__name__)

# Enough to use at once, too short to be of use to who finds a URL in a log.
_PRESIGNED_SECONDS = 60

# Of an answer that is read as a whole, in bytes.
_LONGEST_ANSWER = 64 * 1024

_GONE = frozenset({404, 410})
_WHAT_IS_IT = b'<?xml version="1.0"?><propfind xmlns="DAV:"><prop><resourcetype/></prop></propfind>'
# The element, under whatever prefix: text and attributes have their "<" escaped.
_COLLECTION = re.compile(rb"<(?:[\w.-]+:)?collection[\s/>]")

# How much of a file a stream holds in memory, in bytes; the network's own buffers read ahead of the player. With less
# the work for each piece counts, with more a new player waits longer for its turn among those who play already.
_PIECE = 256 * 1024


class MediaStream:
    """A storage's answer whose body has not been read yet. Whoever opened it closes it, on every path."""

    def __init__(self, response: aiohttp.ClientResponse, slots: asyncio.Semaphore) -> None:
        self._response = response
        self._slots: asyncio.Semaphore | None = slots
        self._read = self._read_first
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers

    async def read(self) -> bytes:
        """What has arrived, nothing at the end; raises StorageFailed when it breaks off. It has no time limit."""
        try:
            return await self._read()
        except (aiohttp.ClientError, OSError) as error:
            raise StorageFailed from error

    def close(self) -> None:
        """Frees the connection at once. No coroutine, because one would not run in a cancelled task."""
        self._response.close()
        if self._slots is not None:
            self._slots.release()
            self._slots = None

    async def _read_first(self) -> bytes:
        """What came with the headers. Decides how the rest is read."""
        content = self._response.content
        arrived = b""
        while more := content.read_nowait():
            arrived += more
        connection, length = self._response.connection, self._response.content_length
        # Without a connection all has arrived, or it is lost.
        if connection and connection.transport is not None and length is not None and not self._is_chunked():
            self._read = _Rest(connection, content, length - len(arrived)).read
        else:
            self._read = content.readany
        return arrived or await self._read()

    def _is_chunked(self) -> bool:
        return "Transfer-Encoding" in self._response.headers


class _Rest(asyncio.BufferedProtocol):
    """The rest of a body of known length, read from the connection itself, one piece whenever one is wanted.

    aiohttp's reader copies each byte three times and takes up to half a megabyte at once, during which all other
    players wait. At the end the connection is aiohttp's again, for the next request.
    """

    def __init__(self, connection: aiohttp.connector.Connection, content: aiohttp.StreamReader, length: int) -> None:
        assert connection.transport is not None
        assert connection.protocol is not None
        self._transport = connection.transport
        self._aiohttp = connection.protocol
        self._content = content
        self._left = length
        self._buffer = memoryview(bytearray(min(_PIECE, length)))
        self._piece: asyncio.Future[bytes] | None = None
        self._lost = False
        self._aiohttp.pause_reading()
        self._transport.set_protocol(self)

    async def read(self) -> bytes:
        """A piece, nothing at the end; raises ConnectionError."""
        if not self._left:
            return b""
        if self._lost or self._transport.is_closing():
            raise ConnectionResetError
        self._piece = asyncio.get_running_loop().create_future()
        self._transport.resume_reading()
        return await self._piece

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer[: self._left]

    def buffer_updated(self, nbytes: int) -> None:
        self._transport.pause_reading()
        self._left -= nbytes
        if piece := self._asked():
            # A copy, because the player's connection may keep it for a while.
            piece.set_result(bytes(self._buffer[:nbytes]))
        if not self._left:
            self._transport.set_protocol(self._aiohttp)
            self._aiohttp.resume_reading()
            self._content.feed_eof()

    def connection_lost(self, error: Exception | None) -> None:
        self._lost = True
        if piece := self._asked():
            piece.set_exception(ConnectionResetError())
        self._aiohttp.connection_lost(error)

    def _asked(self) -> asyncio.Future[bytes] | None:
        """Who waits for a piece, and has not been cancelled."""
        piece, self._piece = self._piece, None
        return piece if piece and not piece.done() else None


class Storage(Protocol):
    """One configured storage. Locations come from `app.media.location`."""

    async def open(self, method: str, location: Any, headers: Mapping[str, str]) -> MediaStream:
        """GET or HEAD with the range and conditions of `headers`; any status is an answer.

        Raises StorageBusy, StorageTimeout or StorageFailed.
        """
        ...

    async def delete(self, location: Any) -> None:
        """Deletes an object; returns when it is gone, also when it was before. Raises as `open` does."""
        ...


class WebDav:
    """A WebDAV server, with credentials of its own."""

    def __init__(self, storage: WebDavStorage, http: "_Http") -> None:
        self._http = http
        self._headers: dict[str, str] = {}
        if storage.username is not None:
            credentials = b64encode(f"{storage.username}:{storage.password or ''}".encode()).decode()
            self._headers["Authorization"] = f"Basic {credentials}"

    async def open(self, method: str, location: WebDavLocation, headers: Mapping[str, str]) -> MediaStream:
        return await self._http.open(method, location.url, {**headers, **self._headers})

    async def delete(self, location: WebDavLocation) -> None:
        # A folder would be deleted with all that is in it, also without a slash at the end of its URL.
        status, properties = await self._http.request(
            "PROPFIND", location.url, {**self._headers, "Depth": "0", "Content-Type": "application/xml"}, _WHAT_IS_IT
        )
        if status in _GONE:
            return
        # A server that does not know the method has no folders either.
        if status not in {207, 405, 501} or _COLLECTION.search(properties):
            log.warning("a media object is not deleted: PROPFIND was answered %d, or it is a folder", status)
            raise StorageFailed
        status, _ = await self._http.request("DELETE", location.url, self._headers)
        if status not in {200, 202, 204, *_GONE}:
            log.warning("the media storage answered DELETE with %d", status)
            raise StorageFailed


class S3:
    """An S3 endpoint with its buckets. URLs are signed here, so that bodies stream as WebDAV's do."""

    def __init__(self, client: Any, http: "_Http") -> None:
        self._client = client
        self._http = http

    async def open(self, method: str, location: S3Location, headers: Mapping[str, str]) -> MediaStream:
        operation = "head_object" if method == "HEAD" else "get_object"
        return await self._http.open(method, await self._sign(operation, location), headers)

    async def delete(self, location: S3Location) -> None:
        # Of an object that is not there S3 says 204 too; 404 is about its bucket.
        status, _ = await self._http.request("DELETE", await self._sign("delete_object", location), {})
        if status not in {200, 204}:
            log.warning("the media storage answered DELETE with %d", status)
            raise StorageFailed

    async def _sign(self, operation: str, location: S3Location) -> str:
        try:
            url: str = await self._client.generate_presigned_url(
                operation, {"Bucket": location.bucket, "Key": location.key}, ExpiresIn=_PRESIGNED_SECONDS
            )
        except (BotoCoreError, ClientError) as error:  # no credentials, for one
            raise StorageFailed from error
        return url


class MediaStorages:
    """All configured storages, each with one pool of connections for the life of the process."""

    def __init__(self, storages: Mapping[WebDavStorage | S3Storage, Storage]) -> None:
        self._storages = storages
        self.turns = Turns()

    async def open(self, method: str, location: Location, headers: Mapping[str, str]) -> MediaStream:
        return await self._storages[location.storage].open(method, location, headers)

    async def delete(self, location: Location) -> None:
        await self._storages[location.storage].delete(location)


@asynccontextmanager
async def open_storages(settings: Settings) -> AsyncIterator[MediaStorages]:
    """Opens no connection yet."""
    async with AsyncExitStack() as stack:
        storages: dict[WebDavStorage | S3Storage, Storage] = {}
        for webdav in settings.storage.webdav:
            storages[webdav] = WebDav(webdav, await stack.enter_async_context(_Http(settings)))
        for s3 in settings.storage.s3:
            client = await stack.enter_async_context(_s3_client(s3))
            storages[s3] = S3(client, await stack.enter_async_context(_Http(settings)))
        yield MediaStorages(storages)


def _s3_client(storage: S3Storage) -> Any:
    return get_session().create_client(
        "s3",
        endpoint_url=storage.endpoint_url,
        region_name=storage.region,
        aws_access_key_id=storage.access_key_id,
        aws_secret_access_key=storage.secret_access_key,
        config=AioConfig(
            signature_version="s3v4",
            # Endpoints of one's own rarely have a DNS name for each bucket.
            s3={"addressing_style": "path" if storage.endpoint_url else "virtual"},
        ),
    )


class _Http:
    """Requests to one storage: pooled connections, bounded in number, with time limits but none on the whole."""

    def __init__(self, settings: Settings) -> None:
        self._slots = asyncio.Semaphore(settings.storage_streams)
        self._wait_seconds = settings.storage_wait_seconds
        self._first_byte_seconds = settings.storage_first_byte_seconds
        self._stall_seconds = settings.storage_stall_seconds
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),  # the slots are the limit
            timeout=aiohttp.ClientTimeout(
                total=None,
                sock_connect=settings.storage_connect_seconds,
            ),
            headers={"Accept-Encoding": "identity"},
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )

    async def __aenter__(self) -> "_Http":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def request(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> tuple[int, bytes]:
        """The status and the body of a short answer."""
        stream = await self.open(method, url, headers, body)
        try:
            content = b""
            # It is so short that one time limit does for all of it.
            async with asyncio.timeout(self._stall_seconds):
                while chunk := await stream.read():
                    content += chunk
                    if len(content) > _LONGEST_ANSWER:
                        raise StorageFailed
        except TimeoutError as error:
            raise StorageTimeout from error
        finally:
            stream.close()
        return stream.status, content

    async def open(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None) -> MediaStream:
        """The answer to a request, as soon as its headers are there."""
        try:
            async with asyncio.timeout(self._wait_seconds):
                await self._slots.acquire()
        except TimeoutError:
            raise StorageBusy from None
        try:
            async with asyncio.timeout(self._first_byte_seconds):
                response = await self._session.request(
                    # The URL is normalised and encoded already, and a redirect could lead anywhere.
                    method,
                    URL(url, encoded=True),
                    headers=headers,
                    data=body,
                    allow_redirects=False,
                )
        except BaseException as error:
            self._slots.release()
            if isinstance(error, TimeoutError):
                raise StorageTimeout from error
            if isinstance(error, aiohttp.ClientError | OSError):
                raise StorageFailed from error
            raise
        return MediaStream(response, self._slots)
