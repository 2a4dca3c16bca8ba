"""A node of Elasticsearch, with a short way for most requests (docs/decisions/0024-pages-as-text.md)."""

import asyncio
import ssl
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import httptools
from elastic_transport import (
    AiohttpHttpNode,
    ConnectionError,  # noqa: A004
    ConnectionTimeout,
    NodeConfig,
    TlsError,
)


class Answer(NamedTuple):
    """The status and the bytes of an answer."""

    status: int
    body: bytes


class Node(AiohttpHttpNode):
    """The library's node, with `exchange` beside `perform_request`: the same with less work."""

    def __init__(self, config: NodeConfig) -> None:
        super().__init__(config)
        host = f"[{config.host}]" if ":" in config.host else config.host
        self._host_header = f"host: {host}:{config.port}\r\n"
        self._idle: list[_Connection] = []
        self._places = asyncio.Semaphore(config.connections_per_node)
        self._is_closed = False

    async def exchange(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | None, seconds: float, *, again: bool
    ) -> Answer:
        """Returns the answer to a request.

        Raises ConnectionTimeout after `seconds`, and ConnectionError or TlsError when there is no answer. With `again`
        the request is sent once more when a connection that had been idle ends without an answer to it.
        """
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        length = "" if body is None else f"content-length: {len(body)}\r\n"
        head = f"{method} {self.path_prefix}{target} HTTP/1.1\r\n{self._host_header}{lines}{length}\r\n"
        request = head.encode("latin-1") + (body or b"")
        until = asyncio.get_running_loop().time() + seconds
        async with self._places:
            while self._idle:
                connection = self._idle.pop()
                try:
                    return await self._answer(connection, request, until)
                except _NotAnswered as error:  # Elasticsearch, or a proxy, has closed it in the same moment
                    if not again:
                        raise _no_answer() from error
            try:
                return await self._answer(await self._connect(until), request, until)
            except _NotAnswered as error:
                raise _no_answer() from error

    async def close(self) -> None:  # type: ignore[override]
        self._is_closed = True
        while self._idle:
            self._idle.pop().abort()
        await super().close()

    async def _answer(self, connection: "_Connection", request: bytes, until: float) -> Answer:
        answer = await connection.exchange(request, until)
        if connection.is_reusable and not self._is_closed:
            self._idle.append(connection)
        else:
            connection.abort()
        return answer

    async def _connect(self, until: float) -> "_Connection":
        loop = asyncio.get_running_loop()
        tls: ssl.SSLContext | None = self._ssl_context
        try:
            async with asyncio.timeout_at(until):
                _, connection = await loop.create_connection(
                    lambda: _Connection(self._idle), self.config.host, self.config.port, ssl=tls
                )
        except TimeoutError as error:
            raise ConnectionTimeout("Connection timed out") from error
        except ssl.SSLError as error:
            raise TlsError(str(error)) from error
        except OSError as error:
            raise ConnectionError(str(error)) from error
        return connection


def _no_answer() -> ConnectionError:
    return ConnectionError("the connection was closed before an answer")


class _NotAnswered(Exception):
    """The connection ended before the first byte of an answer."""


class _Connection(asyncio.Protocol):
    """One request at a time. `idle` are the connections of its node that wait for one."""

    def __init__(self, idle: "list[_Connection]") -> None:
        self._loop = asyncio.get_running_loop()
        self._idle = idle
        self._waiting: asyncio.Future[Answer] | None = None
        self._parser: Any = None
        self._body: list[bytes] = []
        self._has_begun = False
        self.is_reusable = False

    async def exchange(self, request: bytes, until: float) -> Answer:
        """Returns the answer; raises _NotAnswered, ConnectionError or ConnectionTimeout."""
        self._parser = httptools.HttpResponseParser(self)
        self._body = []
        self._has_begun = self.is_reusable = False
        self._waiting = waiting = self._loop.create_future()
        timer = self._loop.call_at(until, self._time_out)
        self._transport.write(request)
        if self._transport.is_closing():  # nothing will be called any more
            self._fail(_NotAnswered())
        try:
            answer: Answer = await waiting
        except BaseException:
            self.abort()
            raise
        finally:
            timer.cancel()
            self._waiting = None
        return answer

    def abort(self) -> None:
        self._transport.abort()

    # --- asyncio's callbacks ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._waiting is None:  # nobody has asked
            self.abort()
            return
        self._has_begun = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(ConnectionError(f"the answer is no HTTP: {error}"))

    def connection_lost(self, error: Exception | None) -> None:
        if self in self._idle:
            self._idle.remove(self)
        self._fail(ConnectionError(str(error or "the answer broke off")) if self._has_begun else _NotAnswered())
        self._parser = None  # they refer to each other

    # --- the parser's callbacks ---

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200 or self._waiting is None or self._waiting.done():
            return
        self.is_reusable = self._parser.should_keep_alive()
        self._waiting.set_result(Answer(status, b"".join(self._body)))

    # --- failures ---

    def _time_out(self) -> None:
        self._fail(ConnectionTimeout("Connection timed out"))

    def _fail(self, error: Exception) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)
