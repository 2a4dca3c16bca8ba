"""What a limited user sees: access groups, partitions and own recordings (docs/contract.md sections 2 and 14).

Random users and recordings are in `tests/api/test_search_properties.py`.
"""

import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import msgspec
import pytest
from elasticsearch import AsyncElasticsearch

from app.api import routes
from app.api.endpoint import Endpoint
from app.auth.policy import POLICY
from app.page import routes as page_routes
from app.recordings.identity import Resource
from app.settings import Settings, User
from tests.page.support import OURS, signed_in
from tests.support.recordings import (
    CONTACT_CENTER,
    OPS_PATH,
    OTHER_CONTACT_CENTER,
    a_media_file,
    a_recording,
    a_user,
    an_event,
    store_many,
)
from tests.support.service import (
    PATIENT,
    USERS,
    Service,
    StartService,
    assert_error,
    hash_password,
    own_settings,
)

PATH = "/api/v2/recordings"
NO_LIMITS: Mapping[str, Any] = {"access_groups": (), "partitions": (), "own_recordings": False}


def a_limited_user(name: str = "amy", **entry: Any) -> User:
    return User(
        **{
            "name": name,
            "password_hash": hash_password(f"{name}-password"),
            "roles": ("supervisor",),
            "contact_center": CONTACT_CENTER,
            **entry,
        }
    )


async def seen(client: httpx.AsyncClient, **query: str) -> dict[str, list[str]]:
    """Recording → the paths of its media files, for everything that a search shows."""
    response = await client.get(PATH, params={"callerPhoneNumber": "*", **query})
    assert response.status_code == 200, response.text
    return {recording["id"]: media_ids(recording) for recording in response.json()["recordings"]}


def media_ids(recording: dict[str, Any]) -> list[str]:
    return [media["mediaId"] for media in recording["mediaFiles"]]


class Shelf:
    """A service with one user, whose entry and whose recordings a test chooses."""

    def __init__(self, start_service: StartService, elasticsearch: AsyncElasticsearch, settings: Settings) -> None:
        self._start_service = start_service
        self._elasticsearch = elasticsearch
        self._settings = settings

    async def start(self, *users: User) -> Service:
        return await self._start_service(users=(*USERS, *users))

    async def put(self, *recordings: dict[str, Any], resource: Resource = "recordings") -> None:
        await store_many(self._elasticsearch, self._settings, recordings, resource=resource)


@pytest.fixture
def shelf(start_service: StartService, elasticsearch: AsyncElasticsearch, settings: Settings) -> Shelf:
    return Shelf(start_service, elasticsearch, settings)


def with_media(recording_id: str, *media: Mapping[str, Any], **attributes: Any) -> dict[str, Any]:
    """A recording whose media files are called by their numbers."""
    files = [a_media_file(f"{recording_id}-{i}", mediaId=str(i), **one) for i, one in enumerate(media)]
    return a_recording(recording_id, mediaFiles=files, **attributes)


# --- Each sentence --------------------------------------------------------------------------------

PATHS = [
    # What the user has, what the media file has, and whether one of the first holds one of the second.
    (["/US"], ["US/CA"], True),
    (["US"], ["/US/CA/"], True),
    (["US/"], ["US"], True),
    (["/US"], ["USA"], False),
    (["US"], ["us"], False),
    (["US/CA"], ["US"], False),
    (["US/CA"], ["US/CAL"], False),
    (["/"], ["US/CA"], True),
    (["/"], [], True),
    (["US"], [], False),
    (["US"], ["/"], False),
    (["DE", "US"], ["FR", "US/CA"], True),
    (["DE", "FR"], ["US"], False),
    (["US"], ["US//CA"], True),
    (["Cafe\u0301"], ["Café/Paris"], True),
    (["a b"], ["a b/c d"], True),
    (["a"], ["a b"], False),
    (["US"], ["/".join(["US"] * 500)], True),
]


@pytest.mark.parametrize("kind", ["access_groups", "partitions"])
async def test_path_holds_itself_and_everything_below_it(shelf: Shelf, kind: str) -> None:
    attribute = {"access_groups": "accessgroups", "partitions": "partitions"}[kind]
    users = [a_limited_user(f"user {i}", **{kind: tuple(has)}) for i, (has, _, _) in enumerate(PATHS)]
    service = await shelf.start(*users)
    await shelf.put(*(with_media(str(i), {attribute: media} if media else {}) for i, (_, media, _) in enumerate(PATHS)))
    for i, (has, media, holds) in enumerate(PATHS):
        client = service.client(f"user {i}")
        assert (str(i) in await seen(client)) == holds, (has, media)
        assert (await client.get(f"{PATH}/{i}")).status_code == (200 if holds else 404), (has, media)


async def test_group_and_partition_must_hold_the_same_media_file(shelf: Shelf) -> None:
    service = await shelf.start(a_limited_user(access_groups=("US",), partitions=("sales",)))
    here, elsewhere = {"accessgroups": ["US"]}, {"accessgroups": ["DE"]}
    sales, support = {"partitions": ["sales/new"]}, {"partitions": ["support"]}
    await shelf.put(
        with_media("one of each", here | support, elsewhere | sales),
        with_media("both", elsewhere | sales, here | sales, here | support),
        with_media("neither", elsewhere | support),
    )
    assert await seen(service.client("amy")) == {"both": ["1"]}


async def test_both_names_of_access_groups_count_on_one_media_file(shelf: Shelf) -> None:
    service = await shelf.start(a_limited_user(access_groups=("US",)))
    await shelf.put(
        with_media("a", {"accessgroup": ["US"], "accessgroups": ["DE"]}),
        with_media("b", {"accessgroup": ["DE"], "accessgroups": ["US"]}),
        with_media("c", {"accessgroup": [], "accessgroups": None}),
    )
    assert await seen(service.client("amy")) == {"a": ["0"], "b": ["0"]}


async def test_own_recordings_show_all_their_media_files_besides_what_the_groups_show(shelf: Shelf) -> None:
    service = await shelf.start(a_limited_user("Amy", access_groups=("US",), own_recordings=True))
    hers = an_event(contact=a_user(userName="aMY"))
    caller = an_event(contact={**a_user(userName="amy"), "type": "External"})
    alike = an_event(contact=a_user("Amy", "Amy", userName="amy2"))
    await shelf.put(
        with_media("hers", {"accessgroups": ["DE"]}, {"accessgroups": ["US"]}, eventHistory=[hers]),
        with_media("of a caller of her name", {"accessgroups": ["DE"]}, eventHistory=[caller]),
        with_media("of somebody of a similar name", {"accessgroups": ["DE"]}, eventHistory=[alike]),
        with_media("of her group", {"accessgroups": ["DE"]}, {"accessgroups": ["US"]}),
    )
    assert await seen(service.client("Amy")) == {"hers": ["0", "1"], "of her group": ["1"]}


async def test_hidden_media_files_are_left_out_and_cannot_be_played(shelf: Shelf) -> None:
    service = await shelf.start(a_limited_user(access_groups=("US",)))
    await shelf.put(with_media("r", {"accessgroups": ["US"]}, {"accessgroups": ["DE"]}))
    shown = (await service.client("amy").get(f"{PATH}/r")).json()["recording"]
    assert media_ids(shown) == ["0"]
    files = (await service.client("admin").get(f"{PATH}/r")).json()["recording"]["mediaFiles"]
    # Nothing answers where the media would be, so the one that is shown fails there.
    assert (await service.client("amy").get(files[0]["mediaUri"])).status_code == 502
    hidden = await service.client("amy").get(files[1]["mediaUri"])
    absent = await service.client("amy").get(files[1]["mediaUri"].replace(".mp3", "x.mp3"))
    name = files[1]["mediaUri"].rpartition("/")[2]
    assert_error(hidden, 404, 6)
    assert hidden.text.replace(name, "NAME") == absent.text.replace(name.replace(".mp3", "x.mp3"), "NAME")


async def test_criteria_and_times_follow_the_whole_recording(shelf: Shelf) -> None:
    service = await shelf.start(a_limited_user(access_groups=("US",)))
    early = {"startTime": "2013-05-17T10:00:00Z", "stopTime": "2013-05-17T10:01:00Z"}
    late = {"startTime": "2013-05-17T11:00:00Z", "stopTime": "2013-05-17T11:01:00Z"}
    await shelf.put(with_media("r", {"accessgroups": ["US"], **late}, {"accessgroups": ["DE"], **early}))
    assert await seen(service.client("amy"), startTime="2013-05-17T09:59:59Z", endTime="2013-05-17T11:02:00Z")
    assert not await seen(service.client("amy"), startTime="2013-05-17T10:30:00Z")
    shown = (await service.client("amy").get(f"{PATH}/r")).json()["recording"]
    assert shown["startTime"] == "2013-05-17T10:00:00.000+0000"


async def test_screen_recordings_are_shown_and_hidden_as_recordings_are(shelf: Shelf) -> None:
    service = await shelf.start(a_limited_user("Amy", access_groups=("US",), own_recordings=True))
    hers = an_event(contact=a_user(userName="amy"))
    us, de = {"accessgroups": ["US"]}, {"accessgroups": ["DE"]}
    recordings = [
        with_media("whole", us),
        with_media("partly", de, us, de),
        with_media("hidden", de),
        with_media("hers", de, us, eventHistory=[hers]),
    ]
    expected = {"whole": ["0"], "partly": ["1"], "hers": ["0", "1"]}
    amy = service.client("Amy")
    kinds: tuple[tuple[Resource, str, str], ...] = (
        ("recordings", "recordings", "recording"),
        ("screen-recordings", "screenRecordings", "screenRecording"),
    )
    for resource, many, one in kinds:
        await shelf.put(*recordings, resource=resource)
        path = f"/api/v2/{resource}"
        found = (await amy.get(path, params={"callerPhoneNumber": "*", "total": "*"})).json()
        assert {each["id"]: media_ids(each) for each in found[many]} == expected, resource
        assert (found["total"], found["totalIsExact"]) == (3, True)
        for recording_id, media in expected.items():
            assert media_ids((await amy.get(f"{path}/{recording_id}")).json()[one]) == media
        assert_error(await amy.get(f"{path}/hidden"), 404, 6)


async def test_administrator_with_limits_sees_what_they_show(shelf: Shelf) -> None:
    service = await shelf.start(a_limited_user(roles=("admin",), access_groups=("US",)))
    await shelf.put(with_media("r", {"accessgroups": ["US"]}), with_media("s", {"accessgroups": ["DE"]}))
    assert await seen(service.client("amy")) == {"r": ["0"]}
    assert (await service.client("admin").get(f"{PATH}/s")).status_code == 200


@pytest.mark.parametrize("role", ["supervisor", "agent"])
async def test_user_with_nothing_to_see_may_not_read_but_protect_everything(shelf: Shelf, role: str) -> None:
    permission = "RECORDING_PERMISSION_APPLY_NON_DELETE"
    service = await shelf.start(a_limited_user(roles=(role,), permissions=(permission,), **NO_LIMITS))
    await shelf.put(with_media("r", {"accessgroups": ["US"]}))
    amy = service.client("amy")
    for path in (f"{PATH}?callerPhoneNumber=*", f"{PATH}/r", f"{PATH}/r/play/x.wav"):
        assert_error(await amy.get(path), 403, 5)
    assert (await amy.post(f"{PATH}/r", json={"operationName": "applyNonDelete"})).status_code == 200


async def test_protection_takes_along_screen_recordings_that_its_user_cannot_see(shelf: Shelf) -> None:
    permission = "RECORDING_PERMISSION_APPLY_NON_DELETE"
    service = await shelf.start(a_limited_user(access_groups=("US",), permissions=(permission,)))
    ops, amy = service.client("ops"), service.client("amy")
    for path, group in (("recordings", "US"), ("screen-recordings", "DE")):
        posted = a_recording("r", mediaFiles=[a_media_file(f"{path}.mp4", accessgroups=[group])])
        await ops.post(f"/api/v2/ops/contact-centers/{CONTACT_CENTER}/{path}?refresh=wait_for", json=posted)
    assert_error(await amy.get("/api/v2/screen-recordings/r"), 404, 6)
    assert (await amy.post(f"{PATH}/r", json={"operationName": "applyNonDelete"})).status_code == 200
    screen = await service.client("admin").get("/api/v2/screen-recordings/r")
    assert screen.json()["screenRecording"]["nonDelete"] is True


# --- What is hidden does not exist ----------------------------------------------------------------

HIDDEN, ABSENT = "hidden-recording", "absent-recording"
# Of the API and of the page. A user without limits reads what has a contact center in its path.
READERS = [
    endpoint
    for endpoint in (*routes.ENDPOINTS, *page_routes.ENDPOINTS)
    if endpoint.authentication != "none" and "{contact_center}" not in endpoint.path
]
# Nothing in these paths names a recording. What they find is compared with the oracle, or is about no recording.
NAMELESS = {
    *("recordings", "page-api-recordings", "page-recordings", "screen-recordings", "page-api-screen-recordings"),
    *("label-definitions", "page-api-label-definitions", "label-definition", "page-api-label-definition"),
    *("audit", "page-api-audit", "me", "page-api-me", "ops-contact-centers"),
    # tests/api/test_operations.py
    *("recording-operations", "page-api-recording-operations", "recording-operation", "page-api-recording-operation"),
    # tests/page/test_operations.py
    *("page-operations", "page-operation-stop"),
}
REQUESTS = [
    pytest.param(endpoint, name, path, id=f"{name} {path}")
    for endpoint in READERS
    for path in endpoint.paths
    if "{id}" in path
    for name in endpoint.methods
]


def test_every_endpoint_for_readers_is_compared_below_or_names_no_recording() -> None:
    assert {endpoint.name for endpoint in READERS if "{id}" not in endpoint.path} == NAMELESS
    assert all("{id}" in path for endpoint in READERS if "{id}" in endpoint.path for path in endpoint.paths)


@dataclass(frozen=True)
class Hidden:
    """Amy may do everything, but does not see the recording HIDDEN. `media` is how its media file is called."""

    amy: httpx.AsyncClient
    amy_signed_in: httpx.AsyncClient
    admin: httpx.AsyncClient
    media: dict[str, str]


@pytest.fixture(scope="module")
async def hidden(elasticsearch_url: str) -> AsyncIterator[Hidden]:
    permissions = tuple(sorted({p for needed in POLICY.values() for p in needed.permissions}))
    amy = a_limited_user(roles=("admin", "supervisor"), access_groups=("US",), permissions=permissions)
    media = {}
    async with own_settings(elasticsearch_url) as settings:
        service = Service(msgspec.structs.replace(settings, users=(*USERS, amy), **PATIENT))
        await service.start()
        for resource, one in (("recordings", "recording"), ("screen-recordings", "screenRecording")):
            path = OPS_PATH.replace("/recordings", f"/{resource}")
            await service.client("ops").post(path, json=with_media(HIDDEN, {"accessgroups": ["DE"]}))
            shown = (await service.client("admin").get(f"/api/v2/{resource}/{HIDDEN}")).json()[one]
            media[resource] = shown["mediaFiles"][0]["mediaPath"].rpartition("/")[2]
        yield Hidden(service.client("amy"), await signed_in(service, "amy"), service.client("admin"), media)
        await service.stop()


@pytest.mark.parametrize(("endpoint", "name", "path"), REQUESTS)
async def test_hidden_recording_is_answered_as_one_that_does_not_exist(
    hidden: Hidden, endpoint: Endpoint, name: str, path: str
) -> None:
    client = hidden.amy if endpoint.authentication == "basic" else hidden.amy_signed_in
    method = endpoint.methods[name]
    bodies: list[Any] = [{"operationName": choice} for choice in method.choices] or [{"name": "label", "comment": "c"}]
    for body in bodies if name in {"POST", "PUT"} else [None]:
        answers = []
        for recording_id in (HIDDEN, ABSENT):
            media = hidden.media[endpoint.resource or "recordings"]
            url = path.replace("{id}", recording_id).replace("{name}", media).replace("{label}", "label")
            assert "{" not in url, "what stands for this part of the path?"
            answer = await client.request(name, url, json=body, headers=OURS)
            headers = {key: value for key, value in answer.headers.items() if key not in {"date", "content-length"}}
            # What differs from one answer of the page to the next.
            nonces = re.findall(r"'nonce-([^']+)'", headers.get("content-security-policy", ""))
            told = re.sub("|".join([*map(re.escape, nonces), r'data-seconds-left="[0-9.]+"']), "", answer.text)
            headers = {key: re.sub(r"'nonce-[^']+'", "", value) for key, value in headers.items()}
            answers.append((answer.status_code, headers, told.replace(recording_id, "ID")))
        assert answers[0] == answers[1]
        assert answers[0][0] == (403 if all(POLICY[operation].unlimited for operation in method.operations) else 404)
    assert (await hidden.admin.get(f"{PATH}/{HIDDEN}")).status_code == 200


async def test_pages_tell_nothing_of_hidden_recordings(shelf: Shelf) -> None:
    """A limited user's pages and links are those of a contact center that has only what she sees."""
    service = await shelf.start(a_limited_user(access_groups=("US",)))
    shown = [with_media(f"shown {i:02}", {"accessgroups": ["US"]}) for i in range(5)]
    amy = service.client("amy")

    async def pages() -> list[str]:
        texts, url = [], f"{PATH}?callerPhoneNumber=*&limit=2"
        while url:
            answer = (await amy.get(url)).json()
            texts.append(str(answer))
            url = answer.get("nextUri", "")
        return texts

    await shelf.put(*shown)
    before = await pages()
    await shelf.put(*(with_media(f"shown {i:02}a", {"accessgroups": ["DE"]}) for i in range(5)))
    assert await pages() == before


async def test_limits_hold_in_the_own_contact_center_alone(shelf: Shelf) -> None:
    service = await shelf.start(a_limited_user(access_groups=("/",)))
    path = f"/api/v2/ops/contact-centers/{OTHER_CONTACT_CENTER}/recordings"
    await service.client("ops").post(f"{path}?refresh=wait_for", json=a_recording("theirs"))
    assert await seen(service.client("amy")) == {}
    assert_error(await service.client("amy").get(f"{PATH}/theirs"), 404, 6)
