"""What the manifest of an evidence package says of its files (docs/contract.md section 10).

Anyone can tell with it later whether the package is whole (`app.recordings.package`). The manifests of a backup are
another format: a later run continues from them (`app.recordings.backup`).
"""

from typing import Any

import msgspec

VERSION = 1


class ArchivedFile(msgspec.Struct, frozen=True, rename="camel"):
    """A file: its path within the archive, its size in bytes, and the SHA-256 of its bytes in hexadecimal digits.

    `content_encoding` is the coding of a media file that its storage keeps encoded (RFC 9110), gzip for example.
    """

    path: str
    size: int
    sha256: str
    content_encoding: str | msgspec.UnsetType = msgspec.UNSET


class MissingFile(msgspec.Struct, frozen=True, rename="camel"):
    """A media file that could not be archived: the path that it would have, and why, in a sentence."""

    path: str
    reason: str


class Manifest(msgspec.Struct, kw_only=True, rename="camel"):
    """The manifest of one recording. `created_at` is a date as the API writes it, `created_by` the user's name.

    `left_out` says in sentences what else the archive does not hold, although the recording may have it.
    """

    version: int = VERSION
    contact_center: str
    region: str
    recording_id: str
    created_at: str
    created_by: str
    files: list[ArchivedFile] = []
    missing: list[MissingFile] = []
    left_out: list[str] = []

    def encoded(self) -> bytes:
        """Returns the manifest as JSON that a person can read."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


def decode_manifest(text: bytes) -> Manifest:
    """Returns a manifest. Raises ValueError, whose text says what is wrong with it."""
    try:
        version: Any = msgspec.json.decode(text, type=dict[str, msgspec.Raw]).get("version", msgspec.Raw(b"null"))
        if bytes(version) != str(VERSION).encode():
            raise ValueError(f"it has version {bytes(version)[:20].decode()}, and this program knows version {VERSION}")
        return msgspec.json.decode(text, type=Manifest)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(str(error)) from None
