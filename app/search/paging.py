"""Pages of a search: which one a client asks for, its hits, and the links to its neighbours.

docs/contract.md section 5 and docs/decisions/0005-pages.md.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar
from urllib.parse import quote

import msgspec

from app.errors import InvalidParameter
from app.recordings.dates import EARLIEST, LATEST, parse_instant
from app.recordings.model import Recording

PAGING_PARAMETERS = ("offset", "limit", "cursor")

MAX_LIMIT = 100
MAX_OFFSET = 10_000

# The order of results, and of the indices.
ORDER = ({"startTime": "desc"}, {"id": "asc"})
_REVERSED_ORDER = ({"startTime": "asc"}, {"id": "desc"})

T = TypeVar("T")


class Cursor(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The place just after or just before the recording with this start time (an instant) and id.

    It only names a place, so a client that makes its own sees nothing that a search would not show it.
    """

    direction: Literal["after", "before"]
    start_time: int
    recording_id: str

    def encode(self) -> str:
        return urlsafe_b64encode(msgspec.json.encode(self)).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> "Cursor":
        """Raises InvalidParameter for any text that `encode` did not make."""
        try:
            cursor = msgspec.json.decode(urlsafe_b64decode(text + "=" * (-len(text) % 4)), type=cls)
        except ValueError:  # also binascii.Error, UnicodeError and every error of msgspec
            cursor = None
        if cursor is None or cursor.encode() != text or not EARLIEST <= cursor.start_time <= LATEST:
            raise InvalidParameter("cursor", "it must come from the nextUri or prevUri of a page")
        return cursor


@dataclass(frozen=True)
class PageRequest:
    """The part of the result that a client asks for: `limit` recordings from `offset`, or next to `cursor`."""

    offset: int = 0
    limit: int = MAX_LIMIT
    cursor: Cursor | None = None

    @property
    def is_backwards(self) -> bool:
        """Whether the hits are read in reversed order, from the recording that follows the page."""
        return self.cursor is not None and self.cursor.direction == "before"

    def body(self) -> dict[str, Any]:
        """Returns the part of a search's body that selects the page and one hit more.

        The additional hit tells whether others follow.
        """
        body: dict[str, Any] = {"sort": _REVERSED_ORDER if self.is_backwards else ORDER, "size": self.limit + 1}
        if self.cursor is None:
            body["from"] = self.offset
        else:
            body["search_after"] = [self.cursor.start_time, self.cursor.recording_id]
        return body

    def in_order(self, hits: Sequence[T]) -> tuple[list[T], bool]:
        """Returns the hits of this page in the order of results, and whether others follow."""
        page = list(hits[: self.limit])
        if self.is_backwards:
            return page[::-1], bool(page)
        return page, len(hits) > self.limit


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
    return PageRequest(offset, limit, cursor)


def page_links(
    parameters: Sequence[tuple[str, str]], page: PageRequest, recordings: Sequence[Recording], *, more: bool
) -> Iterator[tuple[str, str]]:
    """Yields `prevUri` and `nextUri`, as far as there are such pages, each with its query string.

    A link keeps every parameter of the request except the place.
    """
    if page.offset > 0:
        offset = max(page.offset - page.limit, 0)
        if recordings:
            cursor: Cursor | None = _cursor("before", recordings[0])
        else:  # An empty page has no place but the requested one.
            cursor = msgspec.structs.replace(page.cursor, direction="before") if page.cursor else None
        yield "prevUri", _query_string(parameters, offset, cursor if offset else None)
    if more:
        yield "nextUri", _query_string(parameters, page.offset + len(recordings), _cursor("after", recordings[-1]))


def _cursor(direction: Literal["after", "before"], recording: Recording) -> Cursor:
    return Cursor(direction, parse_instant(recording["startTime"]), recording["id"])


def _query_string(parameters: Sequence[tuple[str, str]], offset: int, cursor: Cursor | None) -> str:
    kept = [(name, value) for name, value in parameters if name not in {"offset", "cursor"}]
    place = [("offset", str(offset))] + ([("cursor", cursor.encode())] if cursor else [])
    return "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in [*kept, *place])


def _integer(values: Mapping[str, str], name: str, default: int) -> int:
    text = values.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise InvalidParameter(name, "it must be a whole number, 0 or greater")
    return int(text)
