"""Verifies passwords of the configured users, and remembers for a while which were right."""

import asyncio
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHash

from app.auth.basic import Credentials, parse_basic
from app.auth.recent import put_newest
from app.auth.throttle import Throttle
from app.errors import NotAuthenticated
from app.settings import User

# How long a verified password is remembered after its last use, in seconds: argon2 takes tens of milliseconds.
_REMEMBER_SECONDS = 60.0
_MAX_REMEMBERED = 10_000

# More concurrent verifications would only take the processor from everything else.
_CONCURRENT_VERIFICATIONS = 2


@dataclass(frozen=True)
class _Verified:
    """Credentials that were right; they let the user in as long as the user still has that hash."""

    until: float
    password_hash: str


class Authenticator:
    """Verifies credentials against the configured users, who may be replaced at any time.

    An unknown user costs as much time as a wrong password. `clock` is in seconds, monotonic.
    """

    def __init__(self, users: tuple[User, ...], clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._throttle = Throttle(clock)
        self._hasher = PasswordHasher()
        self._key = secrets.token_bytes(32)
        self._verified: OrderedDict[bytes, _Verified] = OrderedDict()
        self._in_flight: dict[tuple[bytes, str], asyncio.Task[str]] = {}
        self._verifications = asyncio.Semaphore(_CONCURRENT_VERIFICATIONS)
        self._replaced = asyncio.Event()
        self.replace_users(users)

    def replace_users(self, users: tuple[User, ...]) -> None:
        """From now on these are the users, also for credentials that are remembered or being verified."""
        self._users = {user.name: user for user in users}
        # Verified for users that do not exist, so it must cost what the real ones cost.
        self._hash_of_no_user = users[0].password_hash if users else self._hasher.hash(secrets.token_hex())
        self._replaced.set()
        self._replaced = asyncio.Event()

    async def until_changed(self, user: User) -> None:
        """Returns when the user is removed, or may do something else than when the user was authenticated."""
        while self._users.get(user.name) == user:
            await self._replaced.wait()

    async def authenticate(self, authorization: str | None, address: str) -> User:
        """Returns the user of an Authorization header; raises NotAuthenticated, with the same message for each fault.

        `address` is the client's: failures are counted per user and address.
        """
        credentials = parse_basic(authorization)
        if credentials is None:
            raise NotAuthenticated
        name = credentials.name
        # A keyed digest, so that no password lies in memory in clear, and none can be found by comparing.
        digest = hmac.digest(self._key, f"{name}:{credentials.password}".encode(), "sha256")
        verified = self._verified.get(digest)
        if verified is not None and verified.until > self._clock() and self._has_hash(name, verified.password_hash):
            # A client that is known need not queue with those that guess.
            self._remember(digest, verified.password_hash)
            return self._users[name]
        if not self._has_hash(name, await self._verified_hash(credentials, digest, address)):
            raise NotAuthenticated
        return self._users[name]

    def _has_hash(self, name: str, password_hash: str) -> bool:
        """Returns whether what was verified against this hash still lets the user in."""
        user = self._users.get(name)
        return user is not None and user.password_hash == password_hash

    async def _verified_hash(self, credentials: Credentials, digest: bytes, address: str) -> str:
        """Returns the hash that the password has; one verification serves all the concurrent requests of a client."""
        key = (digest, address)
        task = self._in_flight.get(key)
        if task is None:
            self._throttle.take_place(address)
            task = asyncio.create_task(self._verify(credentials, address))
            self._in_flight[key] = task
            task.add_done_callback(lambda done: self._finish(key, done))
        return await asyncio.shield(task)

    async def _verify(self, credentials: Credentials, address: str) -> str:
        """Returns the hash that the password has; raises NotAuthenticated."""
        name = credentials.name
        await self._throttle.before_attempt(name, address)
        async with self._verifications:
            user = self._users.get(name)
            password_hash = user.password_hash if user else self._hash_of_no_user
            matches = await asyncio.to_thread(self._matches, password_hash, credentials.password)
        if user is None or not matches:
            raise NotAuthenticated
        self._throttle.succeeded(name, address)
        return password_hash

    def _finish(self, key: tuple[bytes, str], task: asyncio.Task[str]) -> None:
        digest, address = key
        del self._in_flight[key]
        self._throttle.free_place(address)
        if not task.cancelled() and task.exception() is None:
            self._remember(digest, task.result())

    def _remember(self, digest: bytes, password_hash: str) -> None:
        verified = _Verified(self._clock() + _REMEMBER_SECONDS, password_hash)
        put_newest(self._verified, digest, verified, max_entries=_MAX_REMEMBERED)

    def _matches(self, password_hash: str, password: str) -> bool:
        try:
            return self._hasher.verify(password_hash, password)
        except (Argon2Error, InvalidHash):
            return False
