"""The waits between attempts: random, growing, and bounded by a deadline."""

import random

import pytest

from app.retry import Backoff


async def test_no_wait_when_the_deadline_has_passed() -> None:
    backoff = Backoff(0.0)
    assert backoff.next_wait() is None
    assert not await backoff.wait()


def test_waits_end_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000.0
    monkeypatch.setattr("app.retry.time.monotonic", lambda: now)
    backoff = Backoff(0.05, initial=0.01, maximum=0.02)
    while (seconds := backoff.next_wait()) is not None:
        now += seconds
        assert backoff.seconds_left > 0
    assert backoff.seconds_left <= 0.02


def test_waits_come_from_a_range_that_doubles_up_to_its_maximum(monkeypatch: pytest.MonkeyPatch) -> None:
    ranges: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        ranges.append((low, high))
        return high

    monkeypatch.setattr(random, "uniform", uniform)
    backoff = Backoff(initial=1.0, maximum=5.0)
    assert [backoff.next_wait() for _ in range(5)] == [1.0, 2.0, 4.0, 5.0, 5.0]
    assert {low for low, _ in ranges} == {0}
