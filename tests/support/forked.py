"""Python programs as processes that start fast: each is forked from a server that has imported the application.

An import takes a second of processor, and the tests start hundreds of processes.
"""

import asyncio
import multiprocessing
import os
import runpy
import signal
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["app.main", "app.cli.serve", "app.cli.reindex", "app.cli.purge"])


class Forked:
    """A process that runs a program: the path of a script, or `-m` and a module, with its arguments.

    Without `folder` it stays where the tests run. Standard output and error go to files if they are given.
    """

    def __init__(
        self,
        program: Sequence[str],
        environment: Mapping[str, str],
        *,
        folder: Path | None = None,
        out: Path | None = None,
        err: Path | None = None,
    ) -> None:
        self._process: ForkServerProcess = _context.Process(
            target=_run, args=(list(program), dict(environment), folder, out, err)
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, minus the signal that ended the process, or None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    async def wait(self) -> int:
        await asyncio.to_thread(self._process.join)
        status = self._process.exitcode
        assert status is not None
        return status


def _run(
    program: list[str], environment: dict[str, str], folder: Path | None, out: Path | None, err: Path | None
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    if folder is not None:
        os.chdir(folder)
    for path, descriptor in ((out, 1), (err, 2)):
        if path is not None:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, descriptor)
            os.close(file)
    if program[0] == "-m":
        sys.argv = program[1:]
        runpy.run_module(program[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = program
        sys.path.insert(0, str(Path(program[0]).parent))
        runpy.run_path(program[0], run_name="__main__")
