"""Which parts of a value are marked as what the search matched."""

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.folding import fold_name, fold_number, fold_text
from app.page import rows
from app.search.fields import CALLER_PHONE_NUMBER, USER_DATA, USER_NAMES
from app.search.marks import matched_spans
from app.search.parsers import number, words, words_with_and


@pytest.mark.parametrize(
    ("pattern", "value", "marked"),
    [
        ("+1650*", "+16504668888", ["+1650"]),
        ("*8888", "+16504668888", ["8888"]),
        ("*466*", "+16504668888", ["466"]),
        ("+1*4*8", "+16504668888", ["+1", "4", "8"]),
        ("+16504668888", "+16504668888", ["+16504668888"]),
        ("+1650", "+16504668888", []),
        ("*", "+16504668888", []),
        ("12*21", "121", []),
        ("*1*1*1*", "1111", ["111"]),
        # Folding removes what has no shape, so characters do not stand where they stood.
        ("+1650*", "+1\u200b6504668888", ["+1\u200b6504668888"]),
    ],
)
def test_parts_of_a_number_that_a_pattern_names_are_marked(pattern: str, value: str, marked: list[str]) -> None:
    spans = matched_spans(number(CALLER_PHONE_NUMBER)(pattern), value, fold_number)
    assert [value[start:end] for start, end in spans] == marked


@pytest.mark.parametrize(
    ("query", "value", "marked"),
    [
        ("dima", "Dima", ["Dima"]),
        ("d*a AND *po*", "Dima", ["D", "a"]),
        ("strasse", "Straße", ["Straße"]),
        ("jose", "José", []),
        ("x dima", "DIMA", ["DIMA"]),
    ],
)
def test_words_of_a_name_are_marked_whatever_their_case(query: str, value: str, marked: list[str]) -> None:
    spans = matched_spans(words_with_and(USER_NAMES)(query), value, fold_name)
    assert [value[start:end] for start, end in spans] == marked


def test_a_value_that_equals_the_whole_text_is_marked() -> None:
    assert matched_spans(words(USER_DATA)("Tom Jerry"), "Tom Jerry", fold_text) == [(0, 9)]
    assert matched_spans(words(USER_DATA)("Tom Jerry"), "Tom", fold_text) == [(0, 3)]


@given(st.text(alphabet="ab*", min_size=1, max_size=8), st.text(alphabet="ab", max_size=12))
def test_something_is_marked_exactly_when_a_named_part_matches(pattern: str, value: str) -> None:
    spans = matched_spans(number(CALLER_PHONE_NUMBER)(pattern), value, fold_number)
    matches = re.fullmatch(pattern.replace("*", ".*"), value) is not None
    assert bool(spans) == (matches and bool(pattern.strip("*")) and bool(value))
    text = "".join(value[start:end] for start, end in spans)
    assert not spans or text == pattern.replace("*", "")
    assert all(one[1] < other[0] for one, other in pairwise(spans))


@pytest.mark.parametrize("query", [None, "b*", "a"])
def test_a_name_of_very_many_words_is_cut(query: str | None) -> None:
    """Whether its words are looked at or not: each would be an element of the page."""
    terms = {} if query is None else {"userName": words(USER_NAMES)(query)}
    pieces = rows._Marker(terms).name("a " * 100_000)
    assert sum(len(piece.text) for piece in pieces) <= rows._LONGEST + 1
