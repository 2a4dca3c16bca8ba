"""Loads the made-up recordings of `app.embedded.sample` straight into Elasticsearch."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from importlib.resources import files
from typing import Any

from elasticsearch import ApiError, AsyncElasticsearch, BadRequestError, TransportError

from app import codec
from app.embedded.sample import SAMPLE_LABELS, sample_labels, sample_recordings, start_of_today
from app.embedded.sample_v1 import v1_document
from app.errors import DisplayNameExists, LabelDefinitionExists
from app.lifecycle.labels import Labelling
from app.progress import progress
from app.recordings.merge import merge
from app.recordings.model import Recording, parse_recording
from app.retry import TRANSIENT_STATUSES, Backoff
from app.settings import Settings
from app.store.client import connect
from app.store.documents import document_id, to_document
from app.store.indices import alias, create_indices
from app.store.label_definitions import LabelDefinitionStore
from app.store.repository import RecordingRepository

# While Elasticsearch works on some bulk requests, Python prepares the next one. Together they fill two cores.
_CONCURRENT_REQUESTS = 3
_REQUEST_SECONDS = 60.0
_ATTEMPTS = 7
_INITIAL_BACKOFF = 1.0
_MAX_BACKOFF = 32.0


class LoadError(Exception):
    """Elasticsearch has failed or has refused an index, and the loading cannot continue."""


@dataclass(frozen=True)
class Sample:
    """Names the recordings to load: the same values always name the same recordings."""

    contact_center: str
    region: str
    seed: int = 1
    until: datetime = field(default_factory=start_of_today)

    def recordings(self, first: int, count: int) -> Iterator[Recording]:
        """Yields recordings `first` to `first + count` in their stored form."""
        for posted in sample_recordings(
            count,
            seed=self.seed,
            region=self.region,
            contact_center=self.contact_center,
            first=first,
            until=self.until,
        ):
            yield merge(None, parse_recording(posted))


# Contact center and recording in its stored form → `_id` or document, in either schema.
ToId = Callable[[str, Recording], str]
ToDocument = Callable[[str, Recording], dict[str, Any]]


def _id_in_v2(contact_center: str, recording: Recording) -> str:
    return document_id(contact_center, recording["region"], recording["id"])


class Loader:
    """Stores samples in one index, and counts the stored, the existing and the refused documents."""

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
        # Refused documents by status and error type: their number, and Elasticsearch's reason for the first one.
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
                for _ in range(_CONCURRENT_REQUESTS):
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
        """Repeats operations that Elasticsearch was too busy for, a limited number of times."""
        backoff = Backoff(initial=_INITIAL_BACKOFF, maximum=_MAX_BACKOFF)
        for attempts_left in reversed(range(_ATTEMPTS)):
            try:
                items = await self._bulk(operations)
            except (TransportError, ApiError) as error:
                # The operations are idempotent: each creates its document or does nothing.
                overloaded = isinstance(error, TransportError) or error.status_code in TRANSIENT_STATUSES
                if not (overloaded and attempts_left):
                    raise
            else:
                busy = [i for i, item in enumerate(items) if item["status"] == 429] if attempts_left else []
                for i in set(range(len(items))) - set(busy):
                    self._count(items[i])
                operations = [operations[i] for i in busy]
            if not operations:
                return
            await backoff.wait()

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


async def define_sample_labels(client: AsyncElasticsearch, settings: Settings, contact_center: str) -> None:
    """Adds the definitions of the sample's labels to a contact center, as far as it has none of their names."""
    labelling = Labelling(LabelDefinitionStore(client, settings), RecordingRepository(client, settings))
    for definition in SAMPLE_LABELS:
        with suppress(LabelDefinitionExists, DisplayNameExists):
            await labelling.define(contact_center, definition)


async def load_sample(settings: Settings, sample: Sample, count: int, batch: int) -> Loader:
    """Loads into the service's own index, and creates it if it is missing. Half of the recordings have labels.

    Raises LoadError, RecallError or SchemaMismatch.
    """

    def labelled(contact_center: str, recording: Recording) -> dict[str, Any]:
        return to_document(contact_center, recording, labels=sample_labels(recording, seed=sample.seed) or None)

    async with connect(settings) as client:
        await create_indices(client, settings)
        await define_sample_labels(client, settings, sample.contact_center)
        loader = Loader(client, alias(settings, "recordings"), labelled)
        with progress(count, "loading") as advance:
            await loader.load(sample, count, batch, advance)
    return loader


async def load_sample_v1(settings: Settings, sample: Sample, count: int, batch: int) -> Loader:
    """Loads into the schema v1 index of the sample's contact center, and creates it if it is missing.

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


def v1_schema() -> dict[str, Any]:
    """Returns the mappings and settings of an index of schema v1."""
    schema: dict[str, Any] = codec.decode((files("es_mappings") / "v1" / "recordings.json").read_bytes())
    return schema


async def create_v1_index(client: AsyncElasticsearch, settings: Settings, contact_center: str) -> str:
    """Creates the schema v1 index of a contact center if it is missing. Returns its name. Raises LoadError."""
    index = f"{alias(settings, 'recordings')}-v1-{contact_center}"
    try:
        await client.options(request_timeout=_REQUEST_SECONDS).indices.create(
            index=index,
            **v1_schema(),
        )
        await client.indices.put_settings(index=index, settings={"index.number_of_replicas": settings.replicas})
    except BadRequestError as error:
        if error.error != "resource_already_exists_exception":
            raise LoadError(f"Elasticsearch refuses to create the index {index}: {error}") from error
    except (TransportError, ApiError) as error:
        raise LoadError(f"Elasticsearch fails: {error}") from error
    return index
