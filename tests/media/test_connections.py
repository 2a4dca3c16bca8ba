"""The connections to storages, over TCP and TLS, on asyncio's event loop and on uvloop, which is what production runs.

No answer may reach a request that it does not belong to, and no connection may outlive the stream that needs it.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvloop

from app.embedded.servers import free_port
from app.errors import MediaStorageBusy, MediaStorageFailed, MediaStorageTimeout
from app.media.http import Address, HttpPool
from app.media.location import S3Location, WebDavLocation
from app.media.resuming import resuming
from app.media.s3 import S3Storage, Signer
from app.media.storages import open_storages
from app.media.stream import MediaStream
from app.settings import S3Config, Settings, StorageConfig, WebDavConfig
from tests.support.certificates import Certificate, make_certificate
from tests.support.faults import generated
from tests.support.scripted import Peer, Script, ScriptedStorage

Test = Callable[[ScriptedStorage, HttpPool], Coroutine[Any, Any, None]]
Run = Callable[..., None]

SETTINGS = Settings(storage_streams=5, storage_wait_seconds=0.5, storage_first_byte_seconds=5, storage_stall_seconds=5)


@pytest.fixture(params=["tcp-asyncio", "tcp-uvloop", "tls-asyncio", "tls-uvloop"])
def run(request: pytest.FixtureRequest, certificate: Certificate) -> Run:
    """Runs a test against a storage with a script, on each loop and over each transport."""
    transport, loop = request.param.split("-")
    factory = uvloop.new_event_loop if loop == "uvloop" else asyncio.new_event_loop

    def run_it(script: Script, test: Test, **changes: Any) -> None:
        storage = ScriptedStorage(script, certificate if transport == "tls" else None)

        async def with_pool() -> None:
            settings = msgspec.structs.replace(SETTINGS, **changes)
            async with asyncio.timeout(30), HttpPool("test", str(certificate.file), settings) as pool:
                await test(storage, pool)

        with storage.running(), asyncio.Runner(loop_factory=factory) as runner:
            runner.run(with_pool())

    return run_it


def at(storage: ScriptedStorage, path: str) -> Address:
    async def address() -> str:
        return f"{storage.url}/{path}"

    return address


async def read_all(stream: MediaStream) -> bytes:
    body = b""
    while chunk := await stream.read():
        body += chunk
    return body


async def get(pool: HttpPool, storage: ScriptedStorage, path: str) -> tuple[int, bytes]:
    stream = await pool.open("GET", at(storage, path), {})
    try:
        return stream.status, await read_all(stream)
    finally:
        stream.close()


async def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  # threads tell it
            await asyncio.sleep(0.005)


def own_bytes(path: str) -> bytes:
    """What the storage has at a path: every path has other bytes."""
    return path.encode() * 1000


def path_of(request: tuple[str, dict[str, str]]) -> str:
    return request[0].partition("/")[2]


# --- Whose bytes an answer has ------------------------------------------------------------------------------


def foreign_answer() -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nforeign"


UNASKED = {
    "408": b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    "a whole answer": foreign_answer(),
    "a byte": b"x",
    "a line": b"\r\n",
}


@pytest.mark.parametrize("unasked", list(UNASKED))
@pytest.mark.parametrize("together", [True, False], ids=["with the answer", "after the answer"])
def test_bytes_after_an_answer_never_reach_another_request(run: Run, unasked: str, together: bool) -> None:
    def script(peer: Peer) -> None:
        while request := peer.request():
            body = own_bytes(path_of(request))
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            if together:
                peer.send(head + body + UNASKED[unasked])
            else:
                peer.send(head + body)
                peer.send(UNASKED[unasked])

    async def test(storage: ScriptedStorage, pool: HttpPool) -> None:
        for path in "ABCDEF":
            assert await get(pool, storage, path) == (200, own_bytes(path))
            if not together:
                await until(storage.peers[-1].gone.is_set)  # it has noticed the bytes

    run(script, test)


def test_bytes_that_wait_in_the_system_are_seen_before_a_connection_is_reused(run: Run) -> None:
    sent = itertools.count()

    def script(peer: Peer) -> None:
        while request := peer.request():
            peer.answer(own_bytes(path_of(request)))
            time.sleep(0.02)
            peer.send(foreign_answer())
            next(sent)

    async def test(storage: ScriptedStorage, pool: HttpPool) -> None:
        for path in "ABCD":
            assert await get(pool, storage, path) == (200, own_bytes(path))
            time.sleep(0.1)  # the event loop does not read meanwhile  # noqa: ASYNC251

    run(script, test)


@pytest.mark.parametrize("headers", ["", "Content-Length: 3\r\n", "Transfer-Encoding: chunked\r\n"])
@pytest.mark.parametrize(("method", "status"), [("HEAD", "200 OK"), ("DELETE", "204 No Content")])
def test_unexpected_body_never_reaches_another_request(run: Run, method: str, status: str, headers: str) -> None:
    def script(peer: Peer) -> None:
        while request := peer.request():
            if request[0].startswith("GET"):
                peer.answer(own_bytes(path_of(request)))
            else:
                peer.send(f"HTTP/1.1 {status}\r\n{headers}\r\n".encode())
                peer.send(foreign_answer())

    async def test(storage: ScriptedStorage, pool: HttpPool) -> None:
        for path in "ABC":
            answer = await pool.request(method, at(storage, path), {}, statuses_with_body=range(100, 600))
            assert answer.body == b""
            assert await get(pool, storage, path) == (200, own_bytes(path))

    run(script, test)


def test_partly_read_response_closes_its_connection(run: Run) -> None:
    def script(peer: Peer) -> None:
        while request := peer.request():
            peer.answer(own_bytes(path_of(request)), status="404 Not Found" if path_of(request) == "A" else "200 OK")

    async def test(storage: ScriptedStorage, pool: HttpPool) -> None:
        for path in ("A", "B"):
            stream = await pool.open("GET", at(storage, path), {})
            stream.close()
            await until(storage.peers[-1].gone.is_set)
        assert await get(pool, storage, "C") == (200, own_bytes("C"))
        assert len(storage.peers) == 3

    run(script, test)


def test_connection_is_reused(run: Run) -> None:
    def script(peer: Peer) -> None:
        while request := peer.request():
            peer.answer(own_bytes(path_of(request)))

    async def test(storage: ScriptedStorage, pool: HttpPool) -> None:
        for path in "ABCDEF":
            assert await get(pool, storage, path) == (200, own_bytes(path))
        assert len(storage.peers) == 1

    run(script, test)


def test_an_interim_answer_and_an_offer_to_upgrade_are_skipped(run: Run) -> None:
    def script(peer: Peer) -> None:
        while request := peer.request():
            peer.send(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")
            peer.answer(own_bytes(path_of(request)), "Upgrade: h2,h2c\r\nConnection: Upgrade, Keep-Alive\r\n")

    async def test(storage: ScriptedStorage, pool: HttpPool) -> None:
        assert await get(pool, storage, "A") == (200, own_bytes("A"))

    run(script, test)


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\n\r\n" * 5_000,
        b"HTTP/1.1 200 OK\r\nX: a\r\n folded\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000,
        b"220 ready\r\n\r\n",
        b"\r\n\r\n",
    ],
)
def test_ambiguously_framed_response_is_refused(run: Run, head: bytes) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(head)
        peer.wait_until_client_leaves()

    async def test(storage: ScriptedStorage, pool: HttpPool) -> None:
        with pytest.raises(MediaStorageFailed):
            await get(pool, storage, "A")
        await until(storage.peers[0].gone.is_set)

    run(script, test)


@pytest.mark.parametrize(
    ("headers", "connections"),
    [
        ("Content-Length: 1000\r\n", 3),
        ("Content-Length: 1000\r\nConnection: keep-alive\r\n", 1),
        ("", 3),
        ("Connection: keep-alive\r\n", 3),
    ],
)
def test_a_connection_of_http_1_0_is_reused_only_if_the_storage_offers_it(
    run: Run, headers: str, connections: int
) -> None:
    def script(peer: Peer) -> None:
        while request := peer.request():
            peer.send(f"HTTP/1.0 200 OK\r\n{headers}\r\n".encode() + own_bytes(path_of(request)))
            if connections > 1:
                peer.end()
                return

    async def test(storage: ScriptedStorage, pool: HttpPool) -> None:
        for path in "ABC":
            assert await get(pool, storage, path) == (200, own_bytes(path))
        assert len(storage.peers) == connections

    run(script, test)


# --- The end of a body --------------------------------------------------------------------------------------

SIZE = 3_000_000


def test_body_is_complete_when_the_storage_closes_after_it(run: Run) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.answer(generated(0, SIZE), "Connection: close\r\n")
        peer.end()

    async def slow_player(storage: ScriptedStorage, pool: HttpPool) -> None:
        stream = await pool.open("GET", at(storage, "A"), {})
        body = b""
        while chunk := await stream.read():
            body += chunk
            await asyncio.sleep(0.02)
        assert body == generated(0, SIZE)

    async def test(storage: ScriptedStorage, pool: HttpPool) -> None:
        for _ in range(4):
            await asyncio.gather(*(slow_player(storage, pool) for _ in range(5)))

    run(script, test)


@pytest.mark.parametrize("end", ["end", "reset", "end_below_tls"])
@pytest.mark.parametrize("framing", ["until the end", "chunked", "length"])
def test_body_is_complete_only_when_its_end_is_certain(
    run: Run, framing: str, end: str, request: pytest.FixtureRequest
) -> None:
    headers = {"until the end": "", "chunked": "Transfer-Encoding: chunked\r\n", "length": "Content-Length: 9\r\n"}

    def script(peer: Peer) -> None:
        peer.request()
        body = b"5\r\n12345\r\n" if framing == "chunked" else b"12345"
        peer.send(f"HTTP/1.1 200 OK\r\n{headers[framing]}\r\n".encode() + body)
        time.sleep(0.02)  # or a reset would overtake the head
        getattr(peer, end)()
        if end != "reset":
            peer.wait_until_client_leaves()

    is_tcp = "tcp" in request.node.callspec.params["run"]
    certain = framing == "until the end" and (end == "end" or (end == "end_below_tls" and is_tcp))

    async def test(storage: ScriptedStorage, pool: HttpPool) -> None:
        if certain:
            assert await get(pool, storage, "A") == (200, b"12345")
        else:
            with pytest.raises(MediaStorageFailed):
                await get(pool, storage, "A")

    run(script, test)


def test_chunked_body_arrives_complete(run: Run) -> None:
    def script(peer: Peer) -> None:
        while peer.request():
            peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            body = generated(0, SIZE)
            for start in range(0, SIZE, 70_001):
                part = body[start : start + 70_001]
                peer.send(b"%x;extension\r\n" % len(part) + part + b"\r\n")
            peer.send(b"0\r\nTrailer: x\r\n\r\n")

    async def test(storage: ScriptedStorage, pool: HttpPool) -> None:
        for _ in range(3):
            assert await get(pool, storage, "A") == (200, generated(0, SIZE))

    run(script, test)


@pytest.mark.parametrize("behind", [foreign_answer(), b"HTTP/1.1 408 X\r\n\r\n", b"x", b"\r\n"])
def test_bytes_behind_a_body_in_chunks_do_not_belong_to_it(run: Run, behind: bytes) -> None:
    def script(peer: Peer) -> None:
        while peer.request():
            peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" + behind)

    async def test(storage: ScriptedStorage, pool: HttpPool) -> None:
        for count in range(1, 3):
            assert await get(pool, storage, "A") == (200, b"abc")
            assert len(storage.peers) == count

    run(script, test)


def test_trailers_are_no_headers(run: Run) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nETag: "x"\r\n\r\n')

    async def test(storage: ScriptedStorage, pool: HttpPool) -> None:
        stream = await pool.open("GET", at(storage, "A"), {})
        assert await read_all(stream) == b"abc"
        assert "etag" not in stream.headers

    run(script, test)


@pytest.mark.parametrize("endless", [b"a: b\r\n", b"x" * 1000], ids=["trailers", "trailer"])
@pytest.mark.parametrize("before", [b"0\r\n", b"5;"], ids=["behind the body", "extension"])
def test_a_body_in_chunks_that_goes_on_without_bytes_is_an_error(run: Run, before: bytes, endless: bytes) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n" + before)
        while not peer.gone.is_set():
            peer.send(endless)

    async def test(storage: ScriptedStorage, pool: HttpPool) -> None:
        with pytest.raises(MediaStorageFailed):
            await get(pool, storage, "A")
        await until(storage.peers[0].gone.is_set)

    run(script, test)


@pytest.mark.parametrize(
    ("part", "wrong"),
    [
        *(("header", wrong) for wrong in ("a\r\nb: c", "a\nb", "a\rb", "\0", "ä", "\x7f")),
        *(("path", wrong) for wrong in ("a b", "\0", "ä", "\x7f")),  # of a URL, line breaks are removed
    ],
)
def test_a_request_that_would_not_be_one_is_not_sent(run: Run, part: str, wrong: str) -> None:
    async def test(storage: ScriptedStorage, pool: HttpPool) -> None:
        async def address() -> str:
            return f"{storage.url}/{wrong if part == 'path' else 'A'}"

        with pytest.raises(MediaStorageFailed):
            await pool.open("GET", address, {"If-Range": wrong if part == "header" else "x"})
        assert not storage.peers

    run(endless, test)


# --- The end of a stream ------------------------------------------------------------------------------------


def endless(peer: Peer) -> None:
    peer.request()
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
    while not peer.gone.is_set():
        peer.send(b"x" * 65536)


def test_closed_stream_frees_the_storage_immediately(run: Run) -> None:
    async def test(storage: ScriptedStorage, pool: HttpPool) -> None:
        for wanted in (0, 1, 1_000_000):
            stream = await pool.open("GET", at(storage, "A"), {})
            received = 0
            while received < wanted:
                received += len(await stream.read())
            closed = time.monotonic()
            stream.close()
            await until(storage.peers[-1].gone.is_set)
            assert time.monotonic() - closed < 2  # TLS that closes politely takes 30 s

    run(endless, test)


@pytest.mark.parametrize("run", ["tls-asyncio", "tls-uvloop"], indirect=True)
def test_a_storage_that_goes_on_behind_the_end_of_tls_is_left(run: Run) -> None:
    """What it sends would pile up while the player pauses."""

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\nabc")
        peer.end()
        while not peer.gone.is_set():
            peer.send_below_tls(b"x" * 65536)

    async def test(storage: ScriptedStorage, pool: HttpPool) -> None:
        stream = await pool.open("GET", at(storage, "A"), {})
        await until(storage.peers[0].gone.is_set)
        assert await read_all(stream) == b"abc"

    run(script, test)


def test_request_cancelled_before_its_response_frees_the_storage_immediately(run: Run) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.wait_until_client_leaves()

    async def test(storage: ScriptedStorage, pool: HttpPool) -> None:
        for count in range(1, 4):
            opening = asyncio.create_task(pool.open("GET", at(storage, "A"), {}))
            await until(lambda count=count: len(storage.peers) == count)  # type: ignore[misc]
            opening.cancel()
            with suppress(asyncio.CancelledError):
                await opening
            await until(storage.peers[-1].gone.is_set)

    run(script, test, storage_streams=1)


def test_the_limit_of_streams_holds_while_streams_are_aborted(run: Run) -> None:
    open_now, most = set(), 0

    def script(peer: Peer) -> None:
        nonlocal most
        open_now.add(peer)
        most = max(most, len(open_now))
        endless(peer)
        open_now.discard(peer)

    async def test(storage: ScriptedStorage, pool: HttpPool) -> None:
        for _ in range(6):
            streams = [await pool.open("GET", at(storage, "A"), {}) for _ in range(2)]
            with pytest.raises(MediaStorageBusy):
                await pool.open("GET", at(storage, "A"), {})
            for stream in streams:
                stream.close()
                stream.close()

    # A thread of the storage may hear of an end a moment after the other has been accepted.
    run(script, test, storage_streams=2, storage_wait_seconds=0.2)
    assert most <= 4


def test_closed_pool_frees_the_storage(run: Run) -> None:
    seen: list[ScriptedStorage] = []

    async def test(storage: ScriptedStorage, pool: HttpPool) -> None:
        for _ in range(3):
            await pool.open("GET", at(storage, "A"), {})
        seen.append(storage)

    run(endless, test)
    assert all(peer.gone.wait(5) for peer in seen[0].peers)


def test_stalled_storage_times_out(run: Run) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345")
        peer.wait_until_client_leaves()

    async def test(storage: ScriptedStorage, pool: HttpPool) -> None:
        with pytest.raises(MediaStorageTimeout):
            await get(pool, storage, "A")

    run(script, test, storage_stall_seconds=0.2)


# --- Kept connections that have gone ------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["end", "reset", "408"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "PROPFIND", "DELETE"])
def test_reused_connection_that_breaks_before_the_response_is_replaced(run: Run, method: str, end: str) -> None:
    def script(peer: Peer) -> None:
        count = 0
        while request := peer.request():
            count += 1
            if count == 2:
                if end == "408":
                    peer.send(UNASKED["408"])
                else:
                    getattr(peer, end)()
                return
            peer.answer(b"" if request[0].startswith("HEAD") else own_bytes(path_of(request)))

    async def test(storage: ScriptedStorage, pool: HttpPool) -> None:
        assert await get(pool, storage, "A") == (200, own_bytes("A"))
        body = b"<xml/>" if method == "PROPFIND" else b""
        answer = await pool.request(method, at(storage, "B"), {}, body, statuses_with_body={200})
        assert answer.status == 200
        assert len(storage.peers) == 2

    run(script, test)


def test_a_deletion_gets_a_new_connection(run: Run) -> None:
    """A success on a kept connection, sent before the storage has the request, would be taken for its answer."""

    def script(peer: Peer) -> None:
        while request := peer.request():
            status = "404 Not Found" if request[0].startswith("DELETE") else "200 OK"
            peer.answer(own_bytes(path_of(request)), status=status)

    async def test(storage: ScriptedStorage, pool: HttpPool) -> None:
        assert await get(pool, storage, "A") == (200, own_bytes("A"))
        assert (await pool.request("DELETE", at(storage, "A"), {})).status == 404
        assert len(storage.peers) == 2

    run(script, test)


# --- A body that breaks off ---------------------------------------------------------------------------------

ETAG = '"strong"'


DATE = "Sun, 06 Nov 1994 08:49:37 GMT"


def breaking(
    *,
    etag: str = ETAG,
    later_etag: str | None = None,
    later_date: str = DATE,
    breaks: int = 2,
    shift: int = 0,
    later_total: int = SIZE,
    later_headers: str = "",
) -> Script:
    """A storage of one file whose first answers break off after a third of what is left."""

    def script(peer: Peer) -> None:
        request = peer.request()
        assert request is not None
        first, last = 0, SIZE - 1
        if wanted := request[1].get("range"):
            first, last = map(int, wanted.removeprefix("bytes=").split("-"))
        status = "206 Partial Content" if wanted else "200 OK"
        tag = etag if peer.number == 0 or later_etag is None else later_etag
        # One that knows no weak validators goes on with the file that it has by now.
        if request[1].get("if-range", tag) != tag and tag == '"another"':
            first, last, status = 0, SIZE - 1, "200 OK"
        first += shift if peer.number else 0
        body = generated(first, last + 1)
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n"
        head += f"ETag: {tag}\r\n" if tag else ""
        head += f"Last-Modified: {later_date if peer.number else DATE}\r\n{later_headers if peer.number else ''}"
        if status.startswith("206"):
            head += f"Content-Range: bytes {first}-{last}/{later_total if peer.number else SIZE}\r\n"
        peer.send(head.encode() + b"\r\n" + (body[: len(body) // 3] if peer.number < breaks else body))
        peer.end()

    return script


async def play(storage: ScriptedStorage, pool: HttpPool, headers: dict[str, str]) -> bytes:
    async def reopen(more: Any) -> MediaStream:
        return await pool.open("GET", at(storage, "A"), more)

    return await read_all(resuming(await reopen(headers), reopen))


@pytest.mark.parametrize("part", [None, (5, SIZE - 7)])
def test_interrupted_body_is_resumed(run: Run, part: tuple[int, int] | None) -> None:
    async def test(storage: ScriptedStorage, pool: HttpPool) -> None:
        headers = {"Range": f"bytes={part[0]}-{part[1] - 1}"} if part else {}
        assert await play(storage, pool, headers) == generated(*(part or (0, SIZE)))
        assert len(storage.peers) == 3

    run(breaking(), test)


@pytest.mark.parametrize(
    "storage",
    [
        {"etag": 'W/"weak"'},
        {"later_etag": '"another"'},
        {"later_etag": '"ignores If-Range"'},
        {"later_etag": f"W/{ETAG}"},
        {"later_etag": ""},
        {"later_headers": f"ETag: W/{ETAG}\r\n"},
        {"later_date": DATE.replace("37", "38")},
        {"later_total": SIZE + 1},
        {"later_headers": "Content-Encoding: gzip\r\n"},
        {"shift": 1},
        {"breaks": 1000},
    ],
    ids=[
        "weak validator",
        "changed file",
        "changed file without If-Range",
        "then weak",
        "then without validator",
        "then two",
        "another date",
        "another length",
        "then compressed",
        "another range",
        "ever again",
    ],
)
def test_body_that_cannot_be_resumed_exactly_is_an_error(run: Run, storage: dict[str, Any]) -> None:
    async def test(scripted: ScriptedStorage, pool: HttpPool) -> None:
        with pytest.raises(MediaStorageFailed):
            await play(scripted, pool, {})
        assert len(scripted.peers) <= 5

    run(breaking(**storage), test)


def test_a_player_that_leaves_while_a_body_is_resumed_frees_the_storage_immediately(run: Run) -> None:
    first = breaking()

    def script(peer: Peer) -> None:
        if peer.number == 0:
            first(peer)
        else:
            peer.request()
            peer.wait_until_client_leaves()

    async def test(storage: ScriptedStorage, pool: HttpPool) -> None:
        async def reopen(more: Any) -> MediaStream:
            return await pool.open("GET", at(storage, "A"), more)

        stream = resuming(await reopen({}), reopen)
        reading = asyncio.create_task(read_all(stream))
        await until(lambda: len(storage.peers) == 2)
        stream.close()
        await until(storage.peers[1].gone.is_set)
        with pytest.raises(MediaStorageFailed):
            await reading

    run(script, test, storage_streams=1, storage_first_byte_seconds=60)


# --- S3 -----------------------------------------------------------------------------------------------------


class CountingSigner(Signer):
    """Signs nothing, and counts."""

    def __init__(self, storage: ScriptedStorage) -> None:
        super().__init__(None, S3Config(("b",)))
        self.signed = 0
        self._storage = storage

    async def url(self, method: str, bucket: str, key: str) -> str:
        self.signed += 1
        return f"{self._storage.url}/{key}"


def test_url_is_signed_when_its_request_is_sent(run: Run) -> None:
    async def test(storage: ScriptedStorage, pool: HttpPool) -> None:
        signer = CountingSigner(storage)
        s3, location = S3Storage(signer, pool), S3Location(S3Config(("b",)), "b", "A")
        stream = await s3.open("GET", location, {})
        waiting = asyncio.create_task(s3.open("GET", location, {}))
        await asyncio.sleep(0.1)
        assert signer.signed == 1
        stream.close()
        (await waiting).close()
        assert signer.signed == 2

    run(endless, test, storage_streams=1, storage_wait_seconds=10)


@pytest.mark.parametrize("refusals", [1, 2])
def test_request_is_retried_once_after_503(run: Run, refusals: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.media.s3._SLOW_DOWN_SECONDS", 0.01)
    requests = itertools.count(1)

    def script(peer: Peer) -> None:
        while request := peer.request():
            if next(requests) <= refusals:
                peer.answer(b"<Code>SlowDown</Code>", status="503 Slow Down")
            else:
                peer.answer(own_bytes(path_of(request)))

    async def test(storage: ScriptedStorage, pool: HttpPool) -> None:
        s3, location = S3Storage(CountingSigner(storage), pool), S3Location(S3Config(("b",)), "b", "A")
        if refusals == 1:
            assert await read_all(await s3.open("GET", location, {})) == own_bytes("A")
        else:
            with pytest.raises(MediaStorageBusy):
                await s3.open("GET", location, {})

    run(script, test)


# --- What the log says --------------------------------------------------------------------------------------


def refuses(peer: Peer) -> None:
    peer.answer(b"x", status="400 Bad Request")
    peer.wait_until_client_leaves()


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize(
    ("failure", "words"),
    [
        ("unknown authority", "ca_file"),
        ("another host", "another host"),
        ("expired", "has expired"),
        ("no TLS", "http://"),
        ("TLS", "is the scheme"),
        ("refused", "no server listens"),
        ("unknown name", "cannot be resolved"),
    ],
)
def test_failed_connection_is_logged_in_one_line_with_the_remedy(  # noqa: PLR0917
    failure: str, words: str, loop: Any, certificate: Certificate, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unusual = {"another host": {"host": "media.example"}, "expired": {"days": -1}}
    used = make_certificate(tmp_path, **unusual[failure]) if failure in unusual else certificate  # type: ignore[arg-type]
    storage = ScriptedStorage(refuses, None if failure == "no TLS" else used)

    async def ask() -> None:
        ca_file = None if failure == "unknown authority" else str(used.file)
        url = {
            "no TLS": storage.url.replace("http:", "https:"),
            "TLS": storage.url.replace("https:", "http:"),
            "refused": f"http://127.0.0.1:{free_port()}",
            "unknown name": "http://storage.invalid",
        }.get(failure, storage.url)

        async def address() -> str:
            return f"{url}/A"

        async with HttpPool("the-storage", ca_file, SETTINGS) as pool:
            with pytest.raises(MediaStorageFailed):
                await pool.open("GET", address, {})

    with storage.running(), asyncio.Runner(loop_factory=loop) as runner, caplog.at_level(logging.WARNING):
        runner.run(ask())
    (line,) = [record.getMessage() for record in caplog.records if record.name.startswith("app.")]
    assert "the-storage" in line
    assert words in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("challenge", "words"),
    [("", "check those"), ('Basic realm="x"', "check those"), ('Digest realm="x", nonce="y"', "asks for Digest")],
)
def test_a_storage_that_does_not_take_the_credentials_is_one_line_without_them(
    run: Run, challenge: str, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    def script(peer: Peer) -> None:
        request = peer.request()
        assert request
        assert request[1]["authorization"].startswith("Basic ")
        peer.answer(b"", f"WWW-Authenticate: {challenge}\r\n" if challenge else "", status="401 Unauthorized")

    async def test(storage: ScriptedStorage, _: HttpPool) -> None:
        config = WebDavConfig(
            storage.url,
            "name-of-user",
            "secret-of-user",
            ca_file=str(storage.certificate.file) if storage.certificate else None,
        )
        settings = msgspec.structs.replace(SETTINGS, storage=StorageConfig(webdav=(config,)))
        async with open_storages(settings) as storages:
            stream = await storages.open("GET", WebDavLocation(config, f"{storage.url}/A"), {})
            assert stream.status == 401
            stream.close()

    run(script, test)
    (line,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert words in line
    assert "of-user" not in line
