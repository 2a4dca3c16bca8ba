"""Pages of a search: which one a client asks for, its hits, and the links to its neighbours.

docs/contract.md section 5 and docs/decisions/0005-pages.md.
"""

import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar
from urllib.parse import quote

import msgspec

from app.errors import InvalidParameter
from app.ids import MAX_ID_BYTES
from app.recordings.dates import EARLIEST, LATEST
from app.search.clauses import Query

PAGING_PARAMETERS = ("offset", "limit", "order", "total", "cursor")

MAX_LIMIT = 100
MAX_OFFSET = 10_000

# Matches are counted up to this, so that counting stays as cheap as a page.
MAX_TOTAL = 10_000

# The order of recordings, in results and in the indices.
ORDER = ({"startTime": "desc"}, {"id": "asc"})

# nginx reads request lines of up to 8 KiB by default.
_MAX_LINK_LENGTH = 7_999
# A packed cursor begins with a character that base64 does not have. What it unpacks to is bounded, because a client
# may make its own.
_PACKED = "."
_MAX_UNPACKED_BYTES = 64 * 1024

T = TypeVar("T")


class Placed(Protocol):
    """A hit with its place in the order of results: its start time (an instant) and its id."""

    @property
    def place(self) -> tuple[int, str]: ...


P = TypeVar("P", bound=Placed)


class Cursor(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The place just after or just before the recording with this start time (an instant) and id.

    "until" is just before it too, when nothing followed that place.
    It only names a place, so a client that makes its own sees nothing that a search would not show it.
    """

    direction: Literal["after", "before", "until"]
    start_time: int
    recording_id: str

    def encode(self) -> str:
        return _to_base64(msgspec.msgpack.encode(self))

    @classmethod
    def decode(cls, text: str) -> "Cursor":
        """Raises InvalidParameter for any text that `encode` did not make."""
        try:
            cursor = msgspec.msgpack.decode(_from_base64(text), type=cls)
        except ValueError:  # also binascii.Error, UnicodeError and every error of msgspec
            cursor = None
        if cursor is None or cursor.encode() != text or not EARLIEST <= cursor.start_time <= LATEST:
            raise _foreign_cursor()
        return cursor


@dataclass(frozen=True)
class Page(Generic[T]):
    """The hits of a page in the order of results, and whether others stand before and after them.

    A page that `is_bounded` may hold fewer hits than the limit, because they are large.
    """

    hits: list[T]
    more_before: bool
    more_after: bool
    is_bounded: bool = False


@dataclass(frozen=True)
class PageRequest:
    """The part of the result that a client asks for: `limit` recordings from `offset`, or next to `cursor`.

    `oldest_first` is the reverse of the usual order. With `total` the client wants to know how many there are.
    """

    offset: int = 0
    limit: int = MAX_LIMIT
    cursor: Cursor | None = None
    oldest_first: bool = False
    total: bool = False

    @property
    def is_backwards(self) -> bool:
        """Whether the hits are read in reversed order, from the recording that follows the page."""
        return self.cursor is not None and self.cursor.direction != "after"

    def body(self, time: str = "startTime", **options: str) -> dict[str, Any]:
        """Returns the part of a search's body that selects the page and one hit more, in the order of `time`, then id.

        The additional hit tells whether others follow, or stand before a page that is read backwards. `options` are
        those of sorting by `time`.
        """
        directions = ("asc", "desc") if self.oldest_first != self.is_backwards else ("desc", "asc")
        by_time = {"order": directions[0], **options} if options else directions[0]
        body: dict[str, Any] = {
            "sort": ({time: by_time}, {"id": directions[1]}),
            "size": self.limit + 1,
            "track_total_hits": False,
        }
        if self.cursor is None:
            body["from"] = self.offset
        else:
            body["search_after"] = [self.cursor.start_time, self.cursor.recording_id]
        return body

    def page_of(self, hits: Sequence[T], *, left_out: int = 0, is_bounded: bool = False) -> Page[T]:
        """Returns the page that a search for `body` has found; `left_out` hits follow that are too large for it."""
        page, more = list(hits[: self.limit]), len(hits) > self.limit or left_out > 0
        if self.is_backwards:
            ends = self.cursor is not None and self.cursor.direction == "until"
            return Page(page[::-1], more, bool(page) and not ends, is_bounded)
        return Page(page, self.offset > 0, more, is_bounded)


def total_body(query: Query) -> dict[str, Any]:
    """Returns the body of a search that counts what a query matches; `total_of` reads the answer."""
    return {"query": query, "size": 0, "track_total_hits": MAX_TOTAL}


def total_of(answer: Mapping[str, Any]) -> tuple[int, bool]:
    """Returns how many match, and whether that is exact: MAX_TOTAL stands for more, too."""
    total = answer["hits"]["total"]
    return min(total["value"], MAX_TOTAL), total["relation"] == "eq"


def parse_page(values: Mapping[str, str]) -> PageRequest:
    """Parses the parameters of paging; raises InvalidParameter."""
    cursor = Cursor.decode(values["cursor"]) if "cursor" in values else None
    offset = _integer(values, "offset", default=0)
    limit = _integer(values, "limit", default=MAX_LIMIT)
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidParameter("limit", f"it must be from 1 to {MAX_LIMIT}")
    if cursor is None and offset > MAX_OFFSET:
        raise InvalidParameter(
            "offset", f"it must be at most {MAX_OFFSET}; to go further, follow nextUri from page to page"
        )
    order = values.get("order", "newest")
    if order not in {"newest", "oldest"}:
        raise InvalidParameter("order", "it must be newest or oldest")
    if values.get("total", "*") != "*":
        raise InvalidParameter("total", "it must be *")
    return PageRequest(offset, limit, cursor, oldest_first=order == "oldest", total="total" in values)


def unpacked(parameters: Sequence[tuple[str, str]]) -> Sequence[tuple[str, str]]:
    """Returns the parameters of a search, also those that `page_links` has packed; raises InvalidParameter."""
    packed = next((value for name, value in parameters if name == "cursor" and value.startswith(_PACKED)), None)
    if packed is None:
        return parameters
    try:
        inflating = zlib.decompressobj()
        data = inflating.decompress(_from_base64(packed.removeprefix(_PACKED)), _MAX_UNPACKED_BYTES)
        inner = msgspec.msgpack.decode(data, type=list[tuple[str, str]])
    except (ValueError, zlib.error):
        raise _foreign_cursor() from None
    if not inflating.eof:
        raise _foreign_cursor()
    others = list(parameters)
    others.remove(("cursor", packed))
    return [*inner, *others]


def page_links(
    url: str, parameters: Sequence[tuple[str, str]], request: PageRequest, page: Page[P]
) -> Iterator[tuple[str, str]]:
    """Yields `prevUri` and `nextUri`, as far as there are such pages; `url` is that of the request, with its query.

    A link keeps every parameter of the request except the place. When it would become too long for a proxy, and the
    request was not, it holds them packed in its cursor.
    """
    if page.more_before:
        yield "prevUri", _link(url, parameters, max(request.offset - request.limit, 0), _before(request, page))
    if page.more_after:
        yield "nextUri", _link(url, parameters, request.offset + len(page.hits), _cursor("after", page.hits[-1]))


def _before(request: PageRequest, page: Page[P]) -> Cursor | None:
    """Returns the place before which the previous page ends, None for the offset alone.

    The first page is full even if it repeats some of this one, as with an offset.
    """
    repeated = request.limit - request.offset if 0 < request.offset < request.limit and not page.is_bounded else 0
    if page.hits and not repeated:
        return _cursor("before", page.hits[0])
    # An empty page has no place but the requested one.
    last = _cursor("before", page.hits[:repeated][-1]) if page.hits else request.cursor
    is_end = not page.more_after and repeated >= len(page.hits)
    if last is None:
        return None
    # No id stands between that of the recording and this one, so the recording itself is before that place.
    just_after = (_id_below if request.oldest_first else _id_above)(last.recording_id)
    return Cursor("until" if is_end else "before", last.start_time, just_after)


def _id_above(recording_id: str) -> str:
    """Returns the next text in the order of ids."""
    return recording_id + "\0"


def _id_below(recording_id: str) -> str:
    """Returns a text below an id, above every other id that is below it."""
    start, last = recording_id[:-1], recording_id[-1:]
    if not last or last == "\0":
        return start
    before = "\ud7ff" if last == "\ue000" else chr(ord(last) - 1)  # between them are surrogates
    # No id is so long that it could begin with this.
    return start + before + "\U0010ffff" * (MAX_ID_BYTES // 4)


def _cursor(direction: Literal["after", "before"], hit: Placed) -> Cursor:
    return Cursor(direction, *hit.place)


def _link(url: str, parameters: Sequence[tuple[str, str]], offset: int, cursor: Cursor | None) -> str:
    here = url.partition("?")[0]
    kept = [(name, value) for name, value in parameters if name not in {"offset", "cursor"}]
    place = [("cursor", cursor.encode())] if cursor else []
    link = f"{here}?{_query_string([*kept, ('offset', str(offset)), *place])}"
    if len(link) > _MAX_LINK_LENGTH >= len(url):
        packed = _PACKED + _to_base64(zlib.compress(msgspec.msgpack.encode([*kept, *place]), 9))
        return min(link, f"{here}?{_query_string([('offset', str(offset)), ('cursor', packed)])}", key=len)
    return link


def _query_string(parameters: Sequence[tuple[str, str]]) -> str:
    return "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in parameters)


def _to_base64(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")


def _from_base64(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _foreign_cursor() -> InvalidParameter:
    return InvalidParameter("cursor", "it must come from the nextUri or prevUri of a page")


def _integer(values: Mapping[str, str], name: str, default: int) -> int:
    text = values.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise InvalidParameter(name, "it must be a whole number, 0 or greater")
    return int(text)
