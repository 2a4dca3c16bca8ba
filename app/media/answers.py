"""Which answer of a storage is accepted for a client's request (docs/contract.md section 6).

A storage's answer is compared with what was asked: status, Content-Range, Content-Length, Content-Encoding,
Content-Type, and the body as it arrives. An answer that contradicts the request or itself is asked for again in a
plainer way: as an explicit range, or the whole. See docs/decisions/0022-answers-of-storages.md.
"""

import logging
import re
from collections.abc import Mapping
from contextlib import suppress

from starlette.datastructures import Headers

from app.errors import MediaNotFound, MediaStorageFailed, PreconditionFailed, RangeNotSatisfiable
from app.media.conditions import (
    ByteRange,
    if_range_matches,
    not_modified,
    parse_content_range,
    parse_range,
    precondition_fails,
)
from app.media.location import Location
from app.media.resuming import resuming
from app.media.storages import MediaStorages
from app.media.stream import MediaStream, codings_of, header_of, values_of

log = logging.getLogger(__name__)

# Statuses that a second request would get too, and what to configure. `app.media.s3` says more of S3's own errors.
_REDIRECTS = "it redirects, which is not followed; configure the final URL, and an account that needs no login page"
_FINAL = {
    **dict.fromkeys((301, 302, 303, 307, 308), _REDIRECTS),
    400: "it does not understand the request; check the URL of its entry",
    403: "the user of its entry may not read the file",
}

_HTML_TYPES = frozenset({"text/html", "application/xhtml+xml"})

_HTML = re.compile(r"(?:text/html|application/xhtml\+xml)\s*(?:;.*)?", re.IGNORECASE)
_HTML_NAME = re.compile(r".*\.(?:x?html?|shtml)", re.IGNORECASE | re.DOTALL)

_LENGTH = re.compile(r"[0-9]{1,18}")

# What a storage tells of a file and a player wants to know, as it is.
_OF_THE_FILE = ("ETag", "Last-Modified", "Accept-Ranges")


class AcceptedStream:
    """An accepted answer. Its status is 200, 206, or 304 without a body; `headers` are those a client may have.

    A body that turns out not to have the promised length is never delivered as a whole. See `MediaStream`.
    """

    def __init__(self, stream: MediaStream, status: int, length: int | None, about_the_body: Mapping[str, str]) -> None:
        told = {name: set(values_of(stream.headers, name)) for name in _OF_THE_FILE}
        # Of several validators none is one.
        about_the_file = {name: value for name, values in told.items() if len(values) == 1 for value in values}
        known_length = {} if length is None else {"Content-Length": str(length)}
        self.status = status
        self.length = length
        self.headers: Mapping[str, str] = Headers({**about_the_file, **known_length, **about_the_body})
        self.ends_with_connection = length is None and header_of(stream.headers, "Transfer-Encoding") is None
        self._stream = stream
        self._left = length

    async def read(self) -> bytes:
        """As `MediaStream.read`; raises MediaStorageFailed, too, when the body has another length than promised."""
        chunk = await self._stream.read()
        if self._left is not None:
            self._left -= len(chunk)
            if self._left < 0 or (self._left and not chunk):
                self.close()
                raise MediaStorageFailed("the body has another length than its Content-Range says")
        return chunk

    def close(self) -> None:
        """As `MediaStream.close`."""
        self._stream.close()

    def not_modified(self) -> "AcceptedStream":
        """The 304 for this answer: nothing in it is about a body."""
        return AcceptedStream(self._stream, 304, None, {})


class _Contradiction(Exception):
    """An answer that cannot be passed on; `length` is that of the file, if the answer tells it."""

    def __init__(self, reason: str, length: int | None = None) -> None:
        super().__init__(reason)
        self.length = length


class _Unsatisfiable(_Contradiction):
    """The storage answers that the file has no part of the range (416). Some do so without reason."""


def is_html(media_type: str | None, name: str) -> bool:
    """Returns whether a media file itself is an HTML page, by its type or else the extension of its name."""
    return bool(_HTML.fullmatch(media_type.strip()) if media_type else _HTML_NAME.fullmatch(name))


async def open_media(
    storages: MediaStorages,
    method: str,
    location: Location,
    headers: Mapping[str, str],
    name: str,
    *,
    may_be_html: bool = False,
) -> MediaStream:
    """Opens a media object for a GET or HEAD with these `headers`; `name` is for errors.

    The answer has status 200, 206 with exactly the client's range, or 304 without a body. `may_be_html` tells that the
    file itself is an HTML page. Raises the error that the client gets instead: MediaNotFound, PreconditionFailed,
    RangeNotSatisfiable, or one of those of `Storage.open`.

    Conditions are decided here, from the validators that come with the bytes: not every storage knows them all.
    """
    opening = _Opening(storages, location, name, may_be_html=may_be_html)
    wanted = parse_range(headers.get("range")) if method == "GET" else None
    if method == "HEAD":
        stream = await opening.head()
    else:
        stream = await (opening.whole() if wanted is None else opening.part(wanted))
    try:
        if precondition_fails(headers, stream.headers):
            raise PreconditionFailed
        if not_modified(headers, stream.headers):
            stream.close()
            return stream.not_modified()
        if wanted is not None:
            if not if_range_matches(headers, stream.headers):
                if stream.status != 200:
                    stream.close()
                    stream = await opening.whole()
            # Also for a storage that ignores ranges.
            elif stream.status != 206 and stream.length is not None and not wanted.within(stream.length):
                raise RangeNotSatisfiable(stream.length)
    except BaseException:
        stream.close()
        raise
    if method != "GET":
        return stream
    return resuming(
        stream,
        lambda more: storages.open("GET", location, more),
        ends_with_connection=stream.ends_with_connection,
    )


class _Opening:
    """The requests to a storage that one request of a client takes."""

    def __init__(self, storages: MediaStorages, location: Location, name: str, *, may_be_html: bool) -> None:
        self._storages = storages
        self._location = location
        self._name = name
        self._may_be_html = may_be_html
        self._surprised = False

    async def part(self, wanted: ByteRange) -> AcceptedStream:
        """Opens the range; the whole, if the storage does not give the range however it is asked.

        Status 416, with the headers of the whole, means that the file has no part of the range.
        """
        length = None
        is_refused = not wanted.is_satisfiable
        if not is_refused:
            try:
                return await self._ask(wanted)
            except _Contradiction as surprise:
                length = surprise.length
                is_refused = isinstance(surprise, _Unsatisfiable)
        if is_refused:
            about = await self.head()
            length = about.length
            if length is not None and not wanted.within(length):
                about.status = 416
                return about
        if length is not None and (positions := wanted.within(length)):
            explicit = ByteRange(positions.start, positions.stop - 1)
            if explicit != wanted:
                with suppress(_Contradiction):
                    return await self._ask(wanted, spelled=explicit)
        return await self.whole()

    async def whole(self) -> AcceptedStream:
        """Opens the whole; asks a second time if this is the first surprise."""
        if not self._surprised:
            with suppress(_Contradiction):
                return await self._ask(None)
        try:
            return await self._ask(None, may_be_transformed=True)
        except _Contradiction as surprise:
            raise self._failed(str(surprise)) from None

    async def head(self) -> AcceptedStream:
        """The headers of the whole; its stream is closed."""
        stream = await self._storages.open("HEAD", self._location, {})
        stream.close()
        with suppress(_Contradiction):
            about = self._accepted(stream, None, is_head=True)
            # Some storages answer HEAD with a length of 0.
            if about.length:
                return about
        # Not every storage knows HEAD, or says why it refuses it.
        whole = await self.whole()
        whole.close()
        return whole

    async def _ask(
        self, asked: ByteRange | None, *, spelled: ByteRange | None = None, may_be_transformed: bool = False
    ) -> AcceptedStream:
        """Opens a part or the whole with one request. Raises _Contradiction, or an error that is final.

        A range may be `spelled` in another way, which is the same in a file of the length that a storage has told. The
        answer is compared with `asked` all the same, because the length may have been wrong.
        """
        headers = {"Range": (spelled or asked).header} if asked else {}
        if self._surprised:
            headers["Cache-Control"] = "no-transform"
        stream = await self._storages.open("GET", self._location, headers)
        try:
            if stream.status in {404, 410}:
                raise MediaNotFound(self._name)
            if stream.status == 401:  # which is in the log already
                raise MediaStorageFailed("it refuses the username and password of its entry")
            if reason := _FINAL.get(stream.status):
                raise self._failed(f"{reason} ({stream.status})")
            if stream.status == 416 and asked:
                raise _Unsatisfiable("it answers that the file has no part of the range (416)")
            return self._accepted(stream, asked, may_be_transformed=may_be_transformed)
        except BaseException as error:
            stream.close()
            if isinstance(error, _Contradiction):
                self._surprised = True
                log.info("media storage %s: %s; it is asked again for %s", self._location.name, error, self._name)
            raise

    def _accepted(
        self,
        stream: MediaStream,
        asked: ByteRange | None,
        *,
        is_head: bool = False,
        may_be_transformed: bool = False,
    ) -> AcceptedStream:
        """The stream, if its status and headers are an answer to what was asked. Raises _Contradiction."""
        types = {one.partition(";")[0].strip().lower() for one in values_of(stream.headers, "Content-Type")}
        if types & _HTML_TYPES and not self._may_be_html:
            raise _Contradiction("it answers with an HTML page where a sound is expected; is a login needed?")
        if "multipart/byteranges" in types:
            raise _Contradiction("it answers with several ranges")
        about_the_body = _about_the_body(stream)
        content_range = header_of(stream.headers, "Content-Range")
        if asked is not None and (stream.status == 206 or _is_part_with_200(stream, asked)):
            positions, total = _positions(content_range, asked)
            if stream.length is not None and stream.length != len(positions):
                raise _Contradiction("its Content-Length contradicts its Content-Range", total)
            described = f"bytes {positions.start}-{positions.stop - 1}/{'*' if total is None else total}"
            return AcceptedStream(stream, 206, len(positions), {**about_the_body, "Content-Range": described})
        if stream.status != 200 and not (stream.status == 203 and may_be_transformed):
            raise _Contradiction(f"it answers with the status {stream.status}")
        length = _content_length(stream) if is_head else stream.length
        if content_range is not None:
            positions, _ = _positions(content_range, None)
            if length not in {None, len(positions)}:
                raise _Contradiction("its Content-Length contradicts its Content-Range", len(positions))
            length = len(positions)
        return AcceptedStream(stream, 200, length, about_the_body)

    def _failed(self, reason: str) -> MediaStorageFailed:
        log.warning("media storage %s: %s; %s cannot be played", self._location.name, reason, self._name)
        return MediaStorageFailed(reason)


def _is_part_with_200(stream: MediaStream, asked: ByteRange) -> bool:
    """Whether a 200 has exactly the range, and its length proves that it has no more: rclone's S3 answers so."""
    told = parse_content_range(header_of(stream.headers, "Content-Range") or "")
    return stream.status == 200 and told is not None and told.answers(asked) and stream.length == len(told.positions)


def _positions(content_range: str | None, asked: ByteRange | None) -> tuple[range, int | None]:
    """What a body has, by its Content-Range, and the length of the file. Raises _Contradiction if it is not asked."""
    if content_range is None:
        raise _Contradiction("its answer to a range has no Content-Range")
    parsed = parse_content_range(content_range)
    if parsed is None:
        raise _Contradiction("its Content-Range is malformed or impossible")
    if not parsed.answers(asked):
        raise _Contradiction("its Content-Range is not the range that it was asked for", parsed.length)
    return parsed.positions, parsed.length


def _about_the_body(stream: MediaStream) -> dict[str, str]:
    """Content-Type, and Content-Encoding if the object has a coding. Raises _Contradiction."""
    headers = {"Content-Type": stream.headers["Content-Type"]} if "Content-Type" in stream.headers else {}
    try:
        codings = codings_of(stream)
    except ValueError as error:
        raise _Contradiction(str(error)) from None
    return {**headers, "Content-Encoding": ", ".join(codings)} if codings else headers


def _content_length(stream: MediaStream) -> int | None:
    """The length that the answer to HEAD tells, whose own body has none."""
    value = header_of(stream.headers, "Content-Length")
    return int(value) if value is not None and _LENGTH.fullmatch(value) else None
