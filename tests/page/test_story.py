"""The whole story in real Chromium, for each role, with the mouse and with the keyboard alone (issue 16)."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

import msgspec
import pytest
from playwright.async_api import Locator, Page, expect

from app.settings import StorageConfig, User, WebDavConfig
from tests.page.browsing import LISTEN, SECONDS, focus_by_tab, position, sign_in, until
from tests.page.calls import call, tones
from tests.page.conftest import NewContext
from tests.support.recordings import CONTACT_CENTER, OPS_PATH, a_recording
from tests.support.service import PATIENT, STORAGES, Service, hash_password, own_settings
from tests.support.storages import WebDav
from tests.support.waiting import eventually

PATH = "/ui/recordings/the%2Fcall"
NOT_ALLOWED = "Insufficient recording permissions."
_MAY_CHANGE = tuple(f"RECORDING_PERMISSION_{name}" for name in ("APPLY_NON_DELETE", "ADD_LABEL"))


@dataclass(frozen=True)
class Person:
    """Somebody's entry in the configuration, and what the story is to that person."""

    user: User
    may_change: bool = True
    sees_history: bool = False
    sees_others: bool = False  # recordings of other groups and agents


def _user(name: str, role: str, **attributes: object) -> User:
    user = User(name, hash_password(f"{name}-password"), (role,), CONTACT_CENTER)  # type: ignore[arg-type]
    return msgspec.structs.replace(user, **attributes)


PEOPLE = {
    "administrator": Person(_user("anna", "admin"), sees_history=True, sees_others=True),
    "supervisor": Person(_user("sam", "supervisor", access_groups=("/US",), permissions=_MAY_CHANGE)),
    "agent": Person(_user("alice", "agent", own_recordings=True), may_change=False),
}


@pytest.fixture(scope="module")
async def service(elasticsearch_url: str, wsgidav_basic: WebDav) -> AsyncIterator[Service]:
    storage = WebDavConfig(wsgidav_basic.url, wsgidav_basic.username, wsgidav_basic.password)
    wsgidav_basic.put("story/call.wav", tones(120))
    descriptor = wsgidav_basic.descriptor("story/call.wav")
    async with own_settings(elasticsearch_url) as settings:
        users = (*settings.users, *(person.user for person in PEOPLE.values()))
        storages = StorageConfig((*STORAGES.webdav, storage), STORAGES.s3)
        service = Service(msgspec.structs.replace(settings, users=users, storage=storages, **PATIENT))
        await service.start()
        ours = {"accessgroups": ["/US/CA"]}
        recordings = [
            call(descriptor, "the/call", media=ours, callerPhoneNumber="+33123456789"),
            *(call(descriptor, f"one {i}", media=ours, dialedPhoneNumber=f"+49{i}") for i in range(10)),
            a_recording("of others"),
        ]
        ops = service.client("ops")
        for recording in recordings:
            response = await ops.post(OPS_PATH, json=recording)
            assert response.status_code == 201, response.text
        definitions = OPS_PATH.replace("/recordings", "/recording-label-definitions")
        assert (await ops.post(definitions, json={"name": "vip", "displayName": "VIP"})).status_code == 201

        async def are_found() -> bool:
            found = await service.client("anna").get("/api/v2/recordings?startTime=0")
            return len(found.json()["recordings"]) == len(recordings)

        await eventually(are_found)
        yield service
        await service.stop()


class Hands(Protocol):
    """A way to use a page. Each method takes a selector of CSS."""

    async def sign_in(self, page: Page, name: str) -> None: ...
    async def press(self, page: Page, selector: str) -> None: ...
    async def write(self, page: Page, selector: str, text: str) -> None: ...
    async def choose(self, page: Page, selector: str, option: str) -> None: ...
    async def pick_all(self, page: Page) -> None: ...


class Mouse:
    """Clicks; what is written goes where somebody has clicked."""

    async def sign_in(self, page: Page, name: str) -> None:
        await sign_in(page, name)

    async def press(self, page: Page, selector: str) -> None:
        await page.locator(selector).first.click()

    async def write(self, page: Page, selector: str, text: str) -> None:
        await self.press(page, selector)
        await page.keyboard.insert_text(text)

    async def choose(self, page: Page, selector: str, option: str) -> None:
        await page.locator(selector).select_option(option)

    async def pick_all(self, page: Page) -> None:
        boxes = page.locator("#recordings input[name=pick]")
        await boxes.first.check()
        await boxes.last.click(modifiers=["Shift"])


class Keyboard:
    """Tab, Enter, Space and letters."""

    async def sign_in(self, page: Page, name: str) -> None:
        # The field for the name has the focus.
        await page.keyboard.type(name)
        await page.keyboard.press("Tab")
        await page.keyboard.type(f"{name}-password")
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/ui/recordings**")

    async def press(self, page: Page, selector: str) -> None:
        await focus_by_tab(page, selector)
        is_box = await page.evaluate("document.activeElement.matches('input[type=checkbox]')")
        await page.keyboard.press("Space" if is_box else "Enter")

    async def write(self, page: Page, selector: str, text: str) -> None:
        await focus_by_tab(page, selector)
        await page.keyboard.insert_text(text)

    async def choose(self, page: Page, selector: str, option: str) -> None:
        await focus_by_tab(page, selector)
        await page.keyboard.type(option)

    async def pick_all(self, page: Page) -> None:
        await self.press(page, "#pick-all")


async def is_not_offered(button: Locator) -> None:
    """It is there, does nothing and says why."""
    await expect(button).to_be_disabled()
    await expect(button).to_have_accessible_description(NOT_ALLOWED)


async def find_and_open(page: Page, hands: Hands) -> None:
    await hands.press(page, "a[data-preset=all]")
    await page.wait_for_url("**startTime=0")
    await hands.write(page, "#f-callerPhoneNumber", "+3312*")
    await page.keyboard.press("Enter")
    await page.wait_for_url("**callerPhoneNumber**")
    await expect(page.locator("#recordings mark")).to_have_text("+3312")
    await hands.press(page, "#recordings .c-start a")
    await page.wait_for_url(f"**{PATH}")


async def listen(page: Page, hands: Hands) -> None:
    """From the second event on, and over a pause."""
    await page.evaluate("listen()")
    await hands.press(page, ".events li:nth-child(2) .seek")
    assert await position(page) == 5
    await hands.press(page, "#play")
    await until(page, "hears()")
    await hands.press(page, ".events li:nth-child(3) .seek")  # the pause
    await hands.press(page, "#skip")
    await until(page, f"{SECONDS} >= 70 && hears()")
    await hands.press(page, "#play")
    await expect(page.locator("#play")).to_have_text("Play")


async def protect_and_label(page: Page, hands: Hands, reason: str) -> None:
    await hands.press(page, "#lock [data-action=apply]")
    await hands.write(page, "#act-reason", reason)
    await hands.press(page, "#act-go")
    await expect(page.locator(".reason")).to_have_text(reason)
    await expect(page.locator("#lock button:enabled").first).to_be_focused()
    await hands.choose(page, "#label-name", "VIP")
    await hands.write(page, "#label-comment", f"{reason}, to be heard")
    await hands.press(page, "#label-form button")
    await expect(page.locator("#labels")).to_contain_text("to be heard")


async def protect_ten(page: Page, hands: Hands, person: Person) -> None:
    await page.goto("/ui/recordings?startTime=0&dialedPhoneNumber=%2B49*")
    await hands.pick_all(page)
    await expect(page.locator("#picked-count")).to_have_text("10 selected")
    if not person.may_change:
        await is_not_offered(page.locator("#picked [data-action=apply]"))
        return
    await hands.press(page, "#picked [data-action=apply]")
    await hands.write(page, "#act-reason", "LegalHold#245")
    await hands.press(page, "#act-go")
    await expect(page.locator(".toast")).to_have_text("10 protected")
    await expect(page.locator("#recordings tr.protected")).to_have_count(10)


@pytest.mark.parametrize("role", PEOPLE)
@pytest.mark.parametrize("hands", [Mouse(), Keyboard()], ids=["mouse", "keyboard"])
async def test_the_whole_story(service: Service, new_context: NewContext, role: str, hands: Hands) -> None:
    person, name = PEOPLE[role], PEOPLE[role].user.name
    context = await new_context(service.url, expected=("status of 40",))
    await context.add_init_script(LISTEN)
    page = await context.new_page()
    await page.goto("/ui/recordings")
    await hands.sign_in(page, name)
    await find_and_open(page, hands)
    await listen(page, hands)
    if person.may_change:
        await protect_and_label(page, hands, f"LegalHold#{name}")
    else:
        await is_not_offered(page.locator("#lock [data-action=apply]"))
        await is_not_offered(page.locator("#label-form button"))
    await expect(page.locator("#history")).to_have_count(int(person.sees_history))
    await protect_ten(page, hands, person)
    # What others have does not exist for who may not see it.
    await page.goto("/ui/recordings/of%20others")
    await expect(page.get_by_role("heading", name="Not Found")).to_have_count(int(not person.sees_others))

    # A shared link leads somebody through the sign-in to the second, and does not play.
    fresh = await (await new_context(service.url)).new_page()
    await fresh.goto(f"{PATH}#t=83")
    await hands.sign_in(fresh, name)
    await until(fresh, f"{SECONDS} === 83")
    await expect(fresh.locator("#play")).to_have_text("Play")

    await page.goto(PATH)
    await hands.press(page, ".bar form button")
    await expect(page.get_by_text("You are signed out.")).to_be_visible()
    await page.goto(PATH)
    await expect(page.get_by_label("Password")).to_be_visible()
    assert await page.evaluate("fetch('/ui/api/recordings/the%2Fcall').then((response) => response.status)") == 401
    # The other session of the same person goes on.
    assert await fresh.evaluate("fetch('/ui/api/recordings/the%2Fcall').then((response) => response.status)") == 200
