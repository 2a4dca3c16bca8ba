"""Users as the configuration file has them now: they change without a restart."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from app.auth.passwords import Authenticator
from app.background import in_background
from app.settings import ConfigurationError, Settings, User, load_settings

log = logging.getLogger(__name__)

# A change is taken over when two looks have seen it alike, because a file that is being written may be
# right as far as it goes.
_LOOK_SECONDS = 0.5


@asynccontextmanager
async def users_from_file(file: str | None, authenticator: Authenticator) -> AsyncIterator[None]:
    """Hands the users to the authenticator whenever the file changes; without a file there is nothing to watch.

    A file that cannot be used leaves the users as they were, and so does one without any.
    """
    if file is None:
        yield
        return
    async with in_background(_watch(file, authenticator)):
        yield


async def _watch(file: str, authenticator: Authenticator) -> None:
    users = _Users(file, authenticator)
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        try:
            await users.look()
        except Exception:  # or nobody could be removed any more
            log.exception("%s could not be looked at", file)


class _Users:
    def __init__(self, file: str, authenticator: Authenticator) -> None:
        self._file = file
        self._authenticator = authenticator
        self._seen: object = None
        self._taken: object = None
        self._first: Settings | None = None
        self._users: dict[str, User] = {}

    async def look(self) -> None:
        """Reads the file if it has changed and changes no more."""
        seen = await asyncio.to_thread(_state, Path(self._file))
        settled, self._seen = seen == self._seen, seen
        if settled and seen != self._taken:
            self._taken = seen
            try:
                settings = await asyncio.to_thread(load_settings, {**os.environ, "RECALL_CONFIG": self._file})
                if not settings.users:
                    raise ConfigurationError("it has no [[users]]")
            except ConfigurationError as error:
                log.error("%s has changed, but the users stay as they were: %s", self._file, error)
            else:
                self._take(settings)

    def _take(self, settings: Settings) -> None:
        users = {user.name: user for user in settings.users}
        self._authenticator.replace_users(settings.users)
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


def _tell_changes(before: dict[str, User], after: dict[str, User]) -> None:
    """Names only."""
    for what, names in (
        ("added", after.keys() - before.keys()),
        ("removed", before.keys() - after.keys()),
        ("changed", {name for name in before.keys() & after.keys() if before[name] != after[name]}),
    ):
        if names:
            log.info("users %s: %s", what, ", ".join(map(repr, sorted(names))))


def _state(path: Path) -> object:
    """What differs when the file does, also when it is replaced or a link to another; or why there is none."""
    try:
        about = path.stat()
    except OSError as error:
        return str(error)
    return (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)
