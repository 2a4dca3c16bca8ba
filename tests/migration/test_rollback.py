"""Holds that were acknowledged after a migration, and its rollback."""

from pathlib import Path

from elasticsearch import AsyncElasticsearch

from app.settings import Settings
from tests.migration.support import make_v1_index, run, small
from tests.support.recordings import CONTACT_CENTER, OPS_PATH, a_recording
from tests.support.service import Service, assert_error

APPLY = {"operationName": "applyNonDelete"}


async def test_rollback_carries_holds_over(service: Service, settings: Settings, tmp_path: Path) -> None:
    ops, admin = service.client("ops"), service.client("admin")
    for recording_id in ("held", "free"):
        assert (await ops.post(OPS_PATH, json=a_recording(recording_id))).status_code == 201
    status, out, err = await run(settings, "reindex.py", cwd=tmp_path)
    assert status == 0, out + err
    for recording_id in ("new", "dropped"):
        assert (await ops.post(OPS_PATH, json=a_recording(recording_id))).status_code == 201
    for recording_id in ("held", "new"):
        assert (await admin.post(f"/api/v2/recordings/{recording_id}", json=APPLY)).status_code == 200
    status, out, err = await run(settings, "reindex.py", "--rollback", cwd=tmp_path)
    assert status == 0, out + err
    assert "protected since the migration, and protected in the old index too: 2" in out
    for recording_id in ("held", "new"):
        assert (await ops.get(f"{OPS_PATH}/{recording_id}")).json()["recording"]["nonDelete"] is True
        assert_error(await ops.delete(f"{OPS_PATH}/{recording_id}", params={"subresources": "*"}), 403, 3)
    assert "nonDelete" not in (await ops.get(f"{OPS_PATH}/free")).json()["recording"]
    assert_error(await ops.get(f"{OPS_PATH}/dropped"), 404, 6)


async def test_rollback_says_which_holds_are_left_to_protect(
    service: Service, elasticsearch: AsyncElasticsearch, settings: Settings, tmp_path: Path
) -> None:
    await make_v1_index(elasticsearch, settings, [("one", {**small("one", "+1"), "region": settings.region})])
    status, out, err = await run(settings, "migrate_to_v2.py", cwd=tmp_path)
    assert status == 0, out + err
    admin = service.client("admin")
    assert (await admin.post("/api/v2/recordings/one", json=APPLY)).status_code == 200
    status, out, err = await run(settings, "migrate_to_v2.py", "--rollback", cwd=tmp_path)
    assert status == 1, out + err
    assert f"still to be protected elsewhere: 1\n  {CONTACT_CENTER} one\n" in out
