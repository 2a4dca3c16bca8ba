"""Liveness, readiness and metrics, without authentication (docs/contract.md section 3)."""

import asyncio

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import Response

from app.api.requests import services
from app.api.responses import envelope


async def live(request: Request) -> Response:
    """The process answers; it asks nothing else."""
    return envelope({})


async def ready(request: Request) -> Response:
    """Elasticsearch answers and the aliases exist; raises ElasticsearchUnavailable otherwise."""
    await asyncio.gather(*(repository.check() for repository in services(request).repositories.values()))
    return envelope({})


async def metrics(request: Request) -> Response:
    """Prometheus text."""
    return Response(generate_latest(services(request).metrics), media_type=CONTENT_TYPE_LATEST)
