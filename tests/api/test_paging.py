"""Pages and the links between them (docs/contract.md section 5)."""

import random
import zlib
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import httpx
import msgspec
import pytest
from elasticsearch import AsyncElasticsearch

from app.settings import Settings
from tests.support.recordings import OPS_PATH, a_media_file, a_recording, store_many
from tests.support.service import Service, assert_error
from tests.support.sizes import WALKED_RECORDINGS

PATH = "/api/v2/recordings"
START = datetime(2024, 1, 1, tzinfo=UTC)


def recording_at(recording_id: str, seconds: int) -> dict[str, Any]:
    time = (START + timedelta(seconds=seconds)).isoformat()
    return a_recording(recording_id, mediaFiles=[a_media_file(startTime=time, stopTime=time)])


def ids(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return [recording["id"] for recording in response.json()["recordings"]]


def parameters(uri: str) -> dict[str, list[str]]:
    return parse_qs(urlsplit(uri).query)


@pytest.fixture
async def ten(service: Service, elasticsearch: AsyncElasticsearch, settings: Settings) -> list[str]:
    """The ids of ten recordings, in the order in which they are found."""
    await store_many(elasticsearch, settings, [recording_at(f"r{i}", seconds=-i) for i in range(10)])
    return [f"r{i}" for i in range(10)]


async def walk(client: httpx.AsyncClient, uri: str, link: str) -> list[list[str]]:
    """The ids on the page at `uri` and on those that follow by the link."""
    pages = []
    while uri:
        response = await client.get(uri)
        pages.append(ids(response))
        uri = response.json().get(link)
    return pages


async def test_results_are_sorted_by_newest_start_time_then_id(
    service: Service, admin: httpx.AsyncClient, elasticsearch: AsyncElasticsearch, settings: Settings
) -> None:
    times = {"b": 5, "a": 5, "old": 1, "new": 9, "B": 5, "é": 5, "ab": 5}
    await store_many(elasticsearch, settings, [recording_at(name, time) for name, time in times.items()])
    assert ids(await admin.get(PATH, params={"startTime": 0})) == ["new", "B", "a", "ab", "b", "é", "old"]


async def test_default_page_is_the_first_hundred(
    service: Service, admin: httpx.AsyncClient, elasticsearch: AsyncElasticsearch, settings: Settings
) -> None:
    await store_many(elasticsearch, settings, [recording_at(f"r{i:03}", -i) for i in range(101)])
    response = await admin.get(PATH, params={"startTime": 0})
    assert ids(response) == [f"r{i:03}" for i in range(100)]
    assert ids(await admin.get(response.json()["nextUri"])) == ["r100"]


async def test_next_uri_is_present_only_if_more_follow(admin: httpx.AsyncClient, ten: list[str]) -> None:
    page = await admin.get(PATH, params={"startTime": 0, "limit": 9})
    assert ids(page) == ten[:9]
    assert "nextUri" in page.json()
    page = await admin.get(PATH, params={"startTime": 0, "limit": 10})
    assert ids(page) == ten
    assert "nextUri" not in page.json()


async def test_prev_uri_is_present_only_if_offset_is_above_zero(admin: httpx.AsyncClient, ten: list[str]) -> None:
    assert "prevUri" not in (await admin.get(PATH, params={"startTime": 0, "offset": 0})).json()
    page = await admin.get(PATH, params={"startTime": 0, "offset": 4, "limit": 2})
    assert ids(page) == ten[4:6]
    assert ids(await admin.get(page.json()["prevUri"])) == ten[2:4]


async def test_prev_uri_near_the_start_is_the_first_page(admin: httpx.AsyncClient, ten: list[str]) -> None:
    page = await admin.get(PATH, params={"startTime": 0, "offset": 1, "limit": 4})
    assert parameters(page.json()["prevUri"])["offset"] == ["0"]
    assert ids(await admin.get(page.json()["prevUri"])) == ten[:4]


async def test_page_beyond_the_end_is_empty_and_has_a_prev_uri(admin: httpx.AsyncClient, ten: list[str]) -> None:
    page = await admin.get(PATH, params={"startTime": 0, "offset": 12, "limit": 4})
    assert ids(page) == []
    assert "nextUri" not in page.json()
    assert ids(await admin.get(page.json()["prevUri"])) == ten[8:]


async def test_links_are_absolute_and_keep_path_and_parameters(admin: httpx.AsyncClient, ten: list[str]) -> None:
    """As in the reference document's example of a result in several pages."""
    page = await admin.get(
        f"{PATH}/recordings?startTime=2013-05-17T11:45:32.000%2B0100&callerPhoneNumber=%2B1*&userName=D*+AND+Pokh"
        "&offset=4&limit=2"
    )
    assert ids(page) == ten[4:6]
    for link, offset in (("prevUri", "2"), ("nextUri", "6")):
        uri = page.json()[link]
        assert uri.startswith(f"{admin.base_url}{PATH}/recordings?".replace("//api", "/api"))
        kept = parameters(uri)
        kept.pop("cursor")
        assert kept == {
            "startTime": ["2013-05-17T11:45:32.000+0100"],
            "callerPhoneNumber": ["+1*"],
            "userName": ["D* AND Pokh"],
            "offset": [offset],
            "limit": ["2"],
        }


async def test_links_of_the_ops_path_can_be_followed_by_ops(ops: httpx.AsyncClient, ten: list[str]) -> None:
    pages = await walk(ops, f"{OPS_PATH}?startTime=0&limit=3", "nextUri")
    assert [recording_id for page in pages for recording_id in page] == ten


async def test_date_with_an_unescaped_plus_is_kept_in_links(admin: httpx.AsyncClient, ten: list[str]) -> None:
    pages = await walk(admin, f"{PATH}?startTime=2013-05-17T11:45:32.000+0100&limit=4", "nextUri")
    assert [recording_id for page in pages for recording_id in page] == ten


async def test_walk_neither_misses_nor_repeats_recordings_while_others_arrive(
    admin: httpx.AsyncClient,
    ten: list[str],
    elasticsearch: AsyncElasticsearch,
    settings: Settings,
) -> None:
    page = await admin.get(PATH, params={"startTime": 0, "limit": 5})
    await store_many(elasticsearch, settings, [recording_at(f"newer{i}", seconds=1 + i) for i in range(3)])
    assert ids(await admin.get(page.json()["nextUri"])) == ten[5:]


@dataclass(frozen=True)
class Many:
    """More recordings than offsets reach: their start times in seconds after START, by their numbers."""

    service: Service
    times: dict[int, int]

    @property
    def ids(self) -> list[str]:
        """In the order in which they are found."""
        return [f"r{i:05}" for i in sorted(self.times, key=lambda i: (-self.times[i], i))]


@pytest.fixture(scope="module")
async def many(module_service: Service) -> Many:
    # A third shares one start time.
    many = Many(module_service, {i: 0 if i % 3 == 0 else i - 10_000 for i in range(WALKED_RECORDINGS)})
    numbers = list(many.times)
    random.Random(7).shuffle(numbers)
    recordings = (recording_at(f"r{i:05}", many.times[i]) for i in numbers)
    await store_many(module_service.services.client, module_service.settings, recordings)
    return many


async def test_walk_forward_and_back_sees_each_recording_once(many: Many) -> None:
    admin = many.service.client("admin")
    forward = await walk(admin, f"{PATH}?startTime=0", "nextUri")
    assert [recording_id for page in forward for recording_id in page] == many.ids

    last = await admin.get(f"{PATH}?startTime=0&offset=9900")
    while next_uri := last.json().get("nextUri"):
        last = await admin.get(next_uri)
    backward = await walk(admin, str(last.url), "prevUri")
    assert [recording_id for page in reversed(backward) for recording_id in page] == many.ids


async def test_offsets_up_to_ten_thousand_need_no_cursor_and_totals_count_so_far(many: Many) -> None:
    admin = many.service.client("admin")
    newest_first = sorted(many.times.values(), reverse=True)
    for found, total, is_exact in ((9_999, 9_999, True), (10_000, 10_000, True), (10_001, 10_000, False)):
        start = START + timedelta(seconds=newest_first[found - 1] - 0.5)
        for order in ("newest", "oldest"):
            query: dict[str, str | int] = {"startTime": start.isoformat(), "limit": 1, "total": "*", "order": order}
            page = (await admin.get(PATH, params=query)).json()
            assert (page["total"], page["totalIsExact"]) == (total, is_exact)
            page = (await admin.get(page["nextUri"])).json()
            assert (page["total"], page["totalIsExact"]) == (total, is_exact)
    page = await admin.get(PATH, params={"startTime": 0, "offset": 10_000})
    assert ids(page) == many.ids[10_000:10_100]
    assert ids(await admin.get(page.json()["nextUri"])) == many.ids[10_100:10_200]
    refused = await admin.get(PATH, params={"startTime": 0, "offset": 10_001})
    assert_error(refused, 400, 2, "follow nextUri")


async def test_empty_page_behind_a_cursor_has_a_prev_uri(admin: httpx.AsyncClient, ten: list[str]) -> None:
    """As when all that followed was deleted meanwhile."""
    last = (await admin.get(PATH, params={"startTime": 0, "limit": 9})).json()["nextUri"]
    cursor = parameters(last)["cursor"][0]
    older: dict[str, str | int] = {"endTime": "2000-01-01", "limit": 5, "offset": 20_000, "cursor": cursor}
    empty = await admin.get(PATH, params=older)
    assert ids(empty) == []
    back = await admin.get(empty.json()["prevUri"])
    assert back.status_code == 200


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("offset", "-1"),
        ("offset", "1.5"),
        ("offset", "x"),
        ("offset", "１"),
        ("offset", "99999999999999999999"),
        ("offset", ""),
        ("limit", "0"),
        ("limit", "101"),
        ("limit", "-1"),
        ("limit", "ten"),
        ("limit", ""),
        ("order", "Oldest"),
        ("order", ""),
        ("total", "true"),
        ("total", ""),
        ("total", "**"),
        ("cursor", ""),
        ("cursor", "x"),
        ("cursor", "WyJhZnRlciIsMSwieCJd!"),
        ("cursor", "WyJhZnRlciIsMSwx"),
        ("cursor", "WyJzaWRld2F5cyIsMSwieCJd"),
        ("cursor", "WyJhZnRlciIsOTk5OTk5OTk5OTk5OTk5OTk5LCJ4Il0"),
        ("cursor", "é"),
    ],
)
async def test_invalid_page_position_is_refused_by_name(module_service: Service, name: str, value: str) -> None:
    response = await module_service.client("admin").get(PATH, params={"startTime": 0, name: value})
    assert_error(response, 400, 2, f"Parameter '{name}' is invalid: ")


async def test_walk_back_skips_nothing_while_others_arrive(
    admin: httpx.AsyncClient, ten: list[str], elasticsearch: AsyncElasticsearch, settings: Settings
) -> None:
    """Newer ones arrive before each step, so what stood before the page no longer stands where its offset says."""
    page = await admin.get(PATH, params={"startTime": 0, "limit": 3})
    while next_uri := page.json().get("nextUri"):
        page = await admin.get(next_uri)
    seen = ids(page)
    for step in range(20):
        if step < 5:
            await store_many(elasticsearch, settings, [recording_at(f"new{step}", 100 + step)])
        if "prevUri" not in page.json():
            break
        page = await admin.get(page.json()["prevUri"])
        seen = ids(page) + seen
    assert "prevUri" not in page.json()
    arrived = [recording_id for recording_id in seen if recording_id.startswith("new")]
    assert [recording_id for recording_id in seen if not recording_id.startswith("new")] == ten
    assert arrived == [f"new{step}" for step in reversed(range(5))]


@pytest.mark.parametrize("offset", [1, 2, 5, 9])
async def test_a_step_back_to_the_first_page_skips_nothing_while_others_arrive(
    admin: httpx.AsyncClient,
    ten: list[str],
    elasticsearch: AsyncElasticsearch,
    settings: Settings,
    offset: int,
) -> None:
    page = await admin.get(PATH, params={"startTime": 0, "offset": offset, "limit": 10})
    assert ids(page) == ten[offset:]
    await store_many(elasticsearch, settings, [recording_at(f"new{i:02}", -100 + 1000 * (12 - i)) for i in range(12)])
    page = await admin.get(page.json()["prevUri"])
    assert ids(page) == ten
    assert "nextUri" not in page.json()
    page = await admin.get(page.json()["prevUri"])
    assert ids(page) == [f"new{i:02}" for i in range(2, 12)]
    page = await admin.get(page.json()["prevUri"])
    assert ids(page) == ["new00", "new01"]
    assert "prevUri" not in page.json()


# In the order of ids. Of some, the next lower text cannot be written: it would end in surrogates, or has no end.
ODD_IDS = [
    "\0",
    "\0\0",
    "A",
    "A\0",
    "Aa",
    "B",
    "B\U0010ffff",
    "\ud7ff",
    "\ue000",
    "\ue000x",
    "\U00010000",
    "\U0010ffff",
]


@pytest.mark.parametrize("offset", range(1, len(ODD_IDS)))
@pytest.mark.parametrize("order", ["newest", "oldest"])
async def test_a_step_back_among_equal_start_times_skips_nothing_while_others_arrive(
    admin: httpx.AsyncClient, elasticsearch: AsyncElasticsearch, settings: Settings, order: str, offset: int
) -> None:
    await store_many(elasticsearch, settings, [recording_at(odd, 0) for odd in ODD_IDS])
    expected = ODD_IDS if order == "newest" else ODD_IDS[::-1]
    page = await admin.get(PATH, params={"startTime": 0, "order": order, "offset": offset, "limit": len(ODD_IDS)})
    assert ids(page) == expected[offset:]
    first = -1 if order == "oldest" else 1
    await store_many(elasticsearch, settings, [recording_at(f"new{i:02}", first * (1 + i)) for i in range(20)])
    page = await admin.get(page.json()["prevUri"])
    assert ids(page) == expected
    assert "nextUri" not in page.json()
    page = await admin.get(page.json()["prevUri"])
    assert ids(page) == [f"new{i:02}" for i in reversed(range(len(ODD_IDS)))]


async def test_oldest_first_is_the_exact_reverse(
    service: Service, admin: httpx.AsyncClient, elasticsearch: AsyncElasticsearch, settings: Settings
) -> None:
    times = {f"r{i:03}": i % 7 for i in range(230)}
    await store_many(elasticsearch, settings, [recording_at(name, time) for name, time in times.items()])
    newest, oldest = [
        [
            recording_id
            for page in await walk(admin, f"{PATH}?startTime=0&order={order}", "nextUri")
            for recording_id in page
        ]
        for order in ("newest", "oldest")
    ]
    assert newest == sorted(times, key=lambda name: (-times[name], name))
    assert oldest == newest[::-1]


async def test_an_empty_page_leads_back_to_the_recording_before_it(admin: httpx.AsyncClient, ten: list[str]) -> None:
    """As when all that followed was deleted meanwhile."""
    page = await admin.get(PATH, params={"startTime": 0, "limit": 5})
    after_five = parameters(page.json()["nextUri"])
    nothing_older: dict[str, str | int] = {
        "startTime": "2023-12-31T23:59:55.500Z",
        "limit": 2,
        "offset": 5,
        "cursor": after_five["cursor"][0],
    }
    empty = await admin.get(PATH, params=nothing_older)
    assert ids(empty) == []
    assert ids(await admin.get(empty.json()["prevUri"])) == ten[3:5]


# As the client encodes it; the last one is text that hardly shrinks.
STUFFING = {
    "letters": "x",
    "accents": quote("\u00e9"),
    "words": "z" * 95 + "+",
    "dots": "z...",
    "emoji": quote("\U0001f600"),
    "left as they are": "(',;:)",
    "random": "".join(random.Random(3).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=8_000)),
}


@pytest.mark.parametrize("kind", STUFFING)
async def test_links_are_shorter_than_8000_bytes_if_the_request_was(
    admin: httpx.AsyncClient, elasticsearch: AsyncElasticsearch, settings: Settings, kind: str
) -> None:
    """Also with the longest ids, and with characters that a link encodes and the client did not."""
    expected = ["\u0001" * (399 - i) + "i" for i in range(5)]
    recordings = [recording_at(recording_id, -3) for recording_id in expected]
    for recording in recordings:
        recording["eventHistory"][0]["data"] = {"key": "value"}
    await store_many(elasticsearch, settings, recordings)

    target = f"{PATH}?limit=2&userName=Dima+&userData=value+"
    room = 7_999 - len(f"{admin.base_url}{target}")
    unit = STUFFING[kind]
    names = unit[: room // 2] if kind == "random" else unit * (room // 2 // len(unit))
    data = unit[room // 2 : room] if kind == "random" else names[: room - room // 2]
    uri = f"{admin.base_url}{target.replace('Dima+', f'Dima+{names}')}{data}"
    seen: list[str] = []
    assert len(uri) > 7_900
    for link in ("nextUri", "nextUri", "prevUri", "prevUri"):
        assert len(uri) < 8_000
        page = await admin.get("/", extensions={"target": uri.removeprefix(str(admin.base_url)).encode()})
        seen += ids(page)
        uri = page.json()[link]
    assert seen == [*expected[:4], expected[4], *expected[2:4]]


async def test_links_of_a_longer_request_keep_every_parameter(admin: httpx.AsyncClient, ten: list[str]) -> None:
    names = f"Dima {chr(0xE9) * 4_900}"
    page = await admin.get(PATH, params={"userName": names, "limit": 4})
    assert parameters(page.json()["nextUri"])["userName"] == [names]
    assert ids(await admin.get(page.json()["nextUri"])) == ten[4:8]


def packed(parameters: Any) -> str:
    """What the service makes of parameters that are too long for a link."""
    return "." + urlsafe_b64encode(zlib.compress(msgspec.msgpack.encode(parameters))).decode().rstrip("=")


async def test_a_packed_cursor_is_what_it_holds(admin: httpx.AsyncClient, ten: list[str]) -> None:
    inner = [("startTime", "0"), ("limit", "4"), ("userName", "Dima")]
    page = await admin.get(PATH, params={"cursor": packed(inner), "offset": 2})
    assert ids(page) == ten[2:6]
    assert_error(await admin.get(PATH, params={"cursor": packed(inner), "limit": 5}), 400, 2, "more than once")
    twice: list[Any] = [("cursor", packed(inner))] * 2
    assert_error(await admin.get(PATH, params=twice), 400, 2, "'cursor'")
    assert_error(await admin.get(PATH, params={"cursor": packed([("unknown", "1")])}), 400, 2, "'unknown'")
    assert_error(await admin.get(PATH, params={"cursor": packed([])}), 400, 1, "at least one of")


@pytest.mark.parametrize(
    "cursor",
    [
        ".",
        ".x",
        ".é",
        packed([("startTime", "0")])[:-4],
        packed({"startTime": "0"}),
        packed([("startTime", 0)]),
        packed([("startTime", "0"), ("cursor", packed([("limit", "1")]))]),
        packed([("userData", "x" * 10_000_000)]),
        "." + "A" * 5_000,
    ],
)
async def test_a_packed_cursor_that_the_service_did_not_make_is_refused(module_service: Service, cursor: str) -> None:
    answer = await module_service.client("admin").get(PATH, params={"cursor": cursor})
    assert_error(answer, 400, 2, "Parameter 'cursor' is invalid: ")


@pytest.mark.parametrize(
    "path",
    [
        PATH,
        f"{PATH}/recordings",
        "/api/v2/screen-recordings",
        OPS_PATH,
        OPS_PATH.replace("recordings", "screen-recordings"),
    ],
)
async def test_a_collection_with_a_trailing_slash_is_the_same_as_without(
    service: Service, ten: list[str], path: str
) -> None:
    client = service.client("ops" if "/ops/" in path else "admin")
    with_slash, without = [
        (await client.get(place, params={"startTime": 0, "limit": 4, "offset": 2})).json()
        for place in (f"{path}/", path)
    ]
    for link in {"prevUri", "nextUri"} & without.keys():
        assert f"{path}/?" in with_slash[link]
        assert (await client.get(with_slash[link])).status_code == 200
        assert with_slash.pop(link).replace("/?", "?") == without.pop(link)
    assert with_slash == without
    assert with_slash["statusCode"] == 0
