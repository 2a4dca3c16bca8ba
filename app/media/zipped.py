"""Archives whose days may be zips, which read like folders (docs/decisions/0036-backup.md).

`{day}.zip` has what the folder of that day would have, and nothing in it is compressed. A recording whose folder beside
it has a manifest counts from there, because that is newer, and every other one from the zip.
"""

import asyncio
import io
import re
import struct
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from zipfile import ZIP_STORED, BadZipFile, ZipFile

from app.media.archives import (
    Archive,
    ArchiveFailed,
    Entry,
    FileMissing,
    FolderArchive,
    S3Archive,
    Writer,
    open_s3,
    read_chunks,
)
from app.recordings.backup import MANIFEST, Malformed, is_day, parse_manifest
from app.recordings.package import PackageWriter
from app.settings import S3Config

_ZIP = ".zip"

_S3 = "s3://"
# The beginning of a URL.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")

# Directories of zips with so many files together are kept in memory, or of one zip. Recordings come in the order of
# their days. A file takes about 300 bytes.
_FILES = 300_000

# Of so many recordings in zips it is known whether a folder has something newer.
_FOLDERS = 10_000

# How much of the end of a zip is read first: the directory of some hundred recordings.
_TAIL = 64 * 1024

# In bytes: the head of an entry before its name, and where the lengths of name and extra field are in it.
_HEAD, _LENGTHS = 30, 26
_HEAD_MARK = b"PK\x03\x04"
_ENCRYPTED = 0x1


@dataclass(frozen=True, slots=True)
class _Member:
    """A file in a zip: where its head begins, where what follows it begins, and its size."""

    start: int
    stop: int
    size: int


@dataclass(frozen=True)
class _Zip:
    """The files of each recording in a zip, by their names; `others` are in no recording's folder."""

    folders: dict[str, dict[str, _Member]] = field(default_factory=dict)
    others: dict[str, _Member] = field(default_factory=dict)

    @cached_property
    def size(self) -> int:
        """The number of files."""
        return sum(map(len, self.folders.values())) + len(self.others)


def is_zip_of_day(path: str) -> bool:
    """Returns whether a path is that of the zip of a day."""
    parts = path.split("/")
    return len(parts) == 3 and parts[2].endswith(_ZIP) and is_day(parts[2].removesuffix(_ZIP))


class ZippedArchive:
    """An `Archive` in which the zip of a day reads like a folder. One that is written to leaves it first."""

    def __init__(self, inner: Archive) -> None:
        self.name = inner.name
        self._inner = inner
        self._zips: OrderedDict[str, _Zip] = OrderedDict()
        self._without: set[str] = set()
        self._reading = asyncio.Lock()
        self._unpacked: set[str] = set()
        self._unzipped: OrderedDict[str, bool] = OrderedDict()
        self._unpacking = asyncio.Lock()

    async def sizes(self, folder: str) -> Mapping[str, int]:
        members = await self._members(folder)
        if members is None:
            return await self._inner.sizes(folder)
        return {name: member.size for name, member in members.items()}

    async def read(self, path: str) -> bytes:
        if await self._member(path) is None:
            return await self._inner.read(path)
        return await read_chunks(self, path)

    async def chunks(self, path: str, part: range | None = None) -> AsyncIterator[bytes]:
        member = await self._member(path) if part is None else None
        content = self._inner.chunks(path, part) if member is None else self._chunks(path, member)
        async for chunk in content:
            yield chunk

    async def tail(self, path: str, size: int) -> tuple[bytes, int]:
        return await self._inner.tail(path, size)

    @asynccontextmanager
    async def writing(self, path: str) -> AsyncIterator[Writer]:
        await self._unpack(path)
        async with self._inner.writing(path) as writer:
            yield writer

    async def write_last(self, files: Mapping[str, bytes], *, removing: Collection[str] = ()) -> None:
        for path in files:
            await self._unpack(path)
        await self._inner.write_last(files, removing=removing)

    async def flush(self) -> None:
        await self._inner.flush()

    async def remove(self, path: str) -> None:
        await self._unpack(path)
        await self._inner.remove(path)

    async def prune(self, folder: str) -> None:
        await self._inner.prune(folder)

    async def walk(self, folder: str = "") -> AsyncIterator[Entry]:
        """As `Archive.walk`, for the whole archive. A zip that cannot be read stands for itself."""
        merged = _Merged("", _Zip(), self._note)
        async for group in self._groups(folder):
            path = group[0].path
            if not path.startswith(merged.day) or is_zip_of_day(path):
                for entry in merged.rest():
                    yield entry
                merged = _Merged("", _Zip(), self._note)
            if is_zip_of_day(path):
                with suppress(ArchiveFailed):
                    day = path.removesuffix(_ZIP)
                    merged = _Merged(day, await self._zip(day) or _Zip(), self._note)
                    continue
            for entry in merged.until(group):
                yield entry
        for entry in merged.rest():
            yield entry

    async def zip_day(self, day: str) -> None:
        """Moves what the folder of a day has into its zip. Raises ArchiveFailed when a file is damaged, for one.

        A kill leaves the zip of before or a whole one, and the folders of the recordings that are not in it.
        """
        folders: dict[str, list[str]] = {}
        async for entry in self._inner.walk(day):
            if folder := _folder_of(entry.path):
                folders.setdefault(folder, []).append(entry.path)
        zipped = await self._zip(day) or _Zip()
        new = {folder for folder, paths in folders.items() if f"{folder}/{MANIFEST}" in paths}
        old = {f"{day}/{name}" for name in zipped.folders}
        packed: dict[str, bytes] = {}
        if new:
            packed = await self._write_zip(day, sorted(new | old))
            await self._inner.flush()
            self._zips.pop(day, None)
            self._without.discard(day)
            self._unzipped.clear()
            self._unpacked = {folder for folder in self._unpacked if not folder.startswith(f"{day}/")}
        # A run that was killed may have left a part of a folder whose recording is in the zip. It goes, too.
        for folder in folders.keys() & (new | old):
            if folder not in new or await self._is_packed(folder, packed[folder]):
                await self._remove_packed(folder, folders[folder], compare=folder not in new)

    async def _is_packed(self, folder: str, manifest: bytes) -> bool:
        """Returns whether a folder still has this manifest. In a bucket another run may have stored something newer."""
        try:
            return await self._inner.read(f"{folder}/{MANIFEST}") == manifest
        except FileMissing:
            return False

    async def _remove_packed(self, folder: str, paths: list[str], *, compare: bool) -> None:
        """Removes the files of a folder that the zip has, and leaves others; compares the content if told so."""
        zipped = await self._zip(folder.rpartition("/")[0])
        members = zipped.folders.get(folder.rpartition("/")[2], {}) if zipped else {}
        for path in sorted(paths, key=lambda path: not path.endswith(f"/{MANIFEST}")):
            member = members.get(path.rpartition("/")[2])
            if member is None:
                continue
            if not compare or await _digest(self._inner.chunks(path)) == await _digest(self._chunks(path, member)):
                await self._inner.remove(path)
        await self._inner.prune(folder)

    # --- Zips ---

    async def _zip(self, day: str) -> _Zip | None:
        """Returns the directory of the zip of a day, None if there is none. Raises ArchiveFailed."""
        if day in self._without:
            return None
        async with self._reading:
            if day not in self._zips:
                zipped = await self._read_zip(f"{day}{_ZIP}")
                if zipped is None:
                    self._without.add(day)
                    return None
                self._zips[day] = zipped
                while len(self._zips) > 1 and sum(each.size for each in self._zips.values()) > _FILES:
                    self._zips.popitem(last=False)
            self._zips.move_to_end(day)
            return self._zips[day]

    async def _read_zip(self, path: str) -> _Zip | None:
        size = _TAIL
        while True:
            try:
                tail, total = await self._inner.tail(path, size)
                return await asyncio.to_thread(_directory, tail, total)
            except FileMissing:
                return None
            except _MoreNeeded:
                size *= 16
            except (BadZipFile, NotImplementedError, ValueError, UnicodeError, struct.error) as error:
                raise ArchiveFailed(f"{path} of {self.name} cannot be read as a zip: {error}") from None

    async def _members(self, folder: str) -> dict[str, _Member] | None:
        """Returns the files of a recording that counts from a zip, None for any other."""
        day, _, name = folder.rpartition("/")
        zipped = await self._zip(day)
        if zipped is None or name not in zipped.folders or await self._is_unzipped(folder):
            return None
        return zipped.folders[name]

    async def _is_unzipped(self, folder: str) -> bool:
        """Returns whether a recording counts from its folder, though it is in a zip, too."""
        if folder in self._unzipped:
            return self._unzipped[folder]
        is_unzipped = MANIFEST in await self._inner.sizes(folder)
        self._note(folder, is_unzipped=is_unzipped)
        return is_unzipped

    def _note(self, folder: str, *, is_unzipped: bool) -> None:
        """Keeps what is known, or each file of a recording would ask again. What this run writes may change."""
        if folder not in self._unpacked:
            self._unzipped[folder] = is_unzipped
            if len(self._unzipped) > _FOLDERS:
                self._unzipped.popitem(last=False)

    async def _member(self, path: str) -> _Member | None:
        """Returns a file that is in a zip, None for one that is not. Raises FileMissing if the zip should have it."""
        folder = _folder_of(path)
        members = await self._members(folder) if folder else None
        if members is None:
            return None
        name = path.rpartition("/")[2]
        if name not in members:
            raise FileMissing(f"{path} of {self.name} does not exist")
        return members[name]

    async def _chunks(self, path: str, member: _Member) -> AsyncIterator[bytes]:
        """Yields the content of a file in a zip: what follows its head, without what comes after it."""
        head, left = b"", member.size
        skip = -1
        zip_path = f"{_folder_of(path).rpartition('/')[0]}{_ZIP}"
        async for chunk in self._inner.chunks(zip_path, range(member.start, member.stop)):
            data = chunk
            if skip < 0:
                head += chunk
                if len(head) < _HEAD:
                    continue
                if not head.startswith(_HEAD_MARK):
                    break
                data, skip = head, _HEAD + sum(struct.unpack_from("<HH", head, _LENGTHS))
            cut = min(skip, len(data))
            skip -= cut
            data = data[cut : cut + left]
            left -= len(data)
            if data:
                yield data
        if left:
            raise ArchiveFailed(f"{path} of {self.name} cannot be read: its entry in the zip is damaged")

    async def _unpack(self, path: str) -> None:
        """Copies a recording that counts from a zip to its folder, because a file of it is about to change."""
        folder = _folder_of(path)
        if not folder or await self._zip(folder.rpartition("/")[0]) is None:
            return
        async with self._unpacking:
            if folder in self._unpacked:
                return
            members = await self._members(folder)
            for name in (members or {}).keys() - {MANIFEST}:
                async with self._inner.writing(f"{folder}/{name}") as writer:
                    async for chunk in self.chunks(f"{folder}/{name}"):
                        await writer.write(chunk)
                    await writer.commit()
            if members is not None and MANIFEST in members:
                await self._inner.write_last({f"{folder}/{MANIFEST}": await self.read(f"{folder}/{MANIFEST}")})
            self._unpacked.add(folder)
            self._unzipped.pop(folder, None)

    async def _write_zip(self, day: str, folders: list[str]) -> dict[str, bytes]:
        """Writes the zip of a day anew, in the place of the one that there may be; returns the manifests, by folder."""
        package = PackageWriter()
        try:
            async with self._inner.writing(f"{day}{_ZIP}") as writer:
                manifests = {folder: await self._add(package, writer, day, folder) for folder in folders}
                await writer.write(package.close())
                await writer.commit(flushed=True)
                return manifests
        finally:
            package.abort()

    async def _add(self, package: PackageWriter, writer: Writer, day: str, folder: str) -> bytes:
        """Adds a recording's files to a zip, its manifest last, which it returns.

        Raises ArchiveFailed if a file is not as that says.
        """
        content = await self.read(f"{folder}/{MANIFEST}")
        try:
            files = parse_manifest(content, folder).files
        except Malformed as error:
            raise ArchiveFailed(f"{folder}/{MANIFEST} of {self.name} is damaged: {error}") from None
        for name, entry in files.items():
            path = f"{folder}/{name}"
            await writer.write(package.begin(path.removeprefix(f"{day}/"), entry.size))
            async for chunk in self.chunks(path):
                await writer.write(package.write(chunk))
            await writer.write(package.end())
            written = package.files.pop()
            if (written.size, written.sha256) != (entry.size, entry.sha256):
                raise ArchiveFailed(f"{path} of {self.name} is damaged: it is not as its manifest says")
        await writer.write(package.file(f"{folder}/{MANIFEST}".removeprefix(f"{day}/"), content))
        package.files.pop()
        return content

    async def _groups(self, folder: str) -> AsyncIterator[list[Entry]]:
        """Yields the files of each recording together, and every other file by itself."""
        group: list[Entry] = []
        async for entry in self._inner.walk(folder):
            if group and (not _folder_of(entry.path) or _folder_of(entry.path) != _folder_of(group[0].path)):
                yield group
                group = []
            group.append(entry)
        if group:
            yield group


class _Merged:
    """The files of the zip of a day, put between those of the day's folder in their order.

    `note` is told of each recording that counts from the zip.
    """

    def __init__(self, day: str, zipped: _Zip, note: Callable[..., None]) -> None:
        self.day = day
        self._zipped = zipped
        self._note = note
        self._names = deque(sorted(zipped.folders, key=_order))

    def until(self, group: list[Entry]) -> Iterator[Entry]:
        """Yields what comes before the files of a recording, and then those that count."""
        if self.day and _folder_of(group[0].path):
            name = group[0].path.split("/")[3]
            while self._names and _order(self._names[0]) < _order(name):
                yield from self._members(self._names.popleft())
            if self._names and self._names[0] == name:
                self._names.popleft()
                if not any(entry.path.endswith(f"/{MANIFEST}") for entry in group):
                    # A run that was killed has left the others: what the zip does not have is shown.
                    yield from self._members(name)
                    members = self._zipped.folders[name]
                    group = [entry for entry in group if entry.path.rpartition("/")[2] not in members]
        yield from group

    def rest(self) -> Iterator[Entry]:
        """Yields what was not yielded yet."""
        while self._names:
            yield from self._members(self._names.popleft())
        yield from (Entry(f"{self.day}/{path}", each.size) for path, each in self._zipped.others.items())

    def _members(self, name: str) -> Iterator[Entry]:
        self._note(f"{self.day}/{name}", is_unzipped=False)
        return (Entry(f"{self.day}/{name}/{file}", each.size) for file, each in self._zipped.folders[name].items())


class _MoreNeeded(Exception):
    """The directory of a zip begins before the part of it that was read."""


class _Tail(io.RawIOBase):
    """A file of which only the last bytes are known."""

    def __init__(self, tail: bytes, total: int) -> None:
        self._tail = tail
        self._total = total
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._total}[whence]
        if base + offset < 0:
            raise OSError("before the beginning")
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: "memoryview | bytearray", /) -> int:  # type: ignore[override]
        start = self._position - (self._total - len(self._tail))
        if start < 0:
            raise _MoreNeeded
        some = self._tail[start : start + len(buffer)]
        buffer[: len(some)] = some
        self._position += len(some)
        return len(some)


def _directory(tail: bytes, total: int) -> _Zip:
    """Returns the directory of a zip. Raises _MoreNeeded, BadZipFile, NotImplementedError, ValueError."""
    found = _Zip()
    with ZipFile(_Tail(tail, total)) as file:
        infos = sorted(file.infolist(), key=lambda info: info.header_offset)
        stops = [*(info.header_offset for info in infos[1:]), file.start_dir]
    for info, stop in zip(infos, stops, strict=False):
        if info.compress_type != ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & _ENCRYPTED:
            raise BadZipFile(f"{info.filename} is compressed or encrypted")
        folder, _, name = info.filename.partition("/")
        is_file = folder and name and "/" not in name
        files = found.folders.setdefault(folder, {}) if is_file else found.others
        if (key := name if is_file else info.filename) in files:
            raise BadZipFile(f"{info.filename} is there twice")
        files[key] = _Member(info.header_offset, stop, info.file_size)
    return found


async def _digest(content: AsyncIterator[bytes]) -> bytes:
    digest = sha256()
    async for chunk in content:
        digest.update(chunk)
    return digest.digest()


def _folder_of(path: str) -> str:
    """Returns the folder of a recording in which a file is, "" for one that is elsewhere."""
    parts = path.split("/")
    return "/".join(parts[:4]) if len(parts) == 5 and is_day(parts[2]) else ""


def _order(name: str) -> bytes:
    return f"{name}/".encode(errors="surrogateescape")


def check_place(place: str) -> None:
    """Raises ArchiveFailed for what is neither a folder nor `s3://bucket/prefix`: `s3:/bucket` would be a folder."""
    if _URL.match(place) and not place.startswith(_S3):
        raise ArchiveFailed(f"{place} is neither a folder nor s3://BUCKET/PREFIX")
    if place.startswith(_S3) and not place.removeprefix(_S3).partition("/")[0]:
        raise ArchiveFailed(f"{place} names no bucket")


@asynccontextmanager
async def open_archive(
    place: str, storages: tuple[S3Config, ...], *, to_write: bool, connections: int
) -> AsyncIterator[ZippedArchive]:
    """Opens a folder, or `s3://bucket/prefix` with the credentials of the storage that has the bucket.

    Raises ArchiveInUse, ArchiveFailed. A bucket of no storage is AWS's, with its usual credentials.
    """
    check_place(place)
    if not place.startswith(_S3):
        async with FolderArchive(Path(place)).opened(to_write=to_write) as folder:
            yield ZippedArchive(folder)
        return
    bucket, _, prefix = place.removeprefix(_S3).partition("/")
    config = next((config for config in storages if bucket in config.buckets), S3Config((bucket,)))
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(open_s3(config, connections))
        yield ZippedArchive(S3Archive(client, bucket, prefix))
