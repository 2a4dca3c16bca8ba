"""The audit log: one JSON line for each operation (docs/operations.md, "Read the audit log"). No HTTP here."""

import errno
import fcntl
import json
import logging
import os
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType
from prometheus_client import CollectorRegistry, Counter

from app.auth import policy
from app.auth.networks import network_of
from app.auth.recent import put_newest
from app.recordings.identity import Resource
from app.settings import ConfigurationError

# "protection" is an attempt that was refused before it said whether it was to apply or to unapply. "request" is
# one that was refused before its path was looked at, "ops-post" a POST that was not stored.
Operation = Literal[
    "play",
    "export",
    "delete",
    "delete-media",
    "purge",
    "backup",
    "restore",
    "apply",
    "unapply",
    "protection",
    "create",
    "update",
    "ops-post",
    "add-label",
    "update-label",
    "delete-label",
    "create-label-definition",
    "update-label-definition",
    "delete-label-definition",
    "start-operation",
    "cancel-operation",
    "request",
    "sign-in",
    "sign-out",
]
Subject = Resource | Literal["label-definitions"]
Outcome = Literal["success", "refused", "failed"]

log = logging.getLogger("recall.audit")

# Longer than any id. A refused client may send anything, and must not fill the disk with it.
_LONGEST_TEXT = 500
_LONGEST_UNVERIFIED_TEXT = 100

# Lines of callers who are not authenticated: so many immediately, and so many a second. An address stands for its
# network of 64 bits, if it is one of IPv6, because a client may have all of that.
_OF_AN_ADDRESS = (60, 1.0)
_OF_ALL_ADDRESSES = (1_000, 20.0)
_MAX_TRACKED = 10_000


class Entry(msgspec.Struct, kw_only=True, rename="camel"):
    """A line of the log, with its attributes in camelCase.

    `time` is when the request arrived (UTC, RFC 3339), `seconds` how long the operation took. `id` names the line;
    `AuditLog` gives it. A line of a process has a greater one than those that it wrote before.
    """

    time: str = msgspec.field(
        default_factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )
    user: str | None  # unverified if the request is refused with 401
    contact_center: str | None
    address: str | None  # of the client
    operation: Operation | policy.Operation  # the latter if it leaves a line only when it is refused
    resource: Subject | None
    recording_id: str  # empty if it is about no recording
    outcome: Outcome = "failed"
    http_status: int | None = None  # absent if the client got no answer
    status_code: int | None = None
    seconds: float | UnsetType = UNSET
    suppressed: int | UnsetType = UNSET  # lines of the address, before this one, that the bound left out
    path: str | UnsetType = UNSET  # if the operation is "request"
    with_media: bool | UnsetType = UNSET  # if it deletes a recording: whether its media objects were to go too
    screen_recordings: list[str] | UnsetType = UNSET  # the ids of those that "apply" or "unapply" took along
    reason: str | UnsetType = UNSET  # why, if an "apply" or "unapply" says so
    # Only lines about an operation on many recordings, and about each of its recordings, have these.
    operation_id: str | UnsetType = UNSET
    operation_name: str | UnsetType = UNSET
    # Only changes of labels and label definitions have these.
    label: str | UnsetType = UNSET  # the name
    comment: str | UnsetType = UNSET
    display_name: str | UnsetType = UNSET
    description: str | UnsetType = UNSET
    forced: bool | UnsetType = UNSET
    # Only posts have these: the paths of what an update changed, and the SHA-256 of the recording before and after.
    changed: list[str] | UnsetType = UNSET
    digest_before: str | UnsetType = UNSET
    digest_after: str | UnsetType = UNSET
    # Only plays have these; exports `bytes_sent` and `completed`, too, and deletions of media objects `media`.
    media: str | UnsetType = UNSET  # the last segment of the path of a play, or its UUID
    media_id: str | UnsetType = UNSET
    bytes_sent: int | UnsetType = UNSET
    completed: bool | UnsetType = UNSET
    digest: str | UnsetType = UNSET  # of an export: the SHA-256 of the manifest
    listen: str | UnsetType = UNSET  # the same for all requests of one listening in the page
    download: bool | UnsetType = UNSET  # true if it was asked for as a file to keep
    id: str | UnsetType = UNSET


# Gets each line and its text, without the end of the line, after the log has it. It must not wait.
Follower = Callable[[Entry, str], None]


class AuditLog:
    """A file that other processes may append to and that may be renamed at any time; without a path, the service's log.

    Raises ConfigurationError when the file cannot be opened.
    """

    def __init__(self, path: str | None, registry: CollectorRegistry | None = None) -> None:
        self._bound = _Bound()
        self._suppressed = Counter(
            "recall_audit_lines_suppressed",
            "Audit lines of callers who were not authenticated that were left out, because there were too many.",
            registry=registry,
        )
        self._not_written = Counter(
            "recall_audit_lines_not_written",
            "Audit lines that the file did not take, for example because its disk is full. They are in the log.",
            registry=registry,
        )
        self.path = Path(path) if path is not None else None
        self.follower: Follower | None = None
        self._descriptor: int | None = None
        if self.path is not None:
            try:
                self._open(self.path)
            except (OSError, ValueError) as error:
                raise ConfigurationError(f"the audit log cannot be opened: {error}") from error

    def write(self, entry: Entry) -> None:
        """Writes one line, which the operating system has when this returns.

        A line that cannot be written to the file goes to the service's log, because its operation has happened.
        """
        self._write(entry, _LONGEST_TEXT)

    def write_unverified(self, entry: Entry) -> None:
        """As `write`, for a caller who is not authenticated: only so many lines an address, with short texts."""
        suppressed = self._bound.take(entry.address or "")
        if suppressed is None:
            self._suppressed.inc()
            return
        entry.suppressed = suppressed or UNSET
        self._write(entry, _LONGEST_UNVERIFIED_TEXT)

    def _write(self, entry: Entry, longest_text: int) -> None:
        # Its beginning is the time, so an index gets ids in their order.
        entry.id = f"{time.time_ns():016x}{secrets.token_hex(4)}"
        line = _line(entry, longest_text)
        self._append_or_log(line)
        if self.follower is not None:
            self.follower(entry, line)

    def _append_or_log(self, line: str) -> None:
        if self.path is None:
            log.info("%s", line)
            return
        data = f"{line}\n".encode()
        try:
            self._append(self._open(self.path), data)
        except OSError as error:
            self._not_written.inc()
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
        # No line of another process may come between the look and the write.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            if not _ends_a_line(descriptor):
                # A full disk took part of a line. Without an end it would become one with this line.
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


def _line(entry: Entry, longest_text: int) -> str:
    """Returns the line as JSON in ASCII, so that no value can end a line or control a terminal."""
    attributes = msgspec.to_builtins(entry)
    return json.dumps({name: v[:longest_text] if isinstance(v, str) else v for name, v in attributes.items()})


@dataclass
class _Bucket:
    """What is left of an allowance of lines, at some time, and how many were left out since the last one."""

    lines: float
    at: float
    suppressed: int = 0

    def refill(self, now: float, most: float, per_second: float) -> None:
        self.lines = min(most, self.lines + (now - self.at) * per_second)
        self.at = now


class _Bound:
    """Bounds the lines of callers who are not authenticated. `clock` is in seconds, monotonic."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._all = _Bucket(_OF_ALL_ADDRESSES[0], clock())
        self._addresses: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, address: str) -> int | None:
        """Returns how many lines of the address were left out since its last one; None to leave this one out, too."""
        now = self._clock()
        network = network_of(address)
        bucket = self._addresses.get(network) or _Bucket(_OF_AN_ADDRESS[0], now)
        put_newest(self._addresses, network, bucket, max_entries=_MAX_TRACKED)
        bucket.refill(now, *_OF_AN_ADDRESS)
        self._all.refill(now, *_OF_ALL_ADDRESSES)
        if bucket.lines < 1 or self._all.lines < 1:
            bucket.suppressed += 1
            return None
        bucket.lines -= 1
        self._all.lines -= 1
        suppressed, bucket.suppressed = bucket.suppressed, 0
        return suppressed
