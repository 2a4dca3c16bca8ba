"""Which characters of a value a search matched, so that a reader sees why a recording was found. Pure functions."""

from collections.abc import Callable, Iterator

from app.search.parsers import Terms
from app.search.pattern import Pattern

Span = tuple[int, int]


def matched_spans(terms: Terms, value: str, fold: Callable[[str], str]) -> list[Span]:
    """Returns the parts of a value that terms match, in order and without overlap.

    `fold` is that of the field. Where folding moves characters, the whole value stands for the part that matched.
    A star alone matches everything, so it marks nothing.
    """
    folded = fold(value)
    is_aligned = len(folded) == len(value) and all(map(lambda one, other: fold(one) == other, value, folded))
    patterns = {pattern for group in terms.groups for term in group for pattern in term.forms}
    spans: set[Span] = set()
    for pattern in patterns:
        spans.update((span if is_aligned else (0, len(value))) for span in _match(pattern, folded))
    return list(_joined(sorted(spans)))


def _match(pattern: Pattern, text: str) -> list[Span]:
    """Returns where the parts of a pattern stand in a text, nothing if the text does not match as a whole."""
    if pattern.is_literal:
        return [(0, len(text))] if pattern.parts[0] == text else []
    first, *inner, last = pattern.parts
    end = len(text) - len(last)
    if len(first) > end or not (text.startswith(first) and text.endswith(last)):
        return []
    spans = [(0, len(first))]
    for part in inner:
        start = text.find(part, spans[-1][1], end)
        if start < 0:
            return []
        spans.append((start, start + len(part)))
    return [span for span in (*spans, (end, len(text))) if span[0] < span[1]]


def _joined(spans: list[Span]) -> Iterator[Span]:
    """Yields spans in order, those that touch as one."""
    start = end = 0
    for each_start, each_end in spans:
        if each_start > end:
            if start < end:
                yield start, end
            start = each_start
        end = max(end, each_end)
    if start < end:
        yield start, end
