"""Answers of storages, right and wrong ones, and what may reach a client of them."""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from app.errors import RecallError
from app.media.answers import open_media
from app.media.conditions import parse_content_range, parse_range
from app.media.connection import ConnectionBroken
from app.media.location import Location
from app.media.storages import MediaStorages

End = Literal["clean", "cut", "stalled"]
Framing = Literal["length", "one more", "chunked", "until the end"]
ENDS: tuple[End, ...] = ("clean", "cut", "stalled")
FRAMINGS: tuple[Framing, ...] = ("length", "one more", "chunked", "until the end")


@dataclass(frozen=True)
class Answer:
    """What a storage answers. `framing` "one more" is a Content-Length of a byte more than the body has.

    Where the end of the connection is that of the body, the storage speaks HTTP/1.0.
    """

    status: int
    content_range: str | None
    body: bytes
    framing: Framing = "length"
    end: End = "clean"
    headers: str = ""

    def wire(self, method: str) -> bytes:
        """The bytes on the connection. HEAD gets those of the head."""
        lines = [f"HTTP/{'1.0' if self.framing == 'until the end' else '1.1'} {self.status} -"]
        if self.content_range is not None:
            lines.append(f"Content-Range: {self.content_range}")
        if self.framing == "chunked":
            lines.append("Transfer-Encoding: chunked")
        elif self.framing != "until the end":
            lines.append(f"Content-Length: {len(self.body) + (self.framing == 'one more')}")
        body = self.body
        if self.framing == "chunked":
            last = b"" if self.end == "cut" else b"0\r\n\r\n"
            body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:3], body[3:]) if part) + last
        head = "\r\n".join(lines) + f"\r\n{self.headers}\r\n"
        return head.encode("latin-1") + (b"" if method == "HEAD" else body)

    @property
    def is_whole_message(self) -> bool:
        """Whether HTTP alone tells nobody that anything is wrong with the body."""
        if self.framing == "length":
            return True
        if self.framing == "chunked":
            return self.end != "cut"
        return self.end == "clean" and self.framing != "one more"


def honest_answer(content: bytes, request_range: str | None, headers: str = "") -> Answer:
    """What a storage that knows the standard answers."""
    asked = parse_range(request_range)
    if asked is None:
        return Answer(200, None, content, headers=headers)
    positions = asked.within(len(content))
    if not positions:
        return Answer(416, f"bytes */{len(content)}", b"no", headers=headers)
    part = content[positions.start : positions.stop]
    return Answer(206, f"bytes {positions.start}-{positions.stop - 1}/{len(content)}", part, headers=headers)


@dataclass(frozen=True)
class Outcome:
    """What a client gets. `complete` tells whether the body came to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""
    complete: bool = True


async def play(storages: MediaStorages, method: str, location: Location, headers: Mapping[str, str]) -> Outcome:
    try:
        stream = await open_media(storages, method, location, headers, "x.wav")
    except RecallError as error:
        return Outcome(error.http_status, error.headers or {})
    body = b""
    try:
        if method == "GET" and stream.status != 304:
            while chunk := await stream.read():
                body += chunk
    except RecallError:
        return Outcome(stream.status, stream.headers, body, complete=False)
    finally:
        stream.close()
    return Outcome(stream.status, stream.headers, body)


def why_wrong(outcome: Outcome, content: bytes, request_range: str | None) -> str | None:
    """The oracle: right bytes, an error before the first byte, or a cut connection; None if it is one of them."""
    if outcome.status >= 400:
        return None
    told = parse_content_range(outcome.headers.get("content-range", ""))
    asked = parse_range(request_range)
    if outcome.status == 206 and asked is not None and told is not None and told.answers(asked):
        expected = content[told.positions.start : told.positions.stop]
    elif outcome.status == 200 and "content-range" not in outcome.headers:
        expected = content
    else:
        return "the status, or the range"
    if not outcome.complete:
        return None if expected.startswith(outcome.body) else "the bytes before a cut"
    if outcome.headers.get("content-length") not in {None, str(len(expected))}:
        return "the length"
    return None if outcome.body == expected else "the bytes"


class MemoryConnection:
    """Stands for `app.media.connection.Connection`; `answer` is asked with a method and headers in lower case."""

    def __init__(self, answer: Callable[[str, Mapping[str, str]], Answer]) -> None:
        self._answer = answer
        self._chunks: deque[bytes] = deque()
        self._end: End = "clean"
        self._when_lost: list[Callable[[], None]] = []
        self._is_lost = False
        self.sent_unasked = b""

    @property
    def is_reusable(self) -> bool:
        return False

    def send(self, data: bytes) -> None:
        first, *lines = data.decode("ascii").split("\r\n")
        method = first.partition(" ")[0]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        answer = self._answer(method, headers)
        self._end = answer.end
        head, end, body = answer.wire(method).partition(b"\r\n\r\n")
        # The body comes in two pieces.
        self._chunks.extend(piece for piece in (head + end + body[:4], body[4:]) if piece)

    async def receive(self, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        if self._chunks:
            return self._chunks.popleft()
        if self._is_lost or self._end == "cut":
            raise ConnectionBroken("cut")
        if self._end == "stalled":
            raise TimeoutError
        return b""

    def abort(self) -> None:
        if not self._is_lost:
            self._is_lost = True
            for call in self._when_lost:
                call()

    def call_when_lost(self, call: Callable[[], None]) -> None:
        if self._is_lost:
            call()
        else:
            self._when_lost.append(call)


RANGES = (
    *(None, "bytes=0-", "bytes=2-4", "bytes=5-20", "bytes=-3", "bytes=-20", "bytes=-0", "bytes=10-", "bytes=30-40"),
    *("bytes=0-9999999999999999999", "bytes=9999999999999999999-", "bytes=-9999999999999999999", "bytes=1-1,3-4"),
)
CONTENT_RANGES = (
    *(None, "", "bytes 0-9/10", "bytes 0-4/10", "bytes 2-4/10", "bytes 5-9/10", "bytes 7-9/10", "bytes 2-4/*"),
    *("bytes 2-4/5", "bytes 10-9/10", "bytes 0-999999/99698", "bytes 0--1/0", "byte 2-4/10", "bytes 2-4", "2-4/10"),
    *("bytes */10", "bytes */0", "bytes */3", "bytes 0-0/1", "bytes 9999999999999999999-9999999999999999999/*"),
)
