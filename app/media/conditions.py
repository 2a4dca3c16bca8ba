"""Ranges and conditions of a request for bytes (RFC 9110 sections 13 and 14), decided here for every storage alike."""

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

_ONE_RANGE = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18}))", re.IGNORECASE)
_STRONG_ETAG = re.compile(r'"[!#-~]*"')
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", re.IGNORECASE)


def normalise_range(value: str | None) -> str | None:
    """The Range header to ask a storage for, None where the whole is to be sent.

    A range that is malformed, in another unit, or one of several is ignored, as RFC 9110 section 14.2 allows.
    """
    match = _ONE_RANGE.fullmatch((value or "").strip())
    if match is None:
        return None
    first, last, suffix = match.groups()
    if suffix is not None:
        return f"bytes=-{int(suffix)}"
    if last and int(last) < int(first):
        return None
    return f"bytes={int(first)}-{int(last) if last else ''}"


def content_range_matches(content_range: str | None, asked: str) -> bool:
    """Whether a 206 with this Content-Range is the answer to a range from `normalise_range`."""
    match = _CONTENT_RANGE.fullmatch((content_range or "").strip())
    if match is None:
        return False
    first, last = int(match[1]), int(match[2])
    asked_first, _, asked_last = asked.removeprefix("bytes=").partition("-")
    if not asked_first:  # a suffix; at most so many bytes, fewer when the whole has fewer
        length = last - first + 1
        at_end = match[3] == "*" or last == int(match[3]) - 1
        return at_end and (length == int(asked_last) or first == 0)
    return first == int(asked_first) and (not asked_last or last <= int(asked_last))


def bounds_of(content_range: str | None) -> tuple[int, int] | None:
    """The first byte and the total length of a Content-Range, None unless it has both."""
    match = _CONTENT_RANGE.fullmatch((content_range or "").strip())
    return (int(match[1]), int(match[3])) if match and match[3] != "*" else None


def is_strong(etag: str) -> bool:
    """Whether an ETag is a strong validator in a well-formed spelling (RFC 9110 section 8.8.3)."""
    return _STRONG_ETAG.fullmatch(etag) is not None


def if_range_matches(request: Mapping[str, str], answer: Mapping[str, str]) -> bool:
    """Whether a range may be sent (RFC 9110 section 13.1.5): only exactly the same, strong validator holds."""
    if_range = request.get("If-Range")
    if if_range is None:
        return True
    if if_range.startswith(('"', "W/")):
        return if_range == answer.get("ETag") and not if_range.startswith("W/")
    return if_range.strip() == answer.get("Last-Modified")


def not_modified(request: Mapping[str, str], answer: Mapping[str, str]) -> bool:
    """Whether 304 is the answer (RFC 9110 section 13.2.2, steps 3 and 4); header names ignore case in both."""
    if_none_match, etag = request.get("If-None-Match"), answer.get("ETag")
    if if_none_match is not None:
        if if_none_match.strip() == "*":
            return True
        known = {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}
        return etag is not None and etag.removeprefix("W/") in known
    since, changed = _date(request.get("If-Modified-Since")), _date(answer.get("Last-Modified"))
    return since is not None and changed is not None and changed <= since


def _date(text: str | None) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp() if text else None
    except (ValueError, OverflowError):
        return None
