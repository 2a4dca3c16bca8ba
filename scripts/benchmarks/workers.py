"""`bench.py workers`: how much more one more worker process answers."""

import sys
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import click
import msgspec

from app.cli.framework import Command
from app.embedded.loader import Sample
from benchmarks import stage as stages
from benchmarks.load import Measured, load
from benchmarks.processor import seconds_by_server
from benchmarks.questions import Questions
from benchmarks.stage import CONTACT_CENTER, REGION, Stage, on_stage, service
from benchmarks.tables import print_row

# The kernel spreads connections by chance. With few of them, one worker gets many more than the other.
_CONNECTIONS = 64
_QUESTIONS = 2_000
_WORKERS = (1, 2)


@click.command("workers", cls=Command)
@stages.recordings(20_000)
@stages.rounds(3)
@stages.seconds(8)
def command(**options: Any) -> None:
    """Compare two workers with one, for pages of 100.

    Elasticsearch and the load generator share the processors with the workers, so requests a second say little here.
    The busiest worker limits the service where Elasticsearch has machines of its own. Its processor time is measured.
    """
    on_stage(partial(workers, **options))


@dataclass
class _Round:
    """Requests a second in all; as many for each second of processor of the busiest worker; ms a request in all."""

    rate: float
    most: float
    service: float


async def workers(stage: Stage, *, recordings: int, rounds: int, seconds: float) -> None:
    """Asks one worker and two the same questions, in turn."""
    sample = Sample(CONTACT_CENTER, REGION)
    index = await stage.load_ours(sample, recordings)
    await stage.settle()
    questions = Questions(sample, recordings, index, ()).full_pages(_QUESTIONS)
    requests = [(question.kind, question.api) for question in questions]
    sides: dict[int, list[_Round]] = {count: [] for count in _WORKERS}
    with ExitStack() as services:
        # One contact center asks with all connections.
        settings = msgspec.structs.replace(
            stage.settings, searches_per_contact_center=16, searches_per_user=16, search_wait_seconds=60
        )
        urls = {
            count: services.enter_context(service(msgspec.structs.replace(settings, workers=count)))
            for count in _WORKERS
        }
        for number in range(rounds + 1):
            for count, side in sides.items():
                before = seconds_by_server()
                measured = Measured()
                await load(urls[count], requests, measured, connections=_CONNECTIONS, seconds=seconds)
                spent = [after - before.get(pid, 0.0) for pid, after in seconds_by_server().items()]
                answers = len(measured.all)
                one = _Round(measured.rate, answers / max(spent), 1000 * sum(spent) / answers)
                print(f"round {number}, {count} workers: {one.rate:.0f} requests/s", file=sys.stderr, flush=True)
                if number:  # the first round is for the Java compiler, and until all workers have started
                    side.append(one)
    print(f"\nMedians of {rounds} rounds of {seconds:g} s, {_CONNECTIONS} connections, pages of 100\n")
    print_row("workers", "requests/s", "requests for a second of the busiest worker", "service ms")
    print_row("---", *["---:"] * 3)
    for count, side in sides.items():
        rate, most, service_ms = (median(getattr(one, name) for one in side) for name in ("rate", "most", "service"))
        print_row(str(count), f"{rate:.0f}", f"{most:.0f}", f"{service_ms:.2f}")
    pairs = list(zip(sides[2], sides[1], strict=True))
    rate, most = (median(getattr(two, name) / getattr(one, name) for two, one in pairs) for name in ("rate", "most"))
    print_row("two to one (wanted: 1.7)", f"{rate:.2f}", f"{most:.2f}", "")
