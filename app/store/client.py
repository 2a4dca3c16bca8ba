"""The Elasticsearch client of a process, and the errors of Recall that its failures become."""

import asyncio
import logging
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import msgspec
from elastic_transport import JsonSerializer, NdjsonSerializer, TransportApiResponse
from elasticsearch import ApiError, AsyncElasticsearch, TransportError
from elasticsearch.exceptions import HTTP_EXCEPTIONS

from app import codec
from app.errors import ElasticsearchUnavailable, InternalError
from app.retry import TRANSIENT_STATUSES
from app.settings import Settings
from app.store.node import Node
from app.store.transport import ResilientTransport

log = logging.getLogger(__name__)

# Statuses that another process or an operator is about to change. Unlike TRANSIENT_STATUSES they are not worth another
# attempt within the same request, but the client of the service may try again.
_CHANGING_STATUSES = frozenset(
    {
        403,  # the index is blocked for writes: a migration is switching the alias, or the disk is full
        404,  # the alias or index does not exist yet: a process is creating it
        409,  # another process has changed the document
    }
)
# `security_exception` has status 403 too, but Recall's credentials do not change by themselves.
_PERMANENT_ERRORS = frozenset({"security_exception"})
# Transient, although the status otherwise means a mistake of ours.
_TRANSIENT_ERRORS = frozenset({"task_cancelled_exception"})
_MAX_DEAD_NODE_BACKOFF = 5.0


_RAW_MEDIA_TYPE = "application/vnd.elasticsearch+json; compatible-with=8"


class _Json(JsonSerializer):
    mimetype = "application/vnd.elasticsearch+json"

    def json_dumps(self, data: Any) -> bytes:
        return codec.encode(data)

    def json_loads(self, data: bytes) -> Any:
        return codec.decode(data)


class _Ndjson(NdjsonSerializer):
    mimetype = "application/vnd.elasticsearch+x-ndjson"

    def json_dumps(self, data: Any) -> bytes:
        return codec.encode(data)


def connect(settings: Settings) -> AsyncElasticsearch:
    """Makes a client; it opens its first connection with its first request. Close it with `await client.close()`."""
    options: dict[str, Any] = {}
    if settings.elasticsearch_username is not None:
        options["basic_auth"] = (settings.elasticsearch_username, settings.elasticsearch_password or "")
    if settings.elasticsearch_api_key is not None:
        options["api_key"] = settings.elasticsearch_api_key
    if settings.elasticsearch_ca_file is not None:
        options["ca_certs"] = settings.elasticsearch_ca_file
    return AsyncElasticsearch(
        [url.strip() for url in settings.elasticsearch_url.split(",")],
        serializers={serializer.mimetype: serializer for serializer in (_Json(), _Ndjson())},
        node_class=Node,
        connections_per_node=settings.elasticsearch_connections,
        request_timeout=settings.elasticsearch_timeout,
        transport_class=partial(  # type: ignore[arg-type]
            ResilientTransport,
            retry_seconds=settings.elasticsearch_search_timeout,
            raw_headers={"accept": _RAW_MEDIA_TYPE, "content-type": _RAW_MEDIA_TYPE, **_authorization(settings)},
        ),
        # A node that did not answer gets no requests for this long, at most: it may be back soon.
        max_dead_node_backoff=_MAX_DEAD_NODE_BACKOFF,
        **options,
    )


async def raw_request(
    client: AsyncElasticsearch, method: str, target: str, body: bytes | None, seconds: float, *, repeat: bool = True
) -> TransportApiResponse:
    """Returns the answer to a request, undecoded.

    Most of the requests of a busy process go this way (docs/decisions/0024-pages-as-text.md). Raises what the client
    raises. `seconds` is for all attempts together; with `repeat` there may be more than one.
    """
    transport = client.transport
    assert isinstance(transport, ResilientTransport)
    answer = await transport.perform_raw(method, target, body, request_timeout=seconds, repeat=repeat)
    if answer.meta.status != 200:
        raise api_error(answer)
    return answer


def api_error(answer: TransportApiResponse) -> ApiError:
    """Returns the exception that the client raises for such an answer."""
    body: Any = answer.body.decode(errors="replace")
    message = body
    with suppress(ValueError):
        body = codec.decode(answer.body)
        error = body.get("error", body) if isinstance(body, dict) else body
        message = str(error.get("type", error)) if isinstance(error, dict) else str(error)
    return HTTP_EXCEPTIONS.get(answer.meta.status, ApiError)(message, answer.meta, body)


def _authorization(settings: Settings) -> dict[str, str]:
    if settings.elasticsearch_api_key is not None:
        return {"authorization": f"ApiKey {settings.elasticsearch_api_key}"}
    if settings.elasticsearch_username is not None:
        login = f"{settings.elasticsearch_username}:{settings.elasticsearch_password or ''}"
        return {"authorization": f"Basic {b64encode(login.encode()).decode()}"}
    return {}


@asynccontextmanager
async def store_errors(seconds: float) -> AsyncIterator[None]:
    """Turns every failure of Elasticsearch in the block into an error of Recall, and ends the block after `seconds`.

    Raises InternalError for what Elasticsearch refuses as wrong, because that is a mistake of ours, and
    ElasticsearchUnavailable for everything else. The log has the messages of Elasticsearch.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except (TransportError, TimeoutError) as error:
        log.warning("Elasticsearch is away or too slow: %s", error or type(error).__name__)
        raise ElasticsearchUnavailable from error
    except msgspec.ValidationError:  # a document that is stored, and that nothing of ours has written
        raise
    except msgspec.DecodeError as error:
        log.warning("Elasticsearch, or a proxy before it, answers without JSON: %s", error)
        raise ElasticsearchUnavailable from error
    except ApiError as error:
        if error.status_code >= 500 or _is_transient(error):
            log.warning("Elasticsearch cannot answer now: %s", error)
            raise ElasticsearchUnavailable from error
        log.exception("Elasticsearch refused a request")
        raise InternalError from error


async def processors(client: AsyncElasticsearch, seconds: float) -> int | None:
    """Returns how many processors the nodes with documents have.

    Returns None if Recall's user lacks the privilege `monitor`, or if Elasticsearch does not tell the number.
    Raises ElasticsearchUnavailable, InternalError.
    """
    async with store_errors(seconds):
        answer = await client.options(ignore_status=(403, 404, 405, 410)).nodes.info(
            metric="os", filter_path="nodes.*.roles,nodes.*.os.allocated_processors"
        )
    # A proxy may refuse in words of its own.
    body: object = answer.body
    nodes = body.get("nodes", {}).values() if isinstance(body, dict) else ()
    data = [node for node in nodes if any(role.startswith("data") for role in node.get("roles", ()))]
    return sum(node.get("os", {}).get("allocated_processors", 0) for node in data) or None


def _is_transient(error: ApiError) -> bool:
    """Returns whether another attempt may succeed after a status below 500, by it or by the cause that it has."""
    causes = {error.error, *_causes(error.body)}
    if error.status_code in TRANSIENT_STATUSES | _CHANGING_STATUSES:
        return _PERMANENT_ERRORS.isdisjoint(causes)
    return not _TRANSIENT_ERRORS.isdisjoint(causes)


def _causes(body: Any) -> Iterator[str]:
    """Yields the types of an error of Elasticsearch, of its root causes and of each shard's failure."""
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return
    shards = [failure.get("reason") for failure in error.get("failed_shards") or () if isinstance(failure, dict)]
    causes = [error, error.get("caused_by"), *(error.get("root_cause") or ()), *shards]
    for cause in causes:
        if isinstance(cause, dict) and isinstance(cause.get("type"), str):
            yield cause["type"]
