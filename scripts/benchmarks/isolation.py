"""`bench.py isolation`: what one contact center's requests take while another one, or a stranger, attacks."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import click
import msgspec

from app import codec
from app.cli.framework import Command
from app.embedded.loader import LoadError, Sample
from app.recordings.merge import merge
from app.recordings.model import parse_recording
from app.settings import StorageConfig, WebDavConfig
from app.store.documents import document_id, to_document
from app.store.indices import alias
from benchmarks import stage as stages
from benchmarks.attacks import (
    ATTACKER,
    ATTACKS,
    LARGE_BYTES,
    WITH_LARGE,
    ClientConnection,
    Target,
    a_recording,
    connected,
    post,
    recordings_path,
    under_attack,
)
from benchmarks.client import OPS_USER, Request, authorization, put
from benchmarks.load import Measured
from benchmarks.processor import burning, seconds_of_servers
from benchmarks.servers import nginx_webdav, slow_webdav
from benchmarks.stage import CONTACT_CENTER, REGION, Stage, on_stage, service
from benchmarks.tables import print_row

VICTIM = CONTACT_CENTER
KINDS = ("search", "read", "play", "post")

_LARGE_RECORDINGS = 100
_OF_VICTIM = 1_000
_FILE_BYTES = 64 * 1024
_LONG_FILE_BYTES = 20_000_000
MAX_BODY_BYTES = 4 * 1024 * 1024
# Until an attack, or the end of one, has its effect.
_SETTLE_SECONDS = 2.0


@click.command("isolation", cls=Command)
@stages.recordings(50_000)
@stages.seconds(8)
@click.option("--attack", "attacks", metavar="TEXT", multiple=True, help="Only attacks whose names contain this.")
def command(**options: Any) -> None:
    """Ask in one contact center while another one attacks."""
    on_stage(partial(isolation, **options))


async def isolation(stage: Stage, *, recordings: int, seconds: float, attacks: tuple[str, ...]) -> None:
    """Measures a well-behaved client alone, beside each attack, and beside as much work outside the service."""
    with storages() as (configured, media, slow):
        await load(stage, recordings)
        settings = msgspec.structs.replace(
            stage.settings,
            storage=configured,
            max_body_bytes=MAX_BODY_BYTES,
            elasticsearch_timeout=4.0,
        )
        print_row(
            "attack", "request", "alone p95 ms", "attack p95", "of alone", "same work outside", "refused", "answers"
        )
        print_row("---", "---", *["---:"] * 6)
        with service(settings) as url:
            target = Target((url,), REGION, f"{media}/short", f"{media}/long", slow)
            async with victim_of(target) as victim:
                await victim.measure(stage, seconds)  # to warm up
                for name in ATTACKS:
                    if not attacks or any(text in name for text in attacks):
                        await _beside(stage, name, target, victim, seconds)


async def _beside(stage: Stage, name: str, target: Target, victim: "Victim", seconds: float) -> None:
    await asyncio.sleep(_SETTLE_SECONDS)
    alone = await victim.measure(stage, seconds)
    if alone.refused.total():
        raise LoadError(f"the client alone is refused: {alone.refused}")
    with under_attack(name, target) as end:
        await asyncio.sleep(_SETTLE_SECONDS)
        attacked = await victim.measure(stage, seconds)
        answers = await asyncio.to_thread(end)
    with burning(max(0.0, attacked.cores - alone.cores)):
        await asyncio.sleep(_SETTLE_SECONDS)
        beside = await victim.measure(stage, seconds)
    for kind in KINDS:
        p95 = [side.measured.percentile(95, kind) for side in (alone, attacked, beside)]
        count = len(attacked.measured.latencies[kind])
        ratios = [f"{p95[1] / p95[0]:.1f}", f"{p95[2] / p95[0]:.1f}"]
        print_row(name, kind, f"{p95[0]:.1f}", f"{p95[1]:.1f}", *ratios, str(attacked.refused[kind]), str(count))
    cores = f"{alone.cores:.2f} cores alone, {attacked.cores:.2f} attacked"
    print(f"<!-- {name}: {dict(answers)}; the servers took {cores} -->", flush=True)


class Measurement:
    """What the victim saw: latencies, answers that were no success, and how many cores the servers took."""

    def __init__(self) -> None:
        self.measured = Measured(latencies={kind: [] for kind in KINDS})
        self.refused: Counter[str] = Counter()
        self.cores = 0.0


class Victim:
    """A well-behaved client: it searches, reads, plays and posts in turn, on one connection."""

    def __init__(self, url: str, connections: AsyncExitStack, requests: dict[str, Request]) -> None:
        self._url = url
        self._connections = connections
        self._connection: ClientConnection | None = None
        self._requests = requests

    async def _ask(self, request: Request) -> int:
        """Returns the status; on a new connection, as clients do, when the service has closed the idle one."""
        if self._connection is not None:
            try:
                return (await self._connection.ask(request))[0]
            except (OSError, asyncio.IncompleteReadError):
                self._connection = None
        self._connection = await self._connections.enter_async_context(connected(self._url))
        return (await self._connection.ask(request))[0]

    async def measure(self, stage: Stage, seconds: float) -> Measurement:
        measurement, spent, begun = Measurement(), await _seconds_spent(stage), time.monotonic()
        while time.monotonic() < begun + seconds:
            for kind in KINDS:
                asked = time.perf_counter()
                status = await self._ask(self._requests[kind])
                measurement.measured.latencies[kind].append(time.perf_counter() - asked)
                measurement.refused[kind] += status not in {200, 201}
        measurement.cores = (await _seconds_spent(stage) - spent) / (time.monotonic() - begun)
        return measurement


async def _seconds_spent(stage: Stage) -> float:
    """Returns the processor time of all servers so far."""
    return seconds_of_servers() + await stage.seconds_of_elasticsearch()


@asynccontextmanager
async def victim_of(target: Target) -> AsyncIterator[Victim]:
    """Yields the client, which has posted a recording to read and to play."""
    recording = a_recording(VICTIM, target.region, [target.media])
    headers = (authorization(OPS_USER),)
    path = recordings_path(VICTIM)
    read = Request("GET", f"{path}/{recording['id']}", headers)
    async with connected(target.urls[0]) as connection:
        status, body = await connection.ask(post(VICTIM, recording))
        if status != 201:
            raise LoadError(f"the client's post is {status}: {body[:200]!r}")
        _, body = await connection.ask(read)
        media = codec.decode(body)["recording"]["mediaFiles"][0]
        requests = {
            "search": Request("GET", f"{path}?startTime=0", headers),
            "read": read,
            "play": Request("GET", f"/api/v2{media['mediaPath']}", headers),
            "post": post(VICTIM, a_recording(VICTIM, target.region, [target.media], seed=8)),
        }
        async with AsyncExitStack() as connections:
            yield Victim(target.urls[0], connections, requests)


@contextmanager
def storages() -> Iterator[tuple[StorageConfig, str, str]]:
    """Yields the configuration of two storages, and their URLs: a fast one with files, and one that deletes slowly."""
    with nginx_webdav() as webdav, slow_webdav() as slow:
        put(f"{webdav.url}/short", b"s" * _FILE_BYTES)
        put(f"{webdav.url}/long", b"l" * _LONG_FILE_BYTES)
        yield StorageConfig((WebDavConfig(webdav.url), WebDavConfig(slow))), webdav.url, slow


async def load(stage: Stage, recordings: int, large: int = _LARGE_RECORDINGS) -> None:
    """Loads the attacker's recordings, small and large, and the victim's."""
    await stage.load_ours(Sample(ATTACKER, REGION), recordings)
    await stage.load_ours(Sample(VICTIM, REGION, seed=2), _OF_VICTIM)
    index = alias(stage.settings, "recordings")
    for _ in range(large):
        posted = a_recording(WITH_LARGE, REGION, ["http://127.0.0.1/none"])
        posted["eventHistory"][0]["data"] = {"notes": "n" * LARGE_BYTES}
        recording = merge(None, parse_recording(posted))
        await stage.client.index(
            index=index,
            id=document_id(WITH_LARGE, REGION, recording["id"]),
            document=to_document(WITH_LARGE, recording),
        )
    await stage.client.indices.refresh(index=index)
    await stage.settle()
