"""StorageConfig in the test's own event loop, which fail, count, or record each connection."""

import asyncio
import contextlib
import re
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from random import Random
from typing import Self, cast
from urllib.parse import quote, urlsplit

from app.embedded.servers import free_port
from app.settings import WebDavConfig
from tests.support.certificates import Certificate

# A prime length: a piece from the wrong place is never the right one.
_PATTERN = memoryview(Random(1).randbytes(65_521) * 3)
_PIECE = 1 << 16
_HEADERS_END = b"\r\n\r\n"


def generated(start: int, stop: int) -> bytes:
    """What a generated file has from `start` to before `stop`."""
    return b"".join(_generated(start, stop))


def _generated(start: int, stop: int) -> Iterator[memoryview]:
    for at in range(start, stop, _PIECE):
        offset = at % (len(_PATTERN) // 3)
        yield _PATTERN[offset : offset + min(_PIECE, stop - at)]


@dataclass(frozen=True)
class Request:
    method: str
    target: str  # as it was sent
    headers: dict[str, str]  # names in lower case
    body: bytes = b""


class Connection(asyncio.Protocol):
    """One connection of a `LocalServer`. When the client leaves, what is being answered is cancelled.

    An old one (`is_old`) speaks HTTP/1.0: a body has no length, and the end of the connection is its end.
    """

    transport: asyncio.Transport

    def __init__(self, server: "LocalServer") -> None:
        self._server = server
        self._received = b""
        self._writable = asyncio.Event()
        self._writable.set()
        self._bodyless = False
        self.is_old = False
        self.answering: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is not of that class
        self._server.connections += 1
        self._server.open.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._server.open.discard(self)
        if self.answering:
            self.answering.cancel()

    def eof_received(self) -> None:
        self.transport.abort()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._next()

    def _next(self) -> None:
        head, end, rest = self._received.partition(_HEADERS_END)
        if self.answering or not end:
            return
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", "0"))
        if len(rest) < length:
            return
        self._received = rest[length:]
        request = Request(method, target, headers, rest[:length])
        self._bodyless = method == "HEAD"
        self._server.requests.append(request)
        self.answering = asyncio.create_task(self._answer(request))

    async def _answer(self, request: Request) -> None:
        try:
            await self._server.answer(request, self)
        except Exception as error:  # noqa: BLE001  # the test is told at its end
            self._server.errors.append(error)
            self.transport.abort()
        self.answering = None
        if not self.transport.is_closing():
            self._next()

    async def send(self, data: bytes | memoryview) -> None:
        """Sends a piece of the body, of which HEAD gets none. Waits as long as the client does not read."""
        if self._bodyless:
            return
        self.transport.write(data)
        self._server.bytes_sent += len(data)
        await self._writable.wait()

    async def start(self, status: int, headers: dict[str, str]) -> None:
        version = "1.0" if self.is_old else "1.1"
        first = f"HTTP/{version} {status} {HTTPStatus(status).phrase}"
        lines = [first, *(f"{name}: {headers[name]}" for name in headers)]
        self.transport.write("\r\n".join(lines).encode("latin-1") + _HEADERS_END)
        await self._writable.wait()

    async def respond(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        length = {} if status in {204, 304} or self.is_old else {"Content-Length": str(len(body))}
        await self.start(status, {**length, **(headers or {})})
        await self.send(body)
        if self.is_old:
            self.transport.close()

    async def wait_until_client_leaves(self) -> None:
        await asyncio.Event().wait()  # `connection_lost` cancels this

    def reset(self) -> None:
        """The client gets RST instead of the end."""
        linger = struct.pack("ii", 1, 0)
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.transport.abort()


class LocalServer:
    """A server in the running event loop that counts; a subclass answers.

    `connections` were ever made, `open_connections` are; `answering` of them are in the middle of an answer.
    `bytes_sent` are the bytes of bodies that the network took, or will at once.
    """

    def __init__(self, certificate: Certificate | None = None) -> None:
        self.certificate = certificate
        self.connections = 0
        self.bytes_sent = 0
        self.requests: list[Request] = []
        self.errors: list[Exception] = []
        self.open: set[Connection] = set()

    @property
    def open_connections(self) -> int:
        return len(self.open)

    @property
    def answering(self) -> int:
        return sum(connection.answering is not None for connection in self.open)

    @property
    def url(self) -> str:
        """The base of its files; for S3 the last part is the bucket."""
        return f"{self.origin}/recordings"

    @property
    def origin(self) -> str:
        return f"{'https' if self.certificate else 'http'}://127.0.0.1:{self.port}"

    @property
    def config(self) -> WebDavConfig:
        """Its entry in the configuration of the service."""
        return WebDavConfig(self.url, ca_file=str(self.certificate.file) if self.certificate else None)

    async def answer(self, request: Request, connection: Connection) -> None:
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        self.port = free_port()
        self._servers = [await self._listen("127.0.0.1")]
        with contextlib.suppress(OSError):  # no IPv6 here
            self._servers.append(await self._listen("::1"))
        return self

    async def _listen(self, host: str) -> asyncio.Server:
        tls = self.certificate.server_context() if self.certificate else None
        return await asyncio.get_running_loop().create_server(lambda: Connection(self), host, self.port, ssl=tls)

    async def __aexit__(self, *_: object) -> None:
        for server in self._servers:
            server.close()
        tasks = [connection.answering for connection in self.open if connection.answering]
        for connection in list(self.open):
            connection.transport.abort()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for server in self._servers:
            await server.wait_closed()
        if self.errors:
            raise ExceptionGroup("the server failed", self.errors)


class Trap(LocalServer):
    """Nobody is to come here: `connections` and `requests` tell who did. Also at `[::1]`, where there is IPv6."""

    async def answer(self, request: Request, connection: Connection) -> None:
        await connection.respond(200, {"Content-Type": "audio/wav"}, b"the trap's content")


class CountingStorage(LocalServer):
    """WebDAV's GET, HEAD and DELETE of generated files, at `rate` bytes a second for each connection, or at once."""

    LAST_MODIFIED = formatdate(1_368_819_932, usegmt=True)

    def __init__(self, rate: int | None = None, certificate: Certificate | None = None) -> None:
        super().__init__(certificate)
        self.rate = rate
        self.sizes: dict[str, int] = {}

    def put(self, path: str, size: int) -> str:
        """A file with the content `generated(0, size)`; its URL."""
        url = f"{self.url}/{quote(path)}"
        self.sizes[urlsplit(url).path] = size
        return url

    def exists(self, path: str) -> bool:
        return f"/recordings/{quote(path)}" in self.sizes

    async def answer(self, request: Request, connection: Connection) -> None:
        size = self.sizes.get(request.target)
        if size is None:
            await connection.respond(404)
        elif request.method == "DELETE":
            del self.sizes[request.target]
            await connection.respond(204)
        elif request.method not in {"GET", "HEAD"}:
            await connection.respond(405)
        else:
            await self._get(request, connection, size)

    async def _get(self, request: Request, connection: Connection, size: int) -> None:
        etag = f'"{size:x}"'
        validators = {"ETag": etag, "Last-Modified": self.LAST_MODIFIED}
        wanted = request.headers.get("range")
        if request.headers.get("if-range", etag) not in validators.values():
            wanted = None
        status, part = _part(wanted, size)
        if etag in request.headers.get("if-none-match", ""):
            await connection.respond(304, validators)
        elif status == 416:
            await connection.respond(416, {"Content-Range": f"bytes */{size}"})
        else:
            await connection.start(status, {**_about(status, part, size), "Accept-Ranges": "bytes", **validators})
            if request.method == "GET":
                await self._send(connection, part)

    async def _send(self, connection: Connection, part: range) -> None:
        at = part.start
        while at < part.stop:
            # A twentieth of a second's worth, then a pause of as long.
            end = min(part.stop, at + (self.rate // 20 or 1 if self.rate else _PIECE))
            for piece in _generated(at, end):
                await connection.send(piece)
            at = end
            await asyncio.sleep(0.05 if self.rate else 0)


SOUND = b"RIFF" * 100


class TypedStorage(LocalServer):
    """Answers every request for a path with the headers and the body that a test has set for it."""

    def __init__(self) -> None:
        super().__init__()
        self._files: dict[str, tuple[dict[str, str], bytes]] = {}

    def put(self, path: str, headers: dict[str, str], body: bytes = SOUND) -> str:
        """Returns the URL."""
        self._files[f"/recordings/{path}"] = (headers, body)
        return f"{self.url}/{path}"

    async def answer(self, request: Request, connection: Connection) -> None:
        found = self._files.get(request.target)
        if found is None:
            await connection.respond(404)
        else:
            await connection.respond(200, *found)


class FaultServer(LocalServer):
    """Answers whatever it is asked in the way that the first part of the path below `url` says.

    Except for their fault, GETs are answered well, with the file `generated(0, SIZE)`, also in ranges.
    """

    SIZE = 1_000_000
    # What no client of ours may show to its own.
    SECRET = "a detail of the storage"
    FAULTS = (
        "stall-before-headers",
        "stall-in-headers",
        "stall-in-body",
        "short-body",
        "reset-before-headers",
        "reset-in-body",
        "not-http",
        "redirect",
        "endless",
        "ignores-range",
        "wrong-range",
        "status-500",
    )

    def __init__(
        self, redirect_to: str = "http://192.0.2.1/recordings/call.wav", certificate: Certificate | None = None
    ) -> None:
        super().__init__(certificate)
        self.redirect_to = redirect_to

    def url_of(self, fault: str, path: str = "call.wav") -> str:
        """`fault` is one of FAULTS, or `status-` and any other status, or `redirect-`, a status, `-` and where to."""
        return f"{self.url}/{fault}/{path}"

    async def answer(self, request: Request, connection: Connection) -> None:
        fault = re.split("[/?]", request.target)[2]
        if fault.startswith("redirect-"):
            _, status, to = fault.split("-")
            await self._redirect_to(int(status), to, request, connection)
            return
        if fault.startswith("status-"):
            await connection.respond(int(fault.removeprefix("status-")), body=self.SECRET.encode())
            return
        await getattr(self, f"_{fault.replace('-', '_')}")(request, connection)

    async def _stall_before_headers(self, request: Request, connection: Connection) -> None:
        await connection.wait_until_client_leaves()

    async def _stall_in_headers(self, request: Request, connection: Connection) -> None:
        connection.transport.write(b"HTTP/1.1 200 OK\r\nContent-")
        await connection.wait_until_client_leaves()

    async def _stall_in_body(self, request: Request, connection: Connection) -> None:
        await self._half(request, connection)
        await connection.wait_until_client_leaves()

    async def _short_body(self, request: Request, connection: Connection) -> None:
        await self._half(request, connection)
        connection.transport.close()

    async def _reset_before_headers(self, request: Request, connection: Connection) -> None:
        connection.reset()

    async def _reset_in_body(self, request: Request, connection: Connection) -> None:
        await self._half(request, connection)
        connection.reset()

    async def _not_http(self, request: Request, connection: Connection) -> None:
        connection.transport.write(b"220 ready for you\r\n\r\n")
        connection.transport.close()

    async def _redirect(self, request: Request, connection: Connection) -> None:
        await connection.respond(302, {"Location": self.redirect_to})

    async def _redirect_to(self, status: int, to: str, request: Request, connection: Connection) -> None:
        locations = {
            "trap": self.redirect_to,
            "self": request.target,
            "other": f"{self.url}/other/call.wav",
            "relative": "other.wav",
            "folder": f"{request.target}/",
        }
        await connection.respond(status, {"Location": locations[to]} if to in locations else {})

    async def _endless(self, request: Request, connection: Connection) -> None:
        await connection.start(200, {"Content-Type": "audio/wav", "Transfer-Encoding": "chunked"})
        while True:
            await connection.send(b"%x\r\n" % _PIECE)
            await connection.send(_PATTERN[:_PIECE])
            await connection.send(b"\r\n")
            await asyncio.sleep(0)  # or nobody else would get a turn

    async def _ignores_range(self, request: Request, connection: Connection) -> None:
        await self._send(connection, 200, range(self.SIZE))

    async def _wrong_range(self, request: Request, connection: Connection) -> None:
        """It begins a byte later than it should."""
        part = self._part(request)[1]
        await self._send(connection, 206, range(part.start + 1, part.stop))

    async def _half(self, request: Request, connection: Connection) -> None:
        status, part = self._part(request)
        await self._send(connection, status, part, part.start + len(part) // 2)

    async def _send(self, connection: Connection, status: int, part: range, stop: int | None = None) -> None:
        await connection.start(status, _about(status, part, self.SIZE))
        for piece in _generated(part.start, part.stop if stop is None else stop):
            await connection.send(piece)

    def _part(self, request: Request) -> tuple[int, range]:
        return _part(request.headers.get("range"), self.SIZE)


def _part(wanted: str | None, size: int) -> tuple[int, range]:
    """The status and the bytes that a Range header asks for: all, if it is absent or not a single good range."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted or "")
    first, last = match.groups() if match else ("", "")
    if not (first or last) or (first and last and int(last) < int(first)):
        return 200, range(size)
    if first:
        part = range(int(first), min(size, int(last) + 1) if last else size)
    else:
        part = range(max(0, size - int(last)), size)
    return (206, part) if part else (416, part)


def _about(status: int, part: range, size: int) -> dict[str, str]:
    headers = {"Content-Type": "audio/wav", "Content-Length": str(len(part))}
    return {**headers, "Content-Range": f"bytes {part.start}-{part.stop - 1}/{size}"} if status == 206 else headers
