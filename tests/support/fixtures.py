"""Fixtures of all tests: Elasticsearch, the service on indices of the test's own, and storages."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import msgspec
import pytest
import uvloop
from elasticsearch import AsyncElasticsearch

from app.embedded.choose import NoContainerEngine, elasticsearch_for_development
from app.embedded.elasticsearch import Node
from app.settings import Settings, User
from app.store.client import connect
from tests.support import storages
from tests.support.certificates import Certificate, make_certificate
from tests.support.faults import CountingStorage, FaultServer, Trap
from tests.support.memory import temporary_files_in_memory
from tests.support.service import (
    PATIENT,
    USERS,
    Service,
    StartService,
    delete_unused_indices,
    empty_indices,
    own_settings,
    settings_without_indices,
)
from tests.support.storages import S3, WebDav


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Tests run on uvloop, as production does.

    It reads from connections in an order of its own, and its transports lose connections in ways of their own.
    """
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
async def elasticsearch_url() -> AsyncIterator[str]:
    try:
        with elasticsearch_for_development() as url:
            yield url
            await delete_unused_indices(url)
    except NoContainerEngine as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def spare_node() -> Iterator[Node]:
    """A node to do harm to. Others may form a cluster with it. Its tests share a worker: they are in SPARE_NODE."""
    with temporary_files_in_memory():
        node = Node.start(name="spare", initial_masters=["spare"])
    with node:
        yield node


@pytest.fixture
def settings(request: pytest.FixtureRequest) -> Settings:
    """A configuration with empty indices of the test's own.

    They are its module's where `emptied_indices` is marked, and it has yet to make them where `no_indices` is.
    """
    marked = [name for name in ("emptied_indices", "no_indices") if request.node.get_closest_marker(name)]
    settings: Settings = request.getfixturevalue(f"settings_with_{marked[0]}" if marked else "new_settings")
    return settings


@pytest.fixture
async def new_settings(elasticsearch_url: str) -> AsyncIterator[Settings]:
    async with own_settings(elasticsearch_url) as settings:
        yield settings


@pytest.fixture
async def settings_with_emptied_indices(module_settings: Settings) -> AsyncIterator[Settings]:
    yield module_settings
    await empty_indices(module_settings)


@pytest.fixture
async def settings_with_no_indices(elasticsearch_url: str) -> AsyncIterator[Settings]:
    async with settings_without_indices(elasticsearch_url) as settings:
        yield settings


@pytest.fixture(scope="module")
async def module_settings(elasticsearch_url: str) -> AsyncIterator[Settings]:
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


@pytest.fixture(scope="session")
def wsgidav() -> Iterator[WebDav]:
    with storages.wsgidav() as server:
        yield server


@pytest.fixture(scope="session")
def wsgidav_basic() -> Iterator[WebDav]:
    with storages.wsgidav(basic=True) as server:
        yield server


@pytest.fixture(scope="session")
def apache() -> Iterator[WebDav]:
    with storages.apache() as server:
        yield server


@pytest.fixture(scope="session")
def apache_basic() -> Iterator[WebDav]:
    with storages.apache(basic=True) as server:
        yield server


@pytest.fixture(scope="session")
def apache_tls() -> Iterator[WebDav]:
    with storages.apache(basic=True, tls=True) as server:
        yield server


@pytest.fixture(scope="session")
def dufs() -> Iterator[WebDav]:
    with storages.dufs() as server:
        yield server


@pytest.fixture(scope="session")
def rclone_webdav() -> Iterator[WebDav]:
    with storages.rclone_webdav() as server:
        yield server


@pytest.fixture(scope="session")
def nginx_webdav() -> Iterator[WebDav]:
    with storages.nginx_webdav() as server:
        yield server


@pytest.fixture(scope="session")
def wsgidav_limited(wsgidav: WebDav) -> Iterator[WebDav]:
    """Behind a proxy that refuses PROPFIND."""
    with storages.limiting_nginx(wsgidav) as server:
        yield server


@pytest.fixture(scope="session")
def dufs_limited(dufs: WebDav) -> Iterator[WebDav]:
    """Behind a proxy that refuses PROPFIND."""
    with storages.limiting_nginx(dufs) as server:
        yield server


@pytest.fixture(scope="session")
def rclone_limited(rclone_webdav: WebDav) -> Iterator[WebDav]:
    """Behind a proxy that refuses PROPFIND."""
    with storages.limiting_nginx(rclone_webdav) as server:
        yield server


@pytest.fixture(scope="session", params=["wsgidav", "wsgidav_basic", "apache", "apache_basic"])
def webdav(request: pytest.FixtureRequest) -> WebDav:
    """Each of the WebDAV storages."""
    server: WebDav = request.getfixturevalue(request.param)
    return server


@pytest.fixture(scope="session", params=["wsgidav_basic", "apache_basic"])
def webdav_basic(request: pytest.FixtureRequest) -> WebDav:
    """Each of the WebDAV servers that want a password."""
    server: WebDav = request.getfixturevalue(request.param)
    return server


@pytest.fixture(scope="session")
def versitygw() -> Iterator[S3]:
    with storages.versitygw() as server:
        yield server


@pytest.fixture(scope="session")
def moto() -> Iterator[S3]:
    with storages.moto() as server:
        yield server


@pytest.fixture(scope="session")
def gofakes3() -> Iterator[S3]:
    with storages.gofakes3() as server:
        yield server


@pytest.fixture(scope="session")
def versitygw_tls() -> Iterator[S3]:
    with storages.versitygw(tls=True) as server:
        yield server


@pytest.fixture(scope="module")
def rclone_s3() -> Iterator[S3]:
    """Of one module: after some requests it uses a thirtieth of a processor for the rest of its life."""
    with storages.rclone_s3() as server:
        yield server


@pytest.fixture(scope="session", params=["versitygw", "moto"])
def s3(request: pytest.FixtureRequest) -> S3:
    """Each of the S3 storages."""
    server: S3 = request.getfixturevalue(request.param)
    return server


@pytest.fixture
async def trap() -> AsyncIterator[Trap]:
    async with Trap() as server:
        yield server


@pytest.fixture
async def faults(trap: Trap) -> AsyncIterator[FaultServer]:
    """Its redirects lead to the trap."""
    async with FaultServer(redirect_to=f"{trap.url}/call.wav") as server:
        yield server


@pytest.fixture
async def counting_storage() -> AsyncIterator[CountingStorage]:
    """Fast; a test may set its `rate` at any time."""
    async with CountingStorage() as server:
        yield server


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """For 127.0.0.1."""
    return make_certificate(tmp_path_factory.mktemp("tls"))
