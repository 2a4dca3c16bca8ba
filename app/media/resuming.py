"""A body that goes on when its connection breaks off."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from app.errors import MediaStorageBusy, MediaStorageFailed, MediaStorageTimeout
from app.media.conditions import bounds_of, is_strong
from app.media.stream import MediaStream, codings_of

log = logging.getLogger(__name__)

# The pauses before each request for the rest of one body, in seconds.
_PAUSES = (0.0, 0.1, 0.5, 2.0)

# Opens the object again, with the given headers.
Reopen = Callable[[Mapping[str, str]], Awaitable[MediaStream]]


class ResumingStream:
    """The bytes `first` and following of an object of `total` bytes, which the strong validator `etag` identifies.

    When the body breaks off, the rest is requested with `If-Range`. Only exactly the rest of the same object is taken;
    otherwise, or after a few times, the read fails as if there were no second request.
    """

    def __init__(self, stream: MediaStream, reopen: Reopen, first: int, length: int, total: int, etag: str) -> None:  # noqa: PLR0917
        self.status = stream.status
        self.headers = stream.headers
        self.length: int | None = length
        self._stream = stream
        self._reopen = reopen
        self._next = first
        self._end = first + length
        self._total = total
        self._etag = etag
        self._pauses = iter(_PAUSES)
        self._is_closed = False
        self._resuming: asyncio.Task[Any] | None = None

    async def read(self) -> bytes:
        """As `MediaStream.read`."""
        while True:
            try:
                chunk = await self._stream.read()
            except MediaStorageFailed as error:
                await self._resume(error)
            else:
                self._next += len(chunk)
                return chunk

    def close(self) -> None:
        """As `MediaStream.close`."""
        self._is_closed = True
        self._stream.close()
        if self._resuming is not None:
            self._resuming.cancel()

    async def _resume(self, failure: MediaStorageFailed) -> None:
        """Replaces the stream by one of the rest, or raises the failure."""
        self._resuming = task = asyncio.current_task()
        assert task is not None
        try:
            await self._replace_stream(failure)
        except asyncio.CancelledError:
            if not self._is_closed or task.uncancel():
                raise
            raise failure from None  # `close` has cancelled it
        finally:
            self._resuming = None

    async def _replace_stream(self, failure: MediaStorageFailed) -> None:
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
        return (
            stream.status in {200, 206}  # with this Content-Range and length they say the same
            and stream.headers.get("Content-Range") == f"bytes {self._next}-{self._end - 1}/{self._total}"
            and stream.headers.get("ETag") == self._etag
            and stream.length == self._end - self._next
            and not _is_encoded(stream)
        )


def _is_encoded(stream: MediaStream) -> bool:
    try:
        return bool(codings_of(stream))
    except ValueError:
        return True


def resuming(stream: MediaStream, reopen: Reopen) -> MediaStream:
    """The stream of an accepted answer to GET, made to resume if the answer allows that."""
    etag, length = stream.headers.get("ETag"), stream.length
    if not etag or not is_strong(etag) or not length or _is_encoded(stream):
        return stream
    first, total = 0, length
    if stream.status == 206:
        bounds = bounds_of(stream.headers.get("Content-Range"))
        if bounds is None:
            return stream
        first, total = bounds
    return ResumingStream(stream, reopen, first, length, total, etag)
