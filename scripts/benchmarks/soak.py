"""`bench.py soak`: normal and hostile clients for many minutes. Nothing is lost, and all is as before afterwards."""

import asyncio
import random
import time
from asyncio import IncompleteReadError
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import quote

import click
import msgspec
from prometheus_client.parser import text_string_to_metric_families

from app import codec
from app.cli.framework import Command
from app.embedded.loader import LoadError
from benchmarks import stage as stages
from benchmarks.attacks import (
    ATTACKS,
    ClientConnection,
    Target,
    a_recording,
    connected,
    post,
    recordings_path,
    under_attack,
)
from benchmarks.client import OPS_USER, Request, authorization, fetch
from benchmarks.isolation import MAX_BODY_BYTES, VICTIM, load, storages
from benchmarks.stage import REGION, Stage, on_stage, service
from benchmarks.tables import print_row

_PROCESSES = 2
_CLIENTS = 3  # of each kind, in all
_CONCURRENT_ATTACKS = 2
_ATTACK_SECONDS = 20.0
# After the last attack: what a process holds for a client that left is given back within so long.
_REST_SECONDS = 15.0
_PAUSE_SECONDS = 0.05
_MOST_GROWTH = 1.25
_GROWTH_ALLOWED = 48 * 2**20
_MORE_DESCRIPTORS = 64  # connections to Elasticsearch and to the storages, which are kept
_MORE_TASKS = 20
_GIVEN_UP = frozenset({429, 503})


@click.command("soak", cls=Command)
@stages.recordings(20_000)
@click.option("--minutes", metavar="N", type=float, default=20.0, help="(default: 20)")
@click.option("--large", metavar="N", type=int, default=100, help="Recordings of 1 MiB (default: 100).")
def command(**options: Any) -> None:
    """Work and attack for some time, then look for what is lost, and for what has grown."""
    on_stage(partial(soak, **options))


@dataclass(frozen=True)
class Sample:
    """What one process says of itself."""

    memory: float
    descriptors: float
    tasks: float
    late: dict[str, float]  # observations of the event loop's delay, by upper bound in seconds

    @classmethod
    def of(cls, url: str) -> "Sample":
        status, body = fetch(url, Request("GET", "/metrics"))
        if status != 200:
            raise LoadError(f"/metrics is {status}")
        values: dict[str, float] = {}
        late: dict[str, float] = {}
        for family in text_string_to_metric_families(body.decode()):
            for sample in family.samples:
                values[sample.name] = sample.value
                if sample.name == "recall_event_loop_delay_seconds_bucket":
                    late[sample.labels["le"]] = sample.value
        return cls(values["process_resident_memory_bytes"], values["process_open_fds"], values["recall_tasks"], late)


@dataclass
class Work:
    """What normal clients have done: the recordings that exist, and those under a hold."""

    target: Target
    stored: set[str] = field(default_factory=set)
    held: set[str] = field(default_factory=set)
    uncertain: set[str] = field(default_factory=set)  # an answer was a 503, or none
    answers: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    async def clients(self, kind: str, work: Callable[[ClientConnection], Awaitable[None]]) -> None:
        """Runs the clients of one kind for ever."""

        async def client(url: str) -> None:
            while True:
                with suppress(OSError, IncompleteReadError):
                    async with connected(url) as connection:
                        while True:
                            await work(connection)
                            await asyncio.sleep(_PAUSE_SECONDS)
                self.answers[f"{kind} cut"] += 1
                await asyncio.sleep(_PAUSE_SECONDS)

        async with asyncio.TaskGroup() as tasks:
            for number in range(_CLIENTS):
                tasks.create_task(client(self.target.urls[number % len(self.target.urls)]))

    async def ask(self, connection: ClientConnection, kind: str, request: Request) -> tuple[int, bytes]:
        status, body = await connection.ask(request)
        self.answers[f"{kind} {status}"] += 1
        if status >= 500 and status != 503:
            self.failures.append(f"{kind} is {status}: {body[:200]!r}")
        return status, body

    async def post(self, connection: ClientConnection) -> None:
        recording = a_recording(VICTIM, REGION, [self.target.media])
        recording_id = recording["id"]
        self.uncertain.add(recording_id)
        status, body = await self.ask(connection, "post", post(VICTIM, recording))
        if status in {200, 201}:
            self.stored.add(recording_id)
            if random.random() < 0.3:
                hold = codec.encode({"operationName": "applyNonDelete"})
                request = Request("POST", _path(recording_id), (authorization(), _JSON), hold)
                status, _ = await self.ask(connection, "hold", request)
                if status == 200:
                    self.held.add(recording_id)
                    self.uncertain.discard(recording_id)
            else:
                self.uncertain.discard(recording_id)
        elif status not in _GIVEN_UP:
            self.failures.append(f"a post is {status}: {body[:200]!r}")

    async def delete(self, connection: ClientConnection) -> None:
        if not self.stored:
            return
        recording_id = random.choice(tuple(self.stored))
        if recording_id in self.uncertain:
            return
        is_held = recording_id in self.held
        if not is_held:
            self.stored.discard(recording_id)
        path = f"{recordings_path(VICTIM)}/{recording_id}"
        status, body = await self.ask(connection, "delete", Request("DELETE", path, (authorization(OPS_USER),)))
        if status not in _GIVEN_UP and status != (403 if is_held else 200):
            self.failures.append(
                f"a deletion of a recording {'with' if is_held else 'without'} a hold is {status}: {body[:200]!r}"
            )

    async def read(self, connection: ClientConnection) -> None:
        known = tuple(self.stored - self.uncertain)
        if known:
            await self._check(connection, random.choice(known))
        search = Request("GET", "/api/v2/recordings?startTime=0", (authorization(),))
        await self.ask(connection, "search", search)

    async def play(self, connection: ClientConnection) -> None:
        known = tuple(self.held - self.uncertain)
        if known:
            _, body = await self.ask(connection, "read", _read(random.choice(known)))
            media = codec.decode(body).get("recording", {}).get("mediaFiles")
            if media:
                await self.ask(
                    connection, "play", Request("GET", f"/api/v2{media[0]['mediaPath']}", (authorization(),))
                )

    async def check_all(self) -> None:
        """Reads every recording that was stored."""
        left = iter(self.stored - self.uncertain)

        async def check(url: str) -> None:
            async with connected(url) as connection:
                for recording_id in left:
                    await self._check(connection, recording_id, patient=True)

        await asyncio.gather(*(check(url) for url in self.target.urls for _ in range(4)))

    async def _check(self, connection: ClientConnection, recording_id: str, *, patient: bool = False) -> None:
        is_held = recording_id in self.held
        status, body = await self.ask(connection, "read", _read(recording_id))
        while patient and status == 503:
            await asyncio.sleep(1)
            status, body = await self.ask(connection, "read", _read(recording_id))
        if status in _GIVEN_UP or (status == 404 and recording_id not in self.stored):  # deleted meanwhile
            return
        recording = codec.decode(body).get("recording", {})
        if status != 200 or recording.get("id") != recording_id:
            self.failures.append(f"{recording_id} was stored, and its read is {status}: {body[:200]!r}")
        elif is_held and recording.get("nonDelete") is not True:
            self.failures.append(f"{recording_id} has lost its hold")


_JSON = ("Content-Type", "application/json")


def _path(recording_id: str) -> str:
    return f"/api/v2/recordings/{quote(recording_id)}"


def _read(recording_id: str) -> Request:
    return Request("GET", _path(recording_id), (authorization(),))


async def soak(stage: Stage, *, recordings: int, minutes: float, large: int) -> None:
    """Raises LoadError when something is lost, answered wrongly, or has grown."""
    with ExitStack() as stack:
        configured, media, slow = stack.enter_context(storages())
        await load(stage, recordings, large)
        settings = msgspec.structs.replace(
            stage.settings, storage=configured, max_body_bytes=MAX_BODY_BYTES, elasticsearch_timeout=4.0
        )
        urls = tuple(stack.enter_context(service(settings)) for _ in range(_PROCESSES))
        target = Target(urls, REGION, f"{media}/short", f"{media}/long", slow)
        work = Work(target)
        before = [Sample.of(url) for url in urls]
        middle, attacks = await _run(work, minutes * 60)
        await asyncio.sleep(_REST_SECONDS)
        after = [Sample.of(url) for url in urls]
        await work.check_all()
        _print(work, attacks, before, middle, after)
        _judge(work, before, middle, after)


async def _run(work: Work, seconds: float) -> tuple[list[Sample], Counter[str]]:
    """Works and attacks; returns what the processes said after the first third, and the attacks' answers."""
    begun = time.monotonic()
    middle: list[Sample] = []
    answers: Counter[str] = Counter()
    kinds = {"post": work.post, "delete": work.delete, "read": work.read, "play": work.play}
    working = asyncio.gather(*(work.clients(kind, one) for kind, one in kinds.items()))
    names = list(ATTACKS)
    try:
        while (left := begun + seconds - time.monotonic()) > 0:
            if len(names) < _CONCURRENT_ATTACKS:
                names = list(ATTACKS)
            chosen = [names.pop(random.randrange(len(names))) for _ in range(_CONCURRENT_ATTACKS)]
            await asyncio.to_thread(_attack, chosen, work.target, min(left, _ATTACK_SECONDS), answers)
            if not middle and time.monotonic() - begun > seconds / 3:
                middle = [Sample.of(url) for url in work.target.urls]
            if working.done():
                await working
    finally:
        working.cancel()
        with suppress(asyncio.CancelledError):
            await working
    return middle or [Sample.of(url) for url in work.target.urls], answers


def _attack(names: list[str], target: Target, seconds: float, answers: Counter[str]) -> None:
    with ExitStack() as stack:
        ends = [stack.enter_context(under_attack(name, target)) for name in names]
        time.sleep(seconds)
        for name, end in zip(names, ends, strict=True):
            answers.update({f"{name}: {what}": count for what, count in end().items()})


def _print(work: Work, attacks: Counter[str], before: list[Sample], middle: list[Sample], after: list[Sample]) -> None:
    print_row("process", "", "before", "after a third", "at the end")
    print_row("---", "---", *["---:"] * 3)
    for number, samples in enumerate(zip(before, middle, after, strict=True), 1):
        print_row(f"{number}", "memory, MiB", *(f"{sample.memory / 2**20:.0f}" for sample in samples))
        print_row(f"{number}", "descriptors", *(f"{sample.descriptors:.0f}" for sample in samples))
        print_row(f"{number}", "tasks", *(f"{sample.tasks:.0f}" for sample in samples))
        for bound in ("0.05", "0.25", "1.0"):
            share = [f"{100 * (1 - sample.late[bound] / max(sample.late['+Inf'], 1)):.2f} %" for sample in samples]
            print_row(f"{number}", f"event loop late by more than {bound} s", *share)
    print(f"\n{len(work.stored)} recordings stored, {len(work.held)} of them held; {len(work.failures)} failures")
    print("answers: " + ", ".join(f"{kind} {count}" for kind, count in sorted(work.answers.items())))
    print("attacks: " + ", ".join(f"{kind} {count}" for kind, count in sorted(attacks.items())), flush=True)


def _judge(work: Work, before: list[Sample], middle: list[Sample], after: list[Sample]) -> None:
    problems = work.failures[:10]
    for earlier, now in zip(before, after, strict=True):
        if now.descriptors > earlier.descriptors + _MORE_DESCRIPTORS or now.tasks > earlier.tasks + _MORE_TASKS:
            problems.append(
                f"{now.descriptors:.0f} descriptors and {now.tasks:.0f} tasks are left; "
                f"before there were {earlier.descriptors:.0f} and {earlier.tasks:.0f}"
            )
    for earlier, now in zip(middle, after, strict=True):
        if now.memory > max(earlier.memory * _MOST_GROWTH, earlier.memory + _GROWTH_ALLOWED):
            problems.append(f"memory has grown from {earlier.memory:.0f} to {now.memory:.0f} bytes")
    if problems:
        raise LoadError("; ".join(problems))
