"""Liveness, readiness and metrics, without authentication (docs/contract.md section 3)."""

import operator
import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Metric, ProcessCollector, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from app.api.requests import services
from app.api.responses import envelope
from app.store.indices import check_indices


async def live(request: Request) -> Response:
    """The process answers; it asks nothing else."""
    return envelope({})


async def ready(request: Request) -> Response:
    """Elasticsearch answers and the aliases exist; raises ElasticsearchUnavailable otherwise."""
    await check_indices(services(request).client, services(request).settings)
    return envelope({})


async def metrics(request: Request) -> Response:
    """Prometheus text. Of several workers it is their sum, those that have died included (`app.server.supervisor`)."""
    registry = services(request).metrics
    if folder := os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        registry.register(_WorkersCollector(Path(folder)))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


class _WorkersCollector(Collector):
    """What `ProcessCollector` tells, of all workers that run: sums, but of times and limits the least."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        found: dict[str, Metric] = {}
        for file in self._folder.glob("gauge_livesum_*.db"):
            pid = int(file.stem.rpartition("_")[2])
            for metric in ProcessCollector(pid=partial(int, pid), registry=None).collect():
                known = found.setdefault(metric.name, metric)
                if known is not metric:
                    add = min if metric.name in {"process_start_time_seconds", "process_max_fds"} else operator.add
                    known.samples = [
                        one._replace(value=add(one.value, other.value))
                        for one, other in zip(known.samples, metric.samples, strict=True)
                    ]
        return found.values()
