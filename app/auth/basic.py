"""The Authorization header of HTTP Basic (RFC 7617)."""

from base64 import b64decode
from typing import NamedTuple


class Credentials(NamedTuple):
    """A name and a password, which are not verified yet."""

    name: str
    password: str


def parse_basic(authorization: str | None) -> Credentials | None:
    """Returns the credentials of an Authorization header, or None when it has none."""
    scheme, _, encoded = (authorization or "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, colon, password = b64decode(encoded.strip(), validate=True).decode().partition(":")
    except ValueError:  # not base64, not ASCII, not UTF-8
        return None
    return Credentials(name, password) if colon else None
