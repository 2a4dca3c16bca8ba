"""Connections of clients (docs/contract.md section 1): one request stays one request, and everything has a bound."""

import asyncio
import json
import random
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from app.server.protocol import ConnectionPool, Limits, Protocol
from tests.support.recordings import batched
from tests.support.waiting import eventually

HOST = b"Host: recall\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
QUICK = Limits(head_seconds=0.3, body_stall_seconds=0.3, write_stall_seconds=0.3)


class Echo:
    """An application that answers each request with its method, path and body, or with as much as was asked for."""

    def __init__(self) -> None:
        self.requests = 0
        self.disconnects = 0
        self.headers: list[tuple[bytes, bytes]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        self.requests += 1
        self.headers = scope["headers"]
        path = scope["raw_path"]
        if path == b"/refuse":  # before the body is read
            await answer(send, 401, b"no")
            return
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.disconnects += 1
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
        if path == b"/slow":
            await asyncio.sleep(3 * QUICK.body_stall_seconds)
        if path == b"/stream":  # of unknown length
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for part in (b"one,", b"two,", b"three"):
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body"})
            return
        if path == b"/broken":  # off, of unknown length
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"one,", "more_body": True})
            return
        if path.startswith(b"/large/"):
            await answer(send, 200, b"x" * int(path[7:]))
            return
        headers = {name.decode().lower() for name, _ in scope["headers"]}
        content = {"method": scope["method"], "path": path.decode(), "body": body.decode("latin-1")}
        await answer(send, 200, json.dumps({**content, "upgrade": "upgrade" in headers}).encode())


async def answer(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Served:
    def __init__(self, app: Echo, pool: ConnectionPool, server: uvicorn.Server, port: int) -> None:
        self.app, self.pool, self.server, self.port = app, pool, server, port

    def refused(self, reason: str) -> float:
        return self.pool.registry.get_sample_value("recall_connections_refused_total", {"reason": reason}) or 0.0

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield reader, writer
        finally:
            writer.close()

    async def talk(self, data: bytes) -> bytes:
        """Everything that the server answers to these bytes, until it closes or is silent."""
        async with self.connect() as (reader, writer):
            writer.write(data)
            answer = b""
            while True:
                try:
                    async with asyncio.timeout(0.7):
                        more = await reader.read(65536)
                except (TimeoutError, ConnectionError):
                    return answer
                if not more:
                    return answer
                answer += more


Serve = Callable[..., Awaitable[Served]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    tasks: list[tuple[uvicorn.Server, asyncio.Task[None]]] = []

    async def start(limits: Limits | None = None) -> Served:
        app, pool = Echo(), ConnectionPool(limits or Limits())
        listener = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                http=partial(Protocol, pool),  # type: ignore[arg-type]
                lifespan="off",
                log_config=None,
                access_log=False,
                ws="none",
                timeout_graceful_shutdown=1,
            )
        )
        tasks.append((server, asyncio.create_task(server.serve(sockets=[listener]))))
        await eventually(lambda: server.started)
        return Served(app, pool, server, listener.getsockname()[1])

    yield start
    for server, task in tasks:
        server.should_exit = True
        await task


def responses(data: bytes) -> list[tuple[int, bytes]]:
    """Status and body of each response; all have a Content-Length."""
    found = []
    while data:
        head, _, rest = data.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        headers = dict(line.lower().split(b": ", 1) for line in lines[1:])
        length = int(headers[b"content-length"])
        assert len(rest) >= length, data
        found.append((int(lines[0].split()[1]), rest[:length]))
        data = rest[length:]
    return found


def assert_envelope(data: bytes, status: int, code: int) -> None:
    [(found, body)] = responses(data)
    assert (found, json.loads(body)["statusCode"]) == (status, code), data
    assert json.loads(body).keys() == {"statusCode", "statusMessage"}
    assert b"connection: close" in data


def chunked(body: bytes, rng: random.Random) -> bytes:
    data = b""
    while body:
        size = rng.randint(1, len(body))
        data += b"%x%s\r\n%s\r\n" % (size, rng.choice([b"", b";a=b"]), body[:size])
        body = body[size:]
    return data + b"0\r\n" + rng.choice([b"", b"Trailer: x\r\n"]) + b"\r\n"


# --- one request is one request ---


async def test_upgrade_header_is_ignored_and_the_body_is_read(serve: Serve) -> None:
    served = await serve()
    request = (
        b"POST /a HTTP/1.1\r\n" + HOST + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\nContent-Length: 5\r\n\r\nhello"
    )
    [(status, body), (_, again)] = responses(await served.talk(request + b"GET /b HTTP/1.1\r\n" + HOST + b"\r\n"))
    assert status == 200
    assert json.loads(body) == {"method": "POST", "path": "/a", "body": "hello", "upgrade": False}
    assert json.loads(again)["path"] == "/b"


@pytest.mark.parametrize("seed", range(20))
async def test_pipelined_requests_of_any_framing_are_answered_once_and_in_order(serve: Serve, seed: int) -> None:
    rng = random.Random(seed)
    served = await serve()
    sent, data = [], b""
    for number in range(rng.randint(1, 12)):
        # Bodies that look like requests, which a wrong boundary would run.
        body = rng.choice([b"", b"x" * rng.randint(1, 70_000), SMUGGLED * 2, b"0\r\n\r\n"])
        upgrade = rng.choice([b"", b"Upgrade: h2c\r\nConnection: upgrade\r\n", b"Upgrade: websocket\r\n"])
        head = b"POST /%d HTTP/1.1\r\n" % number + HOST + upgrade
        if rng.random() < 0.5:
            data += head + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(body, rng)
        else:
            data += head + b"Content-Length: %d\r\n\r\n" % len(body) + body
        sent.append((f"/{number}", body.decode()))
    async with served.connect() as (reader, writer):
        for _ in range(rng.randint(1, 8)):
            cut = rng.randint(0, len(data))
            writer.write(data[:cut])
            await writer.drain()
            data = data[cut:]
            await asyncio.sleep(0)
        writer.write(data)
        got = []
        for _ in sent:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            content = json.loads(await reader.readexactly(length))
            got.append((content["path"], content["body"]))
    assert got == sent
    assert served.app.requests == len(sent)


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: 5\r\nContent-Length: 5\r\n",
        b"Content-Length: 5, 5\r\n",
        b"Content-Length: +5\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: 0x5\r\n",
        b"Content-Length: 5 5\r\n",
        b"Content-Length: \r\n",
        b"Content-Length: 99999999999999999999\r\n",
        b"Content-Length : 5\r\n",
        b" Content-Length: 5\r\n",
        b"Content-Length:\r\n 5\r\n",
        b"Content\0-Length: 5\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Transfer-Encoding: identity\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: \x0bchunked\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"X: a\nContent-Length: 5\r\n",
        b"X: a\rContent-Length: 5\r\n",
        b"no colon\r\n",
        b": no name\r\n",
    ],
)
async def test_ambiguous_head_is_refused(serve: Serve, headers: bytes) -> None:
    served = await serve()
    data = await served.talk(b"POST / HTTP/1.1\r\n" + HOST + headers + b"\r\n0\r\n\r\n" + SMUGGLED)
    assert_envelope(data, 400, 2)
    assert served.app.requests == 0


@pytest.mark.parametrize(
    "body",
    [
        b"g\r\n",
        b"-1\r\n",
        b"\r\n",
        b"5;" + b"x" * 2_000 + b"\r\n",
        b"1\r\nab\r\n0\r\n\r\n",
        b"1" * 20 + b"\r\n",
        b"0\r\n" + b"a: b\r\n" * 3_000 + b"\r\n",
    ],
)
async def test_malformed_chunks_close_the_connection_and_start_no_other_request(serve: Serve, body: bytes) -> None:
    served = await serve()
    head = b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
    assert_envelope(await served.talk(head + body + SMUGGLED), 400, 2)
    assert served.app.requests <= 1


def garbled(seed: int) -> bytes:
    """A valid request with a few bytes replaced, taken away or put in."""
    rng = random.Random(seed)
    data = bytearray(b"POST /a HTTP/1.1\r\n" + HOST + b"X-A: b\r\nContent-Length: 5\r\n\r\nhello")
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data))
        match rng.randrange(3):
            case 0:
                data[at] = rng.choice(b"\0\r\n \t:;#%\x80\xffA5")
            case 1:
                del data[at : at + rng.randint(1, 6)]
            case _:
                data[at:at] = bytes(rng.choice(b"\0\r\n \t:;,#\x80\xffA5") for _ in range(rng.randint(1, 5)))
    return bytes(data)


async def test_garbled_request_gets_one_application_response_or_one_error_envelope(serve: Serve) -> None:
    served = await serve(QUICK)
    requests = [garbled(seed) for seed in range(1_000)]
    answers = []
    for batch in batched(requests, 100):
        before = served.app.requests
        answers += await asyncio.gather(*map(served.talk, batch))
        assert served.app.requests - before <= len(batch)
    outcomes: Counter[int] = Counter()
    for request, data in zip(requests, answers, strict=True):
        for number, (status, body) in enumerate(responses(data)):
            outcomes[status] += 1
            if status == 200:
                assert number == 0, request
            else:
                assert json.loads(body).keys() == {"statusCode", "statusMessage"}, request
    assert outcomes.keys() == {200, 400, 405, 408}


# --- what the server itself refuses ---


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET /a#b HTTP/1.1", 400),
        (b"GET /\xc3\xa4 HTTP/1.1", 400),
        (b"GET /a b HTTP/1.1", 400),
        (b"GET a HTTP/1.1", 400),
        (b"GET * HTTP/1.1", 400),
        (b"GET / HTTP/2.0", 400),
        (b"GET / HTTP/0.9", 400),
        (b"GET /", 400),
        (b"PRI * HTTP/2.0", 400),
        (b"\x16\x03\x01\x02\x00\x01", 400),
        (b"BREW / HTTP/1.1", 405),
        (b"CONNECT example.com:443 HTTP/1.1", 405),
        (b"get / HTTP/1.1", 405),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1", 431),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_server_errors_use_the_envelope(serve: Serve, request_line: bytes, status: int) -> None:
    served = await serve()
    data = await served.talk(request_line + b"\r\n" + HOST + b"\r\n")
    assert_envelope(data, status, 2)
    assert (b"\r\nAllow: " in data) == (status == 405)
    assert served.app.requests == 0


async def test_absolute_targets_and_leading_line_ends_are_accepted(serve: Serve) -> None:
    served = await serve()
    [(status, body)] = responses(await served.talk(b"\r\n\r\nGET http://recall/a?b HTTP/1.1\r\n" + HOST + b"\r\n"))
    assert (status, json.loads(body)["path"]) == (200, "/a")


@pytest.mark.parametrize("headers", [100, 101])
async def test_headers_are_limited_to_100(serve: Serve, headers: int) -> None:
    served = await serve()
    data = await served.talk(b"GET / HTTP/1.1\r\n" + HOST + b"X: y\r\n" * (headers - 1) + b"\r\n")
    if headers == 100:
        assert responses(data)[0][0] == 200
    else:
        assert_envelope(data, 431, 2)


@pytest.mark.parametrize("size", [64 * 1024, 64 * 1024 + 1])
async def test_head_is_limited_to_64_kib(serve: Serve, size: int) -> None:
    served = await serve()
    start = b"GET / HTTP/1.1\r\n" + HOST + b"X: "
    data = await served.talk(start + b"y" * (size - len(start)) + b"\r\n\r\n")
    if size == 64 * 1024:
        assert responses(data)[0][0] == 200
    else:
        assert_envelope(data, 431, 2)


async def test_http_1_0_response_is_not_chunked(serve: Serve) -> None:
    served = await serve()
    data = await served.talk(b"GET /stream HTTP/1.0\r\n\r\n")
    head, _, body = data.partition(b"\r\n\r\n")
    assert body == b"one,two,three"
    assert b"transfer-encoding" not in head.lower()
    assert b"connection: close" in head.lower()


async def test_a_body_that_breaks_off_is_not_complete_for_a_client_of_http_1_0(serve: Serve) -> None:
    """Nothing but the end of the connection ends such a body, so it must not be a clean one."""
    served = await serve()
    async with served.connect() as (reader, writer):
        writer.write(b"GET /broken HTTP/1.0\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(), 10)


# --- bounds of time and memory ---


async def send_until_cut(writer: asyncio.StreamWriter, chunk: bytes) -> None:
    """Fails if the server still takes this after 100 MB."""
    with suppress(ConnectionError):
        for _ in range(100_000_000 // len(chunk)):
            if writer.transport.is_closing():
                return
            writer.write(chunk)
            await asyncio.wait_for(writer.drain(), 5)
        raise AssertionError("the server reads without end")


async def test_endless_header_is_refused_at_the_limit(serve: Serve) -> None:
    served = await serve()
    async with served.connect() as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nX: ")
        await send_until_cut(writer, b"y" * 4_096)
        with suppress(ConnectionError):
            assert_envelope(await reader.read(), 431, 2)
    assert served.refused("head") == 1


@pytest.mark.parametrize("start", [b"G", b"GET / HTTP/1.1\r\nHost"])
async def test_slow_head_times_out_although_bytes_keep_arriving(serve: Serve, start: bytes) -> None:
    served = await serve(QUICK)
    async with served.connect() as (reader, writer):
        writer.write(start)
        read = asyncio.create_task(reader.read())
        while not read.done():
            writer.write(b"a")
            await asyncio.wait([read], timeout=0.05)
        assert_envelope(await read, 408, 2)
    assert served.refused("slow request") == 1


async def test_stalled_body_times_out_and_the_application_is_told(serve: Serve) -> None:
    served = await serve(QUICK)
    data = await served.talk(b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 10\r\n\r\nhalf")
    assert_envelope(data, 408, 2)
    await eventually(lambda: served.app.disconnects == 1)


@pytest.mark.parametrize("expects", [b"", b"Expect: 100-continue\r\n"], ids=["at once", "after 100"])
async def test_a_body_that_has_arrived_stalls_no_more(serve: Serve, expects: bytes) -> None:
    served = await serve(QUICK)
    async with served.connect() as (reader, writer):
        writer.write(b"POST /slow HTTP/1.1\r\n" + HOST + expects + b"Content-Length: 4\r\n\r\n")
        await eventually(lambda: served.app.requests == 1)
        writer.write(b"body")
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        if expects:
            assert b" 100 " in head
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        assert b" 200 " in head
    assert served.app.disconnects == served.refused("slow request") == 0


@pytest.mark.parametrize("body", [b"", b"body"], ids=["head", "body"])
@pytest.mark.parametrize("more", [b"\r\n", b"\r\n" * 50], ids=["one", "many"])
async def test_ends_of_lines_after_a_request_leave_its_connection_idle(serve: Serve, body: bytes, more: bytes) -> None:
    """Others need its place, and it is closed after a while."""
    served = await serve()
    async with served.connect() as (reader, writer):
        length = b"Content-Length: %d\r\n\r\n" % len(body)
        writer.write(b"POST / HTTP/1.1\r\n" + HOST + length + body + more)
        assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
        await eventually(lambda: len(served.pool.idle) == 1)
        [connection] = served.pool.idle
        assert connection._timer is not None
        writer.write(more)
        writer.write(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
        assert b" 200 " in await reader.readuntil(b"\r\n\r\n")


async def test_trailers_are_no_headers(serve: Serve) -> None:
    """No proxy has checked them, as it does the address of the client."""
    served = await serve()
    head = b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
    body = b"4\r\nbody\r\n0\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n"
    data = await served.talk(head + body)
    assert responses(data)[0][0] == 200
    assert {name for name, _ in served.app.headers} == {b"host", b"transfer-encoding"}


async def test_idle_connection_without_a_request_is_closed(serve: Serve) -> None:
    served = await serve(QUICK)
    async with served.connect() as (reader, _):
        assert await asyncio.wait_for(reader.read(), 5) == b""
    await eventually(lambda: not served.pool.idle)


async def test_pipelined_requests_are_not_parsed_while_responses_are_unread(serve: Serve) -> None:
    served = await serve()
    async with served.connect() as (reader, writer):
        wanted = 500
        writer.write((b"GET /large/100000 HTTP/1.1\r\n" + HOST + b"\r\n") * wanted)
        await eventually(lambda: served.app.requests > 0)
        [connection] = served.server.server_state.connections
        # 50 MB are asked for; the buffers of the kernel take some answers, and then everything waits.
        await asyncio.sleep(0.3)
        begun = served.app.requests
        assert begun < wanted / 2
        assert connection.transport.get_write_buffer_size() <= 200_000
        for _ in range(wanted):
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
            assert b"200" in head
            await reader.readexactly(100_000)
    assert served.app.requests == wanted


@pytest.mark.parametrize("path", ["/small", "/stream", "/refuse"])
async def test_pipelined_requests_wait_in_the_network_and_not_in_memory(serve: Serve, path: str) -> None:
    served = await serve()
    requests = (f"GET {path} HTTP/1.1\r\n".encode() + HOST + b"\r\n") * 5_000
    most, refused = 0, 0
    with socket.create_connection(("127.0.0.1", served.port)) as client:
        client.setblocking(False)
        await eventually(lambda: len(served.server.server_state.connections) == 1)
        [connection] = served.server.server_state.connections
        assert isinstance(connection, Protocol)
        while refused < 20 and most < 5_000_000:  # until the network takes nothing more
            try:
                client.send(requests)
                refused = 0
                await asyncio.sleep(0)
            except BlockingIOError:
                refused += 1
                await asyncio.sleep(0.01)
            most = max(most, len(connection._unread))
    assert served.app.requests > 1
    assert most <= 64 * 1024 + 2 * 256 * 1024


async def test_client_that_reads_nothing_is_disconnected(serve: Serve) -> None:
    served = await serve(QUICK)
    async with served.connect() as (_, writer):
        writer.write(b"GET /large/50000000 HTTP/1.1\r\n" + HOST + b"\r\n")
        await eventually(lambda: served.refused("slow reader") == 1)
        await eventually(lambda: not served.server.server_state.connections)


async def test_client_that_asked_for_the_end_and_reads_nothing_is_disconnected(serve: Serve) -> None:
    """Also with so little left that the application did not have to wait."""
    served = await serve(QUICK)
    for size in range(100_000, 20_000_000, 50_000):
        async with served.connect() as (_, writer):
            writer.write(b"GET /large/%d HTTP/1.1\r\n" % size + HOST + b"Connection: close\r\n\r\n")
            await eventually(lambda: served.app.requests > 0)
            served.app.requests = 0
            left = [one.transport.get_write_buffer_size() for one in served.server.server_state.connections]
            if any(left):
                await eventually(lambda: not served.server.server_state.connections)
                break
    assert 0 < left[0] <= 64 * 1024
    assert served.refused("slow reader") == 1


async def test_client_that_reads_slowly_is_not_disconnected(serve: Serve) -> None:
    served = await serve(replace(Limits(), write_stall_seconds=1))
    size, got = 40_000_000, 0
    async with served.connect() as (reader, writer):
        writer.write(b"GET /large/%d HTTP/1.1\r\n" % size + HOST + b"\r\n")
        assert b"200" in await reader.readuntil(b"\r\n\r\n")
        while got < size:
            part = await reader.read(1_000_000)
            assert part, f"cut after {got} bytes"
            got += len(part)
            if got % 7 == 0:
                await asyncio.sleep(0.05)
    assert served.refused("slow reader") == 0


async def test_refused_body_is_read_up_to_a_limit(serve: Serve) -> None:
    served = await serve(replace(Limits(), unwanted_body_bytes=1_000_000))
    async with served.connect() as (reader, writer):
        writer.write(b"POST /refuse HTTP/1.1\r\n" + HOST + b"Content-Length: 1000000000\r\n\r\n")
        assert b" 401 " in await reader.readuntil(b"\r\n\r\n")
        await send_until_cut(writer, b"x" * 100_000)
    assert served.refused("unwanted body") == 1


async def test_connection_is_reusable_after_a_refused_body_within_the_limit(serve: Serve) -> None:
    served = await serve()
    data = await served.talk(
        b"POST /refuse HTTP/1.1\r\n"
        + HOST
        + b"Content-Length: 500000\r\n\r\n"
        + b"x" * 500_000
        + b"GET /b HTTP/1.1\r\n"
        + HOST
        + b"\r\n"
    )
    assert [status for status, _ in responses(data)] == [401, 200]


async def test_idle_connections_are_closed_for_new_ones(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    served = await serve(replace(Limits(), connections=20))
    idle = [await asyncio.open_connection("127.0.0.1", served.port) for _ in range(60)]
    partial_head = b"GET / HTTP/1.1\r\nHost: "
    for _, writer in idle:
        writer.write(partial_head)
    for _ in range(5):
        assert responses(await served.talk(b"GET /a HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"))[0][0] == 200
    assert len(served.server.server_state.connections) <= 21
    assert served.refused("idle") >= 40
    assert len([record for record in caplog.records if "connections are open" in record.message]) >= 1
    for _, writer in idle:
        writer.close()


async def test_health_is_answered_when_all_connections_are_in_use(serve: Serve) -> None:
    served = await serve(replace(Limits(), connections=5, reserved_connections=3))
    busy = []
    for _ in range(5):
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(b"POST /a HTTP/1.1\r\n" + HOST + b"Content-Length: 9\r\n\r\n")
        busy.append((reader, writer))
    await eventually(lambda: served.app.requests == 5)
    close = HOST + b"Connection: close\r\n\r\n"
    refused = await served.talk(b"GET /api HTTP/1.1\r\n" + close)
    assert_envelope(refused, 503, 4)
    assert b"retry-after: " in refused.lower()
    assert responses(await served.talk(b"GET /health/live HTTP/1.1\r\n" + close))[0][0] == 200
    # Beyond the reserve a new connection gets no answer.
    for _ in range(3):
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(b"POST /health/a HTTP/1.1\r\n" + HOST + b"Content-Length: 9\r\n\r\n")
        busy.append((reader, writer))
    await eventually(lambda: served.app.requests == 9)
    refusals = served.refused("connections")
    assert await served.talk(b"GET /health/live HTTP/1.1\r\n" + close) == b""
    assert served.refused("connections") == refusals + 1
    for _, writer in busy:
        writer.close()
    await eventually(lambda: not served.server.server_state.connections)
    assert responses(await served.talk(b"GET /api HTTP/1.1\r\n" + close))[0][0] == 200


# --- what it is built on ---


def test_uvicorn_still_has_what_the_protocol_replaces() -> None:
    """The protocol overrides these methods; a uvicorn without them, or with others, needs another look at it."""
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle  # noqa: PLC0415

    overridden = {
        name for name in vars(Protocol) if callable(getattr(Protocol, name)) and hasattr(HttpToolsProtocol, name)
    }
    assert overridden >= {
        "connection_made",
        "connection_lost",
        "data_received",
        "on_message_begin",
        "on_header",
        "on_headers_complete",
        "on_body",
        "on_message_complete",
        "on_response_complete",
        "pause_writing",
        "resume_writing",
    }
    arguments = RequestResponseCycle.__init__.__annotations__.keys()
    assert arguments >= {
        "scope",
        "transport",
        "flow",
        "message_event",
        "expect_100_continue",
        "keep_alive",
        "on_response",
    }


async def test_a_flood_of_idle_connections_refuses_nobodys_requests(serve: Serve) -> None:
    served = await serve(Limits(connections=10, reserved_connections=100))
    with ExitStack() as stack:
        for _ in range(5):
            # Without a turn of the event loop in between, so that the server meets all of them at once.
            for _ in range(40):
                stack.enter_context(socket.create_connection(("127.0.0.1", served.port)))
            client = stack.enter_context(socket.create_connection(("127.0.0.1", served.port)))
            client.sendall(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
            client.setblocking(False)
            answer = await asyncio.get_running_loop().sock_recv(client, 100)
            assert answer.startswith(b"HTTP/1.1 200"), answer
