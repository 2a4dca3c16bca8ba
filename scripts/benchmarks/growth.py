"""`bench.py growth`: how searches, the index and memory grow with the number of recordings."""

from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlencode

import click
import msgspec

from app.cli.framework import Command
from app.cli.types import POSITIVE
from app.embedded.loader import Loader, LoadError, Sample
from app.progress import progress
from app.recordings.dates import format_instant, parse_instant
from app.search.paging import ORDER, Cursor
from app.store.documents import to_document
from app.store.indices import alias, create_indices
from benchmarks import stage as stages
from benchmarks.client import Request, authorization, fetch
from benchmarks.load import Measured, load
from benchmarks.processor import seconds_of_servers
from benchmarks.questions import Questions
from benchmarks.stage import BATCH, CONTACT_CENTER, REGION, Stage, on_stage, service
from benchmarks.tables import print_row

_PAGE = 100
_PAGES_BEFORE_DEEP = 9_999
_PLACES_AT_ONCE = 10_000


@dataclass(frozen=True)
class _Cell:
    """One kind of question at one size: the median time, and processor time for each request, in milliseconds."""

    p50: float
    service: float
    elasticsearch: float


@click.command("growth", cls=Command)
@click.argument("sizes", metavar="RECORDINGS...", nargs=-1, required=True, type=POSITIVE)
@stages.seconds(5)
@click.option("--questions", metavar="N", type=POSITIVE, default=300, help="Of each kind (default: 300).")
@click.option("--keep", metavar="PREFIX", help="Keep the indices under this prefix, and load only what they lack.")
def command(**options: Any) -> None:
    """Ask each kind of question at several sizes of the index.

    Each size has an index of its own with one shard. All are loaded before the first is measured.
    """
    on_stage(partial(growth, **options))


async def growth(stage: Stage, *, sizes: tuple[int, ...], seconds: float, questions: int, keep: str | None) -> None:
    """Loads indices of these sizes, asks each over one connection, and prints a column for each size."""
    sizes = tuple(sorted(sizes))
    prefix = keep or stage.settings.index_prefix
    settings = {size: msgspec.structs.replace(stage.settings, index_prefix=f"{prefix}-{size}") for size in sizes}
    for size in sizes:
        await _load(Stage(settings[size], stage.client, stage.version), size)
    times: dict[str, list[_Cell]] = {}
    facts: dict[str, list[str]] = {}
    for size in sizes:
        one = Stage(settings[size], stage.client, stage.version)
        await one.settle()
        for kind, cell in (await _ask(one, size, seconds, questions)).items():
            times.setdefault(kind, []).append(cell)
        for name, value in (await _facts(one)).items():
            facts.setdefault(name, []).append(value)
    _print_times(sizes, times)
    print()
    print_row("", *[f"{size:,}" for size in sizes])
    print_row("---", *["---:"] * len(sizes))
    for name, values in facts.items():
        print_row(name, *values)
    if keep is None:
        for size in sizes:
            await Stage(settings[size], stage.client, stage.version).remove()


async def _load(stage: Stage, size: int) -> None:
    await create_indices(stage.client, stage.settings)
    index = alias(stage.settings, "recordings")
    if await stage.count(index) >= size:
        return
    loader = Loader(stage.client, index, to_document)
    # Nobody searches while it loads, so that no small segments are written for searches.
    await stage.client.indices.put_settings(index=index, settings={"index.refresh_interval": "-1"})
    with progress(size, f"{size:,} recordings") as advance:
        await loader.load(Sample(CONTACT_CENTER, REGION), size, BATCH, advance)
    await stage.client.indices.put_settings(index=index, settings={"index.refresh_interval": None})
    if loader.refused:
        raise LoadError(f"of {size} recordings some were refused: {loader.examples}")


async def _ask(stage: Stage, size: int, seconds: float, number: int) -> dict[str, _Cell]:
    """Returns the times of each kind of question, asked alone over one connection."""
    sample = Sample(CONTACT_CENTER, REGION)
    kinds = Questions(sample, size, alias(stage.settings, "recordings"), ()).alone(number)
    requests = {kind: [question.api for question in some] for kind, some in kinds.items()}
    requests["all criteria together"] = [_all_together(sample, size, place) for place in range(number)]
    deep = await _deep_page(stage)
    if deep is not None:
        requests[f"page {_PAGES_BEFORE_DEEP + 1:,} of a walk"] = [deep]
    cells = {}
    with service(stage.settings) as url:
        for kind, some in requests.items():
            status, body = fetch(url, some[0])
            if status != 200:
                raise LoadError(f"{some[0].path} is {status}: {body[:200]!r}")
            asked = [(kind, request) for request in some]
            await load(url, asked, Measured(), connections=1, seconds=seconds / 2)
            measured = Measured()
            before = seconds_of_servers(), await stage.seconds_of_elasticsearch()
            await load(url, asked, measured, connections=1, seconds=seconds)
            count = len(measured.all) / 1000
            cells[kind] = _Cell(
                measured.percentile(50),
                (seconds_of_servers() - before[0]) / count,
                (await stage.seconds_of_elasticsearch() - before[1]) / count,
            )
    return cells


def _all_together(sample: Sample, size: int, place: int) -> Request:
    """Returns a search by all six criteria of the reference document that finds at least one recording."""
    recording = next(sample.recordings(place * 7919 % size, 1))
    agent = next(e["contact"] for e in recording["eventHistory"] if e["contact"]["type"] == "User")
    case = next(e["data"]["caseNumber"] for e in recording["eventHistory"] if "caseNumber" in e.get("data", {}))
    return _request(
        startTime=format_instant(parse_instant(recording["startTime"]) - 1),
        endTime=format_instant(parse_instant(recording["stopTime"]) + 1),
        callerPhoneNumber=f"{recording['callerPhoneNumber'][:5]}*",
        dialedPhoneNumber=f"*{recording['dialedPhoneNumber'][-4:]}",
        userName=agent["lastName"].split()[0],
        userData=case,
    )


async def _deep_page(stage: Stage) -> Request | None:
    """Returns the request for page 10,000 of a walk through everything, or None if there is no such page."""
    after: list[Any] | None = None
    left = _PAGES_BEFORE_DEEP * _PAGE
    while left:
        size = min(left, _PLACES_AT_ONCE)
        answer = await stage.client.search(
            index=alias(stage.settings, "recordings"),
            sort=ORDER,
            size=size,
            source=False,
            track_total_hits=False,
            search_after=after,
        )
        hits = answer.body["hits"]["hits"]
        if len(hits) < size:
            return None
        after, left = hits[-1]["sort"], left - size
    assert after is not None  # there are pages before it
    return _request(startTime="1971-01-01T00:00:00.000Z", cursor=Cursor("after", *after).encode())


def _request(**parameters: str) -> Request:
    return Request(
        "GET", f"/api/v2/recordings?{urlencode(parameters)}", (authorization(), ("Accept", "application/json"))
    )


async def _facts(stage: Stage) -> dict[str, str]:
    """Returns what the index of one size takes."""
    index = alias(stage.settings, "recordings")
    stats = (await stage.client.indices.stats(index=index, metric="store,segments,docs")).body["_all"]["primaries"]
    heap = [
        node["jvm"]["mem"]["heap_used_in_bytes"]
        for node in (await stage.client.nodes.stats(metric="jvm")).body["nodes"].values()
    ]
    return {
        "index, GB": f"{stats['store']['size_in_bytes'] / 1e9:.2f}",
        "bytes a recording": f"{stats['store']['size_in_bytes'] / max(stats['docs']['count'], 1):,.0f}",
        "segments": f"{stats['segments']['count']}",
        "heap in use, MB (of all indices)": f"{sum(heap) / 1e6:,.0f}",
    }


def _print_times(sizes: tuple[int, ...], times: dict[str, list[_Cell]]) -> None:
    print_row("p50 ms (service ms, Elasticsearch ms of processor)", *[f"{size:,}" for size in sizes])
    print_row("---", *["---:"] * len(sizes))
    for kind, cells in times.items():
        shown = [f"{cell.p50:.1f} ({cell.service:.2f}, {cell.elasticsearch:.2f})" for cell in cells]
        print_row(kind, *["-"] * (len(sizes) - len(shown)), *shown)
