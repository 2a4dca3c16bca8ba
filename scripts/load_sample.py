#!/usr/bin/env python3
"""Load made-up recordings, always the same for one seed. What is there already stays as it is.

Elasticsearch, index prefix and region come from the service's own configuration (RECALL_…).
"""

import argparse
import asyncio
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from elasticsearch import ApiError, AsyncElasticsearch, BadRequestError, TransportError
from tqdm import tqdm

from app import codec
from app.arguments import contact_center, positive
from app.embedded.sample import DEMO_CONTACT_CENTER, sample_recordings, start_of_today
from app.embedded.sample_v1 import v1_document
from app.errors import RecallError
from app.recordings.merge import merge
from app.recordings.model import Recording, parse_recording
from app.settings import ConfigurationError, Settings, load_settings
from app.store.client import connect
from app.store.documents import document_id, to_document
from app.store.indices import SchemaMismatch, alias, create_indices

# While Elasticsearch works on some bulk requests, Python prepares the next: together they fill two cores.
_REQUESTS_AT_ONCE = 3
_REQUEST_SECONDS = 60.0
_ATTEMPTS = 7
_FIRST_PAUSE = 0.5
_SAY_EVERY_SECONDS = 10.0

_V1 = Path(__file__).parents[1] / "es_mappings" / "v1" / "recordings.json"

_OVERLOADED = frozenset({429, 502, 503, 504})


class LoadError(Exception):
    """The loading cannot go on."""


@dataclass(frozen=True)
class Sample:
    """Which recordings."""

    contact_center: str
    region: str
    seed: int = 1
    until: datetime = field(default_factory=start_of_today)

    def recordings(self, first: int, count: int) -> Iterator[Recording]:
        """Recordings `first` to `first + count`, in their stored form."""
        for posted in sample_recordings(
            count,
            seed=self.seed,
            region=self.region,
            contact_center=self.contact_center,
            first=first,
            until=self.until,
        ):
            yield merge(None, parse_recording(posted))


# Contact center and a recording in its stored form → its `_id`, or its document, in one schema or another.
ToId = Callable[[str, Recording], str]
ToDocument = Callable[[str, Recording], dict[str, Any]]


def _id_in_v2(contact_center: str, recording: Recording) -> str:
    return document_id(contact_center, recording["region"], recording["id"])


class Loader:
    """Stores samples in one index, and counts what becomes of them."""

    def __init__(
        self,
        client: AsyncElasticsearch,
        index: str,
        to_document: ToDocument,
        *,
        to_id: ToId = _id_in_v2,
        is_alias: bool = True,
    ) -> None:
        self._client = client.options(request_timeout=_REQUEST_SECONDS)
        self._index = index
        self._to_document = to_document
        self._to_id = to_id
        self._is_alias = is_alias
        self.stored = self.already_there = 0
        # Why documents were refused, by kind: how many, and the first of them in Elasticsearch's words.
        self.refused: Counter[str] = Counter()
        self.examples: dict[str, str] = {}

    async def load(self, sample: Sample, count: int, batch: int, advance: Callable[[int], object]) -> None:
        """Stores the first `count` recordings of a sample and makes them searchable. Raises LoadError."""
        batches = iter(range(0, count, batch))

        async def work() -> None:
            for first in batches:  # all workers take from the same iterator
                size = min(batch, count - first)
                await self._store(self._operations(sample, first, size))
                advance(size)

        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(_REQUESTS_AT_ONCE):
                    workers.create_task(work())
            await self._client.indices.refresh(index=self._index)
        except* (TransportError, ApiError) as errors:
            raise LoadError(f"Elasticsearch fails: {errors.exceptions[0]}") from errors

    def _operations(self, sample: Sample, first: int, count: int) -> list[bytes]:
        return [
            codec.encode({"create": {"_id": self._to_id(sample.contact_center, recording)}})
            + b"\n"
            + codec.encode(self._to_document(sample.contact_center, recording))
            for recording in sample.recordings(first, count)
        ]

    async def _store(self, operations: list[bytes]) -> None:
        """Tries until every operation has an answer other than "too busy", or too often."""
        pause = _FIRST_PAUSE
        for attempts_left in reversed(range(_ATTEMPTS)):
            try:
                items = await self._bulk(operations)
            except (TransportError, ApiError) as error:
                # Nothing is stored twice if the answer only got lost: an operation creates or does nothing.
                overloaded = isinstance(error, TransportError) or error.status_code in _OVERLOADED
                if not (overloaded and attempts_left):
                    raise
            else:
                busy = [i for i, item in enumerate(items) if item["status"] == 429] if attempts_left else []
                for i in set(range(len(items))) - set(busy):
                    self._count(items[i])
                operations = [operations[i] for i in busy]
            if not operations:
                return
            await asyncio.sleep(pause)
            pause *= 2

    async def _bulk(self, operations: Any) -> list[dict[str, Any]]:
        response = await self._client.bulk(
            index=self._index,
            operations=operations,
            require_alias=self._is_alias,
            filter_path=["items.create.status", "items.create.error"],
        )
        return [item["create"] for item in response.body["items"]]

    def _count(self, item: dict[str, Any]) -> None:
        if item["status"] == 201:
            self.stored += 1
        elif item["status"] == 409:
            self.already_there += 1
        else:
            error = item.get("error", {})
            kind = f"{item['status']} {error.get('type')}"
            self.refused[kind] += 1
            self.examples.setdefault(kind, str(error.get("reason")))


@contextmanager
def progress(total: int, what: str, unit: str = "recordings") -> Iterator[Callable[[int], object]]:
    """Shows how far the work is: a bar on a terminal, a line every ten seconds elsewhere."""
    if sys.stderr.isatty():
        with tqdm(total=total, desc=what, unit=f" {unit}", file=sys.stderr) as bar:
            yield bar.update
        return
    begun = said = time.monotonic()
    done = 0

    def advance(count: int) -> None:
        nonlocal done, said
        done += count
        now = time.monotonic()
        if now - said >= _SAY_EVERY_SECONDS:
            said = now
            rate = done / (now - begun)
            left = f", {max(total - done, 0) / rate:.0f} s left" if rate else ""
            print(f"{what}: {done} of {total} {unit}, {rate:.0f}/s{left}", file=sys.stderr, flush=True)

    yield advance


async def load_sample(settings: Settings, sample: Sample, count: int, batch: int) -> Loader:
    """Loads into the service's own index, which is made if it is missing.

    Raises LoadError, RecallError or SchemaMismatch.
    """
    async with connect(settings) as client:
        await create_indices(client, settings)
        loader = Loader(client, alias(settings, "recordings"), to_document)
        with progress(count, "loading") as advance:
            await loader.load(sample, count, batch, advance)
    return loader


async def load_sample_v1(settings: Settings, sample: Sample, count: int, batch: int) -> Loader:
    """Loads into an index of schema v1, of the sample's contact center, which is made if it is missing.

    Raises LoadError.
    """
    async with connect(settings) as client:
        index = await create_v1_index(client, settings, sample.contact_center)
        loader = Loader(
            client,
            index,
            lambda _, recording: v1_document(recording),
            to_id=lambda _, recording: str(recording["id"]),
            is_alias=False,
        )
        with progress(count, "loading") as advance:
            await loader.load(sample, count, batch, advance)
    return loader


async def create_v1_index(client: AsyncElasticsearch, settings: Settings, contact_center: str) -> str:
    """Makes the index of schema v1 of a contact center, if it is missing, and returns its name. Raises LoadError."""
    index = f"{alias(settings, 'recordings')}-v1-{contact_center}"
    try:
        await client.options(request_timeout=_REQUEST_SECONDS).indices.create(
            index=index,
            **codec.decode(_V1.read_bytes()),
        )
        await client.indices.put_settings(index=index, settings={"index.number_of_replicas": settings.replicas})
    except BadRequestError as error:
        if error.error != "resource_already_exists_exception":
            raise LoadError(f"Elasticsearch refuses to make the index {index}: {error}") from error
    except (TransportError, ApiError) as error:
        raise LoadError(f"Elasticsearch fails: {error}") from error
    return index


def _report(loader: Loader, count: int, seconds: float) -> None:
    print(
        f"{count} recordings: {loader.stored} stored, {loader.already_there} already there, "
        f"{loader.refused.total()} refused, in {seconds:.1f} s ({count / seconds:.0f}/s)"
    )
    for kind, number in loader.refused.most_common():
        print(f"refused {number} times: {kind}: {loader.examples[kind]}", file=sys.stderr)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", metavar="N", type=positive, help="how many recordings")
    parser.add_argument("--seed", type=int, default=1, help="another seed, other recordings (default: 1)")
    parser.add_argument("--contact-center", default=DEMO_CONTACT_CENTER, type=contact_center)
    parser.add_argument("--region", type=_region, help="default: the one that is configured")
    parser.add_argument("--batch", type=positive, default=500, help="recordings in a bulk request (default: 500)")
    parser.add_argument("--schema", choices=("v1", "v2"), default="v2", help="v1: as an earlier deployment has them")
    return parser.parse_args()


def _region(text: str) -> str:
    if not text or text != text.strip():
        raise argparse.ArgumentTypeError("it must be without leading or trailing white space, and not empty")
    return text


def main() -> None:
    """The command line."""
    options = _options()
    # What goes wrong is said once, below; the libraries' warnings about every attempt would bury it.
    logging.basicConfig(level=logging.CRITICAL)
    try:
        settings = load_settings()
        sample = Sample(options.contact_center, options.region or settings.region, options.seed)
        begun = time.monotonic()
        loader = asyncio.run(
            (load_sample_v1 if options.schema == "v1" else load_sample)(settings, sample, options.count, options.batch)
        )
    except ConfigurationError as error:
        sys.exit(str(error))
    except RecallError as error:
        sys.exit(f"cannot use the Elasticsearch at {settings.elasticsearch_url}: {error.__cause__ or error}")
    except (LoadError, SchemaMismatch) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("interrupted; what was stored stays, and another run loads the rest")
    _report(loader, options.count, time.monotonic() - begun)
    if loader.stored + loader.already_there != options.count:
        sys.exit(1)


if __name__ == "__main__":
    main()
