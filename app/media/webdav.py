"""Media objects on WebDAV servers."""

import logging
from base64 import b64encode
from collections.abc import Mapping

from app.errors import MediaStorageFailed, OtherMediaObject
from app.media.http import Address, Answer, HttpPool
from app.media.location import WebDavLocation, parse_base
from app.media.markup import MalformedXml
from app.media.missing import Sightings
from app.media.proof import (
    GONE,
    ProvenFile,
    Unproven,
    decoded_twice,
    file_of_get,
    file_of_propfind,
    names_another,
    shows_folder,
    shows_no_file,
    statuses_of_multistatus,
    told,
)
from app.media.stream import MediaStream, Removal
from app.media_urls import parse_url
from app.settings import WebDavConfig

log = logging.getLogger(__name__)

_PROPERTIES = b'<?xml version="1.0"?><propfind xmlns="DAV:"><prop><resourcetype/><getetag/></prop></propfind>'
_FIRST_BYTE = {"Range": "bytes=0-0"}


class WebDavStorage:
    """A WebDAV server, with credentials of its own."""

    def __init__(self, config: WebDavConfig, http: HttpPool, sightings: Sightings) -> None:
        self._http = http
        self._config = config
        self._sightings = sightings
        self._name = config.base_url
        self._presence_url = config.presence_url
        self._headers: dict[str, str] = {}
        if config.username is not None:
            credentials = b64encode(f"{config.username}:{config.password or ''}".encode()).decode()
            self._headers["Authorization"] = f"Basic {credentials}"

    async def open(self, method: str, location: WebDavLocation, headers: Mapping[str, str]) -> MediaStream:
        stream = await self._http.open(method, _address(location.url), {**headers, **self._headers})
        if stream.status == 401:
            _log_unauthorized(self._name, stream)
        # A refusal may be a page of its own name.
        if stream.status < 300 and names_another(stream.headers, location):
            stream.close()
            raise OtherMediaObject("it answers with an object of another name (Apache: turn MultiViews off)")
        if stream.status in {200, 206} and ("ETag" in stream.headers or "Last-Modified" in stream.headers):
            self._sightings.add(self._config)
        return stream

    async def delete(self, location: WebDavLocation) -> Removal:
        """Deletes a file once the storage has shown that the URL stands for exactly this file."""
        try:
            file = await self._prove(location)
            if file is None:
                return await self._believe_missing()
            answer = await self._delete(location, file)
            if answer.status == 412:  # it has changed meanwhile, or is another file now
                file = await self._prove(location)
                if file is None:
                    return await self._believe_missing()
                answer = await self._delete(location, file)
            return await self._check_deleted(location, answer)
        except Unproven as error:
            log.warning("media storage %s: an object is not deleted: %s", self._name, error)
            raise MediaStorageFailed(str(error)) from None

    async def is_gone(self, location: WebDavLocation) -> bool:
        try:
            return await self._prove(location) is None and await self._believe_missing() == "missing"
        except Unproven as error:
            log.warning("media storage %s: it does not show whether it has an object: %s", self._name, error)
            raise MediaStorageFailed(str(error)) from None

    async def has_folder(self, location: WebDavLocation) -> bool:
        """Returns whether the storage shows the folder of an object, below the base URL: that may be a mount point."""
        parent = WebDavLocation(location.storage, location.url.rpartition("/")[0])
        _, base = parse_base(self._config.base_url)
        _, segments = parse_url(parent.url)
        if len(segments) <= len(base):
            return False
        answer = await self._propfind(f"{parent.url}/")
        return answer.status == 207 and shows_folder(answer, parent)

    async def _prove(self, location: WebDavLocation) -> ProvenFile | None:
        """Returns the file, None if there is none. Raises Unproven."""
        file = await self._find(location)
        if file is not None:
            self._sightings.add(self._config)
        return file

    async def _find(self, location: WebDavLocation) -> ProvenFile | None:
        answer = await self._propfind(location.url)
        file = file_of_propfind(answer, location) if answer.status == 207 else None
        if file is not None:
            return file
        # A server without PROPFIND, behind a proxy that forbids it, or without this object: the object itself tells.
        answer = await self._get(location.url)
        if answer.status in GONE:
            return None
        other = decoded_twice(location)
        twice_decoded = await self._get(other) if other is not None else None
        return file_of_get(answer, await self._get(f"{location.url}/"), location, twice_decoded)

    async def _delete(self, location: WebDavLocation, file: ProvenFile) -> Answer:
        # In case the name stands for a folder by now: most servers refuse to delete one with a depth of 0.
        condition = {"If-Match": file.etag} if file.etag else {}
        return await self._request("DELETE", location.url, {"Depth": "0", **condition})

    async def _check_deleted(self, location: WebDavLocation, answer: Answer) -> Removal:
        """Raises Unproven unless the storage has said that it has deleted the file, and does not have it any more."""
        is_said = answer.status in {200, 204} or (answer.status == 207 and _succeeds(answer.body))
        if not is_said and answer.status not in {202, 207, *GONE}:
            raise Unproven(f"it answers DELETE with {told(answer.status)}")
        left = await self._get(location.url)
        if left.status in {200, 206, 416} and not await self._has_another(location, left):
            raise Unproven(f"it answers DELETE with {answer.status}, but still has the object")
        # A storage may refuse to tell (403, 405), and is then taken at its word.
        has_failed = left.status >= 500 and left.status != 501
        if left.status not in GONE and (has_failed or not (is_said or answer.status in GONE)):
            raise Unproven(f"it answers DELETE with {answer.status}, and has not shown that the object is gone")
        if is_said:
            return "deleted"
        missing = await self._believe_missing()
        return missing if answer.status in GONE else "deleted"

    async def _has_another(self, location: WebDavLocation, left: Answer) -> bool:
        """Returns whether the storage has shown that another object answers to the name. Raises Unproven."""
        return names_another(left.headers, location) and shows_no_file(await self._propfind(location.url), location)

    async def _believe_missing(self) -> Removal:
        """Raises Unproven while the storage's `presence_url` is missing too."""
        if self._presence_url is not None:
            answer = await self._request("GET", self._presence_url, {})
            if answer.status != 200:
                raise Unproven(f"its presence_url is answered {answer.status}: is its folder mounted?")
        return "missing"

    async def _propfind(self, url: str) -> Answer:
        return await self._request("PROPFIND", url, {"Depth": "0", "Content-Type": "application/xml"}, _PROPERTIES)

    async def _get(self, url: str) -> Answer:
        answer = await self._request("GET", url, _FIRST_BYTE)
        # An empty file has no first byte.
        return await self._request("GET", url, {}) if answer.status == 416 else answer

    async def _request(self, method: str, url: str, headers: Mapping[str, str], body: bytes = b"") -> Answer:
        return await self._http.request(
            method, _address(url), {**headers, **self._headers}, body, statuses_with_body={207}, patiently=True
        )


def _succeeds(multistatus: bytes) -> bool:
    """Returns whether the body of a 207 has a success for anything. Raises Unproven if it has a failure."""
    try:
        statuses = statuses_of_multistatus(multistatus)
    except MalformedXml as error:
        raise Unproven(f"it answers DELETE with 207, whose body is not XML: {error}") from None
    for status in statuses:
        if not 200 <= status < 300:
            raise Unproven(f"it answers DELETE with 207 and a status of {status}")
    return bool(statuses)


def _address(url: str) -> Address:
    async def address() -> str:
        return url

    return address


def _log_unauthorized(name: str, stream: MediaStream) -> None:
    scheme = stream.headers.get("WWW-Authenticate", "").partition(" ")[0]
    if scheme.lower() in {"basic", ""}:
        log.warning("media storage %s: it refuses the username and password; check those of its entry", name)
    else:
        log.warning("media storage %s: it asks for %s authentication; let it accept Basic, over TLS", name, scheme)
