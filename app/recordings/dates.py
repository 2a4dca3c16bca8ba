"""Dates in and out (docs/contract.md section 4). An instant is an int: milliseconds since 1970-01-01 UTC."""

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NAIVE_EPOCH = _EPOCH.replace(tzinfo=None)
_MILLISECOND = timedelta(milliseconds=1)
_DAY = 86_400_000

EARLIEST = (datetime(1, 1, 1, tzinfo=UTC) - _EPOCH) // _MILLISECOND
LATEST = (datetime(9999, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC) - _EPOCH) // _MILLISECOND

_OUT_OF_RANGE = "it must be between the years 1 and 9999"

_DATE = r"([0-9]{4})-([0-9]{2})-([0-9]{2})"
_TIME = r"([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]+))?"
_OFFSET = r"(?:[Zz]|([+-])([0-9]{2}):?([0-9]{2}))"
_DATE_TIME = re.compile(f"{_DATE}[Tt ]{_TIME}{_OFFSET}")
# What almost every client sends, and every stored date: Python itself reads these faster.
_USUAL = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ](?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]+)?"
    r"(?:[Zz]|[+-](?:[01][0-9]|2[0-3]):?[0-5][0-9])"
)
_NORMAL_LENGTH = len("2013-05-17T19:45:32.000+0000")
_QUERY_DATE = re.compile(_DATE)
_QUERY_MILLISECONDS = re.compile(r"-?[0-9]{12,15}|0")
_TOO_SHORT = re.compile(r"-?[0-9]{1,11}")
# A '+' that was not percent-encoded in a query arrives as a space.
_LOST_PLUS = re.compile(r" (?=[0-9]{2}:?[0-9]{2}$)")


def parse_instant(text: str, *, round_up: bool = False) -> int:
    """An RFC 3339 date-time, or one with an offset like `-0800`.

    Parts of a millisecond are cut off, or counted as a whole one with `round_up`.
    Raises ValueError, whose text says what is allowed.
    """
    if not round_up and _USUAL.fullmatch(text):
        return _in_range((_python_date(text) - _EPOCH) // _MILLISECOND)
    match = _DATE_TIME.fullmatch(text)
    if match is None:
        raise ValueError("it must be a date like 2013-05-17T11:45:32.000-0800 or 2013-05-17T19:45:32Z")
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    fraction, sign, offset_hours, offset_minutes = match.groups()[6:]
    # A leap second (RFC 3339 section 5.6) is the first instant of the next minute.
    leap = second == 60
    try:
        local = datetime(year, month, day, hour, minute, 59 if leap else second, tzinfo=UTC)
    except ValueError:
        raise ValueError("there is no such date or time") from None
    instant = (local - _EPOCH) // _MILLISECOND + 1000 * leap
    if fraction and not leap:
        instant += int(fraction[:3].ljust(3, "0"))
        if round_up and fraction[3:].strip("0"):
            instant += 1
    if sign:
        hours, minutes = int(offset_hours), int(offset_minutes)
        if hours > 23 or minutes > 59:
            raise ValueError("there is no such offset from UTC")
        offset = (hours * 60 + minutes) * 60_000
        instant += -offset if sign == "+" else offset
    if leap and instant % _DAY:
        raise ValueError("a leap second is only possible at the end of a UTC day")
    return _in_range(instant)


def parse_query_instant(text: str, *, round_up: bool = False) -> int:
    """What a query parameter may also hold: a date alone (UTC midnight) or epoch milliseconds.

    Milliseconds have 12 digits or more, or are 0: a shorter number is a year, a date or seconds.
    Raises ValueError, whose text says what is allowed.
    """
    if _QUERY_MILLISECONDS.fullmatch(text):
        return _in_range(int(text))
    if _TOO_SHORT.fullmatch(text):
        raise ValueError(
            "it must be a date like 2013-05-17 or 2013-05-17T19:45:32Z, or epoch milliseconds (12 digits or more, or 0)"
        )
    if _QUERY_DATE.fullmatch(text):
        return parse_instant(f"{text}T00:00:00Z")
    try:
        return parse_instant(_LOST_PLUS.sub("+", text), round_up=round_up)
    except ValueError as error:
        raise ValueError(f"{error}; a date alone or epoch milliseconds are allowed too") from None


def normalise_date(text: str) -> str:
    """A date as it is returned. Raises as `parse_instant`."""
    return _cached(text) if len(text) <= _MAX_CACHED_LENGTH else _normalise_date(text)


def _normalise_date(text: str) -> str:
    if not _USUAL.fullmatch(text):
        return format_instant(parse_instant(text))
    moment = _python_date(text)
    if len(text) == _NORMAL_LENGTH and text[10] == "T" and text.endswith("+0000"):
        return text
    try:
        return f"{moment.astimezone(UTC).isoformat(timespec='milliseconds').removesuffix('+00:00')}+0000"
    except OverflowError:
        raise ValueError(_OUT_OF_RANGE) from None


# A recording has most of its dates several times.
_cached = lru_cache(maxsize=1000)(_normalise_date)
_MAX_CACHED_LENGTH = 40


def format_instant(instant: int) -> str:
    """`2013-05-17T19:45:32.000+0000`, always UTC."""
    moment = _NAIVE_EPOCH + timedelta(milliseconds=instant)
    # isoformat, because strftime does not pad the year to four digits everywhere.
    return f"{moment.isoformat(timespec='milliseconds')}+0000"


def _python_date(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text.upper())  # it knows no small z
    except ValueError:
        raise ValueError("there is no such date or time") from None


def _in_range(instant: int) -> int:
    if not EARLIEST <= instant <= LATEST:
        raise ValueError(_OUT_OF_RANGE)
    return instant
