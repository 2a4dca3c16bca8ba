"""Servers that are processes of their own, each in a temporary folder: for tests and benchmarks.

They end with the process that started them, however that ends.
"""

import contextlib
import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from app.embedded import supervisor
from app.settings import Settings

_START_SECONDS = 60.0

_random = Random()
_given_ports: set[int] = set()


class ServerError(RuntimeError):
    """A server is not installed or does not start; the message says why."""


@contextlib.contextmanager
def running(
    folder: Path,
    command: Callable[[int], Sequence[object]],
    environment: dict[str, str] | None = None,
    *,
    uid: int | None = None,
    ready: str | None = None,
    tls: bool = False,
) -> Iterator[int]:
    """Runs a server in the folder, and yields the port at which it answers HTTP, over TLS with `tls`.

    `command` returns the command line for a port. The process inherits the environment except RECALL_…. With `ready`
    the server has started when it answers 200 at that path, else when it answers anything. Raises ServerError.
    """
    port = free_port()
    arguments = [*command(port)]
    user = [] if uid is None else ["--user", uid]
    supervised = [sys.executable, "-I", "-S", supervisor.__file__, *user, "--remove", folder, "--", *arguments]
    if uid is not None:
        for path in (folder, *folder.rglob("*")):
            give(path, (uid, uid))
    with (
        (folder / "log").open("wb") as stderr,
        # The supervisor stops the server at the end of its input, which comes even when this process is killed.
        subprocess.Popen(
            list(map(str, supervised)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd=folder,
            env=inherited_environment() | (environment or {}),
            start_new_session=True,
        ) as process,
    ):
        try:
            assert process.stdin  # for the type checker
            assert process.stdout
            os.set_blocking(process.stdout.fileno(), False)
            process.stdin.write(b"start\n")
            process.stdin.flush()
            deadline = time.monotonic() + _START_SECONDS
            while not _answers(port, ready, tls=tls):
                if process.stdout.read() is not None or time.monotonic() > deadline:
                    logs = "".join(path.read_text(errors="replace") for path in sorted(folder.glob("*log")))
                    raise ServerError(f"{arguments[0]} does not start:\n{logs[-5000:]}")
                time.sleep(0.05)
            yield port
        finally:
            process.communicate()


@contextlib.contextmanager
def server_folder() -> Iterator[Path]:
    """Yields a temporary folder for a server, which another user may enter but not list."""
    # The supervisor may have removed it already.
    with tempfile.TemporaryDirectory(prefix="recall-server-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o711)
        yield folder


def _answers(port: int, ready: str | None, *, tls: bool) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    if tls:  # who answers does not matter here
        context = ssl._create_unverified_context()  # noqa: S323, SLF001
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=5, context=context)
    try:
        connection.request("GET" if ready else "HEAD", ready or "/")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return ready is None or status == 200


def free_port() -> int:
    """Returns a port that this process has not been given before.

    It is below the ports of outgoing connections, one of which could otherwise take it before the server does.
    """
    while True:
        port = _random.randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            if port not in _given_ports:
                _given_ports.add(port)
                return port


def find_program(name: str, *folders: Path) -> str | None:
    """Returns the path of a program on the PATH, in `folders`, or where servers are often installed."""
    # The PATH of a user often lacks sbin.
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", *map(str, folders)])
    return shutil.which(name, path=path)


def go_folders() -> list[Path]:
    """Returns the folders where `go install` puts programs."""
    folders = [Path.home() / "go" / "bin"]
    if go := shutil.which("go", path=f"{os.environ.get('PATH', os.defpath)}{os.pathsep}/usr/local/go/bin"):
        variables = json.loads(
            subprocess.run([go, "env", "-json", "GOBIN", "GOPATH"], capture_output=True, check=True).stdout
        )
        folders = [Path(variables["GOBIN"] or f"{variables['GOPATH'].split(os.pathsep)[0]}/bin"), *folders]
    return folders


def owner_of(path: Path) -> tuple[int, int]:
    """Returns user and group of a file."""
    status = path.stat()
    return status.st_uid, status.st_gid


def give(path: Path, owner: tuple[int, int]) -> None:
    """Changes user and group of a file, if they are others."""
    if owner_of(path) != owner:
        os.chown(path, *owner)


def inherited_environment() -> dict[str, str]:
    """Returns this process's environment without the settings of the service."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RECALL_")}


def write_settings(settings: Settings, file: Path) -> None:
    """Writes a configuration file for RECALL_CONFIG."""
    file.write_bytes(to_toml(settings))


def to_toml(value: object) -> bytes:
    """Encodes settings, or a part of them, without what is None."""
    return msgspec.toml.encode(_without_none(msgspec.to_builtins(value)))


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_none(item) for name, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list | tuple) else value
