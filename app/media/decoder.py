"""The program of the process that decodes an audio file: bytes it asks for → peaks. `app.media.waveform` starts it.

It runs as a script, imports nothing of the service, and reads what strangers recorded with code written in C. So it
has no environment, opens nothing once it has begun, and is bounded in memory and processor time. It asks for each
part of the file on standard output and gets it on standard input.

    → b"R" + offset (8 bytes) + length (4 bytes)     ← length (4 bytes) + bytes, fewer only at the end of the file
    → b"P" + channels (4) + points (4) + rate (8) + first frame (8) + frames of the part (8) + of the file (8) + peaks
    → b"E": it is no audio file that can be decoded
"""

import io
import os
import resource
import struct
import sys
from collections.abc import Iterator

# Addresses in bytes, of which an hour takes 40 MB, and processor seconds, of which an hour takes two.
_ADDRESSES, _SECONDS = 512 * 1024 * 1024, 30
_BLOCK = 256 * 1024
_FRAMES = 65_536  # that are decoded at once
_MAX_CHANNELS = 16
_WIDEST = 4096  # frames of the first peaks, a power of two
_MOST = 65_536  # peaks of a channel that are kept while reading; beyond, two become one


def _begin() -> None:
    """Gives up what decoding does not need. Descriptors that are open stay open, and no other can be opened."""
    for limit, value in (
        (resource.RLIMIT_NOFILE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
    ):
        resource.setrlimit(limit, (value, value))


class _File(io.RawIOBase):
    """The media file, of `length` bytes, as the service sends it."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._length}[whence]
        self._at = max(base + offset, 0)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        wanted = min(len(buffer), self._length - self._at)
        if wanted <= 0:
            return 0
        _send(b"R" + struct.pack("!QI", self._at, wanted))
        (got,) = struct.unpack("!I", _receive(4))
        buffer[:got] = _receive(got)
        self._at += got
        return int(got)


def _send(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


def _receive(count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        part = os.read(0, count - len(data))
        if not part:  # the service has gone
            os._exit(1)
        data += part
    return bytes(data)


def main(length: int, points: int, start: float, end: float) -> None:
    """Sends `points` peaks of each channel, of the seconds from `start` to `end`."""
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESSES, _ADDRESSES))
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
    os.nice(5)
    import numpy as np  # noqa: PLC0415  # within the limits
    import soundfile  # type: ignore[import-untyped]  # noqa: PLC0415

    _begin()
    try:
        sound = soundfile.SoundFile(io.BufferedReader(_File(length), _BLOCK))
        if sound.channels > _MAX_CHANNELS:
            raise ValueError
        first = min(int(start * sound.samplerate), sound.frames)
        last = min(int(end * sound.samplerate), 2**62) if end < float("inf") else 2**62
        if first:
            sound.seek(first)
        # A fourth of what is wanted, so that the points differ little in width.
        expected = max(min(sound.frames, last) - first, 1) // (4 * points)
        width = 1 << max(min(expected, _WIDEST).bit_length() - 1, 0)
        kept, count = np.zeros((sound.channels, 0), np.uint16), 0
        for frames in _blocks(sound, last - first):
            samples = np.ascontiguousarray(frames.T)
            # The last peak may have fewer frames than the others; 0 changes none.
            samples = np.pad(samples, ((0, 0), (0, -samples.shape[1] % width)))
            folded = samples.reshape(sound.channels, -1, width)
            peaks = np.maximum(folded.max(axis=2).astype(np.int32), -folded.min(axis=2).astype(np.int32))
            kept, count = np.concatenate((kept, peaks.astype(np.uint16)), axis=1), count + len(frames)
            while kept.shape[1] > _MOST:
                kept = np.maximum.reduceat(kept, np.arange(0, kept.shape[1], 2), axis=1)
                width *= 2
    except (soundfile.SoundFileError, ValueError, MemoryError, OverflowError):
        _send(b"E")
        return
    # libsndfile may be wrong about the length of an MP3; where it was read to its end, the end is what was read.
    total = first + count if last >= sound.frames else sound.frames
    points = min(points, kept.shape[1])
    if points:
        kept = np.maximum.reduceat(kept, np.arange(points) * kept.shape[1] // points, axis=1)
    # 16 bits become 8, and what was not quite silent does not become silence.
    small = np.minimum((kept.astype(np.uint32) + 127) >> 7, 255).astype(np.uint8)
    head = struct.pack("!IIQQQQ", sound.channels, points, sound.samplerate, first, count, total)
    _send(b"P" + head + small.tobytes())


def _blocks(sound, left: int) -> Iterator:  # type: ignore[no-untyped-def,type-arg]
    while left > 0:
        frames = sound.read(min(_FRAMES, left), dtype="int16", always_2d=True)
        if not len(frames):
            return
        left -= len(frames)
        yield frames


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]))
