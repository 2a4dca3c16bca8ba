"""Labels of recordings (docs/contract.md section 9)."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from elasticsearch import AsyncElasticsearch

from app.recordings.dates import parse_instant
from app.settings import Settings, User
from app.store.documents import document_id, labels_of
from app.store.indices import alias
from app.store.journal import now_milliseconds
from tests.support.recordings import CONTACT_CENTER, OPS_PATH, OTHER_CONTACT_CENTER, REGION, a_media_file, a_recording
from tests.support.service import PATIENT, Service, StartService, assert_error, hash_password, staff_with

DEFINITIONS = "/api/v2/recording-label-definitions"
PATH = "/api/v2/recordings"
LABELS = f"{PATH}/recording/labels"
OPS_LABELS = f"{OPS_PATH}/recording/labels"

PERMISSIONS = {
    "nothing": (),
    "adds": ("RECORDING_PERMISSION_ADD_LABEL",),
    "deletes": ("RECORDING_PERMISSION_DELETE_LABEL",),
    "defines": ("RECORDING_PERMISSION_ADD_LABEL_DEFINITION", "RECORDING_PERMISSION_DELETE_LABEL_DEFINITION"),
}


@pytest.fixture(scope="module")
def more_users() -> tuple[User, ...]:
    """One for each role and set of permissions, and some whose entry limits what they see."""
    limited = User(
        "limited",
        hash_password("limited-password"),
        ("supervisor",),
        CONTACT_CENTER,
        permissions=(*PERMISSIONS["adds"], *PERMISSIONS["deletes"]),
        access_groups=("/US",),
    )
    return (
        *staff_with(PERMISSIONS),
        limited,
        User("recorder", hash_password("recorder-password"), ("recorder",), CONTACT_CENTER),
    )


async def define(client: httpx.AsyncClient, *names: str, **attributes: Any) -> None:
    for name in names:
        response = await client.post(DEFINITIONS, json={"name": name, **attributes})
        assert response.status_code == 201, response.text


async def post(client: httpx.AsyncClient, recording_id: str = "recording", **attributes: Any) -> None:
    body = a_recording(recording_id, **attributes)
    response = await client.post(OPS_PATH, json=body, params={"refresh": "wait_for"})
    assert response.status_code in {200, 201}, response.text


async def give(client: httpx.AsyncClient, name: str, recording_id: str = "recording", **attributes: Any) -> int:
    path = f"{PATH}/{quote(recording_id, safe='')}/labels"
    return (await client.post(path, json={"name": name, **attributes})).status_code


async def names(client: httpx.AsyncClient, path: str = LABELS) -> list[str]:
    return [label["name"] for label in (await client.get(path)).json()["labels"]]


async def test_a_label_is_given_read_commented_and_taken(service: Service, admin: httpx.AsyncClient) -> None:
    await define(admin, "Court", displayName="Court order")
    await post(service.client("ops"))
    assert (await admin.get(LABELS)).json() == {"statusCode": 0, "labels": []}
    created = await admin.post(f"{LABELS}/", json={"name": "cOURT", "comment": "case 7"})
    assert created.status_code == 201
    label = created.json()["label"]
    at = label.pop("at")
    assert label == {"name": "Court", "displayName": "Court order", "by": "admin", "comment": "case 7"}
    assert (await admin.get(LABELS)).json() == {"statusCode": 0, "labels": [{**label, "at": at}]}
    assert (await admin.get(f"{LABELS}/COURT")).json() == {"statusCode": 0, "label": {**label, "at": at}}
    assert (await admin.put(f"{LABELS}/court", json={"comment": "case 8"})).status_code == 200
    assert (await admin.get(f"{LABELS}/court")).json()["label"] == {**label, "at": at, "comment": "case 8"}
    assert (await admin.put(f"{LABELS}/court", json={"name": "COURT", "comment": ""})).status_code == 200
    del label["comment"]  # there only when there is one
    assert (await admin.get(f"{LABELS}/court")).json()["label"] == {**label, "at": at}
    assert (await admin.delete(f"{LABELS}/cOURT")).json() == {"statusCode": 0}
    for response in (
        await admin.get(f"{LABELS}/court"),
        await admin.put(f"{LABELS}/court", json={"comment": "x"}),
        await admin.delete(f"{LABELS}/court"),
    ):
        assert_error(response, 404, 6, "Requested label [court] cannot be found.")
    assert await names(admin, f"{LABELS}/") == []


async def test_a_label_that_is_there_gets_the_new_comment(service: Service, admin: httpx.AsyncClient) -> None:
    await define(admin, "a")
    await post(service.client("ops"))
    first = (await admin.post(LABELS, json={"name": "a"})).json()["label"]
    again = await service.client("ops").post(OPS_LABELS, json={"name": "A", "comment": "why"})
    assert (again.status_code, again.json()["label"]) == (200, {**first, "comment": "why"})
    unchanged = await admin.post(LABELS, json={"name": "a"})
    assert (unchanged.status_code, unchanged.json()["label"]["comment"]) == (200, "why")
    assert (await admin.get(LABELS)).json()["labels"] == [{**first, "comment": "why"}]


async def test_recordings_are_read_with_their_labels(service: Service, admin: httpx.AsyncClient) -> None:
    ops = service.client("ops")
    await define(admin, "b", "A")
    await post(ops)
    await post(ops, "other")
    assert [await give(admin, name) for name in ("b", "a")] == [201, 201]
    await admin.put(f"{DEFINITIONS}/b", json={"displayName": "Bee"})
    await post(ops, note="an update, which makes the labels searchable too", labels=[{"name": "posted"}])
    labels = (await admin.get(LABELS)).json()["labels"]
    assert [(label["name"], label["displayName"]) for label in labels] == [("A", "A"), ("b", "Bee")]
    for client, path in ((admin, PATH), (ops, OPS_PATH)):
        assert (await client.get(f"{path}/recording")).json()["recording"]["labels"] == labels
        found = (await client.get(path, params={"startTime": 0})).json()["recordings"]
        assert {recording["id"]: recording.get("labels") for recording in found} == {"recording": labels, "other": None}
    assert "labels" not in (await ops.get(f"{OPS_PATH}/other")).json()["recording"]


async def test_display_name_is_the_definitions_now_and_at_the_time_once_it_is_gone(
    start_service: StartService,
) -> None:
    first, second = [await start_service(**PATIENT) for _ in range(2)]
    admin, other = first.client("admin"), second.client("admin")
    await define(admin, "a", displayName="then")
    await post(first.client("ops"))
    assert await give(admin, "a") == 201

    async def shown(client: httpx.AsyncClient) -> set[str]:
        page = (await client.get(PATH, params={"startTime": 0})).json()["recordings"][0]
        one = (await client.get(f"{PATH}/recording")).json()["recording"]
        label = (await client.get(f"{LABELS}/a")).json()["label"]
        return {label["displayName"] for label in (*page["labels"], *one["labels"], label)}

    await post(first.client("ops"), note="so that the label can be found")
    for display_name in ("now", "Now", "later"):
        assert (await admin.put(f"{DEFINITIONS}/a", json={"displayName": display_name})).status_code == 200
        # In the same moment, whichever process is asked.
        assert await shown(other) == await shown(admin) == {display_name}
    assert (await admin.delete(f"{DEFINITIONS}/a?force=*")).status_code == 200
    assert await shown(other) == await shown(admin) == {"then"}
    await define(admin, "A", displayName="again")
    assert await shown(other) == {"again"}


async def test_definition_in_use_is_deleted_only_by_force(service: Service, admin: httpx.AsyncClient) -> None:
    ops = service.client("ops")
    await define(admin, "Court")
    await post(ops)
    assert await give(admin, "court") == 201
    assert_error(await admin.delete(f"{DEFINITIONS}/court"), 409, 19, "Label definition [court] is in use.")
    assert_error(await ops.delete(f"/api/v2/ops/contact-centers/{CONTACT_CENTER}{DEFINITIONS[7:]}/COURT"), 409, 19)
    assert (await admin.delete(f"{DEFINITIONS}/court?force=*")).json() == {"statusCode": 0}
    assert await names(admin) == ["Court"]
    # It stays and can be commented, but not given again.
    assert await give(admin, "court", comment="x") == 404
    await post(ops, "other")
    assert await give(admin, "court", "other") == 404
    assert (await admin.put(f"{LABELS}/court", json={"comment": "y"})).status_code == 200
    found = await admin.get(PATH, params={"label": "court"})
    assert [recording["id"] for recording in found.json()["recordings"]] in ([], ["recording"])
    assert (await admin.delete(f"{LABELS}/court")).status_code == 200
    assert await names(admin) == []


@pytest.mark.parametrize("end", ["take", "delete"])
async def test_definition_is_free_again_at_once(service: Service, admin: httpx.AsyncClient, end: str) -> None:
    ops = service.client("ops")
    await define(admin, "a")
    await post(ops)
    assert await give(admin, "a") == 201
    assert_error(await admin.delete(f"{DEFINITIONS}/a"), 409, 19)
    ended = await (admin.delete(f"{LABELS}/a") if end == "take" else ops.delete(f"{OPS_PATH}/recording"))
    assert ended.status_code == 200
    assert (await admin.delete(f"{DEFINITIONS}/a")).status_code == 200


async def test_a_label_in_another_region_keeps_its_definition(
    service: Service, start_service: StartService, admin: httpx.AsyncClient
) -> None:
    elsewhere = await start_service(region="elsewhere", **PATIENT)
    await define(admin, "a")
    await post(service.client("ops"), region="elsewhere")
    assert await give(admin, "a") == 404
    assert await give(elsewhere.client("admin"), "a") == 201
    assert_error(await admin.delete(f"{DEFINITIONS}/a"), 409, 19)


async def test_definitions_of_another_contact_center_are_not_given(service: Service, admin: httpx.AsyncClient) -> None:
    other, ops = service.client("other-admin"), service.client("ops")
    await define(other, "theirs")
    await post(ops)
    assert_error(
        await admin.post(LABELS, json={"name": "theirs"}),
        404,
        6,
        "Requested label definition [theirs] cannot be found.",
    )
    theirs = OPS_PATH.replace(CONTACT_CENTER, OTHER_CONTACT_CENTER)
    assert_error(await ops.post(f"{theirs}/recording/labels", json={"name": "theirs"}), 404, 6, "recording [recording]")
    assert_error(await other.post(LABELS, json={"name": "theirs"}), 404, 6, "recording [recording]")
    assert_error(await other.get(LABELS), 404, 6, "recording [recording]")
    assert (await ops.post(theirs, json=a_recording())).status_code == 201
    assert await give(other, "theirs") == 201
    assert await names(admin) == []
    assert (await other.delete(f"{DEFINITIONS}/theirs")).status_code == 409


async def test_at_most_fifty_labels(service: Service, admin: httpx.AsyncClient) -> None:
    await define(admin, *(f"n{i}" for i in range(51)))
    await post(service.client("ops"))
    assert {await give(admin, f"n{i}") for i in range(50)} == {201}
    assert_error(await admin.post(LABELS, json={"name": "n50"}), 409, 19, "Each of the 50 labels")
    assert await give(admin, "N7", comment="of one that is there") == 200
    assert (await admin.delete(f"{LABELS}/n7")).status_code == 200
    assert await give(admin, "n50") == 201
    assert len(await names(admin)) == 50


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ({}, 1, "Parameter 'name' is missing"),
        ([], 2, "Parameter 'body' is invalid: it must be a JSON object"),
        ({"name": None}, 2, "Parameter 'name' is invalid"),
        ({"name": "a b"}, 2, "Parameter 'name' is invalid"),
        ({"name": ".."}, 2, "Parameter 'name' is invalid"),
        ({"name": ["a"]}, 2, "Parameter 'name' is invalid"),
        ({"name": "a", "comment": 1}, 2, "Parameter 'comment' is invalid: it must be a string of at most 1000"),
        ({"name": "a", "comment": "x" * 1001}, 2, "Parameter 'comment' is invalid"),
    ],
)
async def test_a_wrong_body_is_refused(service: Service, body: Any, code: int, message: str) -> None:
    admin = service.client("admin")
    await define(admin, "a")
    await post(service.client("ops"))
    assert_error(await admin.post(LABELS, json=body), 400, code, message)
    assert await names(admin) == []


async def test_comment_that_is_not_allowed(service: Service, admin: httpx.AsyncClient) -> None:
    await define(admin, "a")
    await post(service.client("ops"))
    comment = ('😀\u0000"\\\n\u202e</script>' + "x" * 1_000)[:1_000]  # the longest
    assert await give(admin, "a", comment=comment, by="somebody", at="2000-01-01") == 201
    assert_error(await admin.put(f"{LABELS}/a", json={}), 400, 1, "Parameter 'comment' is missing")
    assert_error(await admin.put(f"{LABELS}/a", json={"comment": "x" * 1001}), 400, 2, "'comment'")
    assert_error(await admin.put(f"{LABELS}/a", json={"comment": "x", "name": "b"}), 400, 2, "'name'")
    label = (await admin.get(f"{LABELS}/a")).json()["label"]
    assert (label["comment"], label["by"]) == (comment, "admin")


@pytest.mark.parametrize("hostile", ["%FF", "a%2Fb", "%00", "%E2%84%AA", "*", "%F0%9F%98%80", "x" * 5000, "%2E%2E"])
async def test_name_in_a_path_that_no_label_has(service: Service, hostile: str) -> None:
    admin = service.client("admin")
    await define(admin, "k")
    await post(service.client("ops"))
    assert await give(admin, "k") == 201
    for response in (
        await admin.get(f"{LABELS}/{hostile}"),
        await admin.put(f"{LABELS}/{hostile}", json={"comment": "x"}),
        await admin.delete(f"{LABELS}/{hostile}"),
    ):
        assert_error(response, *((400, 2, "Parameter 'label' is invalid") if hostile == "%FF" else (404, 6)))
    assert await names(admin) == ["k"]


@pytest.mark.parametrize("recording_id", ["a/b", "labels", "../x", "%", "a?b#c", "é\u0301 😀", "play"])
async def test_recording_with_an_odd_id_is_labelled(service: Service, recording_id: str) -> None:
    admin = service.client("admin")
    await define(admin, "labels")
    await post(service.client("ops"), recording_id)
    assert await give(admin, "labels", recording_id) == 201
    path = f"{PATH}/{quote(recording_id, safe='')}/labels"
    assert (await admin.get(f"{path}/labels")).json()["label"]["name"] == "labels"
    assert (await admin.delete(f"{path}/labels")).status_code == 200


async def test_screen_recordings_have_no_labels(service: Service, admin: httpx.AsyncClient) -> None:
    ops = service.client("ops")
    screens = OPS_PATH.replace("/recordings", "/screen-recordings")
    await define(admin, "a")
    assert (await ops.post(screens, json=a_recording())).status_code == 201
    for client, path in ((admin, "/api/v2/screen-recordings"), (ops, screens)):
        assert_error(await client.post(f"{path}/recording/labels", json={"name": "a"}), 404, 6)
        assert_error(await client.get(path, params={"label": "a"}), 400, 2, "'label' is invalid: screen recordings")


# --- Who may do what ---


def expected(user: str, method: str, *, ops_path: bool) -> tuple[int, int]:
    """The status and code that the contract gives a user (section 2); every path names what does not exist."""
    role, _, permissions = user.partition("-")
    if (role == "ops") != ops_path or role == "recorder":
        return 403, 5
    if role in {"supervisor", "agent"}:
        needed = {"POST": "adds", "PUT": "adds", "DELETE": "deletes"}.get(method)
        if needed not in {None, permissions}:
            return 403, 3
    return 404, 6


USERS_OF_TABLE = ("ops", "recorder", *(f"{role}-{p}" for role in ("admin", "supervisor", "agent") for p in PERMISSIONS))
BODIES = {"POST": {"name": "x"}, "PUT": {"comment": "x"}}


@pytest.mark.parametrize("user", USERS_OF_TABLE)
async def test_role_and_permission_decide_who_may_do_what(module_service: Service, user: str) -> None:
    client, admin, ops = (module_service.client(name) for name in (user, "admin", "ops"))
    assert (await ops.post(OPS_PATH, json=a_recording())).status_code in {200, 201}
    await admin.post(DEFINITIONS, json={"name": "known"})
    for path in (LABELS, OPS_LABELS):
        ops_path = path == OPS_LABELS
        nowhere = path.replace("/recording/labels", "/nowhere/labels")
        for method, target in (("GET", "/x"), ("POST", ""), ("PUT", "/x"), ("DELETE", "/x")):
            wanted = expected(user, method, ops_path=ops_path)
            for place, message in ((path, "label"), (nowhere, "recording [nowhere]")):
                response = await client.request(method, f"{place}{target}", json=BODIES.get(method))
                assert_error(response, *wanted, message if wanted == (404, 6) else "")
        for method, target in (("GET", ""), ("POST", ""), ("PUT", "/known"), ("DELETE", "/known")):
            await admin.post(LABELS, json={"name": "known"})
            may = expected(user, method, ops_path=ops_path) == (404, 6)
            body = {"name": "known", "comment": "x"} if method in BODIES else None
            response = await client.request(method, f"{path}{target}", json=body)
            assert (response.status_code == 200) == may, response.text
    assert_error(await module_service.client().get(LABELS), 401, 20)


async def test_a_limited_user_labels_only_what_she_sees(module_service: Service) -> None:
    limited, admin, ops = (module_service.client(name) for name in ("limited", "admin", "ops"))
    await admin.post(DEFINITIONS, json={"name": "known"})
    for recording_id, group in (("seen", "US/CA"), ("unseen", "EU")):
        media = [a_media_file(accessgroups=[group])]
        assert (await ops.post(OPS_PATH, json=a_recording(recording_id, mediaFiles=media))).status_code in {200, 201}
        await admin.post(f"{PATH}/{recording_id}/labels", json={"name": "known"})
    requests: list[tuple[str, str, Any]] = [
        ("GET", "", None),
        ("GET", "/known", None),
        ("POST", "", {"name": "known"}),
        ("POST", "", {"name": "unknown"}),
        ("PUT", "/known", {"comment": "x"}),
        ("DELETE", "/known", None),
        ("DELETE", "/unknown", None),
    ]
    for method, target, body in requests:
        answers = [
            await limited.request(method, f"{PATH}/{recording_id}/labels{target}", json=body)
            for recording_id in ("unseen", "nowhere")
        ]
        assert {answer.status_code for answer in answers} == {404}
        assert answers[0].text.replace("unseen", "nowhere") == answers[1].text
    assert (await limited.get(f"{PATH}/seen")).json()["recording"]["labels"][0]["name"] == "known"
    assert (await limited.put(f"{PATH}/seen/labels/known", json={"comment": "x"})).status_code == 200
    assert "comment" not in (await admin.get(f"{PATH}/unseen/labels/known")).json()["label"]


async def test_each_change_is_in_the_audit_log(start_service: StartService, tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    service = await start_service(audit_log=str(log), **PATIENT)
    admin, agent, ops = (service.client(user) for user in ("admin", "agent", "ops"))
    await define(admin, "A")
    await post(ops)
    before = len(log.read_text().splitlines())
    await admin.post(LABELS, json={"name": "a", "comment": "x"})
    await admin.post(LABELS, json={"name": "unknown"})
    await ops.put(f"{OPS_LABELS}/a", json={"comment": "y"})
    await agent.delete(f"{LABELS}/a")
    await admin.delete(f"{LABELS}/a")
    await admin.get(LABELS)
    lines = [json.loads(line) for line in log.read_text().splitlines()][before:]
    told = ("user", "operation", "outcome", "statusCode", "label", "comment")
    assert [tuple(line.get(key) for key in told) for line in lines] == [
        ("admin", "add-label", "success", 0, "A", "x"),
        ("admin", "add-label", "refused", 6, "unknown", None),
        ("ops", "update-label", "success", 0, "A", "y"),
        ("agent", "delete-label", "refused", 3, "a", None),
        ("admin", "delete-label", "success", 0, "A", None),
    ]
    assert {(line["contactCenter"], line["resource"], line["recordingId"]) for line in lines} == {
        (CONTACT_CENTER, "recordings", "recording")
    }


# --- What happens beside ---


async def test_labels_survive_updates_protection_and_the_deletion_of_nothing(
    service: Service, admin: httpx.AsyncClient
) -> None:
    ops = service.client("ops")
    await define(admin, "a", "b")
    await post(ops)
    begun = now_milliseconds()
    assert await give(admin, "a", comment="kept") == 201
    kept = (await admin.get(LABELS)).json()["labels"]
    assert begun <= parse_instant(kept[0]["at"]) <= now_milliseconds()
    await post(ops, callerPhoneNumber="+1", mediaFiles=[a_media_file("another")], labels=[])
    assert (await ops.post(f"/internal-api/contact-centers/{CONTACT_CENTER}/recordings", json=a_recording())).is_success
    line = json.dumps(a_recording(note="of many", labels=[]))
    many = await ops.post(OPS_PATH, content=line, headers={"Content-Type": "application/x-ndjson"})
    assert many.json() == {"statusCode": 0, "created": 0, "updated": 1}
    for operation in ("applyNonDelete", "unapplyNonDelete", "applyNonDelete"):
        assert (await admin.post(f"{PATH}/recording", json={"operationName": operation})).status_code == 200
        assert (await admin.get(LABELS)).json()["labels"] == kept
    assert_error(await ops.delete(f"{OPS_PATH}/recording"), 403, 3)
    assert await give(admin, "b") == 201  # protected or not
    assert (await admin.get(f"{PATH}/recording")).json()["recording"]["nonDelete"] is True
    await post(ops, note="so that the labels can be found")
    assert (await admin.get(PATH, params={"label": "A AND B"})).json()["recordings"][0]["labels"][0] == kept[0]


async def test_a_new_recording_of_the_same_id_has_no_labels(service: Service, admin: httpx.AsyncClient) -> None:
    ops = service.client("ops")
    await define(admin, "a")
    await post(ops)
    assert await give(admin, "a") == 201
    assert (await ops.delete(f"{OPS_PATH}/recording")).status_code == 200
    assert_error(await admin.get(LABELS), 404, 6, "Requested recording [recording] cannot be found.")
    await post(ops, labels=[{"name": "a"}])
    assert await names(admin) == []
    assert (await admin.get(PATH, params={"label": "*"})).json()["recordings"] == []


async def test_a_label_whose_definition_goes_in_the_middle_is_taken_back(
    service: Service,
    admin: httpx.AsyncClient,
    elasticsearch: AsyncElasticsearch,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a deletion does that has asked the recordings before the label is there."""
    await define(admin, "a")
    await post(service.client("ops"))
    really_update = service.repository.update

    async def and_meanwhile(*arguments: Any) -> Any:
        done = await really_update(*arguments)
        monkeypatch.undo()
        assert (await admin.delete(f"{DEFINITIONS}/a?force=*")).status_code == 200
        return done

    monkeypatch.setattr(service.repository, "update", and_meanwhile)
    assert await give(admin, "a") == 404
    assert await names(admin) == []
    index = alias(settings, "recordings")
    hit = await elasticsearch.get(index=index, id=document_id(CONTACT_CENTER, REGION, "recording"))
    assert labels_of(hit["_source"]) == ()
