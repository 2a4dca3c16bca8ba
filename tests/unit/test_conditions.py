"""Ranges and conditions of a request for bytes (docs/contract.md section 6)."""

import random
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from app.media.conditions import (
    ByteRange,
    http_date,
    if_range_matches,
    not_modified,
    parse_content_range,
    parse_range,
    precondition_fails,
)


@pytest.fixture(params=["UTC", "America/New_York", "Asia/Tokyo"])
def _time_zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The machine's."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("header", "normal"),
    [
        ("bytes=0-0", "bytes=0-0"),
        ("BYTES=007-", "bytes=7-"),
        ("bytes=-5", "bytes=-5"),
        ("bytes=-0", "bytes=-0"),
        ("bytes=5-2", None),
        ("bytes=0-1,3-4", None),
        ("bytes=" + "0-1," * 10_000, None),
        ("bytes=-", None),
        ("bytes=a-b", None),
        ("bytes=²-", None),
        ("items=0-1", None),
        (None, None),
        # Numbers that a storage might not understand, but which stand for a part of any file.
        ("bytes=0-9999999999999999999", "bytes=0-"),
        (f"bytes=5-{'9' * 5000}", "bytes=5-"),
        ("bytes=-9999999999999999999", "bytes=0-"),
        (f"bytes={'0' * 5000}3-4", "bytes=3-4"),
        ("bytes=9999999999999999999-3", None),
    ],
)
def test_single_range_is_forwarded_in_canonical_form(header: str | None, normal: str | None) -> None:
    asked = parse_range(header)
    assert (asked.header if asked else None) == normal


@pytest.mark.parametrize(
    ("header", "length", "positions"),
    [
        ("bytes=0-", 10, range(10)),
        ("bytes=3-4", 10, range(3, 5)),
        ("bytes=3-40", 10, range(3, 10)),
        ("bytes=-4", 10, range(6, 10)),
        ("bytes=-20", 10, range(10)),
        ("bytes=-0", 10, range(0)),
        ("bytes=10-", 10, range(0)),
        ("bytes=10-20", 10, range(0)),
        ("bytes=9999999999999999999-", 10, range(0)),
        ("bytes=0-", 0, range(0)),
        ("bytes=-5", 0, range(0)),
    ],
)
def test_a_range_stands_for_positions_of_a_file(header: str, length: int, positions: range) -> None:
    asked = parse_range(header)
    assert asked is not None
    assert asked.within(length) == positions
    assert asked.is_satisfiable or not positions


@pytest.mark.parametrize(
    ("content_range", "asked", "answers"),
    [
        ("bytes 0-4/10", "bytes=0-4", True),
        ("BYTES 0-4/10", "bytes=0-4", True),
        ("bytes 0-4/*", "bytes=0-4", True),
        ("bytes 0-3/*", "bytes=0-4", False),
        ("bytes 5-9/*", "bytes=5-", False),
        ("bytes 5-9/*", "bytes=-5", False),
        ("bytes 0-3/10", "bytes=0-4", False),
        ("bytes 0-3/4", "bytes=0-4", True),
        ("bytes 1-4/10", "bytes=0-4", False),
        ("bytes 0-5/10", "bytes=0-4", False),
        ("bytes 5-9/10", "bytes=5-", True),
        ("bytes 5-9/10", "bytes=-5", True),
        ("bytes 0-4/10", "bytes=-5", False),
        ("bytes 0-9/10", "bytes=-50", True),
        ("bytes 4-8/10", "bytes=-5", False),
        ("bytes 0-9/10", None, True),
        ("bytes 0-8/10", None, False),
        ("bytes 0-8/*", None, False),
    ],
)
def test_206_must_match_the_requested_range(content_range: str, asked: str | None, answers: bool) -> None:
    parsed = parse_content_range(content_range)
    assert parsed is not None
    assert parsed.answers(parse_range(asked)) is answers


@pytest.mark.parametrize(
    "content_range",
    [
        *("", "bytes */10", "bytes 10-9/10", "bytes 0-999999/99698", "bytes 0--1/0", "bytes 0-9/9", "bytes=0-9/10"),
        *("bytes 0-9", "byte 0-9/10", "0-9/10", "bytes 0-9/10, bytes 0-9/10", "bytes 0-9/" + "9" * 30),
    ],
)
def test_a_content_range_that_is_malformed_or_impossible_is_none(content_range: str) -> None:
    assert parse_content_range(content_range) is None


def test_every_range_of_every_small_file_is_what_its_header_says() -> None:
    for length in range(6):
        for first in [None, *range(7)]:
            for last in [None, *range(7)]:
                if first is None and last is None:
                    continue
                asked = parse_range(ByteRange(first, last).header)
                content = bytes(range(length))
                if first is None:
                    expected = content[-last:] if last else b""
                elif last is not None and last < first:
                    assert asked is None
                    continue
                else:
                    expected = content[first : None if last is None else last + 1]
                assert asked is not None
                positions = asked.within(length)
                assert content[positions.start : positions.stop] == expected, (length, first, last)


CHANGED = 784111777  # Sun, 06 Nov 1994 08:49:37 GMT


@pytest.mark.usefixtures("_time_zone")
@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", CHANGED),
        ("Sunday, 06-Nov-94 08:49:37 GMT", CHANGED),
        ("Sun Nov  6 08:49:37 1994", CHANGED),
        ("Sun, 06 Nov 1994 08:49:37 -0000", CHANGED),
        ("Sun, 06 Nov 1994 08:49:37", CHANGED),
        ("Sun, 06 Nov 1994 09:49:37 +0100", CHANGED),
        ("Sat, 31 Dec 2016 23:59:60 GMT", 1483228799),
        ("Sun, 31 Feb 1994 08:49:37 GMT", None),
        ("yesterday", None),
        ("", None),
        (None, None),
    ],
)
def test_a_date_is_an_instant_wherever_the_machine_is(text: str | None, seconds: int | None) -> None:
    assert http_date(text) == seconds


def test_a_year_of_two_digits_is_at_most_50_years_ahead() -> None:
    this_year = datetime.now(UTC).year
    for year in range(this_year - 49, this_year + 51):
        date = http_date(f"Monday, 01-Jan-{year % 100:02} 00:00:00 GMT")
        assert date is not None
        assert datetime.fromtimestamp(date, UTC).year == year


def test_no_text_makes_a_date_raise() -> None:
    rng = random.Random(8)
    parts = ["Sun", ",", " ", "06", "Nov", "1994", "-", "08:49:37", "GMT", "+9999", ":", "é", "\x00", "99", "."]
    for _ in range(20_000):
        http_date("".join(rng.choices(parts, k=rng.randrange(12))))


DATE, EARLIER, LATER = (f"Sun, 06 Nov 1994 08:49:{second} GMT" for second in (37, 36, 38))
FILE = {"ETag": '"a,b"', "Last-Modified": DATE}


@pytest.mark.usefixtures("_time_zone")
@pytest.mark.parametrize(
    ("request_headers", "file", "fails"),
    [
        ({}, FILE, False),
        ({"If-Match": '"a,b"'}, FILE, False),
        ({"If-Match": '"x", "a,b"'}, FILE, False),
        ({"If-Match": "*"}, FILE, False),
        ({"If-Match": '"a"'}, FILE, True),
        ({"If-Match": 'W/"a,b"'}, FILE, True),
        ({"If-Match": 'W/"a,b"'}, {"ETag": 'W/"a,b"'}, True),
        ({"If-Match": '"a,b"'}, {}, True),
        ({"If-Match": "unquoted"}, {"ETag": "unquoted"}, False),
        ({"If-Unmodified-Since": DATE}, FILE, False),
        ({"If-Unmodified-Since": LATER}, FILE, False),
        ({"If-Unmodified-Since": EARLIER}, FILE, True),
        ({"If-Unmodified-Since": "Sunday, 06-Nov-94 08:49:36 GMT"}, FILE, True),
        ({"If-Unmodified-Since": "Sun Nov  6 08:49:37 1994"}, FILE, False),
        ({"If-Unmodified-Since": "never"}, FILE, False),
        ({"If-Unmodified-Since": EARLIER}, {"ETag": '"x"'}, False),
        ({"If-Match": '"a,b"', "If-Unmodified-Since": EARLIER}, FILE, False),
    ],
)
def test_a_precondition_fails_unless_tag_or_date_match(
    request_headers: dict[str, str], file: dict[str, str], fails: bool
) -> None:
    assert precondition_fails(request_headers, file) is fails


@pytest.mark.usefixtures("_time_zone")
@pytest.mark.parametrize(
    ("request_headers", "file", "unchanged"),
    [
        ({}, FILE, False),
        ({"If-None-Match": '"a,b"'}, FILE, True),
        ({"If-None-Match": '"x", W/"a,b"'}, FILE, True),
        ({"If-None-Match": '"a'}, FILE, False),
        ({"If-None-Match": '"a", "b"'}, FILE, False),
        ({"If-None-Match": "*"}, FILE, True),
        ({"If-None-Match": "unquoted"}, {"ETag": "unquoted"}, True),
        ({"If-None-Match": '"é"'}, {"ETag": '"é"'}, True),
        ({"If-None-Match": '"x"', "If-Modified-Since": DATE}, FILE, False),
        ({"If-Modified-Since": DATE}, FILE, True),
        ({"If-Modified-Since": EARLIER}, FILE, False),
        ({"If-Modified-Since": "Sun, 06 Nov 1994 08:49:36 -0000"}, FILE, False),
        ({"If-Modified-Since": "Sun Nov  6 08:49:36 1994"}, FILE, False),
        ({"If-Modified-Since": "Sun Nov  6 08:49:37 1994"}, FILE, True),
        ({"If-Modified-Since": DATE}, {"Last-Modified": "Sun, 06 Nov 1994 08:49:38 -0000"}, False),
    ],
)
def test_not_modified_follows_from_tag_or_date(
    request_headers: dict[str, str], file: dict[str, str], unchanged: bool
) -> None:
    assert not_modified(request_headers, file) is unchanged


@pytest.mark.usefixtures("_time_zone")
@pytest.mark.parametrize(
    ("if_range", "holds"),
    [
        (None, True),
        ('"a,b"', True),
        (' "a,b"', True),
        ('W/"a,b"', False),
        ('"a"', False),
        (DATE, True),
        ("Sunday, 06-Nov-94 08:49:37 GMT", True),
        ("Sun Nov  6 08:49:37 1994", True),
        (LATER, False),
        (EARLIER, False),
        ("never", False),
    ],
)
def test_if_range_holds_for_the_same_tag_or_date(if_range: str | None, holds: bool) -> None:
    assert if_range_matches({} if if_range is None else {"If-Range": if_range}, FILE) is holds
