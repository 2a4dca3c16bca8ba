"""Sessions of the page, without HTTP: begin, find, end, sweep (docs/decisions/0026-sessions.md)."""

import logging
import time
from typing import NamedTuple

from app.auth.passwords import Authenticator
from app.auth.sessions import Session, SessionLimits, credential_of, key_of, new_token
from app.errors import ElasticsearchUnavailable
from app.settings import Settings, User
from app.store.sessions import SessionStore

log = logging.getLogger(__name__)

# Whoever signs in once more ends the oldest session, so a script with the right password cannot fill the index.
MAX_SESSIONS_OF_A_USER = 20


class SignedIn(NamedTuple):
    """A session that holds, and its user as the configuration has it now."""

    session: Session
    user: User


class Sessions:
    """The sessions of all processes. Each request reads its session anew, so an end takes effect everywhere at once.

    Every method raises ElasticsearchUnavailable.
    """

    def __init__(self, store: SessionStore, authenticator: Authenticator, settings: Settings) -> None:
        self._store = store
        self._authenticator = authenticator
        self._limits = SessionLimits(
            idle=round(settings.session_idle_seconds * 1000), absolute=round(settings.session_seconds * 1000)
        )

    async def begin(self, user: User, address: str) -> str:
        """Begins a session of a user whose password was right; returns its token."""
        token, now = new_token(), _now()
        session = Session(key_of(token), user.name, credential_of(user), address, created=now, seen=now)
        await self._store.add(session)
        sessions = await self._store.of(user.name)
        for older in [each for each in sessions if each.key != session.key][MAX_SESSIONS_OF_A_USER - 1 :]:
            await self._store.remove(older.key)
        return token

    async def find(self, key: str, *, is_activity: bool = True) -> SignedIn | None:
        """Returns the session with a key, None if there is none that holds. Activity prolongs it.

        A session whose user was removed, or has another password, is ended.
        """
        stored = await self._store.get(key)
        if stored is None:
            return None
        session, now = stored.session, _now()
        user = self._authenticator.user(session.user)
        if self._limits.ends_at(session) <= now or user is None or credential_of(user) != session.credential:
            await self._store.remove(session.key)
            return None
        if is_activity and self._limits.is_worth_writing(session, now):
            try:
                await self._store.see(stored, now)
            except ElasticsearchUnavailable:  # it can be read, and the next request writes it
                log.warning("the activity of a session could not be written")
        return SignedIn(session, user)

    def seconds_left(self, session: Session) -> float:
        """Returns after how many seconds the session ends if nothing more happens."""
        return max(self._limits.ends_at(session) - _now(), 0) / 1000

    async def end(self, key: str) -> None:
        """Ends the session with a key, if there is one."""
        await self._store.remove(key)

    async def sweep(self) -> None:
        """Removes the sessions that are over."""
        now = _now()
        async for stored in self._store.ended(
            seen_before=now - self._limits.idle, created_before=now - self._limits.absolute
        ):
            await self._store.remove_unseen(stored)


def _now() -> int:
    return time.time_ns() // 1_000_000
