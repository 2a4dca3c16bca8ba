"""The query string of a search → what is searched for (CONTRACT.md section 5). Pure functions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.errors import InvalidParameter, MissingParameter
from app.recordings.dates import parse_query_instant
from app.search.cursor import Cursor
from app.search.pattern import Pattern
from app.search.trigrams import mark

CRITERIA = ("callerPhoneNumber", "dialedPhoneNumber", "startTime", "endTime", "userName", "userData")
_PAGING = ("offset", "limit", "cursor")

MAX_LIMIT = 100
MAX_OFFSET = 10_000

# Bounds on the work that one request can ask for. So many characters also fit into the 64 KiB that a URL may have.
MAX_LENGTH = 5_000
MAX_WORDS = 50
MAX_STARS = 50
# Elasticsearch counts each trigram of a pattern with several parts as a clause, over the whole query. How many it
# allows depends on its heap and processors; where that is less than this, the search is refused when it is run.
MAX_LENGTH_WITH_INNER_STARS = 6_000
# Elasticsearch refuses wildcards whose automaton grows too large; the worst of this length is far from that.
MAX_LENGTH_WITH_SHORT_PART = 200


@dataclass(frozen=True)
class Criteria:
    """What a recording must be like; None where nothing was asked.

    `user_name`: any of the groups, all patterns of a group, each already case-folded. `user_data`: any of them.
    Times are instants, both strict.
    """

    caller_phone_number: Pattern | None = None
    dialed_phone_number: Pattern | None = None
    started_after: int | None = None
    ended_before: int | None = None
    user_name: tuple[tuple[Pattern, ...], ...] | None = None
    user_data: tuple[Pattern, ...] | None = None


@dataclass(frozen=True)
class Page:
    """Which part of the result: from `offset`, or beside `cursor`, `limit` recordings."""

    offset: int = 0
    limit: int = MAX_LIMIT
    cursor: Cursor | None = None


def parse_search(parameters: Sequence[tuple[str, str]]) -> tuple[Criteria, Page]:
    """Decoded parameters, in the order in which they came, → criteria and page.

    Raises MissingParameter without any criterion, InvalidParameter for everything else.
    """
    values: dict[str, str] = {}
    for name, value in parameters:
        if name not in CRITERIA and name not in _PAGING:
            raise InvalidParameter(name, f"it is not known; known are {', '.join(CRITERIA)}, offset and limit")
        if name in values:
            raise InvalidParameter(name, "it is given more than once")
        if not value:
            raise InvalidParameter(name, "it is empty")
        if len(value) > MAX_LENGTH:
            raise InvalidParameter(name, f"it must have at most {MAX_LENGTH} characters")
        values[name] = value
    if not any(name in values for name in CRITERIA):
        raise MissingParameter(CRITERIA[0], f"a search needs at least one of {', '.join(CRITERIA)}")
    criteria = _parse_criteria(values)
    _check_inner_stars(criteria)
    return criteria, _parse_page(values)


def _parse_criteria(values: Mapping[str, str]) -> Criteria:
    return Criteria(
        caller_phone_number=_phone_number(values, "callerPhoneNumber"),
        dialed_phone_number=_phone_number(values, "dialedPhoneNumber"),
        started_after=_instant(values, "startTime", round_up=False),
        # A recording that stopped in the same millisecond did stop before an instant later in it.
        ended_before=_instant(values, "endTime", round_up=True),
        user_name=_user_name(values, "userName"),
        user_data=_user_data(values, "userData"),
    )


def _check_inner_stars(criteria: Criteria) -> None:
    patterns = {
        "callerPhoneNumber": [criteria.caller_phone_number] if criteria.caller_phone_number else [],
        "dialedPhoneNumber": [criteria.dialed_phone_number] if criteria.dialed_phone_number else [],
        "userName": [pattern for group in criteria.user_name or () for pattern in group],
        "userData": list(criteria.user_data or ()),
    }
    length = 0
    for name, own in patterns.items():
        length += sum(len(mark("".join(pattern.parts))) for pattern in own if pattern.has_inner_star)
        if length > MAX_LENGTH_WITH_INNER_STARS:
            raise InvalidParameter(
                name,
                "all words with a wildcard (*) inside must together have at most "
                f"{MAX_LENGTH_WITH_INNER_STARS} characters (noncharacters of Unicode count six times)",
            )


def _phone_number(values: Mapping[str, str], name: str) -> Pattern | None:
    text = values.get(name)
    if text is None:
        return None
    _check_stars(name, text)
    return _pattern(name, text)


def _instant(values: Mapping[str, str], name: str, *, round_up: bool) -> int | None:
    text = values.get(name)
    if text is None:
        return None
    try:
        return parse_query_instant(text, round_up=round_up)
    except ValueError as error:
        raise InvalidParameter(name, str(error)) from None


def _user_name(values: Mapping[str, str], name: str) -> tuple[tuple[Pattern, ...], ...] | None:
    """`a AND b c` → ((a, b), (c)): AND binds tighter than the space."""
    text = values.get(name)
    if text is None:
        return None
    groups: list[list[Pattern]] = []
    joins = True  # whether the word before was AND; a leading AND is as wrong as a doubled one
    for position, word in enumerate(_words(name, text)):
        if word == "AND":
            if joins:
                raise InvalidParameter(name, "AND must stand between two words")
            joins = True
            continue
        pattern = _pattern(name, word.casefold())
        if joins and position:
            groups[-1].append(pattern)
        else:
            groups.append([pattern])
        joins = False
    if joins:
        raise InvalidParameter(name, "AND must stand between two words" if groups else "it has no word")
    return tuple(tuple(group) for group in groups)


def _user_data(values: Mapping[str, str], name: str) -> tuple[Pattern, ...] | None:
    text = values.get(name)
    if text is None:
        return None
    words = [_pattern(name, word) for word in _words(name, text)]
    # The whole parameter is compared as it is: `*` means something only in a word.
    return tuple(dict.fromkeys([*words, Pattern.literal(text)]))


def _words(name: str, text: str) -> list[str]:
    _check_stars(name, text)
    words = text.split()
    if len(words) > MAX_WORDS:
        raise InvalidParameter(name, f"it must have at most {MAX_WORDS} words")
    return words


def _check_stars(name: str, text: str) -> None:
    if text.count("*") > MAX_STARS:
        raise InvalidParameter(name, f"it must have at most {MAX_STARS} wildcards (*)")


def _pattern(name: str, text: str) -> Pattern:
    pattern = Pattern.parse(text)
    if pattern.has_short_inner_part and len(text) > MAX_LENGTH_WITH_SHORT_PART:
        raise InvalidParameter(
            name,
            "with one or two characters between two wildcards (*) a word must have at most "
            f"{MAX_LENGTH_WITH_SHORT_PART} characters",
        )
    return pattern


def _parse_page(values: Mapping[str, str]) -> Page:
    cursor = Cursor.decode(values["cursor"]) if "cursor" in values else None
    offset = _integer(values, "offset", default=0)
    limit = _integer(values, "limit", default=MAX_LIMIT)
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidParameter("limit", f"it must be from 1 to {MAX_LIMIT}")
    if cursor is None and offset > MAX_OFFSET:
        raise InvalidParameter(
            "offset", f"it must be at most {MAX_OFFSET}; to go further, follow nextUri from page to page"
        )
    return Page(offset, limit, cursor)


def _integer(values: Mapping[str, str], name: str, default: int) -> int:
    text = values.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise InvalidParameter(name, "it must be a whole number, 0 or greater")
    return int(text)
