"""Verifies passwords of the configured users, and remembers for a while which were right and which were wrong."""

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHash

from app.auth.basic import Credentials, parse_basic
from app.auth.recent import put_newest
from app.auth.throttle import Throttle
from app.errors import NotAuthenticated, TooManyAttempts
from app.settings import User

# How long a verified password is remembered after its last use, in seconds: argon2 takes tens of milliseconds.
_REMEMBER_SECONDS = 60.0
_MAX_REMEMBERED = 10_000
# How long a wrong password is remembered after its last use, as long as the throttle counts its attempt.
_REMEMBER_WRONG_SECONDS = 600.0

# More concurrent verifications would only take the processor from everything else.
_CONCURRENT_VERIFICATIONS = 2


@dataclass(frozen=True)
class _Known:
    """Credentials that were right, or wrong, for a user with this hash; None stands for no such user."""

    until: float
    password_hash: str | None


class Authenticator:
    """Verifies credentials against the configured users, who may be replaced at any time.

    An unknown user costs as much time as a wrong password. `clock` is in seconds, monotonic.
    """

    def __init__(
        self, users: tuple[User, ...], clock: Callable[[], float] = time.monotonic, *, workers: int = 1
    ) -> None:
        self._clock = clock
        self._throttle = Throttle(clock, workers)
        self._hasher = PasswordHasher()
        self._key = secrets.token_bytes(32)
        self._right: OrderedDict[bytes, _Known] = OrderedDict()
        self._wrong: OrderedDict[bytes, _Known] = OrderedDict()
        self._repetition: asyncio.Task[bool] | None = None
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

    @property
    def contact_centers(self) -> set[str]:
        """The contact centers that users have."""
        return {user.contact_center for user in self._users.values() if user.contact_center is not None}

    def user(self, name: str) -> User | None:
        """Returns the user of a name, as configured now."""
        return self._users.get(name)

    async def until_changed(self, user: User) -> None:
        """Returns when the user is removed, or may do something else than when the user was authenticated."""
        while self._users.get(user.name) == user:
            await self._replaced.wait()

    async def authenticate(self, authorization: str | None, address: str) -> User:
        """Returns the user of an Authorization header; raises NotAuthenticated, with the same message for each fault.

        `address` is the client's: failures are counted per user and address. Raises TooManyAttempts, whether or not
        the credentials are right, when too many wait.
        """
        try:
            return await self._authenticated(parse_basic(authorization), address)
        except (NotAuthenticated, TooManyAttempts):
            await self.before_refusal(address)
            raise

    async def before_refusal(self, address: str) -> None:
        """Waits when an address causes many refusals, whatever it tried."""
        await self._throttle.before_refusal(address)

    async def _authenticated(self, credentials: Credentials | None, address: str) -> User:
        if credentials is None:
            raise NotAuthenticated
        return await self.verify(credentials, address)

    async def verify(self, credentials: Credentials, address: str) -> User:
        """Returns the user of a name and a password; raises as `authenticate`."""
        name = credentials.name
        if ":" in name:  # which no user has, and with which two pairs could look alike below
            raise NotAuthenticated
        # A keyed digest, so that no password lies in memory in clear, and none can be found by comparing.
        digest = blake2b(f"{name}:{credentials.password}".encode(), digest_size=32, key=self._key).digest()
        current_hash = self._hash_of(name)
        # A client that is known need not queue with those that guess.
        if self._is_known(self._right, digest, current_hash):
            self._remember(self._right, digest, current_hash)
            return self._users[name]
        if self._is_known(self._wrong, digest, current_hash):
            self._remember(self._wrong, digest, current_hash)
            await self._refuse_again(credentials)
        if await self._verified_hash(credentials, digest, address) != self._hash_of(name):
            raise NotAuthenticated
        return self._users[name]

    def _hash_of(self, name: str) -> str | None:
        """Returns the user's hash, None for a user who does not exist."""
        user = self._users.get(name)
        return user.password_hash if user else None

    async def _refuse_again(self, credentials: Credentials) -> None:
        """Raises NotAuthenticated for credentials that are known to be wrong, without a place in the queue.

        A client with an old password keeps sending it, and must not make others at its address wait. One such
        request at a time is verified again, so that the time of the answer tells little of what others have tried.
        """
        if self._repetition is None or self._repetition.done():
            password_hash = self._hash_of(credentials.name) or self._hash_of_no_user
            verification = asyncio.to_thread(self._matches, password_hash, credentials.password)
            self._repetition = asyncio.create_task(verification)
            await asyncio.shield(self._repetition)
        raise NotAuthenticated

    async def _verified_hash(self, credentials: Credentials, digest: bytes, address: str) -> str:
        """Returns the hash that the password has; one verification serves all the concurrent requests of a client."""
        key = (digest, address)
        task = self._in_flight.get(key)
        if task is None:
            self._throttle.take_place(address)
            task = asyncio.create_task(self._verify(credentials, digest, address))
            self._in_flight[key] = task
            task.add_done_callback(lambda done: self._finish(key, done))
        return await asyncio.shield(task)

    async def _verify(self, credentials: Credentials, digest: bytes, address: str) -> str:
        """Returns the hash that the password has; raises NotAuthenticated or TooManyAttempts."""
        name = credentials.name
        await self._throttle.before_attempt(name, address)
        async with self._verifications:
            begun = time.monotonic()
            while True:
                current_hash = self._hash_of(name)
                password_hash = current_hash or self._hash_of_no_user
                matches = await asyncio.to_thread(self._matches, password_hash, credentials.password)
                if current_hash == self._hash_of(name):  # otherwise the users were replaced meanwhile
                    break
            if current_hash is None or not matches:
                # Who guesses takes half of the processor time that verifications may take, at most.
                await asyncio.sleep(time.monotonic() - begun)
        if current_hash is None or not matches:
            self._remember(self._wrong, digest, current_hash)
            raise NotAuthenticated
        self._throttle.succeeded(name, address)
        return password_hash

    def _finish(self, key: tuple[bytes, str], task: asyncio.Task[str]) -> None:
        digest, address = key
        del self._in_flight[key]
        self._throttle.free_place(address)
        if not task.cancelled() and task.exception() is None:
            self._remember(self._right, digest, task.result())

    def _is_known(self, memory: OrderedDict[bytes, _Known], digest: bytes, current_hash: str | None) -> bool:
        known = memory.get(digest)
        return known is not None and known.until > self._clock() and known.password_hash == current_hash

    def _remember(self, memory: OrderedDict[bytes, _Known], digest: bytes, password_hash: str | None) -> None:
        seconds = _REMEMBER_SECONDS if memory is self._right else _REMEMBER_WRONG_SECONDS
        put_newest(memory, digest, _Known(self._clock() + seconds, password_hash), max_entries=_MAX_REMEMBERED)

    def _matches(self, password_hash: str, password: str) -> bool:
        try:
            return self._hasher.verify(password_hash, password)
        except (Argon2Error, InvalidHash):
            return False
