"""A response that passes a media stream on to a client."""

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.errors import MediaStorageFailed, MediaStorageTimeout
from app.media.stream import MediaStream

log = logging.getLogger(__name__)


class MediaResponse(Response):
    """Passes bytes on as fast as the client takes them, and frees the storage as soon as the client does not.

    A storage that fails on the way ends the connection, so that the client sees that something is missing.
    """

    def __init__(
        self, stream: MediaStream, status: int, headers: Mapping[str, str], player_stall_seconds: float
    ) -> None:
        super().__init__(None, status, headers)
        if status != 304 and "content-length" not in stream.headers:
            del self.headers["content-length"]
        self.player_stalled = False
        self._stream = stream
        self._player_seconds = player_stall_seconds

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
            log.info("a media stream ends: its player has taken nothing for %g seconds", self._player_seconds)
        finally:
            watch.cancel()
            self._stream.close()

    async def _send_body(self, send: Send) -> None:
        while chunk := await self._stream.read():
            async with asyncio.timeout(self._player_seconds):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def _close_when_client_leaves(self, receive: Receive) -> None:
        await _client_leaves(receive)
        self._stream.close()


async def unless_client_leaves(receive: Receive, opening: Coroutine[Any, Any, MediaStream]) -> MediaStream:
    """Opens a stream, and stops doing so when the client leaves; then raises ClientDisconnect."""
    task, leaves = asyncio.create_task(opening), asyncio.create_task(_client_leaves(receive))
    try:
        await asyncio.wait((task, leaves), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
    except BaseException:
        task.cancel()
        task.add_done_callback(_close_opened)
        raise
    finally:
        leaves.cancel()
    return task.result()


def _close_opened(task: asyncio.Task[MediaStream]) -> None:
    """Closes a stream that was opened in the moment in which its task was cancelled."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()


async def _client_leaves(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
