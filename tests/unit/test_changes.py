"""The audit log tells which paths of a recording an update has changed."""

import pytest

from app.recordings.changes import changed_paths, is_same


def test_paths_tell_what_differs() -> None:
    before = {"a": 1, "b": [{"c": 1}, {"c": 2}], "d": {"e": None}, "gone": 1}
    after = {"a": 1, "b": [{"c": 1}, {"c": 3}, {}], "d": {"e": False}, "new": 1}
    assert changed_paths(before, after) == ["b[1].c", "b[2]", "d.e", "gone", "new"]


def test_many_and_long_paths_are_cut() -> None:
    long = "k" * 100_000
    before, after = ({long: {f"a{number}": value for number in range(60)}} for value in (1, 2))
    paths = changed_paths(before, after)
    assert (len(paths), paths[-1]) == (51, "…")
    assert {(len(path), path[-1]) for path in paths[:-1]} == {(201, "…")}


@pytest.mark.parametrize(
    ("one", "other"),
    [(1, True), (0, False), (1, 1.0), ([1], [True]), ({"a": [{"b": 0}]}, {"a": [{"b": False}]}), (None, 0), ("1", 1)],
)
def test_values_that_python_takes_for_equal_differ(one: object, other: object) -> None:
    assert not is_same(one, other)
    assert changed_paths({"x": one}, {"x": other}) != []


def test_the_order_of_keys_makes_no_difference() -> None:
    assert is_same({"a": [1, {"b": 2.5}], "c": None}, {"c": None, "a": [1, {"b": 2.5}]})
