"""The criteria of a search, one row a criterion (docs/contract.md section 5).

The parser of query parameters, the query, the command-line options of `recall purge` and the check of the README's
table read the same rows. docs/architecture.md shows how to add one.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from app.errors import InvalidParameter, MissingParameter
from app.recordings.identity import Resource
from app.recordings.labels import name_key
from app.search.clauses import Query, any_of, at_least, at_most, equals, greater_than, less_than, matches
from app.search.fields import (
    CALL_UUIDS,
    CALLER_PHONE_NUMBER,
    DIALED_PHONE_NUMBER,
    DURATION,
    LABEL_NAMES,
    MEDIA_IDS,
    NON_DELETE,
    PHONE_NUMBERS,
    START_TIME,
    STOP_TIME,
    USER_DATA,
    USER_NAMES,
)
from app.search.paging import PAGING_PARAMETERS, PageRequest, parse_page
from app.search.parsers import (
    MAX_LENGTH,
    Terms,
    exact,
    instant_after,
    instant_before,
    number,
    seconds_at_least,
    seconds_at_most,
    true_or_false,
    words,
    words_with_and,
)

# Elasticsearch counts each trigram of a pattern with several parts as a clause, over the whole query. The number that
# it allows depends on its heap and processors. If it allows less than this, it refuses the search when it runs it.
MAX_LENGTH_WITH_INNER_STARS = 6_000

# Each walk through the values of a field takes 20 ms of processor for 240,000 of them.
MAX_DICTIONARY_WALKS = 2

V = TypeVar("V")


@dataclass(frozen=True)
class Criterion(Generic[V]):
    """A search parameter that narrows a search.

    `parse` raises ValueError, whose text says what is allowed. `help` completes "Recordings …". Only `resources` can be
    searched by it.
    """

    name: str
    parse: Callable[[str], V]
    clause: Callable[[V], Query]
    help: str
    example: str
    resources: tuple[Resource, ...] = ("recordings", "screen-recordings")

    @property
    def option(self) -> str:
        """The command-line option: `--caller-phone-number` for `callerPhoneNumber`, `--call-uuid` for `callUUID`."""
        return "--" + re.sub("(?<=[a-z])(?=[A-Z])", "-", self.name).lower()


CALLER = Criterion(
    "callerPhoneNumber",
    parse=number(CALLER_PHONE_NUMBER),
    clause=matches(CALLER_PHONE_NUMBER),
    help="whose caller has this whole number; * is any run of characters",
    example="+1650*",
)
DIALED = Criterion(
    "dialedPhoneNumber",
    parse=number(DIALED_PHONE_NUMBER),
    clause=matches(DIALED_PHONE_NUMBER),
    help="whose dialed number is this; * is any run of characters",
    example="*8888",
)
PHONE = Criterion(
    "phoneNumber",
    parse=number(PHONE_NUMBERS),
    clause=matches(PHONE_NUMBERS),
    help="with this number as the caller, the dialed number or a contact's; * is any run of characters",
    example="*5834",
)
STARTED_AFTER = Criterion(
    "startTime",
    parse=instant_after,
    clause=greater_than(START_TIME),
    help="that started after this time",
    example="2013-05-17T11:45:32.000-0800",
)
ENDED_BEFORE = Criterion(
    "endTime",
    parse=instant_before,
    clause=less_than(STOP_TIME),
    help="that stopped before this time",
    example="2013-05-17",
)
LASTED_AT_LEAST = Criterion(
    "minDuration",
    parse=seconds_at_least,
    clause=at_least(DURATION),
    help="that lasted at least so many seconds",
    example="90",
)
LASTED_AT_MOST = Criterion(
    "maxDuration",
    parse=seconds_at_most,
    clause=at_most(DURATION),
    help="that lasted at most so many seconds",
    example="0.5",
)
USER_NAME = Criterion(
    "userName",
    parse=words_with_and(USER_NAMES),
    clause=matches(USER_NAMES),
    help="in which an agent's user name, first name or last name, or a word of it, matches; case is ignored",
    example="alice AND amber",
)
USER_DATA_VALUE = Criterion(
    "userData",
    parse=words(USER_DATA),
    clause=matches(USER_DATA),
    help="with a value in an event's user data that matches one of these words, or equals the whole text",
    example="CASE-2013-*",
)
LABEL = Criterion(
    "label",
    parse=words_with_and(LABEL_NAMES),
    clause=matches(LABEL_NAMES),
    help="with a label whose name matches; case is ignored",
    example="court AND legal*",
    resources=("recordings",),
)
PROTECTED = Criterion(
    "nonDelete",
    parse=true_or_false,
    clause=equals(NON_DELETE),
    help="that are protected from deletion (true), or are not (false)",
    example="true",
)
CALL = Criterion(
    "callUUID",
    parse=exact,
    clause=equals(CALL_UUIDS),
    help="with a media file of this call",
    example="00A8K4RI8G8LV3CVCRS1Q2LAES00001M",
)
MEDIA = Criterion(
    "mediaId",
    parse=exact,
    clause=equals(MEDIA_IDS),
    help="with a media file that has this mediaId",
    example="call-1.mp3",
)

# No parameter of the API: a purge adds it.
STARTED_BEFORE = Criterion(
    "startedBefore",
    parse=instant_before,
    clause=less_than(START_TIME),
    help="that started before this time",
    example="2013-05-17",
)

# These are for operators' commands: no client can ask for them.
NOT_OLDER = Criterion(
    "notOlder",
    parse=instant_after,
    clause=lambda instant: any_of([at_least(START_TIME)(instant), at_least(STOP_TIME)(instant)]),
    help="that started or stopped at this time or after it",
    example="2013-05-17",
)
ANY_LABEL = Criterion(
    "anyLabel",
    parse=str.split,
    clause=lambda names: {"terms": {LABEL_NAMES.name: [*map(name_key, names)]}},
    help="with one of these labels",
    example="complaint vip",
    resources=("recordings",),
)
NO_LABEL = Criterion(
    "noLabel",
    parse=str.split,
    clause=lambda names: {"bool": {"must_not": [{"terms": {LABEL_NAMES.name: [*map(name_key, names)]}}]}},
    help="with none of these labels",
    example="complaint vip",
    resources=("recordings",),
)

CRITERIA: tuple[Criterion[Any], ...] = (
    CALLER,
    DIALED,
    PHONE,
    STARTED_AFTER,
    ENDED_BEFORE,
    LASTED_AT_LEAST,
    LASTED_AT_MOST,
    USER_NAME,
    USER_DATA_VALUE,
    LABEL,
    PROTECTED,
    CALL,
    MEDIA,
)

_NAMES = tuple(criterion.name for criterion in CRITERIA)


class Condition(NamedTuple):
    """A criterion and the parsed value that a search asks for."""

    criterion: Criterion[Any]
    value: Any

    def clause(self) -> Query:
        """Returns the condition in Elasticsearch's query DSL."""
        return self.criterion.clause(self.value)


# A recording must meet all conditions.
Criteria = tuple[Condition, ...]


def older_than(instant: int) -> Criteria:
    """Returns the conditions of recordings that started and stopped before an instant.

    Recorders have sent a stop time of 1970 for yesterday's call.
    """
    return (Condition(STARTED_BEFORE, instant), Condition(ENDED_BEFORE, instant))


def parse_search(
    parameters: Sequence[tuple[str, str]], resource: Resource = "recordings"
) -> tuple[Criteria, PageRequest]:
    """Parses the decoded parameters of a search, in the order in which the client sent them.

    Raises MissingParameter without any criterion, InvalidParameter for every other error.
    """
    values = given_values(parameters, _NAMES, known=_names_for(resource))
    return _parse_criteria(values, resource), parse_page(values)


def parse_criteria(parameters: Sequence[tuple[str, str]], resource: Resource = "recordings") -> Criteria:
    """Parses criteria alone, for what is no page; raises as `parse_search` does."""
    return _parse_criteria(given_values(parameters, _NAMES, known=_names_for(resource), paging=()), resource)


def _names_for(resource: Resource) -> list[str]:
    return [criterion.name for criterion in CRITERIA if resource in criterion.resources]


def _parse_criteria(values: Mapping[str, str], resource: Resource) -> Criteria:
    names = _names_for(resource)
    if not any(name in values for name in _NAMES):
        raise MissingParameter(names[0], f"a search needs at least one of {', '.join(names)}")
    for criterion in CRITERIA:
        if criterion.name in values and resource not in criterion.resources:
            raise InvalidParameter(criterion.name, "screen recordings cannot be searched by it")
    criteria = tuple(_parse(criterion, values) for criterion in CRITERIA if criterion.name in values)
    _check_cost(criteria)
    return criteria


def given_values(
    parameters: Sequence[tuple[str, str]],
    names: Sequence[str],
    *,
    known: Sequence[str],
    paging: Sequence[str] = PAGING_PARAMETERS,
) -> dict[str, str]:
    """Returns the parameters of a search for which `names` are the criteria, by name.

    Raises InvalidParameter for one that is unknown, repeated, empty or too long; it names those that are `known`.
    """
    *others, last = (*known, *(name for name in paging if name != "cursor"))
    values: dict[str, str] = {}
    for name, value in parameters:
        if name not in names and name not in paging:
            raise InvalidParameter(name, f"it is not known; known are {', '.join(others)} and {last}")
        if name in values:
            raise InvalidParameter(name, "it is given more than once")
        if not value:
            raise InvalidParameter(name, "it is empty")
        if len(value) > MAX_LENGTH:
            raise InvalidParameter(name, f"it must have at most {MAX_LENGTH} characters")
        values[name] = value
    return values


def _parse(criterion: Criterion[Any], values: Mapping[str, str]) -> Condition:
    try:
        return Condition(criterion, criterion.parse(values[criterion.name]))
    except ValueError as error:
        raise InvalidParameter(criterion.name, str(error)) from None


def dictionary_walks(criteria: Criteria) -> int:
    """Returns how many words Elasticsearch can only find by a walk through all or many values of a field."""
    return sum(value.dictionary_walks for _, value in criteria if isinstance(value, Terms))


def _check_cost(criteria: Criteria) -> None:
    length = walks = 0
    for criterion, value in criteria:
        if isinstance(value, Terms):
            length += value.length_with_inner_stars
            walks += value.dictionary_walks
        if walks > MAX_DICTIONARY_WALKS:
            raise InvalidParameter(
                criterion.name,
                f"at most {MAX_DICTIONARY_WALKS} words of a search may have one or two characters between two "
                "wildcards (*)",
            )
        if length > MAX_LENGTH_WITH_INNER_STARS:
            raise InvalidParameter(
                criterion.name,
                "all words with a wildcard (*) inside must together have at most "
                f"{MAX_LENGTH_WITH_INNER_STARS} characters (noncharacters of Unicode count six times)",
            )
