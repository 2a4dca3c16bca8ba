"""The evidence package: a zip of stored files, made in one pass and checked in one (docs/contract.md section 10).

The sizes and checksums of an entry follow its bytes, so nothing is read twice or held. `manifest.json` is the last
entry: a package that broke off has neither it nor the directory of a zip. No I/O here, but for the file that `check`
reads. docs/decisions/0035-evidence-package.md.
"""

import re
import struct
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from hashlib import sha256
from typing import IO, Literal, NamedTuple, Protocol
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import msgspec

from app.recordings.package_manifest import ArchivedFile, Manifest, decode_manifest

MANIFEST = "manifest.json"

# Names that are the same on every system, and lead nowhere.
_SEGMENT = "[A-Za-z0-9_-][A-Za-z0-9._-]*"
_PATH = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*")
_LONGEST_PATH = 200

_PIECE = 1024 * 1024
# The directory of a zip, and a manifest: hundreds of thousands of files.
_MOST_BYTES_AT_ONCE = 32 * 1024 * 1024
_ENCRYPTED = 0x1

# In bytes: the part of an entry's header that comes before its name, where the lengths of name and extra field are in
# it, and what may follow the file itself.
_LOCAL_HEADER, _LENGTHS, _LONGEST_DESCRIPTOR = 30, 26, 24
# The end of a zip without a comment.
_END, _END_MARK = 22, b"PK\x05\x06"


class PackageWriter:
    """Makes a package. Each method returns the bytes of the zip that are ready then.

    Of a file with `begin`, `write` and `end`, the caller tells the size if it knows it: then a file of less than 2 GiB
    needs no zip64, which old programs do not read.
    """

    def __init__(self) -> None:
        self.files: list[ArchivedFile] = []
        self._output = _Output()
        self._zip = ZipFile(self._output, "w", ZIP_STORED)  # type: ignore[call-overload]  # all of IO that it uses
        self._entry: IO[bytes] | None = None
        self._path = ""
        self._size = 0
        self._digest = sha256()
        self._encoding: str | None = None

    def begin(self, path: str, size: int | None, content_encoding: str | None = None) -> bytes:
        """Begins a file; None for a size that is unknown."""
        info = ZipInfo(path, datetime.now(UTC).timetuple()[:6])
        info.file_size = size or 0
        self._entry = self._zip.open(info, "w", force_zip64=size is None)
        self._path, self._size, self._digest, self._encoding = path, 0, sha256(), content_encoding
        return self._output.take()

    def write(self, piece: bytes) -> bytes:
        """Adds bytes to the file that has begun."""
        assert self._entry is not None
        self._size += len(piece)
        self._digest.update(piece)
        self._entry.write(piece)
        return self._output.take()

    def end(self) -> bytes:
        """Ends the file."""
        assert self._entry is not None
        self._entry.close()
        self._entry = None
        encoding = msgspec.UNSET if self._encoding is None else self._encoding
        self.files.append(ArchivedFile(self._path, self._size, self._digest.hexdigest(), encoding))
        return self._output.take()

    def file(self, path: str, content: bytes) -> bytes:
        """Adds a whole file."""
        return self.begin(path, len(content)) + self.write(content) + self.end()

    def finish(self, manifest: bytes) -> bytes:
        """Adds the manifest, and ends the package."""
        content = self.file(MANIFEST, manifest)
        self.files.pop()  # it lists the others
        return content + self.close()

    def close(self) -> bytes:
        """Ends the zip, which is not a package without its manifest."""
        self._zip.close()
        return self._output.take()

    def abort(self) -> None:
        """Lets go of a package that will not be finished."""
        with suppress(Exception):
            if self._entry is not None:
                self._entry.close()
            self._zip.close()
        self._output.take()


class _Output:
    """Where the zip goes: what was written since the last `take`. It cannot seek, so `zipfile` does not either."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        pass

    def take(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class Readable(Protocol):
    """A file that is open for reading bytes, at any place."""

    def read(self, size: int = -1, /) -> bytes: ...
    def seek(self, offset: int, whence: int = 0, /) -> int: ...
    def tell(self) -> int: ...
    def seekable(self) -> bool: ...


class NotAPackage(Exception):
    """A file that is no evidence package, or one that is not safe to read. The text says why."""


class Problem(NamedTuple):
    """A file that is not as the manifest says; `what` is a sentence without its subject."""

    kind: Literal["damaged", "missing", "surplus"]
    path: str
    what: str


class Checked(NamedTuple):
    """The manifest of a package, the SHA-256 of its bytes, and what differs from it."""

    manifest: Manifest
    manifest_sha256: str
    problems: list[Problem]


def check(file: Readable, advance: Callable[[int], object]) -> Checked:
    """Compares each file of a package with the manifest; `advance` gets the number of bytes of each piece.

    It writes nothing, holds a piece of one file at a time, and reads no more bytes than the package has. Raises
    NotAPackage, and OSError if the package cannot be read.
    """
    with _opened(file) as package:
        entries = _safe_entries(package)
        _check_layout(file, package)
        if MANIFEST not in entries:
            raise NotAPackage(f"it has no {MANIFEST}")
        if entries[MANIFEST].file_size > _MOST_BYTES_AT_ONCE:
            raise NotAPackage(f"its {MANIFEST} has more than {_MOST_BYTES_AT_ONCE >> 20} MiB")
        try:
            text = package.read(MANIFEST)
            manifest = decode_manifest(text)
        except (ValueError, *_DAMAGED) as error:
            raise NotAPackage(f"its {MANIFEST} cannot be read: {error}") from None
        listed = {archived.path: archived for archived in manifest.files}
        if len(listed) < len(manifest.files):
            raise NotAPackage(f"its {MANIFEST} lists a file twice")
        problems = []
        for path, info in entries.items():
            if path == MANIFEST:
                continue
            if path not in listed:
                problems.append(Problem("surplus", path, "is not in the manifest"))
            elif what := _difference(package, info, listed[path], advance):
                problems.append(Problem("damaged", path, what))
        # A manifest may name anything: what is no path of a package is shown as such.
        problems += [
            Problem("missing", path if _is_safe(path) else ascii(path[:_LONGEST_PATH]), "is not in the package")
            for path in listed
            if path not in entries
        ]
        return Checked(manifest, sha256(text).hexdigest(), problems)


# What `zipfile` raises for a file that is no zip, for parts of it that contradict each other, and in the middle of one.
_DAMAGED = (BadZipFile, EOFError, NotImplementedError, RuntimeError, OverflowError, struct.error)


def _opened(file: Readable) -> ZipFile:
    """Returns the zip, with its directory read. Raises NotAPackage."""
    try:
        return ZipFile(_Bounded(file))
    except (ValueError, *_DAMAGED) as error:
        raise NotAPackage(f"it is no whole zip file: {str(error).rstrip('.')}") from None


def _safe_entries(package: ZipFile) -> dict[str, ZipInfo]:
    """Returns the entries by their paths, in their order. Raises NotAPackage for what a package never has."""
    entries: dict[str, ZipInfo] = {}
    folded: set[str] = set()
    for info in package.infolist():
        path = info.orig_filename
        if not _is_safe(path):
            raise NotAPackage(f"it has an entry with the name {path[:_LONGEST_PATH]!a}, which is not allowed")
        if path.lower() in folded:
            raise NotAPackage(f"it has two entries with the name {path}")
        if info.compress_type != ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & _ENCRYPTED:
            raise NotAPackage(f"its entry {path} is compressed or encrypted; Recall only stores files")
        folded.add(path.lower())
        entries[path] = info
    return entries


def _check_layout(file: Readable, package: ZipFile) -> None:
    """Raises NotAPackage unless the entries follow each other.

    Programs that read a zip from its beginning would find what the directory does not have.
    """
    end = 0
    for offset, size in sorted((info.header_offset, info.compress_size) for info in package.infolist()):
        _check_gap(end, offset)
        file.seek(offset)
        header = file.read(_LOCAL_HEADER)
        if len(header) < _LOCAL_HEADER:
            raise NotAPackage("it ends before an entry of its directory")
        end = offset + _LOCAL_HEADER + sum(struct.unpack_from("<HH", header, _LENGTHS)) + size
    _check_gap(end, package.start_dir)
    file.seek(-_END, 2)
    if file.read(len(_END_MARK)) != _END_MARK:
        raise NotAPackage("something follows its end")


def _check_gap(end: int, begin: int | None) -> None:
    if begin is None or not 0 <= begin - end <= _LONGEST_DESCRIPTOR:
        raise NotAPackage("its entries overlap, or something is between them")


def _is_safe(path: str) -> bool:
    return len(path) <= _LONGEST_PATH and bool(_PATH.fullmatch(path))


def _difference(package: ZipFile, info: ZipInfo, listed: ArchivedFile, advance: Callable[[int], object]) -> str | None:
    """Returns how an entry differs from what the manifest says; None if it does not."""
    if info.file_size != listed.size:
        return f"has {info.file_size} bytes, and the manifest says {listed.size}"
    digest = sha256()
    try:
        with package.open(info) as entry:
            while piece := entry.read(_PIECE):
                digest.update(piece)
                advance(len(piece))
    except (ValueError, *_DAMAGED):
        return "cannot be read: its header or its checksum contradicts the directory of the zip"
    return None if digest.hexdigest() == listed.sha256.lower() else "has another SHA-256 than the manifest says"


class _Bounded:
    """A file of which nobody gets more than so many bytes at once: `zipfile` reads a directory as a whole."""

    def __init__(self, file: Readable) -> None:
        self._file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        if size > _MOST_BYTES_AT_ONCE:
            raise BadZipFile(f"its directory has more than {_MOST_BYTES_AT_ONCE >> 20} MiB")
        return self._file.read(size if size >= 0 else _MOST_BYTES_AT_ONCE)
