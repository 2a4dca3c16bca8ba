"""`bench.py ingest`: posts to the API, and the same documents straight into Elasticsearch."""

import sys
from functools import partial
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
from benchmarks.tables import print_sides

_CONNECTIONS = 32
# As many recordings as those connections have in flight, but in two requests.
_BULK_SIZE, _BULK_CONNECTIONS = 16, 2


@click.command("ingest", cls=Command)
@stages.recordings(5_000)
@stages.rounds(5)
def command(**options: Any) -> None:
    """Post recordings, beside PUTs straight to Elasticsearch.

    The API gets recordings. Elasticsearch gets the same documents, one by one, in an index with the same mapping. A
    third index gets them in bulk requests: its rate is the limit for a service that gathers them.
    """
    on_stage(partial(ingest, **options))


async def ingest(stage: Stage, *, recordings: int, rounds: int) -> None:
    """Posts to the API, and the same documents put one by one straight into Elasticsearch, in an index alike.

    Also, in a third index, gathered beforehand: what a service would reach that gathers them and costs nothing.
    """
    await create_indices(stage.client, stage.settings)
    sides = {"API": Measured(), "direct": Measured(), "gathered": Measured()}
    for name in ("direct", "gathered"):
        await stage.copy_index("recordings", name)
    sample = Sample(CONTACT_CENTER, REGION)
    # Never contacted, but a POST with media outside configured storage is refused.
    storages = StorageConfig(tuple(map(WebDavConfig, WEBDAV_URLS)), (S3Config(BUCKETS),))
    with service(msgspec.structs.replace(stage.settings, storage=storages)) as app_url:
        for number in range(rounds + 1):
            requests = _posts(stage, sample, number * recordings, recordings)
            for name, side in sides.items():
                # The first round is for the Java compiler.
                measured = side if number else Measured()
                await stage.settle()
                url = app_url if name == "API" else stage.settings.elasticsearch_url
                connections = _BULK_CONNECTIONS if name == "gathered" else _CONNECTIONS
                await load(url, requests[name], measured, connections=connections)
                print(f"round {number}, {name}: {measured.rate:.0f} requests/s so far", file=sys.stderr, flush=True)
    indices = [alias(stage.settings, "recordings"), stage.index("direct"), stage.index("gathered")]
    counts = [await stage.count(index) for index in indices]
    if counts != [(rounds + 1) * recordings] * 3:
        raise LoadError(f"stored were {counts}")
    print(f"\n{rounds} rounds of {recordings} new recordings each, {_CONNECTIONS} connections\n")
    print_sides(sides["API"], sides["direct"], "wanted: rate at least 1.5, p99 at most 2")
    most = rounds * recordings / sides["gathered"].seconds
    print(f"\nReady-made batches, {_BULK_SIZE} in a `_bulk`, {_BULK_CONNECTIONS} in flight: ", end="")
    print(f"{most:.1f} recordings/s, {most / sides['direct'].rate:.2f} times the rate of single `PUT`s")


def _posts(stage: Stage, sample: Sample, first: int, count: int) -> dict[str, list[tuple[str, Request]]]:
    """Returns the requests of each side, ready to be sent."""
    path = f"/api/v2/ops/contact-centers/{CONTACT_CENTER}/recordings"
    json_type = ("Content-Type", "application/json")
    posted = sample_recordings(
        count, seed=sample.seed, region=REGION, contact_center=CONTACT_CENTER, first=first, until=sample.until
    )
    api = [("POST", Request("POST", path, (authorization(OPS_USER), json_type), codec.encode(body))) for body in posted]
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
    return {"API": api, "direct": direct, "gathered": gathered}
