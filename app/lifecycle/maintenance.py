"""What a process does by itself, beside its requests: periodic tasks, and the indices it needs."""

import asyncio
import logging
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from elasticsearch import AsyncElasticsearch
from prometheus_client import CollectorRegistry, Counter

from app.background import in_background
from app.errors import RecallError
from app.settings import Settings
from app.store.indices import SchemaMismatch, create_indices

log = logging.getLogger(__name__)

_RETRY_INDICES_SECONDS = 2.0
_INTERVAL_SECONDS = 15.0


@dataclass(frozen=True)
class PeriodicTask:
    """Work that any process may do, several concurrently too: it completes what a process that died left half done.

    `name` is what the log and the metrics call it.
    """

    name: str
    run: Callable[[], Awaitable[object]]


@asynccontextmanager
async def maintenance(tasks: Sequence[PeriodicTask], registry: CollectorRegistry) -> AsyncIterator[None]:
    """Runs each task about every 15 seconds, at random intervals, so that processes do not keep in step."""
    runs = Counter(
        "recall_maintenance_runs",
        "Runs of periodic tasks, by task and outcome (success, unavailable or failed).",
        ["task", "outcome"],
        registry=registry,
    )
    async with AsyncExitStack() as stack:
        for task in tasks:
            await stack.enter_async_context(in_background(_periodically(task, runs)))
        yield


async def _periodically(task: PeriodicTask, runs: Counter) -> None:
    while True:
        await asyncio.sleep(random.uniform(0.5, 1.5) * _INTERVAL_SECONDS)  # noqa: S311
        try:
            await task.run()
        except RecallError as error:
            log.warning("%s has to wait: %s", task.name, error)
            outcome = "unavailable"
        except Exception:  # the next round may go better, and there must be one
            log.exception("%s failed", task.name)
            outcome = "failed"
        else:
            outcome = "success"
        runs.labels(task.name, outcome).inc()


@asynccontextmanager
async def needed_indices(client: AsyncElasticsearch, settings: Settings) -> AsyncIterator[None]:
    """Makes missing indices before the first request, or later when Elasticsearch is not there yet.

    Raises SchemaMismatch.
    """
    try:
        await create_indices(client, settings)
    except RecallError as error:
        log.warning("Elasticsearch cannot be used yet (%s); trying again until it can", error.__cause__)
        async with in_background(_create_indices_later(client, settings)):
            yield
    else:
        yield


async def _create_indices_later(client: AsyncElasticsearch, settings: Settings) -> None:
    while True:
        await asyncio.sleep(_RETRY_INDICES_SECONDS)
        try:
            await create_indices(client, settings)
        except RecallError:
            continue
        except SchemaMismatch:
            log.exception("the service cannot work with these indices, so it stops")
            signal.raise_signal(signal.SIGTERM)
        return
