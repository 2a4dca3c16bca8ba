"""A response that passes a media stream on to a client."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, Self

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.errors import RecallError
from app.media.scheduling import PlaybackScheduler
from app.media.stream import MediaStream
from app.settings import Settings

log = logging.getLogger(__name__)


class MediaResponse(Response):
    """Passes bytes on as fast as the client takes them, and lets go of the storage as soon as it does not.

    A storage that fails on the way ends the connection, so that the client sees that something is missing.
    """

    def __init__(
        self,
        stream: MediaStream,
        status: int,
        headers: Mapping[str, str],
        settings: Settings,
        scheduler: PlaybackScheduler,
    ) -> None:
        super().__init__(None, status, headers)
        if status != 304 and "content-length" not in stream.headers:
            del self.headers["content-length"]
        self._stream = stream
        self._scheduler = scheduler
        self._storage_seconds = settings.storage_stall_seconds
        self._player_seconds = settings.player_stall_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        watch = asyncio.create_task(self._close_when_client_leaves(receive))
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            if scope["method"] != "HEAD" and self.status_code != 304:
                await self._send_body(send)
            await send({"type": "http.response.body"})
        except (RecallError, TimeoutError) as error:
            # Without its last message the response is not whole, and the server closes the connection.
            if not watch.done():
                log.warning("a media stream broke off: %s", error or "nothing moved for too long")
        finally:
            watch.cancel()
            self._stream.close()

    async def _send_body(self, send: Send) -> None:
        async with _StepDeadline() as limit:
            limit.step(self._storage_seconds)
            chunk = await self._stream.read()
            while chunk:
                limit.step(self._player_seconds)
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
                limit.step(self._storage_seconds)
                chunk = await self._stream.read()
                # Not after the last chunk: the player may have asked for its next file already.
                if chunk:
                    await self._scheduler.turn()

    async def _close_when_client_leaves(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._stream.close()


class _StepDeadline:
    """A time limit for each of many steps: `asyncio.timeout` around each would cost more than the step itself."""

    def __init__(self) -> None:
        self._timeout = asyncio.timeout(None)
        self._loop = asyncio.get_running_loop()
        self._end = 0.0
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        """Raises TimeoutError for a step that has taken too long."""
        if self._timer:
            self._timer.cancel()
        await self._timeout.__aexit__(*error)

    def step(self, seconds: float) -> None:
        """Begins the next step. The timer of an earlier one stays, and looks again when it goes off."""
        self._end = self._loop.time() + seconds
        if self._timer is None or self._timer.when() > self._end:
            self._set_timer()

    def _set_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._end, self._look)

    def _look(self) -> None:
        if self._loop.time() < self._end:
            self._set_timer()
        else:
            self._timeout.reschedule(self._end)
