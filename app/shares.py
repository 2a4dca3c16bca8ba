"""Places for what is in flight, shared so that one contact center or user leaves room for the others.

docs/decisions/0019-shares.md.
"""

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeVar

import prometheus_client
from prometheus_client import CollectorRegistry, Gauge

from app.errors import ShareInUse

Key = TypeVar("Key")


class Owner(NamedTuple):
    """Whose share a place counts against; without a user, only the contact center's."""

    contact_center: str
    user: str | None = None


@dataclass(frozen=True)
class Limits:
    """How much may be in use: of all, of one contact center, and of one user of a contact center."""

    total: int
    contact_center: int
    user: int


# A contact center counts as active for so long after a request, because a supervisor pauses between two clicks.
_ACTIVE_SECONDS = 60.0


class Activity:
    """Whether others than one contact center have asked for anything lately."""

    def __init__(self) -> None:
        # The two contact centers that asked last, and when.
        self._last: tuple[str, float] = ("", -math.inf)
        self._before: tuple[str, float] = ("", -math.inf)

    def note(self, contact_center: str) -> None:
        """Notes that this contact center asks for something now."""
        if contact_center != self._last[0]:
            self._before = self._last
        self._last = contact_center, time.monotonic()

    def has_others(self, contact_center: str) -> bool:
        """Returns whether another contact center is active, too."""
        _, when = self._before if self._last[0] == contact_center else self._last
        return when > time.monotonic() - _ACTIVE_SECONDS


@dataclass(eq=False)
class Place:
    """What one owner has in use; `release` gives it back, however often it is called.

    `on_scarce` is called whenever a request has to wait for the share that this place is part of.
    """

    shares: "Shares"
    owner: Owner
    amount: int
    on_scarce: Callable[[], object] | None = None
    _is_taken: bool = True

    def release(self) -> None:
        if self._is_taken:
            self._is_taken = False
            self.shares.give_back(self)


@dataclass(eq=False)
class _Waiting:
    place: Place
    granted: "asyncio.Future[None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Shares:
    """Places of one kind, in one process. `what` is what clients call them, `name` what metrics do.

    A place that is given back goes to the contact center that uses least, and there to the user who uses least. A user
    with up to `patient` requests, those that wait included, waits `patience` seconds for a place; a user with more
    waits `wait` seconds.
    """

    def __init__(
        self,
        what: str,
        name: str,
        limits: Limits,
        registry: CollectorRegistry,
        *,
        wait: float,
        patience: float = 0.0,
        patient: int = 0,
        activity: Activity | None = None,
    ) -> None:
        self._what = what
        self._limits = limits
        self._activity = activity
        self._beside_others = limits.contact_center
        self._wait = wait
        self._patience = patience
        self._patient = patient
        self._used = 0
        self._by_contact_center: Counter[str] = Counter()
        self._by_user: Counter[Owner] = Counter()
        self._requests: Counter[Owner] = Counter()
        self._waiting: list[_Waiting] = []
        self._places: set[Place] = set()
        self._in_use_gauge = Gauge(
            f"recall_{name}_in_use",
            f"How many {name} are in use.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._waiting_gauge = Gauge(
            f"recall_{name}_waiting",
            f"How many requests wait for {name}.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._refused = prometheus_client.Counter(
            f"recall_{name}_refused",
            f"How many requests got no {name} in time, by whose share was in use (user, contact center or service).",
            ["share"],
            registry=registry,
        )

    def leave_room(self, beside_others: int) -> None:
        """From now on gives a contact center at most so many places while others are active."""
        self._beside_others = min(beside_others, self._limits.contact_center)
        self._grant()

    @asynccontextmanager
    async def place(self, owner: Owner, amount: int = 1) -> AsyncIterator[None]:
        """Holds a place of this size while the context is open; raises as `take` does."""
        place = await self.take(owner, amount)
        try:
            yield
        finally:
            place.release()

    async def take(self, owner: Owner, amount: int = 1) -> Place:
        """Returns a place of this size, at most a contact center's share, when there is one.

        Raises ShareInUse when there is none in time.
        """
        place = Place(self, owner, min(amount, self._limits.contact_center))
        self._requests[owner] += 1
        try:
            if self._waiting or not self._fits(place):
                await self._wait_for(place)
            else:
                self._count(place, place.amount)
        except BaseException:
            _add(self._requests, owner, -1)
            raise
        self._places.add(place)
        return place

    def give_back(self, place: Place) -> None:
        """Makes a place free again; `Place.release` calls it."""
        self._places.discard(place)
        _add(self._requests, place.owner, -1)
        self._count(place, -place.amount)
        self._grant()

    async def _wait_for(self, place: Place) -> None:
        seconds = self._patience if self._requests[place.owner] <= self._patient else self._wait
        waiting = _Waiting(place)
        self._waiting.append(waiting)
        self._waiting_gauge.inc()
        self._grant()  # the others may wait for a share that is not this one's
        try:
            if not waiting.granted.done():
                self._tell_holders(place.owner)
            async with asyncio.timeout(seconds):
                await waiting.granted
        except BaseException as error:
            if waiting.granted.done() and not waiting.granted.cancelled():  # in the same moment
                self._count(place, -place.amount)
            else:
                with suppress(ValueError):
                    self._stop_waiting(waiting)
            # This one may have been the next for a share that others have room in.
            self._grant()
            if not isinstance(error, TimeoutError):
                raise
            if not self._fits(place):
                raise self._refusal(place) from None
            self._count(place, place.amount)  # others have ceased to be active

    def _tell_holders(self, owner: Owner) -> None:
        for place in list(self._places):
            if place.on_scarce is not None and place.owner.contact_center == owner.contact_center:
                place.on_scarce()

    def _grant(self) -> None:
        """Gives free places to those who wait, the contact center and the user that use least first."""
        while self._waiting:
            allowed = self._allowed()
            if not allowed:
                return
            first = min(allowed, key=lambda waiting: self._use(waiting.place.owner))
            # A large one that waits for the others' places is not overtaken, or its turn would never come.
            if self._used + first.place.amount > self._limits.total:
                return
            self._stop_waiting(first)
            if not first.granted.done():
                self._count(first.place, first.place.amount)
                first.granted.set_result(None)

    def _allowed(self) -> list[_Waiting]:
        """Returns those who wait and whose shares have room, in the order in which they came.

        One that needs more than half of its contact center's share is overtaken by none that needs less of it, or its
        turn might never come.
        """
        allowed: list[_Waiting] = []
        needed: dict[str, int] = {}
        for waiting in self._waiting:
            place, contact_center = waiting.place, waiting.place.owner.contact_center
            if place.amount < needed.get(contact_center, 0):
                continue
            if self._is_within_share(place):
                allowed.append(waiting)
            if 2 * place.amount > self._limit_of_contact_center(place.owner):
                needed[contact_center] = place.amount
        return allowed

    def _stop_waiting(self, waiting: _Waiting) -> None:
        self._waiting.remove(waiting)
        self._waiting_gauge.dec()

    def _use(self, owner: Owner) -> tuple[int, int]:
        return self._by_contact_center[owner.contact_center], self._by_user[owner]

    def _is_within_share(self, place: Place) -> bool:
        _, user = self._use(place.owner)
        return self._has_room(place) and user + place.amount <= self._limit_of_user(place.owner)

    def _has_room(self, place: Place) -> bool:
        """Returns whether the share of the place's contact center has room for it."""
        used, _ = self._use(place.owner)
        # One that needs more than is left beside others goes alone.
        return not used or used + place.amount <= self._limit_of_contact_center(place.owner)

    def _limit_of_contact_center(self, owner: Owner) -> int:
        if self._activity is not None and self._activity.has_others(owner.contact_center):
            return self._beside_others
        return self._limits.contact_center

    def _limit_of_user(self, owner: Owner) -> int:
        return self._limits.contact_center if owner.user is None else self._limits.user

    def _fits(self, place: Place) -> bool:
        return self._is_within_share(place) and self._used + place.amount <= self._limits.total

    def _count(self, place: Place, amount: int) -> None:
        self._used += amount
        self._in_use_gauge.set(self._used)
        _add(self._by_contact_center, place.owner.contact_center, amount)
        _add(self._by_user, place.owner, amount)

    def _refusal(self, place: Place) -> ShareInUse:
        _, user = self._use(place.owner)
        share: Literal["user", "contact center", "service"] = "service"
        if not self._has_room(place):
            share = "contact center"
        elif user + place.amount > self._limit_of_user(place.owner):
            share = "user"
        self._refused.labels(share).inc()
        return ShareInUse(self._what, share)


def _add(counter: "Counter[Key]", key: Key, amount: int) -> None:
    counter[key] += amount
    if not counter[key]:
        del counter[key]
