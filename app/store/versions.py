"""Former versions of protected recordings (docs/contract.md section 4, docs/decisions/0023-versions.md)."""

import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import uuid4

import msgspec
from elasticsearch import AsyncElasticsearch, NotFoundError

from app import codec
from app.recordings.identity import Resource
from app.recordings.model import Recording
from app.settings import Settings
from app.store.client import store_errors
from app.store.document_store import Version
from app.store.indices import alias, refresh
from app.store.journal import now_milliseconds

log = logging.getLogger(__name__)

_BATCH = 100


class FormerVersion(msgspec.Struct, frozen=True):
    """What a protected recording said until an update replaced it.

    `at` is the time of that update in milliseconds since 1970, `by` the user who made it. `recording` is JSON text in
    the stored form. `state` names the state of the recording's document, and `order` sorts states.
    """

    document: str
    history: str
    state: str
    order: str
    at: int
    by: str
    recording: str
    deleting: bool = False

    def content(self) -> Recording:
        recording: Recording = codec.decode(self.recording)
        return recording


class VersionStore:
    """The former versions of the recordings, or screen recordings.

    A version is stored before the update that replaces it, so no kill loses one. `history` tells apart recordings that
    have had the same id one after the other. Every method raises ElasticsearchUnavailable.
    """

    def __init__(self, client: AsyncElasticsearch, settings: Settings, resource: Resource) -> None:
        self._client = client
        self._index = alias(settings, "recording-versions")
        self._seconds = settings.elasticsearch_write_timeout
        self._resource = resource

    async def add(self, document_id: str, version: Version, history: str, recording: Recording, by: str) -> str:
        """Stores a version that is about to be replaced. Returns its key."""
        state, order = _state(version)
        former = FormerVersion(
            document=self._document(document_id),
            history=history,
            state=state,
            order=order,
            at=now_milliseconds(),
            by=by,
            recording=codec.encode(recording).decode(),
        )
        key = f"{self._document(document_id)}.{uuid4().hex}"
        async with store_errors(self._seconds):
            await self._client.index(
                index=self._index, id=key, document=msgspec.to_builtins(former), require_alias=True
            )
        return key

    async def remove(self, key: str) -> None:
        """Removes a version whose update was not stored."""
        async with store_errors(self._seconds):
            await self._client.options(ignore_status=404).delete(index=self._index, id=key)

    async def of(self, document_id: str, version: Version, history: str, recording: Recording) -> list[FormerVersion]:
        """Returns the former versions of a recording, oldest first. `version` and `recording` are its current ones."""
        found: dict[str, FormerVersion] = {}
        async with store_errors(self._seconds):
            await refresh(self._client, self._index)
        async for hits in self._pages({"term": {"document": self._document(document_id)}}):
            for hit in hits:
                former = msgspec.convert(hit["_source"], FormerVersion)
                # Of two updates of one state only the later can have succeeded, if the process of the earlier died.
                if former.history == history and not former.deleting:
                    known = found.get(former.state)
                    found[former.state] = former if known is None or known.at < former.at else known
        # An update that was stored here and then died, or lost against a change that rewrote nothing, replaced nothing.
        found.pop(_state(version)[0], None)
        versions: list[FormerVersion] = []
        following = recording
        for former in sorted(found.values(), key=lambda former: former.order, reverse=True):
            content = former.content()
            if says_the_same(content, following):
                continue
            versions.append(former)
            following = content
        return versions[::-1]

    async def begin_deletion(self, recordings: Sequence[tuple[str, str]]) -> None:
        """Notes, before recordings are deleted, that their versions have to go. Takes document ids and histories."""
        for document_id, history in recordings:
            mark = FormerVersion(self._document(document_id), history, "", "", now_milliseconds(), "", "{}", True)
            async with store_errors(self._seconds):
                await self._client.index(
                    index=self._index,
                    id=f"{mark.document}.deleting.{history}",
                    document=msgspec.to_builtins(mark),
                    require_alias=True,
                )

    async def delete(self, document_id: str, history: str) -> None:
        """Deletes the versions of a recording that is gone, and then the note that they have to go."""
        document = self._document(document_id)
        async with store_errors(self._seconds):
            await refresh(self._client, self._index)
        async for hits in self._pages({"term": {"document": document}}):
            for hit in hits:
                if hit["_source"]["history"] == history and not hit["_source"]["deleting"]:
                    await self.remove(hit["_id"])
        await self.keep(document_id, history)

    async def keep(self, document_id: str, history: str) -> None:
        """Removes the note that the versions of a recording have to go."""
        await self.remove(f"{self._document(document_id)}.deleting.{history}")

    async def deletions(self, before: int) -> list[tuple[str, str]]:
        """Returns document ids and histories whose deletion was noted before an instant and has not been completed."""
        prefix = self._document("")
        query = {"bool": {"filter": [{"term": {"deleting": True}}, {"range": {"at": {"lte": before}}}]}}
        return [
            (hit["_source"]["document"].removeprefix(prefix), hit["_source"]["history"])
            async for hits in self._pages(query)
            for hit in hits
            if hit["_source"]["document"].startswith(prefix)
        ]

    def _document(self, document_id: str) -> str:
        return f"{self._resource}.{document_id}"

    async def _pages(self, query: dict[str, Any]) -> AsyncIterator[list[dict[str, Any]]]:
        after: list[Any] | None = None
        while True:
            async with store_errors(self._seconds):
                try:
                    response = await self._client.search(
                        index=self._index,
                        query=query,
                        sort=["order", "at", "document"],
                        search_after=after,
                        size=_BATCH,
                        allow_partial_search_results=False,
                    )
                except NotFoundError:  # of an index that a process is about to make
                    return
            hits = response.body["hits"]["hits"]
            if hits:
                after = hits[-1]["sort"]
                yield hits
            if len(hits) < _BATCH:
                return


def says_the_same(one: Recording, other: Recording) -> bool:
    """Returns whether two states of a recording differ at most in their protection."""
    return _without_protection(one) == _without_protection(other)


def _without_protection(recording: Recording) -> Recording:
    return {key: value for key, value in recording.items() if key != "nonDelete"}


def _state(version: Version) -> tuple[str, str]:
    """Returns the name of a state, and a text that sorts the states of a recording, also across migrations."""
    return f"{version.index}.{version.primary_term}.{version.seq_no}", f"{version.index}.{version.seq_no:020}"
