"""What a search compares → clauses of Elasticsearch's query DSL. Pure functions.

A pattern without a star is a `term`, and a star alone is `exists`. A pattern with one part is a phrase of trigrams.
One with several parts is such phrases in order (spans). A part of one or two characters is a `prefix`; beside other
parts it needs a `wildcard` too. See docs/decisions/0003-wildcards-by-trigrams.md.
"""

import re
from collections.abc import Callable
from typing import Any

from app.search.fields import MAX_KEYWORD_LENGTH, Field, TextField
from app.search.parsers import Term, Terms
from app.search.pattern import Pattern
from app.search.trigrams import END, mark, tokens_of_part

Query = dict[str, Any]

_ANY_DISTANCE = 2**31 - 1


def matches(field: TextField) -> Callable[[Terms], Query]:
    """Returns the clause of terms: any group, and all patterns of that group."""
    return lambda terms: any_of([all_of([_term(field, term) for term in group]) for group in terms.groups])


def greater_than(field: Field) -> Callable[[int], Query]:
    """Returns the clause of values above a bound."""
    return lambda bound: {"range": {field.name: {"gt": bound}}}


def less_than(field: Field) -> Callable[[int], Query]:
    """Returns the clause of values below a bound."""
    return lambda bound: {"range": {field.name: {"lt": bound}}}


def at_least(field: Field) -> Callable[[int], Query]:
    """Returns the clause of a bound and the values above it."""
    return lambda bound: {"range": {field.name: {"gte": bound}}}


def at_most(field: Field) -> Callable[[int], Query]:
    """Returns the clause of a bound and the values below it."""
    return lambda bound: {"range": {field.name: {"lte": bound}}}


def equals(field: Field) -> Callable[[str | bool], Query]:
    """Returns the clause of one value."""
    return lambda value: {"term": {field.name: value}}


def all_of(clauses: list[Query]) -> Query:
    """Returns a query that matches when all clauses do."""
    return clauses[0] if len(clauses) == 1 else {"bool": {"filter": clauses}}


def any_of(clauses: list[Query]) -> Query:
    """Returns a query that matches when any clause does."""
    return clauses[0] if len(clauses) == 1 else {"bool": {"should": clauses, "minimum_should_match": 1}}


def _term(field: TextField, term: Term) -> Query:
    return any_of([_pattern(field, pattern) for pattern in term.forms])


def _pattern(field: TextField, pattern: Pattern) -> Query:
    if pattern.is_literal:
        return _literal(field, pattern.parts[0])
    if pattern.matches_anything:
        return {"exists": {"field": field.name}}
    first, *inner, last = pattern.parts
    marked = [mark(first, at_start=True)] if first else []
    marked += map(mark, inner)
    marked += [mark(last, at_end=True)] if last else []
    parts = [tokens_of_part(part) for part in marked]
    if len(parts) == 1:
        return _part(field, marked[0])
    if all(parts):
        return _in_order(field.trigrams, parts)
    # A part of one or two characters has no token with a position, so only the keyword can tell whether the parts
    # stand in this order within one value. The clauses of the parts leave fewer recordings; of the short parts, whose
    # clauses walk through a dictionary too, only the longest has one.
    wildcard = {"wildcard": {field.name: {"value": "*".join(map(_escape, pattern.parts))}}}
    longest = max((part for part in marked if not tokens_of_part(part)), key=len)
    helpful = [part for i, part in enumerate(marked) if tokens_of_part(part) or i == marked.index(longest)]
    return all_of([*(_part(field, part) for part in helpful), wildcard])


def _literal(field: TextField, text: str) -> Query:
    # A keyword of exactly the maximum length may be the beginning of a longer value.
    if len(text) < MAX_KEYWORD_LENGTH:
        return {"term": {field.name: text}}
    return _part(field, mark(text, at_start=True, at_end=True))


def _part(field: TextField, marked: str) -> Query:
    """Returns the clause of values that contain a part."""
    tokens = tokens_of_part(marked)
    return {"match_phrase": {field.trigrams: " ".join(tokens)}} if tokens else {"prefix": {field.trigrams: marked}}


def _in_order(trigrams: str, parts: list[list[str]]) -> Query:
    """Returns the clause of values that contain parts one after the other, without overlap.

    A trigram reaches two characters beyond its position, hence the gaps. END stands between values.
    """
    clauses: list[Query] = []
    for tokens in parts:
        terms: list[Query] = [{"span_term": {trigrams: token}} for token in tokens]
        phrase = {"span_near": {"clauses": terms, "slop": 0, "in_order": True}} if len(terms) > 1 else terms[0]
        clauses += [{"span_gap": {trigrams: 2}}, phrase] if clauses else [phrase]
    ordered = {"span_near": {"clauses": clauses, "slop": _ANY_DISTANCE, "in_order": True}}
    return {"span_not": {"include": ordered, "exclude": {"span_term": {trigrams: END}}}}


def _escape(text: str) -> str:
    return re.sub(r"[\\*?]", r"\\\g<0>", text)
