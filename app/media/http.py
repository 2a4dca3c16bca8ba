"""HTTP to media storages: pooled connections, bounded in number, and bodies that are read as they arrive."""

import asyncio
from collections.abc import Mapping

import aiohttp
from yarl import URL

from app.errors import MediaStorageBusy, MediaStorageFailed, MediaStorageTimeout
from app.settings import Settings

# The longest answer that is read as a whole, in bytes.
_LONGEST_ANSWER = 64 * 1024

# How much of a file a stream holds in memory, in bytes; the network's own buffers read ahead of the player. With less
# the work for each chunk counts, with more a new player waits longer for its turn among those who play already.
_CHUNK = 256 * 1024


class HttpStream:
    """A storage's answer whose body has not been read yet. Whoever opened it closes it, on every path."""

    def __init__(self, response: aiohttp.ClientResponse, slots: asyncio.Semaphore) -> None:
        self._response = response
        self._slots: asyncio.Semaphore | None = slots
        self._read = self._read_first
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self.length = response.content_length

    async def read(self) -> bytes:
        """What has arrived, nothing at the end; raises MediaStorageFailed when it breaks off. It has no time limit."""
        try:
            return await self._read()
        except (aiohttp.ClientError, OSError) as error:
            raise MediaStorageFailed from error

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
            self._read = _DirectBodyReader(connection, content, length - len(arrived)).read
        else:
            self._read = content.readany
        return arrived or await self._read()

    def _is_chunked(self) -> bool:
        return "Transfer-Encoding" in self._response.headers


class _DirectBodyReader(asyncio.BufferedProtocol):
    """The rest of a body of known length, read from the connection itself, one chunk whenever one is wanted.

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
        self._buffer = memoryview(bytearray(min(_CHUNK, length)))
        self._chunk: asyncio.Future[bytes] | None = None
        self._lost = False
        self._aiohttp.pause_reading()
        self._transport.set_protocol(self)

    async def read(self) -> bytes:
        """A chunk, nothing at the end; raises ConnectionError."""
        if not self._left:
            return b""
        if self._lost or self._transport.is_closing():
            raise ConnectionResetError
        self._chunk = asyncio.get_running_loop().create_future()
        self._transport.resume_reading()
        return await self._chunk

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer[: self._left]

    def buffer_updated(self, nbytes: int) -> None:
        self._transport.pause_reading()
        self._left -= nbytes
        if chunk := self._asked():
            # A copy, because the player's connection may keep it for a while.
            chunk.set_result(bytes(self._buffer[:nbytes]))
        if not self._left:
            self._transport.set_protocol(self._aiohttp)
            self._aiohttp.resume_reading()
            self._content.feed_eof()

    def connection_lost(self, error: Exception | None) -> None:
        self._lost = True
        if chunk := self._asked():
            chunk.set_exception(ConnectionResetError())
        self._aiohttp.connection_lost(error)

    def _asked(self) -> asyncio.Future[bytes] | None:
        """Who waits for a chunk, and has not been cancelled."""
        chunk, self._chunk = self._chunk, None
        return chunk if chunk and not chunk.done() else None


class HttpPool:
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

    async def __aenter__(self) -> "HttpPool":
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
                        raise MediaStorageFailed
        except TimeoutError as error:
            raise MediaStorageTimeout from error
        finally:
            stream.close()
        return stream.status, content

    async def open(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None) -> HttpStream:
        """The answer to a request, as soon as its headers are there."""
        try:
            async with asyncio.timeout(self._wait_seconds):
                await self._slots.acquire()
        except TimeoutError:
            raise MediaStorageBusy from None
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
                raise MediaStorageTimeout from error
            if isinstance(error, aiohttp.ClientError | OSError):
                raise MediaStorageFailed from error
            raise
        return HttpStream(response, self._slots)
