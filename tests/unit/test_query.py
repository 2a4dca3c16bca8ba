"""Query string → criteria → query DSL, without Elasticsearch (docs/contract.md section 5)."""

from typing import Any

import pytest

from app.auth.scope import Scope
from app.errors import InvalidParameter, MissingParameter, RecallError
from app.search.criteria import parse_search
from app.search.paging import Cursor, PageRequest
from app.search.pattern import Pattern
from app.search.query import query, search_body
from app.search.trigrams import mark, tokens_of_part, tokens_of_value

S, E = "\ufdd0", "\ufdd1"
SPACE = mark(" ")


def clause(name: str, value: str) -> Any:
    """The clause of one parameter, beside the filters that every search has."""
    criteria, _ = parse_search([(name, value)])
    contact_center, region, *clauses = query(Scope("cc", "eu"), criteria)["bool"]["filter"]
    assert contact_center == {"term": {"contactCenter": "cc"}}
    assert region == {"term": {"region": "eu"}}
    assert len(clauses) == 1
    return clauses[0]


def phrase(field: str, *tokens: str) -> dict[str, Any]:
    return {"match_phrase": {field: " ".join(tokens)}}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("callerPhoneNumber", "+1650", {"term": {"callerPhoneNumber": "+1650"}}),
        ("dialedPhoneNumber", "+1650", {"term": {"dialedPhoneNumber": "+1650"}}),
        ("phoneNumber", " 1650", {"term": {"phoneNumbers": "+1650"}}),
        ("minDuration", "0", {"range": {"duration": {"gte": 0}}}),
        ("minDuration", "1.0005", {"range": {"duration": {"gte": 1001}}}),
        ("minDuration", "007.5000", {"range": {"duration": {"gte": 7500}}}),
        ("maxDuration", "1.0005", {"range": {"duration": {"lte": 1000}}}),
        ("maxDuration", "9" * 5000, {"range": {"duration": {"lte": 10**18}}}),
        ("label", "Court-\u212a", {"term": {"labelNames": "court-k"}}),
        ("nonDelete", "true", {"term": {"nonDelete": True}}),
        ("nonDelete", "false", {"term": {"nonDelete": False}}),
        ("callUUID", " Ae\u0301*", {"term": {"callUUIDs": " A\u00e9*"}}),
        ("mediaId", "*", {"term": {"mediaIds": "*"}}),
        ("startTime", "2013-05-17T11:45:32.5-0800", {"range": {"startTime": {"gt": 1368819932500}}}),
        ("startTime", "2013-05-17T11:45:32.500 0800", {"range": {"startTime": {"gt": 1368762332500}}}),
        ("startTime", "2013-05-17", {"range": {"startTime": {"gt": 1368748800000}}}),
        ("startTime", "0", {"range": {"startTime": {"gt": 0}}}),
        ("startTime", "1970-01-01T00:00:00.0019Z", {"range": {"startTime": {"gt": 1}}}),
        ("endTime", "1970-01-01T00:00:00.0011Z", {"range": {"stopTime": {"lt": 2}}}),
        ("endTime", "-500000000000", {"range": {"stopTime": {"lt": -500000000000}}}),
        ("userName", "Straße", {"term": {"userNames": "strasse"}}),
        ("userData", "Tom", {"term": {"userData": "Tom"}}),
    ],
)
def test_each_parameter_becomes_its_clause(name: str, value: str, expected: dict[str, Any]) -> None:
    assert clause(name, value) == expected


def test_words_of_a_user_name_are_alternatives_with_and_binding_tighter() -> None:
    a, b, c = ({"term": {"userNames": word}} for word in "abc")
    assert clause("userName", " a AND  b c ") == {
        "bool": {"should": [{"bool": {"filter": [a, b]}}, c], "minimum_should_match": 1}
    }
    assert clause("userName", "a and") == {
        "bool": {"should": [a, {"term": {"userNames": "and"}}], "minimum_should_match": 1}
    }


def test_words_of_a_label_are_alternatives_with_and_binding_tighter() -> None:
    a, b, c = ({"term": {"labelNames": word}} for word in "abc")
    assert clause("label", " A AND  b C ") == {
        "bool": {"should": [{"bool": {"filter": [a, b]}}, c], "minimum_should_match": 1}
    }


def test_screen_recordings_have_no_labels_to_search_by() -> None:
    with pytest.raises(InvalidParameter, match=r"^Parameter 'label' is invalid: screen recordings cannot"):
        parse_search([("startTime", "0"), ("label", "a")], "screen-recordings")


def test_user_data_matches_any_word_or_the_whole_value() -> None:
    assert clause("userData", "tom AND") == {
        "bool": {
            "should": [{"term": {"userData": text}} for text in ("tom", "AND", "tom AND")],
            "minimum_should_match": 1,
        }
    }


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*", {"exists": {"field": "callerPhoneNumber"}}),
        ("***", {"exists": {"field": "callerPhoneNumber"}}),
        ("abcd*", phrase("callerPhoneNumberTrigrams", f"{S}{S}a", f"{S}ab", "abc", "bcd")),
        ("*abcd", phrase("callerPhoneNumberTrigrams", "abc", "bcd", f"cd{E}")),
        ("*abcd**", phrase("callerPhoneNumberTrigrams", "abc", "bcd")),
        ("a*", phrase("callerPhoneNumberTrigrams", f"{S}{S}a")),
        ("*a", phrase("callerPhoneNumberTrigrams", f"a{E}")),
        ("*ab*", {"prefix": {"callerPhoneNumberTrigrams": "ab"}}),
        ("*a b*", phrase("callerPhoneNumberTrigrams", f"a{SPACE}b")),
    ],
)
def test_pattern_with_one_part_is_one_phrase(pattern: str, expected: dict[str, Any]) -> None:
    assert clause("callerPhoneNumber", pattern) == expected


def test_parts_around_a_star_are_ordered_spans_within_one_value() -> None:
    field = "callerPhoneNumberTrigrams"
    assert clause("callerPhoneNumber", "ab*xyz*")["span_not"] == {
        "include": {
            "span_near": {
                "clauses": [
                    {
                        "span_near": {
                            "clauses": [{"span_term": {field: f"{S}{S}a"}}, {"span_term": {field: f"{S}ab"}}],
                            "slop": 0,
                            "in_order": True,
                        }
                    },
                    {"span_gap": {field: 2}},
                    {"span_term": {field: "xyz"}},
                ],
                "slop": 2**31 - 1,
                "in_order": True,
            }
        },
        "exclude": {"span_term": {field: E}},
    }


def test_short_part_between_stars_is_a_wildcard_with_escapes() -> None:
    assert clause("callerPhoneNumber", "a?\\*b**cde")["bool"]["filter"] == [
        phrase("callerPhoneNumberTrigrams", f"{S}{S}a", f"{S}a?", "a?\\"),
        {"prefix": {"callerPhoneNumberTrigrams": "b"}},
        phrase("callerPhoneNumberTrigrams", "cde", f"de{E}"),
        {"wildcard": {"callerPhoneNumber": {"value": "a\\?\\\\*b*cde"}}},
    ]


@pytest.mark.parametrize(
    ("name", "value", "field", "today", "former"),
    [
        ("callerPhoneNumber", "\uff0b1650", "callerPhoneNumber", "+1650", "\uff0b1650"),
        ("userName", "JOSE\u0301", "userNames", "jos\u00e9", "jose\u0301"),
        ("userName", "\u0130", "userNames", "i", "i\u0307"),
        ("userData", "Jose\u0301", "userData", "Jos\u00e9", "Jose\u0301"),
    ],
)
def test_documents_that_were_folded_otherwise_are_found_as_before(
    name: str, value: str, field: str, today: str, former: str
) -> None:
    terms = [{"term": {field: form}} for form in (today, former)]
    found = clause(name, value)["bool"]["should"]
    assert [term for one in found for term in one.get("bool", {}).get("should", [one])][:2] == terms


@pytest.mark.parametrize(
    ("value", "pattern"),
    [(" 1650*", "+1650*"), ("\u202a 1650* ", "+1650*"), ("\u00a01650*\t", "1650*"), ("\uff11650*", "1650*")],
)
def test_a_number_is_read_as_it_was_meant(value: str, pattern: str) -> None:
    found = clause("callerPhoneNumber", value)
    meant = clause("callerPhoneNumber", pattern)
    assert meant in (found, found.get("bool", {}).get("should", [None])[0])


def test_a_full_width_star_is_no_wildcard() -> None:
    assert clause("callerPhoneNumber", "1\uff0a")["bool"]["should"][0] == {"term": {"callerPhoneNumber": "1*"}}
    assert clause("userName", "a\uff0a")["bool"]["should"][0] == {"term": {"userNames": "a*"}}


def test_one_word_with_many_short_parts_walks_through_two_dictionaries_at_most() -> None:
    field = "userDataTrigrams"
    assert clause("userData", "*a*bc*d*xyz*e*")["bool"]["should"][0]["bool"]["filter"] == [
        {"prefix": {field: "bc"}},
        phrase(field, "xyz"),
        {"wildcard": {"userData": {"value": "*a*bc*d*xyz*e*"}}},
    ]


def test_value_longer_than_a_keyword_is_matched_by_its_trigrams() -> None:
    assert "match_phrase" in clause("userName", "\ufb03" * 3000)  # three characters each when folded


def test_tokens_have_no_white_space_and_end_with_the_mark() -> None:
    value = "".join(map(chr, range(0x3001)))
    tokens = tokens_of_value(value).split(" ")
    assert len(tokens) == len(value) + 3
    assert tokens[-1] == E
    java_white_space = "\t\n\v\f\r\x1c\x1d\x1e\x1f \u1680\u2000\u200a\u2028\u2029\u205f\u3000"
    assert not set("".join(tokens)) & set(java_white_space)


def test_reserved_characters_in_a_value_are_not_marks() -> None:
    for text in (S, E, mark(" "), S + "a", "a" + E):
        assert not set(tokens_of_value(text).split()) & set(tokens_of_part(mark("", at_end=True) + E))
        assert mark(text) != text
    marks = {mark(chr(0xFDD0 + i)) for i in range(32)} | {mark(c) for c in " \t\n\u3000"}
    assert len(marks) == 36


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ([], MissingParameter, "at least one of callerPhoneNumber, dialedPhoneNumber, phoneNumber, startTime, endTime"),
        ([("offset", "1"), ("limit", "5")], MissingParameter, "at least one of"),
        ([("username", "a")], InvalidParameter, "Parameter 'username' is invalid: it is not known"),
        ([("userName", "a"), ("userName", "a")], InvalidParameter, "'userName' is invalid: it is given more than once"),
        ([("userData", "")], InvalidParameter, "'userData' is invalid: it is empty"),
        ([("userName", "  ")], InvalidParameter, "'userName' is invalid"),
        ([("userName", "AND")], InvalidParameter, "AND must stand between two words"),
        ([("userName", "AND a")], InvalidParameter, "AND must stand between two words"),
        ([("userName", "a AND")], InvalidParameter, "AND must stand between two words"),
        ([("userName", "a AND AND b")], InvalidParameter, "AND must stand between two words"),
        ([("startTime", "yesterday")], InvalidParameter, "'startTime' is invalid: it must be a date like"),
        ([("endTime", "2013-02-30")], InvalidParameter, "'endTime' is invalid: there is no such date"),
        ([("endTime", "999999999999999")], InvalidParameter, "between the years 1 and 9999"),
        ([("startTime", "20130517")], InvalidParameter, "epoch milliseconds (12 digits or more, or 0)"),
        ([("startTime", "2013")], InvalidParameter, "it must be a date like 2013-05-17"),
        ([("endTime", "1368792000")], InvalidParameter, "12 digits or more"),
        ([("endTime", "-1")], InvalidParameter, "12 digits or more"),
        ([("callerPhoneNumber", "\u200b")], InvalidParameter, "invisible characters only"),
        ([("dialedPhoneNumber", "\u00a0")], InvalidParameter, "invisible characters only"),
        ([("userName", "\u2060")], InvalidParameter, "invisible characters only"),
        ([("userName", "a \u2060")], InvalidParameter, "invisible characters only"),
        ([("callerPhoneNumber", "\ufdfa" * 2000)], InvalidParameter, "20000 characters after Unicode normalization"),
        ([("phoneNumber", "\u200b")], InvalidParameter, "invisible characters only"),
        *(
            ([(name, text)], InvalidParameter, f"'{name}' is invalid: it must be a number of seconds, 0 or greater")
            for name in ("minDuration", "maxDuration")
            for text in (
                "-1",
                "+1",
                " 1",
                "1 ",
                "1e3",
                ".5",
                "5.",
                "1,5",
                "0x1",
                "NaN",
                "Infinity",
                "1_0",
                "\u0663",
                "1s",
            )
        ),
        *(
            ([("nonDelete", text)], InvalidParameter, "'nonDelete' is invalid: it must be true or false")
            for text in ("True", "FALSE", "1", "yes", "*", " true")
        ),
        *(
            ([("startTime", "0"), ("order", text)], InvalidParameter, "'order' is invalid: it must be newest or oldest")
            for text in ("Newest", "asc", "oldest ", "*")
        ),
        ([("phonenumber", "1")], InvalidParameter, "'phonenumber' is invalid: it is not known; known are"),
        ([("order", "oldest")], MissingParameter, "at least one of"),
        ([("userData", "x" * 5001)], InvalidParameter, "at most 5000 characters"),
        ([("userData", "x " * 51)], InvalidParameter, "at most 50 words"),
        ([("userData", "*" * 51)], InvalidParameter, "at most 50 wildcards"),
        ([("callerPhoneNumber", "*" * 51)], InvalidParameter, "at most 50 wildcards"),
        (
            [("callerPhoneNumber", f"abc*{'x' * 4000}"), ("userData", f"abc*{'x' * 2000}")],
            InvalidParameter,
            "'userData' is invalid: all words with a wildcard (*) inside must together have at most 6000 characters",
        ),
        ([("userData", f"abc*{chr(0xFDD0) * 1000}")], InvalidParameter, "at most 6000 characters"),
        ([("callerPhoneNumber", f"*12*{'x' * 200}")], InvalidParameter, "at most 200 characters"),
        ([("userData", "*a*b *c*d *e*f")], InvalidParameter, "'userData' is invalid: at most 2 words of a search"),
        (
            [("callerPhoneNumber", "*1*"), ("userName", "*ab*"), ("userData", "*a*b*")],
            InvalidParameter,
            "'userData' is invalid: at most 2 words of a search may have one or two characters between two wildcards",
        ),
    ],
)
def test_missing_or_invalid_parameter_is_named(
    parameters: list[tuple[str, str]], error: type[RecallError], message: str
) -> None:
    with pytest.raises(error, match=r"^Parameter '") as raised:
        parse_search(parameters)
    assert message in raised.value.message


def test_query_requests_one_more_than_a_page_in_index_order() -> None:
    criteria, page = parse_search([("startTime", "0"), ("offset", "40"), ("limit", "20")])
    body = search_body(Scope("cc", "eu"), criteria, page)
    assert (body["from"], body["size"]) == (40, 21)
    assert body["sort"] == ({"startTime": "desc"}, {"id": "asc"})
    assert body["track_total_hits"] is False


def test_a_window_of_time_is_narrowed_by_the_order_of_the_index() -> None:
    def clauses(*parameters: tuple[str, str]) -> list[Any]:
        found: list[Any] = query(Scope("cc", "eu"), parse_search(parameters)[0])["bool"]["filter"]
        return found[2:]

    start, end = ("startTime", "100000000000"), ("endTime", "200000000000")
    after, before = {"range": {"startTime": {"gt": 10**11}}}, {"range": {"stopTime": {"lt": 2 * 10**11}}}
    assert clauses(start) == [after]
    assert clauses(end) == [before]
    within = {"range": {"startTime": {"gt": 10**11, "lt": 2 * 10**11}}}
    backwards = {"bool": {"filter": [{"range": {"duration": {"lt": 0}}}, after]}}
    assert clauses(end, start) == [after, before, {"bool": {"should": [within, backwards], "minimum_should_match": 1}}]


def test_cursor_replaces_the_offset() -> None:
    criteria, _ = parse_search([("startTime", "0")])
    before = search_body(Scope("cc", "eu"), criteria, PageRequest(40, 20, Cursor("before", 5, "x")))
    assert "from" not in before
    assert before["search_after"] == [5, "x"]
    assert before["sort"] == ({"startTime": "asc"}, {"id": "desc"})


def test_cursor_survives_a_link() -> None:
    cursor = Cursor("after", -1, "ü/?&")
    assert Cursor.decode(cursor.encode()) == cursor


@pytest.mark.parametrize(
    ("text", "parts"), [("", ("",)), ("a", ("a",)), ("*", ("", "")), ("a**b*", ("a", "b", "")), ("*a", ("", "a"))]
)
def test_pattern_consists_of_the_parts_between_stars(text: str, parts: tuple[str, ...]) -> None:
    assert Pattern.parse(text).parts == parts
