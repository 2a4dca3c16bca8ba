"""How large the largest recording is, which decides how a page is read (docs/decisions/0019-shares.md)."""

import asyncio
from typing import Any

import msgspec
import pytest

from app.errors import ElasticsearchUnavailable
from app.recordings.merge import MAX_RECORDING_BYTES
from app.store.pages import BoundedSearch


class Index:
    """Answers the question for the largest recording when it is let go, or fails."""

    def __init__(self) -> None:
        self.asked = 0
        self.may_answer = asyncio.Event()
        self.error: Exception | None = None

    async def ask(self, _: dict[str, Any]) -> dict[str, Any]:
        self.asked += 1
        await self.may_answer.wait()
        if self.error:
            raise self.error
        return {"aggregations": {"largest": {"value": msgspec.Raw(b"1000.0")}}, "hits": {"hits": []}}

    async def search(self, *_: Any) -> list[Any]:
        return []

    def bounded(self) -> BoundedSearch:
        return BoundedSearch(self.search, self.search, self.ask)


async def test_searches_that_need_the_size_in_the_same_moment_share_one_question_and_its_failure() -> None:
    index = Index()
    bounded = index.bounded()
    assert bounded.largest_lately() == MAX_RECORDING_BYTES
    searches = [asyncio.create_task(bounded.hits({"size": 10}, 10)) for _ in range(8)]
    await asyncio.sleep(0)
    index.error = ElasticsearchUnavailable()
    index.may_answer.set()
    async with asyncio.timeout(10):
        failures = await asyncio.gather(*searches, return_exceptions=True)
    # Otherwise a stalled node would let each of them wait for all that came before.
    assert [type(failure) for failure in failures] == [ElasticsearchUnavailable] * 8
    assert index.asked == 1
    index.error = None
    await asyncio.gather(*(bounded.hits({"size": 10}, 10) for _ in range(8)))
    assert (index.asked, bounded.largest_lately()) == (2, 1_000)


async def test_a_search_that_leaves_takes_the_size_from_no_other() -> None:
    index = Index()
    bounded = index.bounded()
    leaving, staying = (asyncio.create_task(bounded.hits({"size": 10}, 10)) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    index.may_answer.set()
    await staying
    assert index.asked == 1


async def test_a_question_that_fails_while_nobody_waits_is_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    index = Index()
    index.error = ElasticsearchUnavailable()
    index.may_answer.set()
    bounded = index.bounded()
    assert bounded.largest_lately() == MAX_RECORDING_BYTES
    for _ in range(5):
        await asyncio.sleep(0)
    index.error = None
    await bounded.hits({"size": 10}, 10)
    assert (index.asked, bounded.largest_lately()) == (2, 1_000)
    assert caplog.records == []
