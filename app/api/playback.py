"""`/recordings/{id}/play/{uuid}.{ext}`, screen recordings too: the bytes of a media file (CONTRACT.md section 6)."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, Self
from urllib.parse import quote

from msgspec import UNSET
from starlette.endpoints import HTTPEndpoint
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.api.audit import audit_entry, audited
from app.api.requests import authenticated, own_scope, path_segment, query_parameters, repository, services
from app.errors import MediaNotFound, RangeNotSatisfiable, RecallError, StorageFailed, StorageRefused
from app.media.conditions import answers_range, if_range_holds, not_modified, one_range
from app.media.location import Location, NotConfigured, locate
from app.media.storage import MediaStorages, MediaStream
from app.services import Services
from app.settings import User

log = logging.getLogger(__name__)

# What a storage says of a file, and a player wants to know.
_OF_THE_FILE = ("ETag", "Last-Modified", "Accept-Ranges")
_OF_THE_BYTES = ("Content-Length", "Content-Range")


class Playback(HTTPEndpoint):
    """`GET` and `HEAD /recordings/{id}/play/{uuid}.{ext}`"""

    @audited("play")
    async def get(self, request: Request) -> Response:
        user = await authenticated(request, "play")
        with services(request).storages.turns.first():
            return await self._open(request, user)

    async def _open(self, request: Request, user: User) -> Response:
        name = path_segment(request, "name")
        download = any(parameter == "download" for parameter, _ in query_parameters(request))
        recording = (await repository(request).get(own_scope(request, user), path_segment(request, "id"))).recording
        media = _media_file(recording, name)
        audit_entry(request).media_id = media.get("mediaId", UNSET)
        try:
            location = locate(media["mediaDescriptor"], services(request).settings.storage)
        except NotConfigured as error:
            log.warning("media file %s of recording %s is refused: %s", name, recording["id"], error)
            raise StorageRefused from error
        stream = await _open(services(request).storages, request, location, name)
        try:
            unchanged = not_modified(request.headers, stream.headers)
            wanted = _OF_THE_FILE if unchanged else _OF_THE_FILE + _OF_THE_BYTES
            headers = {header: stream.headers[header] for header in wanted if header in stream.headers}
            headers["X-Content-Type-Options"] = "nosniff"
            if not unchanged:
                headers["Content-Type"] = _content_type(media, stream)
            if download:
                headers["Content-Disposition"] = _attachment(media.get("mediaId") or name)
            status = 304 if unchanged else stream.status
            return MediaResponse(stream, status, headers, services(request))
        except BaseException:  # a storage's header that cannot be passed on, for one
            stream.close()
            raise


class MediaResponse(Response):
    """Passes bytes on as fast as the client takes them, and lets go of the storage as soon as it does not.

    A storage that fails on the way ends the connection, so that the client sees that something is missing.
    """

    def __init__(self, stream: MediaStream, status: int, headers: Mapping[str, str], services: Services) -> None:
        super().__init__(None, status, headers)
        if status != 304 and "content-length" not in stream.headers:
            del self.headers["content-length"]
        self._stream = stream
        self._storages = services.storages
        self._storage_seconds = services.settings.storage_stall_seconds
        self._player_seconds = services.settings.player_stall_seconds

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
        async with StepLimit() as limit:
            limit.step(self._storage_seconds)
            piece = await self._stream.read()
            while piece:
                limit.step(self._player_seconds)
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                limit.step(self._storage_seconds)
                piece = await self._stream.read()
                # Not after the last piece: the player may have asked for its next file already.
                if piece:
                    await self._storages.turns.next()

    async def _close_when_client_leaves(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._stream.close()


class StepLimit:
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


def _media_file(recording: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    for media in recording["mediaFiles"]:
        if media["mediaPath"].endswith(f"/{name}"):
            found: Mapping[str, Any] = media
            return found
    raise MediaNotFound(name)


async def _open(storages: MediaStorages, request: Request, location: Location, name: str) -> MediaStream:
    """The storage's answer 200, or 206 to the client's range; raises what the client gets instead.

    Conditions are decided here, from the validators that come with the bytes: not every storage knows them all.
    """
    wanted = one_range(request.headers.get("range")) if request.method == "GET" else None
    stream = await storages.open(request.method, location, {"Range": wanted} if wanted else {})
    try:
        if stream.status == 416 and wanted:
            stream.close()
            # The storage need not say here how long the file is, and which.
            stream = await storages.open("HEAD", location, {})
            if stream.status == 200 and if_range_holds(request.headers, stream.headers):
                raise RangeNotSatisfiable(stream.headers.get("Content-Length"))
            stream.close()
            stream, wanted = await storages.open("GET", location, {}), None
        elif stream.status == 206 and not if_range_holds(request.headers, stream.headers):
            stream.close()
            stream, wanted = await storages.open("GET", location, {}), None
        if stream.status in {404, 410}:
            raise MediaNotFound(name)
        is_range = stream.status == 206 and wanted and answers_range(stream.headers.get("Content-Range"), wanted)
        if stream.status != 200 and not is_range:
            log.warning("the media storage answered %d for %s", stream.status, name)
            raise StorageFailed
    except BaseException:
        stream.close()
        raise
    return stream


def _content_type(media: Mapping[str, Any], stream: MediaStream) -> str:
    """The media file's `type`, if it can stand in a header, else the storage's."""
    media_type = media.get("type")
    if media_type and media_type.isascii() and media_type.isprintable():
        return str(media_type)
    return stream.headers.get("Content-Type", "application/octet-stream")


def _attachment(file_name: str) -> str:
    """RFC 6266; old clients read the first name, in which what is special to them is replaced."""
    plain = "".join(c if c.isascii() and c.isprintable() and c not in '"\\/%' else "_" for c in file_name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(file_name, safe='')}"
