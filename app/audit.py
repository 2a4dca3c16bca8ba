"""The audit log: one JSON line for each operation (docs/operations.md, "Read the audit log"). No HTTP here."""

import errno
import fcntl
import json
import logging
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from app.recordings.identity import Resource
from app.settings import ConfigurationError

# "protection" is an attempt that was refused before it said whether it was to apply or to unapply.
Operation = Literal["play", "delete", "purge", "apply", "unapply", "protection"]
Outcome = Literal["success", "refused", "failed"]

log = logging.getLogger("recall.audit")

# Longer than any id. A refused client may send anything, and must not fill the disk with it.
_LONGEST_TEXT = 500


class Entry(msgspec.Struct, kw_only=True, rename="camel"):
    """A line of the log, with its attributes in camelCase.

    `time` is when the request arrived (UTC, RFC 3339), `seconds` how long the operation took.
    """

    time: str = msgspec.field(
        default_factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )
    user: str | None  # unverified if the request is refused with 401
    contact_center: str | None
    address: str | None  # of the client
    operation: Operation
    resource: Resource
    recording_id: str
    outcome: Outcome = "failed"
    http_status: int | None = None  # absent if the client got no answer
    status_code: int | None = None
    seconds: float | UnsetType = UNSET
    # Only plays have these.
    media: str | UnsetType = UNSET  # the last segment of the path
    media_id: str | UnsetType = UNSET
    bytes_sent: int | UnsetType = UNSET
    completed: bool | UnsetType = UNSET


class AuditLog:
    """A file that other processes may append to and that may be renamed at any time; without a path, the service's log.

    Raises ConfigurationError when the file cannot be opened.
    """

    def __init__(self, path: str | None) -> None:
        self._path = Path(path) if path is not None else None
        self._descriptor: int | None = None
        if self._path is not None:
            try:
                self._open(self._path)
            except (OSError, ValueError) as error:
                raise ConfigurationError(f"the audit log cannot be opened: {error}") from error

    def write(self, entry: Entry) -> None:
        """Writes one line, which the operating system has when this returns.

        A line that cannot be written to the file goes to the service's log, because its operation has happened.
        """
        line = _line(entry)
        if self._path is None:
            log.info("%s", line)
            return
        data = f"{line}\n".encode()
        try:
            self._append(self._open(self._path), data)
        except OSError as error:
            log.error("the audit log cannot be written (%s): %s", error, line)

    def close(self) -> None:
        """Closes the file. A later line opens it again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _append(self, descriptor: int, data: bytes) -> None:
        """Appends a line that is a line of its own, whatever another process left at the end of the file.

        Raises OSError when the file does not take the whole line.
        """
        fcntl.flock(
            descriptor, fcntl.LOCK_EX
        )  # the other processes' lines must not come between the look and the write
        try:
            if not _ends_a_line(descriptor):
                # A full disk took part of a line: no reader shall take the next one for the rest of it.
                data = b"\n" + data
            if os.write(descriptor, data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)

    def _open(self, path: Path) -> int:
        """Opens the file that the path names now."""
        if self._descriptor is not None and not _is_at(path, self._descriptor):
            self.close()
        if self._descriptor is None:
            self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o640)
        return self._descriptor


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _ends_a_line(descriptor: int) -> bool:
    """Returns whether the file is empty or its last line is complete."""
    try:
        size = os.lseek(descriptor, 0, os.SEEK_END)
        return size == 0 or os.pread(descriptor, 1, size - 1) == b"\n"
    except OSError:  # a pipe or a device
        return True


def _line(entry: Entry) -> str:
    """Returns the line as JSON in ASCII, so that no value can end a line or control a terminal."""
    attributes = msgspec.to_builtins(entry)
    return json.dumps({name: v[:_LONGEST_TEXT] if isinstance(v, str) else v for name, v in attributes.items()})
