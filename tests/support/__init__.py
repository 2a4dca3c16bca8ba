"""What tests share: the service on a socket, its users, and recordings to post."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import httpx
import uvicorn
from argon2 import PasswordHasher
from elasticsearch import AsyncElasticsearch

from app.main import create_app
from app.recordings.merge import merge
from app.recordings.model import parse_recording
from app.settings import S3Config, Settings, StorageConfig, User, WebDavConfig
from app.store.documents import document_id, to_document
from app.store.indices import alias

CONTACT_CENTER = "a5539ef5-7dd5-4150-818f-ee1bcd447cbe"
OTHER_CONTACT_CENTER = "0b7c1c3e-5e5b-4a53-9c61-0e6f0f7b3a11"
REGION = "test"

OPS_PATH = f"/api/v2/ops/contact-centers/{CONTACT_CENTER}/recordings"

# As cheap as argon2 allows: the tests are about what happens around it.
hash_password = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash

# Name, roles and contact center; the password is the name and "-password".
USERS = tuple(
    User(name=name, password_hash=hash_password(f"{name}-password"), roles=roles, contact_center=contact_center)
    for name, roles, contact_center in (
        ("ops", ("ops",), None),
        ("admin", ("admin",), CONTACT_CENTER),
        ("other-admin", ("admin",), OTHER_CONTACT_CENTER),
        ("supervisor", ("supervisor",), CONTACT_CENTER),
        ("agent", ("agent",), CONTACT_CENTER),
    )
)


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
        ),
    ),
)


class Service:
    """The real application behind a real socket, in the test's own event loop."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._socket = socket.create_server(("127.0.0.1", 0))
        # asyncio does this only for sockets that it made itself; without it every answer in two parts takes 40 ms.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._server = uvicorn.Server(
            uvicorn.Config(
                create_app(settings),
                log_config=None,
                access_log=False,
                ws="none",
                timeout_graceful_shutdown=10,
                timeout_keep_alive=75,  # as in app.server: a client that was busy must find its connection there
            )
        )
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
        self._server.should_exit = True
        await self._task
        self._socket.close()

    def client(self, user: str | None = None, **options: Any) -> httpx.AsyncClient:
        """A client that is closed with the service; `user` is a name of USERS."""
        auth = httpx.BasicAuth(user, f"{user}-password") if user else None
        # verify=False spares each client the loading of certificates, which nothing here needs.
        client = httpx.AsyncClient(base_url=self.url, auth=auth, timeout=30, trust_env=False, verify=False, **options)
        self._clients.append(client)
        return client


async def eventually(condition: Callable[[], bool | Awaitable[bool]], seconds: float = 30) -> None:
    """Returns when the condition holds, fails when it does not within the time."""
    async with asyncio.timeout(seconds):
        while True:
            holds = condition()
            if holds if isinstance(holds, bool) else await holds:
                return
            await asyncio.sleep(0.02)


async def store_many(
    elasticsearch: AsyncElasticsearch, settings: Settings, recordings: Iterable[dict[str, Any]]
) -> None:
    """Stores and refreshes what would take too long to post; as if posted for CONTACT_CENTER."""
    index = alias(settings, "recordings")
    for batch in batched(recordings, 1000):
        operations: list[dict[str, Any]] = []
        for posted in batch:
            document = to_document(CONTACT_CENTER, merge(None, parse_recording(posted)))
            _id = document_id(CONTACT_CENTER, posted["region"], posted["id"])
            operations += [{"index": {"_id": _id}}, document]
        response = await elasticsearch.options(request_timeout=60).bulk(index=index, operations=operations)
        assert not response["errors"], response
    await elasticsearch.indices.refresh(index=index)


def batched(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def a_recording(recording_id: str = "recording", **attributes: Any) -> dict[str, Any]:
    """What a client posts; every attribute can be replaced, and None takes it away."""
    recording = {
        "id": recording_id,
        "callerPhoneNumber": "+16504668888",
        "dialedPhoneNumber": "+14155551234",
        "region": REGION,
        "mediaFiles": [a_media_file()],
        "eventHistory": [an_event()],
        **attributes,
    }
    return {name: value for name, value in recording.items() if value is not None}


def a_media_file(path: str = "calls/sample1.mp3", **attributes: Any) -> dict[str, Any]:
    return {
        "startTime": "2013-05-17T11:45:32.000-0800",
        "stopTime": "2013-05-17T14:15:36.000-0800",
        "callUUID": "callUUID",
        "mediaDescriptor": {"storage": "awsS3", "path": path, "data": {"bucket": "stage-recordings"}},
        **attributes,
    }


def an_event(**attributes: Any) -> dict[str, Any]:
    return {"occurredAt": "2013-05-18T22:25:56.000+0000", "contact": a_user(), "event": "Joined", **attributes}


def a_user(first_name: str = "Dima", last_name: str = "Pokh", **attributes: Any) -> dict[str, Any]:
    return {
        "type": "User",
        "phoneNumber": "+14103585834",
        "userName": "dima.p@genesys.com",
        "firstName": first_name,
        "lastName": last_name,
        **attributes,
    }


def assert_error(response: httpx.Response, status: int, code: int, message: str = "") -> None:
    """The envelope of an error: the code, a sentence that holds `message`, and nothing else."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert body.keys() == {"statusCode", "statusMessage"}
    assert body["statusCode"] == code, body
    assert message in body["statusMessage"], body
