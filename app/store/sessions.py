"""Sessions of the page (docs/decisions/0026-sessions.md)."""

import logging
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import msgspec
from elasticsearch import AsyncElasticsearch, ConflictError

from app.auth.sessions import Session
from app.settings import Settings
from app.store.client import store_errors
from app.store.document_store import DocumentReader, Version, version_of
from app.store.hits import Hit, HitDecoder
from app.store.indices import alias, refresh
from app.store.walk import walk

log = logging.getLogger(__name__)

_BATCH = 500


class StoredSession(NamedTuple):
    """A session, and the version of its document that was read."""

    session: Session
    version: Version


class SessionStore:
    """Sessions by their keys. Every method raises ElasticsearchUnavailable."""

    def __init__(self, client: AsyncElasticsearch, settings: Settings) -> None:
        self._index = alias(settings, "sessions")
        self._seconds = settings.elasticsearch_timeout
        self._client = client
        self._reader = DocumentReader(client, self._seconds, HitDecoder(dict[str, Any]))

    async def add(self, session: Session) -> None:
        """Stores a session, which every process then finds."""
        async with store_errors(self._seconds):
            await self._client.index(index=self._index, id=session.key, document=_document(session), require_alias=True)

    async def get(self, key: str) -> StoredSession | None:
        """Returns a session as of its last acknowledged write, None when there is none."""
        async with store_errors(self._seconds):
            hit = await self._reader.get(self._index, key)
        return None if hit is None else _stored(hit)

    async def see(self, stored: StoredSession, now: int) -> None:
        """Writes that the session was active. A session that has ended meanwhile stays ended."""
        seen = msgspec.structs.replace(stored.session, seen=now)
        version = stored.version
        async with store_errors(self._seconds):
            try:
                await self._client.index(
                    index=version.index,
                    id=seen.key,
                    document=_document(seen),
                    if_seq_no=version.seq_no,
                    if_primary_term=version.primary_term,
                )
            except ConflictError:
                log.debug("another request has written the session, or it has ended")

    async def remove(self, key: str) -> None:
        """Ends a session; one that does not exist is skipped."""
        async with store_errors(self._seconds):
            await self._client.options(ignore_status=404).delete(index=self._index, id=key)

    async def remove_unseen(self, stored: StoredSession) -> None:
        """Ends a session unless it was active since it was read."""
        version = stored.version
        async with store_errors(self._seconds):
            await self._client.options(ignore_status=(404, 409)).delete(
                index=version.index,
                id=stored.session.key,
                if_seq_no=version.seq_no,
                if_primary_term=version.primary_term,
            )

    async def of(self, user: str) -> list[Session]:
        """Returns the sessions of a user, the newest first."""
        return [stored.session async for stored in self._found({"term": {"user": user}})][::-1]

    async def all(self) -> AsyncIterator[Session]:
        """Yields every session, the oldest first."""
        async for stored in self._found({"match_all": {}}):
            yield stored.session

    async def ended(self, *, seen_before: int, created_before: int) -> AsyncIterator[StoredSession]:
        """Yields the sessions that were active last, or begun, before these times."""
        old = [{"range": {"seen": {"lt": seen_before}}}, {"range": {"created": {"lt": created_before}}}]
        async for stored in self._found({"bool": {"should": old, "minimum_should_match": 1}}):
            yield stored

    async def _found(self, query: dict[str, Any]) -> AsyncIterator[StoredSession]:
        """Yields the sessions of a query, the oldest first, with all that was written before."""
        async with store_errors(self._seconds):
            await refresh(self._client, self._index)
        async for hits in walk(
            self._client,
            self._index,
            query,
            sort=("created", "user", "seen"),
            batch=_BATCH,
            seconds=self._seconds,
            seq_no_primary_term=True,
        ):
            for hit in hits:
                yield _stored(msgspec.convert(hit, Hit[dict[str, Any]]))


def _document(session: Session) -> dict[str, Any]:
    document: dict[str, Any] = msgspec.to_builtins(session)
    del document["key"]  # it is the id
    return document


def _stored(hit: Hit[dict[str, Any]]) -> StoredSession:
    return StoredSession(msgspec.convert({**hit.source, "key": hit.id}, Session), version_of(hit))
