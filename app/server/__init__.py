"""The application on a socket."""

import gc
import os
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

import uvicorn
from starlette.applications import Starlette

from app.main import create_app
from app.server.forwarding import ForwardedHeaders
from app.server.protocol import ConnectionPool, Limits, Protocol
from app.settings import Settings


def server_config(settings: Settings, app: Starlette, **options: Any) -> uvicorn.Config:
    """How the application is served; tests serve it in the same way. `options` replace uvicorn's own."""
    limits = Limits(
        connections=settings.max_connections,
        # The media response ends a stalled stream first, and says so in the log.
        write_stall_seconds=settings.player_stall_seconds + 5,
    )
    trusted_proxies = os.environ.get("FORWARDED_ALLOW_IPS", "")
    return uvicorn.Config(
        ForwardedHeaders(app, trusted_proxies),
        http=partial(Protocol, ConnectionPool(limits, app.state.metrics)),  # type: ignore[arg-type]
        **{
            "host": settings.host,
            "port": settings.port,
            "log_config": None,
            # Queries hold phone numbers and names, which do not belong in a log.
            "access_log": False,
            "server_header": False,
            "ws": "none",
            "proxy_headers": False,  # uvicorn would take any text for an address
            # Longer than the idle time of the usual load balancers, so that they close connections, not we.
            "timeout_keep_alive": 75,
            "timeout_graceful_shutdown": settings.shutdown_seconds,
            **options,
        },
    )


class Server(uvicorn.Server):
    """On SIGTERM or Ctrl-C it lets the requests in flight finish; `on_started` is called when it answers."""

    def __init__(self, settings: Settings, on_started: Callable[[], object]) -> None:
        super().__init__(server_config(settings, create_app(settings)))
        self._on_started = on_started

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        # Pages of recordings are many small objects and hardly ever a cycle: collecting took a fifth of the processor.
        gc.freeze()
        gc.set_threshold(20_000, 50, 100)
        super().run(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_started()
