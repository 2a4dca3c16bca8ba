"""Starts servers that are processes of their own, each in a temporary folder.

They end with the process that started them, however that ends. `missing` skips a test whose server is not installed;
where `CI` is "true" the test fails instead, so that CI cannot pass without having tested it.
"""

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any, NoReturn

import pytest

from app.embedded import supervisor

_random = Random()
_given_ports: set[int] = set()


@contextlib.contextmanager
def running(
    folder: Path,
    command: Callable[[str], Sequence[Any]],
    environment: dict[str, str] | None = None,
    *,
    uid: int | None = None,
) -> Iterator[int]:
    """Runs a server in the folder; the port at which it answers HTTP. `command` makes its command for a port."""
    port = free_port()
    user = [] if uid is None else ["--user", str(uid)]
    arguments = [sys.executable, "-I", "-S", supervisor.__file__, *user, "--remove", folder, "--", *command(str(port))]
    if uid is not None:
        for path in (folder, *folder.rglob("*")):
            give(path, (uid, uid))
    log = folder / "log"
    with (
        log.open("wb") as stderr,
        # It stops the server at the end of its input, so also when we are killed.
        subprocess.Popen(
            list(map(str, arguments)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd=folder,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        ) as process,
    ):
        try:
            assert process.stdin  # for the type checker
            assert process.stdout
            os.set_blocking(process.stdout.fileno(), False)
            process.stdin.write(b"start\n")
            process.stdin.flush()
            deadline = time.monotonic() + 60
            while not _answers(port):
                if process.stdout.read() is not None or time.monotonic() > deadline:
                    logs = "".join(path.read_text(errors="replace") for path in sorted(folder.glob("*log")))
                    raise RuntimeError(f"{command(str(port))[0]} does not start:\n{logs[-5000:]}")
                time.sleep(0.05)
            yield port
        finally:
            process.communicate()


@contextlib.contextmanager
def server_folder() -> Iterator[Path]:
    # The supervisor may have removed it already.
    with tempfile.TemporaryDirectory(prefix="recall-storage-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o711)  # Apache may be another user
        yield folder


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("HEAD", "/")
        connection.getresponse()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True


def free_port() -> int:
    """A port that this process has not been given before.

    It is below those of outgoing connections, one of which could otherwise take it before the server does.
    """
    while True:
        port = _random.randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            if port not in _given_ports:
                _given_ports.add(port)
                return port


def find_program(name: str, *folders: Path) -> str | None:
    # Not everybody has sbin on the path.
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", *map(str, folders)])
    return shutil.which(name, path=path)


def go_folders() -> list[Path]:
    """Where `go install` puts programs."""
    folders = [Path.home() / "go" / "bin"]
    if go := shutil.which("go", path=f"{os.environ.get('PATH', os.defpath)}{os.pathsep}/usr/local/go/bin"):
        told = json.loads(
            subprocess.run([go, "env", "-json", "GOBIN", "GOPATH"], capture_output=True, check=True).stdout
        )
        folders = [Path(told["GOBIN"] or f"{told['GOPATH'].split(os.pathsep)[0]}/bin"), *folders]
    return folders


def owner_of(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_uid, status.st_gid


def give(path: Path, owner: tuple[int, int]) -> None:
    if owner_of(path) != owner:
        os.chown(path, *owner)


def missing(what: str, how: str) -> NoReturn:
    reason = f"{what} is not installed: {how}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
