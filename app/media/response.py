"""A response that passes a media stream on to a client."""

import asyncio
import logging
import math
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.errors import MediaStorageFailed, MediaStorageTimeout
from app.media.stream import MediaStream
from app.shares import Place

log = logging.getLogger(__name__)

T = TypeVar("T")

# How long streams count as scarce after one had to wait.
_SCARCITY_SECONDS = 10.0


class MediaResponse(Response):
    """Passes bytes on as fast as the client takes them, and frees the storage as soon as the client does not.

    A storage that fails on the way ends the connection, so that the client sees that something is missing. `place` is
    given back at the end. A player takes nothing for `player_stall_seconds` at most, or `scarce_seconds` while others
    wait for such a place.
    """

    def __init__(
        self,
        stream: MediaStream,
        status: int,
        headers: Mapping[str, str],
        player_stall_seconds: float,
        *,
        scarce_seconds: float = math.inf,
        place: Place | None = None,
    ) -> None:
        super().__init__(None, status, headers)
        if status != 304 and "content-length" not in stream.headers:
            del self.headers["content-length"]
        self.player_stalled = False
        self._stream = stream
        self._place = place
        self._player_seconds = player_stall_seconds
        self._scarce_seconds = min(scarce_seconds, player_stall_seconds)
        self._sending: asyncio.Timeout | None = None
        self._sending_since = self._scarce_until = 0.0
        if place is not None:
            place.on_scarce = self._hurry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_body = scope["method"] != "HEAD" and self.status_code != 304
        if not has_body:
            self._stream.close()
        watch = asyncio.create_task(self._close_when_client_leaves(receive))
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            if has_body:
                await self._send_body(send)
            await send({"type": "http.response.body"})
        # Without its last message the response is not whole, and the server closes the connection.
        except (MediaStorageFailed, MediaStorageTimeout) as error:
            if not watch.done():
                log.warning("a media stream broke off: %s", error.reason or error)
        except TimeoutError:
            self.player_stalled = True
            seconds = asyncio.get_running_loop().time() - self._sending_since
            log.info("a media stream ends: its player has taken nothing for %g seconds", round(seconds, 1))
        finally:
            watch.cancel()
            self._stream.close()
            if self._place is not None:
                self._place.release()

    async def _send_body(self, send: Send) -> None:
        while chunk := await self._stream.read():
            self._sending_since = asyncio.get_running_loop().time()
            is_scarce = self._sending_since < self._scarce_until
            async with asyncio.timeout(self._scarce_seconds if is_scarce else self._player_seconds) as self._sending:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            self._sending = None

    def _hurry(self) -> None:
        """Another stream waits for a place, so a player that takes nothing keeps its own for a shorter time."""
        self._scarce_until = asyncio.get_running_loop().time() + _SCARCITY_SECONDS
        if self._sending is not None and not self._sending.expired():
            self._sending.reschedule(self._sending_since + self._scarce_seconds)

    async def _close_when_client_leaves(self, receive: Receive) -> None:
        await _client_leaves(receive)
        self._stream.close()


async def unless_client_leaves(
    receive: Receive, work: Coroutine[Any, Any, T], discard: Callable[[T], object] = lambda _: None
) -> T:
    """Awaits the work, and ends it when the client leaves; then raises ClientDisconnect.

    `discard` is called with a result that nobody gets, because it came in the moment in which the work was cancelled.
    """
    task, leaves = asyncio.create_task(work), asyncio.create_task(_client_leaves(receive))

    def discard_result(task: "asyncio.Task[T]") -> None:
        if not task.cancelled() and task.exception() is None:
            discard(task.result())

    try:
        await asyncio.wait((task, leaves), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
    except BaseException:
        task.cancel()
        task.add_done_callback(discard_result)
        raise
    finally:
        leaves.cancel()
    return task.result()


async def _client_leaves(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
