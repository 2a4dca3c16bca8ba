"""The file of retention rules: what it may say, and what is said of what it may not."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from app.lifecycle.retention_rules import RulesError, overlaps, parse_rules

PURGE: dict[str, Any] = {"kind": "purge", "min_age_days": 90}
BACKUP: dict[str, Any] = {"kind": "backup", "location": "/backup"}


def a_rule(*tasks: dict[str, Any], **attributes: Any) -> dict[str, Any]:
    return {"name": "old", "contact_centers": ["cc"], "at": "02:30", "tasks": [*tasks] or [PURGE], **attributes}


def text_of(*rules: dict[str, Any]) -> str:
    return tomli_w.dumps({"rules": [*rules]})


def test_example_of_the_documentation_is_right() -> None:
    text = (Path(__file__).parents[2] / "docs" / "examples" / "retention.toml").read_text()
    rules = parse_rules(text)
    assert [(rule.name, rule.at) for rule in rules] == [("calls", 150), ("test-calls", 210)]
    assert [task.kind for task in rules[0].tasks] == ["backup", "purge", "purge"]
    assert overlaps(rules) == []


NAMED = 'rule "old": '
TASK = 'rule "old": tasks[1]: '


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rules = [", "it is no TOML: "),
        ("", "rules: it is missing; it must be one or more tables [[rules]]"),
        ("rules = []", "rules: it must be one or more tables [[rules]]"),
        ("rules = 3", "rules: it must be one or more tables [[rules]]"),
        ("rules = [3]", "rule 1: it must be a table"),
        ("rule = []", "rule: it is not known; known are rules"),
        (text_of({"contact_centers": ["cc"]}), "rule 1: name: it is missing; it must be 1 to 64 ASCII letters"),
        (text_of(a_rule(name="a b")), "rule 1: name: it must be 1 to 64 ASCII letters"),
        (text_of(a_rule(name="x" * 65)), "rule 1: name: it must be 1 to 64 ASCII letters"),
        (text_of(a_rule(), a_rule(name="OLD")), f"{NAMED}name: two rules have it"),
        (text_of(a_rule(every="day")), f"{NAMED}every: it is not known; known are name, contact_centers, at, tasks"),
        (text_of({"name": "old"}), f"{NAMED}contact_centers: it is missing; it must be a list of ids of contact"),
        (text_of(a_rule(contact_centers=[])), f"{NAMED}contact_centers: it must be a list of ids"),
        (text_of(a_rule(contact_centers="cc")), f"{NAMED}contact_centers: it must be a list of ids"),
        (text_of(a_rule(contact_centers=[" cc"])), f"{NAMED}contact_centers: it must be a list of ids"),
        (text_of(a_rule(contact_centers=["cc", "cc"])), f"{NAMED}contact_centers: it has a value twice"),
        (text_of(a_rule(contact_centers=["*", "cc"])), f'{NAMED}contact_centers: "*" stands for all'),
        *(
            (text_of(a_rule(at=at)), f'{NAMED}at: it must be a time of the day in UTC such as "02:30"')
            for at in ("2:30", "24:00", "02:60", "02:30 CET", "", "٠٢:٣٠", 230)
        ),
        (text_of({"name": "old", "contact_centers": ["cc"]}), f"{NAMED}tasks: it is missing"),
        (text_of(a_rule(tasks=[])), f"{NAMED}tasks: it must be one or more tables"),
        (text_of(a_rule({})), f'{TASK}kind: it is missing; it must be "purge" or "backup"'),
        (text_of(a_rule({"kind": "delete"})), f'{TASK}kind: it must be "purge" or "backup"'),
        (text_of(a_rule({"kind": []})), f'{TASK}kind: it must be "purge" or "backup"'),
        (text_of(a_rule(PURGE, PURGE | {"min_age": 3})), 'rule "old": tasks[2]: min_age: it is not known; known are '),
        (text_of(a_rule(PURGE | {"resources": []})), f"{TASK}resources: it must be a list of"),
        (text_of(a_rule(PURGE | {"resources": ["voice"]})), f"{TASK}resources: it must be a list of \"recordings\""),
        (text_of(a_rule({"kind": "purge"})), f"{TASK}min_age_days: it is missing; it must be a whole number of days"),
        *(
            (text_of(a_rule(PURGE | {"min_age_days": days})), f"{TASK}min_age_days: it must be a whole number of days")
            for days in (0, -1, 1.5, "90", True, 36_501)
        ),
        (text_of(a_rule(BACKUP | {"min_age_days": -1})), f"{TASK}min_age_days: it must be a whole number of days from"),
        (text_of(a_rule(PURGE | {"max_age_days": 90})), f"{TASK}max_age_days: it must be a whole number of days from"),
        (text_of(a_rule(PURGE | {"labels": []})), f"{TASK}labels: it must be a list of names of labels, and not empty"),
        (text_of(a_rule(PURGE | {"labels": ["a b"]})), f"{TASK}labels: it must be a list of names of labels, and"),
        (text_of(a_rule(PURGE | {"exclude_labels": "vip"})), f"{TASK}exclude_labels: it must be a list of names"),
        (
            text_of(a_rule(PURGE | {"labels": ["vip"], "exclude_labels": ["VIP"]})),
            f'{TASK}exclude_labels: "vip" is in labels too',
        ),
        (
            text_of(a_rule(PURGE | {"labels": ["vip"], "resources": ["recordings", "screen-recordings"]})),
            f"{TASK}labels: screen recordings have no labels",
        ),
        (text_of(a_rule(PURGE | {"criteria": []})), f"{TASK}criteria: it must be a table"),
        (text_of(a_rule(PURGE | {"criteria": {"userNam": "x"}})), f"{TASK}criteria: Parameter 'userNam' is invalid"),
        (text_of(a_rule(PURGE | {"criteria": {"limit": 3}})), f"{TASK}criteria: Parameter 'limit' is invalid"),
        (text_of(a_rule(PURGE | {"criteria": {"minDuration": "x"}})), f"{TASK}criteria: Parameter 'minDuration'"),
        (text_of(a_rule(PURGE | {"criteria": {"userName": ["x"]}})), f"{TASK}criteria.userName: it must be a text"),
        (text_of(a_rule(PURGE | {"with_media": 1})), f"{TASK}with_media: it must be true or false"),
        (text_of(a_rule(PURGE | {"require_backup": "yes"})), f"{TASK}require_backup: it must be true or false"),
        (text_of(a_rule(PURGE | {"require_backup": True})), f"{TASK}location: it is missing; it must be a folder, or"),
        (text_of(a_rule(PURGE | {"location": "/x"})), f"{TASK}location: a purge has it only with require_backup"),
        (text_of(a_rule(PURGE | {"missing_media_ok": True})), f"{TASK}missing_media_ok: a purge has it only with"),
        (text_of(a_rule({"kind": "backup"})), f"{TASK}location: it is missing"),
        (text_of(a_rule({"kind": "backup", "location": " "})), f"{TASK}location: it must be a folder"),
        (text_of(a_rule(BACKUP | {"with_media": True})), f"{TASK}with_media: it is not known; known are kind, "),
    ],
)  # fmt: skip
def test_every_error_names_the_rule_and_the_key_and_says_what_is_allowed(text: str, said: str) -> None:
    with pytest.raises(RulesError) as refusal:
        parse_rules(text)
    assert str(refusal.value).startswith(said)


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ({}, {}, True),
        ({"min_age_days": 10, "max_age_days": 30}, {"min_age_days": 29}, True),
        ({"min_age_days": 10, "max_age_days": 30}, {"min_age_days": 30}, False),
        ({"resources": ["screen-recordings"]}, {}, False),
        ({"resources": ["screen-recordings", "recordings"]}, {}, True),
        ({"labels": ["vip"]}, {"exclude_labels": ["VIP", "x"]}, False),
        ({"labels": ["vip", "test"]}, {"exclude_labels": ["vip"]}, True),
        ({"labels": ["vip"]}, {"labels": ["test"]}, True),
        ({"criteria": {"userName": "a"}}, {"criteria": {"userName": "b"}}, True),
    ],
)
def test_rules_that_may_purge_the_same_recordings_are_told(
    one: dict[str, Any], other: dict[str, Any], overlap: bool
) -> None:
    def found(first: dict[str, Any], second: dict[str, Any]) -> int:
        return len(overlaps(parse_rules(text_of(first, second))))

    first, second = PURGE | one, PURGE | other
    for here, there, share in ((["cc"], ["cc"], True), (["cc"], ["*"], True), (["cc"], ["dd"], False)):
        rules = a_rule(first, contact_centers=here), a_rule(second, name="other", contact_centers=there)
        assert found(*rules) == found(*reversed(rules)) == (overlap and share)
    assert found(a_rule(BACKUP), a_rule(second, name="other")) == 0


def milliseconds(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("now", "slot"),
    [
        ("2026-03-29 02:29:59.999", "2026-03-28 02:30"),
        ("2026-03-29 02:30", "2026-03-29 02:30"),
        ("2026-03-29 02:30:00.001", "2026-03-29 02:30"),
        ("2026-03-30 02:29", "2026-03-29 02:30"),
        ("2028-02-29 23:59", "2028-02-29 02:30"),
        ("2028-03-01 00:00", "2028-02-29 02:30"),
    ],
)
def test_daily_time_is_one_of_utc_on_days_of_clock_changes_too(now: str, slot: str) -> None:
    (rule,) = parse_rules(text_of(a_rule()))
    assert rule.slot(milliseconds(now)) == milliseconds(slot)
    assert rule.next_slot(milliseconds(now)) == milliseconds(slot) + 86_400_000
