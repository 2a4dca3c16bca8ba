"""A TCP relay between the service and a real server, which counts, and can break connections in their middle."""

import asyncio
import contextlib
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

_PIECE = 64 * 1024


class Relay:
    """Passes bytes on to the server at `url`, and back.

    `breaks` has for each of the first connections the number of bytes after which the way back is reset.
    """

    def __init__(self, url: str, breaks: tuple[int, ...] = ()) -> None:
        self.connections = 0
        self.open_connections = 0
        self.bytes_back = 0
        self._server_port = urlsplit(url).port
        self._breaks = [*breaks]

    def through(self, url: str) -> str:
        """Returns a URL of the server with the port of the relay."""
        return url.replace(f":{self._server_port}", f":{self.port}", 1)

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.port: int = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open_connections += 1
        most = self._breaks.pop(0) if self._breaks else None
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
        there = asyncio.create_task(self._pass_on(reader, server_writer))
        back = asyncio.create_task(self._pass_back(server_reader, writer, most))
        await asyncio.wait((there, back), return_when=asyncio.FIRST_COMPLETED)
        if back.done() and not writer.transport.is_closing():
            with contextlib.suppress(OSError):
                await writer.drain()
            writer.close()
        for task in (there, back):
            task.cancel()
        server_writer.transport.abort()
        if there.done():
            writer.transport.abort()
        self.open_connections -= 1

    @staticmethod
    async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_PIECE):
                writer.write(data)
                await writer.drain()

    async def _pass_back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, most: int | None) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_PIECE if most is None else min(most, _PIECE)):
                self.bytes_back += len(data)
                writer.write(data)
                await writer.drain()
                if most is not None and (most := most - len(data)) <= 0:
                    writer.transport.abort()
                    return
