"""`scripts/purge.py`: exactly what is old, matches and is not protected goes, whatever happens meanwhile."""

import asyncio
import importlib
import json
import os
import pty
import random
import re
import signal
import sys
import termios
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec
import pytest
from elasticsearch import AsyncElasticsearch

from app import codec
from app.recordings.merge import merge
from app.recordings.model import parse_recording
from app.settings import Settings
from app.store.documents import document_id, to_document
from tests.support.processes import AppProcess, Scripts
from tests.support.recordings import (
    CONTACT_CENTER,
    OPS_PATH,
    OTHER_CONTACT_CENTER,
    REGION,
    a_media_file,
    a_recording,
    a_user,
    an_event,
    batched,
    store_many,
)
from tests.support.service import Service, StartService
from tests.support.sizes import PURGED_RECORDINGS, RACED_BY_PURGE
from tests.support.storages import WebDav, webdav_storage
from tests.support.waiting import eventually

OTHER_OPS_PATH = OPS_PATH.replace(CONTACT_CENTER, OTHER_CONTACT_CENTER)
SCREENS_PATH = OPS_PATH.replace("recordings", "screen-recordings")
OURS = ("--contact-center", CONTACT_CENTER)
OLD = ("--older-than", "90d", *OURS)


def aged(recording_id: str, days: float = 100, path: str | None = None, **attributes: Any) -> dict[str, Any]:
    """A recording that stopped so many days ago, with a media file of its own."""
    stop = datetime.now(UTC) - timedelta(days=days)
    media = a_media_file(
        path or f"{recording_id}.wav",
        startTime=(stop - timedelta(hours=3)).isoformat(timespec="milliseconds"),
        stopTime=stop.isoformat(timespec="milliseconds"),
        callUUID=recording_id,
    )
    return a_recording(recording_id, **{"mediaFiles": [media], **attributes})


class Store:
    """A service with recordings to purge, and the script."""

    def __init__(self, service: Service, folder: Path) -> None:
        self.file = folder / "audit.log"
        self.report = folder / "report.json"
        self.scripts = Scripts(msgspec.structs.replace(service.settings, audit_log=str(self.file)), folder)
        self.service = service
        self.ops = service.client("ops")
        self.admin = service.client("admin")

    async def post(self, *recordings: dict[str, Any], path: str = OPS_PATH) -> None:
        for recording in recordings:
            response = await self.ops.post(path, json=recording)
            assert response.status_code in {200, 201}, response.text

    async def protect(self, *recording_ids: str) -> None:
        for recording_id in recording_ids:
            response = await self.admin.post(
                f"/api/v2/recordings/{recording_id}", json={"operationName": "applyNonDelete"}
            )
            assert response.status_code == 200, response.text

    async def left(self, path: str = OPS_PATH) -> set[str]:
        """The ids of all recordings of the region and contact center."""
        await self.refresh()
        ids: set[str] = set()
        url: str | None = f"{path}?startTime=0"
        while url:
            page = (await self.ops.get(url)).json()
            ids |= {one["id"] for name in ("recordings", "screenRecordings") for one in page.get(name, ())}
            url = page.get("nextUri")
        return ids

    async def refresh(self) -> None:
        async with httpx.AsyncClient() as client:
            url = f"{self.service.settings.elasticsearch_url}/{self.service.settings.index_prefix}-*/_refresh"
            (await client.post(url)).raise_for_status()

    async def purge(self, *arguments: str) -> tuple[int, str, str]:
        return await self.scripts.run("purge.py", *arguments, "--report", str(self.report))

    async def start(self, *arguments: str, **streams: Any) -> Process:
        return await self.scripts.start("purge.py", *arguments, "--report", str(self.report), **streams)

    def audited(self) -> list[tuple[str, str, int]]:
        """Recording id, outcome and code of each recording's line of the audit log, which is forgotten."""
        lines = [json.loads(line) for line in self.file.read_text().splitlines()]
        self.file.unlink()
        for line in lines:
            assert (line["user"], line["address"]) == ("purge", None)
            assert line["operation"] in {"purge", "delete-media"}
        purged = [line for line in lines if line["operation"] == "purge"]
        return sorted((line["recordingId"], line["outcome"], line["statusCode"]) for line in purged)

    def reported(self, **expected: Any) -> dict[str, Any]:
        """The report, with these attributes and 0 in every other count."""
        report: dict[str, Any] = json.loads(self.report.read_text())
        counts = {name: report[name] for name in ("deleted", "protected", "changed", "failed", "mediaFailed")}
        assert counts == {**dict.fromkeys(counts, 0), **{k: v for k, v in expected.items() if k in counts}}
        assert expected.items() <= report.items()
        return report


@pytest.fixture
async def store(service: Service, tmp_path: Path) -> Store:
    return Store(service, tmp_path)


Quickly = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Quickly:
    """As `Scripts.run`, but in this process: enough where nothing is deleted, and much faster."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "scripts")
    main = importlib.import_module("purge").main

    async def run(scripts: Scripts, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["purge.py", *arguments])
        for name in filter(re.compile("RECALL_").match, list(os.environ)):
            monkeypatch.delenv(name)
        monkeypatch.setenv("RECALL_CONFIG", str(scripts.configure()))
        capsys.readouterr()
        try:
            await asyncio.to_thread(main)
            status = 0
        except SystemExit as exit_:
            # As the interpreter does with a text.
            status = exit_.code if isinstance(exit_.code, int) else 1
            if isinstance(exit_.code, str):
                sys.stderr.write(f"{exit_.code}\n")
        return status, *capsys.readouterr()

    return run


async def test_exactly_the_old_unprotected_recordings_are_deleted(store: Store, start_service: StartService) -> None:
    elsewhere = (await start_service(region="elsewhere")).client("ops")
    await store.post(aged("old", 91), aged("older", 900), aged("kept", 91), aged("young", 89))
    await store.post(aged("old"), path=OTHER_OPS_PATH)
    assert (await elsewhere.post(OPS_PATH, json=aged("old", region="elsewhere"))).status_code == 201
    await store.protect("kept")

    status, out, err = await store.purge(*OLD, "--yes")
    assert (status, err) == (0, "")
    assert f"recordings of contact center {CONTACT_CENTER} in region {REGION} that stopped before 20" in out
    assert "3 match; 1 of them are protected and stay; 2 would be deleted (their media objects stay)\n" in out
    assert "deleted 2, protected 1, changed meanwhile 0, failed 0, media objects not deleted 0, in " in out
    assert await store.left() == {"kept", "young"}
    assert await store.left(OTHER_OPS_PATH) == {"old"}
    assert (await elsewhere.get(f"{OPS_PATH}/old")).status_code == 200
    assert store.audited() == [("kept", "refused", 3), ("old", "success", 0), ("older", "success", 0)]
    report = store.reported(matched=3, deleted=2, protected=1, completed=True, error=None)
    assert report["started"] < report["ended"]
    assert report["parameters"].pop("stoppedBefore") < report["started"]
    assert report["parameters"] == {
        "resource": "recordings",
        "contactCenter": CONTACT_CENTER,
        "region": REGION,
        "olderThan": "90d",
        "criteria": {},
        "withMedia": False,
        "dryRun": False,
        "rate": None,
    }

    status, out, _ = await store.purge(*OLD, "--yes")
    assert status == 0
    store.reported(matched=1, protected=1, completed=True)


async def test_age_of_a_recording_with_a_wrong_stop_time_is_that_of_its_start(store: Store) -> None:
    yesterday = aged("yesterday", 1)
    yesterday["mediaFiles"][0]["stopTime"] = "1970-01-01T00:00:00Z"
    await store.post(aged("old"), yesterday)
    status, _, _ = await store.purge(*OLD, "--yes")
    assert status == 0
    assert await store.left() == {"yesterday"}
    store.reported(matched=1, deleted=1, completed=True)


async def test_all_contact_centers_of_the_region_are_purged(store: Store, start_service: StartService) -> None:
    elsewhere = (await start_service(region="elsewhere")).client("ops")
    await store.post(aged("a"), aged("young", 1))
    await store.post(aged("a"), path=OTHER_OPS_PATH)
    assert (await elsewhere.post(OPS_PATH, json=aged("a", region="elsewhere"))).status_code == 201
    status, out, err = await store.purge("--older-than", "90d", "--all-contact-centers", "--yes")
    assert (status, err) == (0, "")
    assert "recordings of all contact centers" in out
    assert (await store.left(), await store.left(OTHER_OPS_PATH)) == ({"young"}, set())
    assert (await elsewhere.get(f"{OPS_PATH}/a")).status_code == 200
    store.reported(matched=2, deleted=2)


async def test_screen_recordings_can_be_purged_instead_of_recordings(store: Store) -> None:
    await store.post(aged("call"), aged("kept"))
    await store.post(aged("call"), aged("kept"), aged("young", 1), path=SCREENS_PATH)
    await store.protect("kept")  # and with it the screen recording of the same call
    status, out, err = await store.purge(*OLD, "--screen-recordings", "--yes")
    assert (status, err) == (0, "")
    assert out.startswith("screen recordings of contact center")
    assert await store.left() == {"call", "kept"}
    assert await store.left(SCREENS_PATH) == {"kept", "young"}
    store.reported(matched=2, deleted=1, protected=1)
    assert store.audited() == [("call", "success", 0), ("kept", "refused", 3)]


def days_ago(days: int) -> str:
    return (datetime.now(UTC) - timedelta(days=days)).isoformat()


async def test_filters_restrict_the_purge(store: Store, quickly: Quickly) -> None:
    await store.post(
        aged("100", 100, callerPhoneNumber="+4420", eventHistory=[an_event(data={"case": "CASE-21"})]),
        *(aged(f"200{one}", 200, eventHistory=[an_event(contact=a_user("Ann", "Lee", userName="al"))]) for one in "ab"),
        *(aged(f"1{one}", 1, dialedPhoneNumber="+99") for one in "abcd"),
    )
    # How many match, which tells which ones.
    for options, matched in {
        ("--older-than", "2399h"): 3,
        ("--older-than", "2401h"): 2,
        ("--older-than", "1h"): 7,
        ("--older-than", "14w"): 3,
        ("--older-than", "15w"): 2,
        ("--older-than", "90d", "--caller-phone-number", "+1650*"): 2,
        ("--older-than", "1h", "--dialed-phone-number", "+99"): 4,
        ("--older-than", "90d", "--user-name", "dima AND po*h"): 1,
        ("--older-than", "90d", "--user-data", "CASE-2*"): 1,
        ("--older-than", "90d", "--start-time", days_ago(150)): 1,
        ("--older-than", "1h", "--phone-number", "+99"): 4,
        ("--older-than", "1h", "--phone-number", "*20"): 1,
        ("--older-than", "90d", "--min-duration", "0"): 3,
        ("--older-than", "90d", "--min-duration", "100000"): 0,
        ("--older-than", "90d", "--label", "*"): 0,
        ("--older-than", "90d", "--non-delete", "false"): 3,
        ("--older-than", "90d", "--call-uuid", "100"): 1,
        ("--older-than", "90d", "--media-id", "100"): 0,
        # The earlier of both.
        ("--older-than", "90d", "--end-time", days_ago(150)): 2,
        ("--older-than", "150d", "--end-time", days_ago(10)): 2,
        ("--older-than", "90d", "--user-data", "CASE-2*", "--dialed-phone-number", "+99"): 0,
    }.items():
        status, out, _ = await quickly(store.scripts, *OURS, *options, "--dry-run")
        assert status == 0
        assert f"\n{matched} match; 0 of them are protected and stay; {matched} would be deleted" in out, options

    status, _, err = await store.purge(*OLD, "--user-name", "ann AND lee", "--caller-phone-number", "*650*8", "--yes")
    assert (status, err) == (0, "")
    assert await store.left() == {"100", "1a", "1b", "1c", "1d"}
    report = store.reported(matched=2, deleted=2)
    assert report["parameters"]["criteria"] == {"callerPhoneNumber": "*650*8", "userName": "ann AND lee"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--yes", *OURS), "the following arguments are required: --older-than"),
        (("--yes", "--older-than", "90d"), "one of the arguments --contact-center --all-contact-centers is required"),
        (("--yes", *OLD, "--all-contact-centers"), "not allowed with argument --contact-center"),
        (("--yes", "--older-than", "0d", *OURS), "--older-than: it must be a number, 1 or greater, and h, d or w"),
        (("--yes", "--older-than", "90", *OURS), "--older-than: it must be a number, 1 or greater, and h, d or w"),
        (("--yes", *OLD, "--older-than", "1d"), "--older-than: it is given more than once"),
        (("--yes", *OLD, *OURS), "--contact-center: it is given more than once"),
        (("--yes", "--older-than", "90d", "--contact-center", " x"), "--contact-center: Parameter 'contact-center' is"),
        (
            ("--yes", *OLD, "--caller-phone-number", ""),
            "--caller-phone-number: Parameter 'callerPhoneNumber' is invalid: it is empty",
        ),
        (
            ("--yes", *OLD, "--user-name", "AND a"),
            "--user-name: Parameter 'userName' is invalid: AND must stand between two words",
        ),
        (
            ("--yes", *OLD, "--screen-recordings", "--label", "a"),
            "Parameter 'label' is invalid: screen recordings cannot be searched by it",
        ),
        (("--yes", *OLD, "--end-time", "x"), "--end-time: Parameter 'endTime' is invalid: it must be a date"),
        (("--yes", *OLD, "--user-data", "x", "--user-data", "y"), "--user-data: it is given more than once"),
        (
            ("--yes", *OLD, "--caller-phone-number", "a*" + "b" * 4000, "--user-data", "a*" + "b" * 4000),
            "Parameter 'userData' is invalid: all words with a wildcard (*) inside must together",
        ),
        (("--yes", *OLD, "--rate", "0"), "--rate: it must be a whole number, 1 or greater"),
        (("--yes", *OLD, "--rate", "\N{ARABIC-INDIC DIGIT THREE}"), "--rate: it must be a whole number, 1 or greater"),
        (("--yes", *OLD, "--dry"), "unrecognized arguments: --dry"),
        (OLD, "there is no terminal to ask on; give --yes or --dry-run"),
    ],
)
async def test_wrong_arguments_are_refused(
    tmp_path: Path, quickly: Quickly, arguments: tuple[str, ...], message: str
) -> None:
    # Nothing answers there: it is never asked.
    scripts = Scripts(Settings(elasticsearch_url="http://127.0.0.1:1"), tmp_path)
    status, out, err = await quickly(scripts, *arguments)
    assert (status, out) == (2, "")
    assert message in err


async def test_dry_run_changes_nothing(store: Store, quickly: Quickly) -> None:
    await store.post(aged("old"), aged("kept"))
    await store.protect("kept")
    report = ("--report", str(store.report))
    status, out, err = await quickly(store.scripts, *OLD, "--dry-run", "--with-media", *report)
    assert (status, err) == (0, "")
    assert out.endswith("2 match; 1 of them are protected and stay; 1 would be deleted (with their media objects)\n")
    assert await store.left() == {"old", "kept"}
    assert store.audited() == []
    assert store.reported(matched=2, completed=True)["parameters"]["dryRun"] is True


@pytest.mark.parametrize(("answer", "gone"), [("yes", True), ("y", False)])
async def test_confirmation_is_asked_on_a_terminal(store: Store, answer: str, gone: bool) -> None:
    await store.post(aged("old"))
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    try:
        process = await store.start(*OLD, stdin=theirs, stderr=theirs)
        os.write(ours, f"{answer}\n".encode())
        out, _ = await process.communicate()
        os.set_blocking(ours, False)
        shown = ""
        with suppress(BlockingIOError):
            while True:
                shown += os.read(ours, 100_000).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert process.returncode == (0 if gone else 1)
    assert b"1 match" in out
    assert b"Delete them? Type yes: " in out
    assert await store.left() == (set() if gone else {"old"})
    if gone:
        assert "purging: 100%" in shown
        store.reported(matched=1, deleted=1, completed=True)
    else:
        assert "nothing was deleted, because it was not confirmed" in shown
        store.reported(matched=1, completed=False, error="nothing was deleted, because it was not confirmed")


async def test_rate_limits_the_purge(store: Store) -> None:
    await store.post(*(aged(str(i)) for i in range(5)))
    store.scripts.settings = store.service.settings  # without a file for the audit log
    begun = time.monotonic()
    status, _, err = await store.purge(*OLD, "--rate", "2", "--yes")
    assert status == 0
    assert time.monotonic() - begun > 2.5
    store.reported(deleted=5)
    assert err.count(' INFO recall.audit: {"time": ') == err.count('"outcome": "success"') == 5


async def test_unwritable_report_prevents_the_purge(store: Store, quickly: Quickly) -> None:
    await store.post(aged("old"))
    status, _, err = await quickly(store.scripts, *OLD, "--yes", "--report", str(store.report / "no-such-folder"))
    assert status == 1
    assert err.startswith("the report cannot be written: ")
    assert await store.left() == {"old"}


# --- Media --------------------------------------------------------------------------------------------------


@pytest.fixture
async def media_store(start_service: StartService, tmp_path: Path, apache: WebDav) -> Store:
    return Store(await start_service(storage=webdav_storage(apache)), tmp_path)


def with_media(recording_id: str, server: WebDav, *paths: str, days: float = 100) -> dict[str, Any]:
    """A recording with these media objects, which are put there."""
    template = aged(recording_id, days)
    media = template["mediaFiles"][0]
    descriptors = [{"storage": "webDAV", "path": server.put(path, b"media")} for path in paths]
    return {**template, "mediaFiles": [{**media, "mediaDescriptor": descriptor} for descriptor in descriptors]}


async def test_media_is_deleted_unless_still_referenced(media_store: Store, apache: WebDav) -> None:
    store = media_store
    await store.post(
        with_media("old", apache, "m/1.wav", "m/2.wav", "m/shared-with-protected.wav", "m/shared-with-young.wav"),
        with_media("older", apache, "m/2.wav", "m/3.wav", days=200),
        with_media("kept", apache, "m/kept.wav", "m/shared-with-protected.wav"),
        with_media("young", apache, "m/young.wav", "m/shared-with-young.wav", days=1),
    )
    await store.protect("kept")
    status, out, err = await store.purge(*OLD, "--with-media", "--yes")
    assert (status, err) == (0, "")
    assert "2 would be deleted (with their media objects)" in out
    assert await store.left() == {"kept", "young"}
    assert {path.name for path in (apache.folder / "m").iterdir()} == {
        "kept.wav", "shared-with-protected.wav", "young.wav", "shared-with-young.wav",
    }  # fmt: skip
    store.reported(deleted=2, protected=1)


async def test_undeletable_media_is_reported_and_swept_later(
    media_store: Store,
    apache: WebDav,
) -> None:
    store = media_store
    await store.post(with_media("old", apache, "stuck/good.wav", "stuck/bad.wav"))
    # A folder in its place is never deleted.
    (apache.folder / "stuck/bad.wav").unlink()
    (apache.folder / "stuck/bad.wav").mkdir()
    status, out, err = await store.purge(*OLD, "--with-media", "--yes")
    assert status == 1
    assert "of recording old is not deleted" in err
    assert "media objects not deleted 1, in" in out
    assert "scripts/sweep_media.py tries again" in out
    assert await store.left() == set()
    assert not apache.exists("stuck/good.wav")
    store.reported(deleted=1, mediaFailed=1, completed=True)
    assert store.audited() == [("old", "success", 7)]
    (apache.folder / "stuck/bad.wav").rmdir()
    assert (await store.scripts.run("sweep_media.py"))[0] == 0


# --- Elasticsearch goes away --------------------------------------------------------------------------------


class Link:
    """The way to Elasticsearch, which may be cut."""

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self._writers: set[asyncio.StreamWriter] = set()
        self.url = ""
        self.cut = asyncio.Event()

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Link"]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            self.set_cut()
            await server.wait_closed()

    def set_cut(self) -> None:
        self.cut.set()
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.cut.is_set():
            writer.transport.abort()
            return
        there, back = await asyncio.open_connection(self._target.hostname, self._target.port)
        pair = {writer, back}
        self._writers |= pair
        with suppress(ConnectionError):
            await asyncio.gather(self._pump(reader, back), self._pump(there, writer))
        self._writers -= pair

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()


async def deletions(elasticsearch: AsyncElasticsearch, settings: Settings) -> int:
    """How many recordings have ever been deleted in the index, which is told without a refresh."""
    stats = await elasticsearch.indices.stats(index=f"{settings.index_prefix}-recordings", metric="indexing")
    return int(stats["_all"]["primaries"]["indexing"]["delete_total"])


async def until_gone(elasticsearch: AsyncElasticsearch, settings: Settings, count: int, since: int) -> None:
    """Returns when so many recordings have been deleted since there were `since` deletions."""

    async def are_gone() -> bool:
        return await deletions(elasticsearch, settings) >= since + count

    await eventually(are_gone, seconds=60)


async def test_purge_waits_while_elasticsearch_is_unreachable(
    store: Store, elasticsearch: AsyncElasticsearch, settings: Settings
) -> None:
    await store.post(*(aged(str(i)) for i in range(40)))
    await store.protect("7", "39")
    async with Link(settings.elasticsearch_url).open() as link:
        store.scripts.settings = msgspec.structs.replace(store.scripts.settings, elasticsearch_url=link.url)
        before = await deletions(elasticsearch, settings)
        process = await store.start(*OLD, "--rate", "20", "--yes")
        await until_gone(elasticsearch, settings, 1, before)
        link.set_cut()
        assert process.stderr is not None
        # It says so when the client has given up, which tries again by itself at first.
        async with asyncio.timeout(60):
            while b"app.store.client: Elasticsearch " not in await process.stderr.readline():
                pass
        link.cut.clear()
        status, _, err = await store.scripts.end(process)
    assert status == 0, err
    assert await store.left() == {"7", "39"}
    store.reported(matched=40, deleted=38, protected=2, completed=True)
    assert len(store.audited()) == 40


async def test_purge_gives_up_when_elasticsearch_stays_unreachable(
    store: Store, elasticsearch: AsyncElasticsearch, settings: Settings
) -> None:
    await store.post(*(aged(str(i)) for i in range(60)))
    async with Link(settings.elasticsearch_url).open() as link:
        store.scripts.settings = msgspec.structs.replace(store.scripts.settings, elasticsearch_url=link.url)
        before = await deletions(elasticsearch, settings)
        process = await store.start(*OLD, "--rate", "20", "--yes", "--patience", "1")
        await until_gone(elasticsearch, settings, 1, before)
        link.set_cut()
        status, out, err = await store.scripts.end(process)
        assert status == 1
        assert err.splitlines()[-1].startswith(f"cannot go on with the Elasticsearch at {link.url}: ")
    left = len(await store.left())
    assert 0 < left < 60
    report = json.loads(store.report.read_text())
    assert (report["completed"], report["matched"]) == (False, 60)
    assert report["error"].startswith("cannot go on with the Elasticsearch")
    assert f"deleted {report['deleted']}, protected 0" in out
    # What it does not know of counts as failed, and may have gone.
    assert report["deleted"] <= 60 - left <= report["deleted"] + report["failed"]


async def test_unreachable_elasticsearch_is_reported(tmp_path: Path, quickly: Quickly) -> None:
    scripts = Scripts(Settings(elasticsearch_url="http://127.0.0.1:1"), tmp_path)
    status, out, err = await quickly(scripts, *OLD, "--yes", "--patience", "1")
    assert (status, out) == (1, "")
    assert err.splitlines()[-1].startswith("cannot go on with the Elasticsearch at http://127.0.0.1:1: ")


# --- Interruptions, many recordings -------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_signal_stops_the_purge_after_the_batch_in_flight(
    store: Store, elasticsearch: AsyncElasticsearch, settings: Settings, number: signal.Signals
) -> None:
    await store.post(*(aged(f"{i:02}", 200 - i) for i in range(30)))
    before = await deletions(elasticsearch, settings)
    process = await store.start(*OLD, "--rate", "10", "--yes")
    await until_gone(elasticsearch, settings, 1, before)
    process.send_signal(number)
    status, _, err = await store.scripts.end(process)
    assert status == 1
    assert err == "interrupted; another run goes on with what is left\n"
    left = await store.left()
    # The oldest went first.
    assert left == {f"{i:02}" for i in range(30 - len(left), 30)}
    assert 0 < len(left) < 30
    store.reported(matched=30, deleted=30 - len(left), completed=False)
    assert len(store.audited()) == 30 - len(left)


def many(count: int) -> Iterator[tuple[str, bytes]]:
    """Document ids and documents of recordings, one in ten protected, made from a few because that is faster."""
    templates = []
    for days in range(100, 150):
        recording = merge(None, parse_recording(aged("ID-OF-IT", days)))
        templates += [to_document(CONTACT_CENTER, {**recording, **extra}) for extra in ({}, {"nonDelete": True})]
    for i in range(count):
        recording_id = f"recording-{i}"
        template = templates[i % 50 * 2 + is_protected(i)]
        text = template["recording"].replace("ID-OF-IT", recording_id)
        document = {**template, "id": recording_id, "recording": text}
        yield document_id(CONTACT_CENTER, REGION, recording_id), codec.encode(document)


def is_protected(number: int) -> bool:
    return number % 10 == 3


async def store_quickly(elasticsearch: AsyncElasticsearch, index: str, count: int) -> None:
    client = elasticsearch.options(request_timeout=60)
    for batch in batched(many(count), 5000):
        lines: list[Any] = [
            line for document, body in batch for line in (codec.encode({"index": {"_id": document}}), body)
        ]
        response = await client.bulk(index=index, operations=lines, filter_path=["errors"])
        assert response.body == {"errors": False}
    await client.indices.refresh(index=index)


def resident_bytes(process: Process) -> int:
    """0 when it has ended."""
    try:
        return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except FileNotFoundError:
        return 0


async def watch_memory(process: Process) -> list[int]:
    """The resident memory of a process until its end, ten times a second, in bytes."""
    sizes: list[int] = []
    while size := resident_bytes(process):
        sizes.append(size)
        await asyncio.sleep(0.1)
    return sizes


async def test_purge_of_many_recordings_survives_a_kill(
    store: Store, elasticsearch: AsyncElasticsearch, settings: Settings
) -> None:
    index = f"{settings.index_prefix}-recordings"
    count = PURGED_RECORDINGS
    await store_quickly(elasticsearch, index, count)

    before = await deletions(elasticsearch, settings)
    process = await store.start(*OLD, "--yes")
    await until_gone(elasticsearch, settings, count // 10, before)
    process.kill()
    await store.scripts.end(process)
    await elasticsearch.indices.refresh(index=index)
    left = (await elasticsearch.count(index=index))["count"]
    assert count // 10 < left <= count - count // 10
    assert not json.loads(store.report.read_text())["completed"]

    # At this rate it takes longer than the ten seconds between two lines of progress.
    process = await store.start(*OLD, "--yes", "--rate", "5000")
    await until_gone(elasticsearch, settings, count - left + 1, before)  # its modules are loaded
    watching = asyncio.create_task(watch_memory(process))
    status, _, err = await store.scripts.end(process)
    assert status == 0, err
    sizes = await watching
    # From the first third of the deletions, when everything has been in use once, to the end.
    assert max(sizes) - max(sizes[: len(sizes) // 3]) < 10_000_000, sizes
    assert "purging: " in err  # without a terminal, lines say how far it is
    store.reported(matched=left, deleted=left - count // 10, protected=count // 10, completed=True)

    await elasticsearch.indices.refresh(index=index)
    assert (await elasticsearch.count(index=index))["count"] == count // 10
    assert (await elasticsearch.count(index=index, query={"term": {"nonDelete": True}}))["count"] == count // 10


# --- Others write meanwhile ---------------------------------------------------------------------------------


async def test_recordings_protected_or_prolonged_meanwhile_are_kept(
    media_store: Store,
    elasticsearch: AsyncElasticsearch,
    apache: WebDav,
    tmp_path: Path,
) -> None:
    """Two thirds are protected, one third is made young by an update."""
    store = media_store
    ids = [f"{i:03}" for i in range(RACED_BY_PURGE)]
    recordings = {
        recording_id: with_media(recording_id, apache, f"race/{recording_id}.wav", days=600 - int(recording_id))
        for recording_id in ids
    }
    await store_many(elasticsearch, store.service.settings, recordings.values())
    processes = [AppProcess(store.scripts.settings, tmp_path) for _ in range(2)]
    await asyncio.gather(*(process.start() for process in processes))
    answers: dict[str, int] = {}

    async def change(admin: httpx.AsyncClient, ops: httpx.AsyncClient, recording_id: str) -> None:
        if int(recording_id) % 3:
            body = {"operationName": "applyNonDelete"}
            answer = await admin.post(f"/api/v2/recordings/{recording_id}", json=body)
        else:
            young = with_media(recording_id, apache, f"race/{recording_id}-young.wav", days=1)
            answer = await ops.post(OPS_PATH, json=young)
        answers[recording_id] = answer.status_code

    try:
        purge = await store.start(*OLD, "--with-media", "--rate", "60", "--yes")
        await eventually(lambda: not apache.exists("race/000.wav"))
        waiting = set(ids)

        def next_one() -> str:
            """One of those whose turn to be purged is next or now, as long as there are such."""
            near = [recording_id for recording_id in sorted(waiting) if apache.exists(f"race/{recording_id}.wav")]
            chosen = random.choice(near[:60] or sorted(waiting))
            waiting.remove(chosen)
            return chosen

        async def work(process: AppProcess) -> None:
            async with process.client("admin") as admin, process.client("ops") as ops:
                while waiting:
                    await change(admin, ops, next_one())

        await asyncio.gather(*(work(process) for process in processes * 3))
        status, _, err = await store.scripts.end(purge)
    finally:
        await asyncio.gather(*(process.stop() for process in processes))
    assert status == 0, err

    applied = {recording_id for recording_id in ids if int(recording_id) % 3}
    protected = {recording_id for recording_id in applied if answers[recording_id] == 200}
    assert {answers[recording_id] for recording_id in applied} == {200, 404}  # both were first now and then
    prolonged = set(ids) - applied
    assert {answers[recording_id] for recording_id in prolonged} == {200, 201}
    assert await store.left() == protected | prolonged
    for recording_id in ids:
        assert apache.exists(f"race/{recording_id}.wav") == (answers[recording_id] == 200), (
            f"{recording_id}: {answers[recording_id]}"
        )
        if recording_id in protected:
            stored = (await store.ops.get(f"{OPS_PATH}/{recording_id}")).json()["recording"]
            assert stored["nonDelete"] is True
        if recording_id in prolonged:
            assert apache.exists(f"race/{recording_id}-young.wav")
    assert json.loads(store.report.read_text())["failed"] == 0
