"""The application on a socket."""

import socket

import uvicorn

from app.main import create_app
from app.settings import Settings


class Server(uvicorn.Server):
    """On SIGTERM or Ctrl-C it lets the requests under way finish; `announcement` is printed when it has started."""

    def __init__(self, settings: Settings, announcement: str = "") -> None:
        super().__init__(
            uvicorn.Config(
                create_app(settings),
                host=settings.host,
                port=settings.port,
                log_config=None,
                # Queries hold phone numbers and names, which do not belong in a log.
                access_log=False,
                server_header=False,
                ws="none",
                # Longer than the idle time of the usual load balancers, so that they close connections, not we.
                timeout_keep_alive=75,
                timeout_graceful_shutdown=settings.shutdown_seconds,
            )
        )
        self._announcement = announcement

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self._announcement:
            print(self._announcement, flush=True)  # noqa: T201
