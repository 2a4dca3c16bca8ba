"""Where backups are: a folder, or a prefix of an S3 bucket (docs/decisions/0036-backup.md).

A file of an archive appears as a whole or not at all: in a folder by a rename, in S3 by the end of its upload. Those
that come last vouch for others, so they appear when the others are on the disk: what a loss of power destroys is
nothing that looks whole. One flush does for many files. Paths have `/` between their parts. Nothing outside the archive
is read or written: no part of a path is `..`, and no symbolic link is followed.
"""

import asyncio
import ctypes
import errno
import fcntl
import os
import stat
import sys
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from functools import lru_cache, partial
from hashlib import sha256
from io import FileIO
from itertools import count, groupby
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol, TypeVar

import aiohttp
from aiobotocore.config import AioConfig
from botocore.exceptions import BotoCoreError, ClientError

from app.media.s3 import s3_session
from app.settings import S3Config

T = TypeVar("T")

# Threads for the files of a folder.
_THREADS = 16

# Folders that hold those of recordings and are kept open: of days, for each tenant.
_OPEN_FOLDERS = 64

# What is read, and written to a file, in one step. S3 asks for parts of at least 5 MiB.
_CHUNK = 1024 * 1024
_PART = 8 * 1024 * 1024

# Small objects that are written concurrently.
_PUTS = 8

# The longest list or recording.json that is read as a whole. A recording may have thousands of former versions.
LONGEST_FILE = 256 * 1024 * 1024

# In a folder: files that are being written, and the lock of the run that writes.
_UNFINISHED = ".unfinished"

# At the root. A file system of its own has the second one, which only root may read.
_NOT_OF_THE_ARCHIVE = frozenset({_UNFINISHED, "lost+found"})

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


class ArchiveFailed(Exception):
    """The archive cannot be used; the text says why."""


class ArchiveInUse(ArchiveFailed):
    """Another run writes to the archive."""


class FileMissing(ArchiveFailed):
    """The archive has no such file."""


class Entry(NamedTuple):
    """A file of an archive; `size` is None for what is no file, such as a symbolic link."""

    path: str
    size: int | None


class Written(NamedTuple):
    """How many bytes were written, and their digest."""

    size: int
    sha256: str


class Writer(Protocol):
    """A file that is being written. Without `commit` it never appears."""

    async def write(self, chunk: bytes) -> None: ...

    async def commit(self, *, flushed: bool = False) -> Written:
        """Gives the file its name, in the place of another one; if `flushed`, when it is on the disk."""
        ...


class Archive(Protocol):
    """A backup's files. Every method raises ArchiveFailed."""

    name: str

    async def sizes(self, folder: str) -> Mapping[str, int]:
        """Returns the sizes of the files in a folder by their names, nothing for a folder that does not exist."""
        ...

    async def read(self, path: str) -> bytes:
        """Returns the content of a list, a manifest or a recording.json; raises FileMissing."""
        ...

    def chunks(self, path: str, part: range | None = None) -> AsyncIterator[bytes]:
        """Yields the content of a file, or the bytes at these positions; raises FileMissing."""
        ...

    async def tail(self, path: str, size: int) -> tuple[bytes, int]:
        """Returns at most so many of the last bytes of a file, and how many it has; raises FileMissing."""
        ...

    def writing(self, path: str) -> AbstractAsyncContextManager[Writer]:
        """Opens a file to be written, in the place of one that exists. A loss of power may damage it."""
        ...

    async def write_last(self, files: Mapping[str, bytes], *, removing: Collection[str] = ()) -> None:
        """Writes whole files by their paths, those of a folder in their order.

        When they are there, no loss of power damages them, or what was there before. What is `removing`, of the same
        folders, goes immediately before they appear, and stays if they cannot be written.
        """
        ...

    async def flush(self) -> None:
        """Returns when no loss of power can damage what was written."""
        ...

    async def remove(self, path: str) -> None:
        """Removes a file, if it exists."""
        ...

    async def prune(self, folder: str) -> None:
        """Removes a folder that is empty, and those around it that are."""
        ...

    def walk(self, folder: str = "") -> AsyncIterator[Entry]:
        """Yields all files below a folder, in the order of their paths as bytes."""
        ...


async def write_file(archive: Archive, path: str, content: bytes) -> Written:
    """Writes a whole file, as `Archive.writing` does."""
    async with archive.writing(path) as writer:
        await writer.write(content)
        return await writer.commit()


async def read_chunks(archive: Archive, path: str) -> bytes:
    """Returns what `Archive.chunks` yields of a file, as `Archive.read` does."""
    content = bytearray()
    async for chunk in archive.chunks(path):
        content += chunk
        if len(content) > LONGEST_FILE:
            raise ArchiveFailed(f"{path} of {archive.name} is larger than {LONGEST_FILE} bytes")
    return bytes(content)


# --- A folder -----------------------------------------------------------------------------------------------


class FolderArchive:
    """A folder of this machine, which must exist to be read. Only `open_to_write` makes it, and locks it."""

    def __init__(self, folder: Path) -> None:
        self.name = str(folder)
        self._folder = folder
        self._threads = ThreadPoolExecutor(_THREADS, "archive")
        self._root = self._unfinished = -1
        self._numbers = count()
        # The recordings of a day follow each other: its folder stays open.
        self._outer = lru_cache(_OPEN_FOLDERS)(self._open_folder)

    @asynccontextmanager
    async def opened(self, *, to_write: bool) -> AsyncIterator["FolderArchive"]:
        """Opens the folder, to write if no other run does. Raises ArchiveInUse, ArchiveFailed."""
        try:
            with _failures(self.name):
                if to_write:
                    self._folder.mkdir(0o700, parents=True, exist_ok=True)
                self._root = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
                if to_write:
                    self._unfinished = _lock(self._root, self.name)
            yield self
        finally:
            self._threads.shutdown()
            self._outer.cache_clear()
            for descriptor in (self._unfinished, self._root):
                if descriptor >= 0:
                    os.close(descriptor)

    async def sizes(self, folder: str) -> Mapping[str, int]:
        def sizes() -> dict[str, int]:
            try:
                with self._at(folder) as descriptor, os.scandir(descriptor) as entries:
                    files = ((entry.name, entry.stat(follow_symlinks=False)) for entry in entries)
                    return {name: status.st_size for name, status in files if stat.S_ISREG(status.st_mode)}
            except FileNotFoundError:
                return {}

        return await self.run(folder, sizes)

    async def read(self, path: str) -> bytes:
        def read() -> bytes:
            with self._opened(path) as file:
                if os.fstat(file.fileno()).st_size > LONGEST_FILE:
                    raise ArchiveFailed(f"{path} of {self.name} is larger than {LONGEST_FILE} bytes")
                return file.readall()

        return await self.run(path, read)

    async def chunks(self, path: str, part: range | None = None) -> AsyncIterator[bytes]:
        def open_() -> IO[bytes]:
            with self._opened(path) as file:
                if part is not None:
                    file.seek(part.start)
                return os.fdopen(os.dup(file.fileno()), "rb", buffering=0)

        left = sys.maxsize if part is None else len(part)
        with await self.run(path, open_) as file:
            while chunk := await self.run(path, partial(file.read, min(left, _CHUNK))):
                left -= len(chunk)
                yield chunk

    async def tail(self, path: str, size: int) -> tuple[bytes, int]:
        def read() -> tuple[bytes, int]:
            with self._opened(path) as file:
                total = os.fstat(file.fileno()).st_size
                file.seek(max(0, total - size))
                return file.read(size), total

        return await self.run(path, read)

    @asynccontextmanager
    async def writing(self, path: str) -> AsyncIterator[Writer]:
        writer = _FileWriter(self, path)
        try:
            yield writer
        finally:
            writer.discard()

    async def write_last(self, files: Mapping[str, bytes], *, removing: Collection[str] = ()) -> None:
        def write() -> None:
            temporaries: dict[str, str] = {}
            try:
                for path, content in files.items():
                    temporary = temporaries[path] = self.new_name()
                    descriptor = self.create(temporary)
                    try:
                        _write_all(descriptor, content)
                    finally:
                        os.close(descriptor)
                _flush(self._root)
                for folder, paths in groupby(files, _folder_of):
                    for path in removing:
                        if _folder_of(path) == folder:
                            self._remove(path)
                    self.place(folder, {path.rpartition("/")[2]: temporaries[path] for path in paths})
            except BaseException:
                for temporary in temporaries.values():
                    self.forget(temporary)
                raise

        if files:
            await self.run(next(iter(files)), write)

    async def flush(self) -> None:
        await self.run("", lambda: _flush(self._root))

    async def remove(self, path: str) -> None:
        await self.run(path, partial(self._remove, path))

    def _remove(self, path: str) -> None:
        folder, _, name = path.rpartition("/")
        with suppress(FileNotFoundError), self._at(folder) as descriptor:
            os.unlink(name, dir_fd=descriptor)

    async def prune(self, folder: str) -> None:
        def prune() -> None:
            outer = folder
            while outer:
                outer, _, name = outer.rpartition("/")
                try:
                    with self._at(outer) as descriptor:
                        os.rmdir(name, dir_fd=descriptor)
                except OSError:  # it is not empty
                    return
                self._outer.cache_clear()  # which may have it

        await self.run(folder, prune)

    async def walk(self, folder: str = "") -> AsyncIterator[Entry]:
        if folder and not await self.run(folder, lambda: self._exists(folder)):
            return
        folders = [f"{folder}/" if folder else ""]
        while folders:
            path = folders.pop()
            if path and not path.endswith("/"):
                entry = await self.run(path, partial(self._entry, path))
                if entry is not None:
                    yield entry
                continue
            names = await self.run(path, partial(self._names, path))
            if names is None:
                yield Entry(path.removesuffix("/"), None)
                continue
            # A folder's name is compared with the slash at its end, as S3 does.
            folders += sorted(names, key=os.fsencode, reverse=True)

    def _exists(self, folder: str) -> bool:
        try:
            with self._at(folder):
                return True
        except FileNotFoundError:
            return False

    def _names(self, folder: str) -> list[str] | None:
        """Returns the paths in a folder, those of folders with a slash at their end; None if it may not be read.

        Another run may have removed it since its name was read.
        """
        try:
            with self._at(folder) as descriptor, os.scandir(descriptor) as entries:
                return [
                    f"{folder}{entry.name}{'/' if entry.is_dir(follow_symlinks=False) else ''}"
                    for entry in entries
                    if folder or entry.name not in _NOT_OF_THE_ARCHIVE
                ]
        except FileNotFoundError:
            return []
        except PermissionError:
            if not folder:
                raise
            return None

    def _entry(self, path: str) -> Entry | None:
        folder, _, name = path.rpartition("/")
        try:
            with self._at(folder) as descriptor:
                status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return Entry(path, status.st_size if stat.S_ISREG(status.st_mode) else None)

    @contextmanager
    def _at(self, folder: str, *, make: bool = False) -> Iterator[int]:
        """Yields a descriptor of a folder below the root; no part of its path is a symbolic link."""
        if not folder:
            yield self._root
            return
        for part in folder.rstrip("/").split("/"):
            _check_part(part)
        path, _, name = folder.rstrip("/").rpartition("/")
        outer = self._outer(path, make)
        if not os.fstat(outer.descriptor).st_nlink:  # somebody has removed it since it was opened
            self._outer.cache_clear()
            outer = self._outer(path, make)
        inner = self._inner(outer, name, make)
        yield inner.descriptor

    def _open_folder(self, folder: str, make: bool) -> "_Folder":
        found = _Folder(os.dup(self._root))
        for name in folder.split("/") if folder else ():
            found = self._inner(found, name, make)
        return found

    def _inner(self, outer: "_Folder", name: str, make: bool) -> "_Folder":
        if make:
            with suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=outer.descriptor)
        return _Folder(os.open(name, _FOLDER, dir_fd=outer.descriptor))

    @contextmanager
    def _opened(self, path: str) -> Iterator[FileIO]:
        """Opens a regular file to be read."""
        folder, _, name = path.rpartition("/")
        _check_part(name)
        with self._at(folder) as descriptor:
            # Without O_NONBLOCK a pipe would make the run wait.
            number = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=descriptor)
        with FileIO(number) as file:
            if not stat.S_ISREG(os.fstat(number).st_mode):
                raise ArchiveFailed(f"{path} of {self.name} is no file")
            yield file

    def place(self, folder: str, names: Mapping[str, str]) -> None:
        """Gives files that have been written their names in a folder: name → temporary name."""
        with self._at(folder, make=True) as descriptor:
            for name, temporary in names.items():
                _check_part(name)
                os.rename(temporary, name, src_dir_fd=self._unfinished, dst_dir_fd=descriptor)

    def new_name(self) -> str:
        """Returns a name for a file that is being written. Only the run that has the lock makes any."""
        return str(next(self._numbers))

    def create(self, temporary: str) -> int:
        """Creates a file without a name that a reader of the archive sees."""
        return os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self._unfinished)

    def forget(self, temporary: str) -> None:
        """Removes a file that is not to appear."""
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=self._unfinished)

    async def run(self, path: str, work: Callable[[], T]) -> T:
        """Does work with files in a thread."""
        with _failures(f"{path} of {self.name}" if path else self.name):
            done = asyncio.get_running_loop().run_in_executor(self._threads, work)
            try:
                return await asyncio.shield(done)
            except asyncio.CancelledError:
                await asyncio.wait([done])  # or it would go on with a descriptor that is another file's by then
                raise


class _Folder:
    """An open folder. It is closed when nobody refers to it, so that a cache may drop it while a thread uses it."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self) -> None:
        os.close(self.descriptor)


class _FileWriter:
    """Writes to a temporary file, in a thread that computes the digest too."""

    def __init__(self, archive: FolderArchive, path: str) -> None:
        self._archive = archive
        self._path = path
        self._temporary = archive.new_name()
        self._descriptor = -1
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._size = 0
        self._digest = sha256()

    async def write(self, chunk: bytes) -> None:
        self._waiting.append(chunk)
        self._waiting_bytes += len(chunk)
        if self._waiting_bytes >= _CHUNK:
            await self._archive.run(self._path, self._write)

    async def commit(self, *, flushed: bool = False) -> Written:
        def commit() -> None:
            self._write()
            if flushed:
                os.fsync(self._descriptor)
            self._archive.place(_folder_of(self._path), {self._path.rpartition("/")[2]: self._temporary})
            self._close()

        await self._archive.run(self._path, commit)
        return Written(self._size, self._digest.hexdigest())

    def discard(self) -> None:
        """Removes what was written, unless it was committed."""
        if self._descriptor >= 0:
            self._close()
            self._archive.forget(self._temporary)

    def _write(self) -> None:
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        if self._descriptor < 0:
            self._descriptor = self._archive.create(self._temporary)
        for chunk in waiting:
            self._size += len(chunk)
            self._digest.update(chunk)
            _write_all(self._descriptor, chunk)

    def _close(self) -> None:
        os.close(self._descriptor)
        self._descriptor = -1


def _folder_of(path: str) -> str:
    return path.rpartition("/")[0]


def _write_all(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


_libc = ctypes.CDLL(None, use_errno=True)


def _flush(descriptor: int) -> None:
    """Returns when all that was written to the file system of an open file is on its disk. Raises OSError."""
    if _libc.syncfs(descriptor):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _check_part(part: str) -> None:
    """Raises ArchiveFailed for a part of a path that leads elsewhere."""
    if part in {"", ".", ".."} or "/" in part or "\0" in part:
        raise ArchiveFailed(f"{part!r} is no name in an archive")


def _lock(root: int, name: str) -> int:
    """Locks an archive against other runs, and removes what a run that was killed has left."""
    with suppress(FileExistsError):
        os.mkdir(_UNFINISHED, 0o700, dir_fd=root)
    unfinished = os.open(_UNFINISHED, _FOLDER, dir_fd=root)
    try:
        fcntl.flock(unfinished, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(unfinished)
        raise ArchiveInUse(f"another run writes to {name}") from None
    with os.scandir(unfinished) as left:
        for entry in left:
            os.unlink(entry.name, dir_fd=unfinished)
    return unfinished


@contextmanager
def _failures(what: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise FileMissing(f"{what} does not exist") from None
    except OSError as error:
        reason = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror
        raise ArchiveFailed(f"{what} cannot be used: {reason}") from error


# --- S3 -----------------------------------------------------------------------------------------------------


class S3Archive:
    """The keys of a bucket that begin with a prefix."""

    def __init__(self, client: Any, bucket: str, prefix: str) -> None:
        self.name = f"s3://{bucket}/{prefix}"
        self._client = client
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""

    async def sizes(self, folder: str) -> Mapping[str, int]:
        start = len(self._key(folder)) + 1
        return {key[start:]: size async for key, size in self._list(f"{self._key(folder)}/") if "/" not in key[start:]}

    async def read(self, path: str) -> bytes:
        return await read_chunks(self, path)

    async def chunks(self, path: str, part: range | None = None) -> AsyncIterator[bytes]:
        if part is not None and not part:
            return
        bounds = {} if part is None else {"Range": f"bytes={part.start}-{part.stop - 1}"}
        with self._failures(path):
            answer = await self._client.get_object(Bucket=self._bucket, Key=self._key(path), **bounds)
            async with answer["Body"] as body:
                while chunk := await body.read(_CHUNK):
                    yield chunk

    async def tail(self, path: str, size: int) -> tuple[bytes, int]:
        with self._failures(path):
            answer = await self._client.get_object(Bucket=self._bucket, Key=self._key(path), Range=f"bytes=-{size}")
            async with answer["Body"] as body:
                content = await body.read()
        total = str(answer.get("ContentRange", "")).rpartition("/")[2]
        return content[-size:], int(total) if total.isdecimal() else len(content)

    @asynccontextmanager
    async def writing(self, path: str) -> AsyncIterator[Writer]:
        writer = _ObjectWriter(self._client, self._bucket, self._key(path))
        try:
            with self._failures(path):
                yield writer
        finally:
            await writer.discard()

    async def write_last(self, files: Mapping[str, bytes], *, removing: Collection[str] = ()) -> None:
        places = asyncio.Semaphore(_PUTS)

        async def write(folder: str, paths: Sequence[str]) -> None:
            async with places:
                for path in removing:
                    if _folder_of(path) == folder:
                        await self.remove(path)
                for path in paths:
                    await write_file(self, path, files[path])

        folders: dict[str, list[str]] = {}
        for path in files:
            folders.setdefault(_folder_of(path), []).append(path)
        await asyncio.gather(*(write(folder, paths) for folder, paths in folders.items()))

    async def flush(self) -> None:
        pass  # what S3 has acknowledged stays

    async def remove(self, path: str) -> None:
        with self._failures(path):
            await self._client.delete_object(Bucket=self._bucket, Key=self._key(path))

    async def prune(self, folder: str) -> None:
        pass  # there are no folders

    async def walk(self, folder: str = "") -> AsyncIterator[Entry]:
        async for key, size in self._list(self._key(f"{folder}/" if folder else "")):
            yield Entry(key[len(self._prefix) :], size)

    async def _list(self, prefix: str) -> AsyncIterator[tuple[str, int]]:
        with self._failures(prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix)
            async for page in pages:
                for found in page.get("Contents", ()):
                    if not found["Key"].endswith("/"):  # some storages list folders
                        yield found["Key"], found["Size"]

    def _key(self, path: str) -> str:
        return self._prefix + path

    @contextmanager
    def _failures(self, path: str) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code in {"NoSuchKey", "404"}:
                raise FileMissing(f"{path} of {self.name} does not exist") from None
            raise ArchiveFailed(f"{path} of {self.name} cannot be used: {code or error}") from error
        except (BotoCoreError, aiohttp.ClientError, OSError, TimeoutError) as error:
            raise ArchiveFailed(f"{path} of {self.name} cannot be used: {error}") from error


class _ObjectWriter:
    """Writes an object with one request, or part by part if it is large."""

    def __init__(self, client: Any, bucket: str, key: str) -> None:
        self._client = client
        self._object = {"Bucket": bucket, "Key": key}
        self._waiting = bytearray()
        self._upload: str | None = None
        self._parts: list[dict[str, Any]] = []
        self._size = 0
        self._digest = sha256()

    async def write(self, chunk: bytes) -> None:
        self._waiting += chunk
        self._size += len(chunk)
        self._digest.update(chunk)
        # S3 takes 10,000 parts.
        if len(self._waiting) >= _PART * (1 + len(self._parts) // 1_000):
            await self._send_part()

    async def commit(self, *, flushed: bool = False) -> Written:  # what S3 has acknowledged stays
        if self._upload is None:
            await self._client.put_object(**self._object, Body=bytes(self._waiting))
        else:
            if self._waiting:
                await self._send_part()
            await self._client.complete_multipart_upload(
                **self._object, UploadId=self._upload, MultipartUpload={"Parts": self._parts}
            )
            self._upload = None
        return Written(self._size, self._digest.hexdigest())

    async def discard(self) -> None:
        """Ends an upload that was not committed."""
        if self._upload is not None:
            with suppress(ClientError, BotoCoreError, OSError):
                await self._client.abort_multipart_upload(**self._object, UploadId=self._upload)

    async def _send_part(self) -> None:
        if self._upload is None:
            self._upload = (await self._client.create_multipart_upload(**self._object))["UploadId"]
        number = len(self._parts) + 1
        answer = await self._client.upload_part(
            **self._object, UploadId=self._upload, PartNumber=number, Body=bytes(self._waiting)
        )
        self._parts.append({"PartNumber": number, "ETag": answer["ETag"]})
        self._waiting = bytearray()


def open_s3(config: S3Config, connections: int) -> Any:
    """Returns the context of a client of an S3 endpoint that sends requests itself."""
    return s3_session().create_client(
        "s3",
        endpoint_url=config.endpoint_url,
        region_name=config.region,
        aws_access_key_id=config.access_key_id,
        aws_secret_access_key=config.secret_access_key,
        verify=config.ca_file,
        config=AioConfig(
            signature_version="s3v4",
            max_pool_connections=connections,
            s3={"addressing_style": "path" if config.endpoint_url else "auto"},
            # What comes with every answer and request is checked here by its SHA-256.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )
