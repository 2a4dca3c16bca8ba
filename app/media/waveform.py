"""Peaks of an audio file, for the page that draws them (docs/decisions/0033-waveforms.md).

The file goes in ranges from its storage through a pipe to a process that decodes it (`app.media.decoder`), and is
never held as a whole. One process decodes at a time. Its peaks are remembered as long as there is room.
"""

import asyncio
import logging
import math
import struct
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import OrderedDict
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

from prometheus_client import CollectorRegistry

from app.errors import (
    MediaNotFound,
    MediaStorageBusy,
    MediaStorageFailed,
    MediaStorageTimeout,
    OtherMediaObject,
    ShareInUse,
)
from app.media.answers import open_media
from app.media.location import Location
from app.media.storages import MediaStorages
from app.media.stream import MediaStream
from app.shares import Limits, Owner, Place, Shares

log = logging.getLogger(__name__)

POINTS = 4000

Reason = Literal["encrypted", "codec", "missing", "storage", "slow", "busy", "decoder"]

_WORDS: dict[Reason, str] = {
    "encrypted": "The file is encrypted.",
    "codec": "The file is in a format that cannot be decoded here.",
    "missing": "The file is not in its storage.",
    "storage": "The media storage does not give the file at the moment.",
    "slow": "It took too long to read and decode the file.",
    "busy": "Others are being served first.",
    "decoder": "The decoder is not installed on the server.",
}

_DECODER = Path(__file__).with_name("decoder.py")
_HEAD = struct.Struct("!IIQQQQ")
_MAX_CHANNELS = 16
_MAX_READ = 1024 * 1024

# A decoder that has nothing to wait for is done much sooner; a slow storage may take this long.
_SECONDS = 60.0
# So many bytes further on, reading on is faster than another request to the storage.
_SKIPPED = 512 * 1024
_MOST_OPENED = 100

# How long one waits for the process that decodes.
_WAIT_SECONDS = 20.0
# Of memory: four thousand recordings of two channels.
_REMEMBERED_BYTES = 32 * 1024 * 1024
# After this time the peaks of a recording that was deleted are gone from memory, too.
_REMEMBERED_SECONDS = 3600.0


class NoPeaks(Exception):
    """There are no peaks; `reason` says why, and the text in words for the page."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(_WORDS[reason])
        self.reason = reason


@dataclass(frozen=True)
class Peaks:
    """The peaks of a part of a file: 0 to 255 for each point, of each channel.

    `start`, `end` and `duration` (of the whole file) are in seconds.
    """

    start: float
    end: float
    duration: float
    channels: tuple[bytes, ...]


class Part(NamedTuple):
    """Which seconds of a file."""

    start: float = 0.0
    end: float = math.inf


# A media object in one version, and a part of it.
_Key = tuple[Location, str, Part]


class Waveforms:
    """Makes peaks, and remembers those of whole files."""

    def __init__(self, storages: MediaStorages, streams: Shares, registry: CollectorRegistry) -> None:
        self._storages = storages
        self._streams = streams
        self._decoding = Shares("waveforms", "waveforms", Limits(1, 1, user=1), registry, wait=_WAIT_SECONDS)
        self._remembered: OrderedDict[_Key, tuple[float, Peaks]] = OrderedDict()
        self._bytes = 0
        self._running: dict[_Key, _Shared] = {}

    async def peaks(self, owner: Owner, location: Location, name: str, part: Part) -> Peaks:
        """Returns the peaks of a part of a media file; `name` is for the log. Raises NoPeaks."""
        if not _is_installed():
            raise NoPeaks("decoder")
        try:
            async with self._streams.place(owner):
                about = await open_media(self._storages, "HEAD", location, {}, name)
                about.close()
            if about.length is None or "Content-Encoding" in about.headers:
                raise NoPeaks("codec")
            key = location, f"{about.length} {_version(about)}", part
            return self._known(key) or await self._shared(key, owner, name, about)
        except (MediaNotFound, OtherMediaObject) as error:
            raise NoPeaks("missing") from error
        except (MediaStorageBusy, ShareInUse) as error:
            raise NoPeaks("busy") from error
        except (MediaStorageFailed, MediaStorageTimeout) as error:
            log.info("no waveform of %s: %s", name, error.reason or error)
            raise NoPeaks("storage") from error

    def _known(self, key: _Key) -> Peaks | None:
        now = time.monotonic()
        while self._remembered and next(iter(self._remembered.values()))[0] < now - _REMEMBERED_SECONDS:
            self._forget_oldest()
        found = self._remembered.get(key)
        return found[1] if found else None

    def _remember(self, key: _Key, peaks: Peaks) -> None:
        if key[2] == Part() and key not in self._remembered:
            self._remembered[key] = time.monotonic(), peaks
            self._bytes += _size(peaks)
            while self._bytes > _REMEMBERED_BYTES:
                self._forget_oldest()

    def _forget_oldest(self) -> None:
        _, (_, peaks) = self._remembered.popitem(last=False)
        self._bytes -= _size(peaks)

    async def _shared(self, key: _Key, owner: Owner, name: str, about: MediaStream) -> Peaks:
        """Waits for the one decoding of these peaks, which ends when nobody waits for it any more."""
        shared = self._running.get(key)
        if shared is None:
            shared = self._running[key] = _Shared(asyncio.create_task(self._made(key, owner, name, about)))
        shared.waiting += 1
        try:
            return await asyncio.shield(shared.task)
        finally:
            shared.waiting -= 1
            if (not shared.waiting or shared.task.done()) and self._running.get(key) is shared:
                del self._running[key]
            if not shared.waiting:
                shared.task.cancel()

    async def _made(self, key: _Key, owner: Owner, name: str, about: MediaStream) -> Peaks:
        location, _, part = key
        async with self._decoding.place(owner):
            place = await self._streams.take(owner)
            try:
                source = _Source(self._storages, location, name, about)
                peaks = await _give_way(place, source.decoded(part))
            finally:
                place.release()
        self._remember(key, peaks)
        return peaks


@dataclass
class _Shared:
    """A task, and how many wait for it."""

    task: "asyncio.Task[Peaks]"
    waiting: int = 0


async def _give_way(place: Place, work: Coroutine[Any, Any, Peaks]) -> Peaks:
    """Awaits the work, unless a player has to wait for a place; then raises NoPeaks."""
    task = asyncio.create_task(work)
    gave_way = False

    def give_way() -> None:
        nonlocal gave_way
        gave_way = True
        task.cancel()

    place.on_scarce = give_way
    try:
        return await task
    except asyncio.CancelledError:
        # Of this task, or of the work alone?
        if gave_way and task.cancelled():
            raise NoPeaks("busy") from None
        task.cancel()
        raise


class _Source:
    """A media file of `length` bytes in one version, read in the order in which a decoder asks for it."""

    def __init__(self, storages: MediaStorages, location: Location, name: str, about: MediaStream) -> None:
        assert about.length is not None
        self._storages = storages
        self._location = location
        self._name = name
        self._length = about.length
        self._version = _version(about)
        self._stream: MediaStream | None = None
        self._opened = 0
        # Bytes that have arrived, and where they are in the file.
        self._buffer = bytearray()
        self._at = 0

    async def decoded(self, part: Part) -> Peaks:
        """Returns the peaks of a part of it; raises NoPeaks, and what reading the file raises."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", str(_DECODER), str(self._length), str(POINTS), repr(part.start), repr(part.end)),
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            cwd="/",
            env={"OPENBLAS_NUM_THREADS": "1"},
        )
        try:
            async with asyncio.timeout(_SECONDS):
                return await self._serve(process)
        except TimeoutError:
            raise NoPeaks("slow") from None
        except (asyncio.IncompleteReadError, ConnectionError, ValueError) as error:
            log.warning("the decoder of %s has failed: %s", self._name, error)
            raise NoPeaks("codec") from None
        finally:
            if self._stream is not None:
                self._stream.close()
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _serve(self, process: Process) -> Peaks:
        """Answers the decoder until it is done. What it sends is not trusted: it has read the file."""
        assert process.stdin is not None
        assert process.stdout is not None
        while (kind := await process.stdout.readexactly(1)) == b"R":
            offset, count = struct.unpack("!QI", await process.stdout.readexactly(12))
            if offset + count > self._length or not 0 < count <= _MAX_READ:
                raise ValueError("it asks for what is not there")
            data = await self._read(offset, count)
            process.stdin.write(struct.pack("!I", len(data)))
            process.stdin.write(data)
            await process.stdin.drain()
        if kind != b"P":
            raise NoPeaks("codec")
        head = await process.stdout.readexactly(_HEAD.size)
        channels, points, rate, first, count, total = _HEAD.unpack(head)
        if not (0 < channels <= _MAX_CHANNELS and points <= POINTS and rate):
            raise ValueError("its result is malformed")
        peaks = tuple([await process.stdout.readexactly(points) for _ in range(channels)])
        return Peaks(first / rate, (first + count) / rate, total / rate, peaks)

    async def _read(self, offset: int, count: int) -> bytes:
        if self._stream is None or not self._at <= offset <= self._at + len(self._buffer) + _SKIPPED:
            await self._open(offset)
        assert self._stream is not None
        while True:
            # What is before the wanted part is let go of.
            passed = min(offset - self._at, len(self._buffer))
            del self._buffer[:passed]
            self._at += passed
            if self._at + len(self._buffer) >= offset + count:
                return bytes(self._buffer[:count])
            chunk = await self._stream.read()
            if not chunk:
                raise MediaStorageFailed("the file is shorter than its storage has said")
            self._buffer += chunk

    async def _open(self, offset: int) -> None:
        if self._stream is not None:
            self._stream.close()
        self._opened += 1
        if self._opened > _MOST_OPENED:
            raise ValueError("it asks for parts in too wild an order")
        self._buffer.clear()
        headers = {"range": f"bytes={offset}-"} if offset else {}
        self._stream = await open_media(self._storages, "GET", self._location, headers, self._name)
        # A storage that knows no ranges sends all.
        self._at = offset if self._stream.status == 206 else 0
        if _version(self._stream) != self._version:
            raise MediaStorageFailed("the file has changed while it was read")


def _version(stream: MediaStream) -> str:
    return stream.headers.get("ETag") or stream.headers.get("Last-Modified") or ""


def _size(peaks: Peaks) -> int:
    return sum(map(len, peaks.channels)) + 500


@cache
def _is_installed() -> bool:
    return find_spec("soundfile") is not None and find_spec("numpy") is not None
