"""What failures of Elasticsearch become (docs/contract.md section 1, code 4)."""

from typing import Any

import pytest
from elastic_transport import ApiResponseMeta, HttpHeaders, NodeConfig
from elasticsearch import ApiError

from app import codec
from app.errors import ElasticsearchUnavailable, InternalError, RecallError
from app.store.client import store_errors

_NODE = NodeConfig("http", "127.0.0.1", 9200)


def failure(status: int, body: Any) -> ApiError:
    return ApiError("failed", ApiResponseMeta(status, "1.1", HttpHeaders(), 0.1, _NODE), body)


def of_shards(kind: str) -> dict[str, Any]:
    reason = {"type": kind, "reason": "…"}
    outer = {"type": "search_phase_execution_exception", "root_cause": [reason], "failed_shards": [{"reason": reason}]}
    return {"error": outer}


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (429, {"error": {"type": "es_rejected_execution_exception"}}, ElasticsearchUnavailable),
        (400, {"error": {"type": "task_cancelled_exception"}}, ElasticsearchUnavailable),
        (400, of_shards("task_cancelled_exception"), ElasticsearchUnavailable),
        (500, {"error": {"type": "receive_timeout_transport_exception"}}, ElasticsearchUnavailable),
        (500, of_shards("already_closed_exception"), ElasticsearchUnavailable),
        (500, of_shards("circuit_breaking_exception"), ElasticsearchUnavailable),
        (403, {"error": {"type": "cluster_block_exception"}}, ElasticsearchUnavailable),
        (403, {"error": {"type": "security_exception"}}, InternalError),
        (400, {"error": {"type": "parsing_exception"}}, InternalError),
        (400, of_shards("query_shard_exception"), InternalError),
        (500, {"error": {"type": "illegal_state_exception"}}, ElasticsearchUnavailable),
        (500, {"error": "…"}, ElasticsearchUnavailable),
        (500, "…", ElasticsearchUnavailable),
        (401, "…", InternalError),
    ],
)
async def test_what_elasticsearch_fails_at_is_503_and_what_it_refuses_is_500(
    status: int, body: Any, expected: type[RecallError]
) -> None:
    with pytest.raises(expected):
        async with store_errors(5):
            raise failure(status, body)


async def test_what_is_no_json_is_503() -> None:
    for text in (b"<html>", b'{"hits": {"hits": [', b""):
        with pytest.raises(ElasticsearchUnavailable):
            async with store_errors(5):
                codec.decode(text)
