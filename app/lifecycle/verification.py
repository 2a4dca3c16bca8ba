"""Reads a whole archive, and compares it with its manifests and lists (docs/decisions/0036-backup.md)."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from hashlib import sha256

from app.background import for_each
from app.media.archives import Archive, ArchiveFailed, FileMissing
from app.media.zipped import is_zip_of_day
from app.recordings.backup import (
    CONTENTS,
    MANIFEST,
    RECORDING,
    FileEntry,
    Malformed,
    Manifest,
    is_day,
    parse_archived,
    parse_manifest,
    parse_names,
)


@dataclass
class Verification:
    """What is wrong with an archive: paths, some with a reason. `recordings` and `files` are those that were read.

    What a run that was killed has left is `unfinished`: it has no manifest yet, or is on no list.
    """

    damaged: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    surplus: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    recordings: int = 0
    files: int = 0
    bytes: int = 0

    @property
    def is_whole(self) -> bool:
        return not (self.damaged or self.missing or self.surplus or self.unfinished)


@dataclass(frozen=True)
class Folder:
    """A recording's folder as it lies in the archive: the sizes of its files, None for what is no file."""

    path: str
    sizes: dict[str, int | None]


async def folders(archive: Archive, others: Callable[[str], object]) -> AsyncGenerator[Folder, None]:
    """Yields the folders of recordings in their order; `others` gets the path of each file outside of them."""
    path, sizes = "", dict[str, int | None]()
    async for entry in archive.walk():
        parts = entry.path.split("/")
        folder = "/".join(parts[:4])
        if sizes and folder != path:
            yield Folder(path, sizes)
            sizes = {}
        if len(parts) == 5 and is_day(parts[2]):
            path, sizes[parts[4]] = folder, entry.size
        else:
            others(entry.path)
    if sizes:
        yield Folder(path, sizes)


async def verify(archive: Archive, parallel: int, advance: Callable[[int], object] = lambda _: None) -> Verification:
    """Reads everything, `parallel` recordings concurrently.

    Raises ArchiveFailed when the archive cannot be read, and when no backup is there: its disk may not be mounted.
    """
    found = Verification()
    lists = _Lists(archive, found)

    async def listed() -> AsyncGenerator[Folder, None]:
        async for folder in folders(archive, lists.other):
            await lists.folder(folder)
            yield folder

    async def check(folder: Folder) -> None:
        await _check(archive, folder, found)
        advance(1)

    await for_each(listed(), check, parallel)
    if not await lists.end() and not found.recordings:
        raise ArchiveFailed(f"{archive.name} has no backup")
    for problems in (found.damaged, found.missing, found.surplus, found.unfinished):
        problems.sort()
    return found


class _Lists:
    """Compares the folders, which come in their order, with the lists of days."""

    def __init__(self, archive: Archive, found: Verification) -> None:
        self._archive = archive
        self._found = found
        self._day = ""
        self._listed: set[str] = set()
        self._days: set[str] = set()
        self._seen: set[str] = set()

    def other(self, path: str) -> None:
        """Takes a file that is in no recording's folder."""
        day, _, extension = path.rpartition(".")
        parts = day.split("/")
        if path == CONTENTS:
            return
        if extension == "json" and len(parts) == 3 and is_day(parts[2]):
            self._days.add(day)
        elif is_zip_of_day(path):
            self._found.damaged.append(f"{path}: it cannot be read as a zip")
        else:
            self._found.surplus.append(path)

    async def folder(self, folder: Folder) -> None:
        day, _, name = folder.path.rpartition("/")
        if day != self._day:
            await self._next(day)
        if name in self._listed:
            self._listed.discard(name)
            if MANIFEST not in folder.sizes:
                self._found.missing.append(f"{folder.path}/{MANIFEST}")
        else:
            self._found.unfinished.append(folder.path)

    async def end(self) -> bool:
        """Reports what the last days lack; returns whether there are any lists."""
        for day in sorted(self._days - self._seen):
            await self._next(day)
        await self._next("")
        contents = await self._names(CONTENTS)
        if contents is None:
            if self._days:
                self._found.unfinished.append(CONTENTS)
            return bool(self._days)
        for day in contents - self._days:
            self._found.missing.append(f"{day}.json")
        for day in self._days - contents:
            self._found.unfinished.append(f"{day}.json")
        return True

    async def _next(self, day: str) -> None:
        """Reports what the last day lacks, and reads the list of the next one."""
        self._found.missing += [f"{self._day}/{name}" for name in self._listed]
        self._day = day
        self._seen.add(day)
        self._listed = (await self._names(f"{day}.json") or set()) if day else set()

    async def _names(self, path: str) -> set[str] | None:
        try:
            return set(parse_names(await self._archive.read(path)))
        except FileMissing:
            return None
        except (Malformed, ArchiveFailed) as error:
            self._found.damaged.append(f"{path}: {error}")
            return set()


async def _check(archive: Archive, folder: Folder, found: Verification) -> None:
    """Compares a recording's folder with its manifest."""
    found.recordings += 1
    if MANIFEST not in folder.sizes:
        return  # it is unfinished, or missing, by the list of its day
    try:
        manifest = parse_manifest(await archive.read(f"{folder.path}/{MANIFEST}"), folder.path)
    except (FileMissing, Malformed, ArchiveFailed) as error:
        found.damaged.append(f"{folder.path}/{MANIFEST}: {error}")
        return
    found.surplus += [f"{folder.path}/{name}" for name in folder.sizes.keys() - manifest.files.keys() - {MANIFEST}]
    found.missing += [f"{folder.path}/{name}: {reason}" for name, reason in manifest.not_copied.items()]
    for name, entry in manifest.files.items():
        path = f"{folder.path}/{name}"
        if name not in folder.sizes:
            found.missing.append(path)
        elif problem := await _problem(archive, path, entry, manifest if name == RECORDING else None):
            found.damaged.append(f"{path}: {problem}")
        found.files += 1
        found.bytes += entry.size


async def _problem(archive: Archive, path: str, entry: FileEntry, manifest: Manifest | None) -> str:
    """Returns what is wrong with a file, "" if nothing is; recording.json is given with its manifest."""
    size, digest = 0, sha256()
    try:
        async for chunk in archive.chunks(path):
            size += len(chunk)
            if size > entry.size:
                break
            await asyncio.to_thread(digest.update, chunk)
        if size != entry.size:
            return f"it has {'more' if size > entry.size else 'fewer'} than {entry.size} bytes"
        if digest.hexdigest() != entry.sha256:
            return "its SHA-256 is another one"
        if manifest is not None:
            parse_archived(await archive.read(path), manifest)
    except (FileMissing, Malformed, ArchiveFailed) as error:
        return str(error)
    return ""
