"""A body that goes on when its connection breaks off, and one whose end has to be confirmed."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

from app.errors import MediaStorageBusy, MediaStorageFailed, MediaStorageTimeout
from app.media.conditions import bounds_of, is_strong
from app.media.stream import MediaStream, codings_of, header_of

log = logging.getLogger(__name__)

# The pauses before each request for the rest of one body, in seconds.
_PAUSES = (0.0, 0.1, 0.5, 2.0)

# Opens the object again, with the given headers.
Reopen = Callable[[Mapping[str, str]], Awaitable[MediaStream]]


class _Reopening:
    """A stream that may ask its storage again while it is read. To close it ends such a request, too."""

    def __init__(self, stream: MediaStream, reopen: Reopen, length: int | None) -> None:
        self.status = stream.status
        self.headers = stream.headers
        self.length = length
        self._stream = stream
        self._reopen = reopen
        self._is_closed = False
        self._asking: asyncio.Task[Any] | None = None

    def close(self) -> None:
        """As `MediaStream.close`."""
        self._is_closed = True
        self._stream.close()
        if self._asking is not None:
            self._asking.cancel()

    async def _unless_closed(self, work: Coroutine[Any, Any, None], failure: MediaStorageFailed) -> None:
        """Awaits the work; raises the failure when the stream is closed meanwhile."""
        self._asking = task = asyncio.current_task()
        assert task is not None
        try:
            await work
        except asyncio.CancelledError:
            if not self._is_closed or task.uncancel():
                raise
            raise failure from None  # `close` has cancelled it
        finally:
            self._asking = None


class ResumingStream(_Reopening):
    """The bytes `first` and following of an object of `total` bytes, which the strong validator `etag` identifies.

    When the body breaks off, the rest is requested with `If-Range`. Only exactly the rest of the same object is taken;
    otherwise, or after a few times, the read fails as if there were no second request.
    """

    def __init__(self, stream: MediaStream, reopen: Reopen, first: int, length: int, total: int, etag: str) -> None:  # noqa: PLR0917
        super().__init__(stream, reopen, length)
        self._next = first
        self._end = first + length
        self._total = total
        self._etag = etag
        self._pauses = iter(_PAUSES)

    async def read(self) -> bytes:
        """As `MediaStream.read`."""
        while True:
            try:
                chunk = await self._stream.read()
            except MediaStorageFailed as error:
                await self._unless_closed(self._replace_stream(error), error)
            else:
                self._next += len(chunk)
                return chunk

    async def _replace_stream(self, failure: MediaStorageFailed) -> None:
        """Replaces the stream by one of the rest, or raises the failure."""
        for pause in self._pauses:
            if self._is_closed:
                break
            log.info("a media stream is resumed at byte %d: %s", self._next, failure.reason)
            await asyncio.sleep(pause)
            try:
                stream = await self._reopen({"Range": f"bytes={self._next}-{self._end - 1}", "If-Range": self._etag})
            except (MediaStorageBusy, MediaStorageFailed, MediaStorageTimeout):
                continue
            if self._is_closed or not self._continues(stream):
                stream.close()
                break
            self._stream = stream
            return
        raise failure

    def _continues(self, stream: MediaStream) -> bool:
        changed = {header_of(one.headers, "Last-Modified") for one in (stream, self)} - {None}
        return (
            stream.status in {200, 206}  # with this Content-Range and length they say the same
            and header_of(stream.headers, "Content-Range") == f"bytes {self._next}-{self._end - 1}/{self._total}"
            and header_of(stream.headers, "ETag") == self._etag
            and len(changed) <= 1
            and stream.length == self._end - self._next
            and not _is_encoded(stream)
        )


class ConfirmedStream(_Reopening):
    """A whole body without a length, whose end is that of its connection: a crash of the storage looks alike.

    At the end the storage is asked for more. The body is complete if there is no more, or if the storage cannot tell.
    """

    def __init__(self, stream: MediaStream, reopen: Reopen) -> None:
        super().__init__(stream, reopen, None)
        self._received = 0
        self._is_confirmed = False

    async def read(self) -> bytes:
        """As `MediaStream.read`; raises MediaStorageFailed, too, when the object has more bytes than have arrived."""
        chunk = await self._stream.read()
        self._received += len(chunk)
        if not chunk and not self._is_confirmed:
            await self._unless_closed(self._confirm(), MediaStorageFailed("its client has left"))
            self._is_confirmed = True
        return chunk

    async def _confirm(self) -> None:
        try:
            stream = await self._reopen({"Range": f"bytes={self._received}-"})
        except MediaStorageBusy:
            raise MediaStorageFailed("it is too busy to tell whether a body has ended") from None
        stream.close()
        is_complete = (
            header_of(stream.headers, "Content-Range") in {None, f"bytes */{self._received}"}
            if stream.status == 416
            else stream.status == 200 and stream.length in {None, self._received}  # it does not know ranges
        )
        if not is_complete:
            raise MediaStorageFailed(
                f"it ended the connection after {self._received} bytes, and has not shown that those are all"
            )


def _is_encoded(stream: MediaStream) -> bool:
    try:
        return bool(codings_of(stream))
    except ValueError:
        return True


def resuming(stream: MediaStream, reopen: Reopen, *, ends_with_connection: bool = False) -> MediaStream:
    """The stream of an accepted answer to GET, made to resume if the answer allows that, or to confirm its end."""
    if ends_with_connection:
        return ConfirmedStream(stream, reopen)
    etag, length = header_of(stream.headers, "ETag"), stream.length
    if not etag or not is_strong(etag) or not length or _is_encoded(stream):
        return stream
    first, total = 0, length
    if stream.status == 206:
        bounds = bounds_of(header_of(stream.headers, "Content-Range"))
        if bounds is None:
            return stream
        first, total = bounds
    return ResumingStream(stream, reopen, first, length, total, etag)
