"""The service as a process of its own, to be killed."""

import os
import signal
import socket
import sys
from asyncio import create_subprocess_exec
from asyncio.subprocess import Process
from pathlib import Path
from typing import Any

import httpx
import msgspec

from app.settings import Settings
from tests.support import eventually


class AppProcess:
    """`python -m app` with the given settings, written to a configuration file in `folder`."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._file = folder / f"{port}.toml"
        content = msgspec.to_builtins(msgspec.structs.replace(settings, port=port))
        self._file.write_bytes(msgspec.toml.encode(_without_none(content)))
        self._process: Process | None = None

    async def start(self) -> None:
        """Returns when it can answer searches."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RECALL_")}
        self._process = await create_subprocess_exec(
            sys.executable, "-m", "app", env={**environment, "RECALL_CONFIG": str(self._file)}
        )
        async with self.client() as client:

            async def is_ready() -> bool:
                assert self._process is not None
                assert self._process.returncode is None
                try:
                    return (await client.get("/health/ready")).status_code == 200
                except httpx.TransportError:
                    return False

            await eventually(is_ready, seconds=60)

    async def kill(self) -> None:
        """As `kill -9`."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        await self._end(signal.SIGTERM)

    async def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            if self._process.returncode is None:
                self._process.send_signal(number)
            await self._process.wait()
            self._process = None

    def client(self, user: str | None = None) -> httpx.AsyncClient:
        """A client to be closed by whoever asked for it; `user` is a name of `tests.support.USERS`."""
        auth = httpx.BasicAuth(user, f"{user}-password") if user else None
        return httpx.AsyncClient(base_url=self.url, auth=auth, timeout=30, trust_env=False, verify=False)


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_none(item) for name, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list | tuple) else value
