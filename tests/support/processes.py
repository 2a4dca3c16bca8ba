"""The service and the scripts as processes of their own, which a test may kill."""

import asyncio
import random
import signal
import sys
from asyncio import create_subprocess_exec
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import msgspec

from app.embedded.servers import free_port, inherited_environment, write_settings
from app.settings import Settings
from tests.support.forked import Forked
from tests.support.waiting import eventually

_SCRIPTS = Path(__file__).parents[2] / "scripts"


class AppProcess:
    """`python -m app` with the given settings, written to a configuration file in `folder`."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        port = free_port()
        self.settings = settings
        self.url = f"http://127.0.0.1:{port}"
        self._file = folder / f"{port}.toml"
        write_settings(msgspec.structs.replace(settings, port=port), self._file)
        self._process: Forked | None = None

    async def start(self) -> None:
        """Returns when it can answer searches."""
        self._process = Forked(["-m", "app"], _environment(self._file))
        async with self.client() as client:

            async def is_ready() -> bool:
                assert self._process is not None
                assert self._process.returncode is None
                try:
                    return (await client.get("/health/ready")).status_code == 200
                except httpx.TransportError:
                    return False

            await eventually(is_ready, seconds=60)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def terminate(self) -> None:
        """Sends SIGTERM and does not wait; `stop` does."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)

    async def kill(self) -> None:
        """As `kill -9`."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        """Terminates the process if it runs, and waits for its end."""
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


async def kill_now_and_then(
    app: AppProcess,
    user: str,
    ids: Sequence[str],
    work: Callable[[httpx.AsyncClient, str], Awaitable[None]],
    rng: random.Random,
    *,
    between: tuple[int, int] = (5, 30),
    after_each: Callable[[], Awaitable[None]] | None = None,
) -> tuple[set[str], int]:
    """Does `work` for each id, four at once, and kills the service again and again meanwhile.

    So many ids are done `between` two kills, at least the first number and fewer than the second.
    `after_each` is called after each kill, while the service is down. Returns the ids whose work was done, and the
    number of kills; the others' requests may have had an effect too.
    """
    done: set[str] = set()
    waiting = list(ids)
    kills = 0

    async def work_on(client: httpx.AsyncClient) -> None:
        with suppress(httpx.TransportError):
            while waiting:
                worked_on = waiting.pop()
                await work(client, worked_on)
                done.add(worked_on)

    while waiting:
        wanted = len(done) + rng.randrange(*between)
        async with app.client(user) as client, asyncio.TaskGroup() as workers:
            for _ in range(4):
                workers.create_task(work_on(client))
            await eventually(lambda wanted=wanted: len(done) >= wanted or not waiting)  # type: ignore[misc]
            await asyncio.sleep(rng.uniform(0, 0.02))  # somewhere in the next ones
            await app.kill()
        kills += 1
        if after_each is not None:
            await after_each()
        await app.start()
    await app.stop()
    return done, kills


class Scripts:
    """`scripts/…` with the given settings, from another folder, as an operator might."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.folder = folder
        self.settings = settings

    def configure(self) -> Path:
        """Writes the configuration file; its path."""
        file = self.folder / "recall.toml"
        write_settings(self.settings, file)
        return file

    async def start(self, script: str, *arguments: str, **streams: Any) -> Process:
        """Starts a script, or with "-m" a module. Standard input is empty, output and error are pipes.

        `streams` replaces any of these, or `env`.
        """
        defaults = {"stdin": DEVNULL, "stdout": PIPE, "stderr": PIPE, "env": _environment(self.configure())}
        return await create_subprocess_exec(
            sys.executable,
            script if script == "-m" else _SCRIPTS / script,
            *arguments,
            cwd=self.folder,
            **{**defaults, **streams},
        )

    async def run(self, script: str, *arguments: str) -> tuple[int, str, str]:
        """Exit status, standard output, standard error."""
        with TemporaryDirectory() as folder:
            out, err = Path(folder, "out"), Path(folder, "err")
            program = ["-m", *arguments] if script == "-m" else [str(_SCRIPTS / script), *arguments]
            process = Forked(program, _environment(self.configure()), folder=self.folder, out=out, err=err)
            status = await process.wait()
            return status, out.read_text(), err.read_text()  # noqa: ASYNC240  # short files

    async def end(self, process: Process) -> tuple[int, str, str]:
        """Waits for a process that was started; as `run`."""
        out, err = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()


def _environment(configuration: Path) -> dict[str, str]:
    return {**inherited_environment(), "RECALL_CONFIG": str(configuration)}
