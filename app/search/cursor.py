"""The place in a walk that `nextUri` and `prevUri` carry beside `offset` (CONTRACT.md section 5)."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Literal

import msgspec

from app.errors import InvalidParameter
from app.recordings.dates import EARLIEST, LATEST


class Cursor(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Just after or just before the recording with this start time (an instant) and id, in the order of results.

    It only names a place, so a client that makes its own can see nothing that a search would not show it.
    """

    direction: Literal["after", "before"]
    start_time: int
    recording_id: str

    def encode(self) -> str:
        return urlsafe_b64encode(msgspec.json.encode(self)).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> "Cursor":
        """Raises InvalidParameter for anything that `encode` did not make."""
        try:
            cursor = msgspec.json.decode(urlsafe_b64decode(text + "=" * (-len(text) % 4)), type=cls)
        except ValueError:  # also binascii.Error, UnicodeError and every error of msgspec
            cursor = None
        if cursor is None or cursor.encode() != text or not EARLIEST <= cursor.start_time <= LATEST:
            raise InvalidParameter("cursor", "it must come from the nextUri or prevUri of a page")
        return cursor
