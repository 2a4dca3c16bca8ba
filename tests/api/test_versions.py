"""Former versions of protected recordings (docs/contract.md section 4)."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from elasticsearch import AsyncElasticsearch, ConflictError
from prometheus_client import CollectorRegistry

from app.audit import AuditLog
from app.auth.scope import Scope
from app.errors import ElasticsearchUnavailable
from app.recordings.dates import parse_instant
from app.services import open_services
from app.settings import Settings
from app.store.document_store import DocumentWriter
from app.store.journal import now_milliseconds
from tests.support.recordings import CONTACT_CENTER, OPS_PATH, REGION, a_recording
from tests.support.service import PATIENT, StartService, assert_error

APPLY, UNAPPLY = {"operationName": "applyNonDelete"}, {"operationName": "unapplyNonDelete"}


async def post(ops: httpx.AsyncClient, **attributes: Any) -> None:
    assert (await ops.post(OPS_PATH, json=a_recording("r", **attributes))).status_code in {200, 201}


async def protect(admin: httpx.AsyncClient, operation: dict[str, str] = APPLY) -> None:
    assert (await admin.post("/api/v2/recordings/r", json=operation)).status_code == 200


async def versions(ops: httpx.AsyncClient) -> list[dict[str, Any]]:
    response = await ops.get(f"{OPS_PATH}/r/versions")
    assert response.status_code == 200, response.text
    assert response.json()["statusCode"] == 0
    found: list[dict[str, Any]] = response.json()["versions"]
    return found


def notes(found: list[dict[str, Any]]) -> list[str]:
    return [version["recording"]["note"] for version in found]


async def test_an_update_of_a_protected_recording_keeps_what_it_said(
    ops: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    begun = now_milliseconds()
    await post(ops, note="unprotected")
    await post(ops, note="a")
    await protect(admin)
    assert await versions(ops) == []
    await post(ops, note="b")
    await post(ops, note="b")  # says the same
    await protect(admin)
    await post(ops, note="a")
    await post(ops, note="c", callerPhoneNumber="+1")
    found = await versions(ops)
    assert notes(found) == ["a", "b", "a"]
    assert {version["by"] for version in found} == {"ops"}
    times = [parse_instant(version["at"]) for version in found]
    assert [begun, *times, now_milliseconds()] == sorted([begun, *times, now_milliseconds()])
    assert found[0]["recording"]["callerPhoneNumber"] == "+16504668888"
    assert "originalMediaDesc" in found[0]["recording"]["mediaFiles"][0]
    await protect(admin, UNAPPLY)
    await post(ops, note="d")
    assert notes(await versions(ops)) == ["a", "b", "a"]


async def test_a_screen_recording_that_a_recording_holds_keeps_what_it_said(
    ops: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    screens = OPS_PATH.replace("recordings", "screen-recordings")
    await post(ops)
    for note, held in (("a", False), ("b", True), ("c", True)):
        if held:
            await protect(admin)
        assert (await ops.post(screens, json=a_recording("s", note=note))).status_code in {200, 201}
    response = await ops.get(f"{screens}/s/versions")
    assert response.status_code == 200
    assert notes(response.json()["versions"]) == ["a", "b"]
    assert await versions(ops) == []


async def test_an_update_that_only_python_takes_for_none_is_kept(
    ops: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    """To Python `1`, `1.0` and `true` are equal."""
    states = ['[0, {"x": 1}]', '[false, {"x": 1}]', '[false, {"x": true}]', '[false, {"x": 1.0}]']
    await post(ops, deep=json.loads(states[0]))
    await protect(admin)
    for state in states:
        for _ in range(2):
            await post(ops, deep=json.loads(state))
    assert [json.dumps(version["recording"]["deep"]) for version in await versions(ops)] == states[:-1]


async def test_versions_go_with_the_recording(
    ops: httpx.AsyncClient, admin: httpx.AsyncClient, elasticsearch: AsyncElasticsearch, settings: Settings
) -> None:
    await post(ops, note="a")
    await protect(admin)
    await post(ops, note="b")
    await protect(admin, UNAPPLY)
    assert (await ops.delete(f"{OPS_PATH}/r")).json() == {"statusCode": 0}
    assert_error(await ops.get(f"{OPS_PATH}/r/versions"), 404, 6)
    index = f"{settings.index_prefix}-recording-versions"
    await elasticsearch.indices.refresh(index=index)
    # Only the note is left, until no update that began before can be under way.
    assert (await elasticsearch.count(index=index, query={"term": {"deleting": False}}))["count"] == 0
    await post(ops, note="another recording")
    assert await versions(ops) == []
    async with open_services(settings, AuditLog(None), CollectorRegistry()) as services:
        await services.deletion.sweep(only_due=False)
    await elasticsearch.indices.refresh(index=index)
    assert (await elasticsearch.count(index=index))["count"] == 0


async def test_versions_that_a_killed_deletion_left_belong_to_no_later_recording(
    ops: httpx.AsyncClient, admin: httpx.AsyncClient, elasticsearch: AsyncElasticsearch, settings: Settings
) -> None:
    await post(ops, note="a")
    await protect(admin)
    await post(ops, note="b")
    await protect(admin, UNAPPLY)
    async with open_services(settings, AuditLog(None), CollectorRegistry()) as services:
        repository = services.repositories["recordings"]
        stored = await repository.get(Scope(CONTACT_CENTER, REGION), "r")
        assert stored.protection is not None
        await repository.version_store.begin_deletion([(stored.document_id, stored.protection.history)])
        assert await repository.delete([stored]) == [True]
        await post(ops, note="another recording")
        await protect(admin)
        assert await versions(ops) == []
        await services.deletion.sweep(only_due=False)
    index = f"{settings.index_prefix}-recording-versions"
    await elasticsearch.indices.refresh(index=index)
    assert (await elasticsearch.count(index=index))["count"] == 0


async def test_an_update_that_was_not_stored_leaves_no_version(
    ops: httpx.AsyncClient, admin: httpx.AsyncClient, settings: Settings
) -> None:
    await post(ops, note="a")
    await protect(admin)
    async with open_services(settings, AuditLog(None), CollectorRegistry()) as services:
        repository = services.repositories["recordings"]
        stored = await repository.get(Scope(CONTACT_CENTER, REGION), "r")

        async def fail(*_: Any, **__: Any) -> None:
            raise TimeoutError

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(DocumentWriter, "put", fail)
            with pytest.raises(ElasticsearchUnavailable):
                await repository.save(
                    CONTACT_CENTER, {**stored.recording, "note": "b"}, by="killed", wait_for_refresh=True
                )
    assert await versions(ops) == []
    await protect(admin, UNAPPLY)
    assert await versions(ops) == []
    await protect(admin)
    await post(ops, note="c")
    assert [(version["recording"]["note"], version["by"]) for version in await versions(ops)] == [("a", "ops")]


async def test_versions_of_many_megabytes_are_streamed(ops: httpx.AsyncClient, admin: httpx.AsyncClient) -> None:
    await post(ops, note="0")
    await protect(admin)
    for number in range(1, 9):
        await post(ops, note=f"{number}", padding="x" * 900_000)
    found = await versions(ops)
    assert notes(found) == [f"{number}" for number in range(8)]
    assert len(found[-1]["recording"]["padding"]) == 900_000


async def test_an_update_whose_answer_was_lost_keeps_its_version(
    ops: httpx.AsyncClient, admin: httpx.AsyncClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another update comes between the lost answer and the next attempt, which then looks like a loser."""
    await post(ops, note="a")
    await protect(admin)
    put = DocumentWriter.put
    lost = False

    async def lose(self: DocumentWriter, *arguments: Any, **named: Any) -> None:
        nonlocal lost
        await put(self, *arguments, **named)
        if not lost:
            lost = True
            await post(ops, note="c")
            raise ConflictError("conflict", meta=None, body=None)  # type: ignore[arg-type]

    async with open_services(settings, AuditLog(None), CollectorRegistry()) as services:
        repository = services.repositories["recordings"]
        stored = await repository.get(Scope(CONTACT_CENTER, REGION), "r")
        monkeypatch.setattr(repository._writer, "put", lose.__get__(repository._writer))
        before, after = await repository.save(CONTACT_CENTER, {**stored.recording, "note": "b"}, by="b")
    assert before is not None
    assert (before["note"], after["note"]) == ("a", "b")
    assert notes(await versions(ops)) == ["a", "b"]


async def test_posts_are_audited_with_what_they_changed(start_service: StartService, tmp_path: Path) -> None:
    service = await start_service(audit_log=str(tmp_path / "audit.log"), **PATIENT)
    ops = service.client("ops")
    await post(ops, note="a")
    await post(ops, note="b", callerPhoneNumber="+1")
    assert (await ops.post(OPS_PATH, json={"id": "r"})).status_code == 400
    lines = [json.loads(line) for line in (tmp_path / "audit.log").read_text().splitlines()]
    created, updated, refused = lines
    assert (created["operation"], created["recordingId"], created["outcome"]) == ("create", "r", "success")
    assert (updated["operation"], updated["recordingId"], updated["outcome"]) == ("update", "r", "success")
    assert updated["changed"] == ["callerPhoneNumber", "note"]
    assert updated["digestBefore"] == created["digestAfter"] != updated["digestAfter"]
    assert (refused["operation"], refused["outcome"]) == ("ops-post", "refused")
