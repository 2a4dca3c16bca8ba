"""Leases: one holder at a time, heartbeats, expiry, and the state that the next holder finds."""

import asyncio

import msgspec
import pytest
from elasticsearch import AsyncElasticsearch

from app.migration.plan import MigrationState
from app.settings import Settings
from app.store import lease as lease_module
from app.store.lease import Lease, LeaseHeld, LeaseLost, read_state

pytestmark = pytest.mark.no_indices

SECONDS = 1.0


class Progress(msgspec.Struct):
    """The state of a made-up job."""

    done: int = 0
    rate: float = 0.5


@pytest.fixture
def index(settings: Settings) -> str:
    return f"{settings.index_prefix}-leases"


@pytest.fixture
def no_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "_HEARTBEATS_PER_LEASE", 0.001)


def new_lease(elasticsearch: AsyncElasticsearch, index: str, seconds: float = SECONDS) -> Lease[Progress]:
    return Lease(elasticsearch, index, "job", Progress, seconds=seconds, replicas=0)


@pytest.mark.usefixtures("no_heartbeats")
async def test_lease_expires_without_heartbeat(elasticsearch: AsyncElasticsearch, index: str) -> None:
    silent, other = new_lease(elasticsearch, index), new_lease(elasticsearch, index)
    async with silent.acquire(), other.acquire():
        await other.save()
        for _ in range(2):
            with pytest.raises(LeaseLost, match="another process has taken over"):
                await silent.save()
        await other.save()


async def test_lease_with_heartbeats_is_refused(elasticsearch: AsyncElasticsearch, index: str) -> None:
    async with new_lease(elasticsearch, index, 5.0).acquire():
        with pytest.raises(LeaseHeld, match="another process holds the lease: process "):
            async with new_lease(elasticsearch, index, 0.1).acquire():
                pass


async def test_released_lease_is_free_and_has_the_saved_state(elasticsearch: AsyncElasticsearch, index: str) -> None:
    first = new_lease(elasticsearch, index, 1000.0)
    assert first.state == Progress()
    async with first.acquire():
        first.state.done = 7
        await first.save()
    second = new_lease(elasticsearch, index)
    async with asyncio.timeout(30), second.acquire():
        assert second.state == Progress(7)
    assert await read_state(elasticsearch, index, "job", Progress) == Progress(7)
    assert await read_state(elasticsearch, index, "another job", Progress) == Progress()


async def test_context_is_cancelled_when_the_lease_is_lost(elasticsearch: AsyncElasticsearch, index: str) -> None:
    async def work_until_lost() -> None:
        async with new_lease(elasticsearch, index).acquire():
            other = {"holder": {"token": "t", "machine": "m", "pid": 1}, "heartbeat": 1000}
            await elasticsearch.index(index=index, id="job", document=other)
            await asyncio.Event().wait()

    work = asyncio.create_task(work_until_lost())
    done, _ = await asyncio.wait([work], timeout=20)
    work.cancel()
    assert done
    with pytest.raises(LeaseLost, match="another process has taken over"):
        await work


async def test_document_of_the_first_version_is_readable(elasticsearch: AsyncElasticsearch, index: str) -> None:
    ended = {"target": "t", "previous": "p", "sources": ["p"], "checkpoint": {"0": 5}, "count": 3}
    old = {
        "holder": None,
        "beat": 12,
        "plan": None,
        "last": {**ended, "rolled_back": False},
        "superseded": ["p"],
    }
    await elasticsearch.indices.create(index=index, settings={"number_of_replicas": 0}, mappings={"dynamic": False})
    await elasticsearch.index(index=index, id="recordings", document=old)
    lease = Lease(elasticsearch, index, "recordings", MigrationState, seconds=SECONDS, replicas=0)
    async with lease.acquire():
        assert lease.state.last is not None
        assert (lease.state.last.max_seq_nos, lease.state.last.documents) == ({"0": 5}, 3)
        assert lease.state.superseded == ["p"]
    stored = (await elasticsearch.get(index=index, id="recordings"))["_source"]
    assert ended.items() <= stored["last"].items()
    assert "rolled_back" not in stored["last"]
