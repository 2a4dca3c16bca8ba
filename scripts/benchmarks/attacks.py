"""What one contact center, or a stranger, does to the service while another one works.

Each attack runs in a process of its own with a low priority, as if it came from another machine.
"""

import asyncio
import multiprocessing
import os
import random
import resource
import socket
import string
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any
from urllib.parse import quote, urlsplit
from uuid import uuid4

import uvloop

from app import codec
from app.embedded.sample import sample_recordings
from benchmarks.client import OPS_USER, Request, authorization

ATTACKER = "attacker"
WITH_LARGE = "attackers-archive"
OPS = "/api/v2/ops/contact-centers"
LARGE_BYTES = 1_000_000

_NICE = 19
_PAUSE_SECONDS = 0.05


@dataclass(frozen=True)
class Target:
    """The processes of the service that are attacked, and where media may be.

    `media` is a URL of a fast storage that has `large`, a file to play; `slow` that of one that deletes slowly.
    """

    urls: tuple[str, ...]
    region: str
    media: str
    large: str
    slow: str


@dataclass
class Attack:
    """An attack under way: what it is against, and the answers so far, by status."""

    target: Target
    answers: Counter[str] = field(default_factory=Counter)

    async def clients(self, count: int, client: Callable[[str], Awaitable[None]]) -> None:
        """Runs clients for ever, each against one process; one that ends begins again."""

        async def again(url: str) -> None:
            while True:
                with suppress(OSError, asyncio.IncompleteReadError):
                    await client(url)
                await asyncio.sleep(_PAUSE_SECONDS)

        async with asyncio.TaskGroup() as tasks:
            for number in range(count):
                tasks.create_task(again(self.target.urls[number % len(self.target.urls)]))

    async def repeat(self, url: str, next_request: Callable[[], Request]) -> None:
        """Makes one request after the other on a connection."""
        async with connected(url) as connection:
            while True:
                status, _ = await connection.ask(next_request())
                self.answers[str(status)] += 1


class ClientConnection:
    """A connection of a client that reads its answers; it takes the length of each from its head."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
        self.reader, self.writer, self._host = reader, writer, host

    async def ask(self, request: Request) -> tuple[int, bytes]:
        """Returns the status and the body. Raises OSError, asyncio.IncompleteReadError."""
        self.writer.write(request.encoded(self._host))
        await self.writer.drain()
        head = await self.reader.readuntil(b"\r\n\r\n")
        lengths = [line[15:] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        body = await self.reader.readexactly(int(lengths[0]) if lengths else 0)
        return int(head[9:12]), body


@asynccontextmanager
async def connected(url: str, receive_buffer: int = 0) -> AsyncIterator[ClientConnection]:
    """Opens a connection to the service. With a small `receive_buffer` the service notices who does not read."""
    address = urlsplit(url)
    opened = socket.socket()
    opened.setblocking(False)
    if receive_buffer:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    try:
        await asyncio.get_running_loop().sock_connect(opened, (address.hostname, address.port))
        reader, writer = await asyncio.open_connection(sock=opened, limit=receive_buffer or 2**16)
    except BaseException:
        opened.close()
        raise
    try:
        yield ClientConnection(reader, writer, address.netloc)
    finally:
        writer.transport.abort()


def recordings_path(contact_center: str) -> str:
    return f"{OPS}/{quote(contact_center)}/recordings"


def post(contact_center: str, recording: dict[str, Any]) -> Request:
    """Returns the request that stores a recording."""
    headers = (authorization(OPS_USER), ("Content-Type", "application/json"))
    return Request("POST", recordings_path(contact_center), headers, codec.encode(recording))


def a_recording(contact_center: str, region: str, urls: list[str], *, seed: int = 7) -> dict[str, Any]:
    """Returns a recording as a client posts it, with an id of its own and a media file at each of these URLs."""
    (made,) = sample_recordings(1, seed=seed, region=region, contact_center=contact_center)
    made["id"] = uuid4().hex
    (media, *_) = made["mediaFiles"]
    made["mediaFiles"] = [
        {**media, "mediaId": f"{i}", "mediaDescriptor": {"storage": "webDAV", "path": url}}
        for i, url in enumerate(urls)
    ]
    return made


# --- with credentials ---


async def full_pages(attack: Attack) -> None:
    request = Request("GET", f"{recordings_path(ATTACKER)}?startTime=0", (authorization(OPS_USER),))
    await attack.clients(40, lambda url: attack.repeat(url, lambda: request))


async def large_pages(attack: Attack) -> None:
    request = Request("GET", f"{recordings_path(WITH_LARGE)}?startTime=0", (authorization(OPS_USER),))
    await attack.clients(8, lambda url: attack.repeat(url, lambda: request))


async def walks(attack: Attack) -> None:
    """Two words are the most that a search may have; each of other letters, so that no cache helps."""

    def word() -> str:
        return "".join(f"*{random.choice(string.ascii_letters)}" for _ in range(8)) + "*"

    def request() -> Request:
        query = quote(f"{word()} {word()}")
        return Request("GET", f"{recordings_path(ATTACKER)}?userData={query}", (authorization(OPS_USER),))

    await attack.clients(40, lambda url: attack.repeat(url, request))


async def unread_plays(attack: Attack) -> None:
    async def play(url: str) -> None:
        async with connected(url, receive_buffer=4096) as connection:
            recording = a_recording(ATTACKER, attack.target.region, [attack.target.large])
            await connection.ask(post(ATTACKER, recording))
            _, body = await connection.ask(_read(ATTACKER, recording["id"]))
            path = codec.decode(body)["recording"]["mediaFiles"][0]["mediaPath"]
            request = Request("GET", f"/api/v2{path}", (authorization(OPS_USER),))
            connection.writer.write(request.encoded(urlsplit(url).netloc))
            head = await connection.reader.readuntil(b"\r\n\r\n")
            attack.answers[head[9:12].decode()] += 1
            if not head.startswith(b"HTTP/1.1 200"):
                return
            connection.writer.transport.pause_reading()  # type: ignore[attr-defined]
            while not connection.writer.is_closing():
                await asyncio.sleep(1)
                connection.writer.write(b"\r\n")  # tells when the service has closed the connection

    await attack.clients(205, play)


async def slow_deletions(attack: Attack) -> None:
    async def delete(url: str) -> None:
        async with connected(url) as connection:
            urls = [f"{attack.target.slow}/{uuid4().hex}" for _ in range(833)]
            recording = a_recording(ATTACKER, attack.target.region, urls)
            status, _ = await connection.ask(post(ATTACKER, recording))
            attack.answers[f"post {status}"] += 1
            path = f"{recordings_path(ATTACKER)}/{recording['id']}?subresources=*"
            status, _ = await connection.ask(Request("DELETE", path, (authorization(OPS_USER),)))
            attack.answers[f"delete {status}"] += 1

    await attack.clients(3, delete)


async def _large_posts(attack: Attack, size: int) -> None:
    def one_long_value() -> Any:
        return {"value": "x" * size}

    def many_values() -> Any:
        return {f"{i}": f"value {i}" for i in range(size // 25)}

    def random_values() -> Any:
        return {f"{i}": random.randbytes(50).hex() for i in range(size // 115)}

    async def poster(url: str) -> None:
        requests = []
        for data in (one_long_value, many_values, random_values):
            recording = a_recording(ATTACKER, attack.target.region, [attack.target.large])
            recording["eventHistory"][0]["data"] = data()
            requests.append(post(ATTACKER, recording))
        await attack.repeat(url, lambda: random.choice(requests))

    await attack.clients(8, poster)


async def posts_of_1_mib(attack: Attack) -> None:
    await _large_posts(attack, 1_000_000)


async def posts_of_4_mib(attack: Attack) -> None:
    await _large_posts(attack, 4_000_000)


# --- without credentials ---


async def invented_names(attack: Attack) -> None:
    def request() -> Request:
        return Request("GET", "/api/v2/recordings?startTime=0", (authorization(f"user-{uuid4().hex}"),))

    await attack.clients(24, lambda url: attack.repeat(url, request))


async def refused_requests(attack: Attack) -> None:
    """Each would be an audit line."""
    request = Request("GET", f"/api/v2/recordings/{'x' * 8_000}", (authorization("x" * 2_000),))
    no_login = Request("GET", f"/api/v2/recordings/{'x' * 8_000}", (("Authorization", "Basic !"),))
    await attack.clients(16, lambda url: attack.repeat(url, lambda: random.choice((request, no_login))))


async def unread_answers(attack: Attack) -> None:
    async def pipeline(url: str) -> None:
        async with connected(url, receive_buffer=4096) as connection:
            connection.writer.transport.pause_reading()  # type: ignore[attr-defined]
            requests = Request("GET", "/api/v2/recordings").encoded("x") * 100
            while True:
                connection.writer.write(requests)
                await connection.writer.drain()
                attack.answers["100 requests sent"] += 1
                await asyncio.sleep(0)

    await attack.clients(16, pipeline)


async def endless_heads(attack: Attack) -> None:
    async def head(url: str) -> None:
        async with connected(url) as connection:
            connection.writer.write(b"GET / HTTP/1.1\r\n")
            while True:
                connection.writer.write(b"x" * 20 + b": " + b"y" * 1_000 + b"\r\n")
                await connection.writer.drain()
                attack.answers["lines"] += 1

    await attack.clients(100, head)


async def idle_connections(attack: Attack) -> None:
    async def idle(url: str) -> None:
        async with connected(url) as connection:
            attack.answers["opened"] += 1
            await connection.reader.read(1)

    await attack.clients(1_300, idle)


async def unwanted_bodies(attack: Attack) -> None:
    async def body(url: str) -> None:
        async with connected(url) as connection:
            path = recordings_path(ATTACKER)
            head = (
                f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000000000\r\n"
            )
            connection.writer.write(f"{head}\r\n".encode())
            piece = b" " * 65_536
            while True:
                connection.writer.write(piece)
                await connection.writer.drain()
                attack.answers["64 KiB sent"] += 1

    await attack.clients(4, body)


ATTACKS: dict[str, Callable[[Attack], Awaitable[None]]] = {
    "40 clients search for full pages": full_pages,
    "8 clients search 100 recordings of 1 MiB": large_pages,
    "40 clients search with two walks each": walks,
    "205 players read nothing": unread_plays,
    "deletions of 2,500 media, 40 ms each": slow_deletions,
    "8 clients post 1 MiB": posts_of_1_mib,
    "8 clients post 4 MiB": posts_of_4_mib,
    "24 clients invent names": invented_names,
    "16 clients are refused, with an audit line": refused_requests,
    "16 clients pipeline and read nothing": unread_answers,
    "100 clients send heads without end": endless_heads,
    "1,300 connections are idle": idle_connections,
    "4 bodies of 1 GB after 401": unwanted_bodies,
}


def _read(contact_center: str, recording_id: str) -> Request:
    return Request("GET", f"{recordings_path(contact_center)}/{recording_id}", (authorization(OPS_USER),))


@contextmanager
def under_attack(name: str, target: Target) -> Iterator[Callable[[], Counter[str]]]:
    """Runs an attack while the context is open, and yields a function that ends it and returns its answers."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_attack, args=(name, target, theirs))
    process.start()
    theirs.close()
    answers: Counter[str] | None = None

    def end() -> Counter[str]:
        nonlocal answers
        if answers is None:
            answers = Counter({"failed": 1})
            with suppress(EOFError, OSError):
                ours.send(None)
                answers = ours.recv()
            process.join()
        return answers

    try:
        ours.recv()  # it has begun
        yield end
    finally:
        end()


def _attack(name: str, target: Target, control: Connection) -> None:
    os.nice(_NICE)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    control.send(None)
    uvloop.run(_attack_until_told(ATTACKS[name], Attack(target), control))


async def _attack_until_told(run: Callable[[Attack], Awaitable[None]], attack: Attack, control: Connection) -> None:
    running = asyncio.ensure_future(run(attack))
    told = asyncio.get_running_loop().run_in_executor(None, control.recv)
    await asyncio.wait((running, told), return_when=asyncio.FIRST_COMPLETED)
    control.send(attack.answers)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
