"""`bench.py search`: the same questions to the API and straight to Elasticsearch."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import click

from app import codec
from app.cli.framework import Command
from app.cli.types import NOT_NEGATIVE, POSITIVE
from app.embedded.loader import LoadError, Sample
from benchmarks import stage as stages
from benchmarks.client import Request, authorization, fetch
from benchmarks.load import Measured, load
from benchmarks.processor import seconds_of_servers
from benchmarks.questions import Question, Questions, keywords_below
from benchmarks.stage import CONTACT_CENTER, REGION, Stage, on_stage, service
from benchmarks.tables import print_row, print_sides

_CONNECTIONS = 8
_KINDS = 9


@click.command("search", cls=Command)
@stages.recordings(200_000)
@stages.rounds(4)
@stages.seconds(10)
@click.option(
    "--questions", metavar="N", type=POSITIVE, default=21_000, help="Different ones in all (default: 21,000)."
)
@click.option("--kind", metavar="TEXT", default="", help="Only questions whose name in the table contains this text.")
@click.option(
    "--check", metavar="N", type=NOT_NEGATIVE, default=140, help="Questions to compare beforehand (default: 140)."
)
@click.option("--alone", is_flag=True, help="Ask each kind of question alone, and also for single recordings.")
@click.option("--merged", is_flag=True, help="Merge each index to one segment before.")
def command(**options: Any) -> None:
    """Search with the API, beside Elasticsearch itself."""
    on_stage(partial(search, **options))


async def search(
    stage: Stage,
    *,
    recordings: int,
    rounds: int,
    seconds: float,
    questions: int,
    kind: str,
    check: int,
    alone: bool,
    merged: bool,
) -> None:
    """Asks the API and Elasticsearch the same questions."""
    sample = Sample(CONTACT_CENTER, REGION)
    ours = await stage.load_ours(sample, recordings)
    plain = await stage.load_plain(sample, recordings)
    await stage.settle()
    if merged:
        await stage.merge(ours)
        await stage.merge(plain)
    fields = await keywords_below(stage.client, plain, "eventHistory.data")
    maker = Questions(sample, recordings, plain, fields)
    if alone:
        kinds = {name: some for name, some in maker.alone(questions // _KINDS).items() if kind in name}
        for index in (ours, plain):
            print(f"{index}: {await stage.segments(index)} segments, {await stage.megabytes(index):.0f} MB\n")
        with service(stage.settings) as app_url:
            await _alone(stage, kinds, {"API": app_url, "direct": stage.settings.elasticsearch_url}, rounds, seconds)
        return
    made = maker.make(questions)
    asked = [question for question in made if kind in question.kind]
    with service(stage.settings) as app_url:
        urls = {"API": app_url, "direct": stage.settings.elasticsearch_url}
        checked = _check(asked[:check], urls)
        sides = await _rounds(asked, urls, rounds, seconds)
    segments = f"{await stage.segments(ours)} (ours) and {await stage.segments(plain)}"
    print(f"\n{recordings} recordings; segments: {segments}; ", end="")
    print(f"{checked} questions compared beforehand, the same ids in the same order from both sides\n")
    _print_search(sides["API"], sides["direct"])


@dataclass
class _Round:
    """One side in one round: requests a second, median latency in milliseconds, and ms of processor a request."""

    rate: float
    p50: float
    service: float
    elasticsearch: float


async def _alone(
    stage: Stage, kinds: dict[str, list[Question]], urls: dict[str, str], rounds: int, seconds: float
) -> None:
    """Asks each kind of question alone, the sides in turn, and prints the medians of all rounds but the first."""
    print_row("question alone", "API/s", "direct/s", "ratio", "p50 ratio", "service ms", "Elasticsearch ms", "directly")
    print_row("---", *["---:"] * 7)
    for name, questions in kinds.items():
        sides: dict[str, list[_Round]] = {side: [] for side in urls}
        for number in range(rounds + 1):
            for side, url in urls.items():
                requests = [(name, question.api if side == "API" else question.direct) for question in questions]
                measured = await _round(stage, url, requests, seconds)
                if number:  # the first one is for the caches and the Java compiler
                    sides[side].append(measured)
        api, direct = sides["API"], sides["direct"]
        pairs = list(zip(api, direct, strict=True))
        print_row(
            name,
            f"{median(one.rate for one in api):.0f}",
            f"{median(one.rate for one in direct):.0f}",
            f"{median(ours.rate / theirs.rate for ours, theirs in pairs):.2f}",
            f"{median(ours.p50 / theirs.p50 for ours, theirs in pairs):.2f}",
            f"{median(one.service for one in api):.2f}",
            f"{median(one.elasticsearch for one in api):.2f}",
            f"{median(one.elasticsearch for one in direct):.2f}",
        )
    # What no search can be faster than: the HTTP server, and the names of who asks and may.
    for name, path in {"asks nothing, of nobody": "/health/live", "asks nothing, with a login": "/api/v2/me"}.items():
        requests = [(name, Request("GET", path, (authorization(),)))]
        some = [await _round(stage, urls["API"], requests, seconds) for _ in range(rounds + 1)][1:]
        rate, service_ms = median(one.rate for one in some), median(one.service for one in some)
        print_row(name, f"{rate:.0f}", "", "", "", f"{service_ms:.2f}", "", "")


async def _round(stage: Stage, url: str, requests: list[tuple[str, Request]], seconds: float) -> _Round:
    measured = Measured()
    service, elasticsearch = seconds_of_servers(), await stage.seconds_of_elasticsearch()
    await load(url, requests, measured, connections=_CONNECTIONS, seconds=seconds)
    count = len(measured.all) / 1000
    return _Round(
        rate=measured.rate,
        p50=measured.percentile(50),
        service=(seconds_of_servers() - service) / count,
        elasticsearch=(await stage.seconds_of_elasticsearch() - elasticsearch) / count,
    )


def _check(questions: Sequence[Question], urls: dict[str, str]) -> int:
    """Fails unless both sides return the same recordings for each question; at least half must return some."""
    answered = 0
    for question in questions:
        status, body = fetch(urls["API"], question.api)
        api = [recording["id"] for recording in codec.decode(body).get("recordings", [])] if status == 200 else body
        hits = codec.decode(fetch(urls["direct"], question.direct)[1])["hits"]["hits"]
        direct = [hit["_source"]["id"] for hit in hits]
        if api != direct:
            raise LoadError(f"the two sides differ for {question}:\n{api!r}\n{direct}")
        answered += bool(direct)
    if answered * 2 < len(questions):
        raise LoadError(f"only {answered} of {len(questions)} questions have an answer")
    return len(questions)


async def _rounds(
    questions: Sequence[Question], urls: dict[str, str], rounds: int, seconds: float
) -> dict[str, Measured]:
    """Runs the sides in turn, so that other load affects both. Each round has its own questions."""
    sides = {name: Measured() for name in urls}
    warm_up = {name: Measured() for name in urls}
    size = len(questions) // (rounds + 1)
    for number in range(rounds + 1):
        some = questions[number * size : (number + 1) * size]
        requests = {"API": [(q.kind, q.api) for q in some], "direct": [(q.kind, q.direct) for q in some]}
        for name, url in urls.items():
            # The first round is for the caches and the Java compiler.
            measured = sides[name] if number else warm_up[name]
            await load(url, requests[name], measured, connections=_CONNECTIONS, seconds=seconds)
            print(f"round {number}, {name}: {measured.rate:.0f} requests/s so far", file=sys.stderr, flush=True)
    return sides


def _print_search(api: Measured, direct: Measured) -> None:
    print_sides(api, direct, "wanted: rate at least 1.0, p50 at most 1.1")
    print()
    print_row("question", "API p50 ms", "p95", "direct p50 ms", "p95", "p50 ratio")
    print_row("---", *["---:"] * 5)
    for kind in sorted(api.latencies.keys() & direct.latencies.keys()):
        cells = [f"{side.percentile(percent, kind):.1f}" for side in (api, direct) for percent in (50, 95)]
        print_row(kind, *cells, f"{api.percentile(50, kind) / direct.percentile(50, kind):.2f}")
