"""`scripts/retention.py`: rules take exactly what they say, and never what is protected."""

import asyncio
import json
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from elasticsearch import AsyncElasticsearch

from app.audit import AuditLog
from app.auth.scope import Scope
from app.cli import retention as command
from app.cli.framework import run
from app.lifecycle.retention import Retention, RuleResult
from app.lifecycle.retention_rules import parse_rules
from app.lifecycle.verification import verify
from app.media.zipped import open_archive
from app.progress import progress
from app.settings import S3Config, Settings, StorageConfig
from app.store.retention import RetentionStore
from tests.lifecycle.test_purge import SCREENS_PATH, Store, aged
from tests.support.recordings import (
    CONTACT_CENTER,
    OPS_PATH,
    OTHER_CONTACT_CENTER,
    REGION,
    a_media_file,
    a_recording,
    store_many,
)
from tests.support.service import PATIENT, Service, StartService
from tests.support.storages import BUCKETS, S3, WebDav, webdav_storage
from tests.support.waiting import eventually
from tests.unit.test_retention_rules import a_rule, text_of

# Two days after Europe's clocks were set forward, and some weeks after America's.
NOW = datetime(2026, 3, 31, 0, 30, 15, 250_000, tzinfo=UTC)
DAYS = 90
PURGE: dict[str, Any] = {"kind": "purge", "min_age_days": DAYS}


def ours(*tasks: dict[str, Any], **attributes: Any) -> dict[str, Any]:
    return a_rule(*tasks, **{"contact_centers": [CONTACT_CENTER], **attributes})


def milliseconds(at: datetime) -> int:
    return round(at.timestamp() * 1000)


class Runs:
    """Runs rules in this process, at any time of a test's choice."""

    def __init__(self, service: Service, audit: AuditLog) -> None:
        self.service = service
        self.store = RetentionStore(service.services.client, service.settings)
        self._audit = audit

    def retention(self, settings: Settings | None = None) -> Retention:
        services = self.service.services
        return Retention(
            services.repositories,
            services.deletion,
            services.labelling,
            services.storages,
            store=self.store,
            settings=settings or self.service.settings,
            audit=self._audit,
            show=progress,
            rate=None,
            patience=30,
        )

    async def run(self, rule: Mapping[str, Any], now: datetime = NOW, **options: Any) -> RuleResult:
        (parsed,) = parse_rules(text_of(dict(rule)))
        return await self.retention().run(parsed, milliseconds(now), **options)


@pytest.fixture
def runs(service: Service, tmp_path: Path) -> Runs:
    return Runs(service, AuditLog(str(tmp_path / "audit.log")))


@pytest.fixture
async def store(service: Service, tmp_path: Path) -> Store:
    return Store(service, tmp_path)


def written(at: datetime, hours: int = 0) -> str:
    """The instant on a clock that is so many hours ahead of UTC."""
    local = at + timedelta(hours=hours)
    return f"{local.strftime('%Y-%m-%dT%H:%M:%S')}.{local.microsecond // 1000:03}{hours:+03}00"


def twice(at: datetime, hours: int = 0) -> tuple[str, str]:
    return written(at, hours), written(at, hours)


def timed(recording_id: str, start: str, stop: str) -> dict[str, Any]:
    return a_recording(recording_id, mediaFiles=[a_media_file(f"{recording_id}.wav", startTime=start, stopTime=stop)])


async def left(runs: Runs) -> set[str]:
    """Also what started in 1970, which no search by time finds."""
    await runs.service.repository.make_searchable()
    found = await runs.service.repository.scan(Scope(CONTACT_CENTER, REGION), (), size=500)
    return {stored.recording["id"] for stored in found}


MILLISECOND, HOUR = timedelta(milliseconds=1), timedelta(hours=1)
LIMIT = NOW - timedelta(days=DAYS)
OLDEST = NOW - timedelta(days=400)
Y1970, Y9999 = "1970-01-01T00:00:00.000+0000", "9999-12-31T23:59:59.999+0000"

# Start, stop, and whether the recording is older than 90 days, and than 400.
AGES: Mapping[str, tuple[str, str, bool, bool]] = {
    "exactly": (*twice(LIMIT), False, False),
    "one millisecond more": (*twice(LIMIT - MILLISECOND), True, False),
    "one millisecond less": (*twice(LIMIT + MILLISECOND), False, False),
    "stopped exactly then": (written(LIMIT - HOUR), written(LIMIT), False, False),
    "stopped a millisecond before": (written(LIMIT - HOUR), written(LIMIT - MILLISECOND), True, False),
    "exactly, in California": (*twice(LIMIT, -8), False, False),
    "one millisecond more, in California": (*twice(LIMIT - MILLISECOND, -8), True, False),
    "one millisecond more, in Kiribati": (*twice(LIMIT - MILLISECOND, 14), True, False),
    # On the wall of Paris it is 90 days since then, but the clocks were set forward: an hour less.
    "the same time of the day in Paris": (*twice(LIMIT + HOUR, 1), False, False),
    "stopped before it started": (written(LIMIT - MILLISECOND), written(LIMIT - 5 * HOUR), True, False),
    "started exactly then, stopped before": (written(LIMIT), written(LIMIT - 5 * HOUR), False, False),
    "stopped in 1970, young": (written(NOW - timedelta(days=1)), Y1970, False, False),
    "stopped in 1970, old": (written(LIMIT - MILLISECOND), Y1970, True, False),
    "in 1970": (Y1970, Y1970, True, True),
    "stopped in 9999": (written(OLDEST - HOUR), Y9999, False, False),
    "in 9999": (Y9999, Y9999, False, False),
    "started in 9999, stopped in 1970": (Y9999, Y1970, False, False),
    "exactly 400 days": (*twice(OLDEST), True, False),
    "400 days and a millisecond": (*twice(OLDEST - MILLISECOND), True, True),
    "stopped exactly 400 days ago": (written(OLDEST - HOUR), written(OLDEST), True, False),
}  # fmt: skip


@pytest.mark.parametrize("oldest", [None, 400])
async def test_ages_at_the_boundaries(
    runs: Runs, store: Store, elasticsearch: AsyncElasticsearch, oldest: int | None
) -> None:
    """A task takes what is older than its minimum, and not older than its maximum. So no age is between two tasks."""
    recordings = [timed(name, start, stop) for name, (start, stop, _, _) in AGES.items()]
    protected = [{**recording, "id": f"protected: {recording['id']}"} for recording in recordings]
    await store_many(elasticsearch, runs.service.settings, [*recordings, *protected])
    for recording in protected:
        await store.protect(recording["id"])
    taken = {name for name, (_, _, is_old, is_older) in AGES.items() if is_old and not (oldest and is_older)}
    task = PURGE if oldest is None else PURGE | {"max_age_days": oldest}
    result = await runs.run(ours(task))
    assert result.outcome == "success", result
    assert await left(runs) == {each["id"] for each in (*recordings, *protected)} - taken
    assert (result.counts["deleted"], result.counts["protected"]) == (len(taken), len(taken))
    assert (result.tasks[0].matched, result.tasks[0].protected) == (2 * len(taken), len(taken))
    rest = await runs.run(ours({"kind": "purge", "min_age_days": oldest or 1000}))
    assert rest.counts["deleted"] == sum(is_older for *_, is_older in AGES.values() if oldest)


async def test_labels_include_and_exclude_recordings(runs: Runs, store: Store) -> None:
    labels = {"none": (), "vip": ("VIP",), "test": ("test",), "training": ("Training",), "both": ("test", "vip")}
    for name in ("vip", "test", "Training"):
        assert (await store.admin.post("/api/v2/recording-label-definitions", json={"name": name})).status_code == 201

    async def post() -> None:
        await store.post(*map(aged, labels))
        for recording_id, names in labels.items():
            for name in names:
                path = f"/api/v2/recordings/{recording_id}/labels"
                assert (await store.admin.post(path, json={"name": name})).is_success

    for task, left in (
        ({"labels": ["TEST", "training"]}, {"none", "vip"}),
        ({"exclude_labels": ["vip"]}, {"vip", "both"}),
        ({"labels": ["test"], "exclude_labels": ["vip"]}, {"none", "vip", "training", "both"}),
        ({"labels": ["unknown"]}, set(labels)),
    ):
        await post()
        assert (await runs.run(ours(PURGE | task), datetime.now(UTC))).outcome == "success"
        assert await store.left() == left, task


async def test_a_label_that_is_to_keep_recordings_must_exist(runs: Runs, store: Store) -> None:
    assert (await store.admin.post("/api/v2/recording-label-definitions", json={"name": "hold"})).status_code == 201
    await store.post(aged("held"), aged("free"))
    assert (await store.admin.post("/api/v2/recordings/held/labels", json={"name": "hold"})).status_code == 201
    misspelt = ours(
        PURGE, PURGE | {"exclude_labels": ["hold", "hodl"]}, contact_centers=[OTHER_CONTACT_CENTER, CONTACT_CENTER]
    )
    result = await runs.run(misspelt, datetime.now(UTC))
    assert (result.outcome, result.tasks, await store.left()) == ("failed", [], {"held", "free"})
    assert result.error == 'exclude_labels: no contact center of the rule has the label "hodl"'
    everywhere = ours(PURGE | {"exclude_labels": ["hodl"]}, contact_centers=["*"])
    result = await runs.run(everywhere, datetime.now(UTC))
    assert (result.outcome, result.tasks, await store.left()) == ("failed", [], {"held", "free"})
    # One whose definition was deleted is still on recordings.
    forced = await store.admin.delete("/api/v2/recording-label-definitions/hold", params={"force": "*"})
    assert forced.status_code == 200
    right = ours(PURGE | {"exclude_labels": ["hold"]})
    assert (await runs.run(right, datetime.now(UTC))).outcome == "success"
    assert await store.left() == {"held"}


async def test_rules_select_by_criteria_contact_center_and_resource(runs: Runs, store: Store) -> None:
    other = OPS_PATH.replace(CONTACT_CENTER, OTHER_CONTACT_CENTER)
    short = aged("short")
    short["mediaFiles"][0]["startTime"] = short["mediaFiles"][0]["stopTime"]
    for path in (OPS_PATH, SCREENS_PATH, other):
        await store.post(short, aged("long"), path=path)
    now = datetime.now(UTC)
    task = PURGE | {"criteria": {"maxDuration": 20}}
    assert (await runs.run(ours(task), now)).counts["deleted"] == 1
    assert (await store.left(), await store.left(SCREENS_PATH)) == ({"long"}, {"short", "long"})
    result = await runs.run(ours(task | {"resources": ["screen-recordings", "recordings"]}, contact_centers=["*"]), now)
    assert [(each.resource, each.counts["deleted"]) for each in result.tasks] == [
        ("screen-recordings", 1),
        ("recordings", 1),
    ]
    assert await store.left(SCREENS_PATH) == await store.left(other) == {"long"}
    result = await runs.run(ours(PURGE, contact_centers=[CONTACT_CENTER, OTHER_CONTACT_CENTER]), now)
    assert [each.contact_center for each in result.tasks] == [CONTACT_CENTER, OTHER_CONTACT_CENTER]
    assert await store.left() == await store.left(other) == set()


# --- backups ---


@pytest.fixture
async def stored(start_service: StartService, wsgidav: WebDav, tmp_path: Path) -> Runs:
    service = await start_service(storage=webdav_storage(wsgidav), **PATIENT)
    return Runs(service, AuditLog(str(tmp_path / "audit.log")))


def on(server: WebDav, recording_id: str, name: str) -> dict[str, Any]:
    server.put(name, b"RIFF" + name.encode())
    recording = aged(recording_id)
    recording["mediaFiles"][0]["mediaDescriptor"] = server.descriptor(name)
    return recording


async def test_what_no_backup_has_as_it_is_now_stays(stored: Runs, wsgidav: WebDav, tmp_path: Path) -> None:
    store, now, place = Store(stored.service, tmp_path), datetime.now(UTC), tmp_path / "backup"
    damaged = {"without-json": "recording.json", "without-media": "*.wav", "without-manifest": "manifest.json"}
    ids = ("same", "gone", "changed", "labelled", "overwritten", *damaged, "protected")
    recordings = {name: on(wsgidav, name, f"retention/{name}.wav") for name in ids}
    await store.post(*recordings.values())
    await store.protect("protected")
    assert (await store.admin.post("/api/v2/recording-label-definitions", json={"name": "vip"})).status_code == 201
    purge = PURGE | {"require_backup": True, "location": str(place), "with_media": True}

    result = await stored.run(ours(purge), now)
    assert (result.outcome, await store.left()) == ("failed", set(ids))
    assert result.error is not None

    assert (await stored.run(ours({"kind": "backup", "location": str(place)}), now)).outcome == "success"
    await store.post(recordings["changed"] | {"more": "than the backup has"})
    assert (await store.admin.post("/api/v2/recordings/labelled/labels", json={"name": "vip"})).status_code == 201
    for name, pattern in damaged.items():
        (file,) = place.glob(f"*/*/*/{name}/{pattern}")
        file.unlink()
    (wsgidav.folder / "retention/gone.wav").unlink()
    media = wsgidav.folder / "retention/overwritten.wav"
    media.write_bytes(media.read_bytes()[::-1])
    os.utime(media, (1, 1))
    result = await stored.run(ours(purge | {"missing_media_ok": True}), now)
    assert await store.left() == set(ids) - {"same", "gone"}
    assert result.counts == {
        "deleted": 2, "protected": 1, "changed": 0, "failed": 0, "mediaFailed": 0, "notBackedUp": 6,
    }  # fmt: skip
    assert (result.outcome, result.error) == (
        "failed",
        "recordings left because the backup does not have them as they are: 6",
    )
    assert not wsgidav.exists("retention/same.wav")
    assert wsgidav.exists("retention/without-media.wav")
    # A backup before it in the same rule makes up for all of that.
    result = await stored.run(ours({"kind": "backup", "location": str(place)}, purge), now)
    assert (result.outcome, await store.left()) == ("success", {"protected"}), result


async def test_a_rule_that_asks_a_backup_does_not_begin_it(stored: Runs, wsgidav: WebDav, tmp_path: Path) -> None:
    """As when its disk is not mounted: what is written is hidden, or gone with the container, and the rest deleted."""
    store, now = Store(stored.service, tmp_path), datetime.now(UTC)
    await store.post(on(wsgidav, "kept", "retention/kept.wav"))
    for place in (tmp_path / "none", tmp_path / "mount-point"):
        if place.name == "mount-point":
            place.mkdir()
        purge = PURGE | {"require_backup": True, "location": str(place), "with_media": True}
        result = await stored.run(ours({"kind": "backup", "location": str(place)}, purge), now)
        assert (result.outcome, result.tasks) == ("failed", [])
        assert str(place) in (result.error or "")
        assert not place.exists() or not any(place.iterdir())
    assert await store.left() == {"kept"}
    assert wsgidav.exists("retention/kept.wav")


async def test_after_a_backup_that_failed_only_a_purge_that_asks_the_backup_goes_on(
    stored: Runs, wsgidav: WebDav, tmp_path: Path
) -> None:
    store, now, place = Store(stored.service, tmp_path), datetime.now(UTC), str(tmp_path / "backup")
    backup = {"kind": "backup", "location": place}
    await store.post(on(wsgidav, "whole", "retention/whole.wav"))
    assert (await stored.run(ours(backup), now)).outcome == "success"
    await store.post(on(wsgidav, "gone", "retention/gone.wav"))
    (wsgidav.folder / "retention" / "gone.wav").unlink()
    safe = PURGE | {"require_backup": True, "location": place, "with_media": True}
    result = await stored.run(ours(backup, PURGE, safe), now)
    assert [task.outcome for task in result.tasks] == ["failed", "not run", "failed"]
    assert result.tasks[1].error == "a task before it has failed"
    assert result.error is not None
    assert "gone" in result.error
    assert (result.outcome, await store.left()) == ("failed", {"gone"})


async def test_a_bucket_is_a_place_for_backups_too(
    start_service: StartService, wsgidav: WebDav, versitygw: S3, tmp_path: Path
) -> None:
    place = f"s3://{BUCKETS[1]}/retention/{tmp_path.name}"
    s3 = S3Config(BUCKETS, versitygw.url, versitygw.region, versitygw.access_key_id, versitygw.secret_access_key)
    storage = StorageConfig(webdav_storage(wsgidav).webdav, (s3,))
    runs = Runs(await start_service(storage=storage, **PATIENT), AuditLog(str(tmp_path / "audit.log")))
    store, now = Store(runs.service, tmp_path), datetime.now(UTC)
    recordings = {name: on(wsgidav, name, f"bucket/{name}.wav") for name in ("same", "changed", "protected")}
    await store.post(*recordings.values())
    await store.protect("protected")
    backup = {"kind": "backup", "location": place}
    purge = PURGE | {"require_backup": True, "location": place, "with_media": True}

    result = await runs.run(ours(purge), now)
    assert (result.outcome, await store.left()) == ("failed", set(recordings))
    result = await runs.run(ours(backup), now)
    assert (result.outcome, result.counts["copied"]) == ("success", 3)
    await store.post(recordings["changed"] | {"more": "than the backup has"})
    result = await runs.run(ours(purge), now)
    assert (result.counts["deleted"], result.counts["notBackedUp"]) == (1, 1)
    assert await store.left() == {"changed", "protected"}
    assert not wsgidav.exists("bucket/same.wav")
    assert (await runs.run(ours(backup, purge), now)).outcome == "success"
    assert await store.left() == {"protected"}
    async with open_archive(place, storage.s3, to_write=False, connections=8) as archive:
        found = await verify(archive, 4)
    assert (found.is_whole, found.recordings, found.files) == (True, 3, 6)


# --- several at a time ---


async def test_rules_that_overlap_beside_each_other_take_what_they_match_and_nothing_protected(
    runs: Runs, store: Store, elasticsearch: AsyncElasticsearch
) -> None:
    """Whichever of them deletes a recording counts it, and writes its line of the audit log."""
    recordings = [aged(f"r{number}") for number in range(300)]
    await store_many(elasticsearch, runs.service.settings, recordings)
    await store.protect("r7", "r77")
    now = datetime.now(UTC)
    results = await asyncio.gather(*(runs.run(ours(PURGE, name=name), now) for name in ("one", "two", "three")))
    assert [result.outcome for result in results] == ["success"] * 3
    assert await store.left() == {"r7", "r77"}
    assert sum(result.counts["deleted"] for result in results) == 298
    deleted = [line[0] for line in store.audited() if line[1] == "success"]
    assert sorted(deleted) == sorted({each["id"] for each in recordings} - {"r7", "r77"})


async def test_rule_that_another_process_is_running_is_refused(runs: Runs, store: Store) -> None:
    await store.post(aged("old"))
    lease = runs.store.lease("old")
    async with lease.acquire():
        result = await runs.run(ours(PURGE), datetime.now(UTC))
        assert result.outcome == "refused"
        assert result.error is not None
        assert result.error.startswith("another process holds the lease: process ")
        assert await store.left() == {"old"}
        other = await runs.run(ours(PURGE | {"labels": ["x"]}, name="other"), datetime.now(UTC))
        assert other.outcome == "success"
    assert (await runs.run(ours(PURGE), datetime.now(UTC))).counts["deleted"] == 1


async def test_a_rule_of_another_file_with_the_same_name_is_refused(runs: Runs) -> None:
    slot = milliseconds(NOW)
    one, other = ours(PURGE), ours(PURGE | {"min_age_days": DAYS + 1})
    assert (await runs.run(one, slot=slot)).outcome == "success"
    assert (await runs.run(one, slot=slot)).outcome == "done already"
    result = await runs.run(other, slot=slot)
    assert (result.outcome, result.error) == ("refused", "another rule of this name has run: names must differ")
    assert (await runs.run(other, slot=slot + 1)).outcome == "success"


async def test_what_another_process_has_failed_to_do_is_no_success(runs: Runs, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    slot, rule = milliseconds(NOW), ours({"kind": "backup", "location": str(tmp_path / "file")})
    assert [(await runs.run(rule, slot=slot)).outcome for _ in range(2)] == ["failed", "failed"]
    assert (await runs.run(rule, slot=slot)).error == "the run for this time, of another process, has failed"


async def test_an_unexpected_error_fails_the_rule_and_ends_no_watcher(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise LookupError("a fault of this program")

    monkeypatch.setattr("app.lifecycle.retention.purge.Purge", broken)
    result = await runs.run(ours(PURGE))
    assert (result.outcome, result.error) == ("failed", "LookupError: a fault of this program")


async def test_dry_run_changes_nothing(runs: Runs, store: Store, elasticsearch: AsyncElasticsearch) -> None:
    await store.post(aged("old"), aged("kept"))
    await store.protect("kept")
    prefix = runs.service.settings.index_prefix

    async def documents() -> dict[str, int]:
        await elasticsearch.indices.refresh(index=f"{prefix}-*")
        stats = await elasticsearch.search(index=f"{prefix}-*", size=1000, version=True)
        audit = f"{prefix}-audit"
        return {hit["_id"]: hit["_version"] for hit in stats["hits"]["hits"] if not hit["_index"].startswith(audit)}

    before = await documents()
    backup = {"kind": "backup", "location": "/nowhere/at/all"}
    result = await runs.run(ours(backup, PURGE | {"with_media": True}), datetime.now(UTC), dry_run=True)
    assert result.outcome == "success"
    assert [(task.matched, task.protected, task.counts) for task in result.tasks] == [(2, 1, {}), (2, 1, {})]
    assert await documents() == before
    assert not await elasticsearch.exists(index=f"{prefix}-retention", id=f"old@{REGION}")


# --- the command ---


class Command(Store):
    """The script, with a file of rules."""

    def __init__(self, service: Service, folder: Path) -> None:
        super().__init__(service, folder)
        self.rules = folder / "rules.toml"
        self.metrics = folder / "retention.prom"

    def write(self, *rules: dict[str, Any]) -> None:
        self.rules.write_text(text_of(*rules))

    async def retain(self, *arguments: str) -> tuple[int, str, str]:
        return await self.scripts.run("retention.py", "run", str(self.rules), *arguments)


@pytest.fixture
async def script(service: Service, tmp_path: Path) -> Command:
    return Command(service, tmp_path)


async def test_command_reports_what_each_rule_took(script: Command) -> None:
    await script.post(aged("old"), aged("kept"), aged("young", 80))
    await script.protect("kept")
    script.write(ours(PURGE), ours(PURGE | {"min_age_days": 85}, name="second"))
    status, out, err = await script.retain("--metrics", str(script.metrics))
    assert status == 0, err
    report = json.loads(out)
    assert report["completed"] is True
    assert (report["region"], report["dryRun"]) == (REGION, False)
    assert report["overlaps"] == [
        'rules "old" and "second" may purge the same recordings: what one leaves, the other may take'
    ]
    first, second = report["rules"]
    assert (first["name"], first["outcome"], first["error"]) == ("old", "success", None)
    assert first["tasks"] == [{
        "kind": "purge", "resource": "recordings", "contactCenter": CONTACT_CENTER, "outcome": "success",
        "matched": 2, "protected": 1, "error": None,
        "counts": {"deleted": 1, "protected": 1, "changed": 0, "failed": 0, "mediaFailed": 0},
    }]  # fmt: skip
    assert second["tasks"][0]["counts"]["deleted"] == 0
    assert err.splitlines() == [
        f"note: {report['overlaps'][0]}",
        f"old: purge of recordings of contact center {CONTACT_CENTER}: matched 2, protected 1, deleted 1; success",
        "old: success",
        f"second: purge of recordings of contact center {CONTACT_CENTER}: matched 1, protected 1; success",
        "second: success",
    ]
    # Rules that overlap take each recording once when one process runs them.
    assert script.audited() == [("kept", "refused", 3), ("kept", "refused", 3), ("old", "success", 0)]
    metrics = script.metrics.read_text()
    assert 'recall_retention_last_run_recordings{outcome="deleted",rule="old"} 1.0' in metrics
    assert 'recall_retention_failed{rule="second"} 0.0' in metrics
    (success,) = [
        line
        for line in metrics.splitlines()
        if line.startswith('recall_retention_last_success_timestamp_seconds{rule="old"}')
    ]
    assert abs(float(success.split()[-1]) - datetime.now(UTC).timestamp()) < 300
    # A later failure keeps the time of the last success.
    script.write(ours({"kind": "backup", "location": str(script.rules)}))
    status, out, err = await script.retain("--metrics", str(script.metrics), "--report", str(script.report))
    assert (status, out) == (1, "")
    assert json.loads(script.report.read_text())["rules"][0]["outcome"] == "failed"
    metrics = script.metrics.read_text()
    assert success in metrics
    assert 'recall_retention_failed{rule="old"} 1.0' in metrics
    # It is still told when another rule runs.
    script.write(ours({"kind": "backup", "location": str(script.rules)}), ours(PURGE, name="second"))
    status, _, err = await script.retain("--rule", "second", "--metrics", str(script.metrics))
    assert status == 0, err
    metrics = script.metrics.read_text()
    assert success in metrics
    assert 'recall_retention_failed{rule="old"} 1.0' in metrics
    assert 'recall_retention_failed{rule="second"} 0.0' in metrics


def test_wrong_arguments_and_files_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = tmp_path / "rules.toml"

    def said(content: bytes, *arguments: str) -> tuple[object, str]:
        rules.write_bytes(content)
        with pytest.raises(SystemExit) as exit_:
            run(command.command, ["run", str(rules), *arguments], "retention.py")
        return exit_.value.code, capsys.readouterr().err

    right = text_of(ours(PURGE)).encode()
    wrong = text_of(ours(PURGE | {"min_age_days": 0})).encode()
    what = 'rule "old": tasks[1]: min_age_days: it must be a whole number of days from 1 to 36,500'
    assert said(wrong) == (f"{rules}: {what}", "")
    assert str(said(b"\xff")[0]).startswith(f"{rules} cannot be read: ")
    for arguments, why in (
        (("--rule", "new"), "argument --rule: no rule is called new; there are old"),
        (("--watch", "--dry-run"), "argument --dry-run: not allowed with argument --watch"),
    ):
        code, err = said(right, *arguments)
        assert (code, err.splitlines()[-1]) == (2, f"retention.py run: error: {why}")
    timeless = {name: value for name, value in ours(PURGE).items() if name != "at"}
    code, err = said(text_of(timeless).encode(), "--watch")
    assert (code, "--watch needs a time (at) in each rule; old has none" in err) == (2, True)
    with pytest.raises(SystemExit, match="cannot be read: No such file"):
        run(command.command, ["run", str(tmp_path / "none.toml")], "retention.py")


async def test_killed_in_the_middle_another_run_goes_on(
    start_service: StartService, elasticsearch: AsyncElasticsearch, tmp_path: Path
) -> None:
    script = Command(await start_service(lease_seconds=2, **PATIENT), tmp_path)
    await store_many(elasticsearch, script.service.settings, [aged(f"r{number}") for number in range(400)])
    await script.protect("r7")
    script.write(ours(PURGE))
    process = await script.scripts.start("retention.py", "run", str(script.rules), "--rate", "40")
    await eventually(lambda: script.file.exists() and script.file.read_text().count('"purge"') > 100)
    # A second one beside it is refused, with a name.
    result = await Runs(script.service, AuditLog(str(tmp_path / "other.log"))).run(ours(PURGE), datetime.now(UTC))
    assert result.outcome == "refused"
    assert result.error is not None
    assert f"process {process.pid} on " in result.error
    process.send_signal(signal.SIGKILL)
    await process.wait()
    left = await script.left()
    assert 1 < len(left) < 400
    status, _, err = await script.retain()
    assert (status, await script.left()) == (0, {"r7"}), err
    purged = [line for line in script.audited() if line[1] == "success"]
    assert len({line[0] for line in purged}) >= 399 - 50  # the lines of the batch in flight went with the process


class Clock:
    """What the command takes for the time."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self._looks = 0

    def __call__(self) -> int:
        self._looks += 1
        return milliseconds(self.now)

    async def is_seen(self) -> None:
        """Returns when the command has looked at it again and again."""
        enough = self._looks + 5
        await eventually(lambda: self._looks >= enough)


@contextmanager
def _no_signals(_work: object) -> Iterator[None]:
    yield


async def test_watch_runs_each_rule_once_a_day_at_its_time(
    runs: Runs, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(datetime(2040, 1, 1, 12, tzinfo=UTC))
    monkeypatch.setattr(command, "now_milliseconds", clock)
    monkeypatch.setattr(command, "_MOST_SECONDS", 0.05)
    monkeypatch.setattr(command, "stopping", _no_signals)
    report = tmp_path / "report.json"
    rules = parse_rules(text_of(ours(PURGE), ours(PURGE | {"labels": ["x"]}, name="other", at="04:00")))
    settings = msgspec.structs.replace(runs.service.settings, lease_seconds=1)
    started: list[tuple[Any, asyncio.Task[bool]]] = []

    def start() -> None:
        runner = command._Runner(rules, rules, report, None, dry_run=False)
        audit = AuditLog(str(tmp_path / "audit.log"))
        started.append((runner, asyncio.create_task(runner.run(settings, audit, watch=True, rate=None, patience=5))))

    async def stop() -> None:
        runner, task = started.pop()
        runner.stop()
        assert await task

    def ran() -> list[tuple[str, str]]:
        found = json.loads(report.read_text())["rules"] if report.exists() else []
        report.unlink(missing_ok=True)
        return [(rule["name"], rule["outcome"]) for rule in found]

    async def wait_for(*wanted: tuple[str, str]) -> None:
        seen: list[tuple[str, str]] = []

        def is_there() -> bool:
            seen.extend(ran())
            return len(seen) >= len(wanted)

        await eventually(is_there)
        assert seen == [*wanted]

    await store.post(aged("old"))
    start()
    await clock.is_seen()
    assert ran() == []  # the time of today has passed before anybody ran the rules
    clock.now = datetime(2040, 1, 2, 2, 30, tzinfo=UTC)
    await wait_for(("old", "success"))
    assert await store.left() == set()
    clock.now -= timedelta(hours=3)  # somebody sets the clock back
    await clock.is_seen()
    clock.now += timedelta(hours=3, minutes=1)
    await clock.is_seen()
    assert ran() == []
    clock.now = datetime(2040, 1, 2, 4, 1, tzinfo=UTC)
    await wait_for(("other", "success"))
    await stop()
    # It makes up for the nights in which nobody watched, once.
    clock.now = datetime(2040, 1, 5, 12, tzinfo=UTC)
    start()
    await wait_for(("old", "success"), ("other", "success"))
    await clock.is_seen()
    assert ran() == []
    await stop()
    # Another watcher has run this slot.
    result = await runs.run(ours(PURGE), slot=rules[0].slot(clock()))
    assert result.outcome == "done already"
