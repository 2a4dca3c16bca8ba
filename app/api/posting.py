"""Recordings that are posted, one in a request or one a line (docs/contract.md sections 3 and 4).

A request with many recordings does for each line what a request with one recording does.
"""

import asyncio
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from app.api.audit import audit_entry, audited_request
from app.api.requests import (
    api_url,
    body_size,
    contact_center_of,
    decoded,
    is_ndjson,
    json_body,
    ndjson_body,
    owner_of,
    query_parameters,
    repository,
    resource_of,
    services,
    user_of,
)
from app.api.responses import envelope
from app.audit import Entry
from app.background import apart
from app.errors import InvalidParameter, LineTooLarge, RecallError
from app.ids import MAX_ID_BYTES
from app.media.location import LocationNotAllowed, check_key, resolve_location
from app.recordings.changes import changed_paths, content_digest
from app.recordings.identity import Resource, encode_segment
from app.recordings.model import Recording, parse_recording
from app.settings import Settings, StorageConfig
from app.store.repository import Saved

_MAX_LINES = 1_000
_MAX_BYTES = 32 * 1024 * 1024

# A slice is large enough that few requests to Elasticsearch store it, and small enough that others wait briefly.
_LINES_OF_A_SLICE = 100
_BYTES_OF_A_SLICE = 1024 * 1024

_LINE = re.compile(rb"[^ \t\r\n][^\n]*")


async def post(request: Request) -> Response:
    """`POST /ops/contact-centers/{cc}/recordings`: creates or updates a recording, or one for each line."""
    if is_ndjson(request):
        return await _post_many(request, created_status=201)
    body = await json_body(request)
    if isinstance(body, dict) and "id" not in body and body.get("operationName") == "createCRCF":
        return envelope({})  # it prepared the tables of a contact center
    posted = await apart(body_size(request), parse_recording, body, resource_of(request))
    return await _post(request, posted, created_status=201)


async def post_internal(request: Request) -> Response:
    """`POST /internal-api/contact-centers/{cc}/recordings`: recorders that exist take only 200 for success."""
    if is_ndjson(request):
        return await _post_many(request, created_status=200, needs_events=False)
    body = await json_body(request)
    posted = await apart(body_size(request), parse_recording, body, resource_of(request), needs_events=False)
    return await _post(request, posted, created_status=200)


# --- One recording ---


async def _post(request: Request, posted: Recording, *, created_status: int) -> Response:
    contact_center = contact_center_of(request)
    wait_for_refresh = _wait_for_refresh(request)
    resource = resource_of(request)
    await apart(body_size(request), _check_storages, posted, services(request).settings.storage)
    entry = audit_entry(request)
    entry.recording_id = posted["id"]
    before, after = await repository(request).save(
        contact_center,
        posted,
        by=user_of(request).name,
        size=body_size(request),
        wait_for_refresh=wait_for_refresh,
    )
    await apart(body_size(request), _tell_change, entry, before, after)
    path = f"/ops/contact-centers/{encode_segment(contact_center)}/{resource}/{encode_segment(posted['id'])}"
    status = created_status if before is None else 200
    return envelope({"id": posted["id"], "uri": api_url(request) + path}, status=status)


def _tell_change(entry: Entry, before: Recording | None, after: Recording) -> None:
    """Completes the audit line of a POST."""
    entry.digest_after = content_digest(after)
    if before is None:
        entry.operation = "create"
    else:
        entry.operation = "update"
        entry.digest_before, entry.changed = content_digest(before), changed_paths(before, after)


# --- Many recordings ---


@dataclass(frozen=True)
class _Line:
    """A line that is not blank; `number` counts from 1."""

    number: int
    text: bytes


@dataclass(frozen=True)
class _Refused:
    """A line that cannot be stored; `recording_id` is None if it is unreadable."""

    recording_id: str | None
    error: RecallError


async def _post_many(request: Request, *, created_status: int, needs_events: bool = True) -> Response:
    """Creates or updates a recording for each line; the next slice is parsed while one is stored."""
    wait_for_refresh = _wait_for_refresh(request)
    contact_center = contact_center_of(request)
    rules = _Rules(resource_of(request), services(request).settings, needs_events=needs_events)
    answer = _Answer(request, created_status)
    async with services(request).batches.place(owner_of(request)):
        slices = await _slices_of_body(request)
        async with asyncio.TaskGroup() as group:
            storing: asyncio.Task[None] | None = None
            for lines in slices:
                size = sum(len(line.text) for line in lines)
                parsed = await apart(size, rules.parse, lines)
                if storing is not None:
                    await storing
                storing = group.create_task(_store(request, contact_center, lines, parsed, answer))
        if wait_for_refresh:
            await repository(request).make_searchable()
    return answer.envelope()


async def _store(
    request: Request,
    contact_center: str,
    lines: Sequence[_Line],
    parsed: Sequence[Recording | _Refused],
    answer: "_Answer",
) -> None:
    accepted = [(one, len(line.text)) for line, one in zip(lines, parsed, strict=True) if not isinstance(one, _Refused)]
    posted, sizes = [one for one, _ in accepted], [size for _, size in accepted]
    saved = iter(await repository(request).save_many(contact_center, posted, by=user_of(request).name, sizes=sizes))
    outcomes = [one.error if isinstance(one, _Refused) else next(saved) for one in parsed]
    ids = [one.recording_id if isinstance(one, _Refused) else one["id"] for one in parsed]
    entries = await apart(sum(len(line.text) for line in lines), answer.entries, ids, outcomes)
    answer.add(lines, entries, outcomes)


async def _slices_of_body(request: Request) -> Iterator[list[_Line]]:
    body = await ndjson_body(request, _MAX_BYTES)
    lines = await apart(len(body), _lines, body)
    if not lines:
        raise InvalidParameter("body", "it must have at least one line that is not blank")
    if len(lines) > _MAX_LINES:
        raise InvalidParameter("body", f"it has more than {_MAX_LINES} lines")
    return _slices(lines)


def _lines(body: bytes) -> list[_Line]:
    """Returns the lines that are not blank, of more than are allowed one more."""
    lines = []
    number, counted = 1, 0
    for match in islice(_LINE.finditer(body), _MAX_LINES + 1):
        number += body.count(b"\n", counted, match.start())
        counted = match.start()
        lines.append(_Line(number, match[0]))
    return lines


def _slices(lines: Sequence[_Line]) -> Iterator[list[_Line]]:
    slice_: list[_Line] = []
    size = 0
    for line in lines:
        if slice_ and (len(slice_) == _LINES_OF_A_SLICE or size + len(line.text) > _BYTES_OF_A_SLICE):
            yield slice_
            slice_, size = [], 0
        slice_.append(line)
        size += len(line.text)
    yield slice_


class _Rules:
    """The rules that a line has to follow: those of a POST of one recording."""

    def __init__(self, resource: Resource, settings: Settings, *, needs_events: bool) -> None:
        self._resource = resource
        self._settings = settings
        self._needs_events = needs_events

    def parse(self, lines: Iterable[_Line]) -> list[Recording | _Refused]:
        return [self._parse(line.text) for line in lines]

    def _parse(self, text: bytes) -> Recording | _Refused:
        recording_id = None
        try:
            if len(text) > self._settings.max_body_bytes:
                raise LineTooLarge(self._settings.max_body_bytes)
            body = decoded(text)
            recording_id = _id_of(body)
            posted = parse_recording(body, self._resource, needs_events=self._needs_events)
            _check_storages(posted, self._settings.storage)
        except RecallError as error:
            return _Refused(recording_id, error)
        return posted


def _id_of(body: object) -> str | None:
    """Returns the id of a line that may break any rule; None if it has none that could be a recording's."""
    recording_id = body.get("id") if isinstance(body, dict) else None
    return recording_id if isinstance(recording_id, str) and len(recording_id) <= MAX_ID_BYTES else None


class _Answer:
    """Collects the answer to the client, and writes the audit line of each recording."""

    def __init__(self, request: Request, created_status: int) -> None:
        self._audited = audited_request(request)
        self._created_status = created_status
        self._created = self._updated = 0
        self._failed: list[dict[str, Any]] = []

    def entries(self, ids: Iterable[str | None], outcomes: Iterable[Saved | RecallError]) -> list[Entry]:
        """Returns the audit line of each recording."""
        entries = []
        for recording_id, outcome in zip(ids, outcomes, strict=True):
            entry = self._audited.entry_of_part(recording_id or "")
            if not isinstance(outcome, RecallError):
                _tell_change(entry, *outcome)
            entries.append(entry)
        return entries

    def add(self, lines: Iterable[_Line], entries: Iterable[Entry], outcomes: Iterable[Saved | RecallError]) -> None:
        """Counts what became of some lines, and writes their audit lines."""
        for line, entry, outcome in zip(lines, entries, outcomes, strict=True):
            if isinstance(outcome, RecallError):
                self._failed.append(
                    {
                        "line": line.number,
                        "id": entry.recording_id or None,
                        "statusCode": outcome.code,
                        "statusMessage": outcome.message,
                    }
                )
                self._audited.write_part(entry, outcome.http_status, outcome.code)
            elif outcome[0] is None:
                self._created += 1
                self._audited.write_part(entry, self._created_status, 0)
            else:
                self._updated += 1
                self._audited.write_part(entry, 200, 0)

    def envelope(self) -> Response:
        counts = {"created": self._created, "updated": self._updated}
        return envelope({"statusCode": 7, **counts, "failed": self._failed} if self._failed else counts)


# --- Both ---


def _check_storages(posted: Recording, configured: StorageConfig) -> None:
    """Refuses media outside the configured storage (docs/contract.md section 6)."""
    for i, media in enumerate(posted["mediaFiles"]):
        descriptor = media["mediaDescriptor"]
        try:
            location = resolve_location(descriptor, configured)
        except LocationNotAllowed as error:
            attribute = "data.bucket" if descriptor["storage"] == "awsS3" else "path"
            raise InvalidParameter(f"mediaFiles[{i}].mediaDescriptor.{attribute}", str(error)) from None
        try:
            check_key(location)
        except LocationNotAllowed as error:
            raise InvalidParameter(f"mediaFiles[{i}].mediaDescriptor.path", str(error)) from None


def _wait_for_refresh(request: Request) -> bool:
    parameters = query_parameters(request)
    for name, value in parameters:
        if name != "refresh":
            raise InvalidParameter(name, "it is not known; known is refresh")
        if value != "wait_for":
            raise InvalidParameter(name, "it must be wait_for")
    return bool(parameters)
