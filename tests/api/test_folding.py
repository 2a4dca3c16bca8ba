"""What is found although it is spelled otherwise than it was posted (docs/contract.md section 5, "Unicode")."""

from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from elasticsearch import AsyncElasticsearch

from app.recordings.merge import merge
from app.recordings.model import parse_recording
from app.search.trigrams import tokens_of_value
from app.settings import Settings
from app.store.documents import document_id, to_document
from app.store.indices import alias
from tests.support.processes import Scripts
from tests.support.recordings import CONTACT_CENTER, OPS_PATH, REGION, a_recording, a_user, an_event
from tests.support.service import Service, assert_error

PATH = "/api/v2/recordings"
NUMBER = "+16504668888"


def asked(name: str, text: str) -> str:
    return f"{name}={quote(text)}"


async def ids(client: httpx.AsyncClient, query: str) -> list[str]:
    response = await client.get(f"{PATH}?{query}")
    assert response.status_code == 200, response.text
    return [recording["id"] for recording in response.json()["recordings"]]


@pytest.fixture
async def folded(service: Service) -> Service:
    """A service with recordings whose texts came from different keyboards."""
    ops = service.client("ops")
    names = {"windows": "Jos\u00e9", "turkish": "\u0130stanbul", "light": "I\u015f\u0131k", "wide": "\uff21lice"}
    for recording_id, name in names.items():
        contact = a_user(name, name, userName=name)
        event = an_event(contact=contact, data={"city": f"{name} 1"})
        posted = a_recording(recording_id, callerPhoneNumber="1", eventHistory=[event])
        assert (await ops.post(OPS_PATH, json=posted)).status_code == 201
    for recording_id, number in {"plain": NUMBER, "pasted": "\u202a+1650466\u200b8888\u202c"}.items():
        posted = a_recording(recording_id, callerPhoneNumber=number, dialedPhoneNumber=number)
        assert (await ops.post(f"{OPS_PATH}?refresh=wait_for", json=posted)).status_code == 201
    return service


async def test_another_spelling_finds_what_was_posted(folded: Service) -> None:
    admin = folded.client("admin")
    for name, found in {
        "Jose\u0301": "windows",
        "JOS\u00c9": "windows",
        "jose\u0301*": "windows",
        "istanbul": "turkish",
        "ISTANBUL": "turkish",
        "\u0131stanbul": "turkish",
        "i\u0307stan*": "turkish",
        "I\u015fik": "light",
        "\u0130\u015f*k": "light",
        "alice": "wide",
        "\uff21\uff2c\uff29\uff23\uff25": "wide",
        "al\u200bice": "wide",
    }.items():
        assert await ids(admin, f"userName={quote(name)}") == [found], ascii(name)
    for number in (
        "%2B16504668888",
        "+16504668888",  # the + is not encoded
        "%2016504668888%20",
        "%2B16504668888%09",
        quote(f"\u202a{NUMBER}\u202c"),
        quote("\uff0b\uff11\uff16\uff15\uff10\uff14\uff16\uff16\uff18\uff18\uff18\uff18"),
        "+1650*",
    ):
        for name in ("callerPhoneNumber", "dialedPhoneNumber"):
            assert await ids(admin, f"{name}={number}") == ["pasted", "plain"], number
    assert await ids(admin, asked("userData", "Jose\u0301*")) == ["windows"]
    assert await ids(admin, asked("userData", "Jose\u0301 1")) == ["windows"]


async def test_a_full_width_star_finds_only_a_star(folded: Service) -> None:
    admin = folded.client("admin")
    assert await ids(admin, asked("callerPhoneNumber", "+1650\uff0a")) == []
    assert await ids(admin, asked("userName", "ali\uff0a")) == []


async def test_what_is_returned_is_what_was_posted(folded: Service) -> None:
    found = (await folded.client("admin").get(f"{PATH}/pasted")).json()["recording"]
    assert found["callerPhoneNumber"] == "\u202a+1650466\u200b8888\u202c"
    found = (await folded.client("admin").get(f"{PATH}/turkish")).json()["recording"]
    assert found["eventHistory"][0]["contact"]["userName"] == "\u0130stanbul"


@pytest.mark.parametrize("query", ["callerPhoneNumber=%E2%80%8B", "userName=%E2%80%8B", "dialedPhoneNumber=%09"])
async def test_a_query_of_which_nothing_is_left_is_refused(admin: httpx.AsyncClient, query: str) -> None:
    assert_error(await admin.get(f"{PATH}?{query}"), 400, 2, query.partition("=")[0])


@pytest.mark.parametrize("number", ["2013", "20130517", "1368792000", "-1", "99999999999"])
async def test_a_short_number_is_no_time(admin: httpx.AsyncClient, number: str) -> None:
    """It is a year, a date or seconds, and would silently be a time of January 1970."""
    for name in ("startTime", "endTime"):
        response = await admin.get(PATH, params={name: number})
        assert_error(response, 400, 2, f"Parameter '{name}' is invalid: it must be a date like 2013-05-17")


async def test_a_document_that_was_folded_otherwise_is_found_as_before_and_after_a_reindex_by_all_spellings(
    service: Service, admin: httpx.AsyncClient, elasticsearch: AsyncElasticsearch, settings: Settings, tmp_path: Path
) -> None:
    posted = a_recording(
        "old",
        callerPhoneNumber="\uff0b\uff11\uff16\uff15\uff10",
        eventHistory=[an_event(contact=a_user("Jose\u0301", "\u0130lk"), data={"city": "I\u0307zmi\u0301r"})],
    )
    document = to_document(CONTACT_CENTER, merge(None, parse_recording(posted)))
    formerly = to_document(CONTACT_CENTER, merge(None, parse_recording(posted)))
    # What an earlier version made of the same recording: names in lower case, everything else as it came.
    document |= _unfolded("callerPhoneNumber", "\uff0b\uff11\uff16\uff15\uff10")
    document |= _unfolded("userNames", "jose\u0301", "i\u0307lk", "dima.p@genesys.com")
    document |= _unfolded("userData", "I\u0307zmi\u0301r")
    assert document != formerly
    index = alias(settings, "recordings")
    await elasticsearch.index(
        index=index, id=document_id(CONTACT_CENTER, REGION, "old"), document=document, refresh=True
    )
    before = (
        asked("callerPhoneNumber", "\uff0b\uff11\uff16\uff15\uff10"),
        asked("callerPhoneNumber", "\uff0b\uff11*"),
        asked("userName", "Jose\u0301"),
        asked("userName", "\u0130LK"),
        asked("userName", "Jose\u0301 AND \u0130l*"),
        asked("userData", "I\u0307zmi\u0301r"),
    )
    for query in before:
        assert await ids(admin, query) == ["old"], query
    status, out, err = await Scripts(settings, tmp_path).run("reindex.py")
    assert status == 0, out + err
    for query in (*before, "callerPhoneNumber=%2B1650", "userName=ilk+AND+jos%C3%A9", "userData=%C4%B0zm%C3%ADr"):
        assert await ids(admin, query) == ["old"], query


def _unfolded(field: str, *values: str) -> dict[str, list[str]]:
    return {field: list(values), f"{field}Trigrams": [tokens_of_value(value) for value in values]}
