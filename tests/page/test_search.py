"""The search page over HTTP, as a browser without scripts has it."""

import html
import re
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest

from app.search.criteria import CRITERIA
from tests.page.results import HOSTILE
from tests.page.support import signed_in
from tests.support.service import Service
from tests.support.waiting import eventually

FROM = "/ui/recordings?startTime=2026-03-01"


@pytest.fixture(scope="module")
def service(shared_service: Service) -> Service:
    return shared_service


@pytest.fixture(scope="module")
async def client(service: Service) -> httpx.AsyncClient:
    return await signed_in(service)


def ids(page: httpx.Response) -> list[str]:
    return [html.unescape(each) for each in re.findall(r'<tr role="row" data-id="([^"]*)"', page.text)]


def row(page: httpx.Response, recording_id: str) -> str:
    (found,) = re.findall(
        rf'<tr role="row" data-id="{re.escape(html.escape(recording_id))}".*?</tr>', page.text, re.DOTALL
    )
    return str(found)


def text(markup: str) -> str:
    """What a reader sees of it."""
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", markup))).strip()


def query(location: str) -> dict[str, str]:
    assert urlsplit(location).path == "/ui/recordings"
    return dict(parse_qsl(urlsplit(location).query, keep_blank_values=True))


async def test_it_opens_with_the_last_24_hours_as_an_absolute_time(client: httpx.AsyncClient) -> None:
    for path in ("/ui/recordings", "/ui/recordings?callerPhoneNumber=&userName=", "/ui/recordings?limit=25"):
        response = await client.get(path)
        assert response.status_code == 303
        asked = query(response.headers["location"])
        since = datetime.fromisoformat(asked.pop("startTime"))
        assert abs(datetime.now(UTC) - timedelta(hours=24) - since) < timedelta(minutes=1)
        assert asked == ({"limit": "25"} if "limit" in path else {})
    page = await client.get(response.headers["location"])
    assert re.search(r"started after\s+<time", page.text)
    assert re.search(r'data-preset="day" aria-current="true"', page.text)


async def test_fields_that_a_form_sends_empty_are_not_in_the_address(client: httpx.AsyncClient) -> None:
    response = await client.get("/ui/recordings?callerPhoneNumber=%2B1*&userName=&startTime=&order=oldest&limit=")
    assert query(response.headers["location"]) == {"callerPhoneNumber": "+1*", "order": "oldest"}


async def test_the_form_has_a_field_for_each_criterion_with_its_syntax(client: httpx.AsyncClient) -> None:
    page = (await client.get(FROM)).text
    for criterion in CRITERIA:
        assert re.search(rf'<(?:input|select) id="f-{criterion.name}" name="{criterion.name}"', page)
        assert f"Recordings {html.escape(criterion.help, quote=False)}" in html.unescape(page).replace("&#39;", "'")
        assert f'<label for="f-{criterion.name}">' in page


async def test_the_table_shows_what_the_api_answers(client: httpx.AsyncClient) -> None:
    page = await client.get(f"{FROM}&callerPhoneNumber=%2B1*&endTime=2026-03-01T12:30:00Z")
    assert ids(page) == ["second", "first/1"]
    second = row(page, "second")
    shown = text(second)
    for part in ("2026-03-01 12:01:00", "2:30", "+16504668888", "+14155551234", "Alice Amber", "Bob Blue"):
        assert part in shown
    assert "1 audio, 1 video" in shown
    assert "8 more" in shown
    assert 'href="/ui/recordings/first%2F1"' in page.text
    assert "1.1" in text(row(page, "first/1"))
    assert "protected" not in second.partition(">")[0]


async def test_a_protected_recording_has_a_lock(service: Service, client: httpx.AsyncClient) -> None:
    await service.client("admin").post("/api/v2/recordings/many%20000", json={"operationName": "applyNonDelete"})

    async def is_shown() -> bool:
        page = await client.get(f"{FROM}&dialedPhoneNumber=%2B4900*")
        return 'class="protected"' in row(page, "many 000").partition(">")[0]

    await eventually(is_shown)
    page = await client.get(f"{FROM}&dialedPhoneNumber=%2B4900*")
    assert 'class="protected"' not in row(page, "many 001").partition(">")[0]


@pytest.mark.parametrize(
    ("asked", "marks"),
    [
        ("callerPhoneNumber=%2B1650*", ["+1650"]),
        ("dialedPhoneNumber=*1234", ["1234"]),
        ("phoneNumber=*555*", ["555"]),
        ("userName=alice%20AND%20b*", ["Alice", "B", "B"]),
        ("userName=bob@x", ["bob@x"]),
        ("userData=CASE-*%20nothing", ["CASE-"]),
        ("userData=value%205", ["value 5"]),
        ("userData=value*", []),
        ("userName=*", []),
    ],
)
async def test_the_words_that_matched_are_marked(client: httpx.AsyncClient, asked: str, marks: list[str]) -> None:
    page = await client.get(f"{FROM}&endTime=2026-03-01T12:30:00Z&{asked}")
    if marks or "=*" in asked:
        found = re.findall(r"<mark>(.*?)</mark>", row(page, "second"))
        assert sorted(map(html.unescape, found)) == sorted(marks)


async def test_values_that_matched_are_shown_first(client: httpx.AsyncClient) -> None:
    page = await client.get(f"{FROM}&userData=value%205")
    line = row(page, "second")
    assert line.index("<mark>value 5</mark>") < line.index("<details>")


async def test_pages_are_linked_by_the_api_own_links(client: httpx.AsyncClient) -> None:
    page = await client.get(f"{FROM}&endTime=2026-03-01T13:31:00Z&limit=10&order=oldest")
    walked = ids(page)
    assert not re.search(r'rel="prev" href="/ui/recordings\?[^"]*offset', page.text)
    for _ in range(3):
        link = html.unescape(re.findall(r'rel="next" href="([^"]+)"', page.text)[0])
        assert query(link)["limit"] == "10"
        page = await client.get(link)
        walked += ids(page)
    assert len(walked) == len(set(walked)) == 33
    assert not re.findall(r'rel="next" href', page.text)
    back = html.unescape(re.findall(r'rel="prev" href="([^"]*offset[^"]+)"', page.text)[0])
    assert ids(await client.get(back)) == walked[20:30]


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ("startTime=yesterday", "startTime"),
        ("startTime=0&userName=AND", "userName"),
        ("startTime=0&minDuration=-1", "minDuration"),
        ("startTime=0&nonDelete=maybe", "nonDelete"),
        ("startTime=0&callerPhoneNumber=%E2%80%8B", "callerPhoneNumber"),
        ("startTime=0&limit=1000", "limit"),
        ("startTime=0&limit=%3Cb%3E", "limit"),
    ],
)
async def test_an_error_stands_at_its_field_in_the_words_of_the_api(
    service: Service, client: httpx.AsyncClient, asked: str, field: str
) -> None:
    page, api = await client.get(f"/ui/recordings?{asked}"), await client.get(f"/ui/api/recordings?{asked}")
    assert page.status_code == api.status_code == 400
    error = re.findall(rf'<p class="error" id="e-{field}">(.*?)</p>', page.text)
    assert [html.unescape(each) for each in error] == [api.json()["statusMessage"]]
    assert re.search(rf'id="f-{field}"[^>]*aria-invalid="true"', page.text)
    assert "<b>" not in page.text
    value = dict(parse_qsl(asked))[field]
    assert html.escape(value) in page.text


@pytest.mark.parametrize("asked", ["startTime=0&caller=x", "startTime=0&startTime=1", "startTime=0&%3Cb%3E=x"])
async def test_an_error_of_no_field_stands_above_the_results(client: httpx.AsyncClient, asked: str) -> None:
    page, api = await client.get(f"/ui/recordings?{asked}"), await client.get(f"/ui/api/recordings?{asked}")
    assert page.status_code == 400
    assert html.escape(api.json()["statusMessage"]).replace("&#x27;", "&#39;") in page.text
    assert "<b>" not in page.text


async def test_windows_of_time_have_absolute_links_that_keep_the_criteria(client: httpx.AsyncClient) -> None:
    page = (await client.get(f"{FROM}T00:00:00Z&endTime=2026-03-02T00:00:00Z&userName=alice&limit=10&offset=10")).text
    earlier, later = (
        query(html.unescape(each)) for each in re.findall(r'class="step"[^>]*href="(/ui/recordings\?[^"]*)"', page)
    )
    common = {"userName": "alice", "limit": "10"}
    assert earlier == {"startTime": "2026-02-28T00:00:00Z", "endTime": "2026-03-01T00:00:00Z", **common}
    assert later == {"startTime": "2026-03-02T00:00:00Z", "endTime": "2026-03-03T00:00:00Z", **common}
    presets = {
        name: query(html.unescape(href)) for href, name in re.findall(r'href="([^"]*)" data-preset="(\w+)"', page)
    }
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    assert presets["all"] == {"startTime": "0", **common}
    assert datetime.fromisoformat(presets["yesterday"]["endTime"]) == midnight
    for asked in presets.values():
        assert asked["userName"] == "alice"
        assert "offset" not in asked


async def test_nothing_found_says_what_could_be_left_out(client: httpx.AsyncClient) -> None:
    page = await client.get(f"{FROM}&userName=nobody&callerPhoneNumber=x")
    assert page.status_code == 200
    assert "No recording matches" in page.text
    links = [query(html.unescape(each)) for each in re.findall(r'<li><a href="([^"]+)">without', page.text)]
    assert {frozenset(asked) for asked in links} == {
        frozenset({"startTime", "userName"}),
        frozenset({"startTime", "callerPhoneNumber"}),
        frozenset({"userName", "callerPhoneNumber"}),
    }


async def test_hostile_content_is_text(client: httpx.AsyncClient) -> None:
    page = await client.get(f"{FROM}&endTime=2026-03-01T12:30:00Z")
    for markup in ("<img", "<script>alert", "&amp;amp;x"):
        assert markup not in page.text
    assert html.escape(HOSTILE).replace("&#x27;", "&#39;").replace("&quot;", "&#34;") in page.text
    assert "x" * 500 not in page.text
    asked = await client.get("/ui/recordings", params={"startTime": "0", "userName": HOSTILE, HOSTILE: HOSTILE})
    assert asked.status_code == 400
    assert "<img" not in asked.text
    assert "<script>alert" not in asked.text


async def test_who_may_not_search_is_told(service: Service) -> None:
    client = await signed_in(service, "nobody")
    response = await client.get("/ui/recordings?startTime=0")
    assert response.status_code == 403
    assert "Insufficient user roles." in response.text
    assert "nobody" in response.text
    assert 'action="/ui/sign-out"' in response.text
