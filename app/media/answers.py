"""Which answer of a storage is accepted for a client's request (docs/contract.md section 6)."""

import logging
from collections.abc import Mapping

from app.errors import MediaNotFound, MediaStorageFailed, RangeNotSatisfiable
from app.media.conditions import content_range_matches, if_range_matches, normalise_range
from app.media.location import Location
from app.media.resuming import resuming
from app.media.storages import MediaStorages
from app.media.stream import MediaStream

log = logging.getLogger(__name__)


async def open_media(
    storages: MediaStorages, method: str, location: Location, headers: Mapping[str, str], name: str
) -> MediaStream:
    """Opens a media object for a request with these `headers`; `name` is for errors.

    The answer has status 200, or 206 with the client's range. Raises the error that the client gets instead.

    Conditions are decided here, from the validators that come with the bytes: not every storage knows them all.
    """
    wanted = normalise_range(headers.get("range")) if method == "GET" else None
    stream = await storages.open(method, location, {"Range": wanted} if wanted else {})
    try:
        if stream.status == 416 and wanted:
            stream.close()
            # The storage need not say here how long the file is, and which.
            stream = await storages.open("HEAD", location, {})
            if stream.status == 200 and if_range_matches(headers, stream.headers):
                raise RangeNotSatisfiable(stream.headers.get("Content-Length"))
            stream.close()
            stream, wanted = await storages.open("GET", location, {}), None
        elif stream.status == 206 and not if_range_matches(headers, stream.headers):
            stream.close()
            stream, wanted = await storages.open("GET", location, {}), None
        if stream.status in {404, 410}:
            raise MediaNotFound(name)
        is_range = (
            stream.status == 206 and wanted and content_range_matches(stream.headers.get("Content-Range"), wanted)
        )
        if stream.status != 200 and not is_range:
            log.warning("the media storage answered %d for %s", stream.status, name)
            raise MediaStorageFailed
    except BaseException:
        stream.close()
        raise
    return resuming(stream, lambda more: storages.open("GET", location, more)) if method == "GET" else stream
