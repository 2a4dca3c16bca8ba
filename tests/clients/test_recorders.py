"""Recorders that post to the internal paths, as two scripts in the field do (docs/contract.md section 3)."""

from typing import Any

import httpx
import pytest

from tests.support.recordings import CONTACT_CENTER, OPS_PATH, REGION
from tests.support.service import Service, assert_error

INTERNAL = f"/internal-api/contact-centers/{CONTACT_CENTER}"


@pytest.fixture(scope="module")
def service(module_service: Service) -> Service:
    return module_service


def recorded(call_uuid: str, **attributes: Any) -> dict[str, Any]:
    """What a recorder posts: no events, odd types and durations, a stop time in the wrong time zone."""
    descriptor = {"storage": "webDAV", "path": "http://media.example/call.mp3", "data": {}}
    return {
        "id": call_uuid,
        "ccid": "another one",
        "callerPhoneNumber": "alchoi4",
        "dialedPhoneNumber": "5001",
        "region": REGION,
        "mediaFiles": [
            {
                "mediaDescriptor": descriptor,
                "startTime": "2013-05-17T11:45:32.000-0800",
                "stopTime": "2013-05-17T11:45:38.192-0300",
                "callUUID": call_uuid,
                "mediaId": f"{call_uuid}_2013-05-17",
                "type": "audio/mpeg3",
                "duration": "6.192",
                "tenant": "Environment",
                "ivrprofile": "",
                "parameters": {"agentId": "alchoi4"},
                "masks": [],
                "partitions": [],
                "accessgroups": [],
            }
        ],
        "eventHistory": [],
        **attributes,
    }


class Uploader:
    """Asks who it is, takes the headers that are named in the answer along, and posts. Only 200 is a success."""

    def __init__(self, client: httpx.AsyncClient, first: str) -> None:
        self.client = client
        self.first = first

    async def upload(self, recording: dict[str, Any]) -> bool:
        greeting = await self.client.get(self.first)
        if greeting.status_code != 200 or greeting.json()["statusCode"] != 0:
            return False
        wanted = ("X-CSRF-HEADER", "X-CSRF-TOKEN")
        headers = {name: greeting.headers[name] for name in wanted if name in greeting.headers}
        answer = await self.client.post(f"{INTERNAL}/recordings", json=recording, headers=headers)
        return answer.status_code == 200


@pytest.mark.parametrize("first", ["/api/v2/me", "/api/v2/diagnostics/version"])
async def test_an_uploader_succeeds_the_first_time_and_again(
    service: Service, ops: httpx.AsyncClient, first: str
) -> None:
    uploader = Uploader(ops, first)
    call_uuid = f"uploaded after {first}"
    assert await uploader.upload(recorded(call_uuid))
    assert await uploader.upload(recorded(call_uuid))
    stored = (await ops.get(f"{OPS_PATH}/{call_uuid.replace('/', '%2F')}")).json()["recording"]
    assert (stored["ccid"], stored["eventHistory"]) == ("another one", [])
    (media,) = stored["mediaFiles"]
    assert (media["duration"], media["type"], media["masks"]) == ("6.192", "audio/mpeg3", [])


@pytest.mark.parametrize("path", ["recordings", "recordings/", "screen-recordings", "screen-recordings/"])
async def test_the_internal_paths_answer_200_and_take_no_events(ops: httpx.AsyncClient, path: str) -> None:
    recording_id = f"internal {path}"
    for _ in range(2):
        response = await ops.post(f"{INTERNAL}/{path}", json=recorded(recording_id))
        assert response.status_code == 200, response.text
        assert response.json().keys() == {"statusCode", "id", "uri"}
        assert (await ops.get(response.json()["uri"])).status_code == 200


@pytest.mark.parametrize("events", [None, {}, "x", [1]])
async def test_events_are_an_array_of_objects_all_the_same(ops: httpx.AsyncClient, events: object) -> None:
    response = await ops.post(f"{INTERNAL}/recordings", json=recorded("wrong", eventHistory=events))
    assert_error(response, 400, 2, "Parameter 'eventHistory")


async def test_the_documented_path_needs_an_event(ops: httpx.AsyncClient) -> None:
    assert_error(await ops.post(OPS_PATH, json=recorded("none")), 400, 2, "Parameter 'eventHistory' is invalid")


async def test_me_tells_every_user_who_it_is(service: Service) -> None:
    assert (await service.client("ops").get("/api/v2/me")).json() == {
        "statusCode": 0,
        "user": {"userName": "ops", "roles": ["ops"], "permissions": [], "contactCenterId": None},
    }
    me = (await service.client("agent").get("/api/v2/me")).json()["user"]
    assert me == {"userName": "agent", "roles": ["agent"], "permissions": [], "contactCenterId": CONTACT_CENTER}
    assert_error(await service.client().get("/api/v2/me"), 401, 20)


async def test_the_version_needs_no_login(service: Service) -> None:
    answer = (await service.client().get("/api/v2/diagnostics/version")).json()
    assert answer.keys() == {"statusCode", "version"}
    assert answer["version"][0].isdigit()


async def test_a_contact_center_is_prepared_with_nothing_to_do(ops: httpx.AsyncClient) -> None:
    path = "/api/v2/ops/contact-centers/brand new/recordings"
    prepared = await ops.post(path, json={"operationName": "createCRCF"})
    assert (prepared.status_code, prepared.json()) == (200, {"statusCode": 0})
    assert_error(await ops.post(path, json={"operationName": "dropCRCF"}), 400, 1, "Parameter 'id' is missing")


async def test_ops_finds_the_contact_centers(service: Service, ops: httpx.AsyncClient) -> None:
    """Those of users, and those that only have recordings."""
    for recording_id, path in (("only", "recordings"), ("seen", "screen-recordings")):
        where = f"/internal-api/contact-centers/{recording_id} one%2F1/{path}"
        posted = await ops.post(where, json=recorded(recording_id), params={"refresh": "wait_for"})
        assert posted.status_code == 200, posted.text
    answer = (await ops.get("/api/v2/ops/contact-centers")).json()
    base = f"{service.url}/api/v2/ops/contact-centers"
    assert answer["statusCode"] == 0
    assert {f"{base}/{CONTACT_CENTER}", f"{base}/only%20one%2F1", f"{base}/seen%20one%2F1"} <= set(answer["uris"])
    assert answer["uris"] == sorted(answer["uris"])
    for uri in answer["uris"]:
        assert (await ops.get(f"{uri}/recordings?startTime=0")).status_code == 200
    assert_error(await service.client("admin").get("/api/v2/ops/contact-centers"), 403, 5)


MANY = [{"occurredAt": f"2013-05-17T11:45:32.{i % 1000:03}Z", "contact": {"type": "External", "phoneNumber": f"{i}"},
         "event": "Joined"} for i in range(10_001)]  # fmt: skip


async def test_a_recording_has_bounds_after_all_updates(service: Service, ops: httpx.AsyncClient) -> None:
    def media(n: int) -> dict[str, Any]:
        (one,) = recorded("x")["mediaFiles"]
        return {**one, "mediaDescriptor": {"storage": "webDAV", "path": f"http://media.example/{n}.mp3"}}

    thousand = recorded("files", mediaFiles=[media(n) for n in range(1_000)])
    assert (await ops.post(f"{INTERNAL}/recordings", json=thousand)).status_code == 200
    again = recorded("files", mediaFiles=[media(999)])
    assert (await ops.post(f"{INTERNAL}/recordings", json=again)).status_code == 200
    more = await ops.post(f"{INTERNAL}/recordings", json=recorded("files", mediaFiles=[media(1_000)]))
    assert_error(more, 413, 2, "more than 1000 media files")

    for start in (0, 5_000):
        events = recorded("events", eventHistory=MANY[start : start + 5_000])
        assert (await ops.post(f"{INTERNAL}/recordings", json=events)).status_code == 200
    more = await ops.post(f"{INTERNAL}/recordings", json=recorded("events", eventHistory=MANY[10_000:]))
    assert_error(more, 413, 2, "more than 10000 events")

    for n in range(5):
        notes = recorded("bytes", **{f"note{n}": "x" * 800_000})
        assert (await ops.post(f"{INTERNAL}/recordings", json=notes)).status_code == 200
    more = await ops.post(f"{INTERNAL}/recordings", json=recorded("bytes", more="x" * 300_000))
    assert_error(more, 413, 2, "more than 4194304 bytes of JSON")
    found = (await ops.get(f"{OPS_PATH}/bytes")).json()["recording"]
    assert len(found["note4"]) == 800_000
    assert "more" not in found
