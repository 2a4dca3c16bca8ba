"""Label definitions (docs/contract.md section 9)."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from elasticsearch import AsyncElasticsearch

from app.recordings.labels import LabelDefinition
from app.settings import Settings, User
from app.store.label_definitions import LabelDefinitionStore
from tests.support.recordings import CONTACT_CENTER, OTHER_CONTACT_CENTER
from tests.support.service import PATIENT, Service, StartService, assert_error, hash_password, staff_with
from tests.support.sizes import DEFINITION_ROUNDS

PATH = "/api/v2/recording-label-definitions"
OPS = f"/api/v2/ops/contact-centers/{CONTACT_CENTER}/recording-label-definitions"

PERMISSIONS = {
    "nothing": (),
    "adds": ("RECORDING_PERMISSION_ADD_LABEL_DEFINITION",),
    "deletes": ("RECORDING_PERMISSION_DELETE_LABEL_DEFINITION",),
    "labels": ("RECORDING_PERMISSION_ADD_LABEL", "RECORDING_PERMISSION_DELETE_LABEL"),
}


@pytest.fixture(scope="module")
def more_users() -> tuple[User, ...]:
    """One for each role and set of permissions."""
    recorder = User("recorder", hash_password("recorder-password"), ("recorder",), CONTACT_CENTER)
    return (*staff_with(PERMISSIONS), recorder)


async def define(client: httpx.AsyncClient, name: str, path: str = PATH, **attributes: Any) -> httpx.Response:
    return await client.post(path, json={"name": name, **attributes})


async def names(client: httpx.AsyncClient, path: str = PATH) -> list[str]:
    return [definition["name"] for definition in (await client.get(path)).json()["labelDefinitions"]]


async def test_a_definition_is_created_read_changed_and_deleted(service: Service, admin: httpx.AsyncClient) -> None:
    created = await define(admin, "Court-2.a_B", displayName="  Court order ", description=" for the court ")
    uri = f"{service.url}{PATH}/Court-2.a_B"
    assert (created.status_code, created.json()) == (201, {"statusCode": 0, "name": "Court-2.a_B", "uri": uri})
    stored = {"name": "Court-2.a_B", "displayName": "Court order", "description": " for the court "}
    assert (await admin.get(uri)).json() == {"statusCode": 0, "labelDefinition": stored}
    changed = await admin.put(f"{PATH}/cOURT-2.A_b", json={"name": "COURT-2.a_b", "description": ""})
    assert (changed.status_code, changed.json()["statusCode"]) == (200, 0)
    assert (await admin.put(uri, json={"displayName": "Order"})).status_code == 200
    stored |= {"description": "", "displayName": "Order"}
    assert (await admin.get(PATH)).json() == {"statusCode": 0, "labelDefinitions": [stored]}
    assert (await admin.put(uri, json={})).status_code == 200
    assert (await admin.get(f"{PATH}/")).json()["labelDefinitions"] == [stored]
    assert (await admin.delete(f"{PATH}/court-2.a_b")).json() == {"statusCode": 0}
    assert_error(await admin.get(uri), 404, 6, "Requested label definition [Court-2.a_B] cannot be found.")
    assert await names(admin) == []


async def test_definitions_are_in_the_order_of_their_names(admin: httpx.AsyncClient) -> None:
    for name in ("b", "C", "A", "a.1"):
        assert (await define(admin, name, f"{PATH}/")).status_code == 201
    assert await names(admin) == ["A", "a.1", "b", "C"]
    described = (await admin.get(f"{PATH}/B")).json()["labelDefinition"]
    assert described == {"name": "b", "displayName": "b", "description": ""}


NAMES = ("a", "Z9-_.", "-", "_", "_a", "...", "a__", "x" * 64, ".a", "0", "a.", "_._")


@pytest.mark.parametrize("name", NAMES)
async def test_names_within_the_limits_are_taken(module_service: Service, name: str) -> None:
    admin = module_service.client("admin")
    created = await define(admin, name)
    assert created.status_code == 201
    assert (await admin.get(created.json()["uri"])).json()["labelDefinition"]["name"] == name
    assert (await admin.delete(created.json()["uri"])).status_code == 200


BAD_NAMES = (
    *("", " ", "a b", " a", "a ", "__a", "__", ".", "..", "x" * 65, "ä", "a/b", "a%2Fb", "a,b", "*", "a\n", "\n"),
    *("a\u0000", "\u212a", "\u0130", "\u0663", "a\u200b", "😀", "a'b", '"', "<b>", "a\\b", "{a}", "null\r", "a+b"),
    *(1, 1.5, True, None, ["a"], {"a": "b"}),
)


@pytest.mark.parametrize("name", BAD_NAMES, ids=repr)
async def test_other_names_are_refused(module_service: Service, name: object) -> None:
    admin = module_service.client("admin")
    assert_error(await admin.post(PATH, json={"name": name}), 400, 2, "Parameter 'name' is invalid: it must have 1 to")


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ({}, 1, "Parameter 'name' is missing"),
        ({"displayName": "x"}, 1, "Parameter 'name' is missing"),
        ([], 2, "Parameter 'body' is invalid"),
        ("a", 2, "Parameter 'body' is invalid"),
        ({"name": "a", "displayName": ""}, 2, "'displayName' is invalid: it must be a string of 1 to 100 characters"),
        ({"name": "a", "displayName": " \t\u3000"}, 2, "'displayName'"),
        ({"name": "a", "displayName": "x" * 101}, 2, "'displayName'"),
        ({"name": "a", "displayName": 1}, 2, "'displayName'"),
        ({"name": "a", "description": "x" * 1001}, 2, "'description' is invalid: it must be a string of at most 1000"),
        ({"name": "a", "description": ["x"]}, 2, "'description'"),
    ],
)
async def test_a_wrong_body_is_refused(module_service: Service, body: Any, code: int, message: str) -> None:
    admin = module_service.client("admin")
    assert_error(await admin.post(PATH, json=body), 400, code, message)
    assert await names(admin) == []
    if isinstance(body, dict) and "name" in body:
        assert (await define(admin, "a")).status_code == 201
        assert_error(await admin.put(f"{PATH}/a", json=body), 400, code, message)
        assert (await admin.get(f"{PATH}/a")).json()["labelDefinition"]["displayName"] == "a"
        assert (await admin.delete(f"{PATH}/a")).status_code == 200


async def test_longest_texts_of_any_characters_come_back(admin: httpx.AsyncClient) -> None:
    display_name, description = '😀\u0000\\"<&>\u202e\n\ufffe\u200b*' * 8 + "x", "é" * 999 + "\n"
    assert (await define(admin, "a", displayName=f"\n{display_name}  ", description=description)).status_code == 201
    wanted = {"name": "a", "displayName": display_name, "description": description}
    assert (await admin.get(f"{PATH}/a")).json()["labelDefinition"] == wanted


async def test_names_are_unique_without_regard_to_case(admin: httpx.AsyncClient) -> None:
    assert (await define(admin, "Sale")).status_code == 201
    assert_error(await define(admin, "sALE", displayName="x"), 409, 18, "Label definition [Sale] already exists.")
    assert_error(await admin.put(f"{PATH}/sale", json={"name": "sales"}), 400, 2, "Parameter 'name' is invalid")
    assert_error(await admin.put(f"{PATH}/sale", json={"name": 7}), 400, 2, "Parameter 'name' is invalid")
    assert await names(admin) == ["Sale"]


async def test_display_names_are_unique_in_every_spelling_of_unicode(admin: httpx.AsyncClient) -> None:
    assert (await define(admin, "a", displayName="Caf\u00e9")).status_code == 201
    assert_error(await define(admin, "b", displayName=" Cafe\u0301"), 409, 18, "displayName [Caf\u00e9] already exists")
    assert (await define(admin, "b", displayName="CAF\u00c9")).status_code == 201
    assert_error(await admin.put(f"{PATH}/b", json={"displayName": "Cafe\u0301"}), 409, 18)
    assert (await admin.put(f"{PATH}/a", json={"displayName": "Cafe\u0301"})).status_code == 200
    # The default is a display name as any other.
    assert_error(await define(admin, "c", displayName="CAF\u00c9"), 409, 18)
    assert (await define(admin, "d", displayName="e")).status_code == 201
    assert_error(await define(admin, "e"), 409, 18, "A label definition with the displayName [e] already exists.")
    assert await names(admin) == ["a", "b", "d"]


async def test_definitions_belong_to_a_contact_center(service: Service, ops: httpx.AsyncClient) -> None:
    admin, other = service.client("admin"), service.client("other-admin")
    assert (await define(admin, "a")).status_code == 201
    assert await names(other) == []
    assert (await define(other, "A", description="theirs")).status_code == 201
    assert (await other.put(f"{PATH}/a", json={"displayName": "a"})).status_code == 200
    assert (await ops.get(OPS)).json()["labelDefinitions"] == [{"name": "a", "displayName": "a", "description": ""}]
    assert (await ops.delete(f"{OPS}/a")).status_code == 200
    assert await names(ops, OPS.replace(CONTACT_CENTER, OTHER_CONTACT_CENTER)) == ["A"]
    assert await names(other) == ["A"]


async def test_ops_defines_for_any_contact_center(service: Service, ops: httpx.AsyncClient) -> None:
    created = await define(ops, "a", f"{OPS}/")
    assert (created.status_code, created.json()["uri"]) == (201, f"{service.url}{OPS}/a")
    assert (await ops.put(f"{OPS}/A", json={"displayName": "b"})).status_code == 200
    assert (await service.client("admin").get(f"{PATH}/a")).json()["labelDefinition"]["displayName"] == "b"
    assert (await ops.get(f"{OPS}/a")).json() == (await service.client("admin").get(f"{PATH}/a")).json()
    elsewhere = OPS.replace(CONTACT_CENTER, "a%2Fb%20c")
    assert (await define(ops, "a", elsewhere)).status_code == 201
    assert await names(ops, elsewhere) == ["a"]
    assert_error(await ops.get(OPS.replace(CONTACT_CENTER, "%20")), 400, 2, "'contact-center-id'")


@pytest.mark.parametrize(
    "hostile", ["%FF", "a%2Fb", "%00", "%E2%84%AA", "__", "*", "a%0Ab", "%F0%9F%98%80", "x" * 5000]
)
async def test_name_in_a_path_that_nothing_has(module_service: Service, hostile: str) -> None:
    admin = module_service.client("admin")
    assert (await define(admin, "k")).status_code == 201
    for response in (
        await admin.get(f"{PATH}/{hostile}"),
        await admin.put(f"{PATH}/{hostile}", json={"description": "x"}),
        await admin.delete(f"{PATH}/{hostile}"),
    ):
        assert_error(response, *((400, 2, "Parameter 'label' is invalid") if hostile == "%FF" else (404, 6)))
    assert await names(admin) == ["k"]
    assert (await admin.delete(f"{PATH}/k")).status_code == 200


@pytest.mark.parametrize("query", ["force=true", "force=", "force=*&force=*", "Force=*", "subresources=*"])
async def test_deletion_with_a_parameter_that_is_not_allowed(module_service: Service, query: str) -> None:
    admin = module_service.client("admin")
    await define(admin, "kept")
    assert_error(await admin.delete(f"{PATH}/kept?{query}"), 400, 2)
    assert "kept" in await names(admin)
    assert (await admin.delete(f"{PATH}/kept?force=*")).status_code == 200


def expected(user: str, method: str, *, ops_path: bool) -> tuple[int, int]:
    """The status and code that the contract gives a user (section 2); every path names what does not exist."""
    role, _, permissions = user.partition("-")
    if (role == "ops") != ops_path or role == "recorder":
        return 403, 5
    if role in {"supervisor", "agent"}:
        needed = {"POST": "adds", "PUT": "adds", "DELETE": "deletes"}.get(method)
        if needed not in {None, permissions}:
            return 403, 3
    return (400, 1) if method == "POST" else (404, 6)


USERS_OF_TABLE = ("ops", "recorder", *(f"{role}-{p}" for role in ("admin", "supervisor", "agent") for p in PERMISSIONS))


@pytest.mark.parametrize("user", USERS_OF_TABLE)
async def test_role_and_permission_decide_who_may_do_what(module_service: Service, user: str) -> None:
    client = module_service.client(user)
    for path in (PATH, OPS):
        for method, target in (("GET", "/x"), ("POST", ""), ("PUT", "/x"), ("DELETE", "/x")):
            body: dict[str, str] | None = {} if method in {"POST", "PUT"} else None
            response = await client.request(method, f"{path}{target}", json=body)
            assert_error(response, *expected(user, method, ops_path=path == OPS))
        answer = await client.get(path)
        may_read = user == "ops" if path == OPS else user not in {"ops", "recorder"}
        assert answer.status_code == (200 if may_read else 403)
    assert_error(await module_service.client().get(PATH), 401, 20)


async def test_a_user_of_another_contact_center_may_not_use_the_paths_of_ops(service: Service) -> None:
    assert_error(await service.client("other-admin").get(OPS), 403, 5)


async def test_other_methods_are_refused(module_service: Service) -> None:
    admin = module_service.client("admin")
    refused = await admin.put(PATH, json={})
    assert_error(refused, 405, 2)
    assert refused.headers["allow"] == "GET, HEAD, POST"
    assert (await admin.post(f"{PATH}/a", json={})).headers["allow"] == "GET, HEAD, PUT, DELETE"


async def test_a_page_of_another_origin_changes_nothing(service: Service, admin: httpx.AsyncClient) -> None:
    assert (await define(admin, "a")).status_code == 201
    foreign = {"Origin": "https://elsewhere.example"}
    assert_error(await admin.put(f"{PATH}/a", json={"description": "x"}, headers=foreign), 403, 3)
    assert (await admin.get(f"{PATH}/a")).json()["labelDefinition"]["description"] == ""


async def test_each_change_is_in_the_audit_log(start_service: StartService, tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    service = await start_service(audit_log=str(log), **PATIENT)
    admin, agent, ops = (service.client(user) for user in ("admin", "agent", "ops"))
    await define(admin, "A", description="x")
    await define(admin, "a")
    await admin.put(f"{PATH}/a", json={"displayName": "b"})
    await ops.delete(f"{OPS}/a?force=*")
    await ops.delete(f"{OPS}/a")
    await define(agent, "a")
    await agent.get(PATH)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    told = ("user", "operation", "outcome", "statusCode", "label", "displayName", "description", "forced")
    assert [{key: line[key] for key in told if key in line} for line in lines] == [
        dict(zip(told, ("admin", "create-label-definition", "success", 0, "A", "A", "x"), strict=False)),
        dict(zip(told, ("admin", "create-label-definition", "refused", 18, "a", "a", ""), strict=False)),
        dict(zip(told, ("admin", "update-label-definition", "success", 0, "A", "b", "x"), strict=False)),
        dict(zip(told[:5], ("ops", "delete-label-definition", "success", 0, "a"), strict=True)) | {"forced": True},
        dict(zip(told[:5], ("ops", "delete-label-definition", "refused", 6, "a"), strict=True)) | {"forced": False},
        dict(zip(told[:4], ("agent", "create-label-definition", "refused", 3), strict=True)),
    ]
    assert {(line["contactCenter"], line["resource"]) for line in lines} == {(CONTACT_CENTER, "label-definitions")}


async def test_concurrent_processes_never_make_two_of_a_name_or_a_display_name(start_service: StartService) -> None:
    admins = [(await start_service(**PATIENT)).client("admin") for _ in range(2)]
    for round_number in range(DEFINITION_ROUNDS):
        same_name = [
            define(
                admins[i % 2], f"name-{round_number}".upper() if i % 3 else f"name-{round_number}", displayName=f"{i}"
            )
            for i in range(6)
        ]
        statuses = [response.status_code for response in await asyncio.gather(*same_name)]
        assert sorted(statuses) == [201, *[409] * 5]
        same_display_name = [
            define(admins[i % 2], f"{round_number}-{i}", displayName=f"same {round_number}") for i in range(3)
        ]
        renamed = [
            admins[i].put(f"{PATH}/name-{round_number}", json={"displayName": f"same {round_number}"}) for i in range(2)
        ]
        await asyncio.gather(*same_display_name, *renamed)
        found = (await admins[0].get(PATH)).json()["labelDefinitions"]
        shown = [definition["displayName"] for definition in found]
        assert len(shown) == len(set(shown))
        assert shown.count(f"same {round_number}") == 1
        # Everything that was made is there, and the next round begins with nothing.
        await asyncio.gather(*(admins[1].delete(f"{PATH}/{definition['name']}") for definition in found))
        assert await names(admins[0]) == []


async def test_no_more_definitions_than_are_allowed(
    service: Service, admin: httpx.AsyncClient, elasticsearch: AsyncElasticsearch, settings: Settings
) -> None:
    many = {f"n{i}": LabelDefinition(f"n{i}", f"n{i}", "é" * 1000) for i in range(1_000)}
    await LabelDefinitionStore(elasticsearch, settings).update(CONTACT_CENTER, lambda _: many)
    assert_error(await define(admin, "more"), 409, 19, "Each of the 1000 label definitions")
    assert len(await names(admin)) == 1_000
    assert (await admin.delete(f"{PATH}/n7")).status_code == 200
    assert (await define(admin, "more")).status_code == 201
