"""Fixtures: one Elasticsearch for the whole run, and the service on indices of the test's own."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import httpx
import msgspec
import pytest
from elasticsearch import AsyncElasticsearch

from app.embedded.choose import NoContainerEngine, elasticsearch_for_development
from app.settings import Settings, User
from app.store.client import connect
from tests.support import REGION, STORAGES, USERS, Service

StartService = Callable[..., Awaitable[Service]]

# Time enough on a busy machine, for tests of what is answered, not of how fast.
PATIENT = {f"elasticsearch_{kind}timeout": 30.0 for kind in ("", "search_", "write_")}


@pytest.fixture(scope="session")
def elasticsearch_url() -> Iterator[str]:
    try:
        with elasticsearch_for_development() as url:
            yield url
    except NoContainerEngine as reason:
        pytest.skip(str(reason))


@asynccontextmanager
async def own_settings(elasticsearch_url: str) -> AsyncIterator[Settings]:
    """A configuration with an index prefix of its own, whose indices are gone afterwards."""
    settings = Settings(
        elasticsearch_url=elasticsearch_url,
        index_prefix=f"test-{uuid4().hex[:12]}",
        replicas=0,
        region=REGION,
        users=USERS,
        storage=STORAGES,
    )
    yield settings
    async with connect(settings) as client:
        indices = list((await client.indices.get(index=f"{settings.index_prefix}-*")).body)
        if indices:
            await client.indices.delete(index=indices)


@pytest.fixture
async def settings(elasticsearch_url: str) -> AsyncIterator[Settings]:
    async with own_settings(elasticsearch_url) as settings:
        yield settings


@pytest.fixture(scope="module")
def more_users() -> tuple[User, ...]:
    """Users of a module's tests beside those that all share."""
    return ()


@pytest.fixture(scope="module")
async def module_service(elasticsearch_url: str, more_users: tuple[User, ...]) -> AsyncIterator[Service]:
    """One service for tables of hundreds of small cases, each of which uses ids of its own or stores nothing."""
    async with own_settings(elasticsearch_url) as settings:
        service = Service(msgspec.structs.replace(settings, users=USERS + more_users, **PATIENT))
        await service.start()
        yield service
        await service.stop()


@pytest.fixture
async def elasticsearch(settings: Settings) -> AsyncIterator[AsyncElasticsearch]:
    async with connect(settings) as client:
        yield client


@pytest.fixture
async def start_service(settings: Settings) -> AsyncIterator[StartService]:
    """Starts the service, several times if need be; `changes` are to the settings."""
    started: list[Service] = []

    async def start(**changes: Any) -> Service:
        service = Service(msgspec.structs.replace(settings, **changes))
        await service.start()
        started.append(service)
        return service

    yield start
    for service in started:
        await service.stop()


@pytest.fixture
async def service(start_service: StartService) -> Service:
    return await start_service(**PATIENT)


@pytest.fixture
def ops(service: Service) -> httpx.AsyncClient:
    return service.client("ops")


@pytest.fixture
def admin(service: Service) -> httpx.AsyncClient:
    return service.client("admin")
