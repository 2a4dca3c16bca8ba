"""A client's connection: one request at a time, within bounds, with refusals in the envelope.

docs/contract.md section 1 says what clients see.

uvicorn's protocol parses with httptools and runs the application. The class here stands before the parser and decides
where each request begins and ends, because the parser alone
- takes the body of a request with an `Upgrade` header for the next request (Java's client sends `Upgrade: h2c`),
- queues any number of pipelined requests and answers,
- has no bounds on heads and times, and refuses in plain text.
"""

import asyncio
import logging
import socket
import struct
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import httptools
from prometheus_client import CollectorRegistry, Counter, Gauge
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from app import codec
from app.errors import (
    ConnectionsExhausted,
    RecallError,
    RequestHeadTooLarge,
    RequestTimeout,
)
from app.server.framing import Body, malformed_request, parse_head

log = logging.getLogger(__name__)

# Between two reads of a body that nobody wants: its sender must not keep the event loop busy.
_UNWANTED_PAUSE_SECONDS = 0.01
# How long, and how much, a refused client may go on sending before the connection ends.
_LINGER_SECONDS = 1.0
_MAX_DISCARDED = 1024 * 1024


@dataclass
class Limits:
    """The bounds of one connection and of all of them together. Sizes are in bytes, times in seconds."""

    connections: int = 1_000
    # Beyond `connections`, for /health, so that a probe can tell a busy process from a dead one.
    reserved_connections: int = 50
    head_bytes: int = 64 * 1024
    headers: int = 100
    head_seconds: float = 10.0
    body_stall_seconds: float = 30.0
    write_stall_seconds: float = 60.0
    # How much of a body that is no longer wanted is read, so that its sender gets to read the answer.
    unwanted_body_bytes: int = 40 * 1024 * 1024


@dataclass
class ConnectionPool:
    """What the connections of a process share: the limits, the idle ones (the longest idle first) and the counters."""

    limits: Limits = field(default_factory=Limits)
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    idle: "OrderedDict[Protocol, None]" = field(default_factory=OrderedDict)

    def __post_init__(self) -> None:
        self.open = Gauge(
            "recall_connections",
            "Connections of clients that are open.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.refused = Counter(
            "recall_connections_refused",
            "Connections and requests that were refused or cut before they reached the application, by reason.",
            ["reason"],
            registry=self.registry,
        )
        self._is_full = False

    def make_room(self, newest: "Protocol", count: int) -> None:
        """Closes the connection that has been idle longest when `count` connections are too many."""
        if count <= self.limits.connections:
            self._is_full = False
            return
        if not self._is_full:
            self._is_full = True
            log.warning("%d connections are open, which is the limit: idle ones are closed", self.limits.connections)
        if self.idle:
            connection, _ = self.idle.popitem(last=False)
            connection.cut("idle")
        elif count > self.limits.connections + self.limits.reserved_connections:
            newest.cut("connections")


class Cycle(RequestResponseCycle):
    """A request and its response; an HTTP/1.0 client gets a body without chunks, which ends with the connection."""

    _is_unframed = False

    async def run_asgi(self, app: Any) -> None:
        await super().run_asgi(app)
        # A clean end of the connection would say that such a body is complete.
        if self._is_unframed and not self.response_complete and not self.disconnected:
            client = self.transport.get_extra_info("socket")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            # The connection keeps them until its next request, and nothing asks for credentials any more.
            headers: Any = self.scope["headers"]
            headers[:] = [header for header in headers if header[0] not in {b"authorization", b"cookie"}]
        if self.scope["http_version"] == "1.0":
            self._unframe(message)
        await super().send(message)

    def _unframe(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            if not any(name.lower() == b"content-length" for name, _ in message.get("headers", ())):
                self._is_unframed = True
                self.chunked_encoding = False
        elif self._is_unframed:
            self.expected_content_length += len(message.get("body", b""))


class _Flow(FlowControl):
    """Lets nothing more arrive while much of what has arrived waits, whoever asks for more.

    A client that pipelines sends far more in one read than one request takes.
    """

    def __init__(self, transport: asyncio.Transport, unread: bytearray, most: int) -> None:
        super().__init__(transport)
        self._unread = unread
        self._most = most

    def resume_reading(self) -> None:
        if len(self._unread) <= self._most:
            super().resume_reading()


class Protocol(HttpToolsProtocol):
    """One connection.

    `_unread` holds the bytes that have arrived and that the parser has not got: one incomplete head at most, or the
    rest of one or two reads. The next request is parsed when the response before it is complete and written.
    """

    cycle: Cycle | None  # type: ignore[assignment]

    def __init__(self, pool: ConnectionPool, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._pool = pool
        self._limits = pool.limits
        self._unread = bytearray()
        self._body: Body | None = None
        self._unwanted = 0
        self._discarded = 0
        self._timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._has_begun = False
        self._is_feeding = False
        self._is_closing = False

    # --- the connection ---

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = _Flow(transport, self._unread, self._limits.head_bytes)
        self._pool.open.inc()
        self._pool.make_room(self, len(self.connections))
        if not self._is_closing:
            self._become_idle(self._limits.head_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self._pool.open.dec()
        self._pool.idle.pop(self, None)
        self._stop_timer()
        self._stop_write_timer()
        self._unread.clear()
        self._is_closing = True
        super().connection_lost(exc)

    def cut(self, reason: str) -> None:
        """Ends the connection without an answer."""
        self._pool.refused.labels(reason).inc()
        self._is_closing = True
        self.connections.discard(self)  # now: its end is reported later, and it is in nobody's way any more
        self.transport.abort()

    # --- what arrives ---

    def data_received(self, data: bytes) -> None:
        if self._is_closing:
            # Read for a while, so that the client gets to read why it is refused.
            self._discarded += len(data)
            if self._discarded > _MAX_DISCARDED:
                self.transport.abort()
            return
        self._unread += data
        self._advance()

    def _advance(self) -> None:
        """Gives the parser the rest of a body, and the next head once the client has the answer before it."""
        while self._unread and not self._is_closing:
            if self._body is not None:
                if not self._feed_body(self._body):
                    break
            elif not self._is_free():
                # A pipelined request: it waits, and so does its sender.
                self.flow.pause_reading()
                return
            elif not self._feed_head():
                break
        if not self._is_closing:
            self._watch()

    def _is_free(self) -> bool:
        """Whether the response before is complete and not stuck on its way."""
        return not self._has_request() and not self.flow.write_paused

    def _has_request(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _feed_head(self) -> bool:
        """Parses the next head; False when it is not complete yet."""
        unread = self._unread
        while unread.startswith(b"\r\n"):  # RFC 9112 section 2.2
            del unread[:2]
        end = unread.find(b"\r\n\r\n")
        if end < 0 and len(unread) <= self._limits.head_bytes:
            return False
        if not 0 <= end <= self._limits.head_bytes:
            self._refuse(RequestHeadTooLarge(self._limits.head_bytes), "head")
            return False
        try:
            head = parse_head(bytes(unread[:end]), self._limits.headers)
        except RecallError as error:
            self._refuse(error, "malformed")
            return False
        del unread[: end + 4]
        self._pool.idle.pop(self, None)
        self._stop_timer()
        self._has_begun = False
        self._unwanted = 0
        # Those that are idle make room for new ones, and are no reason to refuse a request.
        busy = len(self.connections) - len(self._pool.idle)
        if busy > self._limits.connections and not head.target.startswith(b"/health/"):
            self._refuse(ConnectionsExhausted(), "connections")
            return False
        self._body = head.body
        self._is_feeding = True
        self._feed(head.data)
        self._is_feeding = False
        return True

    def _feed_body(self, body: Body) -> bool:
        """Gives the parser the bytes that belong to the body; False when there were none."""
        try:
            length = body.take(self._unread)
        except RecallError as error:
            self._refuse(error, "malformed")
            return False
        if not length:
            return False
        data = bytes(self._unread[:length])
        del self._unread[:length]
        if body.is_complete:
            self._body = None
            self._stop_timer()
        if self.cycle is not None and self.cycle.response_complete:
            self._unwanted += length
            if self._unwanted > self._limits.unwanted_body_bytes:
                self.cut("unwanted body")
                return False
            if self._body is not None:
                self.flow.pause_reading()
                self.loop.call_later(_UNWANTED_PAUSE_SECONDS, self._continue)
        self._feed(data)
        if self._body is None and not self._is_closing and not self._has_request():
            self._become_idle(self.timeout_keep_alive)
        return True

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade, ValueError):
            self._refuse(malformed_request(), "malformed")

    # --- the parser's callbacks ---

    def on_message_begin(self) -> None:
        if not self._is_feeding:
            # The parser sees a request where we see a body. It never should; whatever the reason, nothing follows.
            raise ValueError
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_feeding:  # what comes after a body are trailers, which no proxy has checked
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        scope = self.scope
        scope["method"] = self.parser.get_method().decode("ascii")
        version = self.parser.get_http_version()
        scope["http_version"] = version
        url = httptools.parse_url(self.url)
        if url.path is None:
            raise ValueError
        scope["raw_path"] = url.path
        # The application routes by `raw_path` and decodes its own segments.
        scope["path"] = url.path.decode("ascii")
        scope["query_string"] = url.query or b""
        self.cycle = Cycle(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        self._start_asgi_task(self.cycle, self.app)

    def on_body(self, body: bytes) -> None:
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            return
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.more_body = False
            cycle.message_event.set()

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            self._watch_what_is_left()
            return
        self.flow.resume_reading()
        if self._body is None and not self._unread:
            self._become_idle(self.timeout_keep_alive)
            return
        if self._body is not None:
            self._set_timer(self._limits.body_stall_seconds, self._end_unwanted)
        # Not from within the application's `send`.
        self.loop.call_soon(self._continue)

    def _continue(self) -> None:
        if not self._is_closing and not self.transport.is_closing():
            self._advance()
            self.flow.resume_reading()

    # --- times ---

    def _become_idle(self, seconds: float) -> None:
        self._pool.idle[self] = None
        self._set_timer(seconds, self._end_idle)

    def _end_idle(self) -> None:
        self._is_closing = True
        self.transport.close()

    def _watch(self) -> None:
        """Bounds the time that an incomplete head or body may take."""
        if self._body is not None:
            if self._has_request():
                self._set_timer(self._limits.body_stall_seconds, self._end_stalled)
        elif self._unread and not self._has_begun:
            # The time of a head runs from its first bytes, however slowly the others come.
            self._has_begun = True
            self._set_timer(self._limits.head_seconds, self._end_slow_head)
        elif not self._unread and not self._has_request() and self not in self._pool.idle:
            # What came was ends of lines, which are no request.
            self._become_idle(self.timeout_keep_alive)

    def _end_slow_head(self) -> None:
        self._refuse(RequestTimeout(), "slow request")

    def _end_stalled(self) -> None:
        assert self.cycle is not None
        if self.flow.read_paused or self.cycle.waiting_for_100_continue:  # the client waits for the application
            self._set_timer(self._limits.body_stall_seconds, self._end_stalled)
        else:
            self._refuse(RequestTimeout(), "slow request")

    def _end_unwanted(self) -> None:
        self.cut("unwanted body")

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_writing()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_write_timer()
        if self._unread:
            self.loop.call_soon(self._continue)

    def _watch_what_is_left(self) -> None:
        """Bounds the time in which a client takes what it has not read of a connection that is being closed."""
        if self._write_timer is None and self.transport.get_write_buffer_size():
            self._watch_writing()

    def _watch_writing(self) -> None:
        left = self.transport.get_write_buffer_size()
        self._write_timer = self.loop.call_later(self._limits.write_stall_seconds, self._look_at_writing, left)

    def _look_at_writing(self, left: int) -> None:
        if self.transport.get_write_buffer_size() < left:
            self._watch_writing()
        else:
            self.cut("slow reader")

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _set_timer(self, seconds: float, action: Any) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, action)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- refusals ---

    def _refuse(self, error: RecallError, reason: str) -> None:
        """Answers instead of the application, and closes the connection.

        A response that the application has begun cannot be taken back: then the connection is cut.
        """
        if self._is_closing:
            return
        self._pool.refused.labels(reason).inc()
        self._is_closing = True
        self._stop_timer()
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
            if cycle.response_started:
                self.transport.abort()
                return
        self._pool.idle.pop(self, None)
        self.transport.write(_answer(error))
        # Closed immediately, a client that is still sending would get a reset instead of the answer.
        self.transport.write_eof()
        self._watch_what_is_left()
        self._set_timer(_LINGER_SECONDS, self.transport.close)


def _answer(error: RecallError) -> bytes:
    content = codec.encode({"statusCode": error.code, "statusMessage": error.message})
    headers = {
        "content-type": "application/json",
        "content-length": str(len(content)),
        "cache-control": "no-store",
        "connection": "close",
        **(error.headers or {}),
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return STATUS_LINE[error.http_status] + lines.encode("latin-1") + b"\r\n" + content
