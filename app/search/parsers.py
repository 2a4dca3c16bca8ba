"""Values of criteria, as a client writes them → what a search compares (docs/contract.md section 5).

Each parser raises ValueError, whose text says what is allowed.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from app.folding import fold_text, without_format_characters
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
# Folding makes up to 18 characters of one.
MAX_FOLDED_LENGTH = 20_000

_DECIMAL = re.compile(r"([0-9]+)(?:\.([0-9]+))?")
# No recording lasts so long: its dates have years of four digits.
_MOST_DIGITS = 15


@dataclass(frozen=True)
class Term:
    """What a client wrote as one word or number: a pattern, and its former form where folding has changed.

    A value that is folded as today never matches a `former` that differs from the pattern. So it adds nothing but
    documents that were stored before.
    """

    pattern: Pattern
    former: Pattern

    @property
    def forms(self) -> tuple[Pattern, ...]:
        """The pattern, and its former form if that differs."""
        return tuple(dict.fromkeys((self.pattern, self.former)))


@dataclass(frozen=True)
class Terms:
    """Terms of which a recording must match any group, and all terms of that group."""

    groups: tuple[tuple[Term, ...], ...]

    @classmethod
    def any_of(cls, *terms: Term) -> "Terms":
        return cls(tuple((term,) for term in dict.fromkeys(terms)))

    @property
    def length_with_inner_stars(self) -> int:
        """The length of all patterns with a star between two parts, in characters of trigrams."""
        patterns = (pattern for group in self.groups for term in group for pattern in term.forms)
        return sum(len(mark("".join(pattern.parts))) for pattern in patterns if pattern.has_inner_star)

    @property
    def dictionary_walks(self) -> int:
        """How many of the terms Elasticsearch can only find by a walk through all or many values of a field."""
        terms = (term for group in self.groups for term in group)
        return sum(any(pattern.has_short_inner_part for pattern in term.forms) for term in terms)


def instant_after(text: str) -> int:
    """Parses a time; a recording that started in the same millisecond did not start after it."""
    return parse_query_instant(text)


def instant_before(text: str) -> int:
    """Parses a time. A recording that stopped in the same millisecond did stop before a later instant within it."""
    return parse_query_instant(text, round_up=True)


def seconds_at_least(text: str) -> int:
    """Parses seconds, as milliseconds; the next greater one for a part of a millisecond."""
    milliseconds, is_exact = _milliseconds(text)
    return milliseconds if is_exact else milliseconds + 1


def seconds_at_most(text: str) -> int:
    """Parses seconds, as milliseconds."""
    return _milliseconds(text)[0]


def true_or_false(text: str) -> bool:
    """Parses `true` or `false`."""
    if text not in {"true", "false"}:
        raise ValueError("it must be true or false")
    return text == "true"


def exact(text: str) -> str:
    """Returns a value as it is compared, in which nothing is special."""
    return fold_text(text)


def number(field: TextField) -> Callable[[str], Terms]:
    """Returns the parser of one pattern, in which a leading space is a `+` that was not encoded."""

    def parse(text: str) -> Terms:
        _check_stars(text)
        visible = without_format_characters(text)
        plus = "+" if visible.startswith(" ") else ""
        return Terms.any_of(_term(field, plus + visible.strip()))

    return parse


def words(field: TextField) -> Callable[[str], Terms]:
    """Returns the parser of words, of which any must match; so may the whole text, in which `*` is not special."""

    def parse(text: str) -> Terms:
        terms = [_term(field, word) for word in _split(text)]
        return Terms.any_of(*terms, Term(Pattern.literal(field.fold(text)), Pattern.literal(field.former_fold(text))))

    return parse


def words_with_and(field: TextField) -> Callable[[str], Terms]:
    """Returns the parser of words between which AND may stand, which binds tighter: `a AND b c` is (a, b) or (c)."""

    def parse(text: str) -> Terms:
        groups: list[list[Term]] = []
        joins = True  # Whether the previous word was AND. A leading AND is as wrong as a doubled one.
        for position, word in enumerate(_split(text)):
            if word == "AND":
                if joins:
                    raise ValueError("AND must stand between two words")
                joins = True
                continue
            term = _term(field, word)
            if joins and position:
                groups[-1].append(term)
            else:
                groups.append([term])
            joins = False
        if joins:
            raise ValueError("AND must stand between two words" if groups else "it has no word")
        return Terms(tuple(tuple(group) for group in groups))

    return parse


def _milliseconds(text: str) -> tuple[int, bool]:
    """Returns milliseconds, and whether they are all of the number. What is longer than any recording is cut."""
    if not (seconds := _DECIMAL.fullmatch(text)):
        raise ValueError("it must be a number of seconds, 0 or greater, such as 90 or 0.5")
    whole, fraction = seconds[1].lstrip("0"), seconds[2] or ""
    if len(whole) > _MOST_DIGITS:
        return 10 ** (_MOST_DIGITS + 3), True
    return int(whole + fraction[:3].ljust(3, "0")), not fraction[3:].strip("0")


def _split(text: str) -> list[str]:
    _check_stars(text)
    found = text.split()
    if len(found) > MAX_WORDS:
        raise ValueError(f"it must have at most {MAX_WORDS} words")
    return found


def _check_stars(text: str) -> None:
    if text.count("*") > MAX_STARS:
        raise ValueError(f"it must have at most {MAX_STARS} wildcards (*)")


def _term(field: TextField, text: str) -> Term:
    pattern = Pattern.parse(text, field.fold)
    if pattern.parts == ("",):
        raise ValueError("it has a word or number of invisible characters only")
    length = sum(map(len, pattern.parts)) + text.count("*")
    if length > MAX_FOLDED_LENGTH:
        raise ValueError(f"it must have at most {MAX_FOLDED_LENGTH} characters after Unicode normalization")
    if pattern.has_short_inner_part and length > MAX_LENGTH_WITH_SHORT_PART:
        raise ValueError(
            "with one or two characters between two wildcards (*) a word must have at most "
            f"{MAX_LENGTH_WITH_SHORT_PART} characters"
        )
    # A pattern with several parts is expensive, so it is looked for in one form only.
    return Term(pattern, pattern if pattern.has_inner_star else Pattern.parse(text, field.former_fold))
