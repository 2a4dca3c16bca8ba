"""Media objects on WebDAV servers."""

import logging
import re
from base64 import b64encode
from collections.abc import Mapping

from app.errors import MediaStorageFailed
from app.media.http import Address, HttpPool
from app.media.location import WebDavLocation
from app.media.stream import MediaStream
from app.settings import WebDavConfig

log = logging.getLogger(__name__)

_GONE = frozenset({404, 410})
_RESOURCE_TYPE = b'<?xml version="1.0"?><propfind xmlns="DAV:"><prop><resourcetype/></prop></propfind>'
# The element, under whatever prefix: text and attributes have their "<" escaped.
_COLLECTION = re.compile(rb"<(?:[\w.-]+:)?collection[\s/>]")


class WebDavStorage:
    """A WebDAV server, with credentials of its own."""

    def __init__(self, config: WebDavConfig, http: HttpPool) -> None:
        self._http = http
        self._name = config.base_url
        self._headers: dict[str, str] = {}
        if config.username is not None:
            credentials = b64encode(f"{config.username}:{config.password or ''}".encode()).decode()
            self._headers["Authorization"] = f"Basic {credentials}"

    async def open(self, method: str, location: WebDavLocation, headers: Mapping[str, str]) -> MediaStream:
        stream = await self._http.open(method, _address(location), {**headers, **self._headers})
        if stream.status == 401:
            _log_unauthorized(self._name, stream)
        return stream

    async def delete(self, location: WebDavLocation) -> None:
        # A folder would be deleted with all that is in it, also without a slash at the end of its URL.
        status, properties = await self._http.request(
            "PROPFIND",
            _address(location),
            {**self._headers, "Depth": "0", "Content-Type": "application/xml"},
            _RESOURCE_TYPE,
        )
        if status in _GONE:
            return
        # A server that does not know the method has no folders either.
        if status not in {207, 405, 501} or _COLLECTION.search(properties):
            log.warning("a media object is not deleted: PROPFIND was answered %d, or it is a folder", status)
            raise MediaStorageFailed
        status, _ = await self._http.request("DELETE", _address(location), self._headers)
        if status not in {200, 202, 204, *_GONE}:
            log.warning("the media storage answered DELETE with %d", status)
            raise MediaStorageFailed


def _address(location: WebDavLocation) -> Address:
    async def url() -> str:
        return location.url

    return url


def _log_unauthorized(name: str, stream: MediaStream) -> None:
    scheme = stream.headers.get("WWW-Authenticate", "").partition(" ")[0]
    if scheme.lower() in {"basic", ""}:
        log.warning("media storage %s: it refuses the username and password; check those of its entry", name)
    else:
        log.warning("media storage %s: it asks for %s authentication; let it accept Basic, over TLS", name, scheme)
