"""Puts the lines of the audit log into the index beside the requests (docs/decisions/0031-audit-index.md).

Lines wait in memory, at most so many bytes of them. The file of the audit log has them all, so what the memory loses
is read from there.
"""

import asyncio
import logging
import os
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge

from app.audit import AuditLog, Entry
from app.background import in_background
from app.errors import RecallError
from app.retry import Backoff
from app.store.audit_index import AuditIndex, IndexedLine
from app.store.journal import now_milliseconds

log = logging.getLogger(__name__)

T = TypeVar("T")

# Lines that come within this time share a request.
_GATHER_SECONDS = 0.5
_BATCH_LINES, _BATCH_BYTES = 500, 512 * 1024
_MAX_WAITING_BYTES = 32 * 1024 * 1024
_MAX_BACKOFF = 2.0
# How long a process that ends tries to bring its last lines in.
_FLUSH_SECONDS = 5.0
# A process that starts looks through so much of the end of the file for lines that another one has left behind.
_TAIL_BYTES = 32 * 1024 * 1024
_FORGET_SECONDS = 3_600.0


class AuditIndexing:
    """What a process does so that the lines of its audit log are found."""

    def __init__(self, index: AuditIndex, *, days: int, registry: CollectorRegistry) -> None:
        """`days` is how long a line stays in the index."""
        self._index = index
        self._days = days
        self._waiting: deque[IndexedLine] = deque()
        self._bytes = 0
        self._has_lines = asyncio.Event()
        self._is_full = asyncio.Event()
        self._left_in_file: _Position | None = None
        self._forgotten_at: float | None = None
        self._path: Path | None = None
        self._gauge = Gauge(
            "recall_audit_lines_waiting",
            "Lines of the audit log that are not in the index yet.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._not_indexed = Counter(
            "recall_audit_lines_not_indexed",
            "Lines of the audit log that are not put into the index, because too many wait (full) or because "
            "Elasticsearch refuses them (refused). Of those that are full, the file of the audit log brings them in.",
            ["reason"],
            registry=registry,
        )
        for reason in ("full", "refused"):
            self._not_indexed.labels(reason)

    @asynccontextmanager
    async def following(self, audit: AuditLog) -> AsyncIterator[None]:
        """Puts each line of a log into the index while the context is open; at its end, those that still wait."""
        self._path = audit.path
        audit.follower = self._follow
        try:
            async with in_background(self._run()):
                yield
        finally:
            audit.follower = None
            await self._flush()

    def _follow(self, entry: Entry, text: str) -> None:
        if entry.contact_center is None:  # nobody may see it
            return
        assert isinstance(entry.id, str)
        line = IndexedLine(entry.id, text.encode())
        if self._bytes + len(line.text) > _MAX_WAITING_BYTES:
            self._leave_out()
            return
        self._waiting.append(line)
        self._bytes += len(line.text)
        self._gauge.set(len(self._waiting))
        self._has_lines.set()
        if len(self._waiting) >= _BATCH_LINES or self._bytes >= _BATCH_BYTES:
            self._is_full.set()

    def _leave_out(self) -> None:
        self._not_indexed.labels("full").inc()
        if self._left_in_file is None:
            log.error("too many lines of the audit log wait for Elasticsearch; the index lacks the next ones")
            self._left_in_file = _end_of(self._path, before=_BATCH_BYTES)

    async def _run(self) -> None:
        while True:
            await self._has_lines.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(_GATHER_SECONDS):
                    await self._is_full.wait()
            await self._send_all()
            if (position := self._left_in_file) is not None:
                self._left_in_file = None
                await self._read_again(position)

    async def _send_all(self) -> None:
        while self._waiting:
            batch = self._next_batch()
            refused = await _patiently(partial(self._index.add, batch))
            self._not_indexed.labels("refused").inc(len(refused))
            for line in batch:
                self._waiting.popleft()
                self._bytes -= len(line.text)
            self._gauge.set(len(self._waiting))
        self._has_lines.clear()
        self._is_full.clear()

    def _next_batch(self) -> list[IndexedLine]:
        batch, size = list[IndexedLine](), 0
        for line in self._waiting:
            size += len(line.text)
            if batch and (size > _BATCH_BYTES or len(batch) == _BATCH_LINES):
                break
            batch.append(line)
        return batch

    async def _flush(self) -> None:
        try:
            async with asyncio.timeout(_FLUSH_SECONDS):
                await self._send_all()
        except TimeoutError:
            log.error(
                "%s lines of the audit log are not in the index; with a file of its own, the next process that starts "
                "puts them there",
                len(self._waiting),
            )

    async def read_end_again(self) -> None:
        """Puts lines into the index that a process which was killed has left behind in the file of the audit log."""
        if (position := _end_of(self._path, before=_TAIL_BYTES)) is not None:
            await self._read_again(position)

    async def _read_again(self, position: "_Position") -> None:
        """Puts the lines that follow a position of the file into the index, unless they are there."""
        added = 0
        batches = _batches(position, since=_text_of(now_milliseconds() - self._days * 86_400_000))
        while batch := await asyncio.to_thread(next, batches, None):
            missing = await _patiently(partial(self._index.missing, batch))
            if missing:
                added += len(missing)
                refused = await _patiently(partial(self._index.add, missing))
                self._not_indexed.labels("refused").inc(len(refused))
        if added:
            log.info("%s lines of the audit log file were missing in the index, and are there now", added)

    async def forget(self) -> None:
        """Deletes lines that are older than they should become, once an hour."""
        now = time.monotonic()
        if self._forgotten_at is not None and now - self._forgotten_at < _FORGET_SECONDS:
            return
        await self._index.delete_before(now_milliseconds() - self._days * 86_400_000)
        self._forgotten_at = now


async def _patiently(work: Callable[[], Awaitable[T]]) -> T:
    """Tries until Elasticsearch does it. Every call here is idempotent."""
    backoff = Backoff(maximum=_MAX_BACKOFF)
    while True:
        try:
            return await work()
        except RecallError:
            await backoff.wait()


class _Position(NamedTuple):
    """A place in a file that may have another name meanwhile: after a byte, the next whole line."""

    path: Path
    inode: int
    offset: int


class _Line(msgspec.Struct, rename="camel"):
    """What the index needs to know of a line. Lines of version 0.1.0 have no id."""

    time: str
    contact_center: str | None
    id: str | None = None


def _end_of(path: Path | None, before: int) -> _Position | None:
    """Returns the place so many bytes before the end of a file; None if there is no regular file."""
    if path is None or not path.is_file():
        return None
    status = path.stat()
    return _Position(path, status.st_ino, max(0, status.st_size - before))


def _batches(position: _Position, since: str) -> Iterator[list[IndexedLine]]:
    """Yields the lines of a file that belong to a contact center and are not older, some at once."""
    try:
        file = position.path.open("rb")
    except OSError as error:
        log.error("the audit log cannot be read: %s", error)
        return
    with file:
        if os.fstat(file.fileno()).st_ino != position.inode:
            log.error("the audit log has been rotated, so lines of the old file may be missing in the index")
            return
        if position.offset:
            file.seek(position.offset - 1)
            file.readline()
        batch, size = list[IndexedLine](), 0
        for text in file:
            if (line := _line(text, since)) is None:
                continue
            batch.append(line)
            size += len(line.text)
            if size >= _BATCH_BYTES or len(batch) == _BATCH_LINES:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch


def _line(text: bytes, since: str) -> IndexedLine | None:
    """Returns a line that the index is to have; None for another one, and for one that is not whole."""
    try:
        line = msgspec.json.decode(text, type=_Line)
    except ValueError:
        return None
    if not text.endswith(b"\n") or line.contact_center is None or line.time < since:
        return None
    if line.id is not None and not re.fullmatch("[0-9a-f]{24}", line.id):
        return None
    text = text.rstrip()
    if line.id is None:
        line.id = sha256(text).hexdigest()[:24]
        text = b'%b, "id": "%b"}' % (text[:-1], line.id.encode())
    return IndexedLine(line.id, text)


def _text_of(instant: int) -> str:
    """Returns an instant as a line of the audit log has it."""
    time = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=instant)
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
