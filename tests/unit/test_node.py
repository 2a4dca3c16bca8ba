"""Reads over connections of our own to a node of Elasticsearch. The node is a socket that misbehaves on purpose."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from elastic_transport import ConnectionError, ConnectionTimeout, NodeConfig, TlsError  # noqa: A004

from app.store.node import Answer, Node
from tests.support.certificates import make_certificate

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
Reply = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


class Scene:
    """A server and a node for it; `reply` answers each request, and `connections` counts those that were opened."""

    def __init__(self, reply: Reply, tls: ssl.SSLContext | None) -> None:
        self._reply = reply
        self._tls = tls
        self.connections = 0
        self.closed = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next((int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length")), 0)
                await self._reply(head + await reader.readexactly(length), writer)
        except (asyncio.IncompleteReadError, OSError):
            self.closed.set()
        finally:
            writer.close()

    async def ask(self, seconds: float = 10.0, body: bytes | None = b"{}", *, again: bool = True) -> Answer:
        headers = {"accept": "application/json"}
        return await self.node.exchange("POST", "/i/_search", headers, body, seconds, again=again)

    @asynccontextmanager
    async def running(self, ca_file: str | None = None, host: str = "127.0.0.1") -> AsyncIterator["Scene"]:
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0, ssl=self._tls)
        port = server.sockets[0].getsockname()[1]
        scheme = "https" if self._tls else "http"
        self.node = Node(NodeConfig(scheme, host, port, path_prefix="/es", ca_certs=ca_file))
        try:
            yield self
        finally:
            await self.node.close()
            server.close()


def scene(reply: Reply, tls: ssl.SSLContext | None = None) -> Scene:
    return Scene(reply, tls)


async def answer_ok(_request: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(OK)


async def test_requests_share_a_connection_and_are_sent_as_they_should_be() -> None:
    seen: list[bytes] = []

    async def reply(request: bytes, writer: asyncio.StreamWriter) -> None:
        seen.append(request)
        writer.write(OK)

    async with scene(reply).running() as running:
        assert [await running.ask(), await running.ask(body=None)] == [Answer(200, b"{}")] * 2
        assert running.connections == 1
    head, _, body = seen[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /es/i/_search HTTP/1.1\r\nhost: 127.0.0.1:")
    assert head.endswith(b"\r\naccept: application/json\r\ncontent-length: 2")
    assert body == b"{}"
    assert b"content-length" not in seen[1]


async def test_concurrent_requests_get_their_own_answers() -> None:
    async def reply(request: bytes, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0)
        body = request.partition(b"\r\n\r\n")[2]
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for byte in body:
            writer.write(b"1\r\n%c\r\n" % byte)
        writer.write(b"0\r\n\r\n")

    async with scene(reply).running() as running:
        bodies = [b"%d" % number for number in range(50)]
        answers = await asyncio.gather(*(running.ask(body=body) for body in bodies))
        assert [answer.body for answer in answers] == bodies
        assert running.connections <= 10


async def test_a_connection_that_was_closed_meanwhile_is_replaced() -> None:
    async def reply(_request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        await writer.drain()
        writer.close()

    async with scene(reply).running() as running:
        for _ in range(5):
            assert await running.ask() == Answer(200, b"{}")
        assert running.connections == 5


@pytest.mark.parametrize(("again", "times"), [(True, 2), (False, 1)])
async def test_a_write_whose_connection_ends_without_an_answer_is_not_sent_again(again: bool, times: int) -> None:
    seen: list[bytes] = []

    async def reply(request: bytes, writer: asyncio.StreamWriter) -> None:
        seen.append(request)
        if len(seen) == 1:
            writer.write(OK)
        else:
            writer.close()

    async with scene(reply).running() as running:
        await running.ask()
        with pytest.raises(ConnectionError):
            await running.ask(again=again)
        assert len(seen) == 1 + times


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (b"", ConnectionError),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}", ConnectionError),
        (b"SSH-2.0-OpenSSH\r\n", ConnectionError),
    ],
)
async def test_an_answer_that_breaks_off_is_an_error(sent: bytes, error: type[Exception]) -> None:
    async def reply(_request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        await writer.drain()
        writer.close()

    async with scene(reply).running() as running:
        with pytest.raises(error):
            await running.ask()


async def test_a_node_that_does_not_answer_in_time_is_an_error_and_its_connection_is_closed() -> None:
    async def reply(_request: bytes, _writer: asyncio.StreamWriter) -> None:
        pass

    async with scene(reply).running() as running:
        with pytest.raises(ConnectionTimeout):
            await running.ask(seconds=0.1)
        await asyncio.wait_for(running.closed.wait(), 10)


async def test_a_request_that_is_cancelled_closes_its_connection() -> None:
    asked = asyncio.Event()

    async def reply(_request: bytes, _writer: asyncio.StreamWriter) -> None:
        asked.set()

    async with scene(reply).running() as running:
        task = asyncio.create_task(running.ask())
        await asyncio.wait_for(asked.wait(), 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(running.closed.wait(), 10)


async def test_a_node_that_is_away_is_an_error() -> None:
    async with scene(answer_ok).running() as running:
        port = running.node.config.port
    node = Node(NodeConfig("http", "127.0.0.1", port))
    with pytest.raises(ConnectionError):
        await node.exchange("GET", "/", {}, None, 10.0, again=True)
    await node.close()


async def test_tls_is_verified(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    async with scene(answer_ok, certificate.server_context()).running(str(certificate.file)) as running:
        assert await running.ask() == Answer(200, b"{}")
    async with scene(answer_ok, certificate.server_context()).running() as running:
        with pytest.raises(TlsError):
            await running.ask()
    other = make_certificate(tmp_path, host="elsewhere.example")
    async with scene(answer_ok, other.server_context()).running(str(other.file), "localhost") as running:
        with pytest.raises(TlsError):
            await running.ask()
