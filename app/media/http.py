"""HTTP/1.1 to media storages: exactly framed answers, on connections that are reused only when that is safe."""

import asyncio
import functools
import logging
import random
import re
import ssl
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextvars import ContextVar
from typing import Literal, NamedTuple, Protocol
from urllib.parse import urlsplit

import httptools
from starlette.datastructures import Headers

from app.errors import MediaStorageBusy, MediaStorageFailed, MediaStorageTimeout
from app.media.connection import Connection, ConnectionBroken, connect
from app.media.failures import reason_of
from app.settings import Settings

log = logging.getLogger(__name__)

# The longest answer that is read as a whole (a list of versions), in bytes.
_LONGEST_ANSWER = 1024 * 1024
# The longest head of an answer with the interim ones before it, and the longest rest of a body in chunks, in bytes.
_LONGEST_HEAD = 64 * 1024

# Requests with short answers that are in flight beside the streams.
_SHORT_REQUESTS = 16

# How long a connection without a request is kept, in seconds.
_KEEP_SECONDS = 15.0

# Methods that may use a kept connection, and are repeated on a new one when that breaks before the answer. DELETE is
# not among them: an unrequested success would be taken for its answer.
_ON_KEPT = frozenset({"GET", "HEAD", "PROPFIND"})

# What a storage answers that is busy with others: conflict, locked, unavailable. And the pauses, in seconds.
_BUSY = frozenset({409, 423, 503})
_BUSY_PAUSES = (0.1, 0.3, 0.8, 1.5)

_HEAD_END = b"\r\n\r\n"
_HTTP = b"HTTP/1."
# Printable characters of ASCII, and for the target of a request no space.
_PRINTABLE = re.compile(r"[ -~]*")
_TARGET = re.compile(r"[!-~]+")

# A URL that is made when there is a place for the request, since it may expire.
Address = Callable[[], Awaitable[str]]


class Answer(NamedTuple):
    """A whole answer; `headers` ignore case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class HttpStream:
    """An answer whose body is read from its connection. See `app.media.stream.MediaStream`."""

    def __init__(  # noqa: PLR0917
        self,
        storage: str,
        connection: Connection,
        head: "_Head",
        framing: "_Framing",
        end: Callable[["HttpStream"], None],
        timeout: float,
    ) -> None:
        self.status = head.status
        self.headers: Mapping[str, str] = head.headers
        self.length = framing if isinstance(framing, int) else None
        self.may_be_kept = head.may_be_kept and self.length is not None
        self.sent_too_much = False
        self._storage = storage
        self._connection = connection
        self._arrived = head.surplus
        self._left = self.length
        self._chunks = _Chunks(head) if framing == "chunked" else None
        self._end = end
        self._timeout = timeout
        self._is_open = True
        self._is_complete = False
        if self._left == 0:
            self.sent_too_much = bool(self._arrived)
            self._complete()

    async def read(self) -> bytes:
        """Returns the next bytes, nothing at the end.

        Raises MediaStorageFailed when the body breaks off, MediaStorageTimeout when the storage stalls.
        """
        if self._is_complete:
            return b""
        try:
            return await self._read()
        except ConnectionBroken as error:
            self.close()
            raise MediaStorageFailed(f"media storage {self._storage}: {error}") from error
        except TimeoutError:
            self.close()
            reason = f"media storage {self._storage}: it has sent nothing for {self._timeout:g} seconds"
            raise MediaStorageTimeout(reason) from None

    def close(self) -> None:
        """Ends the connection, unless the body has been read to its end."""
        self.may_be_kept = self._is_complete and self.may_be_kept
        if self._is_open:
            self._is_open = False
            self._end(self)

    async def _read(self) -> bytes:
        while not self._is_complete:
            data, self._arrived = self._arrived, b""
            if not data:
                data = await self._connection.receive(self._timeout)
            if self._chunks is not None:
                data = self._chunks.decode(data)
                if self._chunks.is_complete:
                    self._complete()
            elif self._left is not None:
                data = self._counted(data, self._left)
            elif not data:  # a clean end: the connection tells it from a cut
                self._complete()
            if data:
                return data
        return b""

    def _counted(self, data: bytes, left: int) -> bytes:
        if not data:
            raise ConnectionBroken(f"it ended the connection {left} bytes before the end of the body")
        self.sent_too_much = len(data) > left
        data = data[:left]
        self._left = left - len(data)
        if not self._left:
            self._complete()
        return data

    def _complete(self) -> None:
        self._is_complete = True
        self.close()


_Framing = int | Literal["chunked", "until the end"]


class _Events:
    """What the parser tells of one answer. It goes on behind the end of the answer; nothing of that counts."""

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.body: list[bytes] = []
        self.is_complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value.strip()))

    def on_body(self, data: bytes) -> None:
        if not self.is_complete:
            self.body.append(data)

    def on_message_complete(self) -> None:
        self.is_complete = True


class _Head:
    """The head of an answer, and the bytes of the body that came with it. Raises ConnectionBroken."""

    def __init__(self, data: bytes, surplus: bytes) -> None:
        self.events = _Events()
        self.parser = httptools.HttpResponseParser(self.events)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            raise ConnectionBroken("the storage wants to speak another protocol") from None
        except httptools.HttpParserError as error:
            raise ConnectionBroken(f"the storage does not answer in HTTP: {error}") from None
        self.status: int = self.parser.get_status_code()
        self.headers = Headers(raw=[*self.events.headers])  # without trailers
        self.surplus = surplus
        # Only a success: an error may be what a load balancer sends on a connection without a request.
        self.may_be_kept = self.status < 300 and self.parser.should_keep_alive()

    def framing(self, method: str) -> _Framing:
        """How the body ends (RFC 9112 section 6.3)."""
        if method == "HEAD" or self.status in {204, 304}:
            # Servers that send a body nevertheless exist.
            self.may_be_kept = False
            return 0
        if codings := self.headers.getlist("transfer-encoding"):
            if [coding.lower() for coding in codings] != ["chunked"]:
                raise ConnectionBroken("the storage's Transfer-Encoding is not chunked")
            return "chunked"
        length = self.headers.get("content-length")
        return int(length) if length is not None else "until the end"


class _Chunks:
    """A body in chunks (RFC 9112 section 7.1)."""

    def __init__(self, head: _Head) -> None:
        self._parser = head.parser
        self._events = head.events
        self._without_body = 0

    @property
    def is_complete(self) -> bool:
        return self._events.is_complete

    def decode(self, data: bytes) -> bytes:
        """The bytes of the body that `data` holds. Raises ConnectionBroken."""
        if not data:
            raise ConnectionBroken("it ended the connection in the middle of a body in chunks")
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if not self.is_complete:  # or it is about what came behind the end
                raise ConnectionBroken(f"a chunk is malformed: {error}") from None
        body = b"".join(self._events.body)
        self._events.body.clear()
        self._without_body = 0 if body else self._without_body + len(data)
        if self._without_body > _LONGEST_HEAD:
            raise ConnectionBroken(f"{_LONGEST_HEAD} bytes of chunk extensions or trailers hold no body")
        return body


class RequestWatch(Protocol):
    """Sees each request of a task to a storage. What it raises ends the request."""

    def sending(self, method: str) -> None:
        """Called immediately before a request is given to the operating system, without an `await` in between."""
        ...

    def answered(self, status: int) -> None:
        """Called when the head of the answer has arrived."""
        ...


# The watch of the current task. A deletion sets it, so that no storage is called with a claim that is too old.
REQUEST_WATCH: ContextVar[RequestWatch | None] = ContextVar("REQUEST_WATCH", default=None)


class HttpPool:
    """Requests to one configured storage: connections bounded in number, with time limits but none on the whole.

    `name` is how the log calls the storage. A stream counts until its connection is gone, or kept for another request.
    """

    def __init__(self, name: str, ca_file: str | None, settings: Settings) -> None:
        self._name = name
        self._ca_file = ca_file
        self._streams = asyncio.Semaphore(settings.storage_streams)
        # Deletions, which streams must not hold up.
        self._short_requests = asyncio.Semaphore(_SHORT_REQUESTS)
        self._wait_seconds = settings.storage_wait_seconds
        self._connect_seconds = settings.storage_connect_seconds
        self._first_byte_seconds = settings.storage_first_byte_seconds
        self._stall_seconds = settings.storage_stall_seconds
        self._tls: ssl.SSLContext | None = None
        self._all: set[Connection] = set()
        self._kept: dict[_Origin, dict[Connection, asyncio.TimerHandle]] = {}
        self._keeps_connections = True

    async def __aenter__(self) -> "HttpPool":
        return self

    async def __aexit__(self, *_: object) -> None:
        gone = [asyncio.get_running_loop().create_future() for _ in self._all]
        for connection, future in zip(list(self._all), gone, strict=True):
            connection.call_when_lost(functools.partial(future.set_result, None))
            connection.abort()
        await asyncio.gather(*gone)

    async def request(
        self,
        method: str,
        address: Address,
        headers: Mapping[str, str],
        body: bytes = b"",
        *,
        statuses_with_body: Collection[int] = (),
        patiently: bool = False,
    ) -> Answer:
        """Returns a short answer. Its body is read only if the status is one of `statuses_with_body`.

        `patiently` repeats the request a few times while the storage is busy with others. Some storages lock a whole
        folder while they delete one file of it.
        """
        pauses = iter(_BUSY_PAUSES if patiently else ())
        while True:
            stream = await self._open_in(self._short_requests, method, address, headers, body)
            answer = await self._short_answer(method, stream, statuses_with_body)
            pause = next(pauses, None)
            if answer.status not in _BUSY or pause is None:
                return answer
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311

    async def _short_answer(self, method: str, stream: HttpStream, statuses_with_body: Collection[int]) -> Answer:
        content = b""
        try:
            # It is so short that one time limit does for all of it.
            async with asyncio.timeout(self._stall_seconds):
                while stream.status in statuses_with_body and (chunk := await stream.read()):
                    content += chunk
                    if len(content) > _LONGEST_ANSWER:
                        raise MediaStorageFailed(f"its answer to {method} is longer than {_LONGEST_ANSWER} bytes")
        except TimeoutError as error:
            raise MediaStorageTimeout(f"its answer to {method} took too long") from error
        finally:
            stream.close()
        return Answer(stream.status, stream.headers, content)

    async def open(self, method: str, address: Address, headers: Mapping[str, str], body: bytes = b"") -> HttpStream:
        """Returns the answer to a request as soon as its head has arrived.

        Raises MediaStorageBusy, MediaStorageTimeout or MediaStorageFailed, after a line in the log.
        """
        return await self._open_in(self._streams, method, address, headers, body)

    async def _open_in(
        self, places: asyncio.Semaphore, method: str, address: Address, headers: Mapping[str, str], body: bytes
    ) -> HttpStream:
        try:
            async with asyncio.timeout(self._wait_seconds):
                await places.acquire()
        except TimeoutError:
            log.warning("media storage %s: all of its streams are in use (setting storage_streams)", self._name)
            raise MediaStorageBusy from None
        try:
            async with asyncio.timeout(self._first_byte_seconds):
                return await self._open(places, method, address, headers, body)
        except TimeoutError as error:
            reason = str(error) or f"it has not answered within {self._first_byte_seconds:g} seconds"
            log.warning("media storage %s: %s", self._name, reason)
            raise MediaStorageTimeout(reason) from error
        except (ConnectionBroken, OSError, UnicodeError) as error:  # of TLS and of host names, too
            reason = reason_of(error)
            log.warning("media storage %s: %s", self._name, reason)
            raise MediaStorageFailed(reason) from error

    async def _open(
        self, places: asyncio.Semaphore, method: str, address: Address, headers: Mapping[str, str], body: bytes
    ) -> HttpStream:
        """Needs a place, and has given it back if it fails."""
        connection = None
        try:
            origin, request = _request(method, await address(), headers, body)
            head = None
            if method in _ON_KEPT and (connection := self._take_kept(origin)):
                head = await _watched_exchange(connection, method, request)
                # Without an answer the storage had closed the connection; 408 it may have sent before the request.
                if head is None or head.status == 408:
                    connection.abort()
                    connection, head = None, None
            if connection is None:
                connection = await self._connect(origin)
                head = await _watched_exchange(connection, method, request)
            if head is None:
                raise ConnectionBroken(
                    "it has closed the connection without an answer; is the scheme of its URL right?"
                )
            framing = head.framing(method)
        except BaseException:
            if connection is None:
                places.release()
            else:
                self._end(connection, places)
            raise
        end = functools.partial(self._end_of, origin=origin, connection=connection, places=places)
        return HttpStream(self._name, connection, head, framing, end, self._stall_seconds)

    async def _connect(self, origin: "_Origin") -> Connection:
        try:
            async with asyncio.timeout(self._connect_seconds):
                connection = await connect(origin.host, origin.port, self._tls_context() if origin.is_tls else None)
        except TimeoutError:
            address = f"{origin.host}:{origin.port}"
            raise TimeoutError(f"no connection to {address} within {self._connect_seconds:g} seconds") from None
        self._all.add(connection)
        connection.call_when_lost(lambda: self._lost(origin, connection))
        return connection

    def _tls_context(self) -> ssl.SSLContext:
        if self._tls is None:
            # Without a file of its own it trusts the system's authorities, or those of SSL_CERT_FILE.
            self._tls = ssl.create_default_context(cafile=self._ca_file)
            self._tls.set_alpn_protocols(["http/1.1"])
        return self._tls

    def _take_kept(self, origin: "_Origin") -> Connection | None:
        kept = self._kept.get(origin, {})
        while kept:
            connection, timer = kept.popitem()
            timer.cancel()
            if connection.is_reusable:
                return connection
            connection.abort()
        return None

    def _end_of(self, stream: HttpStream, origin: "_Origin", connection: Connection, places: asyncio.Semaphore) -> None:
        """The stream needs its connection no more."""
        if stream.sent_too_much:
            self._stop_keeping()
        if not (stream.may_be_kept and self._keeps_connections and connection.is_reusable):
            self._end(connection, places)
            return
        timer = asyncio.get_running_loop().call_later(_KEEP_SECONDS, connection.abort)
        self._kept.setdefault(origin, {})[connection] = timer
        connection.rest()
        places.release()

    def _end(self, connection: Connection, places: asyncio.Semaphore) -> None:
        connection.abort()
        connection.call_when_lost(places.release)

    def _lost(self, origin: "_Origin", connection: Connection) -> None:
        self._all.discard(connection)
        if timer := self._kept.get(origin, {}).pop(connection, None):
            timer.cancel()
        # A load balancer may send an error before it closes; anything else belongs to an answer that has ended.
        if connection.sent_unasked and not connection.sent_unasked.startswith(b"HTTP/1."):
            self._stop_keeping()

    def _stop_keeping(self) -> None:
        """Bytes after the end of an answer may arrive later than the next request: this storage gets no second one."""
        if self._keeps_connections:
            log.warning(
                "media storage %s: it sends more bytes than its Content-Length says; they are dropped, and its"
                " connections are not reused",
                self._name,
            )
        self._keeps_connections = False


class _Origin(NamedTuple):
    host: str
    port: int
    is_tls: bool


def _request(method: str, url: str, headers: Mapping[str, str], body: bytes) -> tuple[_Origin, bytes]:
    """Where to send a request to this URL, which is normalised and encoded, and its bytes."""
    parts = urlsplit(url)
    is_tls = parts.scheme == "https"
    standard_port = 443 if is_tls else 80
    port = parts.port or standard_port
    host = parts.hostname or ""
    name = f"[{host}]" if ":" in host else host
    target = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
    lines = {
        "Host": name if port == standard_port else f"{name}:{port}",
        "Accept": "*/*",
        "Accept-Encoding": "identity",
        "User-Agent": "Recall",
        **headers,
    }
    if body:
        lines["Content-Length"] = str(len(body))
    fields = [f"{name}: {value}" for name, value in lines.items()]
    if not _TARGET.fullmatch(target) or not all(map(_PRINTABLE.fullmatch, fields)):
        raise ConnectionBroken("the request would hold a line break or a character outside ASCII")
    text = "\r\n".join([f"{method} {target} HTTP/1.1", *fields])
    return _Origin(host, port, is_tls), text.encode("ascii") + _HEAD_END + body


async def _watched_exchange(connection: Connection, method: str, request: bytes) -> _Head | None:
    """As `_exchange`, and tells the watch of the task, if there is one. Raises what the watch raises."""
    watch = REQUEST_WATCH.get()
    if watch is not None:
        watch.sending(method)
    head = await _exchange(connection, request)
    if watch is not None and head is not None:
        watch.answered(head.status)
    return head


async def _exchange(connection: Connection, request: bytes) -> _Head | None:
    """Sends a request. The head of the answer, None if the connection ends before its first byte.

    Raises ConnectionBroken.
    """
    connection.send(request)
    received, interim = b"", 0
    while True:
        try:
            data = await connection.receive()
        except ConnectionBroken:
            if not received:
                return None
            raise
        if not data and not received:
            return None
        if not data:
            raise ConnectionBroken("it has closed the connection in the middle of an answer's head")
        received += data
        if not received.startswith(_HTTP[: len(received)]):
            raise ConnectionBroken("it does not answer in HTTP; is the scheme of its URL right?")
        while _HEAD_END in received:
            lines, _, received = received.partition(_HEAD_END)
            head = _Head(lines + _HEAD_END, received)
            if head.status >= 200:
                return head
            interim += len(lines)
        if interim + len(received) > _LONGEST_HEAD:
            raise ConnectionBroken(f"the head of its answer is longer than {_LONGEST_HEAD} bytes")
