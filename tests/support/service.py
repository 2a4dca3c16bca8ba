"""The service on a socket, the users and the storages it knows, and what its answers look like."""

import asyncio
import socket
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
import uvicorn
from argon2 import PasswordHasher
from elasticsearch import AsyncElasticsearch

from app.main import create_app
from app.server import server_config
from app.services import Services
from app.settings import Role, S3Config, Settings, StorageConfig, User, WebDavConfig
from app.store.client import connect
from app.store.indices import create_indices
from app.store.repository import RecordingRepository
from tests.support.described import DescribedClient
from tests.support.recordings import CONTACT_CENTER, OTHER_CONTACT_CENTER, REGION
from tests.support.waiting import eventually

# As cheap as argon2 allows: the tests are about what happens around it.
hash_password = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash

# Name, roles and contact center; the password is the name and "-password".
_USERS: tuple[tuple[str, tuple[Role, ...], str | None], ...] = (
    ("ops", ("ops",), None),
    ("admin", ("admin",), CONTACT_CENTER),
    ("other-admin", ("admin",), OTHER_CONTACT_CENTER),
    ("supervisor", ("supervisor",), CONTACT_CENTER),
    ("agent", ("agent",), CONTACT_CENTER),
)
_STAFF: tuple[Role, ...] = ("admin", "supervisor", "agent")

USERS = tuple(
    User(name=name, password_hash=hash_password(f"{name}-password"), roles=roles, contact_center=contact_center)
    for name, roles, contact_center in _USERS
)


def staff_with(permissions: Mapping[str, tuple[str, ...]]) -> list[User]:
    """A user for each role of a contact center and each set of permissions: `agent-nothing` for the set `nothing`."""
    return [
        User(
            name=f"{role}-{name}",
            password_hash=hash_password(f"{role}-{name}-password"),
            roles=(role,),
            contact_center=CONTACT_CENTER,
            permissions=granted,
        )
        for role in _STAFF
        for name, granted in permissions.items()
    ]


# Where the media of the tests' recordings may be; nothing answers there.
STORAGES = StorageConfig(
    webdav=tuple(
        map(
            WebDavConfig,
            (
                "http://10.10.15.83:8080",
                "http://10.10.15.83",
                "http://media.example",
                "https://media.example",
                "http://[::1]:8080",
            ),
        )
    ),
    s3=(
        S3Config(
            ("stage-recordings", "stage-recordings/calls", "other", "b", "c", "b/c", "webDAV"),
            "http://127.0.0.1:1",
            "us-east-1",
            "key",
            "secret",
            exact_keys=True,
        ),
    ),
)
# Time enough on a busy machine, for tests of what is answered, not of how fast.
PATIENT = {f"elasticsearch_{kind}timeout": 30.0 for kind in ("", "search_", "write_")}


class _Server(uvicorn.Server):
    """Ends as soon as it is told to and nothing is in flight; uvicorn looks every tenth of a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.end = asyncio.get_running_loop().create_future()

    async def main_loop(self) -> None:
        counter = 0
        while not (await self.on_tick(counter) or self.end.done()):
            counter += 1
            await asyncio.wait([self.end], timeout=0.1)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        try:
            async with asyncio.timeout(10):
                await self._wait_tasks_to_complete()
        finally:
            for task in self.server_state.tasks:
                task.cancel()
            await self.lifespan.shutdown()


class Service:
    """The real application behind a real socket, in the test's own event loop."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._socket = socket.create_server(("127.0.0.1", 0))
        # asyncio does this only for sockets that it made itself; without it every answer in two parts takes 40 ms.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._app = create_app(settings)
        self._server = _Server(server_config(settings, self._app))
        self._clients: list[httpx.AsyncClient] = []

    async def start(self) -> None:
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        await eventually(lambda: self._server.started or self._task.done())
        if self._task.done():
            await self._task
            raise AssertionError("the service did not start")

    async def stop(self) -> None:
        for client in self._clients:
            await client.aclose()
        if not self._server.end.done():
            self._server.end.set_result(None)
        try:
            await self._task
        finally:
            self._socket.close()

    @property
    def services(self) -> Services:
        """The objects that the process makes once."""
        services: Services = self._app.state.services
        return services

    @property
    def repository(self) -> RecordingRepository:
        """The recordings of the process."""
        return self.services.repositories["recordings"]

    def client(self, user: str | None = None, **options: Any) -> httpx.AsyncClient:
        """A client that is closed with the service; `user` is a name of USERS."""
        auth = httpx.BasicAuth(user, f"{user}-password") if user else None
        # verify=False spares each client the loading of certificates, which nothing here needs.
        client = DescribedClient(base_url=self.url, auth=auth, timeout=30, trust_env=False, verify=False, **options)
        self._clients.append(client)
        return client


StartService = Callable[..., Awaitable[Service]]


# Elasticsearch is asked to delete so many documents; of more it deletes the indices.
_MOST_DOCUMENTS = 2_000


@dataclass
class _Indices:
    """Empty indices: their prefix, what they were when they were made, and how much was written to each since."""

    prefix: str
    made: dict[str, Any]
    written: dict[str, int]


# By the URL of an Elasticsearch: indices that no test uses now.
_unused: dict[str, list[_Indices]] = {}


@asynccontextmanager
async def own_settings(elasticsearch_url: str) -> AsyncIterator[Settings]:
    """A configuration with empty indices that nobody else uses.

    They may have been another test's: making a service's indices takes Elasticsearch most of a second of processor
    time. Indices that a test has changed otherwise than by documents are not used again.
    """
    unused = _unused.setdefault(elasticsearch_url, [])
    if unused:
        indices = unused.pop()
        settings = _settings(elasticsearch_url, indices.prefix)
    else:
        settings = _settings(elasticsearch_url)
        async with connect(settings) as client:
            await create_indices(client, settings)
            # Elasticsearch refreshes immediately for a write that waits, as if too many waited already.
            await client.indices.put_settings(index=_all(settings), settings={"index.max_refresh_listeners": 0})
            made = await _definitions(client, settings)
        indices = _Indices(settings.index_prefix, made, dict.fromkeys(made, -1))
    yield settings
    async with connect(settings) as client:
        if await _definitions(client, settings) == indices.made and await _emptied(client, settings, indices.written):
            indices.written = await _written(client, settings)
            unused.append(indices)
        else:
            await _delete_indices(client, settings)


async def refresh_rarely(client: AsyncElasticsearch, settings: Settings, interval: str) -> None:
    """Makes writes of recordings wait for the next refresh of the index, which is so far away."""
    await client.indices.put_settings(
        index=f"{settings.index_prefix}-recordings",
        settings={"index.refresh_interval": interval, "index.max_refresh_listeners": None},
    )


@asynccontextmanager
async def settings_without_indices(elasticsearch_url: str) -> AsyncIterator[Settings]:
    """A configuration with an index prefix of its own, whose indices are gone afterwards."""
    settings = _settings(elasticsearch_url)
    yield settings
    async with connect(settings) as client:
        await _delete_indices(client, settings)


async def delete_unused_indices(elasticsearch_url: str) -> None:
    for indices in _unused.pop(elasticsearch_url, []):
        settings = _settings(elasticsearch_url, indices.prefix)
        async with connect(settings) as client:
            await _delete_indices(client, settings)


async def empty_indices(settings: Settings) -> None:
    """Deletes every document. (The node has no delete by query.)"""
    async with connect(settings) as client:
        assert await _emptied(client, settings, {}, most=None)


def _settings(elasticsearch_url: str, prefix: str | None = None) -> Settings:
    return Settings(
        elasticsearch_url=elasticsearch_url,
        index_prefix=prefix or f"test-{uuid4().hex[:12]}",
        replicas=0,
        region=REGION,
        users=USERS,
        storage=STORAGES,
    )


async def _definitions(client: AsyncElasticsearch, settings: Settings) -> dict[str, Any]:
    """Aliases, mappings and settings of the indices, by their names."""
    found: dict[str, Any] = (await client.options(request_timeout=60).indices.get(index=_all(settings))).body
    return found


async def _written(client: AsyncElasticsearch, settings: Settings) -> dict[str, int]:
    """The sequence numbers of the last writes to each shard of each index, together."""
    client = client.options(request_timeout=60)
    stats = (await client.indices.stats(index=_all(settings), metric="docs", level="shards")).body
    return {
        index: sum(copy["seq_no"]["max_seq_no"] for copies in found["shards"].values() for copy in copies)
        for index, found in stats["indices"].items()
    }


async def _delete_indices(client: AsyncElasticsearch, settings: Settings) -> None:
    if indices := list(await _definitions(client, settings)):
        await client.options(request_timeout=60).indices.delete(index=indices)


async def _emptied(
    client: AsyncElasticsearch, settings: Settings, empty: Mapping[str, int], most: int | None = _MOST_DOCUMENTS
) -> bool:
    """Deletes every document, or returns False if there are more than `most`.

    An index was empty when as much had been written to it as `empty` says.
    """
    client = client.options(request_timeout=60)
    written = await _written(client, settings)
    indices = [index for index, number in written.items() if number != empty.get(index)]
    if not indices:
        return True
    await client.indices.refresh(index=indices)
    while True:
        found = await client.search(index=indices, size=10_000, source=False, track_total_hits=True)
        total, hits = found["hits"]["total"]["value"], found["hits"]["hits"]
        if most is not None and total > most:
            return False
        if hits:
            operations = [{"delete": {"_index": hit["_index"], "_id": hit["_id"]}} for hit in hits]
            response = await client.bulk(operations=operations, refresh=True)
            assert not response["errors"], response
        if total == len(hits):
            return True


def _all(settings: Settings) -> str:
    return f"{settings.index_prefix}-*"


def basic(name: str, password: str, encoding: str = "utf-8") -> str:
    return "Basic " + b64encode(f"{name}:{password}".encode(encoding)).decode()


def assert_error(response: httpx.Response, status: int, code: int, message: str = "") -> None:
    """The envelope of an error: the code, a sentence that holds `message`, and nothing else."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert body.keys() == {"statusCode", "statusMessage"}
    assert body["statusCode"] == code, body
    assert message in body["statusMessage"], body
