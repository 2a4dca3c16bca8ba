"""What a session is: one sign-in of a user at the page, and how long it holds. Nothing here reads or writes."""

import re
import secrets
from dataclasses import dataclass
from hashlib import sha256

import msgspec

from app.settings import User

_TOKEN_BYTES = 32
_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")
# Of the idle time, how much may pass before an activity is written: most requests write nothing.
_UNWRITTEN_SHARE = 15


class Session(msgspec.Struct, frozen=True):
    """A sign-in, as it is stored. Times are milliseconds since 1970.

    `key` is the SHA-256 of the token, which only the browser has. `credential` stands for the password that was right.
    `address` is where the user signed in.
    """

    key: str
    user: str
    credential: str
    address: str
    created: int
    seen: int


@dataclass(frozen=True)
class SessionLimits:
    """How long a session lasts without activity, and at all, in milliseconds."""

    idle: int
    absolute: int

    def ends_at(self, session: Session) -> int:
        """Returns when the session ends if nothing more happens, in milliseconds since 1970."""
        return min(session.seen + self.idle, session.created + self.absolute)

    def is_worth_writing(self, session: Session, now: int) -> bool:
        """Returns whether the last activity that is stored is so old that this one should be."""
        return now - session.seen >= self.idle // _UNWRITTEN_SHARE


def new_token() -> str:
    """Returns 256 random bits, as text for a cookie."""
    return secrets.token_urlsafe(_TOKEN_BYTES)


def is_token(text: str) -> bool:
    """Returns whether a text may be a token. For any other the store need not be asked."""
    return _TOKEN.fullmatch(text) is not None


def key_of(token: str) -> str:
    """Returns what stands for a token in the store. A token cannot be found from it."""
    return sha256(token.encode()).hexdigest()


def credential_of(user: User) -> str:
    """Returns what changes with the user's password."""
    return sha256(user.password_hash.encode()).hexdigest()
