"""A cluster of three real nodes that loses its master, and then another one, while agents go on working."""

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import msgspec
import pytest
from elasticsearch import AsyncElasticsearch

from app.embedded.elasticsearch import Node
from app.embedded.servers import free_port
from app.recordings.dates import format_instant
from app.settings import Settings
from app.store.client import connect
from app.store.documents import document_id, from_source
from app.store.indices import alias
from tests.support.memory import temporary_files_in_memory
from tests.support.recordings import CONTACT_CENTER, OPS_PATH, REGION, a_recording, an_event
from tests.support.service import STORAGES, USERS, StartService, assert_error
from tests.support.sizes import LOST_NODES
from tests.support.waiting import eventually

log = logging.getLogger(__name__)

SHARDS = 4
PAUSE = 0.2
UPDATED = [f"updated-{i}" for i in range(200)]
WHOLE_AGAIN_SECONDS = 30.0


@pytest.fixture(scope="module")
async def nodes() -> AsyncIterator[dict[str, Node]]:
    """Three nodes by their name, each of which finds the others again after a restart."""
    names = ("one", "two", "three")
    ports = [free_port() for _ in names]
    seed_hosts = [f"127.0.0.1:{port}" for port in ports]
    starts = (
        asyncio.to_thread(
            Node.start,
            name=name,
            transport_port=port,
            seed_hosts=seed_hosts,
            initial_masters=names,
            cluster_name="lost",
        )
        for name, port in zip(names, ports, strict=True)
    )
    with temporary_files_in_memory():
        started = await asyncio.gather(*starts, return_exceptions=True)
    try:
        for node in started:
            if isinstance(node, BaseException):
                raise node
        yield {name: node for name, node in zip(names, started, strict=True) if isinstance(node, Node)}
    finally:
        await asyncio.gather(*(asyncio.to_thread(node.stop) for node in started if isinstance(node, Node)))


@pytest.fixture
def settings(nodes: dict[str, Node]) -> Settings:
    return Settings(
        elasticsearch_url=",".join(node.url for node in nodes.values()),
        index_prefix="lost-node",
        shards=SHARDS,
        replicas=1,
        region=REGION,
        users=USERS,
        storage=STORAGES,
    )


@dataclass
class Load:
    """Posts, updates, reads and searches, all the time; what was acknowledged, and what failed when."""

    ops: httpx.AsyncClient
    admin: httpx.AsyncClient
    # Id → the times of its events that were acknowledged.
    acknowledged: dict[str, set[str]] = field(default_factory=dict)
    answered: Counter[str] = field(default_factory=Counter)
    failed: list[tuple[float, str]] = field(default_factory=list)
    slowest: float = 0.0
    _number: int = 0

    async def run(self, tasks: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        kinds = [self._post] * 3 + [self._update] * 4 + [self._read] * 3 + [self._search] * 2
        return [tasks.create_task(self._forever(kind)) for kind in kinds]

    async def _forever(self, ask: Callable[[], Awaitable[None]]) -> None:
        while True:
            await ask()
            await asyncio.sleep(random.uniform(0, 2 * PAUSE))

    async def _post(self) -> None:
        self._number += 1
        await self._save(f"new-{self._number}", "post")

    async def _update(self) -> None:
        await self._save(random.choice(UPDATED), "update")

    async def _save(self, recording_id: str, kind: str) -> None:
        self._number += 1
        occurred_at = format_instant(1_700_000_000_000 + 1000 * self._number)
        body = a_recording(recording_id, eventHistory=[an_event(occurredAt=occurred_at)])
        if await self._ask(kind, self.ops.post(OPS_PATH, json=body)):
            self.acknowledged.setdefault(recording_id, set()).add(occurred_at)

    async def _read(self) -> None:
        if not self.acknowledged:
            return
        recording_id = random.choice(list(self.acknowledged))
        expected = set(self.acknowledged[recording_id])
        if response := await self._ask("read", self.ops.get(f"{OPS_PATH}/{recording_id}")):
            assert expected <= events_of(response.json()["recording"]), recording_id

    async def _search(self) -> None:
        parameters = {"callerPhoneNumber": "+1650*", "startTime": "0", "limit": "10"}
        await self._ask("search", self.admin.get("/api/v2/recordings", params=parameters))

    async def _ask(self, kind: str, request: Awaitable[httpx.Response]) -> httpx.Response | None:
        begun = time.monotonic()
        response = await request
        self.slowest = max(self.slowest, time.monotonic() - begun)
        self.answered[kind] += 1
        if response.status_code in {200, 201}:
            return response
        assert_error(response, 503, 4, "The recording store is not available at the moment")
        assert int(response.headers["retry-after"]) > 0
        self.failed.append((time.monotonic(), kind))
        return None


def events_of(recording: dict[str, list[dict[str, str]]]) -> set[str]:
    return {event["occurredAt"] for event in recording["eventHistory"]}


async def test_acknowledged_posts_survive_node_failures_with_few_errors(
    nodes: dict[str, Node], settings: Settings, start_service: StartService
) -> None:
    service = await start_service()
    async with connect(msgspec.structs.replace(settings, elasticsearch_timeout=60.0)) as elasticsearch:
        await until_green(elasticsearch)
        load = Load(service.client("ops"), service.client("admin"))
        async with asyncio.TaskGroup() as tasks:
            running = await load.run(tasks)
            await until_answered(load, 200)
            for choose in (elected_master, holder_of_most_primaries)[:LOST_NODES]:
                node = nodes[await choose(elasticsearch, settings)]
                killed = time.monotonic()
                await asyncio.to_thread(node.kill)
                await until_answered(load, 300)
                await asyncio.to_thread(node.restart, timeout=300.0)
                await until_green(elasticsearch)
                failed = [when - killed for when, _ in load.failed if when >= killed]
                log.info("%s: %d failed, the last after %.1f s", choose.__name__, len(failed), max(failed, default=0.0))
                assert max(failed, default=0.0) < WHOLE_AGAIN_SECONDS
            await until_answered(load, 200)
            for task in running:
                task.cancel()
        log.info("%s; slowest %.1f s; failed %s", load.answered, load.slowest, Counter(kind for _, kind in load.failed))
        assert len(load.failed) < load.answered.total() / 100
        assert min(load.answered[kind] for kind in ("post", "update", "read", "search")) > 100
        await assert_all_is_stored(elasticsearch, settings, load.acknowledged)


async def until_answered(load: Load, more: int) -> None:
    wanted = load.answered.total() + more
    await eventually(lambda: load.answered.total() >= wanted, seconds=60)


async def until_green(elasticsearch: AsyncElasticsearch) -> None:
    response = await elasticsearch.cluster.health(wait_for_status="green", wait_for_nodes="3", timeout="55s")
    assert not response["timed_out"], response


def listed(response: Any) -> list[dict[str, str]]:
    """The rows of a cat API in JSON, which the client types as text."""
    rows: list[dict[str, str]] = response.body
    return rows


async def holder_of_most_primaries(elasticsearch: AsyncElasticsearch, settings: Settings) -> str:
    shards = await elasticsearch.cat.shards(index=f"{settings.index_prefix}-*", format="json")
    primaries = Counter(shard["node"] for shard in listed(shards) if shard["prirep"] == "p")
    return str(primaries.most_common(1)[0][0])


async def elected_master(elasticsearch: AsyncElasticsearch, settings: Settings) -> str:
    return str(listed(await elasticsearch.cat.master(format="json"))[0]["node"])


async def assert_all_is_stored(
    elasticsearch: AsyncElasticsearch, settings: Settings, acknowledged: dict[str, set[str]]
) -> None:
    """As each copy of the shards has it: both are asked."""
    index = alias(settings, "recordings")
    await elasticsearch.indices.refresh(index=index)
    names = {document_id(CONTACT_CENTER, REGION, recording_id): recording_id for recording_id in acknowledged}
    for _ in range(2):
        response = await elasticsearch.mget(index=index, ids=list(names), realtime=False)
        for hit in response.body["docs"]:
            assert hit["found"], names[hit["_id"]]
            assert acknowledged[names[hit["_id"]]] <= events_of(from_source(hit["_source"])), names[hit["_id"]]
