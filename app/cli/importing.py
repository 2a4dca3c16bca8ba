"""`recall import`, and `scripts/import.py`: posts files of recordings to a running service."""

import asyncio
import contextlib
import gzip
import os
import stat
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

import aiohttp
import click
import msgspec

from app.cli.files import open_private
from app.cli.framework import Command, once
from app.cli.types import CONTACT_CENTER, POSITIVE
from app.progress import progress
from app.recordings.identity import encode_segment
from app.retry import Backoff

_MAX_LINES = 1_000
_BATCH_BYTES = 8 * 1024 * 1024
_MAX_LINE_BYTES = 32 * 1024 * 1024
_IN_FLIGHT = 2
_GIVE_UP_SECONDS = 900.0
_REQUEST_SECONDS = 300.0
_TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})


class ImportFailed(Exception):
    """The import cannot go on; the text says why."""


class _Line(NamedTuple):
    file: str
    number: int
    text: bytes


class _Id(msgspec.Struct):
    id: str | None = None


@dataclass
class _Batch:
    """Lines that follow each other in one file. `position` is how far the file was read, in bytes."""

    lines: list[_Line]
    position: int
    ids: set[str] = field(default_factory=set)
    refused: int | None = None  # of its lines, once it is done


class _Outcome(msgspec.Struct):
    """What the service answers."""

    statusCode: int  # noqa: N815
    created: int = 0
    updated: int = 0
    failed: list[dict[str, Any]] = []


class _State(msgspec.Struct):
    """How far a file was imported to `address`: its `lines` up to this number are stored, or `refused`."""

    size: int
    modified: int
    lines: int
    address: str = ""
    refused: int = 0


@click.command("import", cls=Command, short_help="Post files of recordings to a running service.")
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@once("--contact-center", metavar="ID", type=CONTACT_CENTER, required=True, help="Whose recordings these are.")
@click.option("--screen-recordings", is_flag=True, help="They are screen recordings.")
@once("--url", metavar="URL", help="Where the service is (default: RECALL_IMPORT_URL, or http://127.0.0.1:8080).")
@once("--user", metavar="NAME", help="A user with the role ops or recorder (default: RECALL_IMPORT_USER).")
@once(
    "--password-file",
    metavar="FILE",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A file with the user's password (default: RECALL_IMPORT_PASSWORD, or asked for).",
)
@once("--lines", metavar="N", type=POSITIVE, help="Recordings in one request, at most 1000 (default: 500).")
@once(
    "--refused",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write refused lines to this file (default: FILE.refused.ndjson).",
)
@click.option("--restart", is_flag=True, help="Begin at the first line, also if an earlier import was interrupted.")
@click.pass_context
def command(
    context: click.Context,
    /,
    *,
    files: tuple[str, ...],
    contact_center: str,
    screen_recordings: bool,
    url: str | None,
    user: str | None,
    password_file: Path | None,
    lines: int | None,
    refused: Path | None,
    restart: bool,
) -> None:
    """Post files of recordings to a running service: one recording a line, as JSON.

    A FILE that ends with .gz is unpacked, and - is standard input. The recordings of a file are stored in the order
    of their lines; what is stored already is updated. An import that was interrupted goes on where it stopped: it
    notes its progress in FILE.import-state. Lines that the service refuses are written to a file, each with the reason.
    While the service is away or busy, the import waits for up to 15 minutes.

    The exit status is 0 if all lines are stored.
    """
    if lines is not None and lines > _MAX_LINES:
        raise click.UsageError(f"argument --lines: it must be at most {_MAX_LINES}", context)
    name = user or os.environ.get("RECALL_IMPORT_USER")
    if not name:
        raise click.UsageError("the following arguments are required: --user", context)
    resource = "screen-recordings" if screen_recordings else "recordings"
    base = (url or os.environ.get("RECALL_IMPORT_URL") or "http://127.0.0.1:8080").rstrip("/")
    address = f"{base}/api/v2/ops/contact-centers/{encode_segment(contact_center)}/{resource}"
    importer = _Importer(address, name, _password(name, password_file), lines or 500, restart=restart)
    try:
        # Each file remembers it until all are imported: if it was posted again, it would replace what a later one says.
        states = [
            asyncio.run(
                importer.run(file, refused or Path(f"{'standard-input' if file == '-' else file}.refused.ndjson"))
            )
            for file in files
        ]
        for state in states:
            state.remove()
    except (ImportFailed, OSError, EOFError) as error:
        sys.exit(f"{importer.summary()}\n{error}")
    except KeyboardInterrupt:
        sys.exit(f"{importer.summary()}\ninterrupted; the same command goes on where this one stopped")
    click.echo(importer.summary())
    if importer.refused:
        sys.exit(1)


def _password(user: str, file: Path | None) -> str:
    if file is not None:
        return file.read_text().rstrip("\r\n")
    given = os.environ.get("RECALL_IMPORT_PASSWORD")
    return given if given is not None else click.prompt(f"Password of {user}", hide_input=True, err=True)


class _Importer:
    """Imports files, one after the other, and counts what became of their lines."""

    def __init__(self, address: str, user: str, password: str, lines: int, *, restart: bool) -> None:
        self._address = address
        self._auth = aiohttp.BasicAuth(user, password, "utf-8")
        self._lines = lines
        self._restart = restart
        self.created = self.updated = self.refused = 0

    def summary(self) -> str:
        return f"created {self.created}, updated {self.updated}, refused {self.refused}"

    async def run(self, file: str, refused: Path) -> "_StateFile":
        """Imports one file. Raises ImportFailed, OSError."""
        state = _StateFile(file, self._address, restart=self._restart)
        if state.lines:
            click.echo(f"{file}: an earlier import was interrupted; going on after line {state.lines}", err=True)
        self.refused += state.refused
        timeout = aiohttp.ClientTimeout(total=_REQUEST_SECONDS)
        with _opened(file) as (raw, lines), progress(state.size, file, "B") as advance:
            async with aiohttp.ClientSession(auth=self._auth, timeout=timeout) as session:
                self._session = session
                self._refused_file = refused
                batches = _batches(file, lines, raw, self._lines, after=state.lines)
                await self._import(batches, state, advance)
        return state

    async def _import(self, batches: Iterator[_Batch], state: "_StateFile", advance: Callable[[int], object]) -> None:
        """Keeps some batches in flight, but none together with another one that has one of its ids."""
        in_flight: dict[asyncio.Task[int], _Batch] = {}
        unsaved: list[_Batch] = []
        position = 0
        try:
            for batch in batches:
                while len(in_flight) >= _IN_FLIGHT or any(not batch.ids.isdisjoint(b.ids) for b in in_flight.values()):
                    position = await self._landed(in_flight, unsaved, state, advance, position)
                in_flight[asyncio.create_task(self._post(batch.lines))] = batch
                unsaved.append(batch)
            while in_flight:
                position = await self._landed(in_flight, unsaved, state, advance, position)
        finally:
            for task in in_flight:
                task.cancel()
            await asyncio.gather(*in_flight, return_exceptions=True)

    async def _landed(
        self,
        in_flight: dict[asyncio.Task[int], _Batch],
        unsaved: list[_Batch],
        state: "_StateFile",
        advance: Callable[[int], object],
        position: int,
    ) -> int:
        """Waits for a batch, and notes how far everything is stored or refused. Returns that position."""
        done, _ = await asyncio.wait(in_flight, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            batch = in_flight.pop(task)
            batch.refused = task.result()
        while unsaved and (refused := unsaved[0].refused) is not None:
            batch = unsaved.pop(0)
            state.save(batch.lines[-1].number, refused)
            advance(batch.position - position)
            position = batch.position
        return position

    async def _post(self, lines: Sequence[_Line]) -> int:
        """Posts lines until each of them is stored or refused; returns how many are refused.

        Raises ImportFailed when the service stays away.
        """
        backoff = Backoff(_GIVE_UP_SECONDS, initial=0.5, maximum=20.0)
        left, refused = list(lines), 0
        while True:
            outcome, why, retry_after = await self._request(b"\n".join(line.text for line in left))
            if outcome is not None:
                if outcome.created + outcome.updated + len(outcome.failed) != len(left):
                    raise ImportFailed(f"{self._address} is not an address of Recall: its answer leaves lines out")
                self.created += outcome.created
                self.updated += outcome.updated
                failures = {failure["line"]: failure for failure in outcome.failed}
                # Code 4: the store, or a deletion of a media object, was in the way. It is no fault of the line.
                kept_out = [(left[n - 1], f) for n, f in failures.items() if f["statusCode"] != 4]
                self._refuse(kept_out)
                refused += len(kept_out)
                again = _again(left, {n: failure["statusCode"] for n, failure in failures.items()})
                # The next answer counts the stored lines again that are posted again for the order.
                self.updated -= len(again) - (len(failures) - len(kept_out))
                left = again
                if not left:
                    return refused
                why = next(failure["statusMessage"] for failure in failures.values() if failure["statusCode"] == 4)
            if retry_after:
                await asyncio.sleep(min(retry_after, backoff.seconds_left))
            if not await backoff.wait():
                raise ImportFailed(f"{left[0].file}: line {left[0].number} and others cannot be stored: {why}")

    async def _request(self, body: bytes) -> tuple[_Outcome | None, str, float]:
        """Returns the answer; without one that counts, why, and how many seconds to wait at least."""
        try:
            headers = {"Content-Type": "application/x-ndjson"}
            # Another host would be sent the password.
            async with self._session.post(self._address, data=body, headers=headers, allow_redirects=False) as response:
                answer = await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            return None, f"{self._address} does not answer ({error or type(error).__name__})", 0.0
        message = _message(answer) or f"status {response.status}"
        if response.status == 200:
            try:
                return msgspec.json.decode(answer, type=_Outcome), message, 0.0
            except msgspec.MsgspecError:
                raise ImportFailed(f"{self._address} is not an address of Recall") from None
        if response.status in _TRANSIENT:
            seconds = response.headers.get("Retry-After", "0")
            return None, message, float(seconds) if seconds.isdigit() else 0.0
        if 300 <= response.status < 400 and (location := response.headers.get("Location")):
            message = f"it is at {location}"
        raise ImportFailed(f"{self._address} answers {response.status}: {message}")

    def _refuse(self, refused: Sequence[tuple[_Line, dict[str, Any]]]) -> None:
        if not refused:
            return
        self.refused += len(refused)
        with open_private(self._refused_file, append=True) as file:
            for line, failure in refused:
                told = {"file": line.file, **failure, "line": line.number, "text": line.text.decode(errors="replace")}
                file.write(msgspec.json.encode(told) + b"\n")


def _again(lines: Sequence[_Line], codes: Mapping[int, int]) -> list[_Line]:
    """Returns the lines to post again after some failed with these codes: those that were held up (code 4).

    The later lines of their recordings follow once more, so that each recording says what its last line says.
    """
    again: list[_Line] = []
    ids: set[str | None] = set()
    for number, line in enumerate(lines, 1):
        code = codes.get(number, 0)
        if code == 4:
            ids.add(_id_of(line.text))
        if code == 4 or (code == 0 and ids and _id_of(line.text) in ids):
            again.append(line)
    return again


class _StateFile:
    """Notes how far a file was imported to an address; standard input has none."""

    def __init__(self, file: str, address: str, *, restart: bool) -> None:
        self._path = None if file == "-" else Path(f"{file}.import-state")
        self._address = address
        self.size = self._modified = self.lines = self.refused = 0
        if self._path is None:
            return
        status = Path(file).stat()
        if not stat.S_ISREG(status.st_mode):
            self._path = None
            return
        self.size, self._modified = status.st_size, status.st_mtime_ns
        if restart or not self._path.exists():
            return
        try:
            state = msgspec.json.decode(self._path.read_bytes(), type=_State)
        except msgspec.MsgspecError:
            raise ImportFailed(f"{self._path} cannot be read; --restart begins at the first line") from None
        if (state.size, state.modified) != (self.size, self._modified):
            raise ImportFailed(
                f"{file} has changed since its import was interrupted; --restart begins at the first line"
            )
        if state.address != address:
            raise ImportFailed(
                f"the interrupted import of {file} was to {state.address or 'another address'}, not to {address}; "
                "--restart begins at the first line"
            )
        self.lines, self.refused = state.lines, state.refused

    def save(self, lines: int, refused: int) -> None:
        """Notes that all lines up to this number are stored or refused, and how many more are refused."""
        self.refused += refused
        if self._path is not None:
            new = self._path.with_name(f"{self._path.name}.new")
            state = _State(self.size, self._modified, lines, self._address, self.refused)
            new.write_bytes(msgspec.json.encode(state))
            new.replace(self._path)

    def remove(self) -> None:
        if self._path is not None:
            self._path.unlink(missing_ok=True)


@contextlib.contextmanager
def _opened(file: str) -> Iterator[tuple[IO[bytes], Iterator[bytes]]]:
    """Yields the file as it lies on the disk, and its lines."""
    if file == "-":
        yield sys.stdin.buffer, iter(sys.stdin.buffer)
        return
    with Path(file).open("rb") as raw:
        if file.endswith(".gz"):
            with gzip.open(raw) as unpacked:
                yield raw, iter(unpacked)
        else:
            yield raw, iter(raw)


def _batches(file: str, lines: Iterator[bytes], raw: IO[bytes], size: int, *, after: int) -> Iterator[_Batch]:
    batch = _Batch([], 0)
    length = 0
    for number, text in enumerate(lines, 1):
        line = _Line(file, number, text.strip(b" \t\r\n"))
        if number <= after or not line.text:
            continue
        if len(line.text) > _MAX_LINE_BYTES:
            raise ImportFailed(f"{file}: line {number} is larger than {_MAX_LINE_BYTES} bytes")
        if batch.lines and (len(batch.lines) == size or length + len(line.text) > _BATCH_BYTES):
            yield batch
            batch, length = _Batch([], 0), 0
        batch.lines.append(line)
        batch.position = raw.tell() if raw.seekable() else 0
        length += len(line.text) + 1
        if recording_id := _id_of(line.text):
            batch.ids.add(recording_id)
    if batch.lines:
        yield batch


def _id_of(text: bytes) -> str | None:
    try:
        return msgspec.json.decode(text, type=_Id).id
    except msgspec.MsgspecError:  # the service says what is wrong
        return None


def _message(answer: bytes) -> str:
    try:
        return str(msgspec.json.decode(answer, type=dict[str, Any]).get("statusMessage", ""))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ""
