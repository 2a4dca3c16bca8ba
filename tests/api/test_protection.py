"""Protection from deletion (docs/contract.md section 8 and "Recording Non-Deletion API")."""

import itertools
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from elasticsearch import AsyncElasticsearch

from app.recordings.dates import parse_instant
from app.settings import Settings, User
from app.store.documents import ProtectionChange, document_id, from_source, to_document
from app.store.indices import alias
from app.store.journal import now_milliseconds
from tests.support.audit import lines_but_posts
from tests.support.recordings import CONTACT_CENTER, OPS_PATH, OTHER_CONTACT_CENTER, REGION, a_media_file, a_recording
from tests.support.service import Service, StartService, assert_error, hash_password

SCREENS_PATH = OPS_PATH.replace("/recordings", "/screen-recordings")
APPLY, UNAPPLY = {"operationName": "applyNonDelete"}, {"operationName": "unapplyNonDelete"}

PERMISSIONS = {
    "nothing": (),
    "apply": ("RECORDING_PERMISSION_APPLY_NON_DELETE",),
    "apply-as-spelled-elsewhere": ("RECORDING_PERMISSION_APPLY_NON_DELETION",),
    "unapply": ("RECORDING_PERMISSION_UNAPPLY_NON_DELETE",),
    "unapply-as-spelled-elsewhere": ("RECORDING_PERMISSION_UNAPPLY_NON_DELETION",),
    "both": ("RECORDING_PERMISSION_APPLY_NON_DELETE", "RECORDING_PERMISSION_UNAPPLY_NON_DELETE"),
    "something-else": ("RECORDING_PERMISSION_PLAY", "recording_permission_apply_non_delete"),
}
ROLES = ("ops", "admin", "supervisor", "agent")

# Body → the operation it asks for, or the code of what is wrong with it.
BODIES: dict[str, tuple[bytes, str | int]] = {
    "apply": (b'{"operationName": "applyNonDelete"}', "apply"),
    "unapply": (b'{"operationName": "unapplyNonDelete"}', "unapply"),
    "unapply-as-spelled-elsewhere": (b'{"operationName": "unapplyNonDeletion"}', "unapply"),
    "more-attributes": (b'{"operationName": "applyNonDelete", "comment": "court"}', "apply"),
    "other-operation": (b'{"operationName": "delete"}', 2),
    "other-case": (b'{"operationName": "ApplyNonDelete"}', 2),
    "no-text": (b'{"operationName": ["applyNonDelete"]}', 2),
    "null": (b'{"operationName": null}', 2),
    "missing": (b"{}", 1),
    "empty": (b"", 1),
    "no-object": (b'["applyNonDelete"]', 2),
    "malformed": (b'{"operationName": "applyNonDelete"', 2),
}
TARGETS = ("unprotected", "protected", "other-contact-center", "other-region", "nowhere")


@pytest.fixture(scope="module")
def more_users() -> tuple[User, ...]:
    """One for each role and set of permissions."""
    return tuple(
        User(
            name=f"{role}-{name}",
            password_hash=hash_password(f"{role}-{name}-password"),
            roles=(role,),  # type: ignore[arg-type]
            contact_center=None if role == "ops" else CONTACT_CENTER,
            permissions=permissions,
        )
        for role in ROLES
        for name, permissions in PERMISSIONS.items()
    )


def expected(role: str, permissions: str, body: str, target: str) -> tuple[int, int]:
    """HTTP status and code, in the order of docs/contract.md section 8: role, (the body), permission, existence."""
    if role == "ops":
        return 403, 5
    operation = BODIES[body][1]
    if isinstance(operation, int):
        return 400, operation
    if role != "admin" and permissions not in {operation, f"{operation}-as-spelled-elsewhere", "both"}:
        return 403, 3
    if target in {"other-contact-center", "other-region", "nowhere"}:
        return 404, 6
    return 200, 0


MESSAGES = {
    (403, 5): "Insufficient user roles.",
    (403, 3): "Insufficient recording permissions.",
    (404, 6): "Requested recording [{id}] cannot be found.",
    (400, 1): "Parameter 'operationName' is missing",
}


@pytest.fixture(scope="module")
async def targets(module_service: Service) -> dict[str, str]:
    """Target → the id of its recording."""
    ops, admin = module_service.client("ops"), module_service.client("admin")
    other = OPS_PATH.replace(CONTACT_CENTER, OTHER_CONTACT_CENTER)
    for name, path, region in (
        ("unprotected", OPS_PATH, REGION),
        ("protected", OPS_PATH, REGION),
        ("other-contact-center", other, REGION),
        ("other-region", OPS_PATH, "elsewhere"),
    ):
        assert (await ops.post(path, json=a_recording(name, region=region))).status_code == 201
    assert (await admin.post("/api/v2/recordings/protected", json=APPLY)).status_code == 200
    return {name: name for name in TARGETS}


@pytest.mark.parametrize("permissions", PERMISSIONS)
@pytest.mark.parametrize("role", ROLES)
async def test_role_and_permission_decide_who_protects_which_recording(
    module_service: Service, targets: dict[str, str], role: str, permissions: str
) -> None:
    client = module_service.client(f"{role}-{permissions}")
    admin = module_service.client("admin")
    for body, target in itertools.product(BODIES, TARGETS):
        response = await client.post(
            f"/api/v2/recordings/{targets[target]}",
            content=BODIES[body][0],
            headers={"Content-Type": "application/json"},
        )
        status, code = expected(role, permissions, body, target)
        assert (response.status_code, response.json()["statusCode"]) == (status, code), (body, target)
        if (status, code) == (200, 0):
            assert response.json() == {"statusCode": 0}
        elif (status, code) in MESSAGES:
            assert response.json()["statusMessage"] == MESSAGES[status, code].format(id=target)
        if target in {"protected", "unprotected"}:
            path = f"/api/v2/recordings/{target}"
            wanted = BODIES[body][1] == "apply" if status == 200 else target == "protected"
            assert (await admin.get(path)).json()["recording"].get("nonDelete", False) == wanted
            if wanted != (target == "protected"):  # the next case begins with the target as its name says
                assert (await admin.post(path, json=UNAPPLY if wanted else APPLY)).status_code == 200


async def test_an_invalid_operation_names_the_parameter(module_service: Service) -> None:
    admin = module_service.client("admin")
    response = await admin.post("/api/v2/recordings/any", json={"operationName": "protect"})
    assert response.status_code == 400
    assert response.json() == {
        "statusCode": 2,
        "statusMessage": "Parameter 'operationName' is invalid: The specified value is not within valid range",
    }


async def test_request_without_credentials_reveals_nothing(module_service: Service) -> None:
    assert_error(await module_service.client().post("/api/v2/recordings/any", json=APPLY), 401, 20)


# --- screen recordings ---


async def post(client: httpx.AsyncClient, path: str, recording_id: str, *call_uuids: str, **attributes: Any) -> None:
    media_files = [a_media_file(f"{recording_id}-{call}", callUUID=call) for call in call_uuids]
    response = await client.post(path, json=a_recording(recording_id, mediaFiles=media_files, **attributes))
    assert response.status_code in {200, 201}, response.text


async def are_protected(ops: httpx.AsyncClient, *paths: str) -> list[bool]:
    answers = [(await ops.get(path)).json() for path in paths]
    return [answer.get("recording", answer.get("screenRecording")).get("nonDelete", False) for answer in answers]


async def test_screen_recordings_are_posted_read_and_deleted_like_recordings(
    ops: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    created = await ops.post(f"{SCREENS_PATH}/", json=a_recording("a/b"), params={"refresh": "wait_for"})
    assert created.status_code == 201
    assert created.json()["uri"].endswith(f"/{CONTACT_CENTER}/screen-recordings/a%2Fb")
    assert (await ops.post(SCREENS_PATH, json=a_recording("a/b", note="x"))).status_code == 200
    assert (await admin.get("/api/v2/recordings/a%2Fb")).status_code == 404
    read = (await admin.get("/api/v2/screen-recordings/a%2Fb")).json()
    assert read.keys() == {"statusCode", "screenRecording"}
    assert read["screenRecording"]["note"] == "x"
    (media,) = read["screenRecording"]["mediaFiles"]
    assert media["playPath"].startswith("/screen-recordings/a%2Fb/play/")
    assert "originalMediaDesc" not in media
    (media,) = (await ops.get(f"{SCREENS_PATH}/a%2Fb")).json()["screenRecording"]["mediaFiles"]
    assert media["originalMediaDesc"]["storage"] == "awsS3"
    for client, path in (
        (admin, "/api/v2/screen-recordings"),
        (admin, "/api/v2/screen-recordings/screen-recordings"),
        (ops, SCREENS_PATH),
    ):
        found = (await client.get(path, params={"startTime": "0"})).json()
        assert found.keys() == {"statusCode", "screenRecordings"}
        assert [recording["id"] for recording in found["screenRecordings"]] == ["a/b"]
    assert (await admin.get("/api/v2/recordings", params={"startTime": "0"})).json()["recordings"] == []
    assert_error(await admin.get("/api/v2/screen-recordings"), 400, 1)
    assert (await ops.delete(f"{SCREENS_PATH}/a%2Fb")).json() == {"statusCode": 0}
    assert_error(await ops.get(f"{SCREENS_PATH}/a%2Fb"), 404, 6, "Requested recording [a/b] cannot be found.")


async def test_screen_recordings_have_no_protection_operation(ops: httpx.AsyncClient, admin: httpx.AsyncClient) -> None:
    refused = await admin.post("/api/v2/screen-recordings/s", json=APPLY)
    assert_error(refused, 405, 2)
    assert "POST" not in refused.headers["allow"]
    internal = f"/internal-api/contact-centers/{CONTACT_CENTER}/screen-recordings"
    assert_error(await ops.post(internal, json=APPLY), 400, 1, "Parameter 'id' is missing")


async def test_protection_includes_associated_screen_recordings(
    ops: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    other = SCREENS_PATH.replace(CONTACT_CENTER, OTHER_CONTACT_CENTER)
    await post(ops, OPS_PATH, "r", "call-1", "call-2")
    await post(ops, SCREENS_PATH, "s1", "call-1")
    await post(ops, SCREENS_PATH, "s2", "other", "call-2")
    await post(ops, SCREENS_PATH, "unrelated", "other", "call-3")
    await post(ops, other, "s1", "call-1")
    # All of them, though none can be found by a search yet.
    assert (await admin.post("/api/v2/recordings/r", json=APPLY)).json() == {"statusCode": 0}
    group = [f"{OPS_PATH}/r", f"{SCREENS_PATH}/s1", f"{SCREENS_PATH}/s2"]
    others = [f"{SCREENS_PATH}/unrelated", f"{other}/s1"]
    assert await are_protected(ops, *group, *others) == [True, True, True, False, False]
    for path in group:
        recording_id = path.rpartition("/")[2]
        refused = await ops.delete(path, params={"subresources": "*"})
        assert_error(refused, 403, 3, f"Requested recording [{recording_id}] is protected from deletion.")
    # One that comes later is not protected by what was done before, but by doing it again.
    await post(ops, SCREENS_PATH, "s3", "call-2")
    assert await are_protected(ops, f"{SCREENS_PATH}/s3") == [False]
    assert (await admin.post("/api/v2/recordings/r", json=APPLY)).status_code == 200
    assert await are_protected(ops, *group, f"{SCREENS_PATH}/s3") == [True] * 4
    assert (await admin.post("/api/v2/recordings/r", json=UNAPPLY)).status_code == 200
    assert await are_protected(ops, *group, f"{SCREENS_PATH}/s3") == [False] * 4
    assert (await ops.delete(f"{SCREENS_PATH}/s1")).status_code == 200


async def post_with_calls(ops: httpx.AsyncClient, path: str, recording_id: str, *call_uuids: str) -> None:
    media = [a_media_file(f"{recording_id}-{i}.wav", callUUID=call) for i, call in enumerate(call_uuids)]
    assert (await ops.post(path, json=a_recording(recording_id, mediaFiles=media))).status_code in {200, 201}


async def is_screen_protected(ops: httpx.AsyncClient, recording_id: str) -> bool:
    screen = (await ops.get(f"{SCREENS_PATH}/{recording_id}")).json()["screenRecording"]
    return bool(screen.get("nonDelete", False))


async def test_lifting_one_hold_lifts_no_other(ops: httpx.AsyncClient, admin: httpx.AsyncClient) -> None:
    await post_with_calls(ops, OPS_PATH, "one", "shared")
    await post_with_calls(ops, OPS_PATH, "two", "shared")
    await post_with_calls(ops, SCREENS_PATH, "screen", "shared")
    for recording in ("one", "two"):
        assert (await admin.post(f"/api/v2/recordings/{recording}", json=APPLY)).status_code == 200
    assert (await admin.post("/api/v2/recordings/one", json=UNAPPLY)).status_code == 200
    assert await is_screen_protected(ops, "screen")
    assert_error(await ops.delete(f"{SCREENS_PATH}/screen"), 403, 3)
    assert (await admin.post("/api/v2/recordings/one", json=UNAPPLY)).status_code == 200  # again
    assert await is_screen_protected(ops, "screen")
    assert (await admin.post("/api/v2/recordings/two", json=UNAPPLY)).status_code == 200
    assert not await is_screen_protected(ops, "screen")


async def test_a_hold_is_lifted_by_its_holder_whatever_its_call_is_now(
    ops: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    await post_with_calls(ops, OPS_PATH, "r", "before")
    await post_with_calls(ops, SCREENS_PATH, "screen", "before")
    assert (await admin.post("/api/v2/recordings/r", json=APPLY)).status_code == 200
    assert await is_screen_protected(ops, "screen")
    await post_with_calls(ops, OPS_PATH, "r", "afterwards")
    assert (await admin.post("/api/v2/recordings/r", json=UNAPPLY)).status_code == 200
    assert not await is_screen_protected(ops, "screen")


async def test_a_recording_that_protects_nothing_lifts_nothing(
    ops: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    await post_with_calls(ops, OPS_PATH, "holder", "shared")
    await post_with_calls(ops, SCREENS_PATH, "screen", "shared")
    assert (await admin.post("/api/v2/recordings/holder", json=APPLY)).status_code == 200
    await post_with_calls(ops, OPS_PATH, "late", "shared")
    assert (await admin.post("/api/v2/recordings/late", json=UNAPPLY)).status_code == 200
    assert await is_screen_protected(ops, "screen")


async def test_holds_of_version_0_1_0_have_the_holders_that_they_can_have(
    ops: httpx.AsyncClient, admin: httpx.AsyncClient, settings: Settings, elasticsearch: AsyncElasticsearch
) -> None:
    for recording in ("one", "two"):
        await post_with_calls(ops, OPS_PATH, recording, "shared")
    await post_with_calls(ops, SCREENS_PATH, "screen", "shared")
    for recording in ("one", "two"):
        assert (await admin.post(f"/api/v2/recordings/{recording}", json=APPLY)).status_code == 200
    # As 0.1.0 stored it: only the order of the change, and what is pending.
    for resource, recording in (("recordings", "one"), ("recordings", "two"), ("screen-recordings", "screen")):
        index, _id = alias(settings, resource), document_id(CONTACT_CENTER, REGION, recording)
        source = (await elasticsearch.get(index=index, id=_id))["_source"]
        decided_at, change_id, *_ = json.loads(source["protection"])
        stored = ProtectionChange(decided_at, change_id)
        document = to_document(CONTACT_CENTER, from_source(source), stored)
        document["protection"] = json.dumps([decided_at, change_id, []])
        await elasticsearch.index(index=index, id=_id, document=document)
    assert (await admin.post("/api/v2/recordings/one", json=UNAPPLY)).status_code == 200
    assert await is_screen_protected(ops, "screen")
    assert (await admin.post("/api/v2/recordings/two", json=UNAPPLY)).status_code == 200
    assert not await is_screen_protected(ops, "screen")


async def test_protection_takes_along_more_screen_recordings_than_a_page_holds(
    ops: httpx.AsyncClient, admin: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.store.repository._BATCH", 3)
    await post(ops, OPS_PATH, "r", "call")
    ids = [f"s{i}" for i in range(10)]
    for recording_id in ids:
        await post(ops, SCREENS_PATH, recording_id, "call")
    assert (await admin.post("/api/v2/recordings/r", json=APPLY)).status_code == 200
    assert all(await are_protected(ops, *(f"{SCREENS_PATH}/{recording_id}" for recording_id in ids)))


async def test_protection_survives_updates_and_is_visible_to_every_role(
    ops: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    await post(ops, OPS_PATH, "r", "call")
    await post(ops, SCREENS_PATH, "s", "call")
    assert (await admin.post("/api/v2/recordings/r", json=APPLY)).status_code == 200
    for value in (False, None, "no"):
        await post(ops, OPS_PATH, "r", "call", "another", nonDelete=value)
        await post(ops, SCREENS_PATH, "s", "call", nonDelete=value)
    response = await ops.post(OPS_PATH, json=a_recording("r", note=1), params={"refresh": "wait_for"})
    assert response.status_code == 200
    read = (await admin.get("/api/v2/recordings/r")).json()["recording"]
    (found,) = (await admin.get("/api/v2/recordings", params={"startTime": "0"})).json()["recordings"]
    assert read["nonDelete"] is found["nonDelete"] is True
    assert await are_protected(ops, f"{SCREENS_PATH}/s") == [True]


async def test_unprotected_recording_has_no_protection_attribute(
    ops: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    await post(ops, OPS_PATH, "r", "call", nonDelete=True)
    assert "nonDelete" not in (await admin.get("/api/v2/recordings/r")).json()["recording"]
    assert (await ops.delete(f"{OPS_PATH}/r")).status_code == 200
    # What is created anew knows nothing of the protection before.
    await post(ops, OPS_PATH, "r", "call")
    assert (await admin.post("/api/v2/recordings/r", json=APPLY)).status_code == 200
    assert (await admin.post("/api/v2/recordings/r", json=UNAPPLY)).status_code == 200
    assert "nonDelete" not in (await admin.get("/api/v2/recordings/r")).json()["recording"]


async def test_the_audit_names_the_screen_recordings_that_were_taken_along(
    start_service: StartService, tmp_path: Any
) -> None:
    file = tmp_path / "audit.jsonl"
    service = await start_service(audit_log=str(file))
    ops, admin = service.client("ops"), service.client("admin")
    await post(ops, OPS_PATH, "r", "call")
    await post(ops, OPS_PATH, "alone", "another call")
    for screen in ("s/1", "s 2"):
        await post(ops, SCREENS_PATH, screen, "call")
    for recording, body in (("r", APPLY), ("r", APPLY), ("r", UNAPPLY), ("alone", APPLY), ("missing", APPLY)):
        await admin.post(f"/api/v2/recordings/{recording}", json=body)
    lines = lines_but_posts(file)
    assert [(line["operation"], line["recordingId"], sorted(line["screenRecordings"])) for line in lines] == [
        ("apply", "r", ["s 2", "s/1"]),
        ("apply", "r", []),
        ("unapply", "r", ["s 2", "s/1"]),
        ("apply", "alone", []),
        ("apply", "missing", []),
    ]


async def test_each_attempt_is_one_audit_line(start_service: StartService, tmp_path: Any) -> None:
    file = tmp_path / "audit.jsonl"
    service = await start_service(audit_log=str(file))
    ops, admin, agent = service.client("ops"), service.client("admin"), service.client("agent")
    await post(ops, OPS_PATH, "r", "call")
    await post(ops, SCREENS_PATH, "s", "call")
    path = "/api/v2/recordings/r"
    await admin.post(path, json=APPLY)
    await ops.delete(f"{OPS_PATH}/r")
    await agent.post(path, json=UNAPPLY)
    await ops.post(path, json=UNAPPLY)
    await admin.post(path, json={"operationName": "other"})
    await admin.post("/api/v2/recordings/other", json=APPLY)
    await admin.post(path, json={"operationName": "unapplyNonDeletion"})
    await ops.delete(f"{SCREENS_PATH}/s")
    await ops.delete(f"{OPS_PATH}/r", params={"subresources": "*"})
    lines = lines_but_posts(file)
    assert [
        (line["user"], line["operation"], line["resource"], line["recordingId"], line["outcome"], line["statusCode"])
        for line in lines
    ] == [
        ("admin", "apply", "recordings", "r", "success", 0),
        ("ops", "delete", "recordings", "r", "refused", 3),
        ("agent", "unapply", "recordings", "r", "refused", 3),
        ("ops", "protection", "recordings", "r", "refused", 5),
        ("admin", "protection", "recordings", "r", "refused", 2),
        ("admin", "apply", "recordings", "other", "refused", 6),
        ("admin", "unapply", "recordings", "r", "success", 0),
        ("ops", "delete", "screen-recordings", "s", "success", 0),
        ("ops", "delete", "recordings", "r", "success", 7),
    ]
    assert {line["contactCenter"] for line in lines if line["operation"] != "protection"} == {CONTACT_CENTER}


# --- who protected it, when and why ---


async def non_deletion(client: httpx.AsyncClient, path: str = "/api/v2/recordings/r") -> dict[str, Any] | None:
    response = await client.get(path)
    assert response.status_code == 200, response.text
    (recording,) = (value for key, value in response.json().items() if key != "statusCode")
    told: dict[str, Any] | None = recording.get("nonDeletion")
    assert (told is not None) == recording.get("nonDelete", False)
    return told


async def found_non_deletion(client: httpx.AsyncClient, path: str = "/api/v2/recordings") -> dict[str, Any]:
    """Returns what a search says of the only recording."""
    body = (await client.get(path, params={"startTime": "0"})).json()
    ((recording,),) = (value for value in body.values() if isinstance(value, list))
    assert recording["nonDelete"]
    told: dict[str, Any] = recording["nonDeletion"]
    return told


async def operate(client: httpx.AsyncClient, operation: dict[str, Any], recording: str = "r", **attributes: Any) -> int:
    return (await client.post(f"/api/v2/recordings/{recording}", json=operation | attributes)).status_code


async def test_who_protected_a_recording_when_and_why_is_read_by_every_role(
    ops: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    await post(ops, OPS_PATH, "r", "call")
    await post(ops, SCREENS_PATH, "s", "call")
    begun = now_milliseconds()
    assert await operate(admin, APPLY, reason='the "court"\n of Brno ⚖') == 200
    response = await ops.post(OPS_PATH, json=a_recording("r", note=1), params={"refresh": "wait_for"})
    assert response.status_code == 200
    assert (await ops.post(SCREENS_PATH, json=a_recording("s"), params={"refresh": "wait_for"})).status_code == 200
    told = await non_deletion(admin)
    assert told is not None
    assert told == {"by": "admin", "at": told["at"], "reason": 'the "court"\n of Brno ⚖'}
    assert begun <= parse_instant(told["at"]) <= now_milliseconds()
    assert await found_non_deletion(admin) == await found_non_deletion(ops, OPS_PATH) == told
    assert await found_non_deletion(ops, SCREENS_PATH) == told
    assert await non_deletion(ops, f"{OPS_PATH}/r") == told
    assert await non_deletion(admin, "/api/v2/screen-recordings/s") == told
    assert await non_deletion(ops, f"{SCREENS_PATH}/s") == told
    internal = f"/internal-api/contact-centers/{CONTACT_CENTER}/screen-recordings/s"
    assert (await ops.get(internal)).json()["recording"]["nonDeletion"] == told


async def test_a_repeated_apply_states_user_and_time_anew_only_with_another_reason(
    ops: httpx.AsyncClient, start_service: StartService, settings: Settings
) -> None:
    users = [
        User(
            name=name, password_hash=hash_password(f"{name}-password"), roles=("admin",), contact_center=CONTACT_CENTER
        )
        for name in ("amy", "ben")
    ]
    service = await start_service(users=(*settings.users, *users))
    amy, ben = service.client("amy"), service.client("ben")

    async def told() -> tuple[str, str | None]:
        state = await non_deletion(amy)
        assert state is not None
        return state["by"], state.get("reason")

    await post(ops, OPS_PATH, "r", "call")
    assert await operate(amy, APPLY) == 200
    first = await non_deletion(amy)
    assert await operate(ben, APPLY) == 200
    await post(ops, SCREENS_PATH, "late", "call")
    assert await operate(ben, APPLY) == 200  # takes one more along
    assert await non_deletion(amy) == await non_deletion(amy, "/api/v2/screen-recordings/late") == first
    assert await operate(ben, APPLY, reason="court") == 200
    assert await told() == ("ben", "court")
    assert await operate(amy, APPLY) == 200
    assert await operate(amy, APPLY, reason="court") == 200
    assert await told() == ("ben", "court")
    assert await operate(amy, UNAPPLY) == 200
    assert await operate(amy, APPLY, reason=None) == 200
    assert await told() == ("amy", None)


async def test_a_screen_recording_names_the_first_of_those_who_hold_it(
    ops: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    await post(ops, SCREENS_PATH, "s", "one", "two")
    for recording, call in (("first", "one"), ("second", "two")):
        await post(ops, OPS_PATH, recording, call)
        assert await operate(admin, APPLY, recording, reason=recording) == 200
    screen = f"{SCREENS_PATH}/s"
    assert (await ops.get(screen)).json()["screenRecording"]["nonDeletion"]["reason"] == "first"
    assert await operate(admin, UNAPPLY, "first") == 200
    assert (await ops.get(screen)).json()["screenRecording"]["nonDeletion"]["reason"] == "second"
    assert await operate(admin, UNAPPLY, "second") == 200
    assert "nonDeletion" not in (await ops.get(screen)).json()["screenRecording"]


@pytest.mark.parametrize("reason", ["x" * 501, "é" * 501, 1, True, ["court"], {}])
async def test_a_reason_that_is_no_text_of_500_characters_is_refused(
    ops: httpx.AsyncClient, admin: httpx.AsyncClient, reason: Any
) -> None:
    await post(ops, OPS_PATH, "r", "call")
    for operation in (APPLY, UNAPPLY):
        response = await admin.post("/api/v2/recordings/r", json=operation | {"reason": reason})
        assert_error(response, 400, 2, "Parameter 'reason' is invalid: it must be a string of up to 500 characters")
    assert await non_deletion(admin) is None


async def test_both_operations_leave_their_reason_in_the_audit_log(
    ops: httpx.AsyncClient, start_service: StartService, tmp_path: Path
) -> None:
    file = tmp_path / "audit.log"
    admin = (await start_service(audit_log=str(file))).client("admin")
    await post(ops, OPS_PATH, "r", "call")
    assert await operate(admin, APPLY, reason="é" * 500) == 200
    assert await operate(admin, UNAPPLY, reason="settled") == 200
    assert await operate(admin, UNAPPLY) == 200
    assert [line.get("reason") for line in lines_but_posts(file)] == ["é" * 500, "settled", None]
