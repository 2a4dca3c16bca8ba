"""Indices of schema v1, migrations in this process and in processes of their own, for these tests."""

from asyncio.subprocess import Process
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from elasticsearch import AsyncElasticsearch
from elasticsearch.helpers import async_scan

from app import codec
from app.embedded.loader import v1_schema
from app.migration.passes import Progress
from app.migration.plan import Options
from app.migration.run import Migration
from app.migration.sources import Source
from app.settings import Settings
from tests.support.processes import Scripts
from tests.support.recordings import CONTACT_CENTER, REGION, batched


def v1_index(settings: Settings, contact_center: str = CONTACT_CENTER) -> str:
    return f"{settings.index_prefix}-recordings-v1-{contact_center}"


def small(recording_id: str, caller: str) -> dict[str, Any]:
    """A small v1 document; `caller` tells one state of it from another."""
    date = "2013-05-17T11:45:32.000-0800"
    media = {"storage": "awsS3", "path": recording_id, "data": {"bucket": "b"}}
    contact = {"type": "External", "phoneNumber": "1"}
    return {
        "id": recording_id,
        "callerPhoneNumber": caller,
        "dialedPhoneNumber": "1",
        "region": REGION,
        "mediaFiles": [{"startTime": date, "stopTime": date, "callUUID": recording_id, "mediaDescriptor": media}],
        "eventHistory": [{"occurredAt": date, "event": "Left", "contact": contact}],
    }


async def make_v1_index(
    elasticsearch: AsyncElasticsearch,
    settings: Settings,
    documents: Iterable[tuple[str, dict[str, Any]]],
    contact_center: str = CONTACT_CENTER,
) -> str:
    index = v1_index(settings, contact_center)
    schema = v1_schema()
    elasticsearch = elasticsearch.options(request_timeout=60)
    await elasticsearch.indices.create(index=index, settings={"number_of_replicas": 0}, **schema)
    for batch in batched(documents, 2000):
        operations = [line for _id, document in batch for line in ({"index": {"_id": _id}}, document)]
        response = await elasticsearch.bulk(index=index, operations=operations, filter_path=["errors"])
        assert not response["errors"]
    await elasticsearch.indices.refresh(index=index)
    return index


def migration(
    elasticsearch: AsyncElasticsearch, settings: Settings, sources: Sequence[Source], progress: Progress | None = None
) -> Migration:
    """A migration of recordings in this process. By default its progress is not reported."""
    return Migration(
        elasticsearch,
        settings,
        "recordings",
        sources=sources,
        options=Options(),
        progress=progress or (lambda *_: nullcontext(lambda _: None)),
    )


async def start(settings: Settings, script: str, *arguments: str, cwd: Path) -> Process:
    return await Scripts(settings, cwd).start(script, *arguments)


async def run(settings: Settings, script: str, *arguments: str, cwd: Path) -> tuple[int, str, str]:
    """Exit status, standard output, standard error."""
    return await Scripts(settings, cwd).run(script, *arguments)


async def behind_alias(elasticsearch: AsyncElasticsearch, settings: Settings, resource: str = "recordings") -> str:
    (index,) = (await elasticsearch.indices.get_alias(name=f"{settings.index_prefix}-{resource}")).body
    return str(index)


async def callers(elasticsearch: AsyncElasticsearch, index: str) -> dict[str, str]:
    """Recording id → caller, of a schema v2 index."""
    await elasticsearch.indices.refresh(index=index)
    found = {}
    async for hit in async_scan(elasticsearch, index=index, size=5000, request_timeout=60):
        recording = codec.decode(hit["_source"]["recording"])
        found[recording["id"]] = recording["callerPhoneNumber"]
    return found
