"""A proxy in front of Elasticsearch that fails at random, as Elasticsearch, load balancers and networks do."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Self

import httpx

from app import codec
from tests.support.faults import Connection, LocalServer, Request

_JSON = "application/vnd.elasticsearch+json;compatible-with=8"
_PRODUCT = {"X-Elastic-Product": "Elasticsearch", "Content-Type": _JSON}
_PAGE = b"<html><body>Please log in to the proxy.</body></html>"

# What Elasticsearch has been seen to say with each status; the deeper ones stand in a chain of causes.
_ERRORS = (
    (429, "es_rejected_execution_exception"),
    (429, "circuit_breaking_exception"),
    (503, "unavailable_shards_exception"),
    (503, "master_not_discovered_exception"),
    (503, "process_cluster_event_timeout_exception"),
    (500, "node_closed_exception"),
    (500, "not_master_exception"),
    (500, "shard_lock_obtain_failed_exception"),
    (500, "uncategorized_execution_exception"),
    (500, "i_o_exception"),
    (500, "null_pointer_exception"),
    (404, "index_not_found_exception"),
    (404, "search_context_missing_exception"),
    (403, "cluster_block_exception"),
    (400, "task_cancelled_exception"),
)
_ITEM_ERRORS = tuple(error for error in _ERRORS if error[0] != 400)


class UnreliableElasticsearch(LocalServer):
    """Passes requests on, and fails with `share` of them. `faults` counts what was done, by name."""

    def __init__(self, url: str, seed: int = 1) -> None:
        super().__init__()
        self.share = 0.0
        self.faults: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._client = httpx.AsyncClient(base_url=url, timeout=60, trust_env=False, verify=False)
        self._ways: tuple[Callable[[Request, Connection], Awaitable[bool]], ...] = (
            self._reset_before,
            self._reset_after,
            self._cut_in_body,
            self._malformed,
            self._page,
            self._balancer,
            self._error,
            self._error,
            self._deep_error,
            self._parts_fail,
            self._parts_fail,
            self._stall,
        )

    async def __aexit__(self, *error: object) -> None:
        await super().__aexit__(*error)
        await self._client.aclose()

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        return self

    async def answer(self, request: Request, connection: Connection) -> None:
        if self._random.random() < self.share:
            way = self._random.choice(self._ways)
            if await way(request, connection):
                self.faults[way.__name__.strip("_")] += 1
                return
        await self._pass(await self._ask(request), connection)

    async def _ask(self, request: Request) -> httpx.Response:
        headers = {name: value for name, value in request.headers.items() if name in {"content-type", "accept"}}
        headers["accept-encoding"] = "identity"
        return await self._client.request(request.method, request.target, headers=headers, content=request.body)

    async def _pass(self, response: httpx.Response, connection: Connection) -> None:
        headers = {**_PRODUCT, "Content-Type": response.headers.get("content-type", _JSON)}
        await connection.respond(response.status_code, headers, response.content)

    # --- Ways to fail; each returns whether it did ---

    async def _reset_before(self, request: Request, connection: Connection) -> bool:
        connection.reset()
        return True

    async def _reset_after(self, request: Request, connection: Connection) -> bool:
        """The answer is lost."""
        await self._ask(request)
        connection.reset()
        return True

    async def _cut_in_body(self, request: Request, connection: Connection) -> bool:
        response = await self._ask(request)
        length = str(len(response.content) + 1)
        await connection.start(response.status_code, {**_PRODUCT, "Content-Length": length})
        await connection.send(response.content[: self._random.randrange(len(response.content) + 1)])
        connection.transport.close()
        return True

    async def _malformed(self, request: Request, connection: Connection) -> bool:
        """JSON that breaks off within a whole answer."""
        response = await self._ask(request)
        await connection.respond(response.status_code, _PRODUCT, response.content[: len(response.content) // 2])
        return True

    async def _page(self, request: Request, connection: Connection) -> bool:
        await self._ask(request)
        await connection.respond(200, {"Content-Type": "text/html"}, _PAGE)
        return True

    async def _balancer(self, request: Request, connection: Connection) -> bool:
        await connection.respond(self._random.choice((500, 502, 503, 504)), {"Content-Type": "text/html"}, _PAGE)
        return True

    async def _error(self, request: Request, connection: Connection) -> bool:
        status, kind = self._random.choice(_ERRORS)
        await self._refuse(connection, status, {"type": kind, "reason": "no reason", "root_cause": []})
        return True

    async def _deep_error(self, request: Request, connection: Connection) -> bool:
        """The status is that of the outermost error, and only the innermost tells why."""
        _, kind = self._random.choice(_ERRORS)
        cause = {"type": "runtime_exception", "reason": "…", "caused_by": {"type": kind, "reason": "…"}}
        shards = [{"shard": 0, "reason": cause}]
        await self._refuse(
            connection, 500, {"type": "search_phase_execution_exception", "root_cause": [], "failed_shards": shards}
        )
        return True

    async def _refuse(self, connection: Connection, status: int, error: dict[str, Any]) -> None:
        await connection.respond(status, _PRODUCT, codec.encode({"error": error, "status": status}))

    async def _parts_fail(self, request: Request, connection: Connection) -> bool:
        """Some items of a `_bulk`, documents of an `_mget` or shards of a `_refresh` fail, with 200."""
        path = request.target.partition("?")[0]
        if not path.endswith(("/_bulk", "/_mget", "/_refresh")):
            return False
        response = await self._ask(request)
        body = codec.decode(response.content)
        if response.status_code != 200:
            await self._pass(response, connection)
            return True
        if path.endswith("_refresh"):
            body["_shards"]["failed"] = 1
        elif path.endswith("_mget"):
            place = self._random.randrange(len(body["docs"]))
            named = {name: body["docs"][place][name] for name in ("_index", "_id")}
            _, kind = self._random.choice(_ITEM_ERRORS)
            body["docs"][place] = {**named, "error": {"type": kind, "reason": "…", "root_cause": []}}
        else:
            place = self._random.randrange(len(body["items"]))
            ((action, item),) = body["items"][place].items()
            status, kind = self._random.choice(_ITEM_ERRORS)
            named = {name: item[name] for name in ("_index", "_id") if name in item}
            body["items"][place] = {action: {**named, "status": status, "error": {"type": kind, "reason": "…"}}}
            body["errors"] = True
        await connection.respond(200, _PRODUCT, codec.encode(body))
        return True

    async def _stall(self, request: Request, connection: Connection) -> bool:
        if self._random.random() > 0.2:
            return False
        await asyncio.sleep(self._random.uniform(0.5, 6))
        connection.reset()
        return True
