"""What is searched for → Elasticsearch query DSL. Pure functions.

| parameter           | clause                     | fields                            |
|---------------------|----------------------------|-----------------------------------|
| `callerPhoneNumber` | pattern                    | `callerPhoneNumber`, `…Trigrams`  |
| `dialedPhoneNumber` | pattern                    | `dialedPhoneNumber`, `…Trigrams`  |
| `startTime`         | `range` `gt`               | `startTime`                       |
| `endTime`           | `range` `lt`               | `stopTime`                        |
| `userName`          | any group of all patterns  | `userNames`, `userNamesTrigrams`  |
| `userData`          | any pattern                | `userData`, `userDataTrigrams`    |
| (every search)      | `term`                     | `contactCenter`, `region`         |

A pattern is `term` without a star, `exists` for a star alone, a phrase of trigrams for one part, and such phrases in
order (spans) for several. A part of one or two characters is a `prefix`, and beside other parts needs `wildcard` too.
"""

import re
from typing import Any

from app.auth.scope import Scope
from app.search.criteria import Criteria, Page
from app.search.pattern import Pattern
from app.search.trigrams import END, mark, tokens_of_part

Query = dict[str, Any]

# A keyword may have 32,766 UTF-8 bytes: this many characters always fit. Of a longer value the keyword
# holds only so many (`app/store/documents.py`), while its trigrams hold all of it.
MAX_KEYWORD_LENGTH = 8_000

_ANY_DISTANCE = 2**31 - 1

ORDER = ({"startTime": "desc"}, {"id": "asc"})
_REVERSED_ORDER = ({"startTime": "asc"}, {"id": "desc"})


def search_body(scope: Scope, criteria: Criteria, page: Page) -> Query:
    """The body of a search for `page.limit` recordings and one more, which tells whether others follow.

    Beside a cursor that says "before", the hits come in reversed order.
    """
    body: Query = {
        "query": query(scope, criteria),
        "sort": ORDER,
        "size": page.limit + 1,
        "track_total_hits": False,
    }
    if page.cursor is None:
        body["from"] = page.offset
    else:
        body["search_after"] = [page.cursor.start_time, page.cursor.recording_id]
        if page.cursor.direction == "before":
            body["sort"] = _REVERSED_ORDER
    return body


def query(scope: Scope, criteria: Criteria) -> Query:
    """All criteria together, within what the caller may see."""
    clauses: list[Query] = _within(scope)
    if criteria.started_after is not None:
        clauses.append({"range": {"startTime": {"gt": criteria.started_after}}})
    if criteria.ended_before is not None:
        clauses.append({"range": {"stopTime": {"lt": criteria.ended_before}}})
    if criteria.caller_phone_number is not None:
        clauses.append(_pattern("callerPhoneNumber", criteria.caller_phone_number))
    if criteria.dialed_phone_number is not None:
        clauses.append(_pattern("dialedPhoneNumber", criteria.dialed_phone_number))
    if criteria.user_name is not None:
        clauses.append(
            _any([_all([_pattern("userNames", pattern) for pattern in group]) for group in criteria.user_name])
        )
    if criteria.user_data is not None:
        clauses.append(_any([_pattern("userData", pattern) for pattern in criteria.user_data]))
    return _all(clauses)


def _within(scope: Scope) -> list[Query]:
    clauses: list[Query] = []
    if scope.contact_center is not None:
        clauses.append({"term": {"contactCenter": scope.contact_center}})
    clauses.append({"term": {"region": scope.region}})
    return clauses


def _all(clauses: list[Query]) -> Query:
    return clauses[0] if len(clauses) == 1 else {"bool": {"filter": clauses}}


def _any(clauses: list[Query]) -> Query:
    return clauses[0] if len(clauses) == 1 else {"bool": {"should": clauses, "minimum_should_match": 1}}


def _pattern(field: str, pattern: Pattern) -> Query:
    if pattern.is_literal:
        return _literal(field, pattern.parts[0])
    if pattern.matches_anything:
        return {"exists": {"field": field}}
    first, *inner, last = pattern.parts
    marked = [mark(first, at_start=True)] if first else []
    marked += map(mark, inner)
    marked += [mark(last, at_end=True)] if last else []
    parts = [tokens_of_part(part) for part in marked]
    if len(parts) == 1:
        return _part(field, marked[0])
    if all(parts):
        return _in_order(f"{field}Trigrams", parts)
    # Parts of one or two characters have no token of their own to look for by position, so only the keyword
    # can tell whether they stand in this order, in one value. The parts alone leave it few terms to look at.
    wildcard = {"wildcard": {field: {"value": "*".join(map(_escape, pattern.parts))}}}
    return _all([*(_part(field, part) for part in marked), wildcard])


def _literal(field: str, text: str) -> Query:
    # A keyword of just that length may be the beginning of a longer value.
    if len(text) < MAX_KEYWORD_LENGTH:
        return {"term": {field: text}}
    return _part(field, mark(text, at_start=True, at_end=True))


def _part(field: str, marked: str) -> Query:
    """Values that hold a part."""
    tokens = tokens_of_part(marked)
    field += "Trigrams"
    return {"match_phrase": {field: " ".join(tokens)}} if tokens else {"prefix": {field: marked}}


def _in_order(field: str, parts: list[list[str]]) -> Query:
    """Values that hold parts one after the other, without overlap.

    A trigram reaches two characters beyond its position, hence the gaps; END stands between values.
    """
    clauses: list[Query] = []
    for tokens in parts:
        terms: list[Query] = [{"span_term": {field: token}} for token in tokens]
        phrase = {"span_near": {"clauses": terms, "slop": 0, "in_order": True}} if len(terms) > 1 else terms[0]
        clauses += [{"span_gap": {field: 2}}, phrase] if clauses else [phrase]
    ordered = {"span_near": {"clauses": clauses, "slop": _ANY_DISTANCE, "in_order": True}}
    return {"span_not": {"include": ordered, "exclude": {"span_term": {field: END}}}}


def _escape(text: str) -> str:
    return re.sub(r"[\\*?]", r"\\\g<0>", text)
