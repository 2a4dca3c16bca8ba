"""`bench.py wildcard`: patterns inside values, by trigrams and by Elasticsearch's `wildcard` on the same index."""

import itertools
import random
import statistics
from collections.abc import Iterator
from functools import partial
from typing import Any

import click

from app.auth.scope import Scope
from app.cli.framework import Command
from app.cli.types import NOT_NEGATIVE, POSITIVE
from app.embedded.loader import LoadError, Sample
from app.search.criteria import CALLER, DIALED, USER_DATA_VALUE, Condition
from app.search.paging import PageRequest
from app.search.parsers import Term, Terms
from app.search.pattern import Pattern
from app.search.query import search_body
from app.store.documents import to_document
from benchmarks import stage as stages
from benchmarks.questions import piece
from benchmarks.stage import CONTACT_CENTER, REGION, Stage, on_stage
from benchmarks.tables import print_row


@click.command("wildcard", cls=Command)
@stages.recordings(200_000)
@stages.rounds(15)
@click.option(
    # A new node takes some thousand searches until Java has compiled the code that they use.
    "--warm-up",
    metavar="N",
    type=NOT_NEGATIVE,
    default=10,
    help="Rounds beforehand (default: 10).",
)
@click.option("--batch", metavar="N", type=POSITIVE, default=50, help="Searches in one request (default: 50).")
def command(**options: Any) -> None:
    """Search inside values, by trigrams and by `wildcard`."""
    on_stage(partial(wildcard, **options))


# Field, way to ask, whether the recordings are read → milliseconds.
Took = dict[tuple[str, str, bool], float]

_WILDCARD_FIELDS = ("callerPhoneNumber", "dialedPhoneNumber", "userData")


async def wildcard(stage: Stage, *, recordings: int, rounds: int, warm_up: int, batch: int) -> None:
    """Patterns inside values: our query beside `wildcard` on a keyword of the same index, small and large."""
    took: dict[int, Took] = {}
    for count in (recordings // 10, recordings):
        # Two indices would share the caches. The small one is removed before the large one is loaded.
        await stage.remove()
        sample = Sample(CONTACT_CENTER, REGION)
        index = await stage.load_ours(sample, count)
        await stage.merge(index)
        took[count] = await _took(stage, index, sample, count, rounds=range(-warm_up, rounds), batch=batch)
    print("\nMilliseconds for one search, by Elasticsearch's own clock (`took`): the median over requests of ", end="")
    print(f"{batch} searches each, one after the other, none with a pattern seen before. Merged to one ", end="")
    print("segment. *Find*: which are the newest 101; *answer*: and read them, which costs both the same.\n")
    _print_wildcard(took)


async def _took(stage: Stage, index: str, sample: Sample, count: int, *, rounds: range, batch: int) -> Took:
    """Returns medians of the milliseconds of a search.

    `took` is in whole milliseconds, and a search takes one or less. So many searches go in one request: its `took`
    is that of all of them, and the rounding is divided by their number.
    """
    random_ = random.Random(1)
    patterns = {name: _patterns(random_, sample, count, name) for name in _WILDCARD_FIELDS}
    took: dict[tuple[str, str, bool], list[float]] = {}
    for round_ in rounds:
        for key in itertools.product(_WILDCARD_FIELDS, ("trigrams", "keyword"), (False, True)):
            searches: list[dict[str, Any]] = []
            for pattern in itertools.islice(patterns[key[0]], batch):
                searches += [{}, _wildcard_body(*key, pattern)]
            answer = await stage.client.msearch(index=index, searches=searches, max_concurrent_searches=1)
            if any(response["status"] != 200 for response in answer.body["responses"]):
                raise LoadError(f"a search failed: {answer.body['responses'][0]}")
            if round_ >= 0:
                # Elasticsearch reports less than a millisecond for all as 0.
                took.setdefault(key, []).append(max(answer.body["took"], 1) / batch)
    return {key: statistics.median(values) for key, values in took.items()}


def _patterns(random_: random.Random, sample: Sample, count: int, name: str) -> Iterator[str]:
    """Returns different patterns: five to seven characters of a stored value between stars."""
    seen = set()
    while True:
        document = to_document(CONTACT_CENTER, next(sample.recordings(random_.randrange(count), 1)))
        values = [value for value in document[name] if len(value) >= 7 and "*" not in value]
        if not values:
            continue
        pattern = f"*{piece(random_, random_.choice(values), random_.randrange(5, 8))}*"
        if pattern not in seen:
            seen.add(pattern)
            yield pattern


def _wildcard_body(name: str, way: str, read: bool, text: str) -> dict[str, Any]:
    criterion = next(criterion for criterion in (CALLER, DIALED, USER_DATA_VALUE) if criterion.name == name)
    pattern = Pattern.parse(text)
    criteria = (Condition(criterion, Terms.any_of(Term(pattern, pattern))),)
    body = search_body(Scope(CONTACT_CENTER, REGION), criteria, PageRequest())
    if way == "keyword":
        filters = [{"term": {"contactCenter": CONTACT_CENTER}}, {"term": {"region": REGION}}]
        body["query"] = {"bool": {"filter": [*filters, {"wildcard": {name: {"value": text}}}]}}
    return body if read else body | {"_source": False, "stored_fields": "_none_"}


def _print_wildcard(took: dict[int, Took]) -> None:
    small, large = took
    ways = ("wildcard on keyword", "trigrams", "times faster")
    print_row("field", "recordings", *(f"{what}: {way}" for what in ("find", "answer") for way in ways))
    print_row("---", *["---:"] * 7)
    for name, count in itertools.product(_WILDCARD_FIELDS, took):
        cells = []
        for read in (False, True):
            keyword, trigrams = took[count][name, "keyword", read], took[count][name, "trigrams", read]
            cells += [f"{keyword:.2f}", f"{trigrams:.2f}", f"{keyword / trigrams:.1f}"]
        print_row(name, str(count), *cells)
    print(f"\nTrigrams, {large} recordings beside {small}:\n")
    print_row("field", "find", "answer")
    print_row("---", "---:", "---:")
    for name in _WILDCARD_FIELDS:
        keys = [(name, "trigrams", read) for read in (False, True)]
        print_row(name, *(f"{took[large][key] / took[small][key]:.2f}" for key in keys))
    print("\nWanted: 10 times faster with the more recordings, and with them at most 2 times slower.")
