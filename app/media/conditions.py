"""Ranges and conditions of a request for bytes (RFC 9110 sections 13 and 14), decided here for every storage alike."""

import re
from calendar import timegm
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_tz

_ONE_RANGE = re.compile(r"bytes=(?:([0-9]+)-([0-9]*)|-([0-9]+))", re.IGNORECASE)
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", re.IGNORECASE)
_ETAG = re.compile(r'(W/)?"([!#-~\x80-\xff]*)"')
_STRONG_ETAG = re.compile(r'"[!#-~]*"')
_RFC_850_YEAR = re.compile(r"-([0-9]{2}) ")

# No file has so many bytes. Storages need not understand larger numbers.
_BEYOND_EVERY_FILE = 10**15


@dataclass(frozen=True)
class ByteRange:
    """One range of a Range header: from `first` to `last` or to the end; without `first` it is the `last` bytes."""

    first: int | None
    last: int | None

    @property
    def header(self) -> str:
        """The Range header that asks for it."""
        return f"bytes={'' if self.first is None else self.first}-{'' if self.last is None else self.last}"

    @property
    def is_satisfiable(self) -> bool:
        """Whether there can be a file that has a part of it."""
        return self.last != 0 if self.first is None else self.first < _BEYOND_EVERY_FILE

    def within(self, length: int) -> range:
        """The positions that it stands for in a file of `length` bytes; none if it is not satisfiable there."""
        if self.first is None:
            return range(max(0, length - (self.last or 0)), length)
        return range(self.first, length if self.last is None else min(self.last + 1, length))


def parse_range(value: str | None) -> ByteRange | None:
    """The range of a Range header, None where the whole is to be sent.

    A range that is malformed, in another unit, or one of several is ignored, as RFC 9110 section 14.2 allows.
    """
    match = _ONE_RANGE.fullmatch((value or "").strip())
    if match is None:
        return None
    first, last, suffix = (_number(digits) if digits else None for digits in match.groups())
    if suffix is not None:
        return ByteRange(0, None) if suffix == _BEYOND_EVERY_FILE else ByteRange(None, suffix)
    assert first is not None
    if last == _BEYOND_EVERY_FILE:
        last = None
    return None if last is not None and last < first else ByteRange(first, last)


def _number(digits: str) -> int:
    """At most _BEYOND_EVERY_FILE, however many digits there are."""
    digits = digits.lstrip("0")
    return int(digits or "0") if len(digits) <= len(str(_BEYOND_EVERY_FILE)) - 1 else _BEYOND_EVERY_FILE


@dataclass(frozen=True)
class ContentRange:
    """The positions that a body has, and the length of the whole file, None if it is unknown."""

    positions: range
    length: int | None

    def answers(self, asked: ByteRange | None) -> bool:
        """Whether it is exactly the part that was asked for; None asks for the whole."""
        if self.length is not None:
            return self.positions == (asked.within(self.length) if asked else range(self.length))
        if asked is None or asked.first is None or asked.last is None:
            return False
        return self.positions == range(asked.first, asked.last + 1)


def parse_content_range(value: str) -> ContentRange | None:
    """A Content-Range header, None if it is malformed or impossible."""
    match = _CONTENT_RANGE.fullmatch(value.strip())
    if match is None:
        return None
    first, last, length = int(match[1]), int(match[2]), None if match[3] == "*" else int(match[3])
    if last < first or (length is not None and last >= length):
        return None
    return ContentRange(range(first, last + 1), length)


def bounds_of(content_range: str | None) -> tuple[int, int] | None:
    """The first byte and the total length of a Content-Range, None unless it has both."""
    parsed = parse_content_range(content_range or "")
    return (parsed.positions.start, parsed.length) if parsed and parsed.length is not None else None


def is_strong(etag: str) -> bool:
    """Whether an ETag is a strong validator in a well-formed spelling (RFC 9110 section 8.8.3)."""
    return _STRONG_ETAG.fullmatch(etag) is not None


def precondition_fails(request: Mapping[str, str], answer: Mapping[str, str]) -> bool:
    """Whether 412 is the answer (RFC 9110 section 13.2.2, steps 1 and 2); header names ignore case in both."""
    if_match = request.get("If-Match")
    if if_match is not None:
        # Only strong validators match; a file that is there matches "*".
        return if_match.strip() != "*" and answer.get("ETag") not in {
            tag for tag, weak, _ in _tags(if_match) if not weak
        }
    since = http_date(request.get("If-Unmodified-Since"))
    return since is not None and (changed := http_date(answer.get("Last-Modified"))) is not None and changed > since


def not_modified(request: Mapping[str, str], answer: Mapping[str, str]) -> bool:
    """Whether 304 is the answer (RFC 9110 section 13.2.2, steps 3 and 4); header names ignore case in both."""
    if_none_match, etag = request.get("If-None-Match"), answer.get("ETag")
    if if_none_match is not None:
        if if_none_match.strip() == "*":
            return True
        return etag is not None and _opaque(etag) in {opaque for _, _, opaque in _tags(if_none_match)}
    since = http_date(request.get("If-Modified-Since"))
    return since is not None and (changed := http_date(answer.get("Last-Modified"))) is not None and changed <= since


def if_range_matches(request: Mapping[str, str], answer: Mapping[str, str]) -> bool:
    """Whether a range may be sent (RFC 9110 section 13.1.5): only exactly the same, strong validator holds."""
    if_range = request.get("If-Range")
    if if_range is None:
        return True
    if if_range.strip().startswith(('"', "W/")):
        return if_range.strip() == answer.get("ETag") and not if_range.strip().startswith("W/")
    date = http_date(if_range)
    return date is not None and date == http_date(answer.get("Last-Modified"))


def http_date(text: str | None) -> int | None:
    """Seconds since 1970 of a date in any form of RFC 9110 section 5.6.7, None for what is no date.

    A date without a zone, or in `-0000`, is in UTC, wherever this machine is.
    """
    parsed = parsedate_tz(text) if text else None
    if parsed is None:
        return None
    year, month, day, hour, minute, second, *_, offset = parsed
    if two_digits := _RFC_850_YEAR.search(text or ""):
        year = _full_year(int(two_digits[1]))
    try:
        # A leap second is the last one of its minute.
        date = datetime(year, month, day, hour, minute, min(second, 59), tzinfo=UTC) - timedelta(seconds=offset or 0)
    except (ValueError, OverflowError):
        return None
    return timegm(date.timetuple())


def _full_year(two_digits: int) -> int:
    """A year that would be more than 50 years ahead is the last one that ends so (RFC 9110 section 5.6.7)."""
    now = datetime.now(UTC).year
    year = now - now % 100 + two_digits
    return year - 100 if year > now + 50 else year


def _tags(header: str) -> list[tuple[str, bool, str]]:
    """The entity tags of a list: each as it is written, whether it is weak, and what is between its quotes."""
    return [(match[0], match[1] is not None, match[2]) for match in _ETAG.finditer(header)] or [
        (header.strip(), False, header.strip())  # without quotes, as some storages write their own
    ]


def _opaque(etag: str) -> str:
    match = _ETAG.fullmatch(etag)
    return match[2] if match else etag
