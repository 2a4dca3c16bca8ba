"""Recordings in Elasticsearch: the only place that reads and writes them."""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, NotRequired, TypedDict, TypeVar, Unpack
from uuid import uuid4
from weakref import WeakValueDictionary

import msgspec
from elasticsearch import AsyncElasticsearch, BadRequestError, ConflictError, NotFoundError

from app import codec
from app.auth.scope import Scope
from app.background import Pieces, apart
from app.errors import (
    ElasticsearchUnavailable,
    InternalError,
    MediaBeingDeleted,
    RecallError,
    RecordingNotFound,
    RecordingTooLarge,
    SearchTooLarge,
)
from app.recordings.dates import parse_instant
from app.recordings.identity import Resource, media_object_keys
from app.recordings.labels import Labels
from app.recordings.merge import check_size, merge
from app.recordings.model import Recording
from app.recordings.text import from_text
from app.retry import Backoff
from app.search.criteria import Criteria
from app.search.fields import LABEL_NAMES, call_uuids
from app.search.paging import ORDER, Page, PageRequest, total_body, total_of
from app.search.query import query, search_body
from app.settings import Settings
from app.store.claims import MediaClaims
from app.store.client import raw_request, store_errors
from app.store.document_store import DocumentReader, DocumentWriter, IndexBlocked, Version, version_of
from app.store.documents import ProtectionChange, Source, document_id, labels_from, protection_from, to_document
from app.store.hits import EASIER, PROTECTIONS, RECORDINGS, Hit, HitDecoder, RecordingHit
from app.store.indices import alias, refresh
from app.store.journal import now_milliseconds
from app.store.pages import BoundedSearch, Reserve, unlimited
from app.store.versions import FormerVersion, VersionStore, says_the_same

log = logging.getLogger(__name__)

S = TypeVar("S")

# An answer without some of the shards would look like a complete one.
_PARTIAL_RESULTS = False

# The number of recordings, or keys, in one request of an operation on many.
_BATCH = 500

# How long a view is kept for the next use. A process that takes over from one that has died comes sooner.
VIEW_SECONDS = 600

_OLDEST_FIRST = ({"startTime": "asc"}, {"id": "asc"}, {"contactCenter": "asc"})

# The limit of a document that grows by updates: Elasticsearch indexes one of this size well within a write's deadline.
MAX_DOCUMENT_BYTES = 16 * 1024 * 1024

# Elasticsearch refreshes every second, unless an operator has made the interval longer.
_WAIT_FOR_REFRESH_SECONDS = 60.0


@dataclass(frozen=True)
class StoredRecording:
    """A recording as it was read. A write or deletion of it succeeds only if it has not changed since.

    None for the labels of one that never had any. `size` is the number of bytes of its recording.
    """

    document_id: str
    contact_center: str
    recording: Recording
    protection: ProtectionChange | None
    version: Version
    labels: Labels | None = None
    size: int = 0


class ViewGone(Exception):
    """Elasticsearch has forgotten a view: its node has died, or nobody has used it for too long."""


class Matching(NamedTuple):
    """A recording that matches: its id, and the version in which it does."""

    recording_id: str
    seq_no: int
    primary_term: int


class Matches(NamedTuple):
    """Some of the recordings that match in a view, what the view is called from now on, and where they end.

    `total` is the number of all that match, which the first of these have.
    """

    found: list[Matching]
    view: str
    after: list[Any]
    total: int | None


@dataclass(frozen=True)
class ProtectionState:
    """What is known of the protection of a recording without reading the recording."""

    document_id: str
    is_protected: bool
    change: ProtectionChange | None


@dataclass(frozen=True)
class MatchCounts:
    """How many recordings match, and how many of them are protected from deletion."""

    total: int
    protected: int


@dataclass(frozen=True)
class Update:
    """What `RecordingRepository.update` is to store. None for the labels that the recording has."""

    contact_center: str
    recording: Recording
    protection: ProtectionChange | None = None
    labels: Labels | None = None


# The state that a change was applied to (None: it created the recording), and what was stored (None: nothing).
Updated = tuple[StoredRecording | None, Update | None]

# A recording before a POST (None: it created the recording), and after it.
Saved = tuple[Recording | None, Recording]


@dataclass(frozen=True)
class _Creation:
    """What creates a recording: `body` is the JSON text of the document."""

    update: Update
    body: bytes


class _How(TypedDict):
    """How a recording is stored (`RecordingRepository._store`)."""

    by: str
    size: int
    create_first: bool
    wait_for_refresh: NotRequired[bool]
    creation: NotRequired[_Creation | None]
    writer: NotRequired[DocumentWriter | None]


class UnsettledHold(Exception):
    """A hold of version 0.1.0 has to be settled before its calls change (`app.lifecycle.protection`)."""

    def __init__(self, stored: StoredRecording) -> None:
        super().__init__(stored.document_id)
        self.stored = stored


class RecordingRepository:
    """The recordings, or screen recordings, of all contact centers and regions.

    A method that takes a scope sees only what the scope admits. Every method raises ElasticsearchUnavailable when
    Elasticsearch is away or overloaded.
    """

    def __init__(self, client: AsyncElasticsearch, settings: Settings, resource: Resource = "recordings") -> None:
        self.resource = resource
        # Set by who knows both resources: `app.lifecycle.protection`.
        self.settle_hold: Callable[[StoredRecording, Resource], Awaitable[None]] | None = None
        self._client = client
        self._index = alias(settings, resource)
        self._seconds = settings.elasticsearch_timeout
        self._search_target = f"/{self._index}/_search?allow_partial_search_results={str(_PARTIAL_RESULTS).lower()}"
        self._search_seconds = settings.elasticsearch_search_timeout
        self._write_seconds = settings.elasticsearch_write_timeout
        self._searching = client.options(request_timeout=self._search_seconds)
        self._bounded = BoundedSearch(self._recording_hits, self._mget, self._search)
        self._reader = DocumentReader(client, self._seconds, RECORDINGS, self._bounded.largest_lately)
        self._writer = DocumentWriter(
            client, self._reader, timeout=self._write_seconds, refresh_timeout=_WAIT_FOR_REFRESH_SECONDS
        )
        # Of POSTs of many recordings, so that a single one does not wait behind hundreds of theirs.
        self._writer_of_many = DocumentWriter(
            client, self._reader, timeout=self._write_seconds, refresh_timeout=_WAIT_FOR_REFRESH_SECONDS
        )
        # A write that waits for a refresh keeps its connection, so half of the connections are left for other requests.
        self._waiting = asyncio.Semaphore(settings.elasticsearch_connections // 2)
        self.version_store = VersionStore(client, settings, resource)
        self._claims = MediaClaims(client, settings)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._pieces = Pieces()

    async def get(self, scope: Scope, recording_id: str) -> StoredRecording:
        """Returns a recording as of its last acknowledged write, searchable or not yet.

        Raises RecordingNotFound when it does not exist, or the scope does not admit it. The scope must name a contact
        center, without which an id names no recording.
        """
        hit, stored = await self._admitted_hit(scope, recording_id)
        if stored is None:
            stored = await apart(len(hit.source.recording), _stored, hit)
        return stored

    async def find(self, scope: Scope, recording_id: str) -> Source:
        """Returns what `get` does, and raises as it does, without decoding the recording."""
        hit, _ = await self._admitted_hit(scope, recording_id)
        return hit.source

    async def _admitted_hit(self, scope: Scope, recording_id: str) -> tuple[RecordingHit, StoredRecording | None]:
        """Returns a recording undecoded, and decoded too if the scope has limits, which ask what it says."""
        async with store_errors(self._seconds):
            hit = await self._reader.get(self._index, _document_id(scope, recording_id))
        if hit is None:
            raise RecordingNotFound(recording_id)
        # Without limits the document's id says enough: it is made of contact center, region and id.
        if scope.limits is None:
            return hit, None
        return hit, _admitted(scope, recording_id, await apart(len(hit.source.recording), _stored, hit))

    async def read(self, _id: str) -> StoredRecording | None:
        """Returns the recording with a document id, as of its last acknowledged write, for any scope."""
        async with store_errors(self._seconds):
            hit = await self._reader.get(self._index, _id)
        return await apart(len(hit.source.recording), _stored, hit) if hit else None

    async def search(
        self, scope: Scope, criteria: Criteria, page: PageRequest, reserve: Reserve = unlimited
    ) -> Page[RecordingHit]:
        """Returns a page of recordings, newest start time first, then by id; fewer than asked for if they are large.

        They are as they were read, and not decoded.

        `reserve` is awaited with a number of bytes before that many are read. Raises SearchTooLarge when the query has
        more clauses than Elasticsearch allows, and what `reserve` raises.
        """
        body = search_body(scope, criteria, page)
        found = await self._bounded.hits(body, page.limit, reserve, contact_center=scope.contact_center)
        return page.page_of(found.hits, left_out=found.left_out, is_bounded=found.bounded)

    async def total(self, scope: Scope, criteria: Criteria) -> tuple[int, bool]:
        """Returns how many recordings a search finds, and whether that is exact: MAX_TOTAL stands for more, too.

        Raises SearchTooLarge.
        """
        return total_of(await self._search(total_body(query(scope, criteria))))

    async def count(self, scope: Scope, criteria: Criteria) -> MatchCounts:
        """Counts the recordings that match, as of the last acknowledged write."""
        await self._refresh()
        response = await self._search(
            {
                "query": query(scope, criteria),
                "aggs": {"protected": {"filter": {"term": {"nonDelete": True}}}},
                "size": 0,
                "track_total_hits": True,
            }
        )
        return MatchCounts(response["hits"]["total"]["value"], response["aggregations"]["protected"]["doc_count"])

    async def open_view(self) -> str:
        """Returns a view of all recordings at this moment: with every acknowledged write, and nothing later.

        Any process may use it. It is kept for VIEW_SECONDS after each use, or until `close_view`.
        """
        await self._refresh()
        async with store_errors(self._search_seconds):
            opened = await self._searching.open_point_in_time(index=self._index, keep_alive=f"{VIEW_SECONDS}s")
        view: str = opened.body["id"]
        return view

    async def matching(
        self, view: str, scope: Scope, criteria: Criteria, *, size: int, after: Sequence[Any] = ()
    ) -> Matches:
        """Returns the next of the recordings that match in a view, `size` at a time, in no order that means anything.

        Raises SearchTooLarge, and ViewGone if Elasticsearch has the view no more.
        """
        body: dict[str, Any] = {
            "query": query(scope, criteria),
            "pit": {"id": view, "keep_alive": f"{VIEW_SECONDS}s"},
            "sort": [{"_shard_doc": "asc"}],
            "docvalue_fields": ["id"],
            "_source": False,
            "seq_no_primary_term": True,
            "size": size,
            "track_total_hits": not after,
        }
        if after:
            body["search_after"] = list(after)
        async with store_errors(self._search_seconds):
            with _clauses_counted():
                try:
                    answer = await self._searching.search(body=body, allow_partial_search_results=_PARTIAL_RESULTS)
                except NotFoundError as error:
                    raise ViewGone from error
        hits = answer.body["hits"]["hits"]
        return Matches(
            [Matching(hit["fields"]["id"][0], hit["_seq_no"], hit["_primary_term"]) for hit in hits],
            answer.body["pit_id"],
            hits[-1]["sort"] if hits else [],
            None if after else answer.body["hits"]["total"]["value"],
        )

    async def close_view(self, view: str) -> None:
        """Lets Elasticsearch forget a view. If that fails the view expires."""
        with suppress(RecallError):
            async with store_errors(self._search_seconds):
                await self._searching.options(ignore_status=404).close_point_in_time(id=view)

    async def scan(
        self, scope: Scope, criteria: Criteria, *, size: int, after: StoredRecording | None = None
    ) -> list[StoredRecording]:
        """Returns the next recordings that match and follow `after`, oldest start time first; [] at the end.

        They are `size`, or fewer if they are large.

        Elasticsearch keeps no state between two calls, so a scan may take days while other processes write.
        """
        body: dict[str, Any] = {
            "query": query(scope, criteria),
            "sort": _OLDEST_FIRST,
            "size": size,
            "track_total_hits": False,
            "seq_no_primary_term": True,
        }
        if after is not None:
            start_time = parse_instant(after.recording["startTime"])
            body["search_after"] = [start_time, after.recording["id"], after.contact_center]
        return [_stored(hit) for hit in (await self._bounded.hits(body, size)).hits]

    async def still_matching(
        self, scope: Scope, criteria: Criteria, recordings: Sequence[StoredRecording]
    ) -> list[StoredRecording]:
        """Returns those of a batch of recordings that still match, as of their last acknowledged write."""
        await self._refresh()
        matching = query(scope, criteria)
        ids = {"ids": {"values": [stored.document_id for stored in recordings]}}
        found: list[StoredRecording] = []
        body: dict[str, Any] = {
            "query": {"bool": {"filter": [matching, ids]}},
            "sort": _OLDEST_FIRST,
            "size": len(recordings),
            "track_total_hits": False,
            "seq_no_primary_term": True,
        }
        async for hits in self._all(body):
            found += map(_stored, hits)
        return found

    async def save(
        self, contact_center: str, posted: Recording, *, by: str, size: int = 0, wait_for_refresh: bool = False
    ) -> Saved:
        """Creates the recording, or merges what was posted into it; `by` is the user's name.

        `size` is about the number of bytes of what was posted: what is large is worked on in a thread.

        Returns the recording before (None if it was created) and after. An update that changes what a protected
        recording says keeps the former version.

        A client may post for any region, so this takes no scope. On return the recording is stored, and searchable too
        with `wait_for_refresh`. Raises RecordingTooLarge when all updates together exceed what is allowed, and
        MediaBeingDeleted as `keep_media` does; then the recording is stored, but its media may be lost.
        """
        # Most recordings are new. A write that may take a minute is not the one to find Elasticsearch away.
        saved = await self._store(
            contact_center,
            posted,
            by=by,
            size=size,
            create_first=not wait_for_refresh,
            wait_for_refresh=wait_for_refresh,
        )
        await self.keep_media([saved[1]])
        return saved

    async def save_many(
        self, contact_center: str, posted: Sequence[Recording], *, by: str, sizes: Sequence[int]
    ) -> list[Saved | RecallError]:
        """Saves each recording by itself, as `save` does, those with the same id in their order.

        Returns what `save` returns, or the error that it raises, of each. `sizes` are the `size` of each.
        They are in memory several times, so a caller that has thousands calls this several times.
        """
        outcomes: list[Saved | RecallError] = [InternalError() for _ in posted]
        numbers: dict[str, list[int]] = {}
        for number, one in enumerate(posted):
            numbers.setdefault(one["id"], []).append(number)
        first = [posted[of_id[0]] for of_id in numbers.values()]
        creations = await apart(sum(sizes), _creations, contact_center, first)

        async def store_one(number: int, creation: _Creation | None) -> None:
            try:
                outcomes[number] = await self._store(
                    contact_center,
                    posted[number],
                    by=by,
                    size=sizes[number],
                    create_first=False,
                    creation=creation,
                    writer=self._writer_of_many,
                )
            except RecallError as error:
                outcomes[number] = error
            except Exception:
                log.exception("a recording of many was not stored")

        async def store_in_order(of_id: Sequence[int], creation: _Creation | None) -> None:
            for number in of_id:
                await store_one(number, creation)
                creation = None  # the next one is no new recording

        await asyncio.gather(*map(store_in_order, numbers.values(), creations))
        await self._keep_media_of_many(outcomes)
        return outcomes

    async def _keep_media_of_many(self, outcomes: list[Saved | RecallError]) -> None:
        """As `keep_media`, for each recording that was saved: MediaBeingDeleted takes the place of its outcome."""
        keys = [[] if isinstance(saved, RecallError) else _folded_media_keys(saved[1]) for saved in outcomes]
        try:
            claimed = await self._claims.cancel({key for of_one in keys for key in of_one})
        except RecallError as error:
            outcomes[:] = [outcome if isinstance(outcome, RecallError) else error for outcome in outcomes]
            return
        for number, of_one in enumerate(keys):
            if not claimed.isdisjoint(of_one):
                outcomes[number] = MediaBeingDeleted()

    async def _store(self, contact_center: str, posted: Recording, **how: Unpack[_How]) -> Saved:
        """Does what `save` says before it looks at claims."""
        try:
            return await self._store_settled(contact_center, posted, **how)
        except UnsettledHold as hold:
            if self.settle_hold is None:
                raise
            await self.settle_hold(hold.stored, self.resource)
            return await self._store_settled(contact_center, posted, **how, is_settled=True)

    async def _store_settled(
        self,
        contact_center: str,
        posted: Recording,
        *,
        by: str,
        size: int,
        create_first: bool,
        wait_for_refresh: bool = False,
        creation: _Creation | None = None,
        writer: DocumentWriter | None = None,
        is_settled: bool = False,
    ) -> Saved:
        """Unless `is_settled`, raises UnsettledHold before it replaces a `callUUID` that tells who holds whom."""
        _id = document_id(contact_center, posted["region"], posted["id"])

        async def merged(stored: StoredRecording | None) -> Update:
            recording = await apart(_size(stored, size), _merged, stored, posted)
            if stored is not None and not is_settled and self._replaces_a_call(stored, recording):
                raise UnsettledHold(stored)
            return Update(contact_center, recording, stored.protection if stored else None)

        seconds = _WAIT_FOR_REFRESH_SECONDS if wait_for_refresh else self._write_seconds
        async with store_errors(seconds), self._turn(_id, wait_for_refresh=wait_for_refresh):
            before, update = await self.update_document(
                _id,
                merged,
                size=size,
                create_first=create_first,
                blocked_timeout=self._write_seconds,
                max_bytes=MAX_DOCUMENT_BYTES,
                wait_for_refresh=wait_for_refresh,
                versions_by=by,
                creation=creation,
                writer=writer,
            )
        assert update is not None
        return before.recording if before else None, update.recording

    def _replaces_a_call(self, stored: StoredRecording, recording: Recording) -> bool:
        """Returns whether an update of a hold of version 0.1.0 replaces a `callUUID`."""
        if not stored.recording.get("nonDelete") or not self._is_known_by_call(stored.protection):
            return False
        return not set(call_uuids(recording)).issuperset(call_uuids(stored.recording))

    def _is_known_by_call(self, protection: ProtectionChange | None) -> bool:
        """Returns whether a hold, if it is one, is of version 0.1.0, which did not store who holds whom."""
        if protection is None:
            return False
        if self.resource == "screen-recordings":
            return not protection.holders
        return not protection.taken and not protection.by

    async def holds_known_by_call(self) -> AsyncIterator[list[str]]:
        """Yields document ids of the holds of version 0.1.0, as of the last acknowledged write."""
        await self._refresh()
        body: dict[str, Any] = {
            "query": {"term": {"nonDelete": True}},
            "sort": [*ORDER, {"region": "asc"}, {"contactCenter": "asc"}],
            "size": _BATCH,
            "_source": ["protection"],
        }
        while True:
            hits = (await self._search(body))["hits"]["hits"]
            yield [
                hit["_id"] for hit in hits if self._is_known_by_call(protection_from(hit["_source"].get("protection")))
            ]
            if len(hits) < _BATCH:
                return
            body["search_after"] = hits[-1]["sort"]

    async def versions(self, stored: StoredRecording) -> list[FormerVersion]:
        """Returns what a recording said before updates while it was protected, oldest first and without content."""
        if stored.protection is None:
            return []
        return await self.version_store.chain(stored.document_id, stored.protection.history, stored.protection.version)

    async def keep_media(self, recordings: Iterable[Recording]) -> None:
        """Returns when no deletion that began before can delete a media object of these stored recordings any more.

        Raises MediaBeingDeleted while one may be deleting such an object.
        """
        if await self._claims.cancel({key for recording in recordings for key in _folded_media_keys(recording)}):
            raise MediaBeingDeleted

    async def update(
        self, scope: Scope, recording_id: str, change: Callable[[StoredRecording], Awaitable[Update | None]]
    ) -> Updated:
        """Applies a change to a recording that the scope admits, as `update_document` does.

        Raises RecordingNotFound, also when the recording is deleted before the change is stored.
        """

        async def apply(stored: StoredRecording | None) -> Update | None:
            return await change(_admitted(scope, recording_id, stored))

        return await self.update_document(_document_id(scope, recording_id), apply)

    async def update_document(
        self,
        _id: str,
        change: Callable[[StoredRecording | None], Awaitable[Update | None]],
        *,
        size: int = 0,
        create_first: bool = False,
        blocked_timeout: float = 0.0,
        max_bytes: float = math.inf,
        wait_for_refresh: bool = False,
        versions_by: str | None = None,
        creation: _Creation | None = None,
        writer: DocumentWriter | None = None,
    ) -> Updated:
        """Reads a recording by document id, applies a change, and stores the result if nothing else changed meanwhile.

        `change` gets the stored recording, or None, and returns what to store, or None for nothing. It must not
        write: after a conflict it is called again with the new state. `size` is about how many bytes it adds. With
        `create_first` its first call gets None without a read. While the index is blocked for writes, attempts
        continue for `blocked_timeout` seconds. With `versions_by`, the user's name, the former version of a protected
        recording is kept if it says otherwise. `creation`, if given, is tried first; `writer` writes. Raises
        RecordingTooLarge for a document of more than `max_bytes` bytes.
        """
        conflicts = conflict_backoff()
        blocked = Backoff(blocked_timeout)
        unread = create_first
        attempt: Updated = (None, None)
        kept: FormerVersion | None = None
        if creation is not None:
            if await self._put(
                writer or self._writer, _id, creation.body, None, (blocked, None), wait_for_refresh=wait_for_refresh
            ):
                return None, creation.update
            unread = False
        while True:
            stored = None if unread else await self.read(_id)
            if kept is not None:
                if stored is not None and await self.version_store.includes(_latest_version(stored), kept):
                    return attempt  # it was stored, its answer was lost, and others have updated it since
                await self.version_store.remove(kept.key)
                kept = None
            await self._pieces.turn()
            update = await change(stored)
            if update is None:
                return stored, None
            if update.labels is None and stored is not None:
                update = replace(update, labels=stored.labels)
            in_all = _size(stored, size)
            if await apart(in_all, _needs_version, stored, update, versions_by):
                assert stored is not None
                assert versions_by is not None
                kept, update = await self._keep_version(stored, update, versions_by)
            attempt = stored, update
            body = await apart(in_all, _document, update, max_bytes)
            # A conflict without a read only means that the recording is not new.
            pauses = blocked, None if unread else conflicts
            if await self._put(writer or self._writer, _id, body, stored, pauses, wait_for_refresh=wait_for_refresh):
                return attempt
            unread = False

    async def _put(
        self,
        writer: DocumentWriter,
        _id: str,
        body: bytes,
        stored: StoredRecording | None,
        pauses: tuple[Backoff, Backoff | None],
        *,
        wait_for_refresh: bool,
    ) -> bool:
        """Writes a document; returns False if it may succeed in another attempt, after a pause.

        The pauses are that while the index is blocked for writes and, if any, that after a conflict.
        """
        blocked, conflicts = pauses
        version = stored.version if stored else None
        async with store_errors(_WAIT_FOR_REFRESH_SECONDS if wait_for_refresh else self._write_seconds):
            try:
                await writer.put(self._index, _id, body, version, wait_for_refresh=wait_for_refresh)
            except ConflictError:
                if conflicts is not None:
                    await conflicts.wait()
                return False
            except IndexBlocked as error:
                if not await blocked.wait():
                    raise ElasticsearchUnavailable from error
                return False
        return True

    async def _keep_version(self, stored: StoredRecording, update: Update, by: str) -> tuple[FormerVersion, Update]:
        """Stores what a recording says before it says otherwise. Returns the version, and the update that names it."""
        protection = update.protection or ProtectionChange(now_milliseconds(), uuid4().hex)
        # Version 0.1.0 has made no history.
        protection = msgspec.structs.replace(protection, history=protection.history or uuid4().hex)
        kept = await self.version_store.add(
            stored.document_id,
            history=protection.history,
            previous=protection.version,
            recording=stored.recording,
            by=by,
        )
        return kept, replace(update, protection=msgspec.structs.replace(protection, version=kept.key))

    def _turn(self, _id: str, *, wait_for_refresh: bool) -> AbstractAsyncContextManager[object]:
        """Returns the lock of a save.

        Saves of one id run one after the other within a process, because concurrent ones mostly meet each other's
        conflicts. Saves that wait for a refresh share a semaphore instead, or each would wait for the others' refresh.
        """
        return self._waiting if wait_for_refresh else self._locks.setdefault(_id, asyncio.Lock())

    async def delete(self, recordings: Sequence[StoredRecording]) -> list[bool]:
        """Deletes recordings in the state in which they were read; returns False for each that has changed since."""
        operations = [{"delete": stored.version.target(stored.document_id)} for stored in recordings]
        async with store_errors(self._write_seconds):
            response = await self._client.bulk(operations=operations)
        return [_was_deleted(item["delete"]) for item in response.body["items"]]

    async def associated(self, stored: StoredRecording) -> AsyncIterator[ProtectionState]:
        """Yields the state of the recordings that share a contact center and a media `callUUID` with a recording.

        They may be of any region, and may be recordings that the caller's scope does not admit. The states are as of
        the last acknowledged write.
        """
        await self._refresh()
        clauses = [
            {"term": {"contactCenter": stored.contact_center}},
            {"terms": {"callUUIDs": call_uuids(stored.recording)}},
        ]
        body: dict[str, Any] = {
            "query": {"bool": {"filter": clauses}},
            "sort": [*ORDER, {"region": "asc"}],
            "size": _BATCH,
            # A recording may have 4 MiB, and a call 1,000 screen recordings.
            "_source": ["protection"],
            "docvalue_fields": ["nonDelete"],
            "track_total_hits": False,
        }
        while True:
            hits = await self._hits(body, PROTECTIONS)
            for hit in hits:
                yield ProtectionState(hit.id, hit.is_protected, protection_from(hit.source.protection))
            if len(hits) < _BATCH:
                return
            body["search_after"] = hits[-1].sort

    async def within_calls(self, scope: Scope, calls: Collection[str]) -> AsyncIterator[StoredRecording]:
        """Yields the recordings that the scope admits and that share a media `callUUID`, some in memory at a time.

        They are as of the last acknowledged write, newest first. `app.search.fields.call_uuids` returns the calls.
        """
        await self._refresh()
        body: dict[str, Any] = {
            "query": {"bool": {"filter": [query(scope, ()), {"terms": {"callUUIDs": [*calls]}}]}},
            "sort": [*ORDER, {"region": "asc"}],
            "seq_no_primary_term": True,
            "size": _BATCH,
        }
        async for hits in self._all(body):
            for hit in hits:
                yield _stored(hit)

    async def contact_centers(self, region: str) -> set[str]:
        """Returns the contact centers that have recordings in a region."""
        found: set[str] = set()
        composite: dict[str, Any] = {
            "size": _BATCH,
            "sources": [{"contactCenter": {"terms": {"field": "contactCenter"}}}],
        }
        body = {"query": {"term": {"region": region}}, "aggs": {"all": {"composite": composite}}, "size": 0}
        while True:
            answer = (await self._search(body))["aggregations"]["all"]
            found.update(bucket["key"]["contactCenter"] for bucket in answer["buckets"])
            if "after_key" not in answer:
                return found
            composite["after"] = answer["after_key"]

    async def pending(self) -> list[str]:
        """Returns document ids of recordings whose protection change some screen recordings have yet to follow."""
        body = {"query": {"term": {"protectionPending": True}}, "size": _BATCH, "_source": False}
        return [hit["_id"] for hit in (await self._search(body))["hits"]["hits"]]

    async def carry_label(self, contact_center: str, name_key: str) -> bool:
        """Returns whether a recording of a contact center, in any region, has a label.

        The result is as of the last acknowledged write. `app.recordings.labels.name_key` makes the key.
        """
        await self._refresh()
        clauses = [{"term": {"contactCenter": contact_center}}, {"term": {LABEL_NAMES.name: name_key}}]
        answer = await self._search({"query": {"bool": {"filter": clauses}}, "size": 0, "track_total_hits": 1})
        return bool(answer["hits"]["total"]["value"])

    async def references(self, object_keys: Collection[str]) -> set[str]:
        """Returns which of these media objects a recording of any contact center or region refers to.

        The result is as of the last acknowledged write. Keys are made by `app.recordings.identity.media_object_key`.
        """
        await self._refresh()
        keys = sorted(object_keys)
        referenced: set[str] = set()
        for start in range(0, len(keys), _BATCH):
            chunk = keys[start : start + _BATCH]
            response = await self._search(
                {
                    "query": {"terms": {"mediaIdentities": chunk}},
                    "aggs": {
                        "referenced": {
                            "terms": {
                                "field": "mediaIdentities",
                                "include": chunk,
                                "size": len(chunk),
                                # Collects the keys of the few matching recordings, not of the whole index.
                                "execution_hint": "map",
                            }
                        }
                    },
                    "size": 0,
                }
            )
            referenced |= {bucket["key"] for bucket in response["aggregations"]["referenced"]["buckets"]}
        return referenced

    async def _all(self, body: dict[str, Any]) -> AsyncIterator[list[RecordingHit]]:
        """Yields all hits of a sorted search, a few at a time if they are large."""
        while True:
            found = await self._bounded.hits(body, body["size"])
            yield found.hits
            if not found.bounded and len(found.hits) < body["size"]:
                return
            if not found.hits:
                return
            body = {**body, "search_after": found.hits[-1].sort}

    async def make_searchable(self) -> None:
        """Returns when all that is stored now is searchable."""
        await self._refresh()

    async def _refresh(self) -> None:
        """Makes every acknowledged write searchable."""
        async with store_errors(self._seconds):
            await refresh(self._client, self._index)

    async def _recording_hits(self, body: dict[str, Any]) -> list[RecordingHit]:
        return await self._hits(body, RECORDINGS)

    async def _hits(self, body: dict[str, Any], decoder: HitDecoder[S]) -> list[Hit[S]]:
        """Returns the hits of a search; raises SearchTooLarge."""
        async with store_errors(self._search_seconds):
            with _clauses_counted():
                answer = await raw_request(
                    self._client, "POST", self._search_target, codec.encode(body), self._search_seconds
                )
            return await apart(len(answer.body) // EASIER, decoder.search, answer.body)

    async def _search(self, body: dict[str, Any]) -> dict[str, Any]:
        """Returns the answer to a search; raises SearchTooLarge."""
        async with store_errors(self._search_seconds):
            with _clauses_counted():
                response = await self._searching.search(
                    index=self._index, body=body, allow_partial_search_results=_PARTIAL_RESULTS
                )
        answer: dict[str, Any] = response.body
        return answer

    async def _mget(self, body: dict[str, Any]) -> list[RecordingHit]:
        async with store_errors(self._seconds):
            answer = await raw_request(self._client, "POST", "/_mget", codec.encode(body), self._seconds)
            return await apart(len(answer.body) // EASIER, RECORDINGS.mget, answer.body)


@contextmanager
def _clauses_counted() -> Iterator[None]:
    """Raises SearchTooLarge when Elasticsearch refuses a query with too many clauses."""
    try:
        yield
    except BadRequestError as error:
        if "too many clauses" in str(error):
            raise SearchTooLarge from error
        raise


def _latest_version(stored: StoredRecording) -> str:
    return stored.protection.version if stored.protection else ""


def _needs_version(stored: StoredRecording | None, update: Update, by: str | None) -> bool:
    """Returns whether an update says otherwise than a protected recording does."""
    if stored is None or by is None or not stored.recording.get("nonDelete"):
        return False
    return not says_the_same(stored.recording, update.recording)


def conflict_backoff() -> Backoff:
    """Returns the waits after version conflicts, which let the other writers finish."""
    return Backoff(initial=0.005, maximum=0.05)


def _merged(stored: StoredRecording | None, posted: Recording) -> Recording:
    recording = merge(stored.recording if stored else None, posted)
    check_size(recording)
    return recording


def _creations(contact_center: str, posted: Iterable[Recording]) -> list[_Creation | None]:
    """Returns what creates each of these recordings, None for one that is too large."""
    creations: list[_Creation | None] = []
    for one in posted:
        try:
            update = Update(contact_center, _merged(None, one))
            creations.append(_Creation(update, _document(update, MAX_DOCUMENT_BYTES)))
        except RecordingTooLarge:
            creations.append(None)
    return creations


def _document(update: Update, max_bytes: float) -> bytes:
    body = codec.encode(to_document(update.contact_center, update.recording, update.protection, update.labels))
    if len(body) > max_bytes:
        raise RecordingTooLarge(update.recording["id"], f"{max_bytes} bytes to search for")
    return body


def _folded_media_keys(recording: Recording) -> list[str]:
    """Returns the keys of the claims of a recording's media objects."""
    return [media_object_keys(media["mediaDescriptor"])[1] for media in recording["mediaFiles"]]


def _size(stored: StoredRecording | None, added: int) -> int:
    """Returns about how many bytes a recording has after a change that adds so many."""
    return added + (stored.size if stored else 0)


def _document_id(scope: Scope, recording_id: str) -> str:
    if scope.contact_center is None:
        raise ValueError("a recording's id names it only within a contact center")
    return document_id(scope.contact_center, scope.region, recording_id)


def _admitted(scope: Scope, recording_id: str, stored: StoredRecording | None) -> StoredRecording:
    """Raises RecordingNotFound. Nothing else decides whether a recording that is read by id exists for the caller."""
    if stored is None or not scope.admits(stored):
        raise RecordingNotFound(recording_id)
    return stored


def _stored(hit: RecordingHit) -> StoredRecording:
    return StoredRecording(
        document_id=hit.id,
        contact_center=hit.source.contact_center,
        recording=from_text(hit.source.recording),
        protection=protection_from(hit.source.protection),
        labels=labels_from(hit.source.labels),
        version=version_of(hit),
        size=len(hit.source.recording),
    )


def _was_deleted(item: dict[str, Any]) -> bool:
    """Returns False after a conflict. Raises ElasticsearchUnavailable for any other failure."""
    if item["status"] in {200, 404, 409}:
        return bool(item["status"] == 200)
    log.warning("Elasticsearch did not delete a recording: %s", item)
    raise ElasticsearchUnavailable
