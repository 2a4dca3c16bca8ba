"""Values of criteria, as a client writes them → what a search compares (docs/contract.md section 5).

Each parser raises ValueError, whose text says what is allowed.
"""

from collections.abc import Callable
from dataclasses import dataclass

from app.recordings.dates import parse_query_instant
from app.search.fields import TextField
from app.search.pattern import Pattern
from app.search.trigrams import mark

# Limits of the work that one request can cause. A text of the maximum length also fits into the 64 KiB of a URL.
MAX_LENGTH = 5_000
MAX_WORDS = 50
MAX_STARS = 50
# Elasticsearch refuses wildcards whose automaton grows too large. The worst pattern of this length is far from that.
MAX_LENGTH_WITH_SHORT_PART = 200


@dataclass(frozen=True)
class Terms:
    """Patterns of which a recording must match any group, and all patterns of that group."""

    groups: tuple[tuple[Pattern, ...], ...]

    @classmethod
    def any_of(cls, *patterns: Pattern) -> "Terms":
        return cls(tuple((pattern,) for pattern in dict.fromkeys(patterns)))

    @property
    def length_with_inner_stars(self) -> int:
        """The length of all patterns with a star between two parts, in characters of trigrams."""
        return sum(
            len(mark("".join(pattern.parts))) for group in self.groups for pattern in group if pattern.has_inner_star
        )


def instant_after(text: str) -> int:
    """Parses a time; a recording that started in the same millisecond did not start after it."""
    return parse_query_instant(text)


def instant_before(text: str) -> int:
    """Parses a time. A recording that stopped in the same millisecond did stop before a later instant within it."""
    return parse_query_instant(text, round_up=True)


def whole(field: TextField) -> Callable[[str], Terms]:
    """Returns the parser of one pattern."""

    def parse(text: str) -> Terms:
        _check_stars(text)
        return Terms.any_of(_pattern(field.fold(text)))

    return parse


def words(field: TextField) -> Callable[[str], Terms]:
    """Returns the parser of words, of which any must match; so may the whole text, in which `*` is not special."""

    def parse(text: str) -> Terms:
        patterns = [_pattern(field.fold(word)) for word in _split(text)]
        return Terms.any_of(*patterns, Pattern.literal(field.fold(text)))

    return parse


def words_with_and(field: TextField) -> Callable[[str], Terms]:
    """Returns the parser of words between which AND may stand, which binds tighter: `a AND b c` is (a, b) or (c)."""

    def parse(text: str) -> Terms:
        groups: list[list[Pattern]] = []
        joins = True  # Whether the previous word was AND. A leading AND is as wrong as a doubled one.
        for position, word in enumerate(_split(text)):
            if word == "AND":
                if joins:
                    raise ValueError("AND must stand between two words")
                joins = True
                continue
            pattern = _pattern(field.fold(word))
            if joins and position:
                groups[-1].append(pattern)
            else:
                groups.append([pattern])
            joins = False
        if joins:
            raise ValueError("AND must stand between two words" if groups else "it has no word")
        return Terms(tuple(tuple(group) for group in groups))

    return parse


def _split(text: str) -> list[str]:
    _check_stars(text)
    found = text.split()
    if len(found) > MAX_WORDS:
        raise ValueError(f"it must have at most {MAX_WORDS} words")
    return found


def _check_stars(text: str) -> None:
    if text.count("*") > MAX_STARS:
        raise ValueError(f"it must have at most {MAX_STARS} wildcards (*)")


def _pattern(text: str) -> Pattern:
    pattern = Pattern.parse(text)
    if pattern.has_short_inner_part and len(text) > MAX_LENGTH_WITH_SHORT_PART:
        raise ValueError(
            "with one or two characters between two wildcards (*) a word must have at most "
            f"{MAX_LENGTH_WITH_SHORT_PART} characters"
        )
    return pattern
