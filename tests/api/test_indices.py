"""Indices behind aliases (scripts/create_indices.py, and the service at its start)."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from elasticsearch import AsyncElasticsearch

from app.settings import Settings
from app.store.indices import RESOURCES, SchemaMismatch, create_indices, load_schema
from tests.support.processes import Scripts
from tests.support.recordings import OPS_PATH, a_recording
from tests.support.service import StartService

pytestmark = pytest.mark.no_indices

SCRIPT = "create_indices.py"

Run = Callable[..., Awaitable[tuple[int, str]]]


@pytest.fixture
def run(settings: Settings, tmp_path: Path) -> Run:
    async def run(*arguments: str, script: str = SCRIPT, url: str = settings.elasticsearch_url) -> tuple[int, str]:
        """The exit status of a script and all it printed."""
        scripts = Scripts(msgspec.structs.replace(settings, elasticsearch_url=url), tmp_path)
        status, output, errors = await scripts.run(script, *arguments)
        return status, output + errors

    return run


def names(settings: Settings) -> tuple[str, str]:
    return f"{settings.index_prefix}-recordings", f"{settings.index_prefix}-recordings-v2-000001"


async def test_missing_indices_are_created_once_with_the_given_shards_and_replicas(
    run: Run, elasticsearch: AsyncElasticsearch, settings: Settings
) -> None:
    alias, index = names(settings)
    indices = [f"{settings.index_prefix}-{resource}-v2-000001" for resource in RESOURCES]
    assert index in indices
    assert await run("--dry-run") == (0, "".join(f"would create {name}\n" for name in indices))
    assert not await elasticsearch.indices.exists(index=index)
    created = await run("--shards", "3", "--replicas", "0")
    assert created == (0, "".join(f"created {name}\n" for name in indices))
    assert await run("--shards", "3", "--replicas", "0") == (0, "everything is there\n")
    found = (await elasticsearch.indices.get(index=alias, flat_settings=True)).body[index]
    assert found["settings"]["index.number_of_shards"] == "3"
    assert found["settings"]["index.number_of_replicas"] == "0"
    assert found["mappings"]["dynamic"] == "strict"


async def test_index_with_another_mapping_is_refused_with_the_differences(
    run: Run, elasticsearch: AsyncElasticsearch, settings: Settings
) -> None:
    alias, index = names(settings)
    await elasticsearch.indices.create(
        index=index, mappings={"properties": {"id": {"type": "text"}}}, aliases={alias: {}}
    )
    status, output = await run()
    assert status == 1
    assert index in output
    assert "mappings.properties.id.type is 'text' instead of 'keyword'" in output
    assert "Traceback" not in output
    status, output = await run("app", script="-m")
    assert status != 0
    assert "mappings.properties.id.type is 'text' instead of 'keyword'" in output


async def test_index_with_the_name_of_the_alias_is_refused(
    run: Run, elasticsearch: AsyncElasticsearch, settings: Settings
) -> None:
    alias, _ = names(settings)
    await elasticsearch.indices.create(index=alias)
    status, output = await run()
    assert status == 1
    assert f"the alias {alias} does not exist, but its name" in output


async def test_unreachable_elasticsearch_is_reported(run: Run) -> None:
    status, output = await run(url="http://127.0.0.1:1")
    assert status == 1
    assert "Elasticsearch at http://127.0.0.1:1 does not answer" in output
    assert "Traceback" not in output


async def test_concurrent_processes_create_each_index_once(
    elasticsearch: AsyncElasticsearch, settings: Settings
) -> None:
    await asyncio.gather(*(create_indices(elasticsearch, settings) for _ in range(8)))
    indices = await elasticsearch.indices.get(index=f"{settings.index_prefix}-*")
    assert set(indices) == {f"{settings.index_prefix}-{resource}-v2-000001" for resource in RESOURCES}


async def test_index_without_its_alias_is_refused(elasticsearch: AsyncElasticsearch, settings: Settings) -> None:
    alias, index = names(settings)
    await create_indices(elasticsearch, settings)
    await elasticsearch.indices.delete_alias(index=index, name=alias)
    with pytest.raises(SchemaMismatch, match=f"the alias {alias} does not exist"):
        await create_indices(elasticsearch, settings)


async def test_settings_of_the_schema_are_compared(elasticsearch: AsyncElasticsearch, settings: Settings) -> None:
    await create_indices(elasticsearch, settings)
    await elasticsearch.indices.put_settings(index=names(settings)[0], settings={"index.max_result_window": 10_000})
    with pytest.raises(SchemaMismatch, match=r"index\.max_result_window is '10000' instead of 10101"):
        await create_indices(elasticsearch, msgspec.structs.replace(settings, shards=5))


async def test_a_field_that_documents_may_lack_is_added_to_an_existing_index(
    start_service: StartService, elasticsearch: AsyncElasticsearch, settings: Settings
) -> None:
    schema = load_schema("recordings")
    del schema["mappings"]["properties"]["recordingBytes"]
    name = f"{settings.index_prefix}-recordings"
    await elasticsearch.indices.create(index=f"{name}-v2-000001", **schema, aliases={name: {"is_write_index": True}})
    service = await start_service()
    response = await service.client("ops").post(OPS_PATH, json=a_recording(), params={"refresh": "wait_for"})
    assert response.status_code == 201
    found = await service.client("admin").get("/api/v2/recordings", params={"startTime": "0"})
    assert [recording["id"] for recording in found.json()["recordings"]] == ["recording"]
