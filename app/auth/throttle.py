"""Throttling of password guesses: growing pauses per user and address, and a bounded queue per address."""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from app.auth.networks import network_of
from app.auth.recent import put_newest
from app.errors import TooManyAttempts

# The first wrong attempts of a user at an address cost nothing, the next ones a growing pause, in seconds.
_FREE_ATTEMPTS = 5
_FIRST_PAUSE = 0.25
_LONGEST_PAUSE = 8.0
_FORGET_SECONDS = 600.0
_MAX_TRACKED = 10_000

# Callers who are not authenticated: the first ones at an address are answered immediately, then so many a second.
_REFUSALS_A_SECOND = 50.0
_FREE_REFUSALS = 100.0
_LONGEST_REFUSAL = 5.0

# Different credentials. A client that invents user names is never paused, and would only make all others wait.
MAX_WAITING_AT_ONE_ADDRESS = 20


@dataclass
class _Attempts:
    """The attempts of one user at one address since the last success; `last` and `next` are times."""

    count: int = 0
    last: float = 0.0
    next: float = 0.0


def _key(name: str, address: str) -> tuple[bytes, str]:
    """Returns the key of a user at an address. Names are the client's to invent, and as long as a request."""
    return sha256(name.encode(errors="surrogatepass")).digest(), network_of(address)


class Throttle:
    """Slows attempts down; addresses of one network count as one. `clock` is in seconds, monotonic.

    It is one of `workers`, which know nothing of each other: each allows its part, so that all together allow what one
    would.
    """

    def __init__(self, clock: Callable[[], float], workers: int = 1) -> None:
        self._clock = clock
        self._free_attempts = max(_FREE_ATTEMPTS // workers, 1)
        self._pause_factor = workers
        self._most_waiting = max(MAX_WAITING_AT_ONE_ADDRESS // workers, 1)
        self._attempts: OrderedDict[tuple[bytes, str], _Attempts] = OrderedDict()
        self._waiting: Counter[str] = Counter()
        # Until when the refusals of an address are spread out.
        self._refusals: OrderedDict[str, float] = OrderedDict()

    def take_place(self, address: str) -> None:
        """Takes one of the places in the queue of an address; raises TooManyAttempts when all are taken."""
        network = network_of(address)
        if self._waiting[network] >= self._most_waiting:
            raise TooManyAttempts(retry_after=1)
        self._waiting[network] += 1

    def free_place(self, address: str) -> None:
        """Gives a place back."""
        network = network_of(address)
        self._waiting[network] -= 1
        if not self._waiting[network]:
            del self._waiting[network]

    async def before_attempt(self, name: str, address: str) -> None:
        """Counts an attempt and, after several failures, waits until it is its turn.

        Raises TooManyAttempts when too many wait. The attempt counts before its outcome is known; otherwise a
        thousand concurrent ones would all count as the first.
        """
        attempts = self._count(name, address)
        over = attempts.count - self._free_attempts
        if over <= 0:
            return
        now = self._clock()
        wait = max(attempts.next - now, 0.0)
        if wait > _LONGEST_PAUSE:
            raise TooManyAttempts(retry_after=round(wait) + 1)
        pause = min(_FIRST_PAUSE * 2.0 ** min(over, 10), _LONGEST_PAUSE)
        attempts.next = now + wait + pause * self._pause_factor
        await asyncio.sleep(wait)

    async def before_refusal(self, address: str) -> None:
        """Waits when an address causes many refusals, which would take the processor from who is authenticated."""
        now, network = self._clock(), network_of(address)
        free_until = now - _FREE_REFUSALS / _REFUSALS_A_SECOND
        at = max(self._refusals.get(network, free_until), free_until) + 1 / _REFUSALS_A_SECOND
        at = min(at, now + _LONGEST_REFUSAL)
        put_newest(self._refusals, network, at, max_entries=_MAX_TRACKED)
        if at > now:
            await asyncio.sleep(at - now)

    def succeeded(self, name: str, address: str) -> None:
        """Forgets the failures of a user at an address."""
        self._attempts.pop(_key(name, address), None)

    def _count(self, name: str, address: str) -> _Attempts:
        now, key = self._clock(), _key(name, address)
        attempts = self._attempts.get(key)
        if attempts is None or attempts.last + _FORGET_SECONDS < now:
            attempts = _Attempts()
        attempts.count += 1
        attempts.last = now
        put_newest(self._attempts, key, attempts, max_entries=_MAX_TRACKED)
        return attempts
