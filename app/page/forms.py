"""The search form, made from the rows of the criteria (`app.search.criteria`), so that a new row appears by itself."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from app.recordings.dates import parse_query_instant
from app.search.criteria import CRITERIA, Criterion
from app.search.paging import PAGING_PARAMETERS

Kind = Literal["text", "time", "choice"]

# What a field is called; any other has its parameter's name in words.
_LABELS = {
    "callerPhoneNumber": "Caller",
    "dialedPhoneNumber": "Dialed number",
    "phoneNumber": "Any number",
    "startTime": "Started after",
    "endTime": "Stopped before",
    "minDuration": "At least (seconds)",
    "maxDuration": "At most (seconds)",
    "userName": "Agent",
    "userData": "User data",
    "nonDelete": "Protection",
    "callUUID": "Call UUID",
    "mediaId": "Media ID",
    "order": "Order",
    "limit": "Rows",
}
_TIMES = ("startTime", "endTime")
# What most searches ask for; the others are folded away until they have a value.
_USUAL = ("callerPhoneNumber", "dialedPhoneNumber", "phoneNumber", "userName", "userData", "label")

# Values and what they are called; no value stands for what the API does by itself.
_CHOICES: Mapping[str, Sequence[tuple[str, str]]] = {
    "nonDelete": (("", "Any"), ("true", "Protected"), ("false", "Not protected")),
    "order": (("", "Newest first"), ("oldest", "Oldest first")),
    "limit": (("25", "25"), ("50", "50"), ("", "100")),
}


@dataclass(frozen=True)
class Field:
    """One field of the form. `instant` is its time in milliseconds since 1970, if it has one."""

    name: str
    label: str
    kind: Kind
    value: str
    hint: str
    example: str
    choices: Sequence[tuple[str, str]] = ()
    error: str | None = None
    instant: int | None = None


@dataclass(frozen=True)
class Form:
    """The fields by where they stand. `problem` is an error that belongs to none of them."""

    times: Sequence[Field]
    usual: Sequence[Field]
    more: Sequence[Field]
    problem: str | None

    @property
    def fields(self) -> Sequence[Field]:
        """All fields, as they stand."""
        return (*self.times, *self.usual, *self.more)

    @property
    def shows_more(self) -> bool:
        """Whether a field that is folded away has a value or an error."""
        return any(field.value or field.error for field in self.more)


def search_form(values: Mapping[str, str], message: str | None = None, parameter: str | None = None) -> Form:
    """Returns the form with these values. `message` is the API's about them, and `parameter` what it is about."""
    rows = [_field(row, values) for row in CRITERIA]
    rows += [_choice(name, values) for name in ("order", "limit") if name in PAGING_PARAMETERS]
    fields = [_with_error(field, message) if field.name == parameter else field for field in rows]
    return Form(
        times=[field for field in fields if field.name in _TIMES],
        usual=[field for field in fields if field.name in _USUAL],
        more=[field for field in fields if field.name not in (*_TIMES, *_USUAL)],
        problem=None if any(field.error for field in fields) else message,
    )


def label_of(name: str) -> str:
    """Returns what a parameter is called."""
    words = re.sub("[A-Z]+", lambda capitals: f" {capitals[0].lower()}", name)
    return _LABELS.get(name, words.capitalize())


def words_of(name: str, value: str) -> str:
    """Returns what a parameter's value is called."""
    return dict(_CHOICES.get(name, ())).get(value, value)


def instant_of(text: str) -> int | None:
    """Returns the time that a parameter holds, None if it holds none."""
    try:
        return parse_query_instant(text)
    except ValueError:
        return None


def _field(row: Criterion[Any], values: Mapping[str, str]) -> Field:
    kind: Kind = "time" if row.name in _TIMES else "choice" if row.name in _CHOICES else "text"
    value = values.get(row.name, "")
    return Field(
        name=row.name,
        label=label_of(row.name),
        kind=kind,
        value=value,
        hint=f"Recordings {row.help}.",
        example=row.example,
        choices=_CHOICES.get(row.name, ()),
        instant=instant_of(value) if kind == "time" else None,
    )


def _choice(name: str, values: Mapping[str, str]) -> Field:
    value, choices = values.get(name, ""), _CHOICES[name]
    if value not in dict(choices):
        choices = (*choices, (value, value))
    return Field(name, label_of(name), "choice", value, hint="", example="", choices=choices)


def _with_error(field: Field, error: str | None) -> Field:
    return Field(**{**vars(field), "error": error})
