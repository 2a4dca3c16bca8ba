"""The load generator: a few connections that are always busy."""

import asyncio
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

from app.embedded.loader import LoadError
from benchmarks.client import Request

_MOST_SECONDS = 600.0


@dataclass
class Measured:
    """The result of one side: the seconds that each answer took, by kind of question."""

    seconds: float = 0.0
    latencies: dict[str, list[float]] = field(default_factory=dict)
    bytes: int = 0

    @property
    def all(self) -> list[float]:
        return [latency for latencies in self.latencies.values() for latency in latencies]

    @property
    def rate(self) -> float:
        return len(self.all) / self.seconds

    def percentile(self, percent: int, kind: str | None = None) -> float:
        """Returns a percentile of the latencies in milliseconds."""
        values = sorted(self.latencies[kind] if kind else self.all)
        return 1000 * values[min(len(values) * percent // 100, len(values) - 1)]


class _Connection(asyncio.Protocol):
    """Sends one request after the other. It only looks for the end of each answer."""

    def __init__(self, questions: Iterator[tuple[str, bytes]], measured: Measured, until: float) -> None:
        self._questions = questions
        self._measured = measured
        self._until = until
        self._head = b""
        self._left = 0  # bytes to come of this body or chunk
        self._chunked = False
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._ask()

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(f"a connection was closed: {error}")

    def _fail(self, why: str) -> None:
        if not self.done.done():
            self.done.set_exception(LoadError(why))
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._measured.bytes += len(data)
        if len(data) < self._left:  # most often: in the middle of a body
            self._left -= len(data)
            return
        rest = data[self._left :]
        in_body, self._left = self._left > 0, 0
        if in_body and not self._chunked:
            self._answered()
        else:
            self._read(self._head + rest)

    def _read(self, data: bytes) -> None:
        """Reads on, from the start of an answer or of a chunk."""
        while True:
            self._head = data
            if not self._chunked:
                head, end, data = data.partition(b"\r\n\r\n")
                if not end:
                    return
                if not head.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 201 ")):
                    self._fail(f"an answer was {head!r}")
                    return
                length = _length(head)
                if length is None:
                    self._chunked = True
                    continue
                size = length
            else:
                line, end, data = data.partition(b"\r\n")
                if not end:
                    return
                size = int(line, 16) + 2  # a line break follows every chunk, also the empty last one
                if size == 2:
                    self._chunked = False
            self._head = b""
            if len(data) < size:
                self._left = size - len(data)
                return
            data = data[size:]
            if not self._chunked:
                self._answered()
                return

    def _answered(self) -> None:
        now = time.perf_counter()
        self._measured.latencies.setdefault(self._kind, []).append(now - self._asked)
        self._ask()

    def _ask(self) -> None:
        self._asked = time.perf_counter()
        if self._asked < self._until and (question := next(self._questions, None)):
            self._kind, request = question
            self._transport.write(request)
        else:
            self.done.set_result(None)
            self._transport.close()


def _length(head: bytes) -> int | None:
    """Returns the length of the body, or None when it comes in chunks."""
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
        if name.lower() == b"transfer-encoding":
            return None
    return 0


async def load(
    url: str,
    requests: Sequence[tuple[str, Request]],
    measured: Measured,
    *,
    connections: int,
    seconds: float | None = None,
) -> None:
    """Keeps the connections busy for some time, or until each request was made once; adds to `measured`."""
    address = urlsplit(url)
    assert address.hostname
    assert address.port
    encoded = [(kind, request.encoded(address.netloc)) for kind, request in requests]
    questions = itertools.cycle(encoded) if seconds else iter(encoded)
    seconds = seconds or _MOST_SECONDS
    begun = time.perf_counter()
    until = begun + seconds
    opened = [
        (
            await asyncio.get_running_loop().create_connection(
                lambda: _Connection(questions, measured, until), address.hostname, address.port
            )
        )[1]
        for _ in range(connections)
    ]
    async with asyncio.timeout(seconds + 60):
        await asyncio.gather(*(connection.done for connection in opened))
    measured.seconds += time.perf_counter() - begun
