"""Claims: which media objects a deletion is about to delete, or may be deleting (docs/contract.md section 7).

A deletion claims an object before it asks whether a recording needs it. A POST stores its recording before it asks for
claims. So one of the two sees the other, in every order. See docs/decisions/0021-claims.md.
"""

import asyncio
import logging
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import msgspec
from elasticsearch import AsyncElasticsearch

from app import codec
from app.errors import ElasticsearchUnavailable
from app.retry import Backoff
from app.settings import Settings
from app.store.batching import Batcher
from app.store.client import raw_request, store_errors
from app.store.indices import alias

log = logging.getLogger(__name__)

# A claim that stays the same for this long belongs to a process that died. Far more than a deletion may take from the
# write of its claim to the end of its storage call (`app.lifecycle.deletion`).
CLAIM_SECONDS = 180.0

# A deletion takes over a claim that another deletion has left unchanged for this long, and waits so long in all.
_TAKEOVER_SECONDS = 2.0
_WAIT_SECONDS = 6.0

_ATTEMPTS = 20
_MAX_CLAIMS = 10_000


class _State(msgspec.Struct, frozen=True):
    """A claim's document. `token` names its holder.

    While `calling`, the holder may be calling the storage. If `unanswered`, an earlier call may still take effect.
    """

    token: str
    calling: bool = False
    unanswered: bool = False

    @property
    def is_cancellable(self) -> bool:
        return not self.calling and not self.unanswered


@dataclass(frozen=True)
class _Stored:
    """A claim as it was read or written. A later write succeeds only if it has not changed since."""

    key: str
    state: _State
    version: dict[str, Any]


@dataclass
class Claim:
    """The claim of one media object, under all of its names, by this process."""

    stored: list[_Stored]

    @property
    def follows_a_call(self) -> bool:
        """Whether an earlier holder may have called the storage, and has not told what came of it."""
        return any(stored.state.unanswered for stored in self.stored)


class ClaimHeld(Exception):
    """Another deletion has claimed the object."""


class MediaClaims:
    """Claims of media objects, by the folded digest of each (`app.recordings.identity.media_object_keys`).

    Every method raises ElasticsearchUnavailable when Elasticsearch is away or overloaded.
    """

    def __init__(self, client: AsyncElasticsearch, settings: Settings) -> None:
        self._index = alias(settings, "media-claims")
        self._seconds = settings.elasticsearch_timeout
        self._client = client.options(request_timeout=self._seconds)
        self._reads: Batcher[str, _Stored | None] = Batcher(self._send_reads)
        self._writes: Batcher[bytes, dict[str, Any]] = Batcher(self._send_writes)
        # What `expire` has seen: the version of each claim, and since when it has been the same.
        self._seen: dict[str, tuple[dict[str, Any], float]] = {}

    # --- For who stores or protects a recording ---

    async def cancel(self, keys: Iterable[str]) -> set[str]:
        """Returns when no deletion that began before can delete one of these objects any more, but for those returned.

        Call it after the recordings that refer to them were stored. A claim whose storage call has not begun is
        cancelled. Returns the keys of the claims whose call may be under way.
        """
        left, claimed = set(keys), set[str]()
        for _ in range(_ATTEMPTS):
            claims = await self._read(left)
            claimed |= {claim.key for claim in claims if not claim.state.is_cancellable}
            left = {claim.key for claim in claims if claim.key not in claimed and not await self._delete(claim)}
            if not left:
                break
        return claimed | left

    # --- For deletions ---

    async def acquire(self, keys: Iterable[str]) -> Claim:
        """Claims an object under all of its names. Raises ClaimHeld if another deletion keeps it for long."""
        token = uuid4().hex
        claim = Claim([])
        try:
            for key in sorted(keys):
                claim.stored.append(await self._acquire(key, token))
        except BaseException:
            await self.release(claim, unanswered=False)
            raise
        return claim

    async def begin(self, claim: Claim) -> bool:
        """Marks that the storage is about to be called. Returns False if the claim was cancelled or taken over."""
        for i, stored in enumerate(claim.stored):
            begun = await self._write(stored, msgspec.structs.replace(stored.state, calling=True))
            if begun is None:
                return False
            claim.stored[i] = begun
        return True

    async def release(self, claim: Claim, *, unanswered: bool) -> None:
        """Ends a claim, or keeps it until it expires if a storage call is `unanswered` and may still take effect."""
        for stored in claim.stored:
            if unanswered or stored.state.unanswered:
                await self._write(stored, msgspec.structs.replace(stored.state, calling=False, unanswered=True))
            else:
                await self._delete(stored)

    async def expire(self, *, after_seconds: float = CLAIM_SECONDS) -> int:
        """Removes claims that this object has seen unchanged for so long; returns their number.

        No two clocks are compared: each process measures how long it has seen a claim itself.
        """
        async with store_errors(self._seconds):
            response = await self._client.search(
                index=self._index, size=_MAX_CLAIMS, seq_no_primary_term=True, allow_partial_search_results=False
            )
        now = time.monotonic()
        claims = [_stored(hit) for hit in response.body["hits"]["hits"]]
        seen = {}
        for claim in claims:
            version, since = self._seen.get(claim.key, (None, now))
            seen[claim.key] = (claim.version, since if version == claim.version else now)
        self._seen = seen
        expired = [claim for claim in claims if seen[claim.key][1] <= now - after_seconds]
        removed = sum([await self._delete(claim) for claim in expired])
        if removed:
            log.warning("removed %d claims of media objects whose process did not end its deletion", removed)
        return removed

    async def _acquire(self, key: str, token: str) -> _Stored:
        backoff = Backoff(_WAIT_SECONDS, initial=0.02, maximum=0.3)
        seen: tuple[dict[str, Any], float] | None = None
        while True:
            created = await self._create(key, _State(token))
            if created is not None:
                return created
            for other in await self._read({key}):
                if other.state.token == token:  # an earlier attempt has stored it, and its answer was lost
                    return other
                if seen is None or seen[0] != other.version:
                    seen = (other.version, time.monotonic())
                # The holder has given up, has died, or is slow. Its call may still take effect, so the claim stays
                # unanswered, whatever becomes of ours. If it has not called yet, it cannot any more.
                given_up = other.state.unanswered and not other.state.calling
                if given_up or time.monotonic() - seen[1] > _TAKEOVER_SECONDS:
                    state = _State(token, unanswered=not other.state.is_cancellable)
                    taken = await self._write(other, state)
                    if taken is not None:
                        return taken
            if not await backoff.wait():
                raise ClaimHeld

    # --- Requests ---

    async def _read(self, keys: Collection[str]) -> list[_Stored]:
        """Returns the claims among these, as of the last acknowledged write."""
        async with store_errors(self._seconds):
            found = await asyncio.gather(*map(self._reads.submit, keys))
        return [claim for claim in found if claim is not None]

    async def _create(self, key: str, state: _State) -> _Stored | None:
        """Returns None if there is a claim already."""
        return await self._submit({"create": {"_index": self._index, "_id": key, "require_alias": True}}, key, state)

    async def _write(self, stored: _Stored, state: _State) -> _Stored | None:
        """Returns None if the claim has changed since it was read, by another process."""
        written = await self._submit({"index": {**stored.version, "_id": stored.key}}, stored.key, state)
        if written is None:
            for claim in await self._read({stored.key}):
                if claim.state == state:  # an earlier attempt has stored it, and its answer was lost
                    return claim
        return written

    async def _delete(self, stored: _Stored) -> bool:
        """Returns False if the claim has changed since it was read."""
        async with store_errors(self._seconds):
            item = await self._writes.submit(codec.encode({"delete": {**stored.version, "_id": stored.key}}) + b"\n")
        return _status(item, 200, 404) is not None

    async def _submit(self, action: dict[str, Any], key: str, state: _State) -> _Stored | None:
        operation = b"%b\n%b\n" % (codec.encode(action), msgspec.json.encode(state))
        async with store_errors(self._seconds):
            item = _status(await self._writes.submit(operation, len(operation)), 200, 201)
        if item is None:
            return None
        return _Stored(key, state, _version(item))

    async def _send_reads(self, keys: list[str]) -> Sequence[_Stored | Exception | None]:
        body = codec.encode({"ids": keys})
        answer = await raw_request(self._client, "POST", f"/{self._index}/_mget", body, self._seconds)
        docs = codec.decode(answer.body)["docs"]
        if any("error" in doc for doc in docs):  # the index is missing, or a shard is not active
            raise ElasticsearchUnavailable
        return [_stored(doc) if doc["found"] else None for doc in docs]

    async def _send_writes(self, operations: list[bytes]) -> Sequence[dict[str, Any] | Exception]:
        answer = await raw_request(self._client, "POST", "/_bulk", b"".join(operations), self._seconds)
        return [next(iter(item.values())) for item in codec.decode(answer.body)["items"]]


def _stored(hit: dict[str, Any]) -> _Stored:
    return _Stored(hit["_id"], msgspec.convert(hit["_source"], _State), _version(hit))


def _version(hit: dict[str, Any]) -> dict[str, Any]:
    return {"_index": hit["_index"], "if_seq_no": hit["_seq_no"], "if_primary_term": hit["_primary_term"]}


def _status(item: dict[str, Any], *expected: int) -> dict[str, Any] | None:
    """Returns the item of a `_bulk` response, None after a conflict. Raises ElasticsearchUnavailable for others."""
    if item["status"] in expected:
        return item
    if item["status"] == 409:
        return None
    log.warning("Elasticsearch did not write a claim of a media object: %s", item)
    raise ElasticsearchUnavailable
