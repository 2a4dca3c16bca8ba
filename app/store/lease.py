"""Leases: one process at a time works on a thing, and the next process finds the state that the work has reached.

A lease is one document. Its holder writes a heartbeat into it. A lease without heartbeats expires, and another process
takes it over, together with the state.
"""

import asyncio
import os
import platform
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Generic, TypeVar
from uuid import uuid4

import msgspec
from elasticsearch import AsyncElasticsearch, BadRequestError, ConflictError, NotFoundError

from app import codec
from app.errors import ElasticsearchUnavailable
from app.store.retrying import with_retries

_HEARTBEATS_PER_LEASE = 5
_MAX_POLL_SECONDS = 0.5
_REQUEST_SECONDS = 4.0
_RELEASE_SECONDS = 10.0

Struct = TypeVar("Struct", bound=msgspec.Struct)
State = TypeVar("State", bound=msgspec.Struct)


class LeaseError(Exception):
    """This process does not hold the lease. The text is for an operator."""


class LeaseHeld(LeaseError):
    """Another process holds the lease."""


class LeaseLost(LeaseError):
    """This process has held the lease, and another one has taken it over, or heartbeats have failed for too long."""


class Holder(msgspec.Struct, frozen=True):
    """The process that holds a lease. `seconds` is the time after its last heartbeat when the lease expires."""

    token: str
    machine: str
    pid: int
    seconds: float = 15.0


class _Header(msgspec.Struct, frozen=True):
    """The part of a lease's document that belongs to the lease. The fields of its state are beside it."""

    holder: Holder | None = None
    heartbeat: int = 0


class Lease(Generic[State]):
    """A lease that this process can acquire once.

    `state` is the caller's: change it, and call `save` before the next step that relies on it. `state_type()` is the
    state of a lease that no process has held.

    `token` names this acquisition. A process that only stood still does not know yet that it has lost the lease. If one
    of its writes must fail then, let the write depend on a fence that is named after the token (an alias, for example).
    The next holder removes that fence.
    """

    def __init__(
        self,
        client: AsyncElasticsearch,
        index: str,
        key: str,
        state_type: type[State],
        *,
        seconds: float,
        replicas: int | None,
    ) -> None:
        """`replicas` are those of the index, which is created if necessary; None for an alias that exists."""
        self._client = client.options(request_timeout=_REQUEST_SECONDS)
        self._index = index
        self._key = key
        self._state_type = state_type
        self._replicas = replicas
        self._holder = Holder(uuid4().hex[:12], platform.node(), os.getpid(), seconds)
        self._heartbeat = 0
        self._version: dict[str, int] = {}
        self._saving = asyncio.Lock()
        self.state = state_type()

    @property
    def token(self) -> str:
        return self._holder.token

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[None]:
        """Holds the lease within the context.

        Waits until the lease of a holder without heartbeats has expired. Raises LeaseHeld if the holder sends
        heartbeats, and ElasticsearchUnavailable. Cancels the context and raises LeaseLost if the lease is lost
        within it.
        """
        await self._create_index()
        await self._take_over()
        owner = asyncio.current_task()
        assert owner is not None
        failures: list[BaseException] = []

        def cancel_owner(heartbeats: "asyncio.Task[None]") -> None:
            if not heartbeats.cancelled() and (error := heartbeats.exception()):
                failures.append(error)
                owner.cancel()

        heartbeats = asyncio.create_task(self._send_heartbeats())
        heartbeats.add_done_callback(cancel_owner)
        try:
            yield
        except asyncio.CancelledError:
            if failures:
                owner.uncancel()
                raise LeaseLost(str(failures[0].__cause__ or failures[0])) from failures[0]
            raise
        finally:
            heartbeats.remove_done_callback(cancel_owner)
            heartbeats.cancel()
            with suppress(asyncio.CancelledError, LeaseLost, ElasticsearchUnavailable):
                await heartbeats
            if not failures:
                await self._release()

    async def save(self) -> None:
        """Stores the state, if this process still holds the lease (compare-and-set).

        Raises LeaseLost if it does not, also in every later call, and ElasticsearchUnavailable.
        """
        await self._save(self._holder)

    async def _save(self, holder: Holder | None) -> None:
        async with self._saving:
            self._heartbeat += 1
            header = _Header(holder, self._heartbeat)
            await with_retries(self._write, header, msgspec.to_builtins(self.state) | msgspec.to_builtins(header))

    async def _write(self, header: _Header, document: dict[str, Any]) -> None:
        while True:
            condition: dict[str, Any] = self._version or {"op_type": "create"}
            try:
                answer = await self._client.index(
                    index=self._index,
                    id=self._key,
                    document=document,
                    require_alias=self._replicas is None,
                    **condition,
                )
            except ConflictError:
                stored, _, version = await self._read()
                if stored == header:
                    self._version = version  # an earlier attempt has stored it, and its answer was lost
                    return
                if stored.holder != self._holder:
                    # The version stays as it is, so that every later save fails too.
                    raise LeaseLost("another process has taken over the lease") from None
                self._version = version
            else:
                self._version = _version(answer.body)
                return

    async def _read(self) -> tuple[_Header, State, dict[str, int]]:
        try:
            answer = await with_retries(self._client.get, index=self._index, id=self._key)
        except NotFoundError:
            return _Header(), self._state_type(), {}
        source = answer.body["_source"]
        return _decode(source, _Header), _decode(source, self._state_type), _version(answer.body)

    async def _take_over(self) -> None:
        """Waits for heartbeats as long as the holder has promised one. No two clocks are compared."""
        loop = asyncio.get_running_loop()
        header, self.state, self._version = await self._read()
        first, begun = self._version, loop.time()
        while (other := header.holder) is not None:
            if self._version != first:
                raise LeaseHeld(f"another process holds the lease: process {other.pid} on {other.machine}")
            if loop.time() - begun > other.seconds:
                break
            await asyncio.sleep(min(_MAX_POLL_SECONDS, other.seconds / _HEARTBEATS_PER_LEASE))
            header, self.state, self._version = await self._read()
        self._heartbeat = header.heartbeat
        await self.save()

    async def _create_index(self) -> None:
        if self._replicas is None:
            return
        try:
            await with_retries(
                self._client.indices.create,
                index=self._index,
                mappings={"dynamic": False},
                settings={"index.number_of_shards": 1, "index.number_of_replicas": self._replicas},
            )
        except BadRequestError as error:
            if error.error != "resource_already_exists_exception":
                raise

    async def _release(self) -> None:
        """Does not wait for an Elasticsearch that is unavailable: the lease expires anyway."""
        with suppress(LeaseLost, ElasticsearchUnavailable, TimeoutError):
            async with asyncio.timeout(_RELEASE_SECONDS):
                await self._save(None)

    async def _send_heartbeats(self) -> None:
        while True:
            await asyncio.sleep(self._holder.seconds / _HEARTBEATS_PER_LEASE)
            await self.save()


async def read_state(client: AsyncElasticsearch, index: str, key: str, state_type: type[State]) -> State:
    """Returns the state of a lease that any process may hold. Raises what the Elasticsearch client raises."""
    answer = await client.options(ignore_status=404).get(index=index, id=key)
    return _decode(answer.body.get("_source", {}), state_type)


def _decode(source: dict[str, Any], type_: type[Struct]) -> Struct:
    # Not msgspec.convert: app.codec leaves numbers with a fraction as text.
    return msgspec.json.decode(codec.encode(source), type=type_)


def _version(answer: dict[str, Any]) -> dict[str, int]:
    return {"if_seq_no": answer["_seq_no"], "if_primary_term": answer["_primary_term"]}
