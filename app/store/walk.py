"""All documents that a query matches, batch by batch."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from elasticsearch import AsyncElasticsearch, NotFoundError

from app.store.client import store_errors


async def walk(
    client: AsyncElasticsearch,
    index: str,
    query: dict[str, Any],
    *,
    sort: Sequence[str],
    batch: int,
    seconds: float,
    may_be_missing: bool = False,
    **options: Any,
) -> AsyncIterator[list[dict[str, Any]]]:
    """Yields the hits of a query in the order of `sort`, at most `batch` at once, each batch within `seconds`.

    Where a batch ends, documents with equal values of `sort` may be skipped. With `may_be_missing`, an index that does
    not exist has no documents. `options` are those of Elasticsearch's search. Raises ElasticsearchUnavailable.
    """
    after: list[Any] | None = None
    while True:
        async with store_errors(seconds):
            try:
                response = await client.search(
                    index=index,
                    query=query,
                    sort=list(sort),
                    search_after=after,
                    size=batch,
                    allow_partial_search_results=False,
                    **options,
                )
            except NotFoundError:
                if may_be_missing:
                    return
                raise
        hits: list[dict[str, Any]] = response.body["hits"]["hits"]
        if hits:
            yield hits
        if len(hits) < batch:
            return
        after = hits[-1]["sort"]
