"""Follows the users of the configuration file, so that they change without a restart."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry, Gauge

from app.auth.passwords import Authenticator
from app.background import in_background
from app.settings import ConfigurationError, Settings, User, load_settings

log = logging.getLogger(__name__)

# A change takes effect when two looks have seen the same state, because a file that is being written may be
# valid so far.
_LOOK_SECONDS = 0.5


@asynccontextmanager
async def users_from_file(
    file: str | None, authenticator: Authenticator, registry: CollectorRegistry
) -> AsyncIterator[None]:
    """Passes the users to the authenticator whenever the file changes. Without a file it does nothing.

    A file that cannot be used, or has no users, changes nothing. At the start it raises ConfigurationError: a worker
    may start long after the process that has read its settings.
    """
    if file is None:
        yield
        return
    if users := (await asyncio.to_thread(load_settings, {**os.environ, "RECALL_CONFIG": file})).users:
        authenticator.replace_users(users)
    read = Gauge(
        "recall_users_read_timestamp_seconds",
        "When the users in force were read from the configuration file, in seconds since 1970.",
        registry=registry,
        multiprocess_mode="livemin",
    )
    read.set_to_current_time()
    async with in_background(_watch(file, authenticator, read)):
        yield


async def _watch(file: str, authenticator: Authenticator, read: Gauge) -> None:
    users = _Users(file, authenticator, read)
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        try:
            await users.look()
        except Exception:  # otherwise no user could be removed any more
            log.exception("%s could not be looked at", file)


class _Users:
    def __init__(self, file: str, authenticator: Authenticator, read: Gauge) -> None:
        self._file = file
        self._authenticator = authenticator
        self._read = read
        self._seen: object = None
        self._taken: object = None
        self._told: object = None
        self._first: Settings | None = None
        self._users: dict[str, User] = {}

    async def look(self) -> None:
        """Reads the file if it has changed since the last reading, but not since the last look."""
        seen = await asyncio.to_thread(_state, Path(self._file))
        settled, self._seen = seen == self._seen, seen
        if settled and seen != self._taken:
            try:
                settings = await asyncio.to_thread(load_settings, {**os.environ, "RECALL_CONFIG": self._file})
                if not settings.users:
                    raise ConfigurationError("it has no [[users]]")
            except ConfigurationError as error:
                # The next look reads the file again: a user whom it no longer has must lose access.
                if not _is_of_the_system(error):
                    self._taken = seen
                if seen != self._told:
                    self._told = seen
                    log.error("%s has changed, but the users stay as they were: %s", self._file, error)
            else:
                self._taken = seen
                self._take(settings)

    def _take(self, settings: Settings) -> None:
        users = {user.name: user for user in settings.users}
        self._authenticator.replace_users(settings.users)
        self._read.set_to_current_time()
        if self._first is None:
            self._first = settings
        else:
            _tell_changes(self._users, users)
            others = [
                name
                for name in msgspec.structs.asdict(settings)
                if name != "users" and getattr(settings, name) != getattr(self._first, name)
            ]
            if others:
                log.warning("%s has changes that need a restart: %s", self._file, ", ".join(others))
        self._users = users


def _is_of_the_system(error: BaseException | None) -> bool:
    """Returns whether a file could not be read, such as without a free descriptor."""
    return error is not None and (isinstance(error, OSError) or _is_of_the_system(error.__cause__))


def _tell_changes(before: dict[str, User], after: dict[str, User]) -> None:
    """Logs the names of the users that changed."""
    for what, names in (
        ("added", after.keys() - before.keys()),
        ("removed", before.keys() - after.keys()),
        ("changed", {name for name in before.keys() & after.keys() if before[name] != after[name]}),
    ):
        if names:
            log.info("users %s: %s", what, ", ".join(map(repr, sorted(names))))


def _state(path: Path) -> object:
    """Returns a value that differs when the file does, also if it is replaced or relinked; or why there is no file."""
    try:
        about = path.stat()
    except OSError as error:
        return str(error)
    # The time of the last change of the inode tells of permissions, too.
    return (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)
