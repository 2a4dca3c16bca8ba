"""The search page in real Chromium."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from playwright.async_api import Error as PlaywrightError
from playwright.async_api import Page, expect

from app.errors import ElasticsearchUnavailable
from tests.page.browsing import assert_accessible, assert_fits, assert_good_in_every_look, focus_by_tab, opened, sign_in
from tests.page.conftest import NewContext
from tests.page.results import ALL as ALL_RECORDINGS
from tests.support.service import Service
from tests.support.waiting import eventually

ALL = "/ui/recordings?startTime=0"
ALL_MANY = {"dialedPhoneNumber": "+490*"}


@pytest.fixture(scope="module")
def service(shared_service: Service) -> Service:
    return shared_service


@pytest.fixture
async def page(service: Service, new_context: NewContext) -> Page:
    """Signed in as the administrator, with every recording."""
    return await opened(service, new_context, ALL)


def rows(page: Page) -> Any:
    return page.locator("#recordings tbody tr")


def asked(page: Page) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(page.url).query))


# --- signing in ---


async def test_a_shared_link_with_a_place_leads_through_the_sign_in_to_the_place(
    service: Service, new_context: NewContext
) -> None:
    page = await (await new_context(service.url)).new_page()
    await page.goto("/ui/recordings/first%2F1#t=133")
    await sign_in(page)
    assert page.url == f"{service.url}/ui/recordings/first%2F1#t=133"


async def test_signing_out_leaves_nothing_behind(service: Service, new_context: NewContext) -> None:
    page = await (await new_context(service.url)).new_page()
    await page.goto(ALL)
    await sign_in(page)
    await page.get_by_role("button", name="Sign out").click()
    await expect(page.get_by_text("You are signed out.")).to_be_visible()
    await page.go_back()
    await expect(page.get_by_label("Password")).to_be_visible()
    await page.goto(f"{service.url}{ALL}")
    await expect(page.get_by_label("Password")).to_be_visible()
    assert await page.evaluate("sessionStorage.length") == 0


async def test_two_minutes_before_the_end_the_page_warns_and_the_session_can_be_prolonged(
    service: Service, new_context: NewContext
) -> None:
    page = await (await new_context(service.url)).new_page()
    await page.clock.install()
    left = 900.0

    async def answer(route: Any) -> None:
        await route.fulfill(json={"statusCode": 0, "session": {"secondsLeft": left} if left else None})

    await page.route("**/ui/session", answer)
    await page.goto("/ui/sign-in")
    await sign_in(page)
    dialog = page.get_by_role("dialog", name="Still there?")
    await page.clock.run_for(700_000)
    await expect(dialog).to_be_hidden()
    left = 119.0
    await page.clock.run_for(90_000)
    await expect(dialog).to_contain_text("You will be signed out in 1:")
    left = 900.0
    await page.get_by_role("button", name="Stay signed in").click()
    await expect(dialog).to_be_hidden()
    left = 0.0
    await page.context.clear_cookies()
    await page.clock.run_for(800_000)
    await page.wait_for_url("**/ui/sign-in?next=*")


# --- searching ---


async def test_the_form_makes_the_address_of_the_query(page: Page) -> None:
    await page.get_by_role("textbox", name="Agent").fill("alice")
    await page.get_by_text("More criteria").click()
    await page.get_by_label("Order").select_option("Oldest first")
    await page.get_by_role("button", name="Search", exact=True).click()
    await page.wait_for_url("**userName=alice**")
    assert asked(page) == {"startTime": "0", "userName": "alice", "order": "oldest"}
    assert [await row.get_attribute("data-id") for row in await rows(page).all()] == ["first/1", "second"]
    await expect(page.locator("mark").first).to_have_text("Alice")
    # The criterion that is folded away shows because it has a value.
    await expect(page.get_by_label("Order")).to_have_value("oldest")


async def test_times_are_picked_in_the_zone_and_sent_in_utc(page: Page) -> None:
    picker = page.get_by_label("Started after")
    await picker.fill("2026-03-01T13:01:30")
    await page.keyboard.press("Enter")
    await page.wait_for_url("**startTime=2026**")
    assert asked(page)["startTime"] == "2026-03-01T12:01:30Z"
    await expect(picker).to_have_value("2026-03-01T13:01:30")
    await expect(page.locator("#recordings time").last).to_have_text("2026-03-01 13:03:00")
    await expect(page.locator("#recordings time").last).to_have_attribute("title", "2026-03-01 12:03:00 UTC")
    await expect(page.locator("[data-zone]")).to_contain_text("UTC+0")
    await page.get_by_label("UTC", exact=True).check()
    await expect(page.locator("#recordings time").last).to_have_text("2026-03-01 12:03:00")
    await expect(picker).to_have_value("2026-03-01T12:01:30")
    await page.reload()
    await expect(page.locator("#recordings time").last).to_have_text("2026-03-01 12:03:00")


async def test_the_zone_is_that_of_the_times(page: Page) -> None:
    """In winter and in summer it has different names."""
    await page.evaluate(
        """async (script) => {
            for (const time of document.querySelectorAll("tbody time")) time.dateTime = "2026-01-10T08:00:00Z";
            (await import(script)).showTimes();
        }""",
        await script(page, "times.js"),
    )
    winter, summer = await zone_names(page, "2026-01-10T08:00:00Z", "2026-07-10T08:00:00Z")
    assert winter != summer
    await expect(page.locator("th [data-zone]")).to_have_text(winter)


async def script(page: Page, name: str) -> str:
    """The address of a script that the page has loaded."""
    found: list[str] = await page.evaluate("performance.getEntriesByType('resource').map((each) => each.name)")
    (address,) = [each for each in found if each.partition("?")[0].endswith(f"/{name}")]
    return address


async def zone_names(page: Page, *times: str) -> list[str]:
    names: list[str] = await page.evaluate(
        "async ([script, times]) => { const { zoneName } = await import(script);"
        "return times.map((time) => zoneName(Date.parse(time))); }",
        [await script(page, "times.js"), times],
    )
    return names


async def test_a_time_of_which_a_part_is_missing_is_told_and_not_searched_for(page: Page) -> None:
    picker = page.get_by_label("Started after")
    await picker.focus()
    await page.keyboard.type("03012026")
    assert await picker.evaluate("(picker) => picker.validity.badInput")
    address = page.url
    await page.get_by_role("button", name="Search", exact=True).click()
    await expect(picker).to_be_focused()
    assert page.url == address


async def test_days_begin_at_local_midnight(page: Page) -> None:
    href = await page.get_by_role("link", name="Yesterday").get_attribute("href")
    assert href
    times = dict(parse_qsl(urlsplit(href).query))
    expected = await page.evaluate(
        "[1, 0].map((days) => { const d = new Date(); d.setHours(0, 0, 0, 0);"
        "d.setDate(d.getDate() - days); return d.getTime(); })"
    )
    assert [datetime.fromisoformat(times[name]).timestamp() * 1000 for name in ("startTime", "endTime")] == expected


async def test_columns_stay_as_they_were_chosen(page: Page) -> None:
    await expect(page.get_by_role("columnheader", name="ID")).to_be_hidden()
    await page.locator("#columns summary").click()
    await page.locator("#columns").get_by_label("ID").check()
    await page.locator("#columns").get_by_label("Dialed").uncheck()
    await page.keyboard.press("Escape")
    for _ in range(2):
        await expect(page.get_by_role("columnheader", name="ID")).to_be_visible()
        await expect(page.get_by_role("columnheader", name="Dialed")).to_be_hidden()
        await expect(page.locator("#columns fieldset")).to_be_hidden()
        await page.reload()


async def test_it_works_without_scripts_as_far_as_the_table(service: Service, new_context: NewContext) -> None:
    page = await (await new_context(service.url, java_script_enabled=False)).new_page()
    await page.goto("/ui/recordings")
    await sign_in(page)
    await page.get_by_label("Started after").fill("2026-03-01")
    await page.get_by_role("textbox", name="Agent").fill("alice")
    await page.keyboard.press("Enter")
    await page.wait_for_url("**userName=alice**")
    assert asked(page) == {"startTime": "2026-03-01", "userName": "alice"}
    await expect(rows(page)).to_have_count(2)
    await expect(rows(page).first).to_contain_text("2026-03-01 12:01:00")
    await expect(page.get_by_role("checkbox")).to_have_count(0)
    await expect(page.get_by_role("button", name="Keys")).to_be_hidden()
    await page.get_by_role("button", name="Sign out").click()
    await expect(page.get_by_text("You are signed out.")).to_be_visible()


# --- several at once ---


async def test_selected_rows_are_protected_together_with_a_reason(page: Page, service: Service) -> None:
    bodies: list[Any] = []
    page.on("request", lambda request: bodies.append(request.post_data_json) if request.method == "POST" else None)
    await page.goto(f"{ALL}&dialedPhoneNumber=%2B4901*")
    boxes = rows(page).get_by_role("checkbox")
    await boxes.nth(0).check()
    await boxes.nth(9).click(modifiers=["Shift"])
    await expect(page.locator("#picked-count")).to_have_text("10 selected")
    await page.get_by_role("button", name="Protect…", exact=True).click()
    dialog = page.get_by_role("dialog", name="Protect 10 recordings")
    await dialog.get_by_label("Reason").fill("LegalHold#245")
    await dialog.get_by_role("button", name="Protect", exact=True).click()
    await expect(dialog).to_be_hidden()
    await expect(page.locator("#recordings tr.protected")).to_have_count(10)
    await expect(page.locator(".toast")).to_have_text("10 protected")
    await expect(page.locator("#picked")).to_be_hidden()
    ((ids, body),) = [(body.pop("recordings"), body) for body in bodies]
    assert sorted(ids) == [f"many {number:03}" for number in range(10, 20)]
    assert body == {"operationName": "applyNonDelete", "reason": "LegalHold#245"}
    admin = service.client("admin")
    read = (await admin.get("/api/v2/recordings/many%20015")).json()["recording"]
    assert read["nonDelete"] is True
    await page.get_by_label("Select all rows").check()
    await page.get_by_role("button", name="Unprotect…").click()
    await page.get_by_role("button", name="Unprotect", exact=True).click()
    await expect(page.locator("#recordings tr.protected")).to_have_count(0)


async def test_selected_rows_are_labelled_together(page: Page, service: Service) -> None:
    admin = service.client("admin")
    await admin.post("/api/v2/recording-label-definitions", json={"name": "vip", "displayName": "<b>VIP</b>"})
    await page.goto(f"{ALL}&dialedPhoneNumber=%2B4902*")
    await page.get_by_label("Select all rows").check()
    await page.get_by_role("button", name="Label…").click()
    dialog = page.get_by_role("dialog", name="Label 10 recordings")
    await dialog.get_by_label("Label", exact=True).select_option("<b>VIP</b>")
    await dialog.get_by_label("Comment").fill("to be heard")
    await dialog.get_by_role("button", name="Label", exact=True).click()
    await expect(page.locator("#recordings .label")).to_have_text(["<b>VIP</b>"] * 10)
    read = (await admin.get("/api/v2/recordings/many%20025")).json()["recording"]
    assert [(label["name"], label["comment"]) for label in read["labels"]] == [("vip", "to be heard")]

    async def is_found() -> bool:
        await page.goto(f"{ALL}&label=vip")
        return await page.locator("#recordings .label").count() == 10

    await eventually(is_found)


async def test_who_failed_is_named_and_stays_selected(service: Service, new_context: NewContext) -> None:
    path = f"{ALL}&dialedPhoneNumber=%2B4900*"
    page = await opened(service, new_context, path)
    failed = {"id": "many 003", "statusCode": 4, "statusMessage": "The recording store is not available at the moment."}
    answer = {"statusCode": 7, "id": "x", "succeeded": 9, "failed": [failed]}
    await page.route("**/ui/api/recording-operations", lambda route: route.fulfill(json=answer))
    await page.get_by_label("Select all rows").check()
    await page.get_by_role("button", name="Protect…", exact=True).click()
    await page.get_by_role("button", name="Protect", exact=True).click()
    result = page.locator("#act-result")
    await expect(result).to_contain_text("9 protected, 1 failed")
    await expect(result).to_contain_text("many 003 The recording store is not available at the moment.")
    await page.get_by_role("button", name="Close").click()
    await expect(page.locator("#picked-count")).to_have_text("1 selected")
    await expect(page.locator("tr[data-id='many 003'] input")).to_be_checked()


async def test_all_that_match_are_protected_after_they_were_counted(page: Page, service: Service) -> None:
    await page.goto(f"{ALL}&dialedPhoneNumber=%2B4901*&limit=3")
    await expect(rows(page)).to_have_count(3)
    await page.get_by_text("All that match", exact=True).click()
    await page.get_by_role("button", name="Protect all that match…", exact=True).click()
    dialog = page.get_by_role("dialog", name="Protect all that match")
    await expect(dialog.locator("#act-text")).to_contain_text("10 recordings match, on all pages of the result.")
    await dialog.get_by_label("Reason").fill("LegalHold#246")
    await dialog.get_by_role("button", name="Protect 10 recordings").click()
    await expect(dialog.locator("#act-result")).to_contain_text("10 protected")
    await service.repository.make_searchable()
    async with page.expect_navigation():
        await dialog.get_by_role("button", name="Close").click()
    await expect(page.locator("#recordings tr.protected")).to_have_count(3)
    admin = service.client("admin")
    operations = (await admin.get("/api/v2/recording-operations")).json()["operations"]
    (operation,) = [each for each in operations if each.get("reason") == "LegalHold#246"]
    assert operation["criteria"] == {"startTime": "0", "dialedPhoneNumber": "+4901*"}
    assert (operation["reason"], operation["by"]) == ("LegalHold#246", "admin")
    await admin.post("/api/v2/recording-operations", json={"operationName": "unapplyNonDelete", "criteria": ALL_MANY})


class Held:
    """Holds requests of the page until they are let go."""

    def __init__(self) -> None:
        self.count = 0
        self._free = asyncio.Event()

    async def hold(self, route: Any) -> None:
        self.count += 1
        async with asyncio.timeout(30):
            await self._free.wait()
        with suppress(PlaywrightError):  # the page has given it up
            await route.continue_()

    def let_go(self) -> None:
        self._free.set()


async def test_a_count_that_comes_late_changes_no_other_dialog(page: Page) -> None:
    await page.goto(f"{ALL}&dialedPhoneNumber=%2B4901*&limit=3")
    held = Held()
    await page.route("**/ui/api/recordings?*", held.hold)
    await page.get_by_text("All that match", exact=True).click()
    await page.get_by_role("button", name="Protect all that match…", exact=True).click()
    await eventually(lambda: held.count == 1)
    async with page.expect_event("requestfailed", lambda request: "total=" in request.url):
        await page.get_by_role("button", name="Cancel").click()
    held.let_go()
    await page.locator("tbody input").first.check()
    await page.get_by_role("button", name="Unprotect…", exact=True).click()
    dialog = page.get_by_role("dialog", name="Unprotect 1 recording")
    await expect(dialog.locator("#act-go")).to_have_text("Unprotect")
    await expect(dialog.locator("#act-text")).not_to_contain_text("match")


async def test_an_operation_on_all_whose_dialog_is_closed_before_it_has_begun_is_stopped(
    page: Page, service: Service
) -> None:
    await page.goto(f"{ALL}&dialedPhoneNumber=%2B4902*")
    held = Held()
    await page.route("**/ui/api/recording-operations", held.hold)
    await page.get_by_text("All that match", exact=True).click()
    await page.get_by_role("button", name="Protect all that match…", exact=True).click()
    dialog = page.get_by_role("dialog", name="Protect all that match")
    await dialog.get_by_role("button", name="Protect 10 recordings").click()
    await eventually(lambda: held.count == 1)
    await dialog.get_by_role("button", name="Cancel").click()
    await page.locator("tbody input").first.check()
    await page.get_by_role("button", name="Unprotect…", exact=True).click()
    async with page.expect_request(lambda request: request.method == "DELETE"):
        held.let_go()
    await expect(page.locator(".toast")).to_contain_text("stopped")
    other = page.get_by_role("dialog", name="Unprotect 1 recording")
    await expect(other.get_by_role("button", name="Unprotect", exact=True)).to_be_enabled()
    await expect(other.locator("#act-reason-field")).to_be_visible()
    await service.client("admin").post(
        "/api/v2/recording-operations", json={"operationName": "unapplyNonDelete", "criteria": ALL_MANY}
    )


async def test_an_operation_on_all_that_match_can_be_stopped_with_the_keyboard(
    page: Page, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_go_on, change = asyncio.Event(), service.services.protection.change

    async def later(*arguments: Any, **named: Any) -> None:
        await may_go_on.wait()
        await change(*arguments, **named)

    monkeypatch.setattr(service.services.protection, "change", later)
    await page.goto(f"{ALL}&dialedPhoneNumber=%2B4900*")
    await focus_by_tab(page, "#all summary")
    await page.keyboard.press("Enter")
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Protect all that match")
    await expect(dialog.get_by_role("button", name="Protect 10 recordings")).to_be_enabled()
    await focus_by_tab(page, "#act-go")
    await page.keyboard.press("Enter")
    await expect(dialog.get_by_role("progressbar")).to_be_visible()
    await expect(dialog.locator("#act-result")).to_have_text("0 of 10")
    await expect(dialog.get_by_role("link", name="Operations")).to_be_visible()
    await assert_accessible(page)
    async with page.expect_request(lambda request: request.method == "DELETE"):
        await page.keyboard.press("Enter")  # the focus is on "Stop"
    may_go_on.set()
    await expect(dialog.locator("#act-result")).to_contain_text("stopped after")
    await expect(dialog.get_by_role("button", name="Close")).to_be_focused()
    await service.client("admin").post(
        "/api/v2/recording-operations", json={"operationName": "unapplyNonDelete", "criteria": ALL_MANY}
    )


async def test_a_button_that_is_off_says_why(service: Service, new_context: NewContext) -> None:
    page = await opened(service, new_context, ALL, user="supervisor")
    await rows(page).get_by_role("checkbox").first.check()
    button = page.get_by_role("button", name="Protect…", exact=True)
    await expect(button).to_be_disabled()
    await expect(button).to_have_accessible_description("Insufficient recording permissions.")


# --- the keyboard ---


async def test_keys_lead_to_the_form_and_to_their_list(page: Page) -> None:
    await page.keyboard.press("/")
    await expect(page.get_by_role("textbox", name="Caller")).to_be_focused()
    await page.keyboard.press("Tab")
    await page.get_by_role("button", name="Keys").focus()
    await page.keyboard.press("?")
    await expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("dialog", name="Keys")).to_be_hidden()


async def test_keys_do_nothing_while_typing_and_can_be_switched_off(page: Page) -> None:
    field = page.get_by_role("textbox", name="User data")
    await field.press_sequentially("a/b?[]")
    await expect(field).to_have_value("a/b?[]")
    await expect(page.get_by_role("dialog")).to_be_hidden()
    await page.get_by_role("button", name="Keys").click()
    await page.get_by_label("Use keys of a single character").uncheck()
    await page.keyboard.press("Escape")
    await page.keyboard.press("?")
    await expect(page.get_by_role("dialog")).to_be_hidden()
    await page.reload()
    await page.keyboard.press("?")
    await expect(page.get_by_role("dialog")).to_be_hidden()


# --- outages ---


async def test_a_page_that_failed_says_so_and_recovers_by_itself(
    service: Service, new_context: NewContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = await opened(service, new_context, ALL, expected=("status of 503",))
    with monkeypatch.context() as away:

        async def fail(*_: object, **__: object) -> None:
            raise ElasticsearchUnavailable

        away.setattr(service.repository, "search", fail)
        away.setattr("app.api.health.check_indices", fail)
        await page.goto(ALL)
        await expect(page.get_by_role("alert")).to_contain_text("The recording store is not available")
        await expect(page.get_by_text("Trying again")).to_be_visible()
    await expect(rows(page)).to_have_count(min(ALL_RECORDINGS, 100))


# --- accessibility, and what breaks layouts ---


async def more_criteria(page: Page) -> None:
    await page.get_by_text("More criteria").click()


async def columns(page: Page) -> None:
    await page.locator("#columns summary").click()


async def keys(page: Page) -> None:
    await page.keyboard.press("?")


async def protect(page: Page) -> None:
    await page.get_by_label("Select all rows").check()
    await page.get_by_role("button", name="Protect…", exact=True).click()


async def all_that_match(page: Page) -> None:
    await page.get_by_text("All that match", exact=True).click()


# Where it is, what is done there, and what of the page is new then.
STATES: dict[str, tuple[str, Callable[[Page], Awaitable[None]] | None, str | None]] = {
    "results": (ALL, None, None),
    "marked": (f"{ALL}&userName=*i*&userData=*a*", None, None),
    "more": (ALL, more_criteria, "#search"),
    "columns": (ALL, columns, "#columns"),
    "keys": (ALL, keys, "dialog[open]"),
    "protect": (ALL, protect, "dialog[open]"),
    "all": (ALL, all_that_match, "#all"),
    "empty": (f"{ALL}&userName=nobody&userData=x", None, None),
    "wrong-field": ("/ui/recordings?startTime=x&maxDuration=1", None, None),
    "wrong": ("/ui/recordings?startTime=0&x=1", None, ".notice"),
    "not-found": ("/ui/nowhere", None, None),
}


@pytest.mark.parametrize("name", STATES)
async def test_axe_finds_nothing_and_nothing_is_wider_than_the_screen(
    service: Service, new_context: NewContext, name: str
) -> None:
    path, prepare, part = STATES[name]
    page = await opened(service, new_context, path, expected=("status of 40",))
    if prepare:
        await prepare(page)
    await assert_good_in_every_look(page, part)


async def test_axe_finds_nothing_where_one_signs_in(service: Service, new_context: NewContext) -> None:
    page = await (await new_context(service.url, expected=("status of 401",))).new_page()
    await page.goto("/ui/sign-in")
    await assert_accessible(page)
    await page.get_by_label("User name").fill("x")
    await page.get_by_label("Password").fill("x")
    await page.keyboard.press("Enter")
    await page.get_by_role("alert").wait_for()
    await assert_good_in_every_look(page)


async def test_small_targets_are_large_enough(page: Page) -> None:
    small = await page.evaluate("""() => [...document.querySelectorAll("a, button, summary, label.pick, select, input")]
        .filter((each) => each.checkVisibility() && !each.closest(".pick, .switch, label"))
        .map((each) => [each.outerHTML.slice(0, 80), each.getBoundingClientRect()])
        .filter(([, box]) => (box.width < 24 || box.height < 24) && box.width > 1)
        .map(([html, box]) => `${html} ${box.width}x${box.height}`)""")
    assert small == []


async def test_hostile_values_are_text_in_the_browser_too(page: Page) -> None:
    hostile = rows(page).filter(has_text="onerror").first
    await expect(hostile).to_contain_text('<img src=x onerror="alert(1)">')
    assert await page.locator("#recordings img, #recordings script").count() == 0
    assert re.search("x{100}…", await hostile.inner_text())
    await assert_fits(page)
