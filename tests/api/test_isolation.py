"""Two contact centers and two regions that use the same ids never meet (docs/contract.md sections 2 to 5).

The identity of a recording is its contact center, its region and its id.
"""

from collections.abc import Awaitable, Callable
from itertools import product
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from elasticsearch import AsyncElasticsearch

from app.settings import Settings, User
from tests.support.recordings import CONTACT_CENTER, OTHER_CONTACT_CENTER, a_media_file, a_recording, a_user, an_event
from tests.support.service import USERS, Service, StartService, assert_error

PATH = "/api/v2/recordings"
REGIONS = ("eu", "us east")
# Contact center → its administrator.
ADMINISTRATORS = {CONTACT_CENTER: "admin", OTHER_CONTACT_CENTER: "other-admin"}
PLACES = list(product(ADMINISTRATORS, REGIONS))
SHARED_ID = "a/shared id"

Services = dict[str, Service]
Refresh = Callable[[], Awaitable[object]]


def ops_path(contact_center: str) -> str:
    return f"/api/v2/ops/contact-centers/{quote(contact_center, safe='')}/recordings"


def marked(contact_center: str, region: str, recording_id: str = SHARED_ID, **attributes: Any) -> dict[str, Any]:
    """A recording that says in every searchable attribute where it belongs."""
    mark = f"{contact_center}|{region}".replace(" ", "_")
    event = an_event(contact=a_user(mark, mark, userName=mark), data={"mark": mark})
    return a_recording(
        recording_id,
        region=region,
        callerPhoneNumber=mark,
        dialedPhoneNumber=mark,
        mark=mark,
        eventHistory=[event],
        **attributes,
    )


@pytest.fixture
def refresh(elasticsearch: AsyncElasticsearch, settings: Settings) -> Refresh:
    """Makes what was posted searchable, sooner than `?refresh=wait_for`."""
    return lambda: elasticsearch.indices.refresh(index=f"{settings.index_prefix}-*")


@pytest.fixture
async def services(start_service: StartService, refresh: Refresh) -> Services:
    """Region → a service there; both on the same Elasticsearch, each contact center with one recording in each."""
    services = {region: await start_service(region=region) for region in REGIONS}
    for contact_center, region in PLACES:
        # Each is another recording: none updates one that was there.
        response = (
            await services[region].client("ops").post(ops_path(contact_center), json=marked(contact_center, region))
        )
        assert response.status_code == 201, response.text
    await refresh()
    return services


def readers(services: Services, contact_center: str, region: str) -> list[tuple[httpx.AsyncClient, str]]:
    """Whoever may read the recordings of a contact center at a region's service, and under which path."""
    service = services[region]
    return [(service.client(ADMINISTRATORS[contact_center]), PATH), (service.client("ops"), ops_path(contact_center))]


async def marks(client: httpx.AsyncClient, path: str, **parameters: Any) -> list[str]:
    response = await client.get(path, params=parameters)
    assert response.status_code == 200, response.text
    return [recording["mark"] for recording in response.json()["recordings"]]


async def test_recording_is_readable_only_in_its_contact_center_and_region(services: Services) -> None:
    for contact_center, region in PLACES:
        for client, path in readers(services, contact_center, region):
            response = await client.get(f"{path}/{quote(SHARED_ID, safe='')}")
            recording = response.json()["recording"]
            assert recording["mark"] == marked(contact_center, region)["mark"]
            assert recording["region"] == region


EVERYTHING = (
    {"startTime": 0},
    {"endTime": "2100-01-01"},
    {"callerPhoneNumber": "*"},
    {"dialedPhoneNumber": "*"},
    {"userName": "*"},
    {"userData": "*"},
    {"startTime": 0, "userName": "* AND *", "userData": "* *"},
)


async def test_search_for_everything_finds_only_recordings_in_scope(services: Services) -> None:
    for contact_center, region in PLACES:
        for client, path in readers(services, contact_center, region):
            for criteria in EVERYTHING:
                assert await marks(client, path, **criteria) == [marked(contact_center, region)["mark"]]
        administrator = services[region].client(ADMINISTRATORS[contact_center])
        assert await marks(administrator, f"{PATH}/recordings", startTime=0) == [marked(contact_center, region)["mark"]]


async def test_search_for_values_of_another_scope_finds_nothing(services: Services) -> None:
    for own, other in product(PLACES, PLACES):
        mark = marked(*other)["mark"]
        for client, path in readers(services, *own):
            for criteria in ({"callerPhoneNumber": mark}, {"userName": mark}, {"userData": f"*{mark[1:-1]}*"}):
                assert await marks(client, path, **criteria) == ([mark] if own == other else [])


@pytest.mark.parametrize("name", ["region", "contactCenter", "contact_center", "id", "query", "q", "index", "routing"])
async def test_no_parameter_selects_another_scope(services: Services, name: str) -> None:
    for client, path in readers(services, *PLACES[0]):
        for value in (OTHER_CONTACT_CENTER, REGIONS[1], "*"):
            response = await client.get(path, params={"startTime": 0, name: value})
            assert_error(response, 400, 2, f"Parameter '{name}' is invalid: ")


async def test_page_links_of_another_scope_return_only_recordings_in_scope(
    services: Services, refresh: Refresh
) -> None:
    for contact_center, region in PLACES:
        ops = services[region].client("ops")
        await ops.post(ops_path(contact_center), json=marked(contact_center, region, "more"))
    await refresh()
    for own, other in product(PLACES, PLACES):
        (other_client, other_path), *_ = readers(services, *other)
        page = (await other_client.get(other_path, params={"startTime": 0, "limit": 1})).json()
        query = httpx.URL(page["nextUri"]).query.decode()
        for client, path in readers(services, *own):
            response = await client.get(f"{path}?{query}")
            assert {recording["mark"] for recording in response.json()["recordings"]} <= {marked(*own)["mark"]}


async def test_update_changes_only_the_recording_in_scope(services: Services) -> None:
    changed = PLACES[0]
    update = marked(*changed, mediaFiles=[a_media_file("another.mp3")], updated=True)
    response = await services[changed[1]].client("ops").post(ops_path(changed[0]), json=update)
    assert response.status_code == 200
    for place in PLACES:
        response = await services[place[1]].client("ops").get(f"{ops_path(place[0])}/{quote(SHARED_ID, safe='')}")
        recording = response.json()["recording"]
        assert recording.get("updated", False) == (place == changed)
        assert len(recording["mediaFiles"]) == (2 if place == changed else 1)


async def test_recording_of_another_scope_is_answered_like_a_missing_one(services: Services) -> None:
    (contact_center, region), *others = PLACES
    ops = services[region].client("ops")
    await ops.post(ops_path(contact_center), json=marked(contact_center, region, "only here"))
    assert (await ops.get(f"{ops_path(contact_center)}/only%20here")).status_code == 200
    for place in others:
        for client, path in readers(services, *place):
            here, nowhere = await client.get(f"{path}/only%20here"), await client.get(f"{path}/only%20gone")
            assert_error(here, 404, 6)
            assert here.text == nowhere.text.replace("gone", "here")


async def test_recording_of_another_region_can_be_posted_here_and_read_there(services: Services) -> None:
    here, there = REGIONS
    recording = marked(CONTACT_CENTER, there, "posted elsewhere")
    path = ops_path(CONTACT_CENTER)
    assert (await services[here].client("ops").post(path, json=recording)).status_code == 201
    assert_error(await services[here].client("ops").get(f"{path}/posted%20elsewhere"), 404, 6)
    assert (await services[there].client("ops").get(f"{path}/posted%20elsewhere")).status_code == 200
    assert (await services[there].client("ops").post(path, json=recording)).status_code == 200


# --- contact centers and regions of every name ---

ODD_CONTACT_CENTERS = (
    "a",
    "A",
    "a/b",
    "a%2Fb",
    "a b",
    "a+b",
    "a?b#c",
    ".",
    "..",
    "*",
    '"a"',
    "a\\b",
    "a\0b",
    "é",
    "e\u0301",
    "😀 / 名前",
    "x" * 400,
    "recordings",
)


async def test_contact_center_may_have_any_name(start_service: StartService, refresh: Refresh) -> None:
    password_hash = next(user.password_hash for user in USERS if user.name == "admin")
    # An administrator for each, named by their number.
    administrators = tuple(
        User(name=str(i), password_hash=password_hash, roles=("admin",), contact_center=name)
        for i, name in enumerate(ODD_CONTACT_CENTERS)
    )
    service = await start_service(users=USERS + administrators)
    ops, administrator = service.client("ops"), service.client()
    for name in ODD_CONTACT_CENTERS:
        response = await ops.post(path_of(name), json=a_recording(SHARED_ID, mark=name))
        assert response.status_code == 201, response.text
        assert (await ops.get(response.json()["uri"])).json()["recording"]["mark"] == name
    await refresh()
    for i, name in enumerate(ODD_CONTACT_CENTERS):
        assert await marks(ops, path_of(name), startTime=0) == [name]
        response = await administrator.get(PATH, params={"startTime": 0}, auth=(str(i), "admin-password"))
        assert [recording["mark"] for recording in response.json()["recordings"]] == [name]


def path_of(contact_center: str) -> str:
    """Every byte percent-encoded, which no client or server can take for something else."""
    encoded = "".join(f"%{byte:02X}" for byte in contact_center.encode())
    return f"/api/v2/ops/contact-centers/{encoded}/recordings"


async def test_invalid_contact_center_is_code_2(ops: httpx.AsyncClient) -> None:
    for name in (" ", " a", "a ", "\u00a0a", "a\u3000", "\t", "x" * 401):
        path = path_of(name)
        for response in (
            await ops.get(path, params={"startTime": 0}),
            await ops.get(f"{path}/any"),
            await ops.post(path, json=a_recording()),
        ):
            assert_error(response, 400, 2)


async def test_contact_center_region_and_id_are_not_confused(start_service: StartService) -> None:
    # Joined by any separator, some of these would be the same.
    places = [
        ("a", "b", "c"),
        ("a/b", "c", "c"),
        ("a", "b/c", "c"),
        ("a", "b", "c/c"),
        ("a/b", "b", "c"),
        ("a|b", "c", "d"),
        ("a", "b|c", "d"),
        ("a:b", "c", "d"),
        ("a", "b:c", "d"),
        ("a\0b", "c", "d"),
        ("a", "b\0c", "d"),
        ('a","b', "c", "d"),
        ("a", 'b","c', "d"),
        ("b", "a", "c"),
        ("c", "b", "a"),
        ("A", "b", "c"),
        ("a", "B", "c"),
        ("a", "b", "C"),
    ]
    service = await start_service()
    ops = service.client("ops")
    for contact_center, region, recording_id in places:
        response = await ops.post(ops_path(contact_center), json=a_recording(recording_id, region=region))
        assert response.status_code == 201, (contact_center, region, recording_id)
