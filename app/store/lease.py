"""Who migrates, and how far it is: one small document for each resource, in an index of its own."""

import asyncio
import os
import platform
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
from elasticsearch import AsyncElasticsearch, BadRequestError, ConflictError, NotFoundError

from app.migration.patience import MigrationError, patiently
from app.settings import Settings

_BEAT_SECONDS = 3.0
# A run that has not been heard of for so long is dead. So a beat that gets no answer is soon tried again.
_DEAD_AFTER = 15.0
_REQUEST_SECONDS = 4.0
_RELEASE_SECONDS = 10.0


class Holder(msgspec.Struct, frozen=True):
    """A process; `machine` tells those apart whose process ids mean different things."""

    token: str
    machine: str
    pid: int
    started: str

    @classmethod
    def this_process(cls) -> "Holder":
        return cls(uuid4().hex[:12], _machine(), os.getpid(), _started(os.getpid()))

    def is_dead(self) -> bool:
        """Whether that is known without waiting."""
        return self.machine == _machine() and _started(self.pid) != self.started and not _is_hidden(self.pid)


class Ended(msgspec.Struct):
    """A migration after its swap: `checkpoint` is, by shard, the number of the last write before it."""

    target: str
    previous: str
    sources: list[str]
    checkpoint: dict[str, int]
    count: int
    rolled_back: bool = False


class Plan(msgspec.Struct):
    """A migration under way. `ending` is what it will be after the swap, once that is about to be tried."""

    target: str
    sources: list[str]
    shards: int
    fence: str
    blocked: bool = False
    ending: Ended | None = None


class State(msgspec.Struct):
    """Everything that the next run must know. `superseded` are indices that nobody reads any more."""

    holder: Holder | None = None
    beat: int = 0
    plan: Plan | None = None
    last: Ended | None = None
    superseded: list[str] = []


class Lease:
    """The right to change a resource's indices, and its state. One process at a time has it."""

    def __init__(self, client: AsyncElasticsearch, index: str, resource: str, holder: Holder) -> None:
        self._client = client
        self._index = index
        self._resource = resource
        self.holder = holder
        self.state = State()
        self._version: dict[str, int] = {}
        self._saving = asyncio.Lock()

    async def save(self) -> None:
        """Stores the state. Raises MigrationError when another run has taken over."""
        async with self._saving:
            self.state.beat += 1
            await patiently(self._write)

    async def _write(self) -> None:
        while True:
            condition: dict[str, Any] = self._version or {"op_type": "create"}
            try:
                answer = await self._client.index(
                    index=self._index, id=self._resource, document=msgspec.to_builtins(self.state), **condition
                )
            except ConflictError:
                mine, version = self.state, self._version
                await self._read()
                found, self.state = self.state, mine
                if (found.holder, found.beat) == (mine.holder, mine.beat):
                    return  # it was this very write, whose answer got lost
                if found.holder != self.holder:
                    self._version = version  # so that nothing is saved from now on either
                    raise MigrationError("another run has taken over") from None
            else:
                self._version = _version(answer.body)
                return

    async def _read(self) -> None:
        try:
            answer = await patiently(self._client.get, index=self._index, id=self._resource)
        except NotFoundError:
            self.state, self._version = State(), {}
            return
        self.state = msgspec.convert(answer.body["_source"], State)
        self._version = _version(answer.body)

    async def _take(self) -> None:
        await self._read()
        deadline = time.monotonic() + _DEAD_AFTER
        seen = self._version
        while (other := self.state.holder) and not other.is_dead():
            # That its process is there is not enough: it may be a service that could not let go.
            if self._version != seen:
                raise MigrationError(
                    f"another run is at it already: process {other.pid} on {other.machine.partition(' ')[0]}"
                )
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(0.5)
            await self._read()
        self.state.holder = self.holder
        await self.save()

    async def _release(self) -> None:
        """Does not wait for an Elasticsearch that is away: without beats it counts as released soon."""
        self.state.holder = None
        with suppress(MigrationError, TimeoutError):
            async with asyncio.timeout(_RELEASE_SECONDS):
                await self.save()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(_BEAT_SECONDS)
            await self.save()


@asynccontextmanager
async def hold(client: AsyncElasticsearch, settings: Settings, resource: str) -> AsyncIterator[Lease]:
    """Raises MigrationError, at once or while it is held, when another run has it."""
    index = _index(settings)
    try:
        await patiently(
            client.indices.create,
            index=index,
            mappings={"dynamic": False},
            settings={"index.number_of_shards": 1, "index.number_of_replicas": settings.replicas},
        )
    except BadRequestError as error:
        if error.error != "resource_already_exists_exception":
            raise
    lease = Lease(client.options(request_timeout=_REQUEST_SECONDS), index, resource, Holder.this_process())
    await lease._take()
    me = asyncio.current_task()
    assert me is not None
    lost: list[BaseException] = []

    def stop(beat: "asyncio.Task[None]") -> None:
        if not beat.cancelled() and (error := beat.exception()):
            lost.append(error)
            me.cancel()

    beat = asyncio.create_task(lease._beat())
    beat.add_done_callback(stop)
    try:
        yield lease
    except asyncio.CancelledError:
        if lost:
            me.uncancel()
            raise MigrationError(str(lost[0])) from lost[0]
        raise
    finally:
        beat.remove_done_callback(stop)
        beat.cancel()
        with suppress(asyncio.CancelledError, MigrationError):
            await beat
        if not lost:
            await lease._release()


async def state_of(client: AsyncElasticsearch, settings: Settings, resource: str) -> State:
    """Without the right to change anything. Raises what the Elasticsearch client raises."""
    answer = await client.options(ignore_status=404).get(index=_index(settings), id=resource)
    return msgspec.convert(answer.body.get("_source", {}), State)


def _index(settings: Settings) -> str:
    return f"{settings.index_prefix}-migrations"


def _version(answer: dict[str, Any]) -> dict[str, int]:
    return {"if_seq_no": answer["_seq_no"], "if_primary_term": answer["_primary_term"]}


def _machine() -> str:
    """The host, and which of its process numberings this is: containers have their own."""
    numbering = ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        numbering = f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    return f"{platform.node()} {numbering}"


def _is_hidden(pid: int) -> bool:
    """Whether there is a process of another user, whose start this one may perhaps not see."""
    try:
        os.kill(pid, 0)
    except OSError as error:
        return isinstance(error, PermissionError)
    return False


def _started(pid: int) -> str:
    """When a process of this machine was started, in the kernel's count; empty if it is gone."""
    try:
        # The name, in parentheses, may hold anything; the times follow it.
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if state in {"Z", "X"} else rest[18]
    except OSError:
        return ""
