"""What version 0.1.0 (commit 41b05e1) has stored: its mapping, its holds, and what its clients could make up."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from elasticsearch import AsyncElasticsearch

from app import codec
from app.migration.sources import V1Recordings
from app.recordings.merge import merge
from app.recordings.model import parse_recording
from app.settings import Settings
from app.store.documents import document_id, from_source, to_document
from app.store.indices import load_schema
from tests.migration.support import run
from tests.support.recordings import CONTACT_CENTER, OPS_PATH, REGION, a_media_file, a_recording
from tests.support.service import PATIENT, Service, StartService, assert_error

pytestmark = pytest.mark.no_indices

MAPPING = Path(__file__).parent / "version_0_1_0" / "recordings.json"
SCREENS_PATH = OPS_PATH.replace("/recordings", "/screen-recordings")
APPLY, UNAPPLY = {"operationName": "applyNonDelete"}, {"operationName": "unapplyNonDelete"}
MADE_UP_MEDIA = dict.fromkeys(("mediaUri", "playPath", "originalMediaDesc", "originalMediaDescriptor"), "made up")
MADE_UP: dict[str, Any] = {"labels": [{"name": "made up"}], "nonDeletion": {"by": "made up"}}


def document(recording_id: str, call: str, *, protected: bool = False, decided_at: int = 1) -> dict[str, Any]:
    """As version 0.1.0 wrote it: of a protection change only the time, the id, and who has yet to follow."""
    recording = merge(None, parse_recording(a_recording(recording_id, mediaFiles=[a_media_file(callUUID=call)])))
    recording |= MADE_UP
    recording["mediaFiles"][0] |= MADE_UP_MEDIA
    if protected:
        recording["nonDelete"] = True
    fields = msgspec.json.decode(MAPPING.read_bytes())["mappings"]["properties"]
    made = {name: value for name, value in to_document(CONTACT_CENTER, recording).items() if name in fields}
    made["recording"] = codec.encode(recording).decode()
    if protected:
        made |= {"protection": codec.encode([decided_at, "a change", []]).decode(), "protectionPending": False}
    return made


StartOld = Callable[[bool], Awaitable[Service]]


@pytest.fixture
def start_old(
    elasticsearch: AsyncElasticsearch, settings: Settings, start_service: StartService, tmp_path: Path
) -> StartOld:
    """Starts the service over what 0.1.0 wrote: recordings a and b were protected, and took the screen s along.

    It starts only after a reindex. One that was killed after its swap leaves documents as 0.1.0 wrote them.
    """
    documents = {
        "recordings": [
            document("a", "call", protected=True, decided_at=1),
            document("b", "call", protected=True, decided_at=2),
            document("free", "another call"),
        ],
        "screen-recordings": [document("s", "call", protected=True, decided_at=2), document("late", "call")],
    }

    async def start(reindexed: bool) -> Service:
        patient = elasticsearch.options(request_timeout=60)
        for resource, some in documents.items():
            schema = msgspec.json.decode(MAPPING.read_bytes()) if reindexed else load_schema(resource)
            name = f"{settings.index_prefix}-{resource}"
            await patient.indices.create(
                index=f"{name}-v2-000001",
                mappings=schema["mappings"],
                settings={**schema["settings"], "index.number_of_replicas": 0},
                aliases={name: {"is_write_index": True}},
            )
            for one in some:
                _id = document_id(CONTACT_CENTER, REGION, codec.decode(one["recording"])["id"])
                await patient.index(index=name, id=_id, document=one, refresh=True)
        for resource in documents if reindexed else ():
            status, out, err = await run(settings, "reindex.py", "--resource", resource, cwd=tmp_path)
            assert status == 0, out + err
            assert ("2 holds" in out) == (resource == "screen-recordings")  # when both are migrated
        return await start_service(**PATIENT)

    return start


async def change(service: Service, recording_id: str, operation: dict[str, str]) -> None:
    response = await service.client("admin").post(f"/api/v2/recordings/{recording_id}", json=operation)
    assert response.status_code == 200, response.text


async def held_screens(service: Service) -> set[str]:
    ops = service.client("ops")
    held = set()
    for screen in ("s", "late"):
        if (await ops.get(f"{SCREENS_PATH}/{screen}")).json()["screenRecording"].get("nonDelete"):
            assert_error(await ops.delete(f"{SCREENS_PATH}/{screen}"), 403, 3)
            held.add(screen)
    return held


@pytest.mark.parametrize("reindexed", [False, True])
@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")], ids="".join)
async def test_lifting_one_hold_lifts_no_other(start_old: StartOld, order: tuple[str, str], *, reindexed: bool) -> None:
    old_service = await start_old(reindexed)
    first, second = order
    assert await held_screens(old_service) == {"s"}
    await change(old_service, first, UNAPPLY)
    assert await held_screens(old_service) == {"s"}
    assert_error(await old_service.client("ops").delete(f"{OPS_PATH}/{second}"), 403, 3)
    await change(old_service, second, UNAPPLY)
    assert await held_screens(old_service) == set()


@pytest.mark.parametrize("reindexed", [False, True])
@pytest.mark.parametrize("moved", ["recording", "screen recording"])
async def test_a_call_that_changes_frees_no_screen_recording(
    start_old: StartOld, moved: str, *, reindexed: bool
) -> None:
    """Nor does it keep the screen recording for ever."""
    old_service = await start_old(reindexed)
    ops = old_service.client("ops")
    path, recording_id = (OPS_PATH, "a") if moved == "recording" else (SCREENS_PATH, "s")
    elsewhere = a_recording(recording_id, mediaFiles=[a_media_file(callUUID="another call")])
    assert (await ops.post(path, json=elsewhere)).status_code == 200
    for operation in (APPLY, UNAPPLY):  # of a recording with the call that it has now
        await change(old_service, "free", operation)
    await change(old_service, "b", UNAPPLY)
    assert await held_screens(old_service) == {"s"}
    await change(old_service, "a", UNAPPLY)
    assert await held_screens(old_service) == set()


@pytest.mark.parametrize("reindexed", [False, True])
async def test_made_up_attributes_are_gone(start_old: StartOld, *, reindexed: bool) -> None:
    old_service = await start_old(reindexed)
    for path, _id, key in ((OPS_PATH, "a", "recording"), (SCREENS_PATH, "s", "screenRecording")):
        response = await old_service.client("ops").get(f"{path}/{_id}")
        assert "made up" not in response.text
        assert response.json()[key]["nonDelete"] is True
        assert "nonDeletion" not in response.json()[key]  # 0.1.0 did not note who protects


def test_made_up_attributes_of_a_v1_document_are_gone_and_a_hold_stays() -> None:
    posted = a_recording(**MADE_UP, mediaFiles=[{**a_media_file(), **MADE_UP_MEDIA, "mediaPath": "made up"}])
    for held in (True, False):
        source = {**posted, "nonDelete": held}
        _, made = V1Recordings("old", CONTACT_CENTER).transform({"_id": "recording", "_source": source})
        assert "made up" not in made["recording"]
        assert from_source(made).get("nonDelete", False) is held
        assert made["nonDelete"] is held
