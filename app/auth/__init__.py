"""Who is asking: HTTP Basic (RFC 7617), users, roles, contact centers (CONTRACT.md section 2)."""

import asyncio
import hmac
import secrets
import time
from base64 import b64decode
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHash

from app.errors import InsufficientPermissions, InsufficientRole, NotAuthenticated
from app.settings import Role, User

_K = TypeVar("_K")
_V = TypeVar("_V")

# How long a password that was verified is remembered after its last use, in seconds: argon2 takes tens of milliseconds.
_REMEMBER_SECONDS = 60.0
_MAX_REMEMBERED = 10_000

# The first wrong attempts of a user at an address cost nothing, the next ones a growing pause, in seconds.
_FREE_ATTEMPTS = 5
_FIRST_PAUSE = 0.25
_LONGEST_PAUSE = 8.0
_FORGET_SECONDS = 600.0
_MAX_TRACKED = 10_000

_PERMISSIONS = {
    "apply": {"RECORDING_PERMISSION_APPLY_NON_DELETE", "RECORDING_PERMISSION_APPLY_NON_DELETION"},
    "unapply": {"RECORDING_PERMISSION_UNAPPLY_NON_DELETE", "RECORDING_PERMISSION_UNAPPLY_NON_DELETION"},
}

# More verifications at once would only take the processor from everything else.
_VERIFICATIONS_AT_ONCE = 2
# Different credentials; who invents user names is never paused, and would only make everybody else wait.
_WAITING_AT_ONE_ADDRESS = 20


def require_role(user: User, *roles: Role) -> None:
    """Raises InsufficientRole unless the user has one of the roles."""
    if not set(roles) & set(user.roles):
        raise InsufficientRole


def require_permission(user: User, operation: Literal["apply", "unapply"]) -> None:
    """Raises InsufficientPermissions unless the user may protect recordings, or unprotect them.

    An administrator may (seeds/recording-non-deletion.txt, "Required Permissions"); both spellings mean the same.
    """
    if "admin" not in user.roles and not _PERMISSIONS[operation] & set(user.permissions):
        raise InsufficientPermissions


@dataclass
class _Attempts:
    """Of one user at one address since the last success; `last` and `next` are times."""

    count: int = 0
    last: float = 0.0
    next: float = 0.0


@dataclass(frozen=True)
class _Verified:
    """Credentials that were right; they let in as long as the user still has that hash."""

    until: float
    password_hash: str


class Authenticator:
    """Verifies credentials against the configured users, who may be replaced at any time.

    An unknown user costs as much time as a wrong password. `clock` is in seconds, monotonic.
    """

    def __init__(self, users: tuple[User, ...], clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._hasher = PasswordHasher()
        self._key = secrets.token_bytes(32)
        self._verified: OrderedDict[bytes, _Verified] = OrderedDict()
        self._attempts: OrderedDict[tuple[str, str], _Attempts] = OrderedDict()
        self._under_way: dict[tuple[bytes, str], asyncio.Task[str]] = {}
        self._verifications = asyncio.Semaphore(_VERIFICATIONS_AT_ONCE)
        self.replace_users(users)

    def replace_users(self, users: tuple[User, ...]) -> None:
        """From now on these are the users, also for credentials that are remembered or being verified."""
        self._users = {user.name: user for user in users}
        # Verified for users that do not exist, so it must cost what the real ones cost.
        self._nobody = users[0].password_hash if users else self._hasher.hash(secrets.token_hex())

    async def authenticate(self, authorization: str | None, address: str) -> User:
        """The user of an Authorization header; raises NotAuthenticated, always alike.

        `address` is the client's: failures are counted per user and address.
        """
        credentials = parse_basic(authorization)
        if credentials is None:
            raise NotAuthenticated
        name, password = credentials
        # A keyed digest, so that no password lies in memory in clear, and none can be found by comparing.
        digest = hmac.digest(self._key, f"{name}:{password}".encode(), "sha256")
        verified = self._verified.get(digest)
        if verified is not None and verified.until > self._clock() and self._has_hash(name, verified.password_hash):
            # Who comes again and again need not queue with those who guess.
            self._remember(digest, verified.password_hash)
            return self._users[name]
        # A client's first requests come all at once: one verification serves them all.
        key = (digest, address)
        task = self._under_way.get(key)
        if task is None:
            if sum(other == address for _, other in self._under_way) >= _WAITING_AT_ONE_ADDRESS:
                raise NotAuthenticated(retry_after=1)
            task = asyncio.create_task(self._verify(name, password, address))
            self._under_way[key] = task
            task.add_done_callback(lambda done: self._finish(key, done))
        if not self._has_hash(name, await asyncio.shield(task)):
            raise NotAuthenticated
        return self._users[name]

    def _has_hash(self, name: str, password_hash: str) -> bool:
        """Whether what was verified against this hash still lets the user in."""
        user = self._users.get(name)
        return user is not None and user.password_hash == password_hash

    async def _verify(self, name: str, password: str, address: str) -> str:
        """The hash that the password has; raises NotAuthenticated."""
        # Counted before its outcome is known, or a thousand at once would all count as the first.
        await self._pause(self._count_attempt(name, address))
        async with self._verifications:
            user = self._users.get(name)
            password_hash = user.password_hash if user else self._nobody
            matches = await asyncio.to_thread(self._matches, password_hash, password)
        if user is None or not matches:
            raise NotAuthenticated
        self._attempts.pop((name, address), None)
        return password_hash

    def _finish(self, key: tuple[bytes, str], task: asyncio.Task[str]) -> None:
        del self._under_way[key]
        if not task.cancelled() and task.exception() is None:
            self._remember(key[0], task.result())

    def _remember(self, digest: bytes, password_hash: str) -> None:
        _put(self._verified, digest, _Verified(self._clock() + _REMEMBER_SECONDS, password_hash), _MAX_REMEMBERED)

    def _matches(self, password_hash: str, password: str) -> bool:
        try:
            return self._hasher.verify(password_hash, password)
        except (Argon2Error, InvalidHash):
            return False

    def _count_attempt(self, name: str, address: str) -> _Attempts:
        now = self._clock()
        attempts = self._attempts.get((name, address))
        if attempts is None or attempts.last + _FORGET_SECONDS < now:
            attempts = _Attempts()
        attempts.count += 1
        attempts.last = now
        _put(self._attempts, (name, address), attempts, _MAX_TRACKED)
        return attempts

    async def _pause(self, attempts: _Attempts) -> None:
        """Lets attempts after several failures through one by one; refuses them when too many wait."""
        over = attempts.count - _FREE_ATTEMPTS
        if over <= 0:
            return
        now = self._clock()
        wait = max(attempts.next - now, 0.0)
        if wait > _LONGEST_PAUSE:
            raise NotAuthenticated(retry_after=round(wait) + 1)
        attempts.next = now + wait + min(_FIRST_PAUSE * 2.0 ** min(over, 10), _LONGEST_PAUSE)
        await asyncio.sleep(wait)


def parse_basic(authorization: str | None) -> tuple[str, str] | None:
    """The name and the password of an Authorization header, unverified; None when it has none."""
    scheme, _, encoded = (authorization or "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, colon, password = b64decode(encoded.strip(), validate=True).decode().partition(":")
    except ValueError:  # not base64, not ASCII, not UTF-8
        return None
    return (name, password) if colon else None


def _put(entries: OrderedDict[_K, _V], key: _K, value: _V, most: int) -> None:
    """Adds an entry as the newest, and drops the oldest when there are too many."""
    entries[key] = value
    entries.move_to_end(key)
    if len(entries) > most:
        entries.popitem(last=False)
