"""Reads and writes of documents, which share requests to Elasticsearch."""

import asyncio
from random import Random

import hypothesis
import pytest
from elastic_transport import ConnectionError as TransportConnectionError
from elasticsearch import AsyncElasticsearch, BadRequestError, ConflictError, NotFoundError
from hypothesis import strategies

from app import codec
from app.recordings.labels import Label
from app.recordings.merge import merge
from app.recordings.model import parse_recording
from app.settings import Settings
from app.store.document_store import DocumentReader, DocumentWriter, Version, version_of
from app.store.documents import to_document
from app.store.hits import RECORDINGS
from app.store.indices import alias, create_indices
from tests.support.recordings import CONTACT_CENTER, a_recording

TIMEOUT = 10.0


class Documents:
    """A reader and a writer of the documents behind an alias of this test."""

    def __init__(self, client: AsyncElasticsearch, index: str) -> None:
        self.index = index
        self.reader = DocumentReader(client, TIMEOUT, RECORDINGS)
        self.writer = DocumentWriter(client, self.reader, timeout=TIMEOUT, refresh_timeout=TIMEOUT)

    async def put(self, document: str, content: str, version: Version | None = None) -> None:
        await self.writer.put(self.index, document, body_of(content), version)

    async def get(self, document: str) -> tuple[str, Version] | None:
        hit = await self.reader.get(self.index, document)
        if hit is None:
            return None
        content = codec.decode(hit.source.recording)["content"]
        return content, version_of(hit)


def body_of(content: str) -> bytes:
    return codec.encode(to_document(CONTACT_CENTER, merge(None, parse_recording(a_recording(content=content)))))


@pytest.fixture
async def documents(elasticsearch: AsyncElasticsearch, settings: Settings) -> Documents:
    await create_indices(elasticsearch, settings)
    return Documents(elasticsearch, alias(settings, "recordings"))


async def test_documents_of_a_batch_succeed_or_fail_independently(documents: Documents) -> None:
    await documents.put("there", "first")
    found = await documents.get("there")
    assert found
    refused = documents.writer.put(documents.index, "refused", b'{"unknown":"field"}', None)
    nowhere = documents.writer.put(f"{documents.index}-not", "nowhere", body_of("x"), None)
    outcomes = await asyncio.gather(
        *(documents.put(f"new-{i}", str(i)) for i in range(20)),
        documents.put("there", "second"),
        documents.put("there", "third", found[1]),
        documents.put("absent", "fourth", found[1]),
        refused,
        nowhere,
        return_exceptions=True,
    )
    assert outcomes[:20] == [None] * 20
    kinds = [type(outcome) for outcome in outcomes[20:]]
    assert kinds == [ConflictError, type(None), ConflictError, BadRequestError, NotFoundError]
    reads = await asyncio.gather(
        *(documents.get(name) for name in [f"new-{i}" for i in range(20)] + ["there", "absent", "refused", "nowhere"])
    )
    assert [read and read[0] for read in reads] == [*map(str, range(20)), "third", None, None, None]
    with pytest.raises(NotFoundError):
        await documents.reader.get(f"{documents.index}-not", "nowhere")


@pytest.mark.parametrize("is_applied", [True, False])
async def test_after_a_lost_answer_only_the_whole_document_counts_as_stored(
    documents: Documents, monkeypatch: pytest.MonkeyPatch, *, is_applied: bool
) -> None:
    """Another process may have written the same recording meanwhile, but without the first label."""
    await documents.put("labelled", "content")
    found = await documents.get("labelled")
    assert found
    recording = merge(None, parse_recording(a_recording(content="content")))
    labelled = codec.encode(to_document(CONTACT_CENTER, recording, labels=(Label("court", "Court", "admin", 1, "g"),)))
    batcher = documents.writer._batcher
    submit = batcher.submit

    async def loses_the_answer(operation: bytes, size: int) -> None:
        monkeypatch.undo()
        if is_applied:
            await submit(operation, size)
        else:
            await documents.put("labelled", "content", found[1])
        raise TransportConnectionError("the node has gone")

    monkeypatch.setattr(batcher, "submit", loses_the_answer)
    putting = documents.writer.put(documents.index, "labelled", labelled, found[1])
    if is_applied:
        await putting
    else:
        with pytest.raises(ConflictError):
            await putting
    hit = await documents.reader.get(documents.index, "labelled")
    assert hit
    assert (hit.source.labels is not None) == is_applied


@hypothesis.settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture, hypothesis.HealthCheck.too_slow],
)
@hypothesis.given(seed=strategies.integers())
async def test_concurrent_conditional_writers_lose_no_update(documents: Documents, seed: int) -> None:
    """Writers add their number to one of a few documents, again on a conflict; some are cancelled."""
    rng = Random(seed)
    prefix = f"{rng.getrandbits(64):x}"
    done: dict[str, list[int]] = {}

    async def add(name: str, number: int) -> None:
        while True:
            found = await documents.get(name)
            content = f"{found[0]} {number}" if found else str(number)
            try:
                await documents.put(name, content, found[1] if found else None)
            except ConflictError:
                continue
            done.setdefault(name, []).append(number)
            return

    names = [f"{prefix}-{i}" for i in range(rng.randint(1, 8))]
    writers = [asyncio.create_task(add(rng.choice(names), number)) for number in range(rng.randint(2, 30))]
    cancelled = rng.sample(range(len(writers)), rng.randint(0, len(writers) // 2))
    for number in cancelled:
        await asyncio.sleep(rng.uniform(0, 0.003))
        writers[number].cancel()
    await asyncio.gather(*writers, return_exceptions=True)
    assert sum(map(len, done.values())) >= len(writers) - len(cancelled)
    for name, numbers in done.items():
        found = await documents.get(name)
        assert found
        stored = [int(number) for number in found[0].split()]
        assert len(stored) == len(set(stored))
        assert set(numbers) <= set(stored) <= set(numbers) | set(cancelled)
