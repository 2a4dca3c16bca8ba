"""Every route while Elasticsearch fails at random (docs/contract.md section 1).

The answer is never a 500 and never holds Elasticsearch's words, and what was acknowledged is stored.
"""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from app.background import in_background
from app.main import ENDPOINTS
from app.settings import Settings, StorageConfig
from tests.page.support import OURS, post_sign_in
from tests.support.faults import CountingStorage
from tests.support.processes import AppProcess
from tests.support.recordings import CONTACT_CENTER, OPS_PATH, a_media_file, a_recording
from tests.support.sizes import FAULTY_REQUESTS
from tests.support.unreliable import UnreliableElasticsearch
from tests.support.waiting import eventually

SCREENS_PATH = OPS_PATH.replace("/recordings", "/screen-recordings")
NDJSON = {"Content-Type": "application/x-ndjson"}
APPLY, UNAPPLY = {"operationName": "applyNonDelete"}, {"operationName": "unapplyNonDelete"}
_CLIENTS = 8
_CALLS = 6
_LABELS = ("one", "two")
_STREAMED = ("/package", "/versions", "/{name}")

ROWS = [
    (endpoint.name, endpoint.authentication, method, path)
    for endpoint in ENDPOINTS
    for path in endpoint.paths
    for method in endpoint.methods
    if endpoint.name != "page-sign-out"  # it would end the session
]


@pytest.fixture
async def unreliable(elasticsearch_url: str) -> AsyncIterator[UnreliableElasticsearch]:
    async with UnreliableElasticsearch(elasticsearch_url) as server:
        yield server


@pytest.fixture
async def storage() -> AsyncIterator[CountingStorage]:
    async with CountingStorage() as server:
        yield server


@pytest.fixture
async def app(
    settings: Settings, unreliable: UnreliableElasticsearch, storage: CountingStorage, tmp_path: Path
) -> AsyncIterator[AppProcess]:
    """A process as in production, with its event loop."""
    changed = msgspec.structs.replace(
        settings,
        elasticsearch_url=unreliable.origin,
        storage=StorageConfig(webdav=(storage.config,)),
        audit_log=str(tmp_path / "audit.jsonl"),
        elasticsearch_timeout=2.0,
        elasticsearch_search_timeout=2.0,
        elasticsearch_write_timeout=2.0,
        searches_per_contact_center=16,
    )
    process = AppProcess(changed, tmp_path)
    await process.start()
    yield process
    await process.stop()


class World:
    """The recordings that requests are about: some of a few calls, each with a screen recording."""

    def __init__(self, storage: CountingStorage) -> None:
        self._storage = storage
        self._numbers = iter(range(1_000_000))
        self.random = random.Random(1)
        self.operations = ["missing"]
        self.names = ["missing.wav"]

    def recording(self, recording_id: str, call: str, *, shared: bool = True) -> dict[str, Any]:
        number = next(self._numbers)
        urls = [
            self._storage.put(f"{number}.wav", 1_000),
            *([self._storage.put(f"{call}.wav", 1_000)] if shared else []),
        ]
        media = [a_media_file(mediaDescriptor={"storage": "webDAV", "path": url}, callUUID=call) for url in urls]
        return a_recording(recording_id, mediaFiles=media)

    def any_recording(self) -> dict[str, Any]:
        number = self.random.randrange(_CALLS * 3)
        return self.recording(f"r{number}", f"call{number % _CALLS}")

    def url(self, path: str) -> str:
        number = self.random.randrange(_CALLS * 3)
        return path.replace(":path", "").format(
            contact_center=CONTACT_CENTER,
            id=f"r{number}",
            name=self.random.choice(self.names),
            label=self.random.choice(_LABELS),
            operation=self.random.choice(self.operations[-20:]),
            file="page.css",
            version="1",
            rest="x",
        )

    def options(self, name: str, method: str, path: str) -> dict[str, Any]:
        """What a request of this row has beside its path, so that it is about something."""
        pick = self.random.choice
        if method in {"GET", "HEAD"}:
            is_search = name.endswith("recordings")
            return {"params": pick(({"startTime": "0"}, {"userName": "d*a", "total": "*"}))} if is_search else {}
        if method == "DELETE":
            return {"params": {"subresources": "*"}} if "ops-" in name and pick((True, False)) else {}
        change = {**pick((APPLY, UNAPPLY)), "reason": pick("abc")}
        chosen = pick(({"recordings": [f"r{n}" for n in range(_CALLS)]}, {"criteria": {"startTime": "0"}}))
        # By the end of the name of a row.
        bodies: dict[str, dict[str, Any]] = {
            "label-definitions": {"name": pick(_LABELS)},
            "label-definition": {"description": pick("abc")},
            "recording-labels": {"name": pick(_LABELS)},
            "recording-label": {"comment": pick("abc")},
            "recording-operations": {**change, **chosen},
            "recording": change,
        }
        if name.startswith("page-sign"):
            return {"data": {"name": "admin", "password": "admin-password"}}
        for end, body in bodies.items():
            if name.endswith(end):
                return {"json": body}
        if pick((True, True, False)):
            return {"json": self.any_recording()}
        return {"content": "\n".join(json.dumps(self.any_recording()) for _ in range(5)), "headers": NDJSON}

    def learn(self, response: httpx.Response) -> None:
        """Takes names of media files and ids of operations from what was answered."""
        with suppress(ValueError):
            body = response.json()
            for one in (body.get("recording"), *body.get("recordings", [])[:3]):
                for media in (one or {}).get("mediaFiles", []):
                    self.names = [*self.names[-30:], media["mediaPath"].rpartition("/")[2]]
            if "id" in body and "operations" in body.get("uri", ""):
                self.operations.append(body["id"])


class Clients:
    """Asks as the user whom a row is for, and notes every answer that the contract does not allow."""

    def __init__(self, app: AppProcess, world: World) -> None:
        self.ops, self.admin, self.session, self.nobody = map(app.client, ("ops", "admin", None, None))
        self.problems: list[str] = []
        self.statuses: Counter[int] = Counter()
        self._world = world

    async def __aenter__(self) -> "Clients":
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(one.aclose() for one in (self.ops, self.admin, self.session, self.nobody)))

    async def prepare(self) -> None:
        """Signs in, and posts the recordings that requests are about."""
        names = [(f"r{n}", f"call{n % _CALLS}") for n in range(_CALLS * 3)]
        lines = "\n".join(json.dumps(self._world.recording(*name)) for name in names)

        async def is_done() -> bool:
            answers = [await self.ops.post(path, content=lines, headers=NDJSON) for path in (OPS_PATH, SCREENS_PATH)]
            signed_in = await post_sign_in(self.session, "admin", "admin-password")
            return signed_in.status_code == 303 and all(one.json()["statusCode"] == 0 for one in answers)

        await eventually(is_done)

    async def ask(self, name: str, authentication: str, method: str, path: str) -> None:
        of_basic = self.ops if "contact-centers" in path else self.admin
        client = {"basic": of_basic, "session": self.session, "none": self.nobody}[authentication]
        options = self._world.options(name, method, path)
        headers = {**OURS, **options.pop("headers", {})}
        try:
            response = await client.request(method, self._world.url(path), headers=headers, **options)
        except httpx.TransportError as error:
            # What has begun cannot become an error any more.
            if not path.endswith(_STREAMED):
                self.problems.append(f"{method} {path}: {error!r}")
            return
        self.note(response, is_page=path.startswith("/ui") or path == "/")
        self._world.learn(response)

    def note(self, response: httpx.Response, *, is_page: bool = False) -> None:
        self.statuses[response.status_code] += 1
        if problem := _problem(response, is_page=is_page):
            asked = response.request
            self.problems.append(f"{asked.method} {asked.url}: {response.status_code} {problem}")


async def test_no_failure_of_elasticsearch_is_a_500(
    app: AppProcess, unreliable: UnreliableElasticsearch, storage: CountingStorage
) -> None:
    world = World(storage)
    acknowledged: set[str] = set()
    rows = iter(world.random.sample(ROWS * (1 + FAULTY_REQUESTS // len(ROWS)), FAULTY_REQUESTS))
    async with Clients(app, world) as clients:
        await clients.prepare()
        unreliable.share = 0.2

        async def work() -> None:
            for row in rows:
                await clients.ask(*row)

        async def keep() -> None:
            """Posts beside them what nobody deletes."""
            for number in count():
                posted = world.recording(f"kept{number}", f"kept{number}", shared=False)
                response = await clients.ops.post(OPS_PATH, json=posted)
                clients.note(response)
                if response.status_code == 201:
                    acknowledged.add(posted["id"])

        async with in_background(keep()), asyncio.TaskGroup() as workers:
            for _ in range(_CLIENTS):
                workers.create_task(work())
        unreliable.share = 0.0
        assert not clients.problems, "\n".join(
            [f"{len(clients.problems)} of {clients.statuses}", *clients.problems[:20]]
        )
        assert acknowledged
        assert not await _lost(clients.ops, acknowledged)
    assert len(unreliable.faults) >= 8, unreliable.faults
    assert {200, 503} <= clients.statuses.keys()


async def _lost(ops: httpx.AsyncClient, recording_ids: set[str]) -> list[str]:
    found: dict[str, int] = {}

    async def are_all_answered() -> bool:
        for recording_id in recording_ids - found.keys():
            status = (await ops.get(f"{OPS_PATH}/{recording_id}")).status_code
            if status != 503:
                found[recording_id] = status
        return found.keys() == recording_ids

    await eventually(are_all_answered)
    return [recording_id for recording_id, status in found.items() if status != 200]


def _problem(response: httpx.Response, *, is_page: bool) -> str:
    """Why an answer is not one that the contract allows; nothing if it is."""
    if response.status_code < 500:
        return ""
    if response.status_code not in {502, 503, 504}:
        return response.text[:200]
    if response.status_code == 503 and "retry-after" not in response.headers:
        return "has no Retry-After"
    if is_page or response.request.method == "HEAD":
        return ""
    body = response.json()
    return "" if body.keys() == {"statusCode", "statusMessage"} and body["statusCode"] == 4 else response.text[:200]
