"""`bench.py access`: pages of users who see a part beside an administrator's, and searches beside `took`.

Half of the recordings have labels, access groups and partitions.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any
from urllib.parse import urlencode

import click
from argon2 import PasswordHasher

from app.auth.scope import Scope, limits_of
from app.cli.framework import Command
from app.cli.types import POSITIVE
from app.embedded.loader import Loader, LoadError, Sample, define_sample_labels
from app.embedded.sample import SAMPLE_LABELS, sample_labels
from app.recordings.dates import parse_instant
from app.recordings.merge import merge
from app.recordings.model import Recording
from app.search.criteria import parse_search
from app.search.paging import PageRequest
from app.search.query import search_body
from app.settings import User
from app.store.documents import to_document
from app.store.indices import alias, create_indices
from benchmarks import stage as stages
from benchmarks.client import PASSWORD, USER, Request, authorization
from benchmarks.load import Measured, load
from benchmarks.stage import CONTACT_CENTER, REGION, Stage, on_stage, service
from benchmarks.tables import print_row

_MOST_TIMES_SLOWER = 1.5
_MOST_MILLISECONDS = 10.0

# What a user sees of the sample, from much to little: its groups are countries with four parts each.
_ENTRIES: dict[str, dict[str, Any]] = {
    "groups": {"access_groups": ("/US", "/DE")},
    "one group": {"access_groups": ("/CZ/North",)},
    "partitions": {"partitions": ("emea", "apac")},
    "groups and partitions": {"access_groups": ("/UK",), "partitions": ("pci",)},
    "groups and own recordings": {"access_groups": ("/IN",), "own_recordings": True},
}


@dataclass(frozen=True)
class _Question:
    """A search: its parameters are those of the API."""

    kind: str
    parameters: tuple[tuple[str, str], ...]


@click.command("access", cls=Command)
@stages.recordings(1_000_000)
@stages.rounds(10)
@stages.seconds(2)
@click.option("--questions", metavar="N", type=POSITIVE, default=300, help="Of each kind (default: 300).")
def command(**options: Any) -> None:
    """Search as users who see a part, and by label, duration and callUUID."""
    on_stage(partial(access, **options))


async def access(stage: Stage, *, recordings: int, rounds: int, seconds: float, questions: int) -> None:
    """Pages of 100 for limited users beside an administrator's, and searches beside Elasticsearch's `took`."""
    sample = Sample(CONTACT_CENTER, REGION)
    users = _users(next(sample.recordings(0, 1)))
    await create_indices(stage.client, stage.settings)
    await define_sample_labels(stage.client, stage.settings, CONTACT_CENTER)
    index = alias(stage.settings, "recordings")
    await stage.load(Loader(stage.client, index, _document), sample, recordings, "recordings")
    await stage.settle()
    asked = _questions(sample, recordings, questions)
    with service(stage.settings, tuple(users.values())) as url:
        pages = await _pages(url, users, asked["page"], rounds, seconds)
        _print_pages(recordings, pages)
        print(
            "\nSearches one after the other. `took` is what Elasticsearch says of the same search, asked directly ",
            end="",
        )
        print("directly after the API was.\n")
        wanted = f"wanted: < {_MOST_MILLISECONDS:g} ms"
        print_row("search", "user", "API p50 ms", "took p50 ms", "median difference", wanted)
        print_row("---", "---", *["---:"] * 4)
        for kind in ("label", "duration", "callUUID"):
            for name, user in {"administrator": None, **users}.items():
                await _print_beside_took(stage, url, asked[kind], name, user)


def _users(recording: Recording) -> dict[str, User]:
    """Users who see a part, by what limits them; the one with own recordings is an agent of the sample."""
    agent = next(e["contact"]["userName"] for e in recording["eventHistory"] if e["contact"]["type"] == "User")
    password_hash = PasswordHasher().hash(PASSWORD)
    return {
        name: User(
            agent if entry.get("own_recordings") else name.replace(" ", "-"),
            password_hash,
            ("supervisor",),
            CONTACT_CENTER,
            **entry,
        )
        for name, entry in _ENTRIES.items()
    }


def _document(contact_center: str, recording: Recording) -> dict[str, Any]:
    """Every other recording has labels, access groups and partitions."""
    random_ = random.Random(f"access/{recording['id']}")
    if random_.random() < 0.5:
        media = [
            {key: value for key, value in one.items() if key not in {"accessgroups", "partitions"}}
            for one in recording["mediaFiles"]
        ]
        return to_document(contact_center, merge(None, {**recording, "mediaFiles": media}))
    seed = next(seed for seed in range(1, 100) if sample_labels(recording, seed=seed))
    return to_document(contact_center, recording, labels=sample_labels(recording, seed=seed))


def _questions(sample: Sample, count: int, number: int) -> dict[str, list[_Question]]:
    random_ = random.Random(1)

    def some() -> Iterator[Recording]:
        for _ in range(number):
            yield next(sample.recordings(random_.randrange(count), 1))

    def page(recording: Recording) -> dict[str, str]:
        return {"endTime": recording["stopTime"]}

    def label(_: Recording) -> dict[str, str]:
        names = [definition.name for definition in random_.sample(SAMPLE_LABELS, 2)]
        return {"label": random_.choice((names[0], " AND ".join(names), f"{names[0][:4]}*"))}

    def duration(recording: Recording) -> dict[str, str]:
        seconds = (parse_instant(recording["stopTime"]) - parse_instant(recording["startTime"])) // 1000
        return {"minDuration": str(seconds), "maxDuration": str(seconds + random_.choice((1, 10, 600)))}

    def call_uuid(recording: Recording) -> dict[str, str]:
        return {"callUUID": recording["mediaFiles"][0]["callUUID"]}

    makers = {"page": page, "label": label, "duration": duration, "callUUID": call_uuid}
    return {
        kind: [_Question(kind, tuple(make(recording).items())) for recording in some()] for kind, make in makers.items()
    }


def _request(question: _Question, user: User | None) -> Request:
    headers = (authorization(user.name if user else USER), ("Accept", "application/json"))
    return Request("GET", f"/api/v2/recordings?{urlencode(question.parameters)}", headers)


async def _pages(
    url: str, users: dict[str, User], questions: list[_Question], rounds: int, seconds: float
) -> dict[str, list[float]]:
    """Returns the median milliseconds of a page in each round but the first; all users take turns."""
    taken: dict[str, list[float]] = {}
    for number in range(rounds + 1):
        for name, user in {"administrator": None, **users}.items():
            measured = Measured()
            requests = [(name, _request(question, user)) for question in questions]
            await load(url, requests, measured, connections=1, seconds=seconds)
            if number:  # the first one is for the caches and the Java compiler
                taken.setdefault(name, []).append(measured.percentile(50))
    return taken


def _print_pages(recordings: int, pages: dict[str, list[float]]) -> None:
    print(f"\nPages of 100, the newest that ended before a random time, of {recordings} recordings:\n")
    print_row("user", "p50 ms", f"times an administrator's (wanted: at most {_MOST_TIMES_SLOWER})")
    print_row("---", "---:", "---:")
    for name, taken in pages.items():
        ratios = [one / other for one, other in zip(taken, pages["administrator"], strict=True)]
        print_row(name, f"{median(taken):.1f}", f"{median(ratios):.2f}")


async def _print_beside_took(stage: Stage, url: str, questions: list[_Question], name: str, user: User | None) -> None:
    scope = Scope(CONTACT_CENTER, REGION, limits_of(user) if user else None)
    index = alias(stage.settings, "recordings")
    api, took = [], []
    for question in questions:
        measured = Measured()
        await load(url, [(question.kind, _request(question, user))], measured, connections=1)
        criteria, _ = parse_search([*question.parameters])
        answer = await stage.client.search(index=index, body=search_body(scope, criteria, PageRequest()))
        if answer.body["timed_out"]:
            raise LoadError(f"Elasticsearch timed out for {question}")
        api.append(measured.percentile(50))
        took.append(float(answer.body["took"]))
    differences = [ours - theirs for ours, theirs in zip(api, took, strict=True)]
    met = sum(difference < _MOST_MILLISECONDS for difference in differences) / len(differences)
    print_row(
        questions[0].kind,
        name,
        f"{median(api):.1f}",
        f"{median(took):.0f}",
        f"{median(differences):.1f} ms",
        f"{met:.0%} of them",
    )
