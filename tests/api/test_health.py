"""Liveness, readiness, metrics, and stopping (docs/contract.md section 3)."""

import asyncio
import re
from importlib.metadata import version
from pathlib import Path

import httpx
import pytest
from elasticsearch import AsyncElasticsearch

from app.settings import Settings
from app.store.indices import RESOURCES
from tests.support.processes import AppProcess
from tests.support.recordings import CONTACT_CENTER, OPS_PATH, a_recording
from tests.support.service import Service, assert_error, refresh_rarely
from tests.support.waiting import eventually


async def test_live_and_ready_need_no_credentials(service: Service) -> None:
    client = service.client()
    for path in ("/health/live", "/health/ready"):
        response = await client.get(path)
        assert (response.status_code, response.json()) == (200, {"statusCode": 0})


@pytest.mark.parametrize("resource", RESOURCES)
async def test_service_without_alias_is_not_ready_until_it_is_back(
    service: Service, elasticsearch: AsyncElasticsearch, settings: Settings, resource: str
) -> None:
    name = f"{settings.index_prefix}-{resource}"
    await elasticsearch.indices.delete_alias(index="*", name=name)
    assert_error(await service.client().get("/health/ready"), 503, 4)
    assert (await service.client().get("/health/live")).status_code == 200
    await elasticsearch.indices.put_alias(index=f"{name}-v2-000001", name=name, is_write_index=True)
    assert (await service.client().get("/health/ready")).status_code == 200


async def test_metrics_count_requests_without_their_parameters(service: Service, admin: httpx.AsyncClient) -> None:
    await admin.get("/api/v2/recordings", params={"callerPhoneNumber": "+15550001"})
    await admin.get("/api/v2/recordings/secret-id")
    assert (await admin.request("PROPFIND", "/api/v2/recordings/secret-id")).status_code == 405
    assert (await admin.request("PROPFIND", "/nothing")).status_code == 404
    response = await service.client().get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    counts = re.findall(r"^recall_request_seconds_count\{(.*)\} (.*)$", response.text, re.MULTILINE)
    assert ('endpoint="recordings",method="GET",status="200"', "1.0") in counts
    assert ('endpoint="recording",method="GET",status="404"', "1.0") in counts
    assert f'recall_build_info{{version="{version("recall")}"}} 1.0' in response.text.splitlines()
    for secret in ("15550001", "secret-id", "PROPFIND", "nothing"):
        assert secret not in response.text


async def test_request_in_flight_completes_during_shutdown(
    settings: Settings, elasticsearch: AsyncElasticsearch, tmp_path: Path
) -> None:
    app = AppProcess(settings, tmp_path)
    await app.start()
    async with app.client("ops") as ops:

        async def is_stored() -> bool:
            return (await ops.get(f"{OPS_PATH}/recording")).status_code == 200

        # Searchable only after the index's next refresh, which is far away until we say so.
        index = f"{settings.index_prefix}-recordings"
        await refresh_rarely(elasticsearch, settings, "1h")
        post = asyncio.create_task(ops.post(OPS_PATH, params={"refresh": "wait_for"}, json=a_recording()))
        await eventually(is_stored)
        app.terminate()

        async def refuses_connections() -> bool:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(app.url).port)
            except OSError:
                return True
            writer.close()
            return False

        await eventually(refuses_connections)
        assert not post.done()
        await elasticsearch.indices.refresh(index=index)
        response = await post
        assert response.status_code == 201
        assert CONTACT_CENTER in response.json()["uri"]
        async with asyncio.timeout(10):
            await app.stop()
