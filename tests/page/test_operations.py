"""The list of operations: over HTTP, as a browser without scripts has it, and in Chromium."""

import asyncio
import html
import re
from typing import Any

import httpx
import pytest
from playwright.async_api import expect

from tests.page.browsing import assert_good_in_every_look, opened
from tests.page.conftest import NewContext
from tests.page.results import ALL, HOSTILE, MANY
from tests.page.support import OURS, signed_in
from tests.page.test_search import text
from tests.support.service import Service
from tests.support.waiting import eventually

PATH = "/ui/operations"
API = "/api/v2/recording-operations"


@pytest.fixture(scope="module")
def service(shared_service: Service) -> Service:
    return shared_service


@pytest.fixture(scope="module")
async def client(service: Service) -> httpx.AsyncClient:
    return await signed_in(service)


@pytest.fixture
def gate(service: Service, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Before it is set the protection of no recording is changed."""
    may_go_on, change = asyncio.Event(), service.services.protection.change

    async def later(*arguments: Any, **named: Any) -> None:
        await may_go_on.wait()
        await change(*arguments, **named)

    monkeypatch.setattr(service.services.protection, "change", later)
    return may_go_on


async def start(service: Service, user: str = "admin", **body: Any) -> str:
    """Begins to unprotect all recordings, none of which is protected, or what the body says; the operation's id."""
    asked = {"operationName": "unapplyNonDelete", "criteria": {"startTime": "0"}, **body}
    response = await service.client(user).post(API, json={k: v for k, v in asked.items() if v is not None})
    assert response.status_code in {200, 202}, response.text
    return str(response.json()["id"])


async def is_over(service: Service, operation: str) -> bool:
    answer = await service.client("admin").get(f"{API}/{operation}")
    return bool(answer.json()["operation"]["state"] != "running")


def row(page: httpx.Response, operation: str) -> str:
    (found,) = re.findall(rf'<tr role="row" id="{operation}".*?</tr>', page.text, re.DOTALL)
    return str(found)


async def test_an_operation_is_found_again_with_its_progress_and_stopped_without_scripts(
    service: Service, client: httpx.AsyncClient, gate: asyncio.Event
) -> None:
    criteria = {"startTime": "2010-01-01", "dialedPhoneNumber": "+49*"}
    operation = await start(service, criteria=criteria, reason="LegalHold#245")
    page = await client.get(PATH)
    shown = text(row(page, operation))
    for part in ("Unprotect", "LegalHold#245", "2010-01-01 00:00:00", "Dialed number +49*", "admin", "Running", "Stop"):
        assert part in shown
    assert f"0 of {MANY}" in shown
    assert f'<progress max="{MANY}" value="0"' in row(page, operation)
    assert 'href="/ui/recordings?startTime=2010-01-01&amp;dialedPhoneNumber=%2B49*"' in row(page, operation)
    (form,) = re.findall(r'<form method="post" action="([^"]+)"', row(page, operation))
    stopping = asyncio.create_task(client.post(form, headers=OURS))
    gate.set()
    stopped = await stopping
    assert (stopped.status_code, stopped.headers["location"]) == (303, f"{PATH}#{operation}")
    shown = row(await client.get(PATH), operation)
    assert "Stopped" in text(shown)
    assert "<form" not in shown
    assert "<progress" not in shown


async def test_who_failed_is_named_with_a_link_and_the_reason(service: Service, client: httpx.AsyncClient) -> None:
    operation = await start(service, criteria=None, recordings=["many 001", "none / 1", HOSTILE])
    shown = row(await client.get(PATH), operation)
    assert "3 selected" in text(shown)
    assert "Done" in text(shown)
    assert "3 of 3, 2 failed" in text(shown)
    assert '<a href="/ui/recordings/none%20%2F%201"><bdi>none / 1</bdi></a>' in shown
    assert "<img" not in shown
    assert html.escape(HOSTILE[:20]) in shown.replace("&#34;", "&quot;")


async def test_one_sees_ones_own_and_an_administrator_all(service: Service, client: httpx.AsyncClient) -> None:
    mine, other = await start(service, "protector"), await start(service)
    supervisor = await signed_in(service, "protector")
    page = (await supervisor.get(PATH)).text
    assert mine in page
    assert other not in page
    page = (await client.get(PATH)).text
    assert mine in page
    assert other in page
    for operation in (other, "none"):
        response = await supervisor.post(f"{PATH}/{operation}/stop", headers=OURS)
        assert response.status_code == 404
        assert response.headers["content-type"].startswith("text/html")
    assert (await supervisor.post(f"{PATH}/{mine}/stop")).status_code == 403  # from another origin
    for operation in (mine, other):
        await eventually(lambda operation=operation: is_over(service, operation))  # type: ignore[misc]


async def test_who_may_do_nothing_with_many_is_not_led_to_the_list(service: Service) -> None:
    link = f'href="{PATH}"'
    assert link in (await (await signed_in(service, "protector")).get("/ui/recordings?startTime=0")).text
    agent = await signed_in(service, "agent")
    assert link not in (await agent.get(PATH)).text
    assert "An operation begins in the" in (await agent.get(PATH)).text


async def test_pages_are_linked(service: Service, client: httpx.AsyncClient) -> None:
    operations = [await start(service, criteria=None, recordings=[f"many 00{i}"]) for i in range(3)]
    page = await client.get(f"{PATH}?limit=2")
    (link,) = re.findall(r'rel="next" href="([^"]+)"', page.text)
    assert link.startswith(f"{PATH}?")
    assert operations[0] in (await client.get(html.unescape(link))).text
    assert (await client.get(f"{PATH}?limit=x")).status_code == 400


async def test_it_is_followed_to_its_end_and_is_no_activity(
    service: Service, new_context: NewContext, gate: asyncio.Event
) -> None:
    operation = await start(service)
    page = await opened(service, new_context, "/ui/recordings?startTime=0")
    await page.get_by_role("link", name="Operations").click()
    line = page.locator(f"[id='{operation}']")
    await expect(line.locator(".state")).to_have_text("Running")
    await assert_good_in_every_look(page)
    async with page.expect_request(f"**/ui/api/recording-operations/{operation}") as asked:
        pass
    # Nobody stays signed in by leaving the page open.
    assert (await asked.value).headers["recall-activity"] == "none"
    gate.set()
    await expect(line.locator(".state")).to_have_text("Done")
    await expect(line).to_contain_text(f"{ALL} of {ALL}")
    await expect(page.locator("#status")).to_have_text(f"Unprotect, Done, {ALL} of {ALL}")
    await line.get_by_role("link", name="All that match").click()
    await expect(page.locator("#recordings tbody tr")).to_have_count(min(ALL, 100))


async def test_it_is_stopped_by_its_button_with_and_without_scripts(
    service: Service, new_context: NewContext, gate: asyncio.Event
) -> None:
    without: dict[str, Any] = {"java_script_enabled": False}
    for options in ({}, without):
        gate.clear()
        operation = await start(service)
        page = await opened(service, new_context, PATH, **options)
        line = page.locator(f"[id='{operation}']")
        await expect(page.get_by_role("link", name="Reload")).to_be_visible(visible=bool(options))
        async with page.expect_request(f"**{PATH}/{operation}/stop"):
            await line.get_by_role("button", name="Stop").click(no_wait_after=True)
        gate.set()
        await expect(line.locator(".state")).to_have_text("Stopped")
        await expect(line.get_by_role("button", name="Stop")).to_have_count(0)
