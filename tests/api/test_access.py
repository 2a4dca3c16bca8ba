"""What a limited user sees: access groups, partitions and own recordings (docs/contract.md sections 2 and 14).

The oracle at the end shares no code with `app/`.
"""

import os
import unicodedata
from collections.abc import Iterable, Mapping
from random import Random
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from elasticsearch import AsyncElasticsearch

from app.api.endpoint import Endpoint
from app.api.routes import ENDPOINTS
from app.auth.policy import POLICY
from app.settings import Settings, User
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
from tests.support.service import USERS, Service, StartService, assert_error, basic, hash_password
from tests.support.sizes import size

pytestmark = pytest.mark.emptied_indices

PATH = "/api/v2/recordings"
SEEDS = [int(seed) for seed in os.environ.get("RECALL_SEEDS", "1 2").split()]
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

    async def put(self, *recordings: dict[str, Any]) -> None:
        await store_many(self._elasticsearch, self._settings, recordings)


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
    for i, (_, media, _) in enumerate(PATHS):
        await shelf.put(with_media(str(i), {attribute: media} if media else {}))
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

READERS_PATHS = [
    pytest.param(endpoint, name, path, id=f"{name} {path}")
    for endpoint in ENDPOINTS
    if endpoint.resource is not None and endpoint.authentication != "none"
    for path in endpoint.paths
    if "{id}" in path and "{contact_center}" not in path
    for name in endpoint.methods
]


@pytest.mark.parametrize(("endpoint", "name", "path"), READERS_PATHS)
async def test_hidden_recording_is_answered_as_one_that_does_not_exist(
    shelf: Shelf, endpoint: Endpoint, name: str, path: str
) -> None:
    permissions = tuple(sorted({p for needed in POLICY.values() for p in needed.permissions}))
    roles = ("admin",) if "export" in endpoint.methods[name].operations else ("agent",)
    service = await shelf.start(a_limited_user(roles=roles, access_groups=("US",), permissions=permissions))
    uuids = []
    for resource in ("recordings", "screen-recordings"):
        ops_path = OPS_PATH.replace("/recordings", f"/{resource}")
        await service.client("ops").post(ops_path, json=with_media("hidden", {"accessgroups": ["DE"]}))
        shown = (await service.client("ops").get(f"{ops_path}/hidden")).json()
        uuids += [
            m["mediaPath"].rpartition("/")[2] for v in shown.values() if isinstance(v, dict) for m in v["mediaFiles"]
        ]
    media_name = uuids[0 if endpoint.resource == "recordings" else 1]
    method = endpoint.methods[name]
    bodies: list[Any] = [{"operationName": choice} for choice in method.choices] or [{"name": "label", "comment": "c"}]
    for body in bodies if name in {"POST", "PUT"} else [None]:
        answers = []
        for recording_id in ("hidden", "absent"):
            url = path.replace("{id}", recording_id).replace("{name}", media_name).replace("{label}", "label")
            answer = await service.client("amy").request(name, url, json=body)
            headers = {key: value for key, value in answer.headers.items() if key not in {"date", "content-length"}}
            answers.append((answer.status_code, headers, answer.text.replace(recording_id, "ID")))
        assert answers[0] == answers[1]
        assert answers[0][0] == 404
    if name == "DELETE":
        assert (await service.client("admin").get(f"{PATH}/hidden")).status_code == 200


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


# --- Random users against random recordings -------------------------------------------------------

PARTS = ("US", "CA", "us", "U S", "é", "e\u0301", "", "/", "x" * 300)


def a_path(rng: Random) -> str:
    inner = "/".join(rng.choice(PARTS[:6]) for _ in range(rng.randint(0, 3)))
    return rng.choice(("", "/")) + inner + rng.choice(("", "/")) or "/"


def some_paths(rng: Random) -> list[str]:
    return [a_path(rng) for _ in range(rng.choice((0, 1, 1, 2, 3)))]


def a_random_recording(rng: Random, number: int) -> dict[str, Any]:
    def media() -> dict[str, Any]:
        names = rng.sample(("accessgroup", "accessgroups", "partitions"), rng.randint(0, 3))
        return {name: some_paths(rng) for name in names}

    events = [
        an_event(
            occurredAt=f"2013-05-18T22:25:{i:02}.000+0000",
            contact={**a_user(userName=rng.choice(NAMES)), "type": rng.choice(("User", "User", "External"))},
        )
        for i in range(rng.randint(1, 3))
    ]
    return with_media(f"r{number}", *(media() for _ in range(rng.randint(1, 4))), eventHistory=events)


NAMES = ("amy", "AMY", "Ämy", "ämy", "A\u0308my", "ｂob", "bob", "carl")


def a_random_user(rng: Random, number: int) -> User:
    limits: dict[str, Any] = {}
    while not any(limits.values()):
        limits = {
            "access_groups": tuple(some_paths(rng)) if rng.random() < 0.6 else (),
            "partitions": tuple(some_paths(rng)) if rng.random() < 0.5 else (),
            "own_recordings": rng.random() < 0.4,
        }
    name = NAMES[number] if number < len(NAMES) else f"user{number}"
    return a_limited_user(name, roles=(rng.choice(("admin", "supervisor", "agent")),), **limits)


def oracle_parts(path: str) -> list[str]:
    path = unicodedata.normalize("NFC", path)
    while path.startswith("/"):
        path = path[1:]
    while path.endswith("/"):
        path = path[:-1]
    return path.split("/") if path else []


def oracle_holds(holders: Iterable[str], held: Iterable[str]) -> bool:
    return any(oracle_parts(b)[: len(oracle_parts(a))] == oracle_parts(a) for a in holders for b in list(held) or ["/"])


def oracle_name(name: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def oracle_sees(user: User, recording: dict[str, Any]) -> list[str]:
    """The media files of a recording that a user sees."""
    own = user.own_recordings and any(
        event["contact"]["type"] == "User" and oracle_name(event["contact"]["userName"]) == oracle_name(user.name)
        for event in recording["eventHistory"]
    )
    visible = []
    for media in recording["mediaFiles"]:
        groups = (media.get("accessgroup") or []) + (media.get("accessgroups") or [])
        by_group = not user.access_groups or oracle_holds(user.access_groups, groups)
        by_partition = not user.partitions or oracle_holds(user.partitions, media.get("partitions") or [])
        if own or ((user.access_groups or user.partitions) and by_group and by_partition):
            visible.append(media["mediaId"])
    return visible


@pytest.mark.parametrize("seed", SEEDS)
async def test_random_users_see_what_the_oracle_says(shelf: Shelf, seed: int) -> None:
    rng = Random(seed)
    recordings = [a_random_recording(rng, i) for i in range(90)]
    users = [a_random_user(rng, i) for i in range(size(40, full=400))]
    service = await shelf.start(*users)
    await shelf.put(*recordings)
    outcomes = set()
    for user in users:
        client = service.client(user.name) if user.name.isascii() else _client_of(service, user.name)
        wanted = {r["id"]: visible for r in recordings if (visible := oracle_sees(user, r))}
        assert await seen(client) == wanted, (seed, user)
        for recording in rng.sample(recordings, 10):
            answer = await client.get(f"{PATH}/{quote(recording['id'])}")
            visible = wanted.get(recording["id"], [])
            outcomes.add((bool(visible), len(visible) < len(recording["mediaFiles"])))
            if not visible:
                assert_error(answer, 404, 6)
            else:
                assert media_ids(answer.json()["recording"]) == visible, (seed, user, recording)
    assert outcomes == {(False, True), (True, False), (True, True)}


def _client_of(service: Service, name: str) -> httpx.AsyncClient:
    return service.client(None, headers={"authorization": basic(name, f"{name}-password")})


async def test_limits_hold_in_the_own_contact_center_alone(shelf: Shelf) -> None:
    service = await shelf.start(a_limited_user(access_groups=("/",)))
    path = f"/api/v2/ops/contact-centers/{OTHER_CONTACT_CENTER}/recordings"
    await service.client("ops").post(f"{path}?refresh=wait_for", json=a_recording("theirs"))
    assert await seen(service.client("amy")) == {}
    assert_error(await service.client("amy").get(f"{PATH}/theirs"), 404, 6)
