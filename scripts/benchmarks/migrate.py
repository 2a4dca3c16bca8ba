"""`bench.py migrate`: a whole migration beside bare copies with the Elasticsearch client's own helpers."""

import statistics
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import click
from elasticsearch.helpers import async_bulk, async_scan

from app.cli.framework import Command
from app.embedded.loader import Loader, Sample, create_v1_index, v1_schema
from app.embedded.sample_v1 import v1_document
from app.migration.cutover import acquire_and_recover, current_index
from app.migration.plan import Options as MigrationOptions
from app.migration.rollback import roll_back
from app.migration.run import Migration
from app.migration.sources import CannotTransform, V1Recordings, V2Recordings
from app.store.indices import alias, create_indices, load_schema
from app.workers import collect_rarely
from benchmarks import stage as stages
from benchmarks.stage import BATCH, CONTACT_CENTER, REGION, Stage, on_stage
from benchmarks.tables import print_row

_SCROLL_SECONDS = 60.0


@click.command("migrate", cls=Command)
@stages.recordings(200_000)
@stages.rounds(3)
def command(**options: Any) -> None:
    """Migrate from schema v1, beside plain scan and bulk copies."""
    on_stage(partial(migrate, **options))


async def migrate(stage: Stage, *, recordings: int, rounds: int) -> None:
    """Measures a whole migration from schema v1 beside bare copies with the Elasticsearch client's own helpers."""
    # As the commands do. It helps both sides.
    collect_rarely()
    sample = Sample(CONTACT_CENTER, REGION)
    old = await create_v1_index(stage.client, stage.settings, CONTACT_CENTER)
    loader = Loader(
        stage.client,
        old,
        lambda _, recording: v1_document(recording),
        to_id=lambda _, recording: str(recording["id"]),
        is_alias=False,
    )
    await stage.load(loader, sample, recordings, "schema v1")
    rates: dict[str, list[float]] = {}
    for number in range(rounds + 1):
        if number == 1:  # the first round was for the Java compiler
            rates.clear()
        await stage.settle()
        rates.setdefault(_MIGRATION, []).append(await _migrated(stage, old, rates))
        await stage.settle()
        rates.setdefault(_V1_COPY, []).append(await _helpers_copy(stage, old, v1_schema()))
        full = await _full_documents(stage, old)
        await stage.settle()
        rates.setdefault(_V2_COPY, []).append(await _helpers_copy(stage, full, load_schema("recordings")))
        await stage.client.indices.delete(index=full)
    print()
    print_row("", "documents/s, median", "of them the slowest", "migration beside it")
    print_row("---", *["---:"] * 3)
    ours = statistics.median(rates[_MIGRATION])
    for what, measured in rates.items():
        median = statistics.median(measured)
        print_row(what, f"{median:.0f}", f"{min(measured):.0f}", f"{ours / median:.2f}")
    print("\nWanted: at least 0.8.")


_MIGRATION = "migration, all of it: copy, verify, catch up, swap"
_COPYING = "migration, copying alone"
_V1_COPY = "helpers: the v1 documents into an index of schema v1"
_V2_COPY = "helpers: the v2 documents into an index of schema v2"


async def _migrated(stage: Stage, old: str, rates: dict[str, list[float]]) -> float:
    """Documents a second, and those of the copying alone into `rates`. The old state is there again afterwards."""
    await create_indices(stage.client, stage.settings)
    phases: dict[str, float] = {}

    @contextmanager
    def timed(_total: int, what: str) -> Iterator[Callable[[int], object]]:
        begun = time.perf_counter()
        yield lambda _: None
        phases[what] = time.perf_counter() - begun

    async with acquire_and_recover(stage.client, stage.settings, "recordings") as lease:
        current = await current_index(stage.client, alias(stage.settings, "recordings"))
        migration = Migration(
            stage.client,
            stage.settings,
            "recordings",
            sources=[V1Recordings(old, CONTACT_CENTER), V2Recordings(current)],
            options=MigrationOptions(allow_rejects=True),
            progress=timed,
        )
        begun = time.perf_counter()
        report = await migration.run(lease, current)
        seconds = time.perf_counter() - begun
        rates.setdefault(_COPYING, []).append(report.read / phases["copying"])
        await roll_back(stage.client, stage.settings, lease, "recordings")
    await stage.client.indices.delete(index=report.target)
    return report.read / seconds


async def _helpers_copy(stage: Stage, old: str, schema: dict[str, Any]) -> float:
    """Documents a second of `scan` and `bulk`, as they come, into an index in the state that fills fastest."""
    target = stage.index("copy")
    settings = {**schema.get("settings", {}), "index.number_of_replicas": 0, "index.refresh_interval": "-1"}
    await stage.client.indices.create(index=target, mappings=schema["mappings"], settings=settings)
    begun = time.perf_counter()
    actions = (
        {"_op_type": "index", "_index": target, "_id": hit["_id"], "_source": hit["_source"]}
        async for hit in async_scan(stage.client, index=old, size=BATCH, request_timeout=_SCROLL_SECONDS)
    )
    copied, _ = await async_bulk(stage.client, actions)
    await stage.client.indices.refresh(index=target)
    seconds = time.perf_counter() - begun
    await stage.client.indices.delete(index=target)
    return int(copied) / seconds


async def _full_documents(stage: Stage, old: str) -> str:
    """Creates an index whose `_source` has each v2 document whole, so that copying needs no transformation."""
    index = stage.index("full")
    schema = load_schema("recordings")
    mappings = {key: value for key, value in schema["mappings"].items() if key != "_source"}
    await stage.client.indices.create(
        index=index, mappings=mappings, settings={**schema["settings"], "index.number_of_replicas": 0}
    )

    async def actions() -> AsyncIterator[dict[str, Any]]:
        async for hit in async_scan(stage.client, index=old, size=BATCH, request_timeout=_SCROLL_SECONDS):
            with suppress(CannotTransform):
                _id, document = V1Recordings(old, CONTACT_CENTER).transform(hit)
                yield {"_op_type": "index", "_index": index, "_id": _id, "_source": document}

    await async_bulk(stage.client, actions())
    await stage.client.indices.refresh(index=index)
    return index
