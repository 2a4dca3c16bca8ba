"""Middleware around the router: it sees every request."""

import time

from prometheus_client import CollectorRegistry, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.dispatch import Dispatcher


class EncodedPath:
    """Routes by the path as it was sent: decoded, an id that holds a slash would become two segments.

    Endpoints decode their own segments (`app.api.requests.path_segment`).
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "path": scope["raw_path"].decode("latin-1")}
        await self._app(scope, receive, send)


class Metrics:
    """Counts and times requests by the name of their route, method and status."""

    def __init__(self, app: ASGIApp, registry: CollectorRegistry) -> None:
        self._app = app
        self._seconds = Histogram(
            "recall_request_seconds",
            "Time from a request to the end of its answer.",
            ["endpoint", "method", "status"],
            registry=registry,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500

        async def send_and_note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        begun = time.perf_counter()
        try:
            await self._app(scope, receive, send_and_note_status)
        finally:
            matched = scope.get("endpoint")
            endpoint = matched.endpoint.name if isinstance(matched, Dispatcher) else "none"
            # Methods are the client's to invent, and each would be a time series.
            method = scope["method"] if status != 405 and endpoint != "none" else "other"
            self._seconds.labels(endpoint, method, status).observe(time.perf_counter() - begun)
