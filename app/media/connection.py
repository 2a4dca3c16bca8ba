"""One connection to a media storage: bytes over TCP or TLS, whose every end is known.

TLS is done here, over memory buffers, and not by the event loop. The loops' own TLS (asyncio's and uvloop's) drops what
it has received when a storage closes behind its answer, waits up to 30 s for a storage that still sends when it closes
itself, and does not tell a clean end from a cut connection. See docs/decisions/0017-storage-connections.md.
"""

import asyncio
import select
import socket
import ssl
from collections import deque
from collections.abc import Callable
from typing import cast

import aiohappyeyeballs

# The size of a TLS record, which is what OpenSSL decrypts in one step.
_RECORD = 16 * 1024

# The pause before a second address of a host is tried beside the first one (RFC 8305), in seconds.
_HAPPY_EYEBALLS_DELAY = 0.25


class ConnectionBroken(Exception):
    """The connection cannot be used any more; the text says why, in words for the log."""


class Connection(asyncio.Protocol):
    """A connection that reads from the network only while somebody waits for bytes, or while it is idle."""

    _transport: asyncio.Transport

    def __init__(self, tls: ssl.SSLContext | None, host: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._received: deque[bytes] = deque()
        self._waiting: asyncio.Future[None] | None = None
        self._paused = False
        self._idle = False
        self._end: Exception | None = None  # why, if not cleanly
        self._ended_cleanly = False
        self._lost = False
        self._when_lost: list[Callable[[], None]] = []
        self.sent_unasked = b""
        self._tls: ssl.SSLObject | None = None
        if tls is not None:
            self._encrypted_in, self._encrypted_out = ssl.MemoryBIO(), ssl.MemoryBIO()
            self._tls = tls.wrap_bio(self._encrypted_in, self._encrypted_out, server_hostname=host)
        self._is_secured = False

    # --- For its user ---------------------------------------------------------------------------------------

    @property
    def is_reusable(self) -> bool:
        """Whether a request may be sent: the connection stands, and nothing has arrived that is not read."""
        return not self._is_over() and not self._transport.is_closing() and not self._has_arrived()

    def send(self, data: bytes) -> None:
        """Sends a request; the answer tells whether that succeeded."""
        self._idle = False
        if self._is_over():
            return
        if self._tls is None:
            self._transport.write(data)
        else:
            self._tls.write(data)
            self._flush()

    async def receive(self, timeout: float | None = None) -> bytes:  # noqa: ASYNC109  # a timer of its own is cheaper
        """Returns bytes as they arrive, none after a clean end.

        Raises ConnectionBroken when the connection is cut, TimeoutError when nothing arrives within `timeout` seconds.
        """
        if not self._received and not self._is_over():
            await self._wait(timeout)
        if self._received:
            return self._received.popleft()
        if self._end is not None:
            raise self._end
        return b""

    def rest(self) -> None:
        """Waits for the next request. If the storage sends anything meanwhile the connection ends."""
        self._idle = True
        self._resume()

    def abort(self) -> None:
        """Ends the connection immediately, without a word to the storage and without waiting for one."""
        self._fail("the connection has been closed here")
        self._transport.abort()

    def call_when_lost(self, call: Callable[[], None]) -> None:
        """Calls when the connection is gone, immediately if it is."""
        if self._lost:
            call()
        else:
            self._when_lost.append(call)

    async def shake_hands(self) -> None:
        """Returns when TLS has begun, if the connection has it. Raises ssl.SSLError or ConnectionBroken."""
        while self._tls is not None and not self._is_secured:
            if self._end is not None:
                raise self._end
            await self._wait(None)

    # --- For the event loop ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is not of that class
        if self._tls is not None:
            self._proceed_with_handshake(self._tls)

    def data_received(self, data: bytes) -> None:
        if self._tls is None:
            self._deliver(data)
            return
        self._encrypted_in.write(data)
        if not self._is_secured:
            self._proceed_with_handshake(self._tls)
        if self._is_secured:
            self._decrypt(self._tls)

    def eof_received(self) -> None:
        if self._tls is None:
            self._ended_cleanly = True
        else:
            self._fail("it ended the connection without TLS's close_notify")
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        self._lost = True
        self._fail(f"it ended the connection{f': {error}' if error else ''}")
        self._wake()
        for call in self._when_lost:
            call()

    # --- Inside ---------------------------------------------------------------------------------------------

    def _proceed_with_handshake(self, tls: ssl.SSLObject) -> None:
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self._end = self._end or error
            self._wake()
        else:
            self._is_secured = True
            self._wake()
        self._flush()

    def _decrypt(self, tls: ssl.SSLObject) -> None:
        records = []
        try:
            while record := tls.read(_RECORD):
                records.append(record)
            self._ended_cleanly = True  # by close_notify
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self._fail(f"TLS failed: {error.reason}")
        self._flush()  # what TLS itself has to answer
        if records:
            self._deliver(b"".join(records))
        if self._is_over():
            # What a storage sends behind the end would only pile up here.
            self._transport.abort()
            self._wake()

    def _flush(self) -> None:
        if (data := self._encrypted_out.read()) and not self._transport.is_closing():
            self._transport.write(data)

    async def _wait(self, timeout: float | None) -> None:  # noqa: ASYNC109
        """Reads from the network until something has happened. Raises TimeoutError."""
        self._waiting = self._loop.create_future()
        timer = self._loop.call_later(timeout, self._time_out, self._waiting) if timeout is not None else None
        self._resume()
        try:
            await self._waiting
        finally:
            self._waiting = None
            if timer is not None:
                timer.cancel()

    def _deliver(self, data: bytes) -> None:
        if self._idle:
            self.sent_unasked = data
            self.abort()
            return
        self._received.append(data)
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)
        elif not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._paused and not self._lost:
            self._paused = False
            self._transport.resume_reading()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)
        if self._idle:
            self._transport.abort()

    def _time_out(self, waiting: asyncio.Future[None]) -> None:
        if not waiting.done():
            waiting.set_exception(TimeoutError())

    def _fail(self, why: str) -> None:
        """The first reason counts, and none after a clean end."""
        if self._end is None and not self._ended_cleanly:
            self._end = ConnectionBroken(why)

    def _is_over(self) -> bool:
        return self._ended_cleanly or self._end is not None

    def _has_arrived(self) -> bool:
        """Whether there are bytes, also such that the event loop has not seen yet."""
        if self._received or self._encrypted_in_pending():
            return True
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def _encrypted_in_pending(self) -> bool:
        return self._tls is not None and self._encrypted_in.pending > 0


async def connect(host: str, port: int, tls: ssl.SSLContext | None) -> Connection:
    """A new connection. Raises OSError, ssl.SSLError or ConnectionBroken."""
    loop = asyncio.get_running_loop()
    addresses = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    stream_socket = await aiohappyeyeballs.start_connection(addresses, happy_eyeballs_delay=_HAPPY_EYEBALLS_DELAY)
    try:
        _, connection = await loop.create_connection(lambda: Connection(tls, host), sock=stream_socket)
    except BaseException:
        stream_socket.close()
        raise
    try:
        await connection.shake_hands()
    except BaseException:
        connection.abort()
        raise
    return connection
