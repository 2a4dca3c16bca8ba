"""Where a request begins and ends on a connection (RFC 9112), read strictly.

Anything that two servers could read in two ways is refused: nothing that a client sends inside one request may become
a second one.
"""

import re
from dataclasses import dataclass

from app.errors import InvalidParameter, MethodNotAllowed, TooManyHeaders

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([^ ]*) HTTP/(1\.[01])")
_HEADER = re.compile(rb"(" + _TOKEN + rb"):[ \t]*([^\r\n\0]*?)[ \t]*")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[^\r\n]*)?")
# The methods that the parser knows and that the application answers, if only with 405.
_METHODS = frozenset(
    b"GET HEAD POST PUT DELETE OPTIONS PATCH PROPFIND PROPPATCH MKCOL COPY MOVE LOCK UNLOCK TRACE REPORT SEARCH".split()
)
_ALLOWED = "GET, HEAD, POST, PUT, DELETE"
_UPGRADING = frozenset({b"upgrade", b"http2-settings"})
_MAX_CHUNK_LINE = 1_024
_MAX_TRAILERS = 8 * 1024


@dataclass
class Body:
    """A body that has not arrived completely: `left` bytes, or chunks up to the last one and its trailers."""

    left: int = 0
    is_chunked: bool = False
    is_complete: bool = False
    _expects: str = "size"
    _trailers: int = 0

    def take(self, unread: bytearray) -> int:
        """Returns how many of the unread bytes belong to the body, and sets `is_complete`.

        Raises InvalidParameter for chunks that are malformed.
        """
        if self.is_chunked:
            return self._take_chunks(unread)
        length = min(self.left, len(unread))
        self.left -= length
        self.is_complete = not self.left
        return length

    def _take_chunks(self, unread: bytearray) -> int:
        position = 0
        while position < len(unread) and not self.is_complete:
            if self._expects == "data":
                length = min(self.left, len(unread) - position)
                self.left -= length
                position += length
                if not self.left:
                    self._expects = "size"
            else:
                end = unread.find(b"\r\n", position)
                if (end if end >= 0 else len(unread)) - position > _MAX_CHUNK_LINE:
                    raise malformed_request()
                if end < 0:
                    break
                self._take_line(bytes(unread[position:end]))
                position = end + 2
        return position

    def _take_line(self, line: bytes) -> None:
        if self._expects == "size":
            match = _CHUNK_SIZE.fullmatch(line)
            if match is None:
                raise malformed_request()
            size = int(match[1], 16)
            # The data of a chunk ends with a line end of its own.
            self.left, self._expects = (size + 2, "data") if size else (0, "trailers")
            return
        self._trailers += len(line)
        if self._trailers > _MAX_TRAILERS:
            raise malformed_request()
        self.is_complete = not line


@dataclass(frozen=True)
class Head:
    """A request line and headers, without the headers that would upgrade the connection; None where no body follows."""

    data: bytes
    target: bytes
    body: Body | None


def parse_head(head: bytes, max_headers: int) -> Head:
    """Reads a head without the empty line after it. Raises InvalidParameter, MethodNotAllowed or TooManyHeaders."""
    request_line, *lines = head.split(b"\r\n")
    if len(lines) > max_headers:
        raise TooManyHeaders
    target, version = _parse_request_line(request_line)
    kept = [request_line]
    lengths: list[bytes] = []
    encodings: list[bytes] = []
    for line in lines:
        header = _HEADER.fullmatch(line)
        if header is None:
            raise malformed_request()
        name, value = header[1].lower(), header[2]
        if name in _UPGRADING:
            continue
        if name == b"connection":
            line = _without_upgrade(value)  # noqa: PLW2901
        elif name == b"content-length":
            lengths.append(value)
        elif name == b"transfer-encoding":
            encodings.append(value.lower())
        kept.append(line)
    return Head(b"\r\n".join(kept) + b"\r\n\r\n", target, _body(lengths, encodings, version))


def malformed_request() -> InvalidParameter:
    return InvalidParameter("request", "it is not a valid HTTP request")


def _parse_request_line(line: bytes) -> tuple[bytes, bytes]:
    """Returns the target and the version."""
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        # The bytes of a target that should have been encoded are the usual reason.
        if line.count(b" ") >= 2 and line.rsplit(b" ", 1)[1] in {b"HTTP/1.0", b"HTTP/1.1"}:
            raise _invalid_target()
        raise malformed_request()
    method, target, version = match.groups()
    if method not in _METHODS:
        raise MethodNotAllowed(_ALLOWED)
    if not target.isascii() or b"#" in target or not (target.startswith(b"/") or b"://" in target):
        raise _invalid_target()
    return target, version


def _invalid_target() -> InvalidParameter:
    return InvalidParameter("request", "the target must be percent-encoded: ASCII, without spaces and '#'")


def _without_upgrade(value: bytes) -> bytes:
    options = [option.strip() for option in value.split(b",")]
    return b"Connection: " + b", ".join(option for option in options if option.lower() not in _UPGRADING)


def _body(lengths: list[bytes], encodings: list[bytes], version: bytes) -> Body | None:
    if encodings:
        if encodings != [b"chunked"] or lengths or version == b"1.0":
            raise malformed_request()
        return Body(is_chunked=True)
    if not lengths:
        return None
    if len(lengths) > 1 or not lengths[0].isdigit() or len(lengths[0]) > 15:
        raise malformed_request()
    length = int(lengths[0])
    return Body(length) if length else None
