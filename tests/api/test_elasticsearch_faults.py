"""An Elasticsearch that is away, stalls, rejects, or loses an answer (docs/contract.md section 1, code 4)."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

import httpx
import msgspec
import pytest
from elasticsearch import AsyncElasticsearch

from app.embedded.elasticsearch import Node
from app.errors import ElasticsearchUnavailable
from app.search import criteria, parsers
from app.settings import Settings
from app.store.client import connect, processors
from tests.support.recordings import OPS_PATH, a_recording
from tests.support.service import Service, StartService, assert_error, refresh_rarely
from tests.support.waiting import eventually
from tests.support.workers import SPARE_NODE

MOST_SECONDS = 5.0


pytestmark = SPARE_NODE


@pytest.fixture
def node(spare_node: Node) -> Node:
    return spare_node


@pytest.fixture
async def fragile(start_service: StartService, node: Node) -> Service:
    return await start_service(elasticsearch_url=node.url)


async def assert_unavailable(service: Service) -> None:
    """Every kind of request answers 503 in time and says when to come back, in our words."""
    admin, ops = service.client("admin"), service.client("ops")
    requests: list[Awaitable[httpx.Response]] = [
        admin.get("/api/v2/recordings", params={"startTime": "0"}),
        admin.get("/api/v2/recordings/recording"),
        ops.get(f"{OPS_PATH}/recording"),
        ops.post(OPS_PATH, json=a_recording()),
        ops.post(OPS_PATH, params={"refresh": "wait_for"}, json=a_recording()),
        ops.get("/health/ready"),
    ]
    begun = time.monotonic()
    responses = await asyncio.gather(*requests)
    assert time.monotonic() - begun < MOST_SECONDS
    for response in responses:
        assert_error(response, 503, 4, "The recording store is not available at the moment")
        assert int(response.headers["retry-after"]) > 0
    assert (await ops.get("/health/live")).status_code == 200


async def assert_refuses_at_once(service: Service) -> None:
    """Hardly anybody waits for an Elasticsearch that is away: only who is let through to see whether it still is."""
    ops = service.client("ops")
    probe = asyncio.create_task(ops.get("/health/ready"))
    took = []
    for _ in range(5):
        for request in (ops.get("/health/ready"), ops.post(OPS_PATH, json=a_recording())):
            begun = time.monotonic()
            assert_error(await request, 503, 4)
            took.append(time.monotonic() - begun)
    assert sorted(took)[len(took) // 2] < 0.5
    assert_error(await probe, 503, 4)


async def assert_recovers(service: Service) -> None:
    ops = service.client("ops")

    async def is_ready() -> bool:
        return (await ops.get("/health/ready")).status_code == 200

    async def is_stored() -> bool:
        return (await ops.post(OPS_PATH, json=a_recording())).status_code in {200, 201}

    await eventually(is_ready)
    await eventually(is_stored)  # the shards of other indices may be active later than those of recordings


async def test_services_started_before_and_while_a_node_is_killed_answer_503_and_recover(
    fragile: Service, start_service: StartService, node: Node
) -> None:
    node.kill()
    await assert_unavailable(fragile)
    await assert_refuses_at_once(fragile)
    # This one creates its indices later.
    started_meanwhile = await start_service(
        elasticsearch_url=node.url, index_prefix=f"{fragile.settings.index_prefix}-2"
    )
    await assert_unavailable(started_meanwhile)
    await asyncio.to_thread(node.restart)
    await assert_recovers(fragile)
    await assert_recovers(started_meanwhile)


async def test_acknowledged_posts_are_stored_when_a_node_stalls(fragile: Service, node: Node) -> None:
    ops = fragile.client("ops")
    names = [f"stalled-{i}" for i in range(60)]
    first = await ops.post(OPS_PATH, json=a_recording())  # so that the service knows its user
    assert first.status_code in {200, 201}
    posts = [asyncio.create_task(ops.post(OPS_PATH, json=a_recording(name))) for name in names[:40]]
    await asyncio.wait(posts, return_when=asyncio.FIRST_COMPLETED)
    node.pause()
    posts += [asyncio.create_task(ops.post(OPS_PATH, json=a_recording(name))) for name in names[40:]]
    try:
        responses = dict(zip(names, await asyncio.gather(*posts), strict=True))
        await assert_refuses_at_once(fragile)
    finally:
        node.resume()
    await assert_recovers(fragile)
    # Some of the first ones were too early for the pause; how many is chance.
    assert {response.status_code for response in responses.values()} == {201, 503}
    assert {responses[name].status_code for name in names[40:]} == {503}
    for name, response in responses.items():
        if response.status_code == 201:
            assert (await ops.get(f"{OPS_PATH}/{name}")).status_code == 200


async def test_stalled_node_is_503_within_five_seconds(fragile: Service, node: Node) -> None:
    node.pause()
    try:
        await assert_unavailable(fragile)
    finally:
        node.resume()
    await assert_recovers(fragile)


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_rejection_by_elasticsearch_is_503(start_service: StartService, status: int) -> None:
    short = dict.fromkeys(("elasticsearch_timeout", "elasticsearch_search_timeout", "elasticsearch_write_timeout"), 1.0)
    async with _rejecting(status) as url:
        # A service that ends would wait for its audit lines to be stored.
        await assert_unavailable(await start_service(elasticsearch_url=url, audit_days=0, **short))


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"error": "no"}'])
@pytest.mark.parametrize("kind", ["text/html", "application/json", "application/vnd.elasticsearch+json"])
async def test_an_elasticsearch_that_does_not_tell_its_processors_is_no_failure(
    settings: Settings, kind: str, body: bytes
) -> None:
    """A proxy may refuse `GET _nodes/os` in words of its own."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 403 Forbidden\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with connect(msgspec.structs.replace(settings, elasticsearch_url=url)) as client:
            with suppress(ElasticsearchUnavailable):  # an answer that is no JSON though it says so
                assert await processors(client, 5.0) is None


async def test_missing_indices_are_503_and_not_created_by_a_write(
    service: Service, elasticsearch: AsyncElasticsearch, settings: Settings
) -> None:
    await elasticsearch.indices.delete(index=f"{settings.index_prefix}-recordings-v2-000001")
    await assert_unavailable(service)
    assert not await elasticsearch.indices.exists(index=f"{settings.index_prefix}-recordings")


async def test_create_with_a_lost_response_creates_once(start_service: StartService, settings: Settings) -> None:
    lost: list[bytes] = []

    def loses(request: bytes) -> bool:
        """The first answer to a write."""
        if lost or b"/_bulk?" not in request:
            return False
        lost.append(request)
        return True

    async with _proxy(settings.elasticsearch_url, loses) as url:
        service = await start_service(elasticsearch_url=url)
        ops = service.client("ops")
        response = await ops.post(OPS_PATH, params={"refresh": "wait_for"}, json=a_recording())
        assert lost
        assert response.status_code == 201
        read = await ops.get(f"{OPS_PATH}/recording")
    assert len(read.json()["recording"]["mediaFiles"]) == 1


async def test_repeated_post_is_an_update_although_its_first_attempt_was_refused(
    start_service: StartService, settings: Settings
) -> None:
    refused: list[bytes] = []

    def refuses(request: bytes) -> bool:
        """The first write of the second post."""
        if not posted or refused or b"/_bulk?" not in request:
            return False
        refused.append(request)
        return True

    posted = False
    async with _proxy(settings.elasticsearch_url, refuses=refuses) as url:
        ops = (await start_service(elasticsearch_url=url)).client("ops")
        assert (await ops.post(OPS_PATH, json=a_recording())).status_code == 201
        posted = True
        assert (await ops.post(OPS_PATH, json=a_recording())).status_code == 200
        assert refused


async def test_refresh_has_the_longest_timeout(
    start_service: StartService, elasticsearch: AsyncElasticsearch, settings: Settings
) -> None:
    service = await start_service(elasticsearch_write_timeout=1.0)
    await refresh_rarely(elasticsearch, settings, "1h")
    post = service.client("ops").post(OPS_PATH, params={"refresh": "wait_for"}, json=a_recording())
    waiting = asyncio.create_task(post)
    assert not (await asyncio.wait([waiting], timeout=1.5))[0]
    await elasticsearch.indices.refresh(index=f"{settings.index_prefix}-recordings")
    assert (await waiting).status_code == 201
    found = await service.client("admin").get("/api/v2/recordings", params={"startTime": "0"})
    assert len(found.json()["recordings"]) == 1


async def test_posts_waiting_for_a_refresh_leave_connections_for_other_requests(
    start_service: StartService, elasticsearch: AsyncElasticsearch, settings: Settings
) -> None:
    service = await start_service(elasticsearch_connections=2)
    index = f"{settings.index_prefix}-recordings"
    await refresh_rarely(elasticsearch, settings, "1h")
    ops, admin = service.client("ops"), service.client("admin")
    posts = [
        asyncio.create_task(ops.post(OPS_PATH, params={"refresh": "wait_for"}, json=a_recording(f"waiting{i}")))
        for i in range(4)
    ]

    async def one_is_stored() -> bool:
        return any([(await ops.get(f"{OPS_PATH}/waiting{i}")).status_code == 200 for i in range(4)])

    await eventually(one_is_stored)
    assert (await admin.get("/api/v2/recordings", params={"startTime": "0"})).status_code == 200
    assert (await ops.get("/health/ready")).status_code == 200

    async def all_are_answered() -> bool:
        await elasticsearch.indices.refresh(index=index)
        return all(post.done() for post in posts)

    await eventually(all_are_answered)
    assert [(await post).status_code for post in posts] == [201] * 4


async def test_search_beyond_the_limits_of_the_cluster_is_code_2(
    admin: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How much that is depends on the node, so our own bounds are lifted."""
    monkeypatch.setattr(criteria, "MAX_LENGTH", 10**6)
    monkeypatch.setattr(criteria, "MAX_LENGTH_WITH_INNER_STARS", 10**6)
    monkeypatch.setattr(parsers, "MAX_FOLDED_LENGTH", 10**6)
    response = await admin.get("/api/v2/recordings", params={"userData": "a*" + "b" * 60_000})
    assert_error(response, 400, 2, "too long together")


@asynccontextmanager
async def _rejecting(status: int) -> AsyncIterator[str]:
    """An Elasticsearch that refuses everything with its own words."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                request = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(_content_length(request))
                is_head = request.startswith(b"HEAD")
                writer.write(_refusal(status, is_head=is_head))
                await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@asynccontextmanager
async def _proxy(
    url: str,
    loses: Callable[[bytes], bool] = lambda _: False,
    refuses: Callable[[bytes], bool] = lambda _: False,
) -> AsyncIterator[str]:
    """Forwards to Elasticsearch, but closes the connection instead of answering the requests that `loses` names.

    Those that `refuses` names are answered 429 and not forwarded.
    """
    target = urlsplit(url)

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream = await asyncio.open_connection(target.hostname, target.port)
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                request = await reader.readuntil(b"\r\n\r\n")
                body = await reader.readexactly(_content_length(request))
                if refuses(request):
                    writer.write(_refusal(429))
                    continue
                upstream.write(request + body)
                answer = await upstream_reader.readuntil(b"\r\n\r\n")
                if b"transfer-encoding: chunked" in answer.lower():
                    answer += await upstream_reader.readuntil(b"\r\n0\r\n\r\n")
                elif not request.startswith(b"HEAD"):
                    answer += await upstream_reader.readexactly(_content_length(answer))
                if loses(request):
                    break
                writer.write(answer)
                await writer.drain()
        upstream.close()
        writer.close()

    async with await asyncio.start_server(forward, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def _refusal(status: int, *, is_head: bool = False) -> bytes:
    body = msgspec.json.encode({"error": {"type": "es_rejected_execution_exception", "reason": "queue"}})
    head = (
        f"HTTP/1.1 {status} x\r\ncontent-type: application/json\r\nx-elastic-product: Elasticsearch\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + (b"" if is_head else body)


def _content_length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0
