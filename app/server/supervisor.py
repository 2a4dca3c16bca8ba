"""Several worker processes on one port (`RECALL_WORKERS`), and the process that keeps them running.

The kernel spreads connections over the workers (SO_REUSEPORT). A worker that dies is started again. The metrics of all
workers, also of those that have died, are in files that each of them adds up for `/metrics` (prometheus_client's
multiprocess mode).
"""

import logging
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from types import FrameType

from prometheus_client.multiprocess import mark_process_dead

from app.logs import log_to_stderr
from app.retry import Backoff
from app.server import Server
from app.settings import ConfigurationError, Settings
from app.store.indices import SchemaMismatch

log = logging.getLogger(__name__)

METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# A worker that lived this long did not die of its start, so the next one starts at once.
_STABLE_SECONDS = 60.0
_LONGEST_PAUSE = 10.0
# How much longer than RECALL_SHUTDOWN_SECONDS a worker may take to end before it is killed.
_GRACE_SECONDS = 10.0

_Address = tuple[socket.AddressFamily, tuple[str, int]]


def bound(settings: Settings) -> list[socket.socket]:
    """Returns sockets that have the configured port and do not listen yet. Raises ConfigurationError."""
    addresses = _addresses(settings)
    with ExitStack() as sockets:
        for address in addresses:
            # With SO_REUSEPORT alone, another Recall on the same port would get half of the connections.
            with _bind(address, settings, shared=False):
                pass
        shared = settings.worker_count > 1
        found = [sockets.enter_context(_bind(address, settings, shared=shared)) for address in addresses]
        sockets.pop_all()
    return found


def serve(settings: Settings, sockets: Sequence[socket.socket], announcement: str = "") -> bool:
    """Serves until SIGTERM or Ctrl-C; returns whether it could start. `sockets` come from `bound`.

    `announcement` is printed when the service answers. The signal takes effect again at the end.
    """
    if settings.worker_count > 1:
        return _supervise(settings, sockets, announcement)
    server = Server(settings, lambda: _announce(announcement))
    server.run(list(sockets))
    return server.started


def _announce(announcement: str) -> None:
    if announcement:
        print(announcement, flush=True)  # noqa: T201


def _supervise(settings: Settings, reserved: Sequence[socket.socket], announcement: str) -> bool:
    # These sockets keep the port while no worker listens. Each worker has sockets of its own.
    addresses = [(one.family, one.getsockname()[:2]) for one in reserved]
    with ExitStack() as context:
        folder = context.enter_context(tempfile.TemporaryDirectory(prefix="recall-metrics-"))
        context.enter_context(_environment(METRICS_FOLDER, folder))
        supervisor = context.enter_context(_signals(_Supervisor(settings, addresses, folder, announcement)))
        started = supervisor.run()
    for number in supervisor.captured:
        signal.raise_signal(number)
    return started


@dataclass
class _Worker:
    """One of the workers, whichever process it is now."""

    number: int
    process: SpawnProcess | None = None
    messages: Connection | None = None
    since: float = 0.0
    next_start: float = 0.0
    pauses: Backoff = field(default_factory=lambda: Backoff(initial=0.2, maximum=_LONGEST_PAUSE))


class _Supervisor:
    def __init__(self, settings: Settings, addresses: Sequence[_Address], folder: str, announcement: str) -> None:
        self._settings = settings
        self._addresses = addresses
        self._folder = folder
        self._announcement = announcement
        self._workers = [_Worker(number) for number in range(1, settings.worker_count + 1)]
        self._started = False
        self.captured: list[int] = []
        self.wakeup, self._wake = os.pipe()
        os.set_blocking(self._wake, False)

    def note_signal(self, number: int, _frame: FrameType | None) -> None:
        """Handles a signal: the workers are told to end, a second Ctrl-C tells them not to wait for requests."""
        self.captured.append(number)
        os.write(self._wake, b"!")
        for worker in self._workers:
            if worker.process is not None and worker.process.pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(worker.process.pid, number)

    def run(self) -> bool:
        """Keeps the workers running until a signal comes. Returns False if the first one cannot start."""
        try:
            # The first one makes what is missing in Elasticsearch, or fails alone.
            self._start(self._workers[0])
            while not self.captured:
                self._wait()
                for worker in self._workers:
                    if worker.process is not None and not worker.process.is_alive():
                        self._buried(worker)
                        if not self._started:
                            return False
                if self._started:
                    self._start_missing()
            return self._started
        finally:
            self._end()
            os.close(self.wakeup)
            os.close(self._wake)

    def _start_missing(self) -> None:
        now = time.monotonic()
        for worker in self._workers:
            if worker.process is None and worker.next_start <= now and not self.captured:
                self._start(worker)

    def _start(self, worker: _Worker) -> None:
        context = multiprocessing.get_context("spawn")
        try:
            received, messages = context.Pipe(duplex=False)
            arguments = (self._settings, self._addresses, worker.number, messages)
            process = context.Process(target=_work, args=arguments, name=f"recall-worker-{worker.number}")
            process.start()
        except OSError as error:  # without memory, or a free process or descriptor
            if not self._started:
                raise
            pause = worker.pauses.next_wait() or 0.0
            worker.next_start = time.monotonic() + pause
            log.error("worker %d cannot be started, again in %.1f s: %s", worker.number, pause, error)
            return
        messages.close()
        worker.process, worker.messages, worker.since = process, received, time.monotonic()

    def _wait(self) -> None:
        """Returns when a worker has started or ended, a signal has come, or it is time for a start."""
        pending = [worker.next_start for worker in self._workers if worker.process is None]
        timeout = max(min(pending) - time.monotonic(), 0.0) if pending and self._started else None
        waited_for: list[Connection | int] = [self.wakeup]
        for worker in self._workers:
            if worker.process is not None:
                waited_for.append(worker.process.sentinel)
            if worker.messages is not None:
                waited_for.append(worker.messages)
        ready = connection.wait(waited_for, timeout)
        for worker in self._workers:
            if worker.messages in ready:
                self._has_started(worker)

    def _has_started(self, worker: _Worker) -> None:
        assert worker.messages is not None
        with suppress(EOFError):  # it has died
            worker.messages.recv_bytes()
            if not self._started:
                _announce(self._announcement)
            self._started = True
        worker.messages.close()
        worker.messages = None

    def _buried(self, worker: _Worker) -> None:
        """Notes that a worker has died, and when the next one starts."""
        process = worker.process
        assert process is not None
        process.join()
        # Its counters stay, what it had open does not.
        mark_process_dead(process.pid, path=self._folder)  # type: ignore[no-untyped-call]
        lived = time.monotonic() - worker.since
        if lived > _STABLE_SECONDS:
            worker.pauses = Backoff(initial=0.2, maximum=_LONGEST_PAUSE)
        pause = worker.pauses.next_wait() or 0.0
        worker.process, worker.next_start = None, time.monotonic() + pause
        if self._started and not self.captured:
            log.error(
                "worker %d (process %d) ended with %s after %.1f s; another one starts in %.1f s",
                worker.number,
                process.pid,
                process.exitcode,
                lived,
                pause,
            )

    def _end(self) -> None:
        """Waits until the workers, which the signal was passed on to, have ended."""
        running = [worker.process for worker in self._workers if worker.process is not None]
        for process in running:
            process.terminate()  # a signal that came while it was started has not reached it
        deadline = time.monotonic() + self._settings.shutdown_seconds + _GRACE_SECONDS
        for process in running:
            process.join(max(deadline - time.monotonic(), 0.0))
            if process.is_alive():
                log.error("process %d does not end and is killed", process.pid)
                process.kill()
                process.join()


# --- In a worker ---


def _work(settings: Settings, addresses: Sequence[_Address], number: int, messages: Connection) -> None:
    threading.Thread(target=_end_with_supervisor, daemon=True).start()
    log_to_stderr(settings.log_format, worker=number)
    try:
        sockets = [_bind(address, settings, shared=True) for address in addresses]
        server = Server(settings, lambda: messages.send_bytes(b"started"))
        server.run(sockets)
    except (ConfigurationError, SchemaMismatch) as error:
        sys.exit(str(error))
    sys.exit(0 if server.started else 1)


def _end_with_supervisor() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


# --- Sockets and signals ---


def _addresses(settings: Settings) -> list[_Address]:
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise _cannot_listen(settings, error) from error
    return [(family, (str(address[0]), int(address[1]))) for family, _, _, _, address in found]


def _bind(address: _Address, settings: Settings, *, shared: bool) -> socket.socket:
    family, host_and_port = address
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit it. Without it an answer in two parts takes 40 ms.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(host_and_port)
    except OSError as error:
        listener.close()
        raise _cannot_listen(settings, error) from error
    return listener


def _cannot_listen(settings: Settings, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"cannot listen on {settings.host}:{settings.port}: {error.strerror}; RECALL_PORT chooses another port"
    )


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Sets a variable for the processes that are started meanwhile."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextmanager
def _signals(supervisor: _Supervisor) -> Iterator[_Supervisor]:
    handlers: dict[int, Callable[[int, FrameType | None], object] | int | None] = {
        number: signal.signal(number, supervisor.note_signal) for number in _SIGNALS
    }
    try:
        yield supervisor
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
