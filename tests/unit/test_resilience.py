"""When a request may be sent again, and when it is not sent at all."""

import asyncio
from contextlib import suppress

import pytest
from elasticsearch import ApiError, ConnectionTimeout

from app.settings import Settings
from app.store.client import connect
from app.store.transport import CircuitBreaker, CircuitOpen, may_be_repeated
from tests.support.waiting import eventually


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def circuit(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker(clock)


def fail_for(circuit: CircuitBreaker, clock: Clock, seconds: float, times: int) -> None:
    for i in range(times):
        circuit.record_failure()
        if i < times - 1:
            clock.now += seconds / (times - 1)


def test_burst_of_failures_leaves_the_circuit_closed(circuit: CircuitBreaker, clock: Clock) -> None:
    fail_for(circuit, clock, 0.9, 100)
    circuit.before_call()
    circuit.before_call()


def test_failures_far_apart_leave_the_circuit_closed(circuit: CircuitBreaker, clock: Clock) -> None:
    fail_for(circuit, clock, 3600, 2)
    circuit.before_call()


def test_success_between_failures_leaves_the_circuit_closed(circuit: CircuitBreaker, clock: Clock) -> None:
    fail_for(circuit, clock, 0.9, 10)
    circuit.record_success()
    fail_for(circuit, clock, 0.9, 10)
    circuit.before_call()


def test_open_circuit_allows_one_probe_and_closes_on_its_success(circuit: CircuitBreaker, clock: Clock) -> None:
    fail_for(circuit, clock, 1.0, 3)
    for _ in range(3):
        with pytest.raises(CircuitOpen):
            circuit.before_call()
        clock.now += CircuitBreaker.HALF_OPEN_INTERVAL
        circuit.before_call()
        circuit.record_failure()
    circuit.record_success()
    circuit.before_call()
    circuit.before_call()


@pytest.mark.parametrize(
    ("method", "target", "safe"),
    [
        ("GET", "/recall-recordings/_doc/1", True),
        ("HEAD", "/_alias/recall-recordings", True),
        ("POST", "/recall-recordings/_search?allow_partial_search_results=false", True),
        ("POST", "/_search", True),
        ("PUT", "/recall-recordings/_doc/1?if_seq_no=1&if_primary_term=1", True),
        ("PUT", "/recall-recordings/_doc/1?op_type=create", True),
        ("DELETE", "/recall-recordings/_doc/1?if_seq_no=1&if_primary_term=1", True),
        ("PUT", "/recall-recordings/_doc/1", False),
        ("POST", "/recall-recordings/_doc", False),
        ("DELETE", "/recall-recordings/_doc/_search", False),
        ("PUT", "/_bulk", False),
        ("POST", "/_bulk?require_alias=true", False),
        ("POST", "/_aliases", False),
        ("PUT", "/recall-recordings-v2-000001", False),
        ("POST", "/recall-media-claims/_mget", True),
    ],
)
def test_only_idempotent_requests_are_retried(method: str, target: str, safe: bool) -> None:
    assert may_be_repeated(method, target) is safe


async def test_closed_client_does_not_reconnect() -> None:
    client = connect(Settings(elasticsearch_url="http://127.0.0.1:1"))
    await client.close()
    with pytest.raises(CircuitOpen):
        await client.cluster.health()


async def test_searches_that_take_too_long_refuse_no_other_request() -> None:
    """Elasticsearch answers everything but searches."""

    async def slow_to_search(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                if b"/_search" in head:
                    continue
                writer.write(b"HTTP/1.1 200 OK\r\nX-Elastic-Product: Elasticsearch\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(slow_to_search, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with connect(Settings(elasticsearch_url=f"http://127.0.0.1:{port}")) as client:
            for _ in range(CircuitBreaker.FAILURES + 1):
                with pytest.raises(ConnectionTimeout):
                    await client.options(request_timeout=0.5).search(index="i")
                # The deadline of a caller comes a little sooner than that of the request.
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(CircuitBreaker.FAILURE_WINDOW + 0.1):
                        await client.options(request_timeout=5).search(index="i")
            assert await client.ping()


async def test_searches_that_take_too_long_while_nothing_else_is_answered_open_the_circuit() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with connect(Settings(elasticsearch_url=f"http://127.0.0.1:{port}")) as client:

            async def is_refused() -> bool:
                try:
                    await client.options(request_timeout=0.2).search(index="i")
                except CircuitOpen:
                    return True
                except ConnectionTimeout:
                    return False
                raise AssertionError("a silent server has answered")

            await eventually(is_refused)


async def test_request_repeated_by_its_caller_is_sent_once() -> None:
    requests = 0

    async def overloaded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        while await reader.readuntil(b"\r\n\r\n"):
            requests += 1
            writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")

    async with await asyncio.start_server(overloaded, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with connect(Settings(elasticsearch_url=f"http://127.0.0.1:{port}")) as client:
            with pytest.raises(ApiError):
                await client.options(max_retries=0, request_timeout=0.5).get(index="i", id="1")
            assert requests == 1
            with pytest.raises(ApiError):
                await client.options(request_timeout=0.5).get(index="i", id="1")
            assert requests > 1
