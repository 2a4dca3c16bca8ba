"""Several worker processes on one port (RECALL_WORKERS), as processes that a test may kill."""

import asyncio
import errno
import json
import math
import os
import re
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from multiprocessing.context import SpawnProcess
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import msgspec
import pytest

from app.server import supervisor as supervising
from app.settings import Settings, StorageConfig, WebDavConfig
from tests.support.faults import CountingStorage
from tests.support.processes import AppProcess, Scripts
from tests.support.recordings import OPS_PATH, a_media_file, a_recording
from tests.support.service import PATIENT, basic
from tests.support.waiting import eventually

WORKERS = 2


def workers_of(pid: int) -> list[int]:
    """Returns the process ids of the workers of a supervisor."""
    found = []
    with suppress(OSError):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for child in children:
            with suppress(OSError):
                if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text():
                    found.append(int(child))
    return found


def alive(pids: list[int]) -> bool:
    return any(Path(f"/proc/{pid}").exists() for pid in pids)


async def all_answer(app: AppProcess) -> None:
    """Returns when there are as many workers as configured, and each accepts connections."""

    def listening() -> bool:
        port = f":{urlsplit(app.url).port or 0:04X}"
        lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return sum(line[1].endswith(port) and line[3] == "0A" for line in lines) == WORKERS

    await eventually(listening, seconds=60)


@asynccontextmanager
async def running(settings: Settings, folder: Path) -> AsyncIterator[AppProcess]:
    audit_log = str(folder / "audit.log")
    app = AppProcess(msgspec.structs.replace(settings, workers=WORKERS, audit_log=audit_log, **PATIENT), folder)
    try:
        await app.start()
        await all_answer(app)
        yield app
    finally:
        await app.stop()


@pytest.fixture(scope="module")
async def app(module_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[AppProcess]:
    """A service with two workers, which no test ends."""
    async with running(module_settings, tmp_path_factory.mktemp("app")) as app:
        yield app


def audited(app: AppProcess) -> set[str]:
    """Returns the ids of the recordings whose creation is in the audit log. Each line is whole."""
    lines = [json.loads(line) for line in Path(app.settings.audit_log or "").read_text().splitlines()]
    return {line["recordingId"] for line in lines if line["operation"] == "create"}


async def metric(app: AppProcess, pattern: str) -> float:
    async with app.client() as client:
        text = (await client.get("/metrics")).text
    return sum(float(value) for value in re.findall(rf"^{pattern} (.*)$", text, re.MULTILINE))


POSTS = r'recall_request_seconds_count\{endpoint="ops-recordings",method="POST",status="201"\}'


async def test_a_worker_that_is_killed_under_load_loses_nothing_and_comes_back(app: AppProcess) -> None:
    """Its counters and audit lines stay, too."""
    counted = await metric(app, POSTS)
    stored: set[str] = set()
    stop = asyncio.Event()
    unanswered = 0

    async def post_all(number: int) -> None:
        nonlocal unanswered
        count = 0
        while not stop.is_set():
            # A connection for each, so that both workers get some.
            async with app.client("ops") as ops:
                for _ in range(3):
                    count += 1
                    recording_id = f"load-{number}-{count}"
                    try:
                        response = await ops.post(OPS_PATH, json=a_recording(recording_id))
                    # anyio looks for the address of a connection that may be closed already.
                    except (httpx.TransportError, AttributeError):
                        unanswered += 1
                        break
                    assert response.status_code == 201, response.text
                    stored.add(recording_id)

    clients = 4
    async with asyncio.TaskGroup() as load:
        for number in range(clients):
            load.create_task(post_all(number))
        await eventually(lambda: len(stored) > 20)
        before = workers_of(app.pid)
        assert len(before) == WORKERS
        os.kill(before[0], signal.SIGKILL)
        killed_at = time.monotonic()
        await eventually(lambda: len(set(workers_of(app.pid)) - set(before)) == 1, seconds=60)
        await all_answer(app)
        back_after = time.monotonic() - killed_at
        enough = len(stored) + 20
        await eventually(lambda: len(stored) > enough)
        stop.set()
    assert back_after < 60, "on a busy machine; seconds on an idle one"
    async with app.client("ops") as ops:
        for recording_id in stored:
            assert (await ops.get(f"{OPS_PATH}/{recording_id}")).status_code == 200
    # A request is counted just after its answer, and the worker may have been killed in between.
    counted = await metric(app, POSTS) - counted
    assert len(stored) - clients <= counted <= len(stored) + unanswered
    assert await metric(app, "recall_build_info.*") == 1
    assert stored <= audited(app)


async def test_both_workers_serve_and_their_metrics_are_summed(app: AppProcess) -> None:
    counted = await metric(app, POSTS)
    async with AsyncExitStack() as connections:
        for number in range(24):
            client = await connections.enter_async_context(app.client("ops"))
            response = await client.post(OPS_PATH, json=a_recording(f"r{number}"))
            assert response.status_code == 201, response.text
        assert await metric(app, POSTS) == counted + 24
        # Those of the clients, and the one that asks. The connection of an earlier question may be closed just now.
        await eventually(lambda: _is(app, "recall_connections", 25))
        assert await metric(app, "recall_batches_in_use") == 0
        assert await metric(app, "process_resident_memory_bytes") > 50_000_000 * WORKERS
        workers = workers_of(app.pid)
        assert len(workers) == WORKERS
        await eventually(lambda: sum(connections_of(pid, app) for pid in workers) == 24)
        used = [connections_of(pid, app) for pid in workers]
        assert min(used) >= 1, "of 24 connections one worker got none: this happens once in eight million times"
    await eventually(lambda: _is(app, "recall_connections", 1))


async def _is(app: AppProcess, name: str, value: float) -> bool:
    return await metric(app, name) == value


def connections_of(pid: int, app: AppProcess) -> int:
    """Returns how many established connections of clients a process has."""
    port = f":{urlsplit(app.url).port or 0:04X}"
    established = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1].endswith(port) and fields[3] == "01":
            established.add(f"socket:[{fields[9]}]")
    return sum(str(fd.readlink()) in established for fd in Path(f"/proc/{pid}/fd").iterdir() if fd.is_symlink())


async def test_sigterm_lets_a_play_finish(
    settings: Settings, counting_storage: CountingStorage, tmp_path: Path
) -> None:
    size = 3_000_000
    url = counting_storage.put("long.wav", size)
    storage = StorageConfig((WebDavConfig(counting_storage.url),))
    async with (
        running(msgspec.structs.replace(settings, storage=storage), tmp_path) as app,
        app.client("ops") as ops,
        app.client("admin") as admin,
    ):
        media = a_media_file(mediaDescriptor={"storage": "webDAV", "path": url}, type="audio/wav")
        assert (await ops.post(OPS_PATH, json=a_recording("played", mediaFiles=[media]))).status_code == 201
        recording = (await admin.get("/api/v2/recordings/played")).json()["recording"]
        counting_storage.rate = 1_000_000
        workers = workers_of(app.pid)
        async with admin.stream("GET", f"/api/v2{recording['mediaFiles'][0]['playPath']}") as response:
            assert response.status_code == 200
            received = 0
            async for chunk in response.aiter_raw():
                if not received:
                    app.terminate()
                received += len(chunk)
        assert received == size
        await app.stop()
        assert not alive(workers)


async def test_workers_end_with_a_supervisor_that_is_killed(settings: Settings, tmp_path: Path) -> None:
    async with running(settings, tmp_path) as app:
        workers = workers_of(app.pid)
        await app.kill()
        await eventually(lambda: not alive(workers))


async def test_guesses_of_a_password_are_slowed_down_although_workers_know_nothing_of_each_other(
    app: AppProcess,
) -> None:
    begun = time.monotonic()
    seconds = 0.0
    guessed = 0
    while seconds < 2:
        async with app.client() as client:  # a connection for each, so that both workers get some
            response = await client.get("/api/v2/me", headers={"Authorization": basic("ops", f"guess-{guessed}")})
        assert response.status_code == 401
        guessed += 1
        seconds = time.monotonic() - begun
        # Each worker lets three through at once, then one after each pause of 1, 2, 4 … seconds. One worker would let
        # six through, with pauses of half the time.
        assert guessed <= WORKERS * (3 + int(math.log2(seconds + 1)))


async def test_a_port_in_use_is_told_in_one_line(settings: Settings, tmp_path: Path) -> None:
    for reuse in (False, True):  # the latter as another Recall with workers
        with socket.socket() as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, reuse)
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            for workers in (1, WORKERS):
                scripts = Scripts(msgspec.structs.replace(settings, workers=workers, port=port), tmp_path)
                status, out, err = await scripts.run("-m", "app")
                assert (status, out) == (1, "")
                assert err == (
                    f"cannot listen on 127.0.0.1:{port}: Address already in use; RECALL_PORT chooses another port\n"
                )


async def test_a_first_worker_that_cannot_start_ends_it_all(settings: Settings, tmp_path: Path) -> None:
    changed = msgspec.structs.replace(settings, workers=WORKERS, audit_log=str(tmp_path / "none" / "audit.log"), port=0)
    status, _, err = await Scripts(changed, tmp_path).run("-m", "app")
    assert status == 1
    assert err.count("the audit log cannot be opened") == 1


async def test_a_worker_that_cannot_be_started_again_is_tried_later(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As without memory, which is short when a worker has been killed for it."""

    def fails(_: SpawnProcess) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(SpawnProcess, "start", fails)
    supervisor = supervising._Supervisor(msgspec.structs.replace(settings, workers=WORKERS), [], "", "")
    worker = supervisor._workers[0]
    with pytest.raises(OSError, match="memory"):  # the first one ends it all
        supervisor._start(worker)
    supervisor._started = True
    supervisor._start(worker)
    assert worker.process is None
    assert worker.next_start > time.monotonic()


async def test_lines_of_the_log_tell_the_worker(settings: Settings, tmp_path: Path) -> None:
    changed = msgspec.structs.replace(settings, workers=WORKERS, log_format="json", port=0)
    scripts = Scripts(changed, tmp_path)
    process = await scripts.start("-m", "app")
    seen: set[int] = set()
    assert process.stderr is not None
    while len(seen) < WORKERS:
        async with asyncio.timeout(60):
            seen.add(json.loads(await process.stderr.readline()).get("worker"))
            seen.discard(None)
    assert seen == {1, 2}
    process.terminate()
    await scripts.end(process)


@pytest.mark.parametrize("workers", ["0", "-1", "many", "1.5"])
async def test_other_numbers_of_workers_are_refused(settings: Settings, tmp_path: Path, workers: str) -> None:
    scripts = Scripts(settings, tmp_path)
    environment = {**os.environ, "RECALL_CONFIG": str(scripts.configure()), "RECALL_WORKERS": workers}
    process = await scripts.start("-m", "app", env=environment)
    status, _, err = await scripts.end(process)
    assert status == 1
    assert err.startswith("the configuration cannot be used: ")
    assert len(err.splitlines()) == 1
