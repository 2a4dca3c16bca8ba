"""The file of retention rules: what a rule and its tasks may say (docs/operations.md, "Retention"). No I/O here."""

import json
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal, get_args

from app.errors import RecallError
from app.ids import id_error
from app.media.archives import ArchiveFailed
from app.media.zipped import check_place
from app.recordings.identity import Resource
from app.recordings.labels import valid_name
from app.search.criteria import ANY_LABEL, NO_LABEL, NOT_OLDER, Condition, Criteria, older_than, parse_criteria

Kind = Literal["purge", "backup"]

DAY = 86_400_000
_RESOURCES: tuple[Resource, ...] = get_args(Resource)
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_AT = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])")
_MOST_DAYS = 36_500
_EVERY = "*"


class RulesError(Exception):
    """A file of rules that cannot be used. The text names the rule and the key, and says what is allowed."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What one task does, for each of its resources.

    `max_age_days` None is without limit. Empty `labels` ask for none. `criteria` are those of a search, parsed for each
    resource. `location` is where a backup is: that a `backup` writes, or that a purge with `require_backup` asks.
    """

    kind: Kind
    resources: tuple[Resource, ...]
    min_age_days: int
    max_age_days: int | None
    labels: tuple[str, ...]
    exclude_labels: tuple[str, ...]
    criteria: Mapping[Resource, Criteria]
    location: str | None
    with_media: bool
    require_backup: bool
    missing_media_ok: bool

    def conditions(self, resource: Resource, now: int) -> Criteria:
        """Returns what a recording of a resource must meet at an instant (milliseconds since 1970).

        Its age is the time since it started or stopped, whichever was later, in days of 24 hours. One that is exactly
        so many days old is not older than that.
        """
        conditions: Criteria = self.criteria[resource]
        if self.min_age_days:
            conditions = (*conditions, *older_than(now - self.min_age_days * DAY))
        if self.max_age_days is not None:
            conditions = (*conditions, Condition(NOT_OLDER, now - self.max_age_days * DAY))
        if self.labels:
            conditions = (*conditions, Condition(ANY_LABEL, self.labels))
        if self.exclude_labels:
            conditions = (*conditions, Condition(NO_LABEL, self.exclude_labels))
        return conditions


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A rule. `contact_centers` is empty for all of them; `at` is the minute of the day in UTC, None for no time.

    `digest` is that of what the file says.
    """

    name: str
    digest: str
    contact_centers: tuple[str, ...]
    at: int | None
    tasks: tuple[Task, ...]

    def slot(self, now: int) -> int:
        """Returns the latest daily time of the rule at an instant, in milliseconds since 1970."""
        assert self.at is not None
        at = self.at * 60_000
        return now - (now - at) % DAY

    def next_slot(self, now: int) -> int:
        """Returns the daily time of the rule after an instant."""
        return self.slot(now) + DAY


def parse_rules(text: str) -> tuple[Rule, ...]:
    """Returns the rules of a file; raises RulesError."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RulesError(f"it is no TOML: {error}") from None
    top = _Table("", document, ("rules",))
    rules = tuple(_rule(number, table) for number, table in enumerate(top.tables("rules"), 1))
    names = [rule.name.lower() for rule in rules]
    for rule in rules:
        if names.count(rule.name.lower()) > 1:
            raise RulesError(f'rule "{rule.name}": name: two rules have it; each needs a name of its own')
    return rules


_RULE_KEYS = ("name", "contact_centers", "at", "tasks")
_TASK_KEYS: Mapping[Kind, tuple[str, ...]] = {
    "purge": (
        *("kind", "resources", "min_age_days", "max_age_days", "labels", "exclude_labels", "criteria", "with_media"),
        *("require_backup", "location", "missing_media_ok"),
    ),
    "backup": (
        *("kind", "resources", "min_age_days", "max_age_days", "labels", "exclude_labels", "criteria", "location"),
    ),
}


class _Table:
    """A table of the file. `where` names it in errors; a key that is not among `keys` is one, unless they are None."""

    def __init__(self, where: str, values: object, keys: Sequence[str] | None) -> None:
        self._where = where
        if not isinstance(values, dict):
            raise RulesError(f"{where}: it must be a table")
        self._values: dict[str, Any] = values
        for key in values:
            if keys is not None and key not in keys:
                raise self.error(key, f"it is not known; known are {', '.join(keys)}")

    def error(self, key: str, why: str) -> RulesError:
        return RulesError(f"{self._where}{': ' if self._where else ''}{key}: {why}")

    def has(self, key: str) -> bool:
        return key in self._values

    def text(self, key: str, allowed: str, is_right: Callable[[str], object]) -> str:
        """Returns a text that must be there."""
        value = self._required(key, allowed)
        if not isinstance(value, str) or not is_right(value):
            raise self.error(key, f"it must be {allowed}")
        return value

    def texts(self, key: str, allowed: str, is_right: Callable[[str], object]) -> tuple[str, ...]:
        """Returns a list of texts that is not empty and has none twice, as it stands there."""
        values = self._required(key, f"a list of {allowed}")
        if not isinstance(values, list) or not values:
            raise self.error(key, f"it must be a list of {allowed}, and not empty")
        for value in values:
            if not isinstance(value, str) or not is_right(value):
                raise self.error(key, f"it must be a list of {allowed}, and {value!r} is none")
        if len(set(values)) < len(values):
            raise self.error(key, "it has a value twice")
        return tuple(values)

    def days(self, key: str, least: int) -> int:
        """Returns a number of days that must be there."""
        allowed = f"a whole number of days from {least} to {_MOST_DAYS:,}"
        value = self._required(key, allowed)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= _MOST_DAYS:
            raise self.error(key, f"it must be {allowed}")
        return value

    def flag(self, key: str) -> bool:
        """Returns true or false; false if it is not there."""
        value = self._values.get(key, False)
        if not isinstance(value, bool):
            raise self.error(key, "it must be true or false")
        return value

    def table(self, key: str) -> dict[str, Any]:
        """Returns a table, an empty one if it is not there."""
        value = self._values.get(key, {})
        if not isinstance(value, dict):
            raise self.error(key, "it must be a table")
        return value

    def tables(self, key: str) -> list[object]:
        """Returns an array of tables that must be there and not be empty."""
        value = self._required(key, f"one or more tables [[{key}]]")
        if not isinstance(value, list) or not value:
            raise self.error(key, f"it must be one or more tables [[{key}]]")
        return value

    def _required(self, key: str, allowed: str) -> Any:
        if key not in self._values:
            raise self.error(key, f"it is missing; it must be {allowed}")
        return self._values[key]


def _rule(number: int, values: object) -> Rule:
    name = values.get("name") if isinstance(values, dict) else None
    where = f'rule "{name}"' if isinstance(name, str) and _NAME.fullmatch(name) else f"rule {number}"
    table = _Table(where, values, _RULE_KEYS)
    name = table.text("name", "1 to 64 ASCII letters, digits, or one of - _ .", _NAME.fullmatch)
    allowed = f'ids of contact centers, or ["{_EVERY}"] for all'
    contact_centers = table.texts("contact_centers", allowed, lambda text: text == _EVERY or id_error(text) is None)
    if _EVERY in contact_centers and len(contact_centers) > 1:
        raise table.error("contact_centers", f'"{_EVERY}" stands for all, so it must be alone')
    at = table.text("at", 'a time of the day in UTC such as "02:30"', _AT.fullmatch) if table.has("at") else None
    tasks = [_task(f"{where}: tasks[{i}]", task) for i, task in enumerate(table.tables("tasks"), 1)]
    return Rule(
        name=name,
        digest=sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest(),
        contact_centers=() if contact_centers == (_EVERY,) else contact_centers,
        at=None if at is None else int(at[:2]) * 60 + int(at[3:]),
        tasks=tuple(tasks),
    )


def _task(where: str, values: object) -> Task:
    kind: Any = values.get("kind") if isinstance(values, dict) else None
    # Of a task whose kind is wrong, its kind is told.
    keys = [_TASK_KEYS[each] for each in get_args(Kind) if each == kind]
    table = _Table(where, values, keys[0] if keys else None)
    table.text("kind", " or ".join(f'"{each}"' for each in get_args(Kind)), get_args(Kind).__contains__)
    is_purge = kind == "purge"
    resources: Any = ("recordings",)
    if table.has("resources"):
        allowed = " and ".join(f'"{each}"' for each in _RESOURCES)
        resources = table.texts("resources", allowed, _RESOURCES.__contains__)
    least = 1 if is_purge else 0
    min_age = table.days("min_age_days", least) if is_purge or table.has("min_age_days") else 0
    max_age = table.days("max_age_days", min_age + 1) if table.has("max_age_days") else None
    labels, exclude_labels = (_labels(table, key, resources) for key in ("labels", "exclude_labels"))
    if both := {*map(str.lower, labels)} & {*map(str.lower, exclude_labels)}:
        raise table.error("exclude_labels", f'"{min(both)}" is in labels too')
    require_backup = is_purge and table.flag("require_backup")
    location = None
    if not is_purge or require_backup:
        location = table.text(
            "location", "a folder, or s3://BUCKET/PREFIX", lambda text: text.strip() and _is_place(text)
        )
    elif table.has("location"):
        raise table.error("location", "a purge has it only with require_backup = true: the backup that it asks")
    with_media = is_purge and table.flag("with_media")
    if table.has("missing_media_ok") and not with_media:
        raise table.error("missing_media_ok", "a purge has it only with with_media = true")
    return Task(
        kind=kind,
        resources=resources,
        min_age_days=min_age,
        max_age_days=max_age,
        labels=labels,
        exclude_labels=exclude_labels,
        criteria=_criteria(table, resources),
        location=location,
        with_media=with_media,
        require_backup=require_backup,
        missing_media_ok=is_purge and table.flag("missing_media_ok"),
    )


def _is_place(text: str) -> bool:
    try:
        check_place(text)
    except ArchiveFailed:
        return False
    return True


def _labels(table: _Table, key: str, resources: Sequence[Resource]) -> tuple[str, ...]:
    if not table.has(key):
        return ()
    if "screen-recordings" in resources:
        raise table.error(key, 'screen recordings have no labels; it needs resources = ["recordings"]')
    return table.texts(key, "names of labels", valid_name)


def _criteria(table: _Table, resources: Sequence[Resource]) -> Mapping[Resource, Criteria]:
    values = table.table("criteria")
    parameters = []
    for name, value in values.items():
        if isinstance(value, bool):
            parameters.append((name, str(value).lower()))
        elif isinstance(value, str | int):
            parameters.append((name, str(value)))
        else:
            raise table.error(f"criteria.{name}", "it must be a text, as it stands in a search of the API")
    try:
        return {resource: parse_criteria(parameters, resource) if parameters else () for resource in resources}
    except RecallError as error:
        raise table.error("criteria", error.message) from None


def overlaps(rules: Sequence[Rule]) -> list[str]:
    """Returns a sentence for each two rules that may purge the same recordings.

    Each of them takes what it matches, whatever the other leaves. Criteria are not compared.
    """
    found = []
    for i, one in enumerate(rules):
        for other in rules[i + 1 :]:
            pairs = ((a, b) for a in one.tasks for b in other.tasks if a.kind == b.kind == "purge")
            if _share(one.contact_centers, other.contact_centers) and any(_overlap(a, b) for a, b in pairs):
                found.append(
                    f'rules "{one.name}" and "{other.name}" may purge the same recordings: what one leaves, '
                    "the other may take"
                )
    return found


def _overlap(one: Task, other: Task) -> bool:
    ages = all(a.max_age_days is None or a.max_age_days > b.min_age_days for a, b in ((one, other), (other, one)))
    # A label that one asks for and the other excludes keeps them apart, if it is the only one.
    apart = any(
        a.labels and {*map(str.lower, a.labels)} <= {*map(str.lower, b.exclude_labels)}
        for a, b in ((one, other), (other, one))
    )
    return bool(set(one.resources) & set(other.resources)) and ages and not apart


def _share(one: Sequence[str], other: Sequence[str]) -> bool:
    return not one or not other or bool(set(one) & set(other))
