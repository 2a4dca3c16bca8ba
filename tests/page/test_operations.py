"""The list of operations: over HTTP, as a browser without scripts has it, and in Chromium."""

import asyncio
import html
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest
from playwright.async_api import expect

from app.store.client import connect
from tests.page.browsing import assert_good_in_every_look, opened, sign_in
from tests.page.conftest import NewContext
from tests.page.support import OURS, signed_in
from tests.page.test_search import HOSTILE, text
from tests.support.recordings import a_recording, store_many
from tests.support.service import PATIENT, USERS, Service, own_settings
from tests.support.waiting import eventually

PATH = "/ui/operations"
API = "/api/v2/recording-operations"
MAY_PROTECT = ("RECORDING_PERMISSION_APPLY_NON_DELETE",)


@pytest.fixture(scope="module")
async def service(elasticsearch_url: str) -> AsyncIterator[Service]:
    supervisor = next(user for user in USERS if user.name == "supervisor")
    limited = msgspec.structs.replace(supervisor, access_groups=("/",), permissions=MAY_PROTECT)
    users = (*(user for user in USERS if user is not supervisor), limited)
    async with own_settings(elasticsearch_url) as settings:
        service = Service(msgspec.structs.replace(settings, users=users, **PATIENT))
        await service.start()
        async with connect(settings) as client:
            await store_many(client, settings, [a_recording(f"call {i}") for i in range(30)])
        yield service
        await service.stop()


@pytest.fixture
def gate(service: Service, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Before it is set no recording is protected."""
    may_go_on, change = asyncio.Event(), service.services.protection.change

    async def later(*arguments: Any, **named: Any) -> None:
        await may_go_on.wait()
        await change(*arguments, **named)

    monkeypatch.setattr(service.services.protection, "change", later)
    return may_go_on


async def start(service: Service, user: str = "admin", **body: Any) -> str:
    """Begins to protect all recordings, or what the body says; the operation's id."""
    asked = {"operationName": "applyNonDelete", "criteria": {"startTime": "0"}, **body}
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
    service: Service, gate: asyncio.Event
) -> None:
    operation = await start(
        service, criteria={"startTime": "2010-01-01", "callerPhoneNumber": "+1*"}, reason="LegalHold#245"
    )
    client = await signed_in(service)
    page = await client.get(PATH)
    shown = text(row(page, operation))
    for part in (
        "Protect",
        "LegalHold#245",
        "2010-01-01 00:00:00",
        "Caller +1*",
        "admin",
        "Running",
        "0 of 30",
        "Stop",
    ):
        assert part in shown
    assert re.search(r'<progress max="30" value="0"', row(page, operation))
    assert 'href="/ui/recordings?startTime=2010-01-01&amp;callerPhoneNumber=%2B1*"' in row(page, operation)
    (form,) = re.findall(r'<form method="post" action="([^"]+)"', row(page, operation))
    stopping = asyncio.create_task(client.post(form, headers=OURS))
    gate.set()
    stopped = await stopping
    assert (stopped.status_code, stopped.headers["location"]) == (303, f"{PATH}#{operation}")
    shown = row(await client.get(PATH), operation)
    assert "Stopped" in text(shown)
    assert "<form" not in shown
    assert "<progress" not in shown


async def test_who_failed_is_named_with_a_link_and_the_reason(service: Service) -> None:
    operation = await start(service, criteria=None, recordings=["call 1", "none / 1", HOSTILE])
    shown = row(await (await signed_in(service)).get(PATH), operation)
    assert "3 selected" in text(shown)
    assert "Done" in text(shown)
    assert "3 of 3, 2 failed" in text(shown)
    assert '<a href="/ui/recordings/none%20%2F%201"><bdi>none / 1</bdi></a>' in shown
    assert "<img" not in shown
    assert html.escape(HOSTILE[:20]) in shown.replace("&#34;", "&quot;")


async def test_one_sees_ones_own_and_an_administrator_all(service: Service) -> None:
    mine, other = await start(service, "supervisor"), await start(service)
    supervisor, admin = await signed_in(service, "supervisor"), await signed_in(service)
    page = (await supervisor.get(PATH)).text
    assert mine in page
    assert other not in page
    page = (await admin.get(PATH)).text
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
    assert link in (await (await signed_in(service, "supervisor")).get("/ui/recordings?startTime=0")).text
    agent = await signed_in(service, "agent")
    assert link not in (await agent.get(PATH)).text
    assert "An operation begins in the" in (await agent.get(PATH)).text


async def test_pages_are_linked(service: Service) -> None:
    operations = [await start(service, criteria=None, recordings=[f"call {i}"]) for i in range(3)]
    client = await signed_in(service)
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
    await expect(line).to_contain_text("30 of 30")
    await expect(page.locator("#status")).to_have_text("Protect, Done, 30 of 30")
    await line.get_by_role("link", name="All that match").click()
    await expect(page.locator("#recordings tbody tr")).to_have_count(30)


async def test_it_is_stopped_by_its_button_with_and_without_scripts(
    service: Service, new_context: NewContext, gate: asyncio.Event
) -> None:
    for scripts in (True, False):
        gate.clear()
        operation = await start(service)
        page = await (await new_context(service.url, java_script_enabled=scripts)).new_page()
        await page.goto(PATH)
        await sign_in(page, "admin", leads_to=PATH)
        line = page.locator(f"[id='{operation}']")
        await expect(page.get_by_role("link", name="Reload")).to_be_visible(visible=not scripts)
        async with page.expect_request(f"**{PATH}/{operation}/stop"):
            await line.get_by_role("button", name="Stop").click(no_wait_after=True)
        gate.set()
        await expect(line.locator(".state")).to_have_text("Stopped")
        await expect(line.get_by_role("button", name="Stop")).to_have_count(0)
