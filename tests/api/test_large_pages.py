"""Pages of large recordings (docs/contract.md section 5): they hold fewer, and a walk misses none."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import chain
from typing import Any

import httpx
import pytest
from elasticsearch import AsyncElasticsearch

from app.auth.scope import Scope
from app.search.criteria import parse_search
from app.settings import Settings
from app.store import pages
from app.store.documents import document_id
from app.store.hits import HitDecoder, RecordingHit
from tests.support.recordings import (
    CONTACT_CENTER,
    OPS_PATH,
    OTHER_CONTACT_CENTER,
    REGION,
    a_media_file,
    a_recording,
    store_many,
)
from tests.support.service import Service, assert_error
from tests.support.waiting import eventually

SEARCH = "/api/v2/recordings"
SIZES = [1_000_000 if i % 3 else 400_000 for i in range(40)]


def large(name: str, size: int, minute: int = 0) -> dict[str, Any]:
    time = f"2013-05-17T11:{minute:02}:00Z"
    return a_recording(name, notes="n" * size, mediaFiles=[a_media_file(startTime=time, stopTime=time)])


@pytest.fixture
async def stored(elasticsearch: AsyncElasticsearch, settings: Settings, service: Service) -> list[str]:
    """Ids, the newest first."""
    recordings = [large(f"r{i:02}", size, minute=59 - i) for i, size in enumerate(SIZES)]
    for start in range(0, len(recordings), 10):
        await store_many(elasticsearch, settings, recordings[start : start + 10])
    return [recording["id"] for recording in recordings]


async def page(client: httpx.AsyncClient, uri: str, **parameters: Any) -> dict[str, Any]:
    response = await client.get(uri, params=parameters or None)
    assert response.status_code == 200, response.text[:300]
    body: dict[str, Any] = response.json()
    assert len(response.content) < 16 * 1024 * 1024 + 200_000
    return body


def ids(body: dict[str, Any]) -> list[str]:
    return [recording["id"] for recording in body["recordings"]]


async def test_a_walk_forth_and_back_misses_none_and_repeats_none(admin: httpx.AsyncClient, stored: list[str]) -> None:
    found = await page(admin, SEARCH, startTime="0")
    forth = [ids(found)]
    while "nextUri" in found:
        found = await page(admin, found["nextUri"])
        forth.append(ids(found))
    assert list(chain(*forth)) == stored
    assert len(forth) > 1
    back = [ids(found)]
    while "prevUri" in found:
        found = await page(admin, found["prevUri"])
        back.insert(0, ids(found))
    assert list(chain(*back)) == stored


async def test_a_page_holds_as_many_as_fit(admin: httpx.AsyncClient, stored: list[str]) -> None:
    whole = ids(await page(admin, SEARCH, startTime="0"))
    used = sum(SIZES[: len(whole)])
    assert used <= 16 * 1024 * 1024 < used + SIZES[len(whole)] + 20_000
    assert ids(await page(admin, SEARCH, startTime="0", limit=3)) == stored[:3]
    assert ids(await page(admin, SEARCH, startTime="0", limit=20, offset=5)) == stored[5 : 5 + len(whole)]


async def test_elasticsearch_never_answers_with_more_than_a_few_sources(
    admin: httpx.AsyncClient, stored: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[int] = []
    decode = pages.BoundedSearch._with_sources

    async def watched(self: Any, hits: list[Any], body: dict[str, Any]) -> list[Any]:
        answers.append(sum(hit.size for hit in hits))
        return await decode(self, hits, body)

    monkeypatch.setattr(pages.BoundedSearch, "_with_sources", watched)

    async def is_answered() -> bool:
        status = (await admin.get(SEARCH, params={"startTime": "0"})).status_code
        assert status in {200, 429}  # on a busy machine the pages of others keep the user's share of bytes for long
        return status == 200

    await asyncio.gather(*(eventually(is_answered) for _ in range(8)))
    assert answers
    assert max(answers) <= max(pages._ANSWER_BYTES, *SIZES) + 1000


async def test_a_recording_that_elasticsearch_cannot_read_now_is_not_left_out(
    admin: httpx.AsyncClient, service: Service, stored: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bounded = service.repository._bounded
    mget = bounded._mget

    async def partly(body: dict[str, Any]) -> list[RecordingHit]:
        *documents, last = await mget(body)
        error = {"type": "circuit_breaking_exception", "reason": "no memory"}
        return [*documents, RecordingHit(index=last.index, id=last.id, error=error)]

    monkeypatch.setattr(bounded, "_mget", partly)
    assert_error(await admin.get(SEARCH, params={"startTime": "0"}), 503, 4, "not available at the moment")


async def test_all_recordings_of_a_call_are_read_a_few_at_a_time(
    service: Service, stored: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recordings = service.repository
    bounded = recordings._bounded
    scope = Scope(CONTACT_CENTER, REGION)
    criteria, _ = parse_search([("startTime", "0")])
    all_of_them = [await recordings.get(scope, _id) for _id in stored]
    asked: list[dict[str, Any]] = []
    search = bounded._search

    async def watched(body: dict[str, Any]) -> list[RecordingHit]:
        asked.append(body)
        return await search(body)

    monkeypatch.setattr(bounded, "_search", watched)
    still = await recordings.still_matching(Scope(None, REGION), criteria, all_of_them)
    assert sorted(other.recording["id"] for other in still) == sorted(stored)
    assert asked
    assert all(body["size"] == 0 or body["_source"] is False for body in asked)


async def test_recordings_of_a_call_are_told_without_reading_them(
    service: Service, stored: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recordings = service.repository
    one = await recordings.get(Scope(CONTACT_CENTER, REGION), stored[0])
    answers: list[int] = []
    decode = HitDecoder.search

    def watched(self: Any, answer: bytes) -> Any:
        answers.append(len(answer))
        return decode(self, answer)

    monkeypatch.setattr(HitDecoder, "search", watched)
    documents = [state.document_id async for state in recordings.associated(one)]
    assert sorted(documents) == sorted(document_id(CONTACT_CENTER, REGION, _id) for _id in stored)
    assert max(answers) < 1_000 * len(stored)


async def test_reads_by_id_share_a_request_only_as_far_as_an_answer_stays_small(
    service: Service, stored: list[str], elasticsearch: AsyncElasticsearch, settings: Settings
) -> None:
    recordings = service.repository
    scope = Scope(CONTACT_CENTER, REGION)
    sent: list[int] = []
    send = recordings._reader._batcher._send

    async def watched(batch: list[tuple[str, str]]) -> Any:
        sent.append(len(batch))
        return await send(batch)

    recordings._reader._batcher._send = watched
    # Nothing is known of their sizes at first, and then that one may have a million bytes.
    for _ in range(2):
        found = await asyncio.gather(*(recordings.get(scope, _id) for _id in stored))
        assert [one.recording["id"] for one in found] == stored
    assert max(sent) * max(SIZES) <= 4 * 2**20
    for _id in stored:
        assert await recordings.delete([await recordings.get(scope, _id)]) == [True]
    await store_many(elasticsearch, settings, [a_recording(f"small{i}") for i in range(100)])

    async def share_requests() -> bool:
        sent.clear()
        await asyncio.gather(*(recordings.get(scope, f"small{i}") for i in range(100)))
        return max(sent) > 50

    await eventually(share_requests)


async def test_a_recording_that_changes_while_a_page_is_read_is_shown_as_it_is_now(
    admin: httpx.AsyncClient, ops: httpx.AsyncClient, stored: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = pages.BoundedSearch._with_sources
    changed: list[str] = []

    async def changing(self: Any, hits: list[Any], body: dict[str, Any]) -> list[Any]:
        if not changed:
            changed.extend(stored[:2])
            update = large(stored[0], 100, minute=59) | {"changed": True}
            assert (await ops.post(OPS_PATH, json=update, params={"refresh": "wait_for"})).status_code == 200
            assert (await ops.delete(f"{OPS_PATH}/{stored[1]}")).status_code == 200
        return await read(self, hits, body)

    monkeypatch.setattr(pages.BoundedSearch, "_with_sources", changing)
    found = await page(admin, SEARCH, startTime="0")
    assert ids(found)[:2] == [stored[0], stored[2]]
    assert found["recordings"][0]["changed"]


async def test_large_recordings_of_another_contact_center_do_not_cost_a_second_request(
    stored: list[str],
    elasticsearch: AsyncElasticsearch,
    settings: Settings,
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = [a_recording(f"small{i}") for i in range(5)]
    await store_many(elasticsearch, settings, small, contact_center=OTHER_CONTACT_CENTER)
    bounded = service.repository._bounded
    searched: list[dict[str, Any]] = []
    search = bounded._search

    async def watched(body: dict[str, Any]) -> Any:
        searched.append(body)
        return await search(body)

    monkeypatch.setattr(bounded, "_search", watched)
    other = service.client("other-admin")
    for _ in range(3):
        assert len(ids(await page(other, SEARCH, startTime="0"))) == 5
    assert len(searched) == 3
    assert all("_source" not in body for body in searched)


async def test_small_recordings_cost_one_search(
    admin: httpx.AsyncClient,
    elasticsearch: AsyncElasticsearch,
    settings: Settings,
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await store_many(elasticsearch, settings, [a_recording(f"small{i}") for i in range(30)])
    searched: list[dict[str, Any]] = []
    bounded = service.repository._bounded

    def counting(send: Callable[[dict[str, Any]], Awaitable[Any]]) -> Callable[[dict[str, Any]], Awaitable[Any]]:
        async def counted(body: dict[str, Any]) -> Any:
            searched.append(body)
            return await send(body)

        return counted

    for send in ("_search", "_ask", "_mget"):
        monkeypatch.setattr(bounded, send, counting(getattr(bounded, send)))
    for _ in range(10):
        assert len(ids(await page(admin, SEARCH, startTime="0"))) == 30
    pages_of = [body for body in searched if body.get("size")]
    assert len(pages_of) == 10
    assert len(searched) - len(pages_of) <= 10  # at most one a second looks for the largest
