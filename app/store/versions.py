"""Former versions of protected recordings (docs/contract.md section 4, docs/decisions/0023-versions.md)."""

import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any
from uuid import uuid4

import msgspec
from elasticsearch import AsyncElasticsearch

from app import codec
from app.errors import ElasticsearchUnavailable
from app.recordings.changes import is_same
from app.recordings.identity import Resource
from app.recordings.model import Recording
from app.settings import Settings
from app.store.client import store_errors
from app.store.indices import alias, refresh
from app.store.journal import now_milliseconds
from app.store.walk import walk

log = logging.getLogger(__name__)

# Versions without their content, notes, and recordings in one request.
_BATCH = 500
# Of the content of versions in one answer. A version that is larger comes alone.
_BATCH_BYTES = 4 * 1024 * 1024


class FormerVersion(msgspec.Struct, frozen=True):
    """What a protected recording said until an update replaced it.

    `at` is the time of that update in milliseconds since 1970, `by` the user who made it. `recording` is JSON text in
    the stored form, of so many `bytes`. `previous` is the `key` of the version before it, "" if there is none.
    A note that the versions of a recording have to go is `deleting`.
    """

    key: str
    document: str
    history: str
    previous: str
    at: int
    by: str
    bytes: int
    recording: str = ""
    deleting: bool = False

    def content(self) -> Recording:
        recording: Recording = codec.decode(self.recording)
        return recording


class VersionStore:
    """The former versions of the recordings, or screen recordings.

    A version is stored before the update that replaces it, so no kill loses one. The update names it in the recording's
    protection: so the versions are a chain, and one whose update was not stored is no link of it. `history` tells apart
    recordings that have had the same id one after the other. Every method raises ElasticsearchUnavailable.
    """

    def __init__(self, client: AsyncElasticsearch, settings: Settings, resource: Resource) -> None:
        self._client = client
        self._index = alias(settings, "recording-versions")
        self._seconds = settings.elasticsearch_write_timeout
        self._resource = resource

    # --- For an update ---

    async def add(
        self, document_id: str, *, history: str, previous: str, recording: Recording, by: str, at: int | None = None
    ) -> FormerVersion:
        """Stores a version that is about to be replaced, or was so `at` a time (milliseconds since 1970)."""
        text = codec.encode(recording)
        former = FormerVersion(
            key=f"{self._document(document_id)}.{uuid4().hex}",
            document=self._document(document_id),
            history=history,
            previous=previous,
            at=now_milliseconds() if at is None else at,
            by=by,
            bytes=len(text),
            recording=text.decode(),
        )
        async with store_errors(self._seconds):
            await self._client.index(
                index=self._index, id=former.key, document=msgspec.to_builtins(former), require_alias=True
            )
        return former

    async def includes(self, latest: str, former: FormerVersion) -> bool:
        """Returns whether the chain that ends with the version `latest` has this one, so that its update was stored."""
        key = latest
        while key and key != former.previous:
            if key == former.key:
                return True
            async with store_errors(self._seconds):
                answer = await self._client.options(ignore_status=404).get(
                    index=self._index, id=key, source_includes=["previous"]
                )
            key = answer.body["_source"]["previous"] if answer.body.get("found") else ""
        return False

    async def remove(self, key: str) -> None:
        """Removes a version whose update was not stored."""
        await self._delete([key])

    # --- For a reader ---

    async def chain(self, document_id: str, history: str, latest: str) -> list[FormerVersion]:
        """Returns the former versions of a recording, oldest first and without their content (`with_content`)."""
        found: dict[str, FormerVersion] = {}
        async with store_errors(self._seconds):
            await refresh(self._client, self._index)
        async for some in self._pages({"term": {"document": self._document(document_id)}}):
            found.update((former.key, former) for former in some if former.history == history and not former.deleting)
        versions: list[FormerVersion] = []
        while (former := found.pop(latest, None)) is not None:
            versions.append(former)
            latest = former.previous
        return versions[::-1]

    async def with_content(self, versions: Sequence[FormerVersion]) -> AsyncIterator[FormerVersion]:
        """Yields versions with their content, some megabytes at a time: a recording may have thousands of them."""
        batch: list[str] = []
        size = 0
        for i, former in enumerate(versions):
            batch.append(former.key)
            size += former.bytes
            following = versions[i + 1].bytes if i + 1 < len(versions) else 0
            if following == 0 or size + following > _BATCH_BYTES or len(batch) == _BATCH:
                for whole in await self._read(batch):
                    yield whole
                batch, size = [], 0

    async def _read(self, keys: Sequence[str]) -> list[FormerVersion]:
        """Returns versions with their content, without those that were deleted meanwhile."""
        async with store_errors(self._seconds):
            answer = await self._client.mget(index=self._index, ids=keys)
        docs = answer.body["docs"]
        if any("error" in doc for doc in docs):  # the index is missing, or a shard is not active
            raise ElasticsearchUnavailable
        return [msgspec.convert(doc["_source"], FormerVersion) for doc in docs if doc["found"]]

    # --- For a deletion ---

    async def begin_deletion(self, recordings: Sequence[tuple[str, str]]) -> None:
        """Notes, before recordings are deleted, that their versions have to go. Takes document ids and histories."""
        for i in range(0, len(recordings), _BATCH):
            operations: list[dict[str, Any]] = []
            for document_id, history in recordings[i : i + _BATCH]:
                document = self._document(document_id)
                key = self._note(document_id, history)
                note = FormerVersion(key, document, history, "", now_milliseconds(), "", 0, deleting=True)
                operations += [{"index": {"_id": key}}, msgspec.to_builtins(note)]
            await self._bulk(operations)

    async def delete(self, recordings: Iterable[tuple[str, str]]) -> None:
        """Deletes the versions of recordings that are gone.

        The notes stay: an update that is still under way may have stored a version that it does not live to remove.
        """
        histories: dict[str, set[str]] = {}
        for document_id, history in recordings:
            histories.setdefault(self._document(document_id), set()).add(history)
        if not histories:
            return
        async with store_errors(self._seconds):
            await refresh(self._client, self._index)
        documents = [*histories]
        for i in range(0, len(documents), _BATCH):
            async for some in self._pages({"terms": {"document": documents[i : i + _BATCH]}}):
                await self._delete(
                    [one.key for one in some if one.history in histories[one.document] and not one.deleting]
                )

    async def end_deletion(self, recordings: Iterable[tuple[str, str]]) -> None:
        """Removes the notes that the versions of recordings have to go."""
        await self._delete([self._note(document_id, history) for document_id, history in recordings])

    async def deletions(self, before: int) -> AsyncIterator[list[tuple[str, str]]]:
        """Yields document ids and histories of deletions that were noted before an instant, some at a time."""
        prefix = self._document("")
        query = {"bool": {"filter": [{"term": {"deleting": True}}, {"range": {"at": {"lte": before}}}]}}
        async for some in self._pages(query):
            yield [
                (note.document.removeprefix(prefix), note.history) for note in some if note.document.startswith(prefix)
            ]

    # --- Requests ---

    def _document(self, document_id: str) -> str:
        return f"{self._resource}.{document_id}"

    def _note(self, document_id: str, history: str) -> str:
        return f"{self._document(document_id)}.deleting.{history}"

    async def _pages(self, query: dict[str, Any]) -> AsyncIterator[list[FormerVersion]]:
        """Yields versions and notes without their content, in the order of `at`."""
        async for hits in walk(
            self._client,
            self._index,
            query,
            sort=("at", "key"),
            batch=_BATCH,
            seconds=self._seconds,
            may_be_missing=True,  # a process is about to make it
            source_excludes=["recording"],
        ):
            yield [msgspec.convert(hit["_source"], FormerVersion) for hit in hits]

    async def _delete(self, keys: Sequence[str]) -> None:
        for i in range(0, len(keys), _BATCH):
            await self._bulk([{"delete": {"_id": key}} for key in keys[i : i + _BATCH]])

    async def _bulk(self, operations: list[dict[str, Any]]) -> None:
        async with store_errors(self._seconds):
            response = await self._client.bulk(index=self._index, operations=operations, require_alias=True)
        for item in response.body["items"]:
            (outcome,) = item.values()
            if outcome["status"] not in {200, 201, 404}:
                log.warning("Elasticsearch did not write a former version of a recording: %s", outcome)
                raise ElasticsearchUnavailable


def says_the_same(one: Recording, other: Recording) -> bool:
    """Returns whether two states of a recording differ at most in their protection."""
    return is_same(_without_protection(one), _without_protection(other))


def _without_protection(recording: Recording) -> Recording:
    return {key: value for key, value in recording.items() if key != "nonDelete"}
