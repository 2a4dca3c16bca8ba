"""The Elasticsearch client of a process, and the errors of Recall that its failures become."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from elastic_transport import JsonSerializer, NdjsonSerializer
from elasticsearch import ApiError, AsyncElasticsearch, TransportError

from app import codec
from app.errors import ElasticsearchUnavailable, InternalError
from app.retry import TRANSIENT_STATUSES
from app.settings import Settings
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
_MAX_DEAD_NODE_BACKOFF = 5.0


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
        connections_per_node=settings.elasticsearch_connections,
        request_timeout=settings.elasticsearch_timeout,
        transport_class=partial(ResilientTransport, retry_seconds=settings.elasticsearch_search_timeout),  # type: ignore[arg-type]
        # A node that did not answer gets no requests for this long, at most: it may be back soon.
        max_dead_node_backoff=_MAX_DEAD_NODE_BACKOFF,
        **options,
    )


@asynccontextmanager
async def store_errors(seconds: float) -> AsyncIterator[None]:
    """Turns every failure of Elasticsearch in the block into an error of Recall, and ends the block after `seconds`.

    Raises ElasticsearchUnavailable when another attempt may help, InternalError otherwise. The log has the messages
    of Elasticsearch.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except (TransportError, TimeoutError) as error:
        log.warning("Elasticsearch is away or too slow: %s", error or type(error).__name__)
        raise ElasticsearchUnavailable from error
    except ApiError as error:
        transient = error.status_code in TRANSIENT_STATUSES | _CHANGING_STATUSES
        if transient and error.error not in _PERMANENT_ERRORS:
            log.warning("Elasticsearch cannot answer now: %s", error)
            raise ElasticsearchUnavailable from error
        log.exception("Elasticsearch refused a request")
        raise InternalError from error
