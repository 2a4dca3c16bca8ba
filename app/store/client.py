"""The one Elasticsearch client of a process, and what its failures mean to a client of ours."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from elastic_transport import JsonSerializer, NdjsonSerializer
from elasticsearch import ApiError, AsyncElasticsearch, TransportError

from app import codec
from app.errors import InternalError, StoreUnavailable
from app.settings import Settings
from app.store.transport import ResilientTransport

log = logging.getLogger(__name__)

# Overloaded, still starting, blocked for writes, or without the index that is just being made.
_TRANSIENT = frozenset({403, 404, 408, 409, 429, 502, 503, 504})
_LONGEST_DEAD_SECONDS = 5.0


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
        # A node that did not answer is left alone so long, at most: it may be back soon.
        max_dead_node_backoff=_LONGEST_DEAD_SECONDS,
        **options,
    )


@asynccontextmanager
async def store_errors(seconds: float) -> AsyncIterator[None]:
    """Turns every failure of Elasticsearch within, and taking longer than `seconds`, into an error of ours.

    Raises StoreUnavailable when asking again may help, InternalError otherwise; the log has Elasticsearch's words.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except (TransportError, TimeoutError) as error:
        log.warning("Elasticsearch is away or too slow: %s", error or type(error).__name__)
        raise StoreUnavailable from error
    except ApiError as error:
        if error.status_code in _TRANSIENT and error.error != "security_exception":
            log.warning("Elasticsearch cannot answer now: %s", error)
            raise StoreUnavailable from error
        log.exception("Elasticsearch refused a request")
        raise InternalError from error
