"""Fixtures: storages that run once for all tests, and servers of a test's own in its event loop."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support import servers
from tests.support.servers import S3, CountingStorage, FaultServer, Trap, WebDav


@pytest.fixture(scope="session")
def wsgidav() -> Iterator[WebDav]:
    with servers.wsgidav() as server:
        yield server


@pytest.fixture(scope="session")
def wsgidav_basic() -> Iterator[WebDav]:
    with servers.wsgidav(basic=True) as server:
        yield server


@pytest.fixture(scope="session")
def apache() -> Iterator[WebDav]:
    with servers.apache() as server:
        yield server


@pytest.fixture(scope="session")
def apache_basic() -> Iterator[WebDav]:
    with servers.apache(basic=True) as server:
        yield server


@pytest.fixture(scope="session", params=["wsgidav", "wsgidav_basic", "apache", "apache_basic"])
def webdav(request: pytest.FixtureRequest) -> WebDav:
    """Each of the WebDAV servers."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session", params=["wsgidav_basic", "apache_basic"])
def webdav_basic(request: pytest.FixtureRequest) -> WebDav:
    """Each of the WebDAV servers that want a password."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def versitygw() -> Iterator[S3]:
    with servers.versitygw() as server:
        yield server


@pytest.fixture(scope="session")
def moto() -> Iterator[S3]:
    with servers.moto() as server:
        yield server


@pytest.fixture(scope="session", params=["versitygw", "moto"])
def s3(request: pytest.FixtureRequest) -> S3:
    """Each of the S3 servers."""
    return request.getfixturevalue(request.param)


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
