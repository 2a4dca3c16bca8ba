"""From version 0.1.0 to this one: processes of both on the same indices, and a reindex meanwhile."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from elasticsearch import AsyncElasticsearch
from elasticsearch.helpers import async_scan

from app import codec
from app.embedded.servers import free_port, inherited_environment, to_toml
from app.recordings.merge import merge
from app.recordings.model import parse_recording
from app.settings import Settings
from app.store.documents import document_id, to_document
from app.store.indices import alias
from tests.migration.support import behind_alias, run
from tests.support.recordings import CONTACT_CENTER, OPS_PATH, a_media_file, a_recording, an_event
from tests.support.service import Service, StartService
from tests.support.waiting import eventually

pytestmark = pytest.mark.no_indices

_REPOSITORY = Path(__file__).parents[2]
_RELEASED = "41b05e1"
_MAPPING = Path(__file__).parent / "version_0_1_0" / "recordings.json"
SCREENS_PATH = OPS_PATH.replace("/recordings", "/screen-recordings")
APPLY, UNAPPLY = {"operationName": "applyNonDelete"}, {"operationName": "unapplyNonDelete"}
HOSTILE = {"note": '\n"}\\n,"nonDelete":true}', "rate": msgspec.Raw(b"1.10"), "deep": {"é\u2028": [None, 3]}}


@pytest.fixture(scope="session")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source of version 0.1.0, if this clone has its history."""
    archive = subprocess.run(
        ["git", "archive", _RELEASED, "app", "es_mappings"], cwd=_REPOSITORY, capture_output=True, check=False
    )
    if archive.returncode:
        pytest.skip("this clone lacks the commit of version 0.1.0")
    folder = tmp_path_factory.mktemp("released")
    subprocess.run(["tar", "-x"], cwd=folder, input=archive.stdout, check=True)
    return folder


class Former:
    """`python -m app` of version 0.1.0."""

    def __init__(self, folder: Path, settings: Settings, configuration: Path) -> None:
        self._folder = folder
        self._configuration = configuration
        self._url = f"http://127.0.0.1:{(port := free_port())}"
        users = [
            {"name": user.name, "password_hash": user.password_hash, "roles": user.roles}
            | ({"contact_center": user.contact_center} if user.contact_center else {})
            for user in settings.users
        ]
        names = ("elasticsearch_url", "index_prefix", "replicas", "region")
        bucket = {"buckets": ["stage-recordings"], "access_key_id": "key", "secret_access_key": "secret"}
        values = {name: getattr(settings, name) for name in names}
        configuration.write_bytes(to_toml({**values, "port": port, "users": users, "storage": {"s3": [bucket]}}))

    async def start(self) -> asyncio.subprocess.Process:
        environment = {**inherited_environment(), "RECALL_CONFIG": str(self._configuration)}
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "app", cwd=self._folder, env={**environment, "PYTHONPATH": str(self._folder)}
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Former"]:
        process = await self.start()
        try:
            async with self.client("ops") as client:

                async def is_ready() -> bool:
                    assert process.returncode is None
                    try:
                        return (await client.get("/health/ready")).status_code == 200
                    except httpx.TransportError:
                        return False

                await eventually(is_ready, seconds=90)
            yield self
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()

    def client(self, user: str) -> httpx.AsyncClient:
        auth = httpx.BasicAuth(user, f"{user}-password")
        return httpx.AsyncClient(base_url=self._url, auth=auth, timeout=30, trust_env=False, verify=False)


async def post(client: httpx.AsyncClient, recording: dict[str, Any], path: str = OPS_PATH) -> None:
    body = codec.encode(recording)
    response = await client.post(path, content=body, params={"refresh": "wait_for"})
    assert response.status_code in {200, 201}, response.text


async def read(client: httpx.AsyncClient, recording_id: str, path: str = "/api/v2/recordings") -> dict[str, Any]:
    """Returns a recording as a client of any version reads it: without what only the new one tells."""
    response = await client.get(f"{path}/{recording_id}")
    assert response.status_code == 200, response.text
    body = codec.decode(response.content)
    recording: dict[str, Any] = body.get("recording") or body["screenRecording"]
    return comparable(recording, client)


def comparable(recording: dict[str, Any], client: httpx.AsyncClient) -> dict[str, Any]:
    base = str(client.base_url)
    kept = {name: value for name, value in recording.items() if name != "nonDeletion"}
    kept["mediaFiles"] = [{**media, "mediaUri": media["mediaUri"].removeprefix(base)} for media in kept["mediaFiles"]]
    return kept


async def page(client: httpx.AsyncClient) -> list[dict[str, Any]]:
    response = await client.get("/api/v2/recordings", params={"startTime": "0"})
    assert response.status_code == 200, response.text
    return [comparable(recording, client) for recording in codec.decode(response.content)["recordings"]]


def at(minute: int, recording_id: str, **attributes: Any) -> dict[str, Any]:
    time = f"2013-05-17T11:{minute:02}:00Z"
    media = a_media_file(f"{recording_id}.mp3", callUUID=recording_id, startTime=time, stopTime=time, **HOSTILE)
    return a_recording(recording_id, mediaFiles=[media], **attributes)


async def test_processes_of_both_versions_read_and_update_what_the_other_wrote(
    released: Path, settings: Settings, start_service: StartService, elasticsearch: AsyncElasticsearch, tmp_path: Path
) -> None:
    former = Former(released, settings, tmp_path / "former.toml")
    async with former.running(), former.client("ops") as old_ops, former.client("admin") as old_admin:
        await post(old_ops, at(1, "old", **HOSTILE))
        await post(old_ops, at(2, "old-protected", labels=["posted"]))
        await post(old_ops, at(2, "old-protected"), SCREENS_PATH)
        assert (await old_admin.post("/api/v2/recordings/old-protected", json=APPLY)).status_code == 200

        # The new version's mapping has more fields, so its reindex comes first.
        await reindex(settings, tmp_path)
        assert all("\n" in text for text in await texts(elasticsearch, settings))

        service = await start_service()
        ops, admin = service.client("ops"), service.client("admin")
        await post(ops, at(3, "new", **HOSTILE))
        await post(ops, at(4, "new-protected"))
        await post(ops, at(4, "new-protected"), SCREENS_PATH)
        apply = APPLY | {"reason": "court"}
        assert (await admin.post("/api/v2/recordings/new-protected", json=apply)).status_code == 200
        told = (await admin.get("/api/v2/recordings/new-protected")).json()["recording"]["nonDeletion"]
        assert (told["by"], told["reason"]) == ("admin", "court")

        # Each reads what the other wrote.
        for recording_id in ("old", "new", "new-protected"):
            assert await read(old_admin, recording_id) == await read(admin, recording_id)
        await elasticsearch.indices.refresh(index=f"{settings.index_prefix}-*")
        assert [found["id"] for found in await page(admin)] == ["new-protected", "new", "old-protected", "old"]
        assert await without_posted_labels(page(old_admin)) == await page(admin)

        # Each protects from the other's deletion, and updates what the other wrote.
        for client, path in ((old_ops, OPS_PATH), (ops, OPS_PATH), (old_ops, SCREENS_PATH), (ops, SCREENS_PATH)):
            for recording_id in ("old-protected", "new-protected"):
                response = await client.delete(f"{path}/{recording_id}")
                assert (response.status_code, response.json()["statusCode"]) == (403, 3)
        event = an_event(occurredAt="2014-01-01T00:00:00.000+0000", data=HOSTILE)
        for client, mine, theirs in ((old_ops, "old", "new"), (ops, "new", "old")):
            for recording_id in (theirs, f"{theirs}-protected"):
                await post(client, at(3, recording_id, eventHistory=[event], **{f"by-{mine}": 1}))
        for recording_id in ("old", "new", "old-protected", "new-protected"):
            recording = await read(admin, recording_id)
            assert len(recording["eventHistory"]) == 2
            assert recording["by-old" if recording_id.startswith("new") else "by-new"] == 1
            assert recording.get("nonDelete", False) == recording_id.endswith("-protected")
            assert await without_posted_labels(as_list(read(old_admin, recording_id))) == [recording]

        # A second reindex, after which the old process goes on too.
        await reindex(settings, tmp_path)
        assert (await behind_alias(elasticsearch, settings)).endswith("-000003")
        assert all("\n" in text for text in await texts(elasticsearch, settings))
        assert await without_posted_labels(page(old_admin)) == await page(admin)
        await post(old_ops, at(5, "after"))
        assert await read(admin, "after") == await read(old_admin, "after")
        assert (await old_admin.post("/api/v2/recordings/new-protected", json=UNAPPLY)).status_code == 200
        assert "nonDelete" not in await read(admin, "new-protected")
        assert (await old_ops.delete(f"{OPS_PATH}/new-protected")).status_code == 200
        assert (await ops.delete(f"{OPS_PATH}/after")).status_code == 200

    process = await former.start()
    assert await asyncio.wait_for(process.wait(), 60) != 0, "docs/operations.md says that 0.1.0 does not start any more"


async def reindex(settings: Settings, folder: Path) -> None:
    for resource in ("recordings", "screen-recordings"):
        status, _, error = await run(settings, "reindex.py", "--resource", resource, cwd=folder)
        assert status == 0, error


async def as_list(recording: Any) -> list[dict[str, Any]]:
    return [await recording]


async def without_posted_labels(recordings: Any) -> list[dict[str, Any]]:
    """What 0.1.0 kept of a client's, and what is the service's now."""
    return [{name: value for name, value in one.items() if name != "labels"} for one in await recordings]


async def texts(elasticsearch: AsyncElasticsearch, settings: Settings) -> list[str]:
    index = alias(settings, "recordings")
    await elasticsearch.indices.refresh(index=index)
    return [hit["_source"]["recording"] async for hit in async_scan(elasticsearch, index=index)]


async def test_a_reindex_marks_an_index_of_0_1_0_and_loses_nothing(
    settings: Settings, start_service: StartService, elasticsearch: AsyncElasticsearch, tmp_path: Path
) -> None:
    schema = msgspec.json.decode(_MAPPING.read_bytes())
    index = f"{alias(settings, 'recordings')}-v2-000001"
    await elasticsearch.indices.create(
        index=index,
        mappings=schema["mappings"],
        settings=schema["settings"] | {"index.number_of_replicas": 0},
        aliases={alias(settings, "recordings"): {"is_write_index": True}},
    )
    posted = [at(minute, f"r{minute}", **HOSTILE) for minute in range(20)]
    for one in posted:
        recording = merge(None, parse_recording(codec.decode(codec.encode(one))))
        document = to_document(CONTACT_CENTER, recording)
        written = {name: value for name, value in document.items() if name in schema["mappings"]["properties"]}
        written["recording"] = codec.encode(recording).decode()
        _id = document_id(CONTACT_CENTER, one["region"], one["id"])
        await elasticsearch.index(index=index, id=_id, document=written, refresh=one is posted[-1])
    stored = [codec.decode(text) for text in await texts(elasticsearch, settings)]
    status, _, error = await run(settings, "reindex.py", cwd=tmp_path)
    assert status == 0, error
    marked = await texts(elasticsearch, settings)
    assert all("\n" in text for text in marked)
    assert sorted(map(codec.decode, marked), key=id_of) == sorted(stored, key=id_of)
    service: Service = await start_service()
    admin = service.client("admin")
    assert [found["id"] for found in await page(admin)] == [one["id"] for one in reversed(posted)]
    assert [await read(admin, one["id"]) for one in reversed(posted)] == await page(admin)


def id_of(recording: dict[str, Any]) -> str:
    return str(recording["id"])
