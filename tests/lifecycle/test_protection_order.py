"""Changes of protection whose steps overlap (docs/decisions/0010-protection.md)."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from app.audit import AuditLog
from app.auth.scope import Scope
from app.errors import ElasticsearchUnavailable, MediaBeingDeleted
from app.lifecycle.protection import Protection, is_protected
from app.recordings.identity import media_object_keys
from app.recordings.merge import merge
from app.recordings.model import parse_recording
from app.services import open_services
from app.settings import Settings
from app.store.documents import document_id
from app.store.indices import create_indices
from app.store.repository import ProtectionState, StoredRecording, Update
from tests.support.recordings import CONTACT_CENTER, OPS_PATH, REGION, a_media_file, a_recording
from tests.support.service import Service, assert_error

SCOPE = Scope(CONTACT_CENTER, REGION)


async def test_a_slow_apply_takes_nothing_along_after_a_later_unapply(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_services(settings, AuditLog(None), CollectorRegistry()) as services:
        await create_indices(services.client, settings)
        recordings, screens = services.repositories["recordings"], services.repositories["screen-recordings"]
        for repository in (recordings, screens):
            await repository.save(CONTACT_CENTER, parse_recording(a_recording("call")), by="ops")

        slow = Protection(recordings, screens)
        complete, has_committed, may_go_on = slow._complete, asyncio.Event(), asyncio.Event()

        async def complete_later(*arguments: Any, **named: Any) -> None:
            has_committed.set()
            await may_go_on.wait()
            await complete(*arguments, **named)

        monkeypatch.setattr(slow, "_complete", complete_later)
        applying = asyncio.create_task(slow.change(SCOPE, "call", protect=True, by="amy"))
        await has_committed.wait()
        await services.protection.change(SCOPE, "call", protect=False, by="ben")
        may_go_on.set()
        await applying

        assert [
            is_protected((await repository.get(SCOPE, "call")).recording) for repository in (recordings, screens)
        ] == [
            False,
            False,
        ]


async def test_an_object_that_its_recording_has_lost_is_not_waited_for(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One media file of the screen recording is being deleted, and was in it when the apply began."""
    async with open_services(settings, AuditLog(None), CollectorRegistry()) as services:
        await create_indices(services.client, settings)
        recordings, screens = services.repositories["recordings"], services.repositories["screen-recordings"]
        lost, kept = a_media_file("calls/lost.mp4"), a_media_file("calls/kept.mp4")
        await recordings.save(CONTACT_CENTER, parse_recording(a_recording("call")), by="ops")
        await screens.save(CONTACT_CENTER, parse_recording(a_recording("call", mediaFiles=[lost, kept])), by="ops")
        associated = screens.associated
        claims = screens._claims

        async def without(stored: StoredRecording | None) -> Update:
            assert stored is not None
            recording = merge(None, stored.recording | {"mediaFiles": stored.recording["mediaFiles"][1:]})
            return Update(CONTACT_CENTER, recording, stored.protection)

        async def associated_and_then_lost(stored: StoredRecording) -> AsyncIterator[ProtectionState]:
            async for state in associated(stored):
                yield state
            await screens.update_document(document_id(CONTACT_CENTER, REGION, "call"), without)
            assert await claims.begin(await claims.acquire([media_object_keys(lost["mediaDescriptor"])[1]]))

        monkeypatch.setattr(screens, "associated", associated_and_then_lost)
        await services.protection.change(SCOPE, "call", protect=True, by="amy")
        assert is_protected((await screens.get(SCOPE, "call")).recording)
        monkeypatch.undo()
        # What is in a recording is waited for, also when all of them are protected already.
        assert await claims.begin(await claims.acquire([media_object_keys(kept["mediaDescriptor"])[1]]))
        with pytest.raises(MediaBeingDeleted):
            await services.protection.change(SCOPE, "call", protect=True, by="amy")


async def test_a_change_whose_screen_recordings_cannot_be_written_now_is_503_and_is_completed_later(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    ops, admin = service.client("ops"), service.client("admin")
    screens_path = OPS_PATH.replace("/recordings", "/screen-recordings")
    for path, recording_id in ((OPS_PATH, "call"), (screens_path, "one"), (screens_path, "other")):
        assert (await ops.post(path, json=a_recording(recording_id))).status_code == 201
    screens = service.services.repositories["screen-recordings"]

    async def fail(*_: object) -> None:
        raise ElasticsearchUnavailable

    with monkeypatch.context() as patch:
        patch.setattr(screens, "update_document", fail)
        response = await admin.post("/api/v2/recordings/call", json={"operationName": "applyNonDelete"})
        assert_error(response, 503, 4)
        assert_error(await ops.delete(f"{OPS_PATH}/call"), 403, 3)
    await service.repository.make_searchable()
    assert await service.services.protection.repair(older_than_seconds=0) == 1
    for recording_id in ("one", "other"):
        assert_error(await ops.delete(f"{screens_path}/{recording_id}"), 403, 3)


async def test_a_change_that_cannot_be_completed_holds_up_no_other(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    ops, admin = service.client("ops"), service.client("admin")
    screens_path = OPS_PATH.replace("/recordings", "/screen-recordings")
    screens = service.services.repositories["screen-recordings"]
    write = screens.update_document

    def failing(error: Exception, *ids: str) -> Any:
        documents = {document_id(CONTACT_CENTER, REGION, recording_id) for recording_id in ids}

        async def update(document: str, *arguments: Any, **named: Any) -> Any:
            if document in documents:
                raise error
            return await write(document, *arguments, **named)

        return update

    for name in ("a", "b", "c"):
        media_files = [a_media_file(f"calls/{name}.mp3", callUUID=name)]
        for path in (OPS_PATH, screens_path):
            assert (await ops.post(path, json=a_recording(name, mediaFiles=media_files))).status_code == 201
    with monkeypatch.context() as patch:
        patch.setattr(screens, "update_document", failing(ElasticsearchUnavailable(), "a", "b", "c"))
        for name in ("a", "b", "c"):
            hold = {"operationName": "applyNonDelete"}
            assert (await admin.post(f"/api/v2/recordings/{name}", json=hold)).status_code == 503
    await service.repository.make_searchable()
    (first, *_) = await service.repository.pending()
    (broken,) = (name for name in ("a", "b", "c") if document_id(CONTACT_CENTER, REGION, name) == first)
    with monkeypatch.context() as patch:
        patch.setattr(screens, "update_document", failing(ValueError("it cannot be decoded"), broken))
        with pytest.raises(ValueError, match="cannot be decoded"):
            await service.services.protection.repair(older_than_seconds=0)
    for name in {"a", "b", "c"} - {broken}:
        assert_error(await ops.delete(f"{screens_path}/{name}"), 403, 3)
    assert (await ops.delete(f"{screens_path}/{broken}")).status_code == 200
