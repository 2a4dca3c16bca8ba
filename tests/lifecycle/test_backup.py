"""Backup and restore: everything comes back as it was, whatever happens meanwhile, and nothing is overwritten."""

import asyncio
import contextlib
import errno
import hashlib
import itertools
import json
import os
import random
import shutil
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4
from zipfile import ZIP_DEFLATED, ZipFile

import msgspec
import pytest
from elasticsearch import AsyncElasticsearch

from app.auth.scope import Scope
from app.lifecycle.archiving import Archiving
from app.lifecycle.backup import Backup, Task
from app.lifecycle.restore import Restore, RestoreTask
from app.lifecycle.verification import Verification, verify
from app.media import archives
from app.media.archives import ArchiveFailed, ArchiveInUse, FolderArchive, write_file
from app.media.uploads import Uploads
from app.media.zipped import ZippedArchive, open_archive
from app.recordings.identity import Resource, media_uuid
from app.recordings.mapping import Destination, StorageMapping
from app.search.criteria import parse_search
from app.settings import S3Config, StorageConfig, WebDavConfig
from app.store.indices import alias
from app.store.repository import RecordingRepository
from app.store.versions import VersionStore
from tests.support.processes import Scripts
from tests.support.recordings import CONTACT_CENTER, OPS_PATH, REGION, a_media_file, a_recording, store_many
from tests.support.service import PATIENT, Service, StartService, empty_indices, own_settings
from tests.support.sizes import BACKED_UP_RECORDINGS, BACKUP_KILLS, RESTORE_KILLS
from tests.support.storages import BUCKETS, S3, WebDav
from tests.support.waiting import eventually

ALL = ("--contact-center", CONTACT_CENTER)
OTHER_CENTER = "other center/é"
AWAY = "http://127.0.0.1:1/recordings"
SCREENS_PATH = OPS_PATH.replace("recordings", "screen-recordings")
RESOURCES: tuple[Resource, ...] = ("recordings", "screen-recordings")
ANYTHING, _ = parse_search([("startTime", "0")])

Object = Callable[[str, bytes], dict[str, Any]]


def a_call(recording_id: str, *descriptors: dict[str, Any], **attributes: Any) -> dict[str, Any]:
    media = [
        {**a_media_file(callUUID=recording_id), "mediaDescriptor": descriptor, "tenant": "Acme"}
        for descriptor in descriptors
    ]
    return a_recording(recording_id, **{"mediaFiles": media, **attributes})


class Store:
    """A service with media on Apache and versitygw, and a place for backups."""

    def __init__(self, service: Service, apache: WebDav, versitygw: S3, folder: Path, place: str) -> None:
        self.service = service
        self.apache, self.s3 = apache, versitygw
        self.ops = service.client("ops")
        self.admin = service.client("admin")
        self.scripts = Scripts(msgspec.structs.replace(service.settings, audit_log=str(folder / "audit.log")), folder)
        self.place = place
        self.folder = Path(place)
        self.run = folder.name
        apache.put(f"{self.run}/new/folder", b"")
        (apache.folder / f"{self.run}/new/folder").unlink()

    def on_apache(self, name: str, content: bytes) -> dict[str, Any]:
        self.apache.put(f"{self.run}/old/{name}", content)
        return self.apache.descriptor(f"{self.run}/old/{name}")

    def on_s3(self, name: str, content: bytes) -> dict[str, Any]:
        self.s3.put(f"{self.run}/{name}", content)
        return self.s3.descriptor(f"{self.run}/{name}")

    async def post(self, *recordings: dict[str, Any], path: str = OPS_PATH) -> None:
        for recording in recordings:
            response = await self.ops.post(path, json=recording)
            assert response.status_code in {200, 201}, response.text

    async def read(self, path: str) -> bytes:
        response = await self.ops.get(path)
        assert response.status_code == 200, response.text
        return response.content

    @asynccontextmanager
    async def archive(self, *, to_write: bool = False) -> AsyncIterator[ZippedArchive]:
        storages = self.service.settings.storage.s3
        async with open_archive(self.place, storages, to_write=to_write, connections=8) as archive:
            yield archive

    async def backup(self, resource: Resource = "recordings", *, zips: bool = False) -> Backup:
        """A backup of everything, in this process."""
        services = self.service.services
        await services.repositories[resource].make_searchable()
        async with self.archive(to_write=True) as archive:
            backup = Backup(
                services.repositories,
                services.labelling,
                services.storages,
                self.service.settings.storage,
                archive=archive,
                audit=services.audit,
                task=Task(resource, Scope(CONTACT_CENTER, REGION), ANYTHING, zips=zips),
            )
            await backup.run()
        return backup

    async def verify(self) -> Verification:
        async with self.archive() as archive:
            return await verify(archive, 4)

    async def restore(self, destination: Destination | None = None, **task: Any) -> Restore:
        services, settings = self.service.services, self.service.settings
        async with self.archive() as archive, Uploads(settings, 8) as uploads:
            restore = Restore(
                services.repositories,
                services.labelling,
                services.protection,
                services.storages,
                settings.storage,
                uploads=uploads,
                archive=archive,
                audit=services.audit,
                task=RestoreTask(destination or Destination(), **task),
            )
            await restore.run()
        return restore

    def files(self) -> dict[str, bytes]:
        """All files of a backup in a folder, by their paths."""
        found = (path for path in self.folder.rglob("*") if path.is_file())
        return {path.relative_to(self.folder).as_posix(): path.read_bytes() for path in found}


def counted(work: Backup | Restore) -> dict[str, int]:
    """What is not 0, but for the bytes."""
    counts: dict[str, int] = msgspec.to_builtins(work.counts)
    return {name: count for name, count in counts.items() if count and name != "bytes"}


@pytest.fixture
async def make_store(start_service: StartService, apache: WebDav, versitygw: S3, tmp_path: Path) -> Callable[..., Any]:
    async def make(place: str | None = None) -> Store:
        webdav = tuple(WebDavConfig(apache.url_of(f"{tmp_path.name}/{name}")) for name in ("old", "new"))
        webdav += (WebDavConfig(AWAY),)
        s3 = S3Config(BUCKETS, versitygw.url, versitygw.region, versitygw.access_key_id, versitygw.secret_access_key)
        service = await start_service(storage=StorageConfig(webdav, (s3,)), **PATIENT)
        return Store(service, apache, versitygw, tmp_path, place or str(tmp_path / "backup"))

    return make


@pytest.fixture
async def store(make_store: Callable[..., Any]) -> Store:
    made: Store = await make_store()
    return made


@pytest.fixture(params=["folder", "s3"])
async def any_store(request: pytest.FixtureRequest, make_store: Callable[..., Any], tmp_path: Path) -> Store:
    """With a place for backups of each kind."""
    place = None if request.param == "folder" else f"s3://{BUCKETS[1]}/backups/{tmp_path.name}"
    made: Store = await make_store(place)
    return made


# --- Backup -------------------------------------------------------------------------------------------------


async def test_a_backup_has_each_recording_as_ops_reads_it_and_its_media(store: Store) -> None:
    one = store.on_apache("one.wav", b"RIFF" + random.Random(1).randbytes(100_000))
    two = store.on_s3("two.wav", b"RIFFtwo")
    await store.post(a_call("Call/1", one, two), a_call("call/1", two))
    status, out, err = await store.scripts.run("backup.py", store.place, *ALL)
    assert (status, err) == (0, "")
    assert "copied 2, unchanged 0, incomplete 0, failed 0; media files copied 3 (0.1 MiB), unchanged 0, failed 0" in out
    files = store.files()
    folder = f"{CONTACT_CENTER}/=41cme/2013-05-17/=43all=2f1"
    manifest = json.loads(files[f"{folder}/manifest.json"])
    assert (manifest["contactCenter"], manifest["id"], manifest["format"]) == (CONTACT_CENTER, "Call/1", 1)
    for name, entry in manifest["files"].items():
        content = files[f"{folder}/{name}"]
        assert (entry["size"], entry["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    shown = json.loads((await store.read(f"{OPS_PATH}/Call%2F1")).replace(f"{store.service.url}/api/v2".encode(), b""))
    assert json.loads(files[f"{folder}/recording.json"])["recording"] == shown["recording"]
    names = {media["mediaPath"].rpartition("/")[2] for media in shown["recording"]["mediaFiles"]}
    assert manifest["files"].keys() == names | {"recording.json"}
    audited = [json.loads(line) for line in (store.scripts.folder / "audit.log").read_text().splitlines()]
    assert {(line["operation"], line["user"], line["recordingId"]) for line in audited} == {
        ("backup", "backup", "Call/1"),
        ("backup", "backup", "call/1"),
    }
    status, out, err = await store.scripts.run("backup.py", store.place, "--verify")
    assert (status, err) == (0, ""), out
    assert "2 recordings, 5 files" in out


async def test_another_run_copies_only_what_is_new_or_has_changed(any_store: Store) -> None:
    store = any_store
    one, two = store.on_apache("one.wav", b"RIFF1"), store.on_s3("two.wav", b"RIFF2" * 1_800_000)
    await store.post(a_call("one", one, two), a_call("two", two))
    assert counted(await store.backup()) == {"copied": 2, "mediaCopied": 3}
    assert counted(await store.backup()) == {"unchanged": 2, "mediaUnchanged": 3}
    await store.post(a_call("three", one), a_call("two", two, callerPhoneNumber="+1"))
    assert counted(await store.backup()) == {"copied": 2, "unchanged": 1, "mediaCopied": 1, "mediaUnchanged": 3}
    store.on_apache("one.wav", b"RIFFx")
    assert counted(await store.backup()) == {"copied": 2, "unchanged": 1, "mediaCopied": 2, "mediaUnchanged": 2}
    assert (await store.verify()).is_whole


async def test_what_cannot_be_copied_is_reported_and_the_rest_goes_on(store: Store) -> None:
    there = store.on_apache("there.wav", b"RIFF")
    await store.post(
        a_call("missing", store.apache.descriptor(f"{store.run}/old/no.wav"), there),
        a_call("missing-s3", store.s3.descriptor("no.wav")),
        a_call("away", {"storage": "webDAV", "path": f"{AWAY}/call.wav"}),
        a_call("there", there),
    )
    status, out, err = await store.scripts.run("backup.py", store.place, *ALL)
    assert status == 1
    assert "copied 1, unchanged 0, incomplete 3, failed 0; media files copied 2 (0.0 MiB), unchanged 0, failed 3" in out
    assert err.count("the media object is missing in its storage") == 2
    assert err.count("no server listens at its address and port") == 1
    report = store.scripts.folder / "verified.json"
    status, out, err = await store.scripts.run("backup.py", store.place, "--verify", "--report", str(report))
    assert (status, err) == (1, "")
    missing = [line for line in out.splitlines() if line.startswith("missing: ")]
    assert len(missing) == 3
    assert sum(line.endswith(": the media object is missing in its storage") for line in missing) == 2
    assert "damaged 0, missing 3, surplus 0, unfinished 0" in out
    assert [f"missing: {problem}" for problem in json.loads(report.read_text())["missing"]] == missing
    # It is there now.
    store.on_apache("no.wav", b"RIFF")
    backup = await store.backup()
    assert counted(backup) == {
        "copied": 1, "unchanged": 1, "incomplete": 2, "mediaCopied": 1, "mediaUnchanged": 2, "mediaFailed": 2,
    }  # fmt: skip
    assert sorted(failure.recording_id for failure in backup.failures) == ["away", "missing-s3"]


async def test_a_copy_without_a_manifest_is_kept_though_its_storage_has_it_no_more(backed_up: Store) -> None:
    """As when a run was killed between the removal of a manifest and the new one."""
    folder, kept = folder_of(backed_up, "one"), backed_up.files()
    (media,) = (path for path in kept if path.startswith(f"{DAY}/one/") and path.endswith(".wav"))
    (folder / "manifest.json").unlink()
    (backed_up.apache.folder / f"{backed_up.run}/old/one.wav").unlink()
    backup = await backed_up.backup(zips=True)
    assert counted(backup) == {"copied": 1, "unchanged": 1, "mediaUnchanged": 1, "mediaFailed": 1}
    assert "missing in its storage" in backup.failures[0].reason
    assert entries(backed_up)[media.removeprefix(f"{DAY}/")] == kept[media] == b"RIFF1"
    assert (await backed_up.verify()).is_whole
    await empty_indices(backed_up.service.settings)
    assert counted(await backed_up.restore()) == {"restored": 2, "mediaRestored": 1, "mediaUnchanged": 1}
    assert backed_up.apache.exists(f"{backed_up.run}/old/one.wav")


async def test_a_damaged_copy_is_not_taken_for_whole_when_its_storage_has_it_no_more(backed_up: Store) -> None:
    (media,) = folder_of(backed_up, "one").glob("*.wav")
    media.write_bytes(b"RI")
    (backed_up.apache.folder / f"{backed_up.run}/old/one.wav").unlink()
    path = media.relative_to(backed_up.folder).as_posix()
    assert await problems(backed_up) == {"damaged": [path]}
    assert counted(await backed_up.backup(zips=True))["mediaFailed"] == 1
    assert (await problems(backed_up))["missing"] == [path]
    assert media.read_bytes() == b"RI"


async def test_a_disk_that_is_full_leaves_what_the_backup_had(
    backed_up: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = backed_up.files()
    media = backed_up.apache.descriptor(f"{backed_up.run}/old/one.wav")
    await backed_up.post(a_call("one", media, more="than before"))

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(archives, "_flush", full)
        with pytest.raises(ArchiveFailed, match="No space left"):
            await backed_up.backup()
    assert backed_up.files() == kept
    assert (await backed_up.verify()).is_whole


async def test_a_recording_with_too_many_former_versions_is_told_and_not_read(
    backed_up: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = backed_up.files()
    await backed_up.admin.post("/api/v2/recordings/one", json={"operationName": "applyNonDelete"})
    media = backed_up.apache.descriptor(f"{backed_up.run}/old/one.wav")
    for number in range(4):
        await backed_up.post(a_call("one", media, note=f"{number}" * 10_000))
    monkeypatch.setattr("app.lifecycle.archiving.LONGEST_FILE", 25_000)
    monkeypatch.setattr(VersionStore, "with_content", None)  # not read
    backup = await backed_up.backup()
    assert counted(backup) == {"unchanged": 1, "mediaUnchanged": 1, "failed": 1}
    assert "with its former versions it is larger" in backup.failures[0].reason
    assert backed_up.files() == kept


@pytest.fixture
async def held(store: Store) -> Store:
    """A backup of a held recording with two former versions."""
    media = store.on_apache("one.wav", b"one")
    await store.post(a_call("one", media, note="a"))
    await change(store, "one", "applyNonDelete")
    for note in ("b", "c"):
        await store.post(a_call("one", media, note=note))
    await store.backup()
    return store


async def test_a_former_version_that_is_missing_leaves_the_backup_as_it_is(
    held: Store, elasticsearch: AsyncElasticsearch
) -> None:
    """The backup may have the only copy, as after a snapshot whose shards were seconds apart."""
    kept = held.files()
    index = alias(held.service.settings, "recording-versions")
    await elasticsearch.indices.refresh(index=index)
    hits = (await elasticsearch.search(index=index, sort=[{"at": "desc"}]))["hits"]["hits"]
    for hit in hits:
        await elasticsearch.delete(index=index, id=hit["_id"], refresh=True)
        backup = await held.backup()
        assert counted(backup) == {"failed": 1}
        assert "a former version is missing" in backup.failures[0].reason
        assert held.files() == kept
        await elasticsearch.index(index=index, id=hit["_id"], document=hit["_source"], refresh=True)
    assert counted(await held.backup()) == {"unchanged": 1, "mediaUnchanged": 1}


@pytest.mark.parametrize("meanwhile", ["deleted", "posted again"])
async def test_a_recording_that_is_deleted_during_a_backup_keeps_its_former_versions_there(
    held: Store, monkeypatch: pytest.MonkeyPatch, meanwhile: str
) -> None:
    kept = held.files()
    content = Archiving.content

    async def deleted_before(*arguments: Any) -> bytes:
        monkeypatch.undo()
        await change(held, "one", "unapplyNonDelete")
        assert (await held.ops.delete(f"{OPS_PATH}/one")).status_code == 200
        if meanwhile == "posted again":
            await held.post(a_call("one", held.apache.descriptor(f"{held.run}/old/one.wav"), note="new"))
        return await content(*arguments)

    monkeypatch.setattr(Archiving, "content", deleted_before)
    backup = await held.backup()
    assert not backup.failures
    if meanwhile == "deleted":
        assert (counted(backup), held.files()) == ({}, kept)
    else:
        assert counted(backup) == {"copied": 1, "mediaUnchanged": 1}
        (file,) = held.folder.rglob("recording.json")
        assert b'"note":"new"' in file.read_bytes()


async def test_no_backup_is_no_success(store: Store, backed_up: Store, tmp_path: Path) -> None:
    """As with a misspelt place, or a disk that is not mounted."""
    (tmp_path / "empty").mkdir()
    nothing = str(tmp_path / "empty")
    run = store.scripts.run
    status, _, err = await run("backup.py", nothing, "--verify")
    assert (status, err.splitlines()[-1:]) == (1, [f"{nothing} has no backup"])
    status, _, err = await run("restore.py", nothing)
    assert (status, err.splitlines()[-1:]) == (1, [f"{nothing} has no recording"])
    status, _, err = await run("restore.py", backed_up.place, "--contact-center", "misspelt")
    assert (status, "has no recording of misspelt" in err) == (1, True)
    for place in ("s3:/bucket/prefix", "S3://bucket/prefix", "file:///tmp", "s3://"):
        for status, _, err in (
            await run("backup.py", place, *ALL),
            await run("backup.py", place, "--verify"),
            await run("restore.py", place),
        ):
            assert status == 1
            assert "s3://BUCKET/PREFIX" in err or "names no bucket" in err, (place, err)
    assert [path.name for path in store.scripts.folder.iterdir() if ":" in path.name] == []


async def test_only_one_run_writes_to_a_folder(store: Store) -> None:
    async with store.archive(to_write=True):
        with pytest.raises(ArchiveInUse):
            await store.backup()


async def test_a_region_does_not_replace_the_recordings_of_another(store: Store) -> None:
    one = store.on_apache("one.wav", b"RIFF")
    await store.post(a_call("one", one))
    await store.backup()
    for file in store.folder.rglob("manifest.json"):
        file.write_text(file.read_text().replace(f'"region": "{REGION}"', '"region": "elsewhere"'))
    backup = await store.backup()
    assert counted(backup) == {"failed": 1}
    assert "region 'elsewhere'" in backup.failures[0].reason


def beside(store: Store) -> list[str]:
    """What is in the folder of the backup's folder."""
    return sorted(path.name for path in store.folder.parent.iterdir())


HOSTILE_IDS = (
    "..", ".", "../../../etc/passwd", "a/../b", "~", "con\u0000trol", "A", "a", "é", "e\u0301", "%2e%2e", "=2e", "-rf",
    "manifest.json", "x" * 400, "x" * 399 + "y", "É" * 200, "line\nfeed", "a.", "=contents.json", "2013-05-17.json",
)  # fmt: skip


async def test_no_id_leaves_its_folder_or_shares_one(
    store: Store, elasticsearch: AsyncElasticsearch, tmp_path: Path
) -> None:
    one = store.on_apache("one.wav", b"RIFF")
    tenants = [*HOSTILE_IDS, ""]
    calls = [a_call(name, one) for name in HOSTILE_IDS]
    for call, tenant in zip(calls, tenants, strict=False):
        call["mediaFiles"][0]["tenant"] = tenant
    await store_many(elasticsearch, store.service.settings, calls)
    store.folder.mkdir()
    outside = beside(store)
    assert counted(await store.backup()) == {"copied": len(calls), "mediaCopied": len(calls)}
    assert beside(store) == outside
    found = await store.verify()
    assert found.is_whole, found
    assert found.recordings == len(calls)
    folders = [path.relative_to(store.folder).as_posix() for path in store.folder.rglob("recording.json")]
    assert len({folder.casefold() for folder in folders}) == len(calls)
    assert all(len(part) <= 255 and part.isascii() for folder in folders for part in folder.split("/"))
    scope = Scope(CONTACT_CENTER, REGION)
    before = {name: (await store.service.repository.get(scope, name)).recording for name in HOSTILE_IDS}
    await empty_indices(store.service.settings)
    assert counted(await store.restore()) == {"restored": len(calls), "mediaUnchanged": len(calls)}
    for name, recording in before.items():
        assert (await store.service.repository.get(scope, name)).recording == recording


# --- Verify -------------------------------------------------------------------------------------------------


@pytest.fixture
async def backed_up(store: Store) -> Store:
    await store.post(
        a_call("one", store.on_apache("one.wav", b"RIFF1")), a_call("two", store.on_s3("two.wav", b"RIFF2"))
    )
    await store.backup()
    assert (await store.verify()).is_whole
    return store


def folder_of(store: Store, recording_id: str) -> Path:
    return store.folder / CONTACT_CENTER / "=41cme" / "2013-05-17" / recording_id


async def problems(store: Store) -> dict[str, list[str]]:
    found = await store.verify()
    kinds = {name: getattr(found, name) for name in ("damaged", "missing", "surplus", "unfinished")}
    return {kind: [path.partition(":")[0] for path in paths] for kind, paths in kinds.items() if paths}


@pytest.mark.parametrize("name", ["*.wav", "recording.json", "manifest.json"])
async def test_damaged_and_missing_files_are_found(backed_up: Store, name: str) -> None:
    (file,) = folder_of(backed_up, "one").glob(name)
    path = file.relative_to(backed_up.folder).as_posix()
    content = file.read_bytes()
    file.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    assert await problems(backed_up) == {"damaged": [path]}
    file.write_bytes(content[:-3])
    assert await problems(backed_up) == {"damaged": [path]}
    file.unlink()
    assert await problems(backed_up) == {"missing": [path]}


async def test_missing_folders_and_days_are_found(backed_up: Store) -> None:
    folder = folder_of(backed_up, "one")
    day = folder.parent.relative_to(backed_up.folder).as_posix()
    shutil.rmtree(folder)
    assert await problems(backed_up) == {"missing": [f"{day}/one"]}
    shutil.rmtree(folder.parent)
    assert await problems(backed_up) == {"missing": [f"{day}/one", f"{day}/two"]}
    folder.parent.with_suffix(".json").unlink()
    assert await problems(backed_up) == {"missing": [f"{day}.json"]}


async def test_surplus_files_are_found(backed_up: Store) -> None:
    folder = folder_of(backed_up, "one")
    for path in (folder / "more.wav", folder.parent / "more", backed_up.folder / "more", folder / "sub" / "more"):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"more")
        assert await problems(backed_up) == {"surplus": [path.relative_to(backed_up.folder).as_posix()]}
        path.unlink()
    shutil.copytree(folder, folder.with_name("three"))
    assert "three" in str(await problems(backed_up))


async def test_links_and_paths_of_a_hostile_backup_lead_nowhere(backed_up: Store, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"RIFF1")
    folder = folder_of(backed_up, "one")
    (media,) = folder.glob("*.wav")
    media.unlink()
    media.symlink_to(secret)
    path = media.relative_to(backed_up.folder).as_posix()
    assert await problems(backed_up) == {"damaged": [path]}
    await empty_indices(backed_up.service.settings)
    (backed_up.apache.folder / f"{backed_up.run}/old/one.wav").unlink()
    restore = await backed_up.restore()
    assert counted(restore) == {"restored": 2, "mediaUnchanged": 1, "mediaFailed": 1}
    assert "symbolic link" in restore.failures[0].reason
    assert not backed_up.apache.exists(f"{backed_up.run}/old/one.wav")
    # A link in place of a folder, to one that has everything.
    moved = tmp_path / "moved"
    folder.rename(moved)
    folder.symlink_to(moved)
    assert path.rpartition("/")[0] in (await problems(backed_up))["surplus"]
    folder.unlink()
    # A backup writes through no link either.
    target = tmp_path / "target"
    target.mkdir()
    folder.symlink_to(target)
    with pytest.raises(ArchiveFailed):
        await backed_up.backup()
    assert list(target.iterdir()) == []
    folder.unlink()
    # Names in a manifest.
    moved.rename(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["../../../../../secret"] = manifest["files"]["recording.json"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert f"{folder.relative_to(backed_up.folder)}/manifest.json" in (await problems(backed_up))["damaged"]
    restore = await backed_up.restore()
    assert counted(restore) == {"unchanged": 1, "failed": 1, "mediaUnchanged": 1}
    async with backed_up.archive(to_write=True) as archive:
        for name in ("../outside", "a/../../outside", "/outside/x", "a\0b"):
            with pytest.raises(ArchiveFailed):
                await write_file(archive, name, b"")
    assert not (tmp_path / "outside").exists()


# --- Zips ---------------------------------------------------------------------------------------------------

DAY = f"{CONTACT_CENTER}/=41cme/2013-05-17"


@pytest.fixture
async def zipped(store: Store) -> Store:
    await store.post(
        a_call("one", store.on_apache("one.wav", b"RIFF1"), store.on_s3("more.wav", b"RIFF" * 50_000)),
        a_call("two", store.on_s3("two.wav", b"RIFF2")),
    )
    assert counted(await store.backup(zips=True)) == {"copied": 2, "mediaCopied": 3}
    assert set(store.files()) == {f"{DAY}.zip", f"{DAY}.json", "=contents.json"}
    assert (await store.verify()).is_whole
    return store


def entries(store: Store) -> dict[str, bytes]:
    with ZipFile(store.folder / f"{DAY}.zip") as file:
        assert file.testzip() is None
        return {name: file.read(name) for name in file.namelist()}


def write_zip(store: Store, content: dict[str, bytes], **options: Any) -> None:
    with ZipFile(store.folder / f"{DAY}.zip", "w", **options) as file:
        for name, data in content.items():
            file.writestr(name, data)


async def test_days_that_are_over_become_zips_which_read_like_folders(any_store: Store) -> None:
    store = any_store
    one, two = store.on_apache("one.wav", b"RIFF1"), store.on_s3("two.wav", b"RIFF2" * 1_800_000)
    today = datetime.now(UTC).strftime("%Y-%m-%dT00:00:00.000Z")
    young = a_call("young", one, startTime=today)
    await store.post(a_call("one", one, two), a_call("two", two), young)
    assert counted(await store.backup(zips=True)) == {"copied": 3, "mediaCopied": 4}
    found = await store.verify()
    assert (found.is_whole, found.recordings, found.files) == (True, 3, 7)
    assert counted(await store.backup(zips=True)) == {"unchanged": 3, "mediaUnchanged": 4}
    # What is newer than the zip is in a folder, until the next run with --zip.
    await store.post(a_call("three", one), a_call("two", two, callerPhoneNumber="+1"))
    assert counted(await store.backup()) == {"copied": 2, "unchanged": 2, "mediaCopied": 1, "mediaUnchanged": 4}
    found = await store.verify()
    assert (found.is_whole, found.recordings, found.files) == (True, 4, 9)
    store.on_apache("one.wav", b"RIFFx")
    changed = {"copied": 3, "unchanged": 1, "mediaCopied": 3, "mediaUnchanged": 2}
    assert counted(await store.backup(zips=True)) == changed
    found = await store.verify()
    assert (found.is_whole, found.recordings, found.files) == (True, 4, 9)
    paths = [f"{OPS_PATH}/{name}" for name in ("one", "two", "three", "young")]
    before = await everything(store, *paths)
    await empty_indices(store.service.settings)
    assert counted(await store.restore()) == {"restored": 4, "mediaUnchanged": 5}
    assert await everything(store, *paths) == before


async def test_the_folder_of_a_recording_in_a_zip_is_looked_for_once(
    zipped: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_for: list[str] = []
    sizes = FolderArchive.sizes

    async def counting(self: FolderArchive, folder: str) -> Mapping[str, int]:
        looked_for.append(folder)
        return await sizes(self, folder)

    monkeypatch.setattr(FolderArchive, "sizes", counting)
    async with zipped.archive(to_write=False) as archive:
        for folder in (f"{DAY}/one", f"{DAY}/two"):
            files = await archive.sizes(folder)
            assert [len(await archive.read(f"{folder}/{name}")) for name in files] == [*files.values()]
    assert looked_for == [f"{DAY}/one", f"{DAY}/two"]
    # A walk has seen them already.
    looked_for.clear()
    assert (await zipped.verify()).is_whole
    assert looked_for == []


async def test_the_command_makes_zips(store: Store) -> None:
    await store.post(a_call("one", store.on_apache("one.wav", b"RIFF1")))
    status, _, err = await store.scripts.run("backup.py", store.place, *ALL, "--zip")
    assert (status, err) == (0, "")
    content = entries(store)
    manifest = json.loads(content.pop("one/manifest.json"))
    assert {f"one/{name}": entry["sha256"] for name, entry in manifest["files"].items()} == {
        name: hashlib.sha256(data).hexdigest() for name, data in content.items()
    }
    status, out, err = await store.scripts.run("backup.py", store.place, "--verify")
    assert (status, err) == (0, ""), out
    assert "1 recordings, 2 files" in out


async def test_damaged_missing_and_surplus_entries_of_zips_are_found(zipped: Store) -> None:
    content = entries(zipped)
    media = next(name for name in content if name.endswith(".wav") and name.startswith("one/"))
    damaged = content[media][:-1] + bytes([content[media][-1] ^ 1])
    write_zip(zipped, content | {media: damaged})
    assert await problems(zipped) == {"damaged": [f"{DAY}/{media}"]}
    write_zip(zipped, {name: data for name, data in content.items() if name != media})
    assert await problems(zipped) == {"missing": [f"{DAY}/{media}"]}
    write_zip(zipped, {name: data for name, data in content.items() if not name.startswith("two/")})
    assert await problems(zipped) == {"missing": [f"{DAY}/two"]}
    write_zip(zipped, {name: data for name, data in content.items() if name != "two/manifest.json"})
    assert await problems(zipped) == {"missing": [f"{DAY}/two/manifest.json"]}
    for surplus in ("one/more.wav", "more", "one/sub/more"):
        write_zip(zipped, content | {surplus: b"more"})
        assert await problems(zipped) == {"surplus": [f"{DAY}/{surplus}"]}
    (zipped.folder / f"{DAY}.zip").unlink()
    assert await problems(zipped) == {"missing": [f"{DAY}/one", f"{DAY}/two"]}


async def test_what_is_no_zip_of_stored_files_is_damaged(zipped: Store) -> None:
    content, whole = entries(zipped), (zipped.folder / f"{DAY}.zip").read_bytes()
    await empty_indices(zipped.service.settings)

    async def check() -> None:
        found = await problems(zipped)
        assert found == {"damaged": [f"{DAY}.zip"], "missing": [f"{DAY}/one", f"{DAY}/two"]}
        restore = await zipped.restore()
        assert counted(restore) == {"failed": 1}
        assert "cannot be read as a zip" in restore.failures[0].reason

    for part in (whole[:-1], whole[: len(whole) // 2], b"", b"PK"):
        (zipped.folder / f"{DAY}.zip").write_bytes(part)
        await check()
    write_zip(zipped, content, compression=ZIP_DEFLATED)
    await check()
    with ZipFile(zipped.folder / f"{DAY}.zip", "w") as file:
        file.writestr("one/recording.json", b"")
        with pytest.warns(UserWarning, match="Duplicate name"):
            file.writestr("one/recording.json", b"")
    await check()
    # The head of an entry.
    (zipped.folder / f"{DAY}.zip").write_bytes(b"??" + whole[2:])
    assert (await problems(zipped)).keys() == {"damaged"}
    (zipped.folder / f"{DAY}.zip").write_bytes(whole)
    assert counted(await zipped.restore()) == {"restored": 2, "mediaUnchanged": 3}


async def test_what_another_run_has_stored_since_is_not_removed_with_what_was_zipped(
    zipped: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bucket knows no lock."""
    await zipped.post(a_call("three", zipped.on_apache("3.wav", b"RIFF3")))
    await zipped.backup()
    folder = zipped.folder / DAY / "three"
    newer = (folder / "manifest.json").read_bytes() + b"\n"
    flush = FolderArchive.flush

    async def stored_meanwhile(self: FolderArchive) -> None:
        await flush(self)
        (folder / "manifest.json").write_bytes(newer)

    monkeypatch.setattr(FolderArchive, "flush", stored_meanwhile)
    async with zipped.archive(to_write=True) as archive:
        await archive.zip_day(DAY)
    assert (folder / "manifest.json").read_bytes() == newer
    assert len([*folder.iterdir()]) == 3
    assert (await zipped.verify()).is_whole


async def test_files_that_the_zip_does_not_have_are_shown_and_stay(zipped: Store) -> None:
    """As when a run was killed while it copied what has changed since."""
    folder = zipped.folder / DAY / "one"
    folder.mkdir(parents=True)
    name = f"{uuid4()}.wav"
    (folder / name).write_bytes(b"newer than the zip")
    (folder / "recording.json").write_bytes(b"newer than the zip")
    for _ in range(2):
        assert await problems(zipped) == {"surplus": [f"{DAY}/one/{name}"]}
        async with zipped.archive(to_write=True) as archive:
            await archive.zip_day(DAY)
    assert {path.name for path in folder.iterdir()} == {name, "recording.json"}
    (folder / name).unlink()
    (folder / "recording.json").write_bytes(entries(zipped)["one/recording.json"])  # the rest of what was zipped
    async with zipped.archive(to_write=True) as archive:
        await archive.zip_day(DAY)
    assert not folder.exists()


class Crash(Exception):
    """What stands for a kill: the process does nothing more."""


def crash_after(archive: ZippedArchive, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets an archive change something so many times."""
    inner: Any = archive._inner
    left = iter(range(steps))

    def counted(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if next(left, None) is None:
                raise Crash
            return method(*arguments, **named)

        return call

    for name in ("writing", "write_last", "flush", "remove", "prune"):
        monkeypatch.setattr(inner, name, counted(getattr(inner, name)))


async def test_a_kill_at_any_step_of_a_zip_loses_nothing(zipped: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = a_call("one", zipped.on_apache("one.wav", b"RIFF1"), callerPhoneNumber="+1")
    await zipped.post(changed, a_call("three", zipped.on_apache("3.wav", b"RIFF3")))
    counts = counted(await zipped.backup())
    assert (counts["copied"], counts["unchanged"]) == (2, 1)
    saved = zipped.folder.with_name("saved")
    zipped.folder.rename(saved)
    for steps in itertools.count():
        shutil.rmtree(zipped.folder, ignore_errors=True)
        shutil.copytree(saved, zipped.folder)
        is_killed = False
        async with zipped.archive(to_write=True) as archive:
            crash_after(archive, steps, monkeypatch)
            try:
                await archive.zip_day(DAY)
            except Crash:
                is_killed = True
        found = await zipped.verify()
        assert (found.is_whole, found.recordings, found.files) == (True, 3, 7), (steps, found)
        assert counted(await zipped.backup(zips=True)) == {"unchanged": 3, "mediaUnchanged": 4}, steps
        assert set(zipped.files()) == {f"{DAY}.zip", f"{DAY}.json", "=contents.json"}, steps
        assert json.loads(entries(zipped)["one/recording.json"])["recording"]["callerPhoneNumber"] == "+1"
        if not is_killed:
            break
    assert steps > 5


# --- Restore ------------------------------------------------------------------------------------------------


async def everything(store: Store, *paths: str) -> dict[str, bytes]:
    return {path: await store.read(path) for path in paths}


async def change(store: Store, name: str, operation: str, reason: str | None = None) -> None:
    body = {"operationName": operation} | ({"reason": reason} if reason else {})
    response = await store.admin.post(f"/api/v2/recordings/{name}", json=body)
    assert response.status_code == 200, response.text


async def test_labels_protection_and_former_versions_come_back_byte_for_byte(any_store: Store) -> None:
    store = any_store
    one, screen = store.on_apache("one.wav", b"RIFF1"), store.on_s3("screen.mp4", b"....ftyp")
    odd = {"x": 1.10, "big": 2**63, "é": ["\u2028", None, {"deep": [[]]}], "labels": "no", "z": "</script>"}
    await store.post(a_call("one", one, **{**odd, "zeta": 1}), a_call("free", one))
    await store.post(a_call("one", screen), a_call("also", screen), path=SCREENS_PATH)
    definitions = f"/api/v2/ops/contact-centers/{CONTACT_CENTER}/recording-label-definitions"
    for name in ("court", "unused"):
        assert (await store.ops.post(definitions, json={"name": name, "displayName": f"The {name}"})).status_code == 201
    label = {"name": "court", "comment": "for é"}
    assert (await store.admin.post("/api/v2/recordings/one/labels", json=label)).status_code == 201
    assert (await store.ops.put(f"{definitions}/court", json={"displayName": "Renamed"})).status_code == 200
    protect = {"operationName": "applyNonDelete", "reason": "case 7"}
    assert (await store.admin.post("/api/v2/recordings/one", json=protect)).status_code == 200
    await store.post(a_call("one", one, callerPhoneNumber="+49", later=1))
    await store.post(a_call("one", one, callerPhoneNumber="+50"))
    paths = (
        *(f"{OPS_PATH}/{rest}" for rest in ("one", "free", "one/versions", "one/labels")),
        *(f"{SCREENS_PATH}/{name}" for name in ("one", "also")),
        f"{definitions}/court",
    )
    before = await everything(store, *paths)
    assert before[f"{OPS_PATH}/one/versions"].count(b'"at"') == 2
    await store.backup()
    await store.backup("screen-recordings")
    assert (await store.verify()).is_whole

    await empty_indices(store.service.settings)
    restore = await store.restore()
    assert counted(restore) == {"restored": 4, "mediaUnchanged": 4}, restore.failures
    assert await everything(store, *paths) == before
    assert counted(await store.restore()) == {"unchanged": 4, "mediaUnchanged": 4}
    # The hold is a hold still: it protects, and it can be lifted.
    for path in (f"{OPS_PATH}/one", f"{SCREENS_PATH}/one"):
        assert (await store.ops.delete(path)).status_code == 403
    lift = {"operationName": "unapplyNonDelete"}
    assert (await store.admin.post("/api/v2/recordings/one", json=lift)).status_code == 200
    assert b"nonDelete" not in await store.read(f"{SCREENS_PATH}/one")
    # What is there already is the same as what would be copied.
    await empty_indices(store.service.settings)
    await store.restore()
    assert counted(await store.backup()) == {"unchanged": 2, "mediaUnchanged": 2}


async def test_a_restore_maps_to_another_contact_center_region_and_storage(store: Store) -> None:
    one, two = store.on_apache("a b/one.wav", b"RIFF1"), store.on_s3("two.wav", b"RIFF2" * 1_800_000)
    named = {
        "storage": "webDAV",
        "path": "s.mp4",
        "data": {"storagePath": store.apache.url_of(f"{store.run}/old/screens")},
    }
    store.on_apache("screens/s.mp4", b"....ftyp")
    await store.post(a_call("one", one, two))
    await store.post(a_call("one", named), path=SCREENS_PATH)
    protect = {"operationName": "applyNonDelete", "reason": "case 7"}
    assert (await store.admin.post("/api/v2/recordings/one", json=protect)).status_code == 200
    await store.backup()
    await store.backup("screen-recordings")
    destination = Destination(
        {CONTACT_CENTER: OTHER_CENTER},
        {REGION: REGION},
        (
            StorageMapping(store.apache.url_of(f"{store.run}/old"), store.apache.url_of(f"{store.run}/new")),
            StorageMapping(f"s3://{BUCKETS[0]}/{store.run}", f"s3://{BUCKETS[1]}/moved/{store.run}"),
        ),
    )
    dry = await store.restore(destination, dry_run=True)
    assert counted(dry) == {"restored": 2, "mediaRestored": 3}
    assert dry.unused == set()
    elsewhere = (StorageMapping("https://misspelt.example/old", "https://new.example"), *destination.storages)
    misspelt = Destination({f"{CONTACT_CENTER}x": OTHER_CENTER}, {"misspelt": "other"}, elsewhere)
    assert (await store.restore(misspelt, dry_run=True)).unused == {
        f"contact center {CONTACT_CENTER}x",
        "region misspelt",
        "storage https://misspelt.example/old",
    }
    restore = await store.restore(destination)
    assert counted(restore) == {"restored": 2, "mediaRestored": 3}, restore.failures
    there = OPS_PATH.replace(CONTACT_CENTER, "other%20center%2F%C3%A9")
    moved = json.loads(await store.read(f"{there}/one"))["recording"]
    assert moved["nonDeletion"]["reason"] == "case 7"
    descriptors = [media["originalMediaDescriptor"] for media in moved["mediaFiles"]]
    assert descriptors == [
        {"storage": "webDAV", "path": store.apache.url_of(f"{store.run}/new/a b/one.wav")},
        {"storage": "awsS3", "path": f"moved/{store.run}/two.wav", "data": {"bucket": BUCKETS[1]}},
    ]
    for media, content in zip(moved["mediaFiles"], (b"RIFF1", b"RIFF2" * 1_800_000), strict=True):
        assert (await store.ops.get(media["mediaUri"])).content == content
    screens = there.replace("recordings", "screen-recordings")
    screen = json.loads(await store.read(f"{screens}/one"))["screenRecording"]
    assert screen["mediaFiles"][0]["originalMediaDescriptor"] == {
        "storage": "webDAV", "path": "s.mp4", "data": {"storagePath": store.apache.url_of(f"{store.run}/new/screens")},
    }  # fmt: skip
    # The screen recording is held by the recording of its new contact center.
    assert (await store.ops.delete(f"{screens}/one")).status_code == 403
    assert counted(await store.restore(destination)) == {"unchanged": 2, "mediaUnchanged": 3}


async def test_a_hold_that_was_lifted_after_the_backup_takes_its_screen_recordings_along_again(store: Store) -> None:
    media = store.on_apache("one.wav", b"RIFF1")
    await store.post(a_call("one", media))
    await store.post(a_call("screen", media, mediaFiles=a_call("one", media)["mediaFiles"]), path=SCREENS_PATH)
    hold = {"operationName": "applyNonDelete", "reason": "case 7"}
    assert (await store.admin.post("/api/v2/recordings/one", json=hold)).status_code == 200
    before = await store.read(f"{OPS_PATH}/one")
    await store.backup()
    lift = {"operationName": "unapplyNonDelete"}
    assert (await store.admin.post("/api/v2/recordings/one", json=lift)).status_code == 200
    assert (await store.ops.delete(f"{OPS_PATH}/one")).status_code == 200
    assert counted(await store.restore()) == {"restored": 1, "mediaUnchanged": 1}
    assert await store.read(f"{OPS_PATH}/one") == before
    assert (await store.ops.delete(f"{SCREENS_PATH}/screen")).status_code == 403


async def test_what_exists_and_differs_is_left_or_merged(store: Store) -> None:
    one, two, three = (store.on_apache(f"{name}.wav", name.encode()) for name in ("one", "two", "three"))
    await store.post(a_call("same", one), a_call("changed", one, two, kept="old", only="backup"))
    await store.backup()
    assert (await store.ops.delete(f"{OPS_PATH}/changed")).status_code == 200
    await store.post(a_call("changed", two, three, kept="new"))
    before = await store.read(f"{OPS_PATH}/changed")
    restore = await store.restore()
    assert counted(restore) == {"unchanged": 1, "different": 1, "mediaUnchanged": 1}
    assert [failure.recording_id for failure in restore.failures] == ["changed"]
    assert await store.read(f"{OPS_PATH}/changed") == before
    assert counted(await store.restore(merges=True)) == {"unchanged": 1, "merged": 1, "mediaUnchanged": 3}
    merged = json.loads(await store.read(f"{OPS_PATH}/changed"))["recording"]
    assert (merged["kept"], merged["only"]) == ("new", "backup")
    paths = [media["originalMediaDescriptor"]["path"].rpartition("/")[2] for media in merged["mediaFiles"]]
    assert paths == ["one.wav", "two.wav", "three.wav"]
    assert counted(await store.restore(merges=True)) == {"unchanged": 2, "mediaUnchanged": 3}


async def test_merging_never_undoes_a_later_protection_change(store: Store) -> None:
    one = store.on_apache("one.wav", b"one")
    await store.post(a_call("lifted", one), a_call("lost", one))
    for name in ("lifted", "lost"):
        await store.admin.post(f"/api/v2/recordings/{name}", json={"operationName": "applyNonDelete", "reason": name})
    await store.backup()
    for name in ("lifted", "lost"):
        await store.admin.post(f"/api/v2/recordings/{name}", json={"operationName": "unapplyNonDelete"})
    assert (await store.ops.delete(f"{OPS_PATH}/lost")).status_code == 200
    await store.post(a_call("lost", one, more=1))
    assert counted(await store.restore(merges=True))["merged"] == 1
    assert b"nonDelete" not in await store.read(f"{OPS_PATH}/lifted")
    assert json.loads(await store.read(f"{OPS_PATH}/lost"))["recording"]["nonDeletion"]["reason"] == "lost"


async def test_merging_takes_later_protection_and_labels_that_only_the_backup_has(store: Store, tmp_path: Path) -> None:
    media = store.on_apache("one.wav", b"one")
    definitions = f"/api/v2/ops/contact-centers/{CONTACT_CENTER}/recording-label-definitions"
    for name in ("early", "late"):
        assert (await store.ops.post(definitions, json={"name": name})).status_code == 201
    await store.post(a_call("one", media))
    await store.post(a_call("screen", mediaFiles=a_call("one", media)["mediaFiles"]), path=SCREENS_PATH)
    await change(store, "one", "applyNonDelete", "first")
    await change(store, "one", "unapplyNonDelete", "over")
    await store.admin.post("/api/v2/recordings/one/labels", json={"name": "early"})
    await store.backup()
    early, store.place = store.place, str(tmp_path / "late")
    await change(store, "one", "applyNonDelete", "second")
    await store.admin.delete("/api/v2/recordings/one/labels/early")
    await store.admin.post("/api/v2/recordings/one/labels", json={"name": "late"})
    await store.backup()
    late, store.place = store.place, early

    await empty_indices(store.service.settings)
    await store.restore()
    await store.post(a_call("screen", mediaFiles=a_call("one", media)["mediaFiles"]), path=SCREENS_PATH)
    assert b"nonDelete" not in await store.read(f"{OPS_PATH}/one")
    store.place = late
    assert counted(await store.restore(merges=True)) == {"merged": 1, "mediaUnchanged": 1}
    merged = json.loads(await store.read(f"{OPS_PATH}/one"))["recording"]
    assert merged["nonDeletion"]["reason"] == "second"
    assert [label["name"] for label in merged["labels"]] == ["early", "late"]
    # The screen recording follows the hold, and follows when it is lifted.
    assert (await store.ops.delete(f"{SCREENS_PATH}/screen")).status_code == 403
    await change(store, "one", "unapplyNonDelete", "over")
    assert (await store.ops.delete(f"{SCREENS_PATH}/screen")).status_code == 200


@pytest.mark.parametrize("first", ["early", "late"])
async def test_merging_keeps_the_later_change_of_each_recording_that_holds_a_screen_recording(
    store: Store, tmp_path: Path, first: str
) -> None:
    calls = [a_call(name, store.on_apache(f"{name}.wav", b"RIFF")) for name in ("one", "two")]
    await store.post(*calls)
    await store.post(a_call("screen", mediaFiles=[*calls[0]["mediaFiles"], *calls[1]["mediaFiles"]]), path=SCREENS_PATH)
    places = {name: str(tmp_path / name) for name in ("early", "late")}
    await change(store, "one", "applyNonDelete")
    store.place = places["early"]
    for resource in RESOURCES:
        await store.backup(resource)
    await change(store, "one", "unapplyNonDelete")
    await change(store, "two", "applyNonDelete")
    store.place = places["late"]
    for resource in RESOURCES:
        await store.backup(resource)

    await empty_indices(store.service.settings)
    for name in (first, *(places.keys() - {first})):
        store.place = places[name]
        await store.restore(merges=True)
    assert b"nonDelete" not in await store.read(f"{OPS_PATH}/one")
    assert (await store.ops.delete(f"{SCREENS_PATH}/screen")).status_code == 403
    await change(store, "two", "unapplyNonDelete")
    assert (await store.ops.delete(f"{SCREENS_PATH}/screen")).status_code == 200


async def versions_of(store: Store, name: str) -> list[str]:
    versions = json.loads(await store.read(f"{OPS_PATH}/{name}/versions"))["versions"]
    return [version["recording"]["note"] for version in versions]


async def test_former_versions_of_a_recording_that_was_posted_again_come_back_by_merging(held: Store) -> None:
    await empty_indices(held.service.settings)
    media = held.apache.descriptor(f"{held.run}/old/one.wav")
    await held.post(a_call("one", media, note="c"))
    assert counted(await held.restore()) == {"different": 1}
    assert await versions_of(held, "one") == []
    assert counted(await held.restore(merges=True)) == {"merged": 1, "mediaUnchanged": 1}
    assert await versions_of(held, "one") == ["a", "b"]
    assert counted(await held.restore(merges=True)) == {"unchanged": 1, "mediaUnchanged": 1}


@pytest.mark.parametrize("later", ["applyNonDelete", "unapplyNonDelete"])
async def test_former_versions_come_back_to_a_recording_that_was_protected_later(held: Store, later: str) -> None:
    await empty_indices(held.service.settings)
    media = held.apache.descriptor(f"{held.run}/old/one.wav")
    await held.post(a_call("one", media, note="c"))
    await change(held, "one", "applyNonDelete", "later")
    await change(held, "one", later, "later")
    before = json.loads(await held.read(f"{OPS_PATH}/one"))["recording"]
    assert counted(await held.restore(merges=True)) == {"merged": 1, "mediaUnchanged": 1}
    assert await versions_of(held, "one") == ["a", "b"]
    assert json.loads(await held.read(f"{OPS_PATH}/one"))["recording"] == before
    await change(held, "one", "applyNonDelete")
    await held.post(a_call("one", media, note="d"))
    assert await versions_of(held, "one") == ["a", "b", "c"]


async def test_other_former_versions_are_left_and_told(held: Store) -> None:
    await empty_indices(held.service.settings)
    media = held.apache.descriptor(f"{held.run}/old/one.wav")
    await held.post(a_call("one", media, note="x"))
    await change(held, "one", "applyNonDelete")
    await held.post(a_call("one", media, note="y"))
    restore = await held.restore(merges=True)
    assert restore.counts.different == 1
    assert "other former versions" in restore.failures[0].reason
    assert await versions_of(held, "one") == ["x"]


async def test_a_media_object_that_goes_before_its_recording_is_back_is_uploaded(
    held: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a sweep of the media objects that an earlier deletion has left."""
    await empty_indices(held.service.settings)
    media = held.apache.folder / f"{held.run}/old/one.wav"
    keep = RecordingRepository.keep_media

    async def gone_before(*arguments: Any) -> None:
        media.unlink()
        await keep(*arguments)

    monkeypatch.setattr(RecordingRepository, "keep_media", gone_before)
    assert counted(await held.restore()) == {"restored": 1, "mediaRestored": 1}
    assert media.read_bytes() == b"one"


@pytest.mark.parametrize("says", ["the same", "otherwise"])
async def test_a_recording_that_somebody_stores_during_a_restore_is_compared(
    held: Store, monkeypatch: pytest.MonkeyPatch, says: str
) -> None:
    """It may be the first attempt's own, whose answer was lost."""
    await empty_indices(held.service.settings)
    store = Restore._store
    media = held.apache.descriptor(f"{held.run}/old/one.wav")

    async def stored_before(*arguments: Any) -> Any:
        monkeypatch.undo()
        if says == "otherwise":
            await held.post(a_call("one", media, note="another"))
        else:
            assert counted(await held.restore()) == {"restored": 1, "mediaUnchanged": 1}
        return await store(*arguments)

    monkeypatch.setattr(Restore, "_store", stored_before)
    restore = await held.restore()
    expected = {"different": 1} if says == "otherwise" else {"restored": 1}
    assert counted(restore) == {**expected, "mediaUnchanged": 1}


async def test_a_label_that_cannot_be_defined_is_told_and_its_recording_restored(store: Store) -> None:
    definitions = f"/api/v2/ops/contact-centers/{CONTACT_CENTER}/recording-label-definitions"
    media = store.on_apache("one.wav", b"one")
    await store.post(a_call("one", media))
    for name in ("court", "audit"):
        body = {"name": name, "displayName": f"The {name}"}
        assert (await store.ops.post(definitions, json=body)).status_code == 201
        assert (await store.admin.post("/api/v2/recordings/one/labels", json={"name": name})).status_code == 201
    before = await store.read(f"{OPS_PATH}/one/labels")
    await store.backup()
    await empty_indices(store.service.settings)
    for name, display_name in (("court", "Another"), ("other", "The audit")):
        body = {"name": name, "displayName": display_name}
        assert (await store.ops.post(definitions, json=body)).status_code == 201
    restore = await store.restore()
    assert counted(restore) == {"restored": 1, "mediaUnchanged": 1, "labelsFailed": 2}
    renamed, taken = sorted((failure.reason for failure in restore.failures), reverse=True)
    assert renamed == "the label court is called 'Another' there"
    assert taken.startswith("the label audit cannot be defined: ")
    assert json.loads(before)["labels"] != []
    assert {label["name"] for label in json.loads(await store.read(f"{OPS_PATH}/one/labels"))["labels"]} == {
        "court",
        "audit",
    }


async def test_a_media_file_that_the_backup_could_not_copy_is_told_with_the_reason(store: Store) -> None:
    away = {"storage": "webDAV", "path": f"{AWAY}/one.wav"}
    await store.post(a_call("one", away))
    assert counted(await store.backup())["mediaFailed"] == 1
    await empty_indices(store.service.settings)
    restore = await store.restore()
    assert counted(restore) == {"restored": 1, "mediaFailed": 1}
    (failure,) = restore.failures
    assert failure.reason.startswith("the backup has no copy: ")
    assert not failure.reason.endswith("unknown")
    assert (await store.ops.get(f"{OPS_PATH}/one")).status_code == 200


async def test_a_media_object_is_never_overwritten_nor_stored_when_damaged(store: Store) -> None:
    one, two = store.on_apache("one.wav", b"RIFF1"), store.on_s3("two.wav", b"RIFF2" * 1_800_000)
    three = store.on_apache("three.wav", b"RIFF3" * 1_000_000)
    await store.post(a_call("one", one), a_call("two", two), a_call("three", three))
    await store.backup()
    await empty_indices(store.service.settings)
    store.on_apache("one.wav", b"other")
    store.s3.client.delete_object(Bucket=BUCKETS[0], Key=two["path"])
    (store.apache.folder / f"{store.run}/old/three.wav").unlink()
    for name in ("two", "three"):
        (media,) = folder_of(store, name).glob("*.wav")
        content = media.read_bytes()
        media.write_bytes(content[:-1] + b"?")
    restore = await store.restore()
    assert counted(restore) == {"restored": 2, "failed": 1, "mediaFailed": 2}
    reasons = {failure.recording_id: failure.reason for failure in restore.failures}
    assert "another media object" in reasons["one"]
    assert all("SHA-256" in reasons[name] for name in ("two", "three"))
    assert (await store.ops.get(f"{OPS_PATH}/one")).status_code == 404
    assert not store.s3.exists(two["path"])
    assert [path.name for path in (store.apache.folder / f"{store.run}/old").iterdir()] == ["one.wav"]
    assert (store.apache.folder / f"{store.run}/old/one.wav").read_bytes() == b"other"


async def test_a_recording_that_nobody_could_have_posted_is_not_restored(backed_up: Store) -> None:
    folder = folder_of(backed_up, "one")
    content = (folder / "recording.json").read_bytes()
    manifest = json.loads((folder / "manifest.json").read_text())
    await empty_indices(backed_up.service.settings)
    for old, new in (
        (b'"startTime"', b'"start"'),
        (b'"id":"one"', b'"id":"other"'),
        (b'"region":"test"', b'"region":"x"'),
        (b"{", b"["),
    ):
        changed = content.replace(old, new, 1)
        assert changed != content
        (folder / "recording.json").write_bytes(changed)
        entry = {"size": len(changed), "sha256": hashlib.sha256(changed).hexdigest()}
        manifest["files"]["recording.json"] = entry
        (folder / "manifest.json").write_text(json.dumps(manifest))
        assert (await backed_up.restore()).counts.failed == 1, new


# --- Kills --------------------------------------------------------------------------------------------------


async def killed(store: Store, rng: random.Random, script: str, *arguments: str, done: Callable[[], int]) -> None:
    """Runs a script, and kills it at some moment of its work."""
    before = done()
    target = before + rng.randrange(1, max(2, BACKED_UP_RECORDINGS // (2 * BACKUP_KILLS)))
    process = await store.scripts.start(script, store.place, *arguments)
    seconds = 120 + BACKED_UP_RECORDINGS / 10
    await eventually(lambda: done() >= target or process.returncode is not None, seconds=seconds)
    await asyncio.sleep(rng.uniform(0, 0.01))
    if process.returncode is None:
        process.kill()
    await process.communicate()


def count_files(store: Store, name: str) -> int:
    """How many files of a backup have this name. A process may remove folders meanwhile."""
    return sum(name in names for _, _, names in os.walk(store.folder))


@pytest.fixture
async def empty_store(store: Store, elasticsearch_url: str) -> AsyncIterator[Store]:
    """The same storages and backups, and other indices, which are empty."""
    async with own_settings(elasticsearch_url) as settings:
        service = Service(msgspec.structs.replace(settings, storage=store.service.settings.storage, **PATIENT))
        await service.start()
        yield Store(service, store.apache, store.s3, store.folder.parent, store.place)
        await service.stop()


async def test_killed_backups_and_restores_go_on_and_everything_comes_back(
    store: Store, empty_store: Store, elasticsearch: AsyncElasticsearch
) -> None:
    rng = random.Random(7)
    contents = {f"call-{i:05}": b"RIFF" + rng.randbytes(rng.randrange(3000)) for i in range(BACKED_UP_RECORDINGS)}
    put = (store.on_apache, store.on_s3)
    calls = {
        name: a_call(name, put[number % 2](f"{name}.wav", content), number=number)
        for number, (name, content) in enumerate(contents.items())
    }
    await store_many(elasticsearch, store.service.settings, calls.values())
    before = {name: await store.read(f"{OPS_PATH}/{name}") for name in calls}

    def manifests() -> int:
        return count_files(store, "manifest.json")

    for _ in range(BACKUP_KILLS):
        await killed(store, rng, "backup.py", *ALL, "--parallel", "2", done=manifests)
        assert (await problems(store)).keys() <= {"unfinished"}
    copied = manifests()
    report = store.scripts.folder / "report.json"
    status, _, err = await store.scripts.run("backup.py", store.place, *ALL, "--report", str(report))
    assert status == 0, err
    counts = json.loads(report.read_text())
    assert (counts["unchanged"], counts["copied"]) == (copied, BACKED_UP_RECORDINGS - copied)
    assert (await store.verify()).is_whole

    status, _, err = await store.scripts.run("purge.py", "--older-than", "1d", *ALL, "--with-media", "--yes")
    assert status == 0, err
    await store.service.repository.make_searchable()
    assert (await elasticsearch.count(index=alias(store.service.settings, "recordings")))["count"] == 0
    assert not list((store.apache.folder / f"{store.run}/old").glob("*.wav"))
    mapping = store.scripts.folder / "mapping.toml"
    old, new = (store.apache.url_of(f"{store.run}/{name}") for name in ("old", "new"))
    mapping.write_text(
        f'[[storages]]\nfrom = "{old}"\nto = "{new}"\n[[storages]]\nfrom = "s3://{BUCKETS[0]}"\nto = "s3://{BUCKETS[1]}"\n'
    )

    def restored() -> int:
        return sum(1 for _ in (store.apache.folder / f"{store.run}/new").glob("*.wav"))

    for _ in range(RESTORE_KILLS):
        await killed(empty_store, rng, "restore.py", "--mapping", str(mapping), done=restored)
    status, _, err = await empty_store.scripts.run("restore.py", store.place, "--mapping", str(mapping))
    assert status == 0, err
    for name, content in contents.items():
        (media,) = calls[name]["mediaFiles"]
        descriptor = json.loads(
            json.dumps(media["mediaDescriptor"]).replace(old, new).replace(f'"{BUCKETS[0]}"', f'"{BUCKETS[1]}"')
        )
        expected = before[name].replace(old.encode(), new.encode())
        expected = expected.replace(f'"{BUCKETS[0]}"'.encode(), f'"{BUCKETS[1]}"'.encode())
        old_uuid, new_uuid = (str(media_uuid(name, one)).encode() for one in (media["mediaDescriptor"], descriptor))
        shown = await empty_store.read(f"{OPS_PATH}/{name}")
        expected = expected.replace(store.service.url.encode(), empty_store.service.url.encode())
        assert shown == expected.replace(old_uuid, new_uuid)
        uri = json.loads(shown)["recording"]["mediaFiles"][0]["mediaUri"]
        assert (await empty_store.ops.get(uri)).content == content
    left = [path.name for path in (store.apache.folder / f"{store.run}/new").iterdir() if path.suffix != ".wav"]
    assert left == []


async def test_zips_whose_process_is_killed_are_finished_by_another(
    store: Store, elasticsearch: AsyncElasticsearch
) -> None:
    rng = random.Random(8)
    contents = {f"call-{i:02}": b"RIFF" + rng.randbytes(1_000_000) for i in range(30)}
    calls = [a_call(name, store.on_s3(f"{name}.wav", content)) for name, content in contents.items()]
    await store_many(elasticsearch, store.service.settings, calls)
    assert counted(await store.backup()) == {"copied": 30, "mediaCopied": 30}

    def unfinished() -> int:
        sizes = 0
        for path in (store.folder / ".unfinished").iterdir():
            with contextlib.suppress(FileNotFoundError):
                sizes += path.stat().st_size
        return sizes

    def folders() -> int:
        return count_files(store, "recording.json")

    async def kill_zipping(when: Callable[[], bool]) -> None:
        process = await store.scripts.start("backup.py", store.place, *ALL, "--zip")
        await eventually(lambda: when() or process.returncode is not None, seconds=60)
        if process.returncode is None:
            process.kill()
        await process.communicate()
        statuses.append(process.returncode)
        assert (await problems(store)).keys() <= {"unfinished", "surplus"}

    statuses: list[int | None] = []
    for _ in range(2):
        target = rng.randrange(1_000_000, 20_000_000)
        await kill_zipping(lambda target=target: unfinished() >= target)  # type: ignore[misc]
    await kill_zipping(lambda: folders() < 30)  # the zip is there, and the folders go
    assert -signal.SIGKILL in statuses
    status, _, err = await store.scripts.run("backup.py", store.place, *ALL, "--zip")
    assert status == 0, err
    assert set(store.files()) == {f"{DAY}.zip", f"{DAY}.json", "=contents.json"}
    assert (await store.verify()).is_whole
    zipped = entries(store)
    for name, content in contents.items():
        assert [zipped[path] for path in zipped if path.startswith(f"{name}/") and path.endswith(".wav")] == [content]
