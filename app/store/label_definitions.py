"""Label definitions: one document a contact center, which makes names and display names unique.

See docs/decisions/0025-labels.md.
"""

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import msgspec
from elasticsearch import ApiError, AsyncElasticsearch, ConflictError

from app.errors import ElasticsearchUnavailable
from app.recordings.identity import digest
from app.recordings.labels import Definitions, LabelDefinition
from app.retry import Backoff
from app.settings import Settings
from app.store.batching import Batcher
from app.store.client import store_errors
from app.store.indices import alias

_decoder = msgspec.json.Decoder(dict[str, LabelDefinition])


class LabelDefinitionStore:
    """The label definitions of all contact centers. Every method raises ElasticsearchUnavailable."""

    def __init__(self, client: AsyncElasticsearch, settings: Settings) -> None:
        self._index = alias(settings, "label-definitions")
        self._seconds = settings.elasticsearch_timeout
        self._write_seconds = settings.elasticsearch_write_timeout
        self._reading = client.options(request_timeout=self._seconds)
        self._writing = client.options(request_timeout=self._write_seconds)
        # Pages that wait for the same definitions share a read that begins after each of them has asked.
        self._reads: Batcher[str, dict[str, Any] | None] = Batcher(self._send_reads)

    async def of(self, contact_center: str) -> Definitions:
        """Returns the definitions of a contact center, as of the last acknowledged write of any process."""
        hit = await self._read(contact_center)
        return _decoder.decode(hit["_source"]["definitions"]) if hit else {}

    async def update(self, contact_center: str, change: Callable[[Definitions], Definitions | None]) -> None:
        """Reads the definitions, applies a change, and stores the result if nothing else changed meanwhile.

        `change` returns what to store, or None for nothing. After a conflict it is called again with the new state.
        """
        conflicts, blocked = Backoff(initial=0.005, maximum=0.05), Backoff(self._write_seconds)
        change_id = uuid4().hex
        while True:
            hit = await self._read(contact_center)
            if hit is not None and hit["_source"]["change"] == change_id:
                return  # an earlier attempt has stored it, and its answer was lost
            changed = change(_decoder.decode(hit["_source"]["definitions"]) if hit else {})
            if changed is None:
                return
            text = msgspec.json.encode(changed).decode()
            document = {"contactCenter": contact_center, "definitions": text, "change": change_id}
            async with store_errors(self._write_seconds):
                try:
                    await self._write(digest(contact_center), document, hit)
                except ConflictError:
                    await conflicts.wait()
                except ApiError as error:
                    if error.error != "cluster_block_exception":
                        raise
                    # A migration blocks the index. The alias may point to another one soon.
                    if not await blocked.wait():
                        raise ElasticsearchUnavailable from error
                else:
                    return

    async def _read(self, contact_center: str) -> dict[str, Any] | None:
        async with store_errors(self._seconds):
            return await self._reads.submit(digest(contact_center))

    async def _send_reads(self, document_ids: list[str]) -> list[dict[str, Any] | Exception | None]:
        different = list(dict.fromkeys(document_ids))
        response = await self._reading.mget(index=self._index, ids=different)
        found = dict(zip(different, response.body["docs"], strict=True))
        return [_found(found[document_id]) for document_id in document_ids]

    async def _write(self, document_id: str, document: dict[str, Any], replaced: dict[str, Any] | None) -> None:
        """Replaces a document that was read, or creates it; raises ConflictError if it has changed since."""
        if replaced is None:
            await self._writing.index(
                index=self._index, id=document_id, document=document, op_type="create", require_alias=True
            )
        else:
            # To the index where it was read, so that a cutover in between cannot lose it.
            await self._writing.index(
                index=replaced["_index"],
                id=document_id,
                document=document,
                if_seq_no=replaced["_seq_no"],
                if_primary_term=replaced["_primary_term"],
            )


def _found(document: dict[str, Any]) -> dict[str, Any] | Exception | None:
    if "error" in document:  # of an index that is missing, or whose shard is not active
        return ElasticsearchUnavailable()
    return document if document["found"] else None
