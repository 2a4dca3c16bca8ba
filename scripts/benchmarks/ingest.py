"""`bench.py ingest`: posts to the API, and the same documents straight into Elasticsearch."""

import sys
import urllib.request
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import click
import msgspec

from app import codec
from app.cli.framework import Command
from app.embedded.loader import LoadError, Sample
from app.embedded.sample import BUCKETS, WEBDAV_URLS, sample_recordings
from app.settings import S3Config, StorageConfig, WebDavConfig
from app.store.documents import document_id, to_document
from app.store.indices import alias, create_indices
from benchmarks import stage as stages
from benchmarks.client import OPS_USER, Request, authorization
from benchmarks.load import Measured, load
from benchmarks.stage import CONTACT_CENTER, REGION, Stage, on_stage, service
from benchmarks.tables import print_row

_CONNECTIONS = 32
# As many recordings as those connections have in flight, but in two requests.
_BULK_SIZE, _BULK_CONNECTIONS = 16, 2
_LINES = 500

_SIDES = {
    "PUT": f"single PUTs to Elasticsearch, {_CONNECTIONS} connections",
    "POST": f"single POSTs, {_CONNECTIONS} connections (wanted: 0.8)",
    "lines": f"POSTs of {_LINES} lines, {_BULK_CONNECTIONS} connections (wanted: 1.6)",
    "gathered": f"ready-made batches of {_BULK_SIZE} to Elasticsearch, {_BULK_CONNECTIONS} connections",
}


@click.command("ingest", cls=Command)
@stages.recordings(5_000)
@stages.rounds(5)
def command(**options: Any) -> None:
    """Post recordings, beside PUTs straight to Elasticsearch.

    The API gets recordings, one in a request and many. Elasticsearch gets the same documents, one by one, in an index
    with the same mapping. A third index gets them in bulk requests, made beforehand.
    """
    on_stage(partial(ingest, **options))


@dataclass
class _Round:
    """What one side did in one round. Processor times are in milliseconds for each recording."""

    rate: float
    p50: float
    p99: float
    service: float
    elasticsearch: float


async def ingest(stage: Stage, *, recordings: int, rounds: int) -> None:
    """Stores the same documents in four ways, each in an index of its own, in turn."""
    await create_indices(stage.client, stage.settings)
    results: dict[str, list[_Round]] = {"PUT": [], "POST": [], "lines": [], "gathered": []}
    for name in ("direct", "gathered"):
        await stage.copy_index("recordings", name)
    sample = Sample(CONTACT_CENTER, REGION)
    # Never contacted, but a POST with media outside configured storage is refused.
    storages = StorageConfig(tuple(map(WebDavConfig, WEBDAV_URLS)), (S3Config(BUCKETS),))
    with service(msgspec.structs.replace(stage.settings, storage=storages)) as app_url:
        for number in range(rounds + 1):
            requests = _posts(stage, sample, number * recordings, recordings)
            for name, side in results.items():
                await stage.settle()
                measured = Measured()
                url = app_url if name in {"POST", "lines"} else stage.settings.elasticsearch_url
                connections = _CONNECTIONS if name in {"POST", "PUT"} else _BULK_CONNECTIONS
                before = await stage.seconds_of_elasticsearch(), _seconds_of_service(app_url)
                await load(url, requests[name], measured, connections=connections)
                after = await stage.seconds_of_elasticsearch(), _seconds_of_service(app_url)
                elasticsearch, of_service = (1000 * (y - x) / recordings for x, y in zip(before, after, strict=True))
                rate = recordings / measured.seconds
                print(f"round {number}, {name}: {rate:.0f} recordings/s", file=sys.stderr, flush=True)
                if number:  # the first round is for the Java compiler
                    p50, p99 = measured.percentile(50), measured.percentile(99)
                    side.append(_Round(rate, p50, p99, of_service, elasticsearch))
    counts = [await stage.count(index) for index in (alias(stage.settings, "recordings"), stage.index("direct"))]
    if counts != [2 * (rounds + 1) * recordings, (rounds + 1) * recordings]:
        raise LoadError(f"stored were {counts}")
    print(f"\nMedians of {rounds} rounds of {recordings} new recordings a side\n")
    print_row("side", "recordings/s", "to single PUTs", "p50 ms", "p99 ms", "CPU ms: service", "Elasticsearch")
    print_row("---", *["---:"] * 6)
    for name, described in _SIDES.items():
        side = results[name]
        ratio = median(one.rate / put.rate for one, put in zip(side, results["PUT"], strict=True))
        cpu = f"{median(one.service for one in side):.2f}" if name in {"POST", "lines"} else ""
        print_row(
            described,
            f"{median(one.rate for one in side):.0f}",
            f"{ratio:.2f}",
            f"{median(one.p50 for one in side):.1f}",
            f"{median(one.p99 for one in side):.1f}",
            cpu,
            f"{median(one.elasticsearch for one in side):.2f}",
        )


def _seconds_of_service(url: str) -> float:
    """Returns the processor time that all workers of the service have used."""
    with urllib.request.urlopen(f"{url}/metrics") as answer:  # noqa: S310  # of our own server
        text = answer.read().decode()
    return float(next(line.split()[1] for line in text.splitlines() if line.startswith("process_cpu_seconds_total")))


def _posts(stage: Stage, sample: Sample, first: int, count: int) -> dict[str, list[tuple[str, Request]]]:
    """Returns the requests of each side, ready to be sent."""
    path = f"/api/v2/ops/contact-centers/{CONTACT_CENTER}/recordings"
    ndjson = ("Content-Type", "application/x-ndjson")
    json_type = ("Content-Type", "application/json")
    posted = sample_recordings(
        count, seed=sample.seed, region=REGION, contact_center=CONTACT_CENTER, first=first, until=sample.until
    )
    bodies = [codec.encode(body) for body in posted]
    api = [("POST", Request("POST", path, (authorization(OPS_USER), json_type), body)) for body in bodies]
    # Other recordings than those of the single POSTs.
    others = [body.replace(b'"id":"', b'"id":"line-', 1) for body in bodies]
    by_line = [
        ("POST", Request("POST", path, (authorization(OPS_USER), ndjson), b"\n".join(others[at : at + _LINES])))
        for at in range(0, count, _LINES)
    ]
    direct = []
    lines = []
    for recording in sample.recordings(first, count):
        document = document_id(CONTACT_CENTER, REGION, recording["id"])
        body = codec.encode(to_document(CONTACT_CENTER, recording))
        direct.append(("PUT", Request("PUT", f"/{stage.index('direct')}/_doc/{document}", (json_type,), body)))
        lines.append(b'{"index":{"_id":"%b"}}\n%b\n' % (document.encode(), body))
    bulk = f"/{stage.index('gathered')}/_bulk"
    gathered = [
        ("POST", Request("POST", bulk, (json_type,), b"".join(lines[at : at + _BULK_SIZE])))
        for at in range(0, count, _BULK_SIZE)
    ]
    return {"POST": api, "lines": by_line, "PUT": direct, "gathered": gathered}
