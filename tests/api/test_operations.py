"""Operations on many recordings (docs/contract.md sections 10 and 14)."""

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import msgspec
import pytest
from elasticsearch import AsyncElasticsearch

from app.errors import ElasticsearchUnavailable
from app.lifecycle import operations
from app.lifecycle.operations import Asked, By
from app.recordings.dates import parse_instant
from app.settings import Settings, User
from app.store.indices import alias
from app.store.journal import now_milliseconds
from app.store.operations import PART, Standing
from tests.support.audit import lines_but_posts
from tests.support.recordings import (
    CONTACT_CENTER,
    OPS_PATH,
    OTHER_CONTACT_CENTER,
    a_media_file,
    a_recording,
    store_many,
)
from tests.support.service import PATIENT, USERS, Service, assert_error, hash_password, staff_with
from tests.support.waiting import eventually

pytestmark = pytest.mark.emptied_indices

PATH = "/api/v2/recording-operations"
OPS = f"/api/v2/ops/contact-centers/{CONTACT_CENTER}"
OPS_OPERATIONS = f"{OPS}/recording-operations"
RECORDINGS = "/api/v2/recordings"
DEFINITIONS = "/api/v2/recording-label-definitions"

ALL = {"callerPhoneNumber": "*"}
APPLY, UNAPPLY = {"operationName": "applyNonDelete"}, {"operationName": "unapplyNonDelete"}

PERMISSIONS = {
    "nothing": (),
    "apply": ("RECORDING_PERMISSION_APPLY_NON_DELETE",),
    "unapply": ("RECORDING_PERMISSION_UNAPPLY_NON_DELETION",),
    "adds": ("RECORDING_PERMISSION_ADD_LABEL",),
    "deletes": ("RECORDING_PERMISSION_DELETE_LABEL",),
}
EVERYTHING = tuple(permission for some in PERMISSIONS.values() for permission in some)


def a_user(name: str, *roles: Any, **entry: Any) -> User:
    return User(name, hash_password(f"{name}-password"), roles or ("supervisor",), CONTACT_CENTER, **entry)


LIMITED = a_user("limited", permissions=EVERYTHING, access_groups=("/US",))
ALSO_LIMITED = a_user("also-limited", permissions=EVERYTHING, access_groups=("/US",))
LIMITED_ADMIN = a_user("limited-admin", "admin", access_groups=("/US",))


@pytest.fixture(scope="module")
def more_users() -> tuple[User, ...]:
    return (
        *staff_with(PERMISSIONS),
        LIMITED,
        ALSO_LIMITED,
        LIMITED_ADMIN,
        User("recorder", hash_password("recorder-password"), ("recorder",), CONTACT_CENTER),
    )


@pytest.fixture(scope="module")
async def shared_service(
    module_settings: Settings, more_users: tuple[User, ...], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Service]:
    file = tmp_path_factory.mktemp("audit") / "audit.jsonl"
    changes: dict[str, Any] = {**PATIENT, "users": USERS + more_users, "audit_log": str(file), "lease_seconds": 1.0}
    service = Service(msgspec.structs.replace(module_settings, **changes))
    await service.start()
    yield service
    await service.stop()


@pytest.fixture
def service(shared_service: Service, settings: Settings, audit_log: Path) -> Service:
    """With empty indices, as `settings` leaves them, its first users and an empty audit log."""
    assert settings.index_prefix == shared_service.settings.index_prefix
    shared_service.services.authenticator.replace_users(shared_service.settings.users)
    audit_log.write_bytes(b"")
    return shared_service


@pytest.fixture
def audit_log(shared_service: Service) -> Path:
    assert shared_service.settings.audit_log is not None
    return Path(shared_service.settings.audit_log)


async def post(client: httpx.AsyncClient, *ids: str, path: str = OPS_PATH, **attributes: Any) -> None:
    lines = "\n".join(json.dumps(a_recording(recording_id, **attributes)) for recording_id in ids)
    response = await client.post(path, content=lines, headers={"Content-Type": "application/x-ndjson"})
    assert response.json()["statusCode"] == 0, response.text


async def start(client: httpx.AsyncClient, body: dict[str, Any], path: str = PATH) -> str:
    response = await client.post(path, json=body)
    assert response.status_code == 202, response.text
    assert response.json().keys() == {"statusCode", "id", "uri"}
    return str(response.json()["id"])


async def read(client: httpx.AsyncClient, operation_id: str, path: str = PATH) -> dict[str, Any]:
    response = await client.get(f"{path}/{operation_id}")
    assert response.status_code == 200, response.text
    operation: dict[str, Any] = response.json()["operation"]
    return operation


async def until_over(client: httpx.AsyncClient, operation_id: str, path: str = PATH) -> dict[str, Any]:
    async def is_over() -> bool:
        return bool((await read(client, operation_id, path))["state"] != "running")

    await eventually(is_over, seconds=60)
    return await read(client, operation_id, path)


async def protected(client: httpx.AsyncClient) -> set[str]:
    """The ids of the protected recordings, read one by one, because a search may be a second behind."""
    found = set()
    for recording in (await client.get(RECORDINGS, params=ALL)).json()["recordings"]:
        one = (await client.get(f"{RECORDINGS}/{recording['id']}")).json()["recording"]
        found |= {recording["id"]} if one.get("nonDelete") else set()
    return found


async def searchable(service: Service) -> None:
    await service.repository.make_searchable()


def names_of(count: int) -> list[str]:
    return [f"r{number}" for number in range(count)]


# --- By ids ---


async def test_by_ids_it_is_done_before_the_answer(service: Service, audit_log: Path) -> None:
    ops, admin = service.client("ops"), service.client("admin")
    await post(ops, *names_of(5))
    body = {**APPLY, "recordings": ["r0", "r1", "r3"], "reason": "LegalHold#245"}
    response = await admin.post(f"{PATH}/", json=body)
    assert response.status_code == 200
    operation_id = response.json()["id"]
    assert response.json() == {"statusCode": 0, "id": operation_id, "succeeded": 3}
    for number in range(5):
        recording = (await admin.get(f"{RECORDINGS}/r{number}")).json()["recording"]
        assert recording.get("nonDelete", False) is (number in {0, 1, 3})
        if number == 0:
            assert (recording["nonDeletion"]["by"], recording["nonDeletion"]["reason"]) == ("admin", "LegalHold#245")
    lines = lines_but_posts(audit_log)
    assert sorted((line["operation"], line["recordingId"]) for line in lines) == [
        ("apply", "r0"),
        ("apply", "r1"),
        ("apply", "r3"),
        ("start-operation", ""),
    ]
    assert {line["operationId"] for line in lines} == {operation_id}
    for line in lines:
        assert (line["user"], line["outcome"], line["address"]) == ("admin", "success", "127.0.0.1")
        assert line["operation"] == "start-operation" or line["reason"] == "LegalHold#245"
    unapplied = await admin.post(PATH, json={"operationName": "unapplyNonDeletion", "recordings": ["r0", "r4"]})
    assert unapplied.json()["succeeded"] == 2
    await searchable(service)
    assert await protected(admin) == {"r1", "r3"}


async def test_what_fails_is_named_and_the_rest_is_done(service: Service) -> None:
    ops, admin = service.client("ops"), service.client("admin")
    await post(ops, "r0")
    await post(ops, "foreign", path=OPS_PATH.replace(CONTACT_CENTER, OTHER_CONTACT_CENTER))
    await post(ops, "far", region="elsewhere")
    ids = ["foreign", "r0", "far", "none", " odd/ id", "x" * 500]
    answer = (await admin.post(PATH, json={**APPLY, "recordings": ids})).json()
    assert (answer["statusCode"], answer["succeeded"]) == (7, 1)
    assert sorted(answer["failed"], key=lambda failed: ids.index(failed["id"])) == [
        {"id": each, "statusCode": 6, "statusMessage": f"Requested recording [{each}] cannot be found."}
        for each in ids
        if each != "r0"
    ]
    listed = await read(admin, answer["id"])
    long, *whole = sorted(answer["failed"], key=lambda failed: -len(failed["id"]))
    assert [failed for failed in listed["failures"] if failed in whole] == [
        failed for failed in answer["failed"] if failed != long
    ]
    assert (listed["state"], listed["matched"], listed["succeeded"], listed["failed"]) == ("done", 6, 1, 5)
    assert "criteria" not in listed


async def test_an_id_that_is_there_twice_counts_once(service: Service, audit_log: Path) -> None:
    await post(service.client("ops"), "r0")
    answer = await service.client("admin").post(PATH, json={**APPLY, "recordings": ["r0", "r0", "r0"]})
    assert answer.json()["succeeded"] == 1
    assert [line["recordingId"] for line in lines_but_posts(audit_log)] == ["r0", ""]


async def test_an_operation_takes_a_thousand_ids_and_no_more(service: Service) -> None:
    ops, admin = service.client("ops"), service.client("admin")
    await post(ops, *names_of(3))
    body = {**APPLY, "recordings": [f"r{number}" for number in range(1_000)]}
    answer = (await admin.post(PATH, json=body)).json()
    assert (answer["succeeded"], len(answer["failed"])) == (3, 997)
    assert len((await read(admin, answer["id"]))["failures"]) == 100
    assert_error(
        await admin.post(PATH, json={**APPLY, "recordings": [f"r{number}" for number in range(1_001)]}),
        400,
        2,
        "Parameter 'recordings' is invalid: it must be a list of 1 to 1000 ids",
    )


# --- By criteria ---


async def test_by_criteria_it_goes_on_by_itself(service: Service, audit_log: Path) -> None:
    ops, admin = service.client("ops"), service.client("admin")
    await post(ops, *names_of(25))
    await post(ops, "other", callerPhoneNumber="+49")
    criteria = {"callerPhoneNumber": "+1650*", "nonDelete": False, "minDuration": 1.5}
    response = await admin.post(PATH, json={**APPLY, "criteria": criteria, "reason": "case 7"})
    operation_id = response.json()["id"]
    assert response.status_code == 202
    assert response.json() == {
        "statusCode": 0,
        "id": operation_id,
        "uri": f"{service.url}{PATH}/{operation_id}",
    }
    done = await until_over(admin, operation_id)
    created, finished = done.pop("createdAt"), done.pop("finishedAt")
    assert created <= finished
    assert done == {
        "id": operation_id,
        "operationName": "applyNonDelete",
        "criteria": {"callerPhoneNumber": "+1650*", "nonDelete": "false", "minDuration": "1.5"},
        "reason": "case 7",
        "state": "done",
        "matched": 25,
        "succeeded": 25,
        "failed": 0,
        "failures": [],
        "by": "admin",
    }
    await searchable(service)
    assert await protected(admin) == set(names_of(25))
    lines = lines_but_posts(audit_log)
    assert {line["operationId"] for line in lines} == {operation_id}
    assert sorted(line["recordingId"] for line in lines if line["operation"] == "apply") == sorted(names_of(25))
    assert [line["operationName"] for line in lines if line["operation"] == "start-operation"] == ["applyNonDelete"]


async def test_nothing_that_matches_is_done_at_once(service: Service) -> None:
    admin = service.client("admin")
    operation = await read(admin, await start(admin, {**APPLY, "criteria": {"userName": "nobody"}}))
    assert (operation["state"], operation["matched"]) == ("done", 0)


async def test_labels_are_given_and_taken(service: Service, audit_log: Path) -> None:
    ops, admin = service.client("ops"), service.client("admin")
    await post(ops, *names_of(3))
    await admin.post(DEFINITIONS, json={"name": "Court", "displayName": "Court order"})
    body = {"operationName": "addLabel", "label": "court", "comment": "case 7", "criteria": ALL}
    given = await until_over(admin, await start(admin, body))
    assert (given["succeeded"], given["label"], given["comment"]) == (3, "court", "case 7")
    for recording_id in names_of(3):
        (label,) = (await admin.get(f"{RECORDINGS}/{recording_id}/labels")).json()["labels"]
        assert (label["name"], label["by"], label["comment"]) == ("Court", "admin", "case 7")
    assert {line.get("label") for line in lines_but_posts(audit_log) if line["operation"] == "add-label"} == {"court"}
    some = {"operationName": "removeLabel", "label": "COURT", "recordings": ["r0"]}
    assert (await admin.post(PATH, json=some)).json()["succeeded"] == 1
    absent = {**some, "recordings": names_of(2)}  # of r0 it is gone already
    assert (await admin.post(PATH, json=absent)).json()["succeeded"] == 2
    await admin.delete(f"{DEFINITIONS}/court", params={"force": "*"})
    for name in ("addLabel", "removeLabel"):
        unknown = {"operationName": name, "label": "unknown", "recordings": ["r0"]}
        assert_error(await admin.post(PATH, json=unknown), 404, 6, "Requested label definition [unknown]")
    without_definition = {"operationName": "removeLabel", "label": "court", "criteria": {"label": "court"}}
    await searchable(service)
    assert (await until_over(admin, await start(admin, without_definition)))["succeeded"] == 1
    for recording_id in names_of(3):
        assert (await admin.get(f"{RECORDINGS}/{recording_id}/labels")).json()["labels"] == []


async def test_ops_deletes_what_is_not_protected(service: Service, audit_log: Path) -> None:
    ops, admin = service.client("ops"), service.client("admin")
    await post(ops, *names_of(4))
    await admin.post(f"{RECORDINGS}/r2", json=APPLY)
    body: dict[str, Any] = {"operationName": "delete", "recordings": ["r0", "r2", "none"]}
    answer = (await ops.post(OPS_OPERATIONS, json=body)).json()
    assert answer["succeeded"] == 1
    assert {failed["id"]: failed["statusCode"] for failed in answer["failed"]} == {"r2": 3, "none": 6}
    body = {"operationName": "delete", "subresources": "*", "criteria": ALL}
    await searchable(service)
    operation_id = await start(ops, body, OPS_OPERATIONS)
    over = await until_over(ops, operation_id, OPS_OPERATIONS)
    # Their media object is still needed by the one that is protected.
    assert (over["matched"], over["succeeded"], over["failed"], over["subresources"]) == (3, 2, 1, "*")
    assert over["failures"] == [
        {"id": "r2", "statusCode": 3, "statusMessage": "Requested recording [r2] is protected from deletion."}
    ]
    await searchable(service)
    assert [one["id"] for one in (await admin.get(RECORDINGS, params=ALL)).json()["recordings"]] == ["r2"]
    outcomes = {
        (line["recordingId"], line["outcome"], line["withMedia"])
        for line in lines_but_posts(audit_log)
        if line["operation"] == "delete" and line["operationId"] == operation_id
    }
    assert outcomes == {("r1", "success", True), ("r2", "refused", True), ("r3", "success", True)}


async def test_ops_protects_and_labels_in_the_contact_center_of_the_path(service: Service) -> None:
    ops, admin = service.client("ops"), service.client("admin")
    await post(ops, "r0")
    await post(ops, "r0", path=OPS_PATH.replace(CONTACT_CENTER, OTHER_CONTACT_CENTER))
    await admin.post(DEFINITIONS, json={"name": "court"})
    assert (await until_over(ops, await start(ops, {**APPLY, "criteria": ALL}, OPS_OPERATIONS), OPS_OPERATIONS))[
        "succeeded"
    ] == 1
    label = {"operationName": "addLabel", "label": "court", "recordings": ["r0"]}
    assert (await ops.post(OPS_OPERATIONS, json=label)).json()["succeeded"] == 1
    recording = (await admin.get(f"{RECORDINGS}/r0")).json()["recording"]
    assert (recording["nonDeletion"]["by"], recording["labels"][0]["by"]) == ("ops", "ops")
    other = (await service.client("other-admin").get(f"{RECORDINGS}/r0")).json()["recording"]
    assert "nonDelete" not in other


# --- What is refused ---

IDS = {"recordings": ["r0"]}
INVALID: Sequence[tuple[dict[str, Any], int, str]] = (
    ({}, 1, "Parameter 'operationName' is missing"),
    ({**IDS}, 1, "Parameter 'operationName' is missing"),
    ({"operationName": "destroy", **IDS}, 2, "Parameter 'operationName' is invalid: The specified value is not within"),
    ({"operationName": ["applyNonDelete"], **IDS}, 2, "Parameter 'operationName' is invalid"),
    ({"operationName": "delete", **IDS}, 2, "Parameter 'operationName' is invalid: The specified value is not within"),
    ({**APPLY}, 2, "Parameter 'recordings' is invalid: either recordings or criteria"),
    ({**APPLY, **IDS, "criteria": ALL}, 2, "Parameter 'recordings' is invalid: either recordings or criteria"),
    ({**APPLY, "recordings": []}, 2, "Parameter 'recordings' is invalid: it must be a list of 1 to 1000 ids"),
    ({**APPLY, "recordings": "r0"}, 2, "Parameter 'recordings' is invalid: it must be a list of 1 to 1000 ids"),
    ({**APPLY, "recordings": None}, 2, "Parameter 'recordings' is invalid: it must be a list of 1 to 1000 ids"),
    ({**APPLY, "recordings": ["r0", 7]}, 2, "Parameter 'recordings[1]' is invalid: it must be a string"),
    ({**APPLY, **IDS, "recording": "r0"}, 2, "Parameter 'recording' is invalid: applyNonDelete does not know it"),
    ({**APPLY, **IDS, "subresources": "*"}, 2, "Parameter 'subresources' is invalid: applyNonDelete does not know it"),
    ({**APPLY, **IDS, "label": "a"}, 2, "it knows operationName, recordings, criteria and reason"),
    ({**UNAPPLY, **IDS, "comment": "a"}, 2, "Parameter 'comment' is invalid: unapplyNonDelete does not know it"),
    ({"operationName": "addLabel", "label": "a", "reason": "a", **IDS}, 2, "Parameter 'reason' is invalid: addLabel"),
    ({"operationName": "removeLabel", "label": "a", "comment": "a", **IDS}, 2, "Parameter 'comment' is invalid"),
    ({**APPLY, **IDS, "reason": "x" * 501}, 2, "Parameter 'reason' is invalid: it must be a string of up to 500"),
    ({**APPLY, **IDS, "reason": 7}, 2, "Parameter 'reason' is invalid"),
    ({"operationName": "addLabel", **IDS}, 1, "Parameter 'label' is missing"),
    ({"operationName": "removeLabel", **IDS}, 1, "Parameter 'label' is missing"),
    ({"operationName": "addLabel", "label": "a b", **IDS}, 2, "Parameter 'label' is invalid: it must have 1 to 64"),
    ({"operationName": "addLabel", "label": "a", "comment": 7, **IDS}, 2, "Parameter 'comment' is invalid"),
    ({**APPLY, "criteria": {}}, 1, "Parameter 'callerPhoneNumber' is missing: a search needs at least one of"),
    ({**APPLY, "criteria": []}, 2, "Parameter 'criteria' is invalid: it must be a JSON object"),
    ({**APPLY, "criteria": None}, 2, "Parameter 'criteria' is invalid: it must be a JSON object"),
    ({**APPLY, "criteria": {"userNames": "x"}}, 2, "Parameter 'userNames' is invalid: it is not known; known are"),
    ({**APPLY, "criteria": {**ALL, "limit": "5"}}, 2, "Parameter 'limit' is invalid: it is not known; known are"),
    ({**APPLY, "criteria": {**ALL, "cursor": "x"}}, 2, "Parameter 'cursor' is invalid: it is not known"),
    ({**APPLY, "criteria": {"userName": ""}}, 2, "Parameter 'userName' is invalid: it is empty"),
    ({**APPLY, "criteria": {"userName": ["a", "b"]}}, 2, "Parameter 'userName' is invalid: it must be a string, a"),
    ({**APPLY, "criteria": {"userName": None}}, 2, "Parameter 'userName' is invalid: it must be a string, a number"),
    ({**APPLY, "criteria": {"startTime": "soon"}}, 2, "Parameter 'startTime' is invalid:"),
    ({**APPLY, "criteria": {"nonDelete": "yes"}}, 2, "Parameter 'nonDelete' is invalid: it must be true or false"),
    ({**APPLY, "criteria": {"userName": "AND"}}, 2, "Parameter 'userName' is invalid: AND must stand between"),
    ({**APPLY, "criteria": {"userName": "*a* *b* *c*"}}, 2, "Parameter 'userName' is invalid: at most 2 words"),
)


async def test_what_cannot_be_meant_is_refused(service: Service) -> None:
    admin = service.client("admin")
    for body, code, message in INVALID:
        assert_error(await admin.post(PATH, json=body), 400, code, message)
    assert_error(await admin.post(PATH, content="["), 400, 2, "Parameter 'body' is invalid")
    ops = service.client("ops")
    body = {"operationName": "delete", **IDS, "subresources": "all"}
    assert_error(await ops.post(OPS_OPERATIONS, json=body), 400, 2, "Parameter 'subresources' is invalid: it must be *")
    for attribute in ("label", "reason", "comment"):
        body = {"operationName": "delete", "criteria": ALL, attribute: "test-calls"}
        assert_error(await ops.post(OPS_OPERATIONS, json=body), 400, 2, f"Parameter '{attribute}' is invalid: delete")
    assert (await admin.get(PATH)).json()["operations"] == []


ATTRIBUTES = ("operationName", "recordings", "criteria", "label", "comment", "reason", "subresources")
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1.5, 2**70, "", "\0", "x" * 9_000),
    *([], ["*"], [[]], [None], {}, {"a": {}}, {"label": []}),
)


async def test_no_attribute_of_another_type_is_more_than_refused(service: Service) -> None:
    ops = service.client("ops")
    for name in (*NAMES, "delete"):
        for attribute, value in itertools.product(ATTRIBUTES, ODD):
            own = {"label": "court"} if "Label" in name else {}
            body = {"operationName": name, **own, **({} if attribute == "criteria" else IDS), attribute: value}
            response = await ops.post(OPS_OPERATIONS, json=body)
            assert response.status_code in {200, 400, 404}, (body, response.text)


async def test_errors_of_criteria_are_those_of_a_search(service: Service) -> None:
    admin = service.client("admin")
    for criteria in ({"startTime": "17"}, {"minDuration": "-1"}, {"phoneNumber": "\u200b"}, {"callUUID": "x" * 5_001}):
        searched = await admin.get(RECORDINGS, params=criteria)
        asked = await admin.post(PATH, json={**APPLY, "criteria": criteria})
        assert (asked.status_code, asked.json()) == (searched.status_code, searched.json())


NAMES = ("applyNonDelete", "unapplyNonDelete", "addLabel", "removeLabel")
ALLOWED = dict(zip(NAMES, ("apply", "unapply", "adds", "deletes"), strict=True))


async def test_permissions_are_those_of_the_single_operation(service: Service) -> None:
    await post(service.client("ops"), "r0")
    await service.client("admin").post(DEFINITIONS, json={"name": "a"})
    for role in ("admin", "supervisor", "agent"):
        for permission in PERMISSIONS:
            client = service.client(f"{role}-{permission}")
            for name in NAMES:
                label = {"label": "a"} if "Label" in name else {}
                response = await client.post(PATH, json={"operationName": name, **label, **IDS})
                if role == "admin" or ALLOWED[name] == permission:
                    assert response.status_code == 200, response.text
                else:
                    assert_error(response, 403, 3, "Insufficient recording permissions.")
    for user in ("ops", "recorder"):
        assert_error(await service.client(user).post(PATH, json={**APPLY, **IDS}), 403, 5)
        assert_error(await service.client(user).get(PATH), 403, 5)
    for user in ("admin", "recorder", "limited"):
        assert_error(await service.client(user).post(OPS_OPERATIONS, json={**APPLY, **IDS}), 403, 5)
        assert_error(await service.client(user).get(OPS_OPERATIONS), 403, 5)


async def test_criteria_need_the_right_to_search(service: Service) -> None:
    await post(service.client("ops"), "r0")
    body = {**APPLY, "criteria": ALL}
    assert_error(await service.client("supervisor-apply").post(PATH, json=body), 403, 5)
    assert (await service.client("limited").post(PATH, json=body)).status_code == 202


async def test_a_limited_user_works_on_what_she_sees(service: Service) -> None:
    ops, limited = service.client("ops"), service.client("limited")
    await post(ops, "seen", mediaFiles=[a_media_file(accessgroups=["US/CA"])])
    await post(ops, "hidden", mediaFiles=[a_media_file(accessgroups=["EU"])])
    answer = (await limited.post(PATH, json={**APPLY, "recordings": ["seen", "hidden", "none"]})).json()
    assert answer["succeeded"] == 1
    assert sorted((each["id"], each["statusCode"], each["statusMessage"]) for each in answer["failed"]) == [
        ("hidden", 6, "Requested recording [hidden] cannot be found."),
        ("none", 6, "Requested recording [none] cannot be found."),
    ]
    over = await until_over(limited, await start(limited, {**UNAPPLY, "criteria": ALL}))
    assert (over["matched"], over["succeeded"], over["failures"]) == (1, 1, [])


async def test_a_limited_user_does_not_learn_of_labels_of_what_she_does_not_see(service: Service) -> None:
    ops, admin, limited = (service.client(user) for user in ("ops", "admin", "limited"))
    await post(ops, "seen", mediaFiles=[a_media_file(accessgroups=["US/CA"])])
    await post(ops, "hidden", mediaFiles=[a_media_file(accessgroups=["EU"])])
    await admin.post(DEFINITIONS, json={"name": "secret"})
    await admin.post(f"{RECORDINGS}/hidden/labels", json={"name": "secret"})
    await admin.delete(f"{DEFINITIONS}/secret", params={"force": "*"})
    for label in ("secret", "unknown"):
        body = {"operationName": "removeLabel", "label": label, "recordings": ["seen"]}
        assert_error(await limited.post(PATH, json=body), 404, 6, f"Requested label definition [{label}]")
    body = {"operationName": "removeLabel", "label": "secret", "recordings": ["hidden"]}
    assert (await admin.post(PATH, json=body)).json()["succeeded"] == 1


async def test_an_operation_exists_for_its_user_and_for_who_sees_everything(service: Service) -> None:
    ops, admin, limited = (service.client(user) for user in ("ops", "admin", "limited"))
    await post(ops, "seen", mediaFiles=[a_media_file(accessgroups=["US"])])
    of_limited = await start(limited, {**APPLY, "criteria": ALL})
    of_admin = await start(admin, {**APPLY, "criteria": ALL})
    of_ops = await start(ops, {**APPLY, "criteria": ALL}, OPS_OPERATIONS)
    for operation_id in (of_limited, of_admin, of_ops):
        await until_over(ops, operation_id, OPS_OPERATIONS)
    mine, everyone = [of_limited], [of_ops, of_admin, of_limited]
    seen: dict[str, list[str]] = {
        "limited": mine,
        "also-limited": [],
        "limited-admin": [],
        "supervisor": [],
        "other-admin": [],
    }
    seen["admin"] = everyone
    for user, ids in seen.items():
        client = service.client(user)
        listed = (await client.get(PATH)).json()
        assert [each["id"] for each in listed["operations"]] == ids, user
        for operation_id in everyone:
            path = f"{PATH}/{operation_id}"
            for response in (await client.get(path), await client.delete(path)):
                if operation_id in ids:
                    assert response.status_code == 200
                else:
                    assert_error(response, 404, 6, f"Requested operation [{operation_id}] cannot be found.")
    assert [each["id"] for each in (await ops.get(OPS_OPERATIONS)).json()["operations"]] == everyone
    elsewhere = OPS_OPERATIONS.replace(CONTACT_CENTER, OTHER_CONTACT_CENTER)
    assert (await ops.get(elsewhere)).json()["operations"] == []
    for unknown in (f"{elsewhere}/{of_admin}", f"{OPS_OPERATIONS}/none", f"{OPS_OPERATIONS}/{of_admin}.0"):
        assert_error(await ops.get(unknown), 404, 6)
        assert_error(await ops.delete(unknown), 404, 6)


@pytest.mark.parametrize("operation_id", ["none", "x" * 9_000, "é" * 3_000, "..", "0" * 33])
async def test_what_cannot_be_an_id_is_not_found(service: Service, operation_id: str) -> None:
    for user, path in (("admin", PATH), ("ops", OPS_OPERATIONS)):
        for method in ("GET", "DELETE"):
            response = await service.client(user).request(method, f"{path}/{quote(operation_id, safe='')}")
            assert_error(response, 404, 6)


async def test_what_is_no_id_of_a_recording_is_listed_shortened(service: Service) -> None:
    """The list is for everybody, and one user could fill it."""
    admin = service.client("admin")
    long = "é" * 100_000
    answer = (await admin.post(PATH, json={**APPLY, "recordings": [long, "none"]})).json()
    assert [failed["id"] for failed in answer["failed"]] == [long, "none"]
    (operation,) = (await admin.get(PATH)).json()["operations"]
    shortened, whole = operation["failures"]
    assert shortened["id"] == "é" * 200 + "…"
    assert shortened["statusMessage"] == f"Requested recording [{shortened['id']}] cannot be found."
    assert whole["id"] == "none"


async def test_operations_are_listed_in_pages(service: Service) -> None:
    admin = service.client("admin")
    ids = [(await admin.post(PATH, json={**APPLY, "recordings": ["none"]})).json()["id"] for _ in range(5)]
    page = (await admin.get(PATH, params={"limit": 2, "total": "*"})).json()
    assert (page["total"], page["totalIsExact"]) == (5, True)
    listed = []
    while True:
        listed += [each["id"] for each in page["operations"]]
        if "nextUri" not in page:
            break
        page = (await admin.get(page["nextUri"])).json()
    assert listed == ids[::-1]
    back = [[each["id"] for each in page["operations"]]]
    while "prevUri" in page:
        page = (await admin.get(page["prevUri"])).json()
        back.insert(0, [each["id"] for each in page["operations"]])
    assert [each for some in back for each in some] == ids[::-1]
    for parameters, expected in (({"order": "oldest"}, ids), ({"offset": 2}, ids[2::-1])):
        found = (await admin.get(PATH, params=parameters)).json()["operations"]
        assert [each["id"] for each in found] == expected
    assert_error(await admin.get(PATH, params={"state": "done"}), 400, 2, "Parameter 'state' is invalid")


async def test_operations_are_listed_for_thirty_days_and_then_removed(
    service: Service, elasticsearch: AsyncElasticsearch, settings: Settings
) -> None:
    admin = service.client("admin")
    kept, old = [(await admin.post(PATH, json={**APPLY, "recordings": ["none"]})).json()["id"] for _ in range(2)]
    index = alias(settings, "operations")
    source = (await elasticsearch.get(index=index, id=old))["_source"]
    source["createdAt"] -= 30 * 86_400_000
    await elasticsearch.index(index=index, id=old, document=source)
    part = {"operation": "abandoned", "createdAt": source["createdAt"], "ids": [], "versions": []}
    many = [line for number in range(1_100) for line in ({"index": {"_id": f"abandoned.{number}"}}, part)]
    await elasticsearch.bulk(index=index, operations=many)
    assert [each["id"] for each in (await admin.get(PATH)).json()["operations"]] == [kept]
    assert_error(await admin.get(f"{PATH}/{old}"), 404, 6)
    service.services.operations._forgotten_at = None  # the process itself may have done it within the hour
    await service.services.operations.forget()
    await elasticsearch.indices.refresh(index=index)
    hits = (await elasticsearch.search(index=index, size=10))["hits"]["hits"]
    assert [hit["_id"] for hit in hits] == [kept]


# --- While it runs ---


class Gate:
    """Lets an operation go on to a number of recordings, and not further until it is opened."""

    def __init__(self, service: Service, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
        self.passed = 0
        self._most = most
        self._open = asyncio.Event()
        self._change = service.services.protection.change
        monkeypatch.setattr(service.services.protection, "change", self._pass)

    async def _pass(self, *arguments: Any, **named: Any) -> None:
        if self.passed >= self._most:
            await self._open.wait()
        self.passed += 1
        await self._change(*arguments, **named)

    async def reached(self) -> None:
        await eventually(lambda: self.passed >= self._most)

    def open(self) -> None:
        self._open.set()


async def test_a_cancelled_operation_does_nothing_more(
    service: Service, monkeypatch: pytest.MonkeyPatch, audit_log: Path
) -> None:
    ops, admin = service.client("ops"), service.client("admin")
    await post(ops, *names_of(30))
    gate = Gate(service, monkeypatch, 11)
    operation_id = await start(admin, {**APPLY, "criteria": ALL})
    await gate.reached()
    assert (await read(admin, operation_id))["state"] == "running"
    cancelling = asyncio.create_task(admin.delete(f"{PATH}/{operation_id}"))
    marked = f"{operation_id}.cancelled"
    index = alias(service.settings, "operations")
    await eventually(lambda: _exists(service, index, marked))
    gate.open()
    assert (await cancelling).json() == {"statusCode": 0}
    over = await read(admin, operation_id)
    assert over["state"] == "cancelled"
    assert over["matched"] == 30
    assert 11 <= over["succeeded"] <= 13  # two are worked on at once
    await searchable(service)
    assert len(await protected(admin)) == over["succeeded"] == gate.passed
    lines = lines_but_posts(audit_log)
    assert len([line for line in lines if line["operation"] == "apply"]) == over["succeeded"]
    assert [line["operationId"] for line in lines if line["operation"] == "cancel-operation"] == [operation_id]
    assert (await admin.delete(f"{PATH}/{operation_id}")).status_code == 200
    assert await read(admin, operation_id) == over


async def test_a_cancellation_answers_in_time_and_no_recording_is_begun_after_it(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a recording in flight waits for Elasticsearch."""
    monkeypatch.setattr(operations, "_CANCEL_SECONDS", 0.3)
    ops, admin = service.client("ops"), service.client("admin")
    await post(ops, *names_of(9))
    gate = Gate(service, monkeypatch, 3)
    operation_id = await start(admin, {**APPLY, "criteria": ALL})
    await gate.reached()
    assert (await admin.delete(f"{PATH}/{operation_id}")).json() == {"statusCode": 0}
    running = await read(admin, operation_id)
    assert running["state"] == "running"
    assert "finishedAt" not in running
    gate.open()
    over = await until_over(admin, operation_id)
    assert over["state"] == "cancelled"
    assert parse_instant(over["createdAt"]) <= parse_instant(over["finishedAt"]) <= now_milliseconds()
    assert 3 <= over["succeeded"] == gate.passed <= 5  # two are worked on at once


async def _exists(service: Service, index: str, document_id: str) -> bool:
    return bool(await service.services.client.exists(index=index, id=document_id))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, "The user limited does not exist any more."),
        ({"permissions": ()}, "The user limited may not do it any more: Insufficient recording permissions."),
        ({"access_groups": ()}, "The user limited may not do it any more: Insufficient user roles."),
        ({"contact_center": OTHER_CONTACT_CENTER}, "The user limited belongs to another contact center now."),
    ],
    ids=["removed", "permission", "access", "contact-center"],
)
async def test_an_operation_fails_when_its_user_may_not_do_it_any_more(
    service: Service, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any] | None, message: str
) -> None:
    ops, limited = service.client("ops"), service.client("limited")
    await post(ops, *names_of(9), mediaFiles=[a_media_file(accessgroups=["US"])])
    gate = Gate(service, monkeypatch, 3)
    operation_id = await start(limited, {**APPLY, "criteria": ALL})
    await gate.reached()
    changed = [] if change is None else [msgspec.structs.replace(LIMITED, **change)]
    service.services.authenticator.replace_users((*USERS, *changed))
    gate.open()
    over = await until_over(service.client("admin"), operation_id)
    assert (over["state"], over["statusMessage"], over["matched"]) == ("failed", message, 9)
    assert 3 <= over["succeeded"] <= 5


async def test_what_a_user_does_not_see_any_more_is_not_found(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    ops, limited = service.client("ops"), service.client("limited")
    await post(ops, *names_of(9), mediaFiles=[a_media_file(accessgroups=["US"])])
    gate = Gate(service, monkeypatch, 3)
    operation_id = await start(limited, {**APPLY, "criteria": ALL})
    await gate.reached()
    service.services.authenticator.replace_users((*USERS, msgspec.structs.replace(LIMITED, access_groups=("EU",))))
    gate.open()
    over = await until_over(service.client("admin"), operation_id)
    assert (over["state"], over["succeeded"] + over["failed"]) == ("done", 9)
    assert over["failed"] >= 4
    assert {failure["statusCode"] for failure in over["failures"]} == {6}


async def test_it_works_on_what_matched_when_it_came(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    ops, admin = service.client("ops"), service.client("admin")
    await post(ops, *names_of(6))
    gate = Gate(service, monkeypatch, 1)
    operation_id = await start(admin, {**APPLY, "criteria": {"callerPhoneNumber": "+1650*"}})
    await post(ops, "later")
    await post(ops, "r4", callerPhoneNumber="+49", note="it does not match any more")
    await ops.delete(f"{OPS_PATH}/r5")
    gate.open()
    over = await until_over(admin, operation_id)
    assert (over["matched"], over["succeeded"], over["failed"]) == (6, 5, 1)
    await searchable(service)
    assert await protected(admin) == set(names_of(5))


class ListGate:
    """Lets a job begin with its list beyond what was stored before the 202 only when it is opened."""

    def __init__(self, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_reached = False
        self._open = asyncio.Event()
        self._matching = service.repository.matching
        monkeypatch.setattr(service.repository, "matching", self._pass)

    async def _pass(self, *arguments: Any, after: Sequence[Any] = (), **named: Any) -> Any:
        if after:
            self.is_reached = True
            await self._open.wait()
        return await self._matching(*arguments, after=after, **named)

    def open(self) -> None:
        self._open.set()


async def test_the_202_does_not_wait_for_a_long_list(
    service: Service, elasticsearch: AsyncElasticsearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What matched when it came is in the list all the same, and nothing else."""
    ops, admin = service.client("ops"), service.client("admin")
    await store_many(elasticsearch, service.settings, map(a_recording, names_of(PART + 5)))
    await searchable(service)
    gate = ListGate(service, monkeypatch)
    passed = Gate(service, monkeypatch, 0)
    operation_id = await start(admin, {**APPLY, "criteria": ALL})
    await eventually(lambda: gate.is_reached)
    running = await read(admin, operation_id)
    assert (running["state"], running["matched"], running["succeeded"]) == ("running", PART + 5, 0)
    await post(ops, "later")
    await searchable(service)
    gate.open()
    document = await eventually_listed(service, operation_id)
    assert (document["listed"], document["matched"]) == (PART + 5, PART + 5)
    parts = [await service.services.operations._store.part(operation_id, number) for number in range(2)]
    assert sorted(each for part in parts for each in part.ids) == sorted(names_of(PART + 5))
    assert passed.passed == 0
    cancelling = asyncio.create_task(admin.delete(f"{PATH}/{operation_id}"))
    passed.open()
    await cancelling


async def eventually_listed(service: Service, operation_id: str) -> dict[str, Any]:
    index = alias(service.settings, "operations")
    document: dict[str, Any] = {}

    async def is_listed() -> bool:
        nonlocal document
        document = (await service.services.client.get(index=index, id=operation_id))["_source"]
        return not document["view"]

    await eventually(is_listed)
    return document


async def test_a_list_is_cancelled_too(
    service: Service, elasticsearch: AsyncElasticsearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = service.client("admin")
    await store_many(elasticsearch, service.settings, map(a_recording, names_of(2 * PART + 5)))
    await searchable(service)
    gate = ListGate(service, monkeypatch)
    operation_id = await start(admin, {**APPLY, "criteria": ALL})
    await eventually(lambda: gate.is_reached)
    cancelling = asyncio.create_task(admin.delete(f"{PATH}/{operation_id}"))
    index = alias(service.settings, "operations")
    await eventually(lambda: _exists(service, index, f"{operation_id}.cancelled"))
    gate.open()
    assert (await cancelling).json() == {"statusCode": 0}
    over = await read(admin, operation_id)
    assert (over["state"], over["succeeded"], over["failed"]) == ("cancelled", 0, 0)


async def test_an_operation_whose_list_is_lost_fails_and_does_nothing(
    service: Service, elasticsearch: AsyncElasticsearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the node of Elasticsearch that kept it has died."""
    admin = service.client("admin")
    await store_many(elasticsearch, service.settings, map(a_recording, names_of(PART + 5)))
    await searchable(service)
    gate = ListGate(service, monkeypatch)
    operation_id = await start(admin, {**APPLY, "criteria": ALL})
    await eventually(lambda: gate.is_reached)
    operation = await service.services.operations._store.read(operation_id)
    assert operation is not None
    await service.repository.close_view(operation.view)
    gate.open()
    over = await until_over(admin, operation_id)
    assert (over["state"], over["succeeded"], over["failed"]) == ("failed", 0, 0)
    assert "Nothing was done" in over["statusMessage"]


async def test_another_process_completes_the_list(
    new_settings: Settings, elasticsearch: AsyncElasticsearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, other = (Service(msgspec.structs.replace(new_settings, **PATIENT, lease_seconds=1.0)) for _ in range(2))
    await service.start()
    await store_many(elasticsearch, new_settings, map(a_recording, names_of(PART + 5)))
    await searchable(service)
    gate = ListGate(service, monkeypatch)
    operation_id = await start(service.client("admin"), {**APPLY, "criteria": ALL})
    await eventually(lambda: gate.is_reached)
    await other.start()
    await post(other.client("ops"), "later")
    passed = Gate(other, monkeypatch, 0)
    await service.stop()
    document = await eventually_listed(other, operation_id)
    assert (document["listed"], document["matched"]) == (PART + 5, PART + 5)
    cancelling = asyncio.create_task(other.client("admin").delete(f"{PATH}/{operation_id}"))
    passed.open()
    await cancelling
    await other.stop()


async def test_a_contact_center_has_twenty_running(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    ops, admin = service.client("ops"), service.client("admin")
    await post(ops, "r0")
    gate = Gate(service, monkeypatch, 0)
    body = {**APPLY, "criteria": ALL}
    running = [await start(admin, body) for _ in range(20)]
    refused = await admin.post(PATH, json=body)
    assert_error(refused, 429, 4, "The operations by criteria that the contact center may have in flight are in use")
    assert refused.headers["retry-after"]
    assert (await service.client("other-admin").post(PATH, json=body)).status_code == 202
    gate.open()
    for operation_id in running:
        await until_over(admin, operation_id)
    await until_over(admin, await start(admin, body))


async def test_of_several_that_start_together_only_the_twentieth_runs(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    ops, admin = service.client("ops"), service.client("admin")
    await post(ops, "r0")
    gate = Gate(service, monkeypatch, 0)
    body = {**APPLY, "criteria": ALL}
    running = [await start(admin, body) for _ in range(19)]
    responses = await asyncio.gather(*(admin.post(PATH, json=body) for _ in range(8)))
    assert Counter(response.status_code for response in responses) == {202: 1, 429: 7}
    running += [response.json()["id"] for response in responses if response.status_code == 202]
    gate.open()
    for operation_id in running:
        await until_over(admin, operation_id)


async def test_the_rest_of_a_begun_slice_leaves_what_others_have_changed_since(
    service: Service, elasticsearch: AsyncElasticsearch, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a process died after it had done a slice, before it could say so."""
    ops, admin = service.client("ops"), service.client("admin")
    await admin.post(DEFINITIONS, json={"name": "court"})
    index = alias(settings, "operations")

    async def interrupted(body: dict[str, Any], others: Callable[[], Awaitable[None]]) -> dict[str, Any]:
        monkeypatch.setattr(service.services.operations, "_carry_on", _nothing)
        operation_id = await start(ops, {**body, "criteria": ALL}, OPS_OPERATIONS)
        document = (await elasticsearch.get(index=index, id=operation_id))["_source"]
        document |= {"begun": document["matched"], "begunAt": document["createdAt"]}
        await elasticsearch.index(index=index, id=operation_id, document=document)
        await others()
        monkeypatch.undo()
        return await until_over(ops, operation_id, OPS_OPERATIONS)

    async def protect_again() -> None:
        await ops.post(OPS_OPERATIONS, json={**UNAPPLY, "recordings": ["r0"]})
        await ops.post(OPS_OPERATIONS, json={**APPLY, "recordings": ["r0"]})

    async def label_again() -> None:
        await admin.delete(f"{RECORDINGS}/r0/labels/court")
        await admin.post(f"{RECORDINGS}/r0/labels", json={"name": "court"})

    async def post_again() -> None:
        await ops.delete(f"{OPS_PATH}/r0")
        await post(ops, "r0")
        deleted = (await ops.delete(f"{OPS_PATH}/r1", params={"subresources": "*"})).json()
        assert deleted["statusCode"] == 7
        await ops.delete(f"{OPS_PATH}/r2")

    for recording_id in names_of(3):
        await post(ops, recording_id, mediaFiles=[a_media_file(f"calls/{recording_id}.mp3")])
    await ops.post(OPS_OPERATIONS, json={**APPLY, "recordings": names_of(3)})
    lifted = await interrupted(UNAPPLY, protect_again)
    assert (lifted["succeeded"], lifted["failed"]) == (2, 1)
    assert [(failure["id"], failure["statusCode"]) for failure in lifted["failures"]] == [("r0", 19)]
    await searchable(service)
    assert await protected(admin) == {"r0"}
    await ops.post(OPS_OPERATIONS, json={**UNAPPLY, "recordings": ["r0"]})

    await ops.post(OPS_OPERATIONS, json={"operationName": "addLabel", "label": "court", "recordings": names_of(3)})
    taken = await interrupted({"operationName": "removeLabel", "label": "court"}, label_again)
    assert taken["succeeded"] == 3
    labels = [(await admin.get(f"{RECORDINGS}/{name}/labels")).json()["labels"] for name in names_of(3)]
    assert [len(each) for each in labels] == [1, 0, 0]

    # The media object of r1 stays: its storage does not answer.
    deleted = await interrupted({"operationName": "delete", "subresources": "*"}, post_again)
    assert (deleted["succeeded"], deleted["failed"]) == (1, 2)
    assert {failure["id"]: failure["statusCode"] for failure in deleted["failures"]} == {"r0": 19, "r1": 7}
    assert [(await admin.get(f"{RECORDINGS}/{name}")).status_code for name in names_of(3)] == [200, 404, 404]


async def test_elasticsearch_that_fails_before_a_recording_is_begun_makes_it_no_interrupted_one(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    ops = service.client("ops")
    await post(ops, "r0")
    store = service.services.operations._store
    standing = store.standing
    answers: list[str] = []

    async def fails_at_first(*arguments: Any) -> Standing:
        if not answers:
            await ops.delete(f"{OPS_PATH}/r0")
            answers.append("failed")
            raise ElasticsearchUnavailable
        answers.append(await standing(*arguments))
        return answers[-1]  # type: ignore[return-value]

    monkeypatch.setattr(store, "standing", fails_at_first)
    body = {"operationName": "delete", "criteria": ALL}
    over = await until_over(ops, await start(ops, body, OPS_OPERATIONS), OPS_OPERATIONS)
    assert answers == ["failed", "held"]
    assert (over["succeeded"], [failure["statusCode"] for failure in over["failures"]]) == (0, [6])


async def test_an_operation_by_ids_that_a_shutdown_cancels_has_its_lines(
    service: Service, monkeypatch: pytest.MonkeyPatch, audit_log: Path
) -> None:
    """What was in flight may have been done."""
    await post(service.client("ops"), *names_of(9))
    gate = Gate(service, monkeypatch, 3)
    (admin,) = (user for user in USERS if user.name == "admin")
    by = By(admin, CONTACT_CENTER, is_ops=False, address=None)
    running = asyncio.create_task(
        service.services.operations.apply(by, Asked("applyNonDelete"), names_of(9), "operation")
    )

    def outcomes() -> Counter[str]:
        lines = [line for line in lines_but_posts(audit_log) if line["operation"] == "apply"]
        assert {line["operationId"] for line in lines} <= {"operation"}
        return Counter(line["outcome"] for line in lines)

    await eventually(lambda: outcomes() == {"success": 3})
    assert gate.passed == 3
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert outcomes() == {"success": 3, "failed": 6}


async def test_the_line_of_an_operation_by_ids_that_fails_names_it(
    service: Service, monkeypatch: pytest.MonkeyPatch, audit_log: Path
) -> None:
    async def fails(*_: Any) -> None:
        raise ElasticsearchUnavailable

    monkeypatch.setattr(service.services.operations, "apply", fails)
    assert (await service.client("admin").post(PATH, json={**APPLY, **IDS})).status_code == 503
    (line,) = (line for line in lines_but_posts(audit_log) if line["operation"] == "start-operation")
    assert line["outcome"] == "failed"
    assert len(line["operationId"]) == 32


async def test_another_process_carries_on_when_one_is_stopped(
    new_settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without a `kill -9` no line of the audit log is repeated."""
    file = tmp_path / "audit.jsonl"
    changes: dict[str, Any] = {**PATIENT, "audit_log": str(file), "lease_seconds": 1.0}
    service, other = (Service(msgspec.structs.replace(new_settings, **changes)) for _ in range(2))
    await service.start()
    await post(service.client("ops"), *names_of(30))
    gate = Gate(service, monkeypatch, 13)
    operation_id = await start(service.client("admin"), {**APPLY, "criteria": ALL})
    await gate.reached()
    await other.start()
    await service.stop()
    over = await until_over(other.client("admin"), operation_id)
    await other.stop()
    assert (over["state"], over["succeeded"], over["failed"]) == ("done", 30, 0)
    lines = [line for line in lines_but_posts(file) if line["operation"] == "apply"]
    assert sorted(line["recordingId"] for line in lines) == sorted(names_of(30))


async def _nothing(_: str) -> None:
    pass
