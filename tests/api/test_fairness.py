"""One client cannot take the service from the others (docs/contract.md sections 1 and 14).

The attacks of a whole table, measured, are `scripts/bench.py isolation`.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from elasticsearch import AsyncElasticsearch

from app import services
from app.background import apart
from app.services import leave_a_processor_to_others
from app.settings import Settings
from app.store.client import processors
from tests.support.recordings import CONTACT_CENTER, OPS_PATH, OTHER_CONTACT_CENTER, a_recording, store_many
from tests.support.service import PATIENT, Service, StartService, assert_error
from tests.support.waiting import eventually

SEARCH = "/api/v2/recordings"
EVERYTHING = {"startTime": "0"}


class SlowElasticsearch:
    """A way to Elasticsearch on which the requests that `is_slow`, by head and body, take until they are let go."""

    def __init__(self, url: str, is_slow: Callable[[bytes, bytes], bool]) -> None:
        self._target = urlsplit(url)
        self._is_slow = is_slow
        self.held = 0
        self.most_held = 0
        self.let_go = asyncio.Event()

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[str]:
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0) as server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream = await asyncio.open_connection(self._target.hostname, self._target.port)
        back = asyncio.create_task(self._pass_on(upstream_reader, writer))
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                lengths = [line[15:] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                body = await reader.readexactly(int(lengths[0]) if lengths else 0)
                if self._is_slow(head, body):
                    self.held += 1
                    self.most_held = max(self.held, self.most_held)
                    await self.let_go.wait()
                    self.held -= 1
                upstream.write(head + body)
        back.cancel()
        upstream.close()
        writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)


@pytest.fixture
async def slow(settings: Settings) -> SlowElasticsearch:
    """The searches within CONTACT_CENTER are slow."""
    contact_center = CONTACT_CENTER.encode()
    return SlowElasticsearch(
        settings.elasticsearch_url, lambda head, body: b"/_search" in head and contact_center in body
    )


@pytest.fixture
async def attacked(
    slow: SlowElasticsearch, start_service: StartService, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Service]:
    """A service at which all searches within CONTACT_CENTER take long. It takes Elasticsearch for a large one."""

    async def many(*_: Any) -> int:
        return 64

    monkeypatch.setattr(services, "processors", many)
    async with slow.listen() as url:
        yield await start_service(
            elasticsearch_url=url,
            elasticsearch_connections=16,
            searches=8,
            searches_per_contact_center=4,
            search_wait_seconds=0.2,
            **PATIENT,
        )
        slow.let_go.set()


async def answered(tasks: list[asyncio.Task[httpx.Response]], count: int) -> Callable[[], bool]:
    return lambda: sum(task.done() for task in tasks) >= count


async def test_searches_that_take_long_leave_anothers_searches_and_reads_alone(
    attacked: Service, slow: SlowElasticsearch
) -> None:
    ops, attacker, other = attacked.client("ops"), attacked.client("admin"), attacked.client("other-admin")
    path = OPS_PATH.replace(CONTACT_CENTER, OTHER_CONTACT_CENTER)
    assert (await ops.post(path, json=a_recording())).status_code == 201
    attack = [asyncio.create_task(attacker.get(SEARCH, params=EVERYTHING)) for _ in range(40)]
    await eventually(lambda: slow.held > 0)
    for _ in range(20):
        for response in (await other.get(SEARCH, params=EVERYTHING), await other.get(f"{SEARCH}/recording")):
            assert response.status_code == 200, response.text
    # Whoever has more than a share is told so; a user's first eight are not.
    await eventually(await answered(attack, 32))
    refused = [task.result() for task in attack if task.done()]
    assert len(refused) == 32
    for response in refused:
        assert_error(response, 429, 4, "The searches that the contact center may have in flight are in use")
        assert int(response.headers["retry-after"]) > 0
    slow.let_go.set()
    assert [task.result().status_code for task in attack if await task].count(200) == 8
    assert slow.most_held == attacked.settings.searches_per_contact_center
    metrics = (await ops.get("/metrics")).text
    assert 'recall_searches_refused_total{share="contact center"} 32.0' in metrics
    assert "recall_searches_in_use 0.0" in metrics


async def test_beside_others_a_contact_center_has_fewer_searches_in_flight_than_elasticsearch_has_processors(
    attacked: Service, slow: SlowElasticsearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def three(*_: Any) -> int:
        return 3

    monkeypatch.setattr(services, "processors", three)
    await leave_a_processor_to_others(attacked.services)
    assert (await attacked.client("other-admin").get(SEARCH, params=EVERYTHING)).status_code == 200
    admin = attacked.client("admin")
    searches = [asyncio.create_task(admin.get(SEARCH, params=EVERYTHING)) for _ in range(8)]
    await eventually(lambda: slow.held == 2)
    slow.let_go.set()
    assert [(await search).status_code for search in searches] == [200] * 8
    assert slow.most_held == 2


async def test_elasticsearch_tells_the_processors_of_its_nodes(
    service: Service, elasticsearch: AsyncElasticsearch
) -> None:
    nodes = (await elasticsearch.nodes.info(metric="os")).body["nodes"].values()
    assert await processors(service.services.client, 30.0) == sum(node["os"]["allocated_processors"] for node in nodes)


@pytest.mark.parametrize(("words", "at_once"), [("*a*", 1), ("*a* *b*", 1), ("*abc*", 4)])
async def test_searches_that_walk_through_a_dictionary_leave_search_threads_to_others(
    attacked: Service, slow: SlowElasticsearch, words: str, at_once: int
) -> None:
    attacker = attacked.client("admin")
    attack = [asyncio.create_task(attacker.get(SEARCH, params={"userData": words})) for _ in range(8)]
    await eventually(lambda: slow.held == at_once)
    assert (await attacked.client("other-admin").get(SEARCH, params=EVERYTHING)).status_code == 200
    slow.let_go.set()
    assert [(await task).status_code for task in attack] == [200] * 8
    assert slow.most_held == at_once


async def test_a_small_post_does_not_wait_for_large_ones(elasticsearch_url: str, start_service: StartService) -> None:
    sent: list[int] = []

    def is_large(head: bytes, body: bytes) -> bool:
        if b"/_bulk" not in head or len(body) < 100_000:
            return False
        sent.append(len(body))
        return True

    slow = SlowElasticsearch(elasticsearch_url, is_large)
    async with slow.listen() as url:
        service = await start_service(elasticsearch_url=url, **PATIENT)
        ops = service.client("ops")
        attack = [
            asyncio.create_task(ops.post(OPS_PATH, json=a_recording(f"large{i}", notes="n" * 600_000)))
            for i in range(8)
        ]
        await eventually(lambda: slow.held > 0)
        for i in range(5):
            assert (await ops.post(OPS_PATH, json=a_recording(f"small{i}"))).status_code == 201
        assert not any(task.done() for task in attack)
        slow.let_go.set()
        assert [(await task).status_code for task in attack] == [201] * 8
        # Each goes alone: Elasticsearch leaves its processors to others in between.
        assert len(sent) == 8
        assert slow.most_held == 1


async def test_a_page_does_not_wait_for_work_on_large_recordings(
    service: Service, elasticsearch: AsyncElasticsearch
) -> None:
    await store_many(elasticsearch, service.settings, [a_recording(f"r{i}", notes="n" * 2_000) for i in range(100)])
    may_end = threading.Event()
    working = asyncio.create_task(apart(1_000_000, may_end.wait))
    try:
        async with asyncio.timeout(20):
            response = await service.client("admin").get(SEARCH, params=EVERYTHING)
        assert len(response.json()["recordings"]) == 100
        assert not working.done()
    finally:
        may_end.set()
        await working


@pytest.mark.parametrize("beside_others", [4, 1])
async def test_eight_searches_at_once_are_every_users_share(
    attacked: Service, slow: SlowElasticsearch, beside_others: int
) -> None:
    attacked.services.searches.leave_room(beside_others)
    assert (await attacked.client("other-admin").get(SEARCH, params=EVERYTHING)).status_code == 200
    admin, ops = attacked.client("admin"), attacked.client("ops")
    searches = [
        asyncio.create_task(client.get(path, params=EVERYTHING))
        for client, path in ((admin, SEARCH), (ops, OPS_PATH))
        for _ in range(8)
    ]
    await eventually(lambda: slow.held > 0)
    # Longer than one with more than a share would wait.
    assert not (await asyncio.wait(searches, timeout=4 * attacked.settings.search_wait_seconds))[0]
    slow.let_go.set()
    assert [(await search).status_code for search in searches] == [200] * 16


async def test_searches_that_time_out_by_their_own_cost_refuse_no_read(
    slow: SlowElasticsearch, start_service: StartService
) -> None:
    async with slow.listen() as url:
        service = await start_service(elasticsearch_url=url, elasticsearch_search_timeout=0.5)
        admin, other = service.client("admin"), service.client("other-admin")
        for _ in range(5):
            assert_error(await admin.get(SEARCH, params=EVERYTHING), 503, 4)
        assert (await other.get(SEARCH, params=EVERYTHING)).status_code == 200
        assert_error(await admin.get(f"{SEARCH}/none"), 404, 6)
        slow.let_go.set()
