"""Peaks of media files: drawn from any storage in a limited process, or refused with a reason."""

import asyncio
import contextlib
import io
import subprocess
import sys
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
import soundfile  # type: ignore[import-untyped]

from app.media import decoder, waveform
from app.settings import Settings, StorageConfig, WebDavConfig
from tests.page.support import signed_in
from tests.support.audit import lines_but_posts
from tests.support.faults import CountingStorage, FaultServer
from tests.support.recordings import OPS_PATH, a_media_file, a_recording
from tests.support.service import PATIENT, STORAGES, USERS, Service, StartService, assert_error
from tests.support.sizes import size
from tests.support.storages import WebDav
from tests.support.waiting import eventually

RATE = 8000


def sound(seconds: float, *, seed: int = 0) -> np.ndarray[Any, Any]:
    """Two channels of noise, each second of another loudness, some of them silent."""
    random = np.random.default_rng(seed)
    frames = int(seconds * RATE)
    loudness = np.repeat(random.integers(0, 4, (int(seconds) + 1, 2)) / 4, RATE, axis=0)[:frames]
    return np.asarray(random.uniform(-1, 1, (frames, 2)) * loudness)


def encoded(samples: np.ndarray[Any, Any], kind: str = "WAV", subtype: str | None = "ULAW") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format=kind, subtype=subtype)
    return file.getvalue()


@pytest.fixture(scope="module")
async def service(module_settings: Settings, wsgidav_basic: WebDav, tmp_path_factory: Any) -> AsyncIterator[Service]:
    storage = WebDavConfig(wsgidav_basic.url, wsgidav_basic.username, wsgidav_basic.password)
    supervisor = next(user for user in USERS if user.name == "supervisor")
    limited = msgspec.structs.replace(supervisor, access_groups=("/US",))
    service = Service(
        msgspec.structs.replace(
            module_settings,
            storage=StorageConfig((*STORAGES.webdav, storage), STORAGES.s3),
            users=(*(user for user in USERS if user is not supervisor), limited),
            audit_log=tmp_path_factory.mktemp("audit") / "audit.log",
            **PATIENT,
        )
    )
    await service.start()
    yield service
    await service.stop()


@pytest.fixture
async def admin(service: Service) -> httpx.AsyncClient:
    return await signed_in(service)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The decoders that have been started, by their process ids."""
    pids: list[int] = []
    start = asyncio.create_subprocess_exec

    async def counted(*args: Any, **options: Any) -> Any:
        process = await start(*args, **options)
        pids.append(process.pid)
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", counted)
    return pids


def is_running(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def most_memory(pid: int) -> int:
    """Of a process, in kilobytes; 0 when it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1])
    return 0


async def post(service: Service, descriptor: dict[str, Any], **attributes: Any) -> str:
    """Posts a recording with this media file; the path of its peaks."""
    recording_id = f"r-{descriptor['path']}"
    media = a_media_file(mediaDescriptor=descriptor, **attributes)
    response = await service.client("ops").post(OPS_PATH, json=a_recording(recording_id, mediaFiles=[media]))
    assert response.status_code in {200, 201}, response.text
    stored = await service.client("ops").get(response.json()["uri"])
    path: str = stored.json()["recording"]["mediaFiles"][0]["playPath"]
    return "/ui/api/recordings" + path.partition("/recordings")[2].replace("/play/", "/peaks/")


async def drawn(client: httpx.AsyncClient, path: str, **part: str) -> dict[str, Any]:
    response = await client.get(path, params=part)
    assert response.status_code == 200, response.text
    peaks: dict[str, Any] = response.json()["peaks"]
    assert peaks is not None, response.text
    return peaks


async def refused(client: httpx.AsyncClient, path: str) -> str:
    response = await client.get(path)
    assert response.status_code == 200, response.text
    body = response.json()
    assert body["peaks"] is None
    assert body["message"].endswith(".")
    return str(body["reason"])


def expected(samples: np.ndarray[Any, Any], points: int) -> np.ndarray[Any, Any]:
    """Peaks by definition: the greatest amplitude in each of `points` parts of the same width."""
    edges = np.linspace(0, len(samples), points + 1)
    return np.array([[abs(samples[int(a) : max(int(b), int(a) + 1)]).max(axis=0)] for a, b in pairwise(edges)])[:, 0].T


@pytest.mark.parametrize(
    ("kind", "subtype", "tolerance"),
    [("WAV", "ULAW", 5), ("WAV", "PCM_16", 2), ("WAV", "GSM610", None), ("MP3", None, None), ("OGG", "VORBIS", None)],
)
async def test_the_peaks_are_those_of_the_sound(  # noqa: PLR0917
    service: Service,
    admin: httpx.AsyncClient,
    wsgidav_basic: WebDav,
    kind: str,
    subtype: str | None,
    tolerance: int | None,
) -> None:
    samples = sound(30, seed=1)
    if subtype == "GSM610":
        samples = samples[:, :1]
    path = f"calls/{kind}-{subtype}.{kind.lower()}"
    wsgidav_basic.put(path, encoded(samples, kind, subtype))
    peaks = await drawn(admin, await post(service, wsgidav_basic.descriptor(path)))
    assert peaks["duration"] == pytest.approx(30, abs=0.2)
    assert (peaks["from"], peaks["to"]) == (0, peaks["duration"])
    assert len(peaks["channels"]) == samples.shape[1]
    for channel, oracle in zip(np.array(peaks["channels"]), expected(samples, 30), strict=True):
        assert len(channel) == 4000
        # The edges of points and seconds differ. Codecs that lose something keep what is loud and what is silent.
        middles = channel[: 4000 // 30 * 30].reshape(30, -1)[:, 20:-20].max(axis=1)
        if tolerance is None:
            assert ((middles > 25) == (oracle > 0)).all()
        else:
            assert abs(middles - oracle * 255).max() <= tolerance


async def test_a_part_is_drawn_finer(service: Service, admin: httpx.AsyncClient, wsgidav_basic: WebDav) -> None:
    samples = sound(60, seed=2)
    wsgidav_basic.put("calls/part.wav", encoded(samples, subtype="PCM_16"))
    path = await post(service, wsgidav_basic.descriptor("calls/part.wav"))
    peaks = await drawn(admin, path, **{"from": "20.5", "to": "21.5"})
    assert (peaks["from"], peaks["to"], peaks["duration"]) == (20.5, 21.5, 60)
    part = samples[int(20.5 * RATE) : int(21.5 * RATE)]
    for channel, oracle in zip(np.array(peaks["channels"]), expected(part, len(peaks["channels"][0])), strict=True):
        assert abs(channel - oracle * 255).max() <= 2
    beyond = await drawn(admin, path, **{"from": "100"})
    assert beyond["channels"] == [[], []]
    assert (beyond["from"], beyond["to"]) == (60, 60)


async def test_it_is_decoded_once_and_by_one_process_at_a_time(
    service: Service, admin: httpx.AsyncClient, wsgidav_basic: WebDav, started: list[int]
) -> None:
    paths = []
    for name in ("calls/once.wav", "calls/other.wav"):
        wsgidav_basic.put(name, encoded(sound(5)))
        paths.append(await post(service, wsgidav_basic.descriptor(name)))
    answers = await asyncio.gather(*(drawn(admin, path) for path in paths * 3))
    assert all(answer == answers[0] for answer in answers)
    assert len(started) == 2
    await drawn(admin, paths[0])
    assert len(started) == 2
    # Another version of the file is not the one that is remembered.
    wsgidav_basic.put("calls/once.wav", encoded(sound(7)))
    assert (await drawn(admin, paths[0]))["duration"] == 7
    assert len(started) == 3


async def test_a_reason_is_told_where_nothing_can_be_drawn(
    service: Service, admin: httpx.AsyncClient, wsgidav_basic: WebDav, monkeypatch: pytest.MonkeyPatch
) -> None:
    wsgidav_basic.put("calls/text.wav", b"no sound at all" * 100)
    wsgidav_basic.put("calls/empty.wav", b"")
    wsgidav_basic.put("calls/cut.wav", encoded(sound(5))[:30])
    assert await refused(admin, await post(service, wsgidav_basic.descriptor("calls/text.wav"))) == "codec"
    assert await refused(admin, await post(service, wsgidav_basic.descriptor("calls/empty.wav"))) == "codec"
    assert await refused(admin, await post(service, wsgidav_basic.descriptor("calls/cut.wav"))) == "codec"
    assert await refused(admin, await post(service, wsgidav_basic.descriptor("calls/none.wav"))) == "missing"
    away = {"storage": "webDAV", "path": "http://[::1]:8080/calls/away.wav"}
    assert await refused(admin, await post(service, away)) == "storage"
    encrypted = await post(service, wsgidav_basic.descriptor("calls/text.wav"), certAlias=["a"], pkcs7="MII")
    assert await refused(admin, encrypted) == "encrypted"
    monkeypatch.setattr(waveform, "_is_installed", lambda: False)
    assert await refused(admin, await post(service, wsgidav_basic.descriptor("calls/text.wav"), pkcs7="")) == "decoder"


async def test_who_may_not_play_may_not_see_and_nothing_is_audited(
    service: Service, admin: httpx.AsyncClient, wsgidav_basic: WebDav
) -> None:
    wsgidav_basic.put("calls/mine.wav", encoded(sound(2)))
    wsgidav_basic.put("calls/hidden.wav", encoded(sound(2)))
    mine = await post(service, wsgidav_basic.descriptor("calls/mine.wav"), accessgroups=["/US/CA"])
    hidden = await post(service, wsgidav_basic.descriptor("calls/hidden.wav"), accessgroups=["/EU"])
    limited = await signed_in(service, "supervisor")
    assert service.settings.audit_log
    lines = len(lines_but_posts(Path(service.settings.audit_log)))
    await drawn(limited, mine)
    await drawn(admin, hidden)
    assert len(lines_but_posts(Path(service.settings.audit_log))) == lines
    assert_error(await limited.get(hidden), 404, 6)
    assert_error(await (await signed_in(service, "agent")).get(mine), 403, 5)
    assert_error(await (await signed_in(service, "other-admin")).get(mine), 404, 6)
    assert_error(await service.client("admin").get(mine), 401, 20)
    assert_error(await admin.get(mine.replace(".wav", ".mp3")), 404, 6)


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("from=-1", "from"),
        ("to=x", "to"),
        ("to=1e3", "to"),
        ("from=5&to=5", "to"),
        ("from=1&from=2", "from"),
        ("a=1", "a"),
    ],
)
async def test_a_bad_part_is_refused(
    service: Service, admin: httpx.AsyncClient, wsgidav_basic: WebDav, query: str, name: str
) -> None:
    wsgidav_basic.put("calls/bad.wav", encoded(sound(1)))
    path = await post(service, wsgidav_basic.descriptor("calls/bad.wav"))
    assert_error(await admin.get(f"{path}?{query}"), 400, 2, f"Parameter '{name}' is invalid")


# What a decoder might do that a malicious file has taken over, as programs.
_HEAD = "import os, struct, time\n"
TAKEN_OVER = {
    "asks beyond the end": "os.write(1, b'R' + struct.pack('!QI', 2**63, 4))",
    "asks for nothing": "os.write(1, b'R' + struct.pack('!QI', 0, 0))",
    "ends": "os._exit(0)",
    "crashes": "os.abort()",
    "says something else": "os.write(1, b'P' * 100)",
    "sends too many points": "os.write(1, b'P' + struct.pack('!IIQQQQ', 2, 10**6, 8000, 0, 1, 1))",
    "breaks off": "os.write(1, b'P' + struct.pack('!IIQQQQ', 2, 4000, 8000, 0, 1, 1) + b'abc')",
    "reads in circles": (
        "[(os.write(1, b'R' + struct.pack('!QI', i * 64 % 128, 4)), os.read(0, 8)) for i in range(999)]"
    ),
}


@pytest.mark.parametrize("deed", TAKEN_OVER)
async def test_a_decoder_that_misbehaves_does_no_harm(  # noqa: PLR0917
    service: Service,
    admin: httpx.AsyncClient,
    wsgidav_basic: WebDav,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    started: list[int],
    deed: str,
) -> None:
    program = tmp_path / "decoder.py"
    program.write_text(_HEAD + TAKEN_OVER[deed])
    name = f"calls/{deed}.wav"
    wsgidav_basic.put(name, encoded(sound(1)))
    path = await post(service, wsgidav_basic.descriptor(name))
    with monkeypatch.context() as taken_over:
        taken_over.setattr(waveform, "_DECODER", program)
        assert await refused(admin, path) == "codec"
    assert not any(map(is_running, started))
    await drawn(admin, path)


async def test_a_decoder_that_hangs_is_killed(  # noqa: PLR0917
    service: Service,
    admin: httpx.AsyncClient,
    wsgidav_basic: WebDav,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    started: list[int],
) -> None:
    program = tmp_path / "decoder.py"
    program.write_text("import time\ntime.sleep(600)")
    wsgidav_basic.put("calls/hangs.wav", encoded(sound(1)))
    path = await post(service, wsgidav_basic.descriptor("calls/hangs.wav"))
    monkeypatch.setattr(waveform, "_DECODER", program)
    with monkeypatch.context() as impatient:
        impatient.setattr(waveform, "_SECONDS", 0.5)
        assert await refused(admin, path) == "slow"
    # And as soon as its client leaves.
    task = asyncio.create_task(admin.get(path))
    await eventually(lambda: len(started) == 2)
    task.cancel()
    await eventually(lambda: not any(map(is_running, started)))


def test_a_decoder_that_has_begun_can_open_nothing() -> None:
    program = (
        "import sys, runpy; begin = runpy.run_path(sys.argv[1])['_begin']; begin()\n"
        "import socket, os\n"
        "for attempt in (lambda: os.open('/etc/hostname', os.O_RDONLY), socket.socket, os.pipe):\n"
        "    try: attempt(); print('opened')\n"
        "    except OSError as error: print(error.strerror)\n"
    )
    # `socket` is imported before, because an import opens files.
    done = subprocess.run(
        [sys.executable, "-I", "-c", "import socket\n" + program, decoder.__file__],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["Too many open files"] * 3


# Reads the whole file, whatever is in it.
_READER = """
import os, struct, sys
for at in range(0, int(sys.argv[1]), 65536):
    os.write(1, b"R" + struct.pack("!QI", at, min(65536, int(sys.argv[1]) - at)))
    left = 4 + min(65536, int(sys.argv[1]) - at)
    while left:
        left -= len(os.read(0, left)) or sys.exit(1)
"""


@pytest.mark.emptied_indices
async def test_it_gives_way_to_a_player(
    start_service: StartService,
    counting_storage: CountingStorage,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    started: list[int],
) -> None:
    """With one place for a user, the one who listens gets it."""
    program = tmp_path / "decoder.py"
    program.write_text(_READER)
    monkeypatch.setattr(waveform, "_DECODER", program)
    counting_storage.rate = 2_000_000
    url = counting_storage.put("calls/long.wav", 100_000_000)
    service = await start_service(
        storage=StorageConfig((counting_storage.config,)), streams_per_user=1, storage_wait_seconds=20.0, **PATIENT
    )
    path = await post(service, {"storage": "webDAV", "path": url})
    client = await signed_in(service)
    drawing = asyncio.create_task(refused(client, path))
    await eventually(lambda: bool(started) and counting_storage.open_connections > 0)
    async with client.stream("GET", path.replace("/peaks/", "/play/")) as response:
        assert response.status_code == 200
        assert await drawing == "busy"


@pytest.mark.emptied_indices
async def test_a_storage_that_breaks_off_or_knows_no_ranges(start_service: StartService, faults: FaultServer) -> None:
    service = await start_service(storage=StorageConfig((faults.config,)), **PATIENT)
    client = await signed_in(service)
    for fault in ("short-body", "reset-in-body", "reset-before-headers"):
        path = await post(service, {"storage": "webDAV", "path": faults.url_of(fault)})
        assert await refused(client, path) in {"storage", "codec"}


async def test_an_hour_takes_little_memory(
    service: Service, admin: httpx.AsyncClient, wsgidav_basic: WebDav, started: list[int]
) -> None:
    minutes = size(4, full=60)
    wsgidav_basic.put("calls/hour.wav", encoded(np.tile(sound(60), (minutes, 1))))
    path = await post(service, wsgidav_basic.descriptor("calls/hour.wav"))
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max([most, *map(most_memory, started)])
            await asyncio.sleep(0.01)

    watching = asyncio.create_task(watch())
    peaks = await drawn(admin, path)
    watching.cancel()
    assert peaks["duration"] == 60 * minutes
    assert 0 < most < 150_000
