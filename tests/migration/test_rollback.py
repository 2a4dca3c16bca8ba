"""What was acknowledged after a migration, and its rollback."""

from pathlib import Path

import pytest
from elasticsearch import AsyncElasticsearch

from app.migration import rollback
from app.migration.cutover import acquire_and_recover
from app.settings import Settings
from tests.migration.support import behind_alias, make_v1_index, run, small
from tests.support.recordings import CONTACT_CENTER, OPS_PATH, a_recording
from tests.support.service import Service, assert_error

pytestmark = pytest.mark.no_indices

APPLY = {"operationName": "applyNonDelete"}
SCREENS_PATH = OPS_PATH.replace("/recordings", "/screen-recordings")


def listed(out: str, what: str) -> list[str]:
    """The ids under the line that says what they are."""
    lines = out.splitlines()
    (start,) = (i for i, line in enumerate(lines) if f": {what}: " in line)
    ids = []
    for line in lines[start + 1 :]:
        if not line.startswith("  "):
            break
        ids.append(line.split()[-1])
    assert lines[start].endswith(f": {len(ids)}")
    return sorted(ids)


async def test_rollback_carries_holds_over(service: Service, settings: Settings, tmp_path: Path) -> None:
    ops, admin = service.client("ops"), service.client("admin")
    for recording_id in ("held", "free"):
        assert (await ops.post(OPS_PATH, json=a_recording(recording_id))).status_code == 201
    status, out, err = await run(settings, "reindex.py", cwd=tmp_path)
    assert status == 0, out + err
    assert (await ops.post(OPS_PATH, json=a_recording("new"))).status_code == 201
    for recording_id in ("held", "new"):
        assert (await admin.post(f"/api/v2/recordings/{recording_id}", json=APPLY)).status_code == 200
    status, out, err = await run(settings, "reindex.py", "--rollback", cwd=tmp_path)
    assert status == 0, out + err
    assert listed(out, "carried over to the old index") == ["held", "new"]
    for recording_id in ("held", "new"):
        assert (await ops.get(f"{OPS_PATH}/{recording_id}")).json()["recording"]["nonDelete"] is True
        assert_error(await ops.delete(f"{OPS_PATH}/{recording_id}", params={"subresources": "*"}), 403, 3)
    assert "nonDelete" not in (await ops.get(f"{OPS_PATH}/free")).json()["recording"]


async def test_migration_and_rollback_keep_labels_and_what_was_taken(
    service: Service, settings: Settings, tmp_path: Path
) -> None:
    ops, admin = service.client("ops"), service.client("admin")

    async def labels(recording_id: str) -> list[str]:
        answer = (await ops.get(f"{OPS_PATH}/{recording_id}/labels")).json()
        return [label["name"] for label in answer["labels"]]

    async def give(recording_id: str, name: str) -> None:
        path = f"/api/v2/recordings/{recording_id}/labels"
        assert (await admin.post(path, json={"name": name, "comment": "why"})).status_code == 201

    for name in ("a", "b"):
        defined = await admin.post("/api/v2/recording-label-definitions", json={"name": name})
        assert defined.status_code == 201
    for recording_id in ("given", "taken", "kept", "updated"):
        assert (await ops.post(OPS_PATH, json=a_recording(recording_id))).status_code == 201
    await give("taken", "a")
    await give("kept", "a")
    before = (await ops.get(f"{OPS_PATH}/kept")).json()
    for resource in ("recordings", "label-definitions"):
        status, out, err = await run(settings, "reindex.py", "--resource", resource, cwd=tmp_path)
        assert status == 0, out + err
    assert (await ops.get(f"{OPS_PATH}/kept")).json() == before
    found = await admin.get("/api/v2/recordings", params={"label": "A"})
    assert {recording["id"] for recording in found.json()["recordings"]} == {"taken", "kept"}
    await give("given", "b")
    assert (await admin.delete("/api/v2/recordings/taken/labels/a")).status_code == 200
    assert (await ops.post(OPS_PATH, json=a_recording("updated", note="x"))).status_code == 200
    assert (await admin.post("/api/v2/recording-label-definitions", json={"name": "c"})).status_code == 201
    status, out, err = await run(settings, "reindex.py", "--rollback", cwd=tmp_path)
    assert status == 1, out + err
    assert listed(out, "carried over to the old index") == ["given", "taken"]
    assert listed(out, "written, and not in the old index") == ["updated"]
    status, out, err = await run(settings, "reindex.py", "--resource", "label-definitions", "--rollback", cwd=tmp_path)
    assert status == 0, out + err
    assert [await labels(name) for name in ("given", "taken", "kept")] == [["b"], [], ["a"]]
    assert (await admin.get("/api/v2/recording-label-definitions/c")).status_code == 200


async def test_rollback_lists_what_was_written_and_deleted_by_id(
    service: Service, settings: Settings, tmp_path: Path
) -> None:
    ops = service.client("ops")
    for recording_id in ("same", "updated", "deleted", "posted-again"):
        assert (await ops.post(OPS_PATH, json=a_recording(recording_id))).status_code == 201
    status, out, err = await run(settings, "reindex.py", cwd=tmp_path)
    assert status == 0, out + err
    for recording_id in ("deleted", "posted-again"):
        assert (await ops.delete(f"{OPS_PATH}/{recording_id}")).status_code == 200
    for recording_id in ("updated", "posted-again", "new", "new-and-deleted"):
        assert (await ops.post(OPS_PATH, json=a_recording(recording_id, note="x"))).status_code in {200, 201}
    assert (await ops.delete(f"{OPS_PATH}/new-and-deleted")).status_code == 200
    status, out, err = await run(settings, "reindex.py", "--rollback", cwd=tmp_path)
    assert status == 1, out + err
    assert listed(out, "written, and not in the old index") == ["new", "posted-again", "updated"]
    assert listed(out, "deleted, and back") == ["deleted"]
    assert (await ops.get(f"{OPS_PATH}/deleted")).status_code == 200
    assert_error(await ops.get(f"{OPS_PATH}/new"), 404, 6)


async def test_rollback_says_which_holds_are_left_to_protect(
    service: Service, elasticsearch: AsyncElasticsearch, settings: Settings, tmp_path: Path
) -> None:
    documents = [(_id, {**small(_id, "+1"), "region": settings.region}) for _id in ("one", "deleted")]
    rejected = [("rejected", {**small("rejected", "+1"), "region": " "})]
    await make_v1_index(elasticsearch, settings, documents + rejected)
    status, out, err = await run(settings, "migrate_to_v2.py", "--allow-rejects", cwd=tmp_path)
    assert status == 0, out + err
    ops, admin = service.client("ops"), service.client("admin")
    assert (await admin.post("/api/v2/recordings/one", json=APPLY)).status_code == 200
    assert (await ops.delete(f"{OPS_PATH}/deleted")).status_code == 200
    status, out, err = await run(settings, "migrate_to_v2.py", "--rollback", cwd=tmp_path)
    assert status == 1, out + err
    assert listed(out, "protected, and still to be protected elsewhere") == ["one"]
    assert listed(out, "deleted, and back") == ["deleted"]
    assert f"  {CONTACT_CENTER} deleted\n" in out


async def test_rollback_that_is_interrupted_lists_everything_when_it_runs_again(
    service: Service, elasticsearch: AsyncElasticsearch, settings: Settings, tmp_path: Path
) -> None:
    ops, admin = service.client("ops"), service.client("admin")
    for recording_id in ("held", "deleted"):
        assert (await ops.post(OPS_PATH, json=a_recording(recording_id))).status_code == 201
    status, out, err = await run(settings, "reindex.py", cwd=tmp_path)
    assert status == 0, out + err
    assert (await admin.post("/api/v2/recordings/held", json=APPLY)).status_code == 200
    assert (await ops.delete(f"{OPS_PATH}/deleted")).status_code == 200

    async def fail(*_: object) -> None:
        raise InterruptedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rollback, "_deleted", fail)
        with pytest.raises(InterruptedError):
            async with acquire_and_recover(elasticsearch, settings, "recordings") as lease:
                await rollback.roll_back(elasticsearch, settings, lease, "recordings")
    assert (await behind_alias(elasticsearch, settings)).endswith("000001")
    for recording_id in ("held", "later"):
        assert (await ops.post(OPS_PATH, json=a_recording(recording_id, note="later"))).status_code in {200, 201}
    status, out, err = await run(settings, "reindex.py", "--rollback", cwd=tmp_path)
    assert status == 1, out + err
    assert listed(out, "carried over to the old index") == ["held"]
    assert listed(out, "deleted, and back") == ["deleted"]
    held = (await ops.get(f"{OPS_PATH}/held")).json()["recording"]
    assert (held["nonDelete"], held["note"]) == (True, "later")


async def test_rollback_of_screen_recordings_carries_their_holders(
    service: Service, settings: Settings, tmp_path: Path
) -> None:
    ops, admin = service.client("ops"), service.client("admin")
    for path, _id in ((OPS_PATH, "a"), (OPS_PATH, "b"), (SCREENS_PATH, "s")):
        assert (await ops.post(path, json=a_recording(_id))).status_code == 201
    assert (await admin.post("/api/v2/recordings/a", json=APPLY)).status_code == 200
    status, out, err = await run(settings, "reindex.py", "--resource", "screen-recordings", cwd=tmp_path)
    assert status == 0, out + err
    assert (await admin.post("/api/v2/recordings/b", json=APPLY)).status_code == 200
    status, out, err = await run(settings, "reindex.py", "--resource", "screen-recordings", "--rollback", cwd=tmp_path)
    assert status == 0, out + err
    unapply = {"operationName": "unapplyNonDelete"}
    for recording_id, still_held in (("a", True), ("b", False)):
        assert (await admin.post(f"/api/v2/recordings/{recording_id}", json=unapply)).status_code == 200
        screen = (await ops.get(f"{SCREENS_PATH}/s")).json()["screenRecording"]
        assert screen.get("nonDelete", False) is still_held


async def test_rollback_of_the_journal_loses_no_entry(
    service: Service, elasticsearch: AsyncElasticsearch, settings: Settings, tmp_path: Path
) -> None:
    """Also what the storage did not let go: nothing answers there."""
    ops = service.client("ops")
    for recording_id in ("a", "b"):
        media = {"storage": "webDAV", "path": f"http://media.example/{recording_id}.wav"}
        recording = a_recording(recording_id)
        recording["mediaFiles"][0]["mediaDescriptor"] = media
        assert (await ops.post(OPS_PATH, json=recording)).status_code == 201
    status, out, err = await run(settings, "reindex.py", "--resource", "media-deletions", cwd=tmp_path)
    assert status == 0, out + err
    assert (await ops.delete(f"{OPS_PATH}/a", params={"subresources": "*"})).json()["statusCode"] == 7
    status, out, err = await run(settings, "reindex.py", "--resource", "media-deletions", "--rollback", cwd=tmp_path)
    assert status == 0, out + err
    index = f"{settings.index_prefix}-media-deletions"
    await elasticsearch.indices.refresh(index=index)
    assert (await elasticsearch.count(index=index))["count"] == 1
