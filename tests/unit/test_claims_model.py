"""Every interleaving of a small world: no deletion deletes an object that an acknowledged recording refers to.

The steps are those of `app.store.claims`, `app.lifecycle.deletion` and `RecordingRepository.save`: each is one request
to Elasticsearch or to the storage, or the passing of so much time that a claim expires.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest


class Claim(NamedTuple):
    holder: int
    calling: bool = False
    unanswered: bool = False

    @property
    def cancellable(self) -> bool:
        return not self.calling and not self.unanswered


class World(NamedTuple):
    """The state of everything. A process is where it stands in its steps.

    `late` counts DELETEs that the storage has accepted and not carried out. `stored` and `acknowledged` are the sets of
    recordings (by the number of their poster) that are in the index, and whose POST was answered with success.
    """

    deleters: tuple[str, ...]
    posters: tuple[str, ...]
    claim: Claim | None = None
    stored: frozenset[int] = frozenset()
    acknowledged: frozenset[int] = frozenset()
    late: int = 0
    lost: bool = False  # an object was deleted after a success was answered


def moved(world: World, kind: str, number: int, state: str, **changes: Any) -> World:
    processes = list(getattr(world, kind))
    processes[number] = state
    changes[kind] = tuple(processes)
    return world._replace(**changes)


def steps_of_deleter(world: World, d: int, *, claims: bool) -> Iterator[World]:  # noqa: C901, PLR0912  # one a state
    state, claim = world.deleters[d], world.claim
    mine = claim is not None and claim.holder == d

    def to(new: str, **changes: Any) -> World:
        return moved(world, "deleters", d, new, **changes)

    if state in {"done", "dead"}:
        return
    yield to("dead")  # killed here; what it sent may still take effect
    if state == "start":
        if not claims:
            yield to("claimed")
        elif claim is None:
            yield to("claimed", claim=Claim(d))
        else:  # taken over after a while
            yield to("claimed", claim=Claim(d, unanswered=not claim.cancellable))
            yield to("done")  # or left to a later sweep
    elif state == "claimed":  # asks whether a recording needs the object
        yield to("release" if world.stored else "unneeded")
    elif state == "unneeded":
        if not claims:
            yield to("calling")
        elif claim is not None and mine:
            yield to("calling", claim=claim._replace(calling=True))
        else:  # cancelled, or taken over
            yield to("start")
    elif state == "calling":
        yield to("sent", late=world.late + 1)
    elif state == "sent":
        yield to("gave-up")  # without an answer
        if world.late:
            yield to("release", late=world.late - 1, lost=world.lost or bool(world.acknowledged))
    elif state == "gave-up":
        yield to("done", claim=claim._replace(calling=False, unanswered=True) if claim is not None and mine else claim)
    elif state == "release":
        if claim is not None and mine:
            yield to("done", claim=claim._replace(calling=False) if claim.unanswered else None)
        else:
            yield to("done")


def steps_of_poster(world: World, p: int, *, claims: bool, check_first: bool) -> Iterator[World]:
    state, claim = world.posters[p], world.claim

    def to(new: str, **changes: Any) -> World:
        return moved(world, "posters", p, new, **changes)

    def check(after: str, **changes: Any) -> Iterator[World]:
        if not claims or claim is None:
            yield to(after, **changes)
        elif claim.cancellable:
            yield to(after, claim=None, **changes)
        else:
            yield to("refused")  # 503; what is stored stays

    acknowledged = {"acknowledged": world.acknowledged | {p}}
    if state == "start" and check_first:
        yield from check("write")
    elif state in {"start", "write"}:
        stored = {"stored": world.stored | {p}}
        yield to("done", **stored, **acknowledged) if check_first else to("check", **stored)
    elif state == "check":
        yield from check("done", **acknowledged)
    elif state == "refused":
        yield to("start")  # the client repeats its request


def steps(world: World, *, claims: bool, check_first: bool, expiry: bool) -> Iterator[World]:
    for d in range(len(world.deleters)):
        yield from steps_of_deleter(world, d, claims=claims)
    for p in range(len(world.posters)):
        yield from steps_of_poster(world, p, claims=claims, check_first=check_first)
    if world.late and not any(state == "sent" for state in world.deleters):
        # The storage carries out a DELETE whose deleter has given up or died.
        yield world._replace(late=world.late - 1, lost=world.lost or bool(world.acknowledged))
    # A claim expires after every call has ended, and no deleter calls with an old one: it looks at its clocks first.
    active = any(state in {"calling", "sent"} for state in world.deleters)
    if expiry and world.claim is not None and not active and not world.late:
        yield world._replace(claim=None)


def losses(deleters: int, posters: int, *, claims: bool = True, check_first: bool = False) -> tuple[int, int]:
    """Returns the number of reachable states, and in how many an object was lost."""
    first = World(("start",) * deleters, ("start",) * posters)
    seen, todo = {first}, [first]
    while todo:
        for world in steps(todo.pop(), claims=claims, check_first=check_first, expiry=claims):
            if world not in seen:
                seen.add(world)
                todo.append(world)
    return len(seen), sum(world.lost for world in seen)


@pytest.mark.parametrize(("deleters", "posters"), [(1, 1), (1, 2), (2, 1), (2, 2), (3, 2)])
def test_no_interleaving_loses_an_object(deleters: int, posters: int) -> None:
    states, lost = losses(deleters, posters)
    assert states > 20
    assert lost == 0


def test_the_model_finds_what_was_wrong_without_claims() -> None:
    assert losses(1, 1, claims=False)[1] > 0


def test_the_model_finds_that_a_check_before_the_write_is_too_early() -> None:
    assert losses(1, 1, check_first=True)[1] > 0
