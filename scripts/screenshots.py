#!/usr/bin/env python3
"""Saves pictures of the page's states: light and dark, wide and narrow. Needs Chromium and a running demo.

scripts/serve                                     # in another terminal
.venv/bin/python scripts/screenshots.py pictures
"""

import argparse
import asyncio
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from playwright.async_api import Browser, Page, Route, ViewportSize, async_playwright

WIDE = ViewportSize(width=1360, height=850)
NARROW = ViewportSize(width=320, height=720)
EVER = "/ui/recordings?startTime=0"

Scheme = Literal["light", "dark"]


@dataclass(frozen=True)
class State:
    """A state of the page: where it is, and what is done there."""

    name: str
    path: str
    prepare: Callable[[Page], Awaitable[object]] | None = None
    signed_in: bool = True


async def wrong_password(page: Page) -> None:
    await page.get_by_label("User name").fill("admin")
    await page.get_by_label("Password").fill("guess")
    await page.get_by_role("button", name="Sign in").click()
    await page.get_by_role("alert").wait_for()


async def more_criteria(page: Page) -> None:
    fold = page.get_by_role("button", name="Criteria")
    if await fold.is_visible():
        await fold.click()
    await page.get_by_text("More criteria").click()
    await page.get_by_role("textbox", name="User data").focus()


async def columns(page: Page) -> None:
    await page.locator("#columns summary").click()


async def pick_three(page: Page) -> None:
    for i in range(1, 4):
        await page.get_by_role("row").nth(i).get_by_role("checkbox").check()


async def ask_to_protect(page: Page) -> None:
    await pick_three(page)
    await page.get_by_role("button", name="Protect…", exact=True).click()
    await page.get_by_label("Reason").fill("LegalHold#245")


async def all_that_match(page: Page) -> None:
    await page.get_by_text("All that match", exact=True).click()


# Recordings that are not protected are unprotected, which changes nothing.
_BEGIN = """async (more) => {
  const body = { operationName: "unapplyNonDelete", criteria: { startTime: "0", nonDelete: "false", ...more } };
  const headers = { "Content-Type": "application/json" };
  await fetch("/ui/api/recording-operations", { method: "POST", headers, body: JSON.stringify(body) });
}"""


async def running_operation(page: Page) -> None:
    await page.evaluate(_BEGIN, {})
    await page.goto("/ui/operations")


async def ended_operation(page: Page) -> None:
    await page.evaluate(_BEGIN, {"minDuration": "900"})
    await page.goto("/ui/operations")
    await page.locator("tbody tr:not([data-state=running])").first.wait_for()


async def some_fail(page: Page) -> None:
    message = "The recording store is not available at the moment."

    async def fail(route: Route) -> None:
        failed = [
            {"id": each, "statusCode": 4, "statusMessage": message}
            for each in (route.request.post_data_json or {})["recordings"]
        ]
        await route.fulfill(json={"statusCode": 7, "id": "x", "succeeded": 0, "failed": failed})

    await page.route("**/ui/api/recording-operations", fail)
    await ask_to_protect(page)
    await page.get_by_role("button", name="Protect", exact=True).click()
    await page.get_by_text("3 failed").wait_for()


async def ask_to_label(page: Page) -> None:
    await pick_three(page)
    await page.get_by_role("button", name="Label…").click()


async def first_result(page: Page) -> None:
    await page.locator("tbody a").first.click()
    await page.wait_for_url("**/ui/recordings/*")
    await page.wait_for_load_state("networkidle")


async def whole_recording(page: Page) -> None:
    """All of it, so that one picture has what is below the first screen."""
    await first_result(page)
    await page.locator("#labelling select").select_option(index=1)
    await page.get_by_label("Comment", exact=True).fill("asked twice for the supervisor")
    await page.get_by_role("button", name="Label", exact=True).click()
    await page.locator(".toast").wait_for()
    await page.evaluate("document.querySelector('#labels').scrollIntoView()")


async def history(page: Page) -> None:
    await first_result(page)
    await page.locator("#history-list li").first.wait_for()
    await page.evaluate("document.querySelector('#history').scrollIntoView()")


async def history_fails(page: Page) -> None:
    await page.route("**/ui/api/audit**", lambda route: route.abort())
    await first_result(page)
    await page.evaluate("document.querySelector('#history').scrollIntoView()")


async def more_controls(page: Page) -> None:
    await first_result(page)
    more = page.get_by_role("button", name="More controls")
    if await more.is_visible():
        await more.click()


async def storage_is_away(page: Page) -> None:
    answer = {"statusCode": 4, "statusMessage": "The media storage failed."}
    await page.route("**/play/**", lambda route: route.fulfill(status=502, json=answer))
    await page.route(
        "**/peaks/**",
        lambda route: route.fulfill(
            json={"statusCode": 0, "peaks": None, "reason": "storage", "message": "The media storage failed."}
        ),
    )
    await first_result(page)
    await page.get_by_role("button", name="Play", exact=True).click()
    await page.locator("#player-problem").wait_for()


async def edit_comment(page: Page) -> None:
    await first_result(page)
    await page.locator("[data-comment]").first.click()


async def keys(page: Page) -> None:
    await page.keyboard.press("?")


STATES = (
    State("sign-in", "/ui/sign-in", signed_in=False),
    State("sign-in-wrong", "/ui/sign-in", wrong_password, signed_in=False),
    State("results", EVER),
    State("recording", EVER, first_result),
    State("recording-controls", EVER, more_controls),
    State("recording-labels", EVER, whole_recording),
    State("recording-comment", EVER, edit_comment),
    State("recording-history", EVER, history),
    State("recording-history-fails", EVER, history_fails),
    State("recording-storage-away", EVER, storage_is_away),
    State("marked", f"{EVER}&userName=*a*&callerPhoneNumber=*4*&userData=CASE*"),
    State("more-criteria", EVER, more_criteria),
    State("columns", EVER, columns),
    State("picked", EVER, pick_three),
    State("protect", EVER, ask_to_protect),
    State("label", EVER, ask_to_label),
    State("all-that-match", EVER, all_that_match),
    State("some-fail", EVER, some_fail),
    State("operations-none", "/ui/operations"),
    State("operations-running", EVER, running_operation),
    State("operations", EVER, ended_operation),
    State("keys", EVER, keys),
    State("nothing-found", "/ui/recordings?startTime=2020-01-01&callerPhoneNumber=nobody&userName=x"),
    State("wrong-field", "/ui/recordings?startTime=yesterday&userName=AND"),
    State("unknown-parameter", "/ui/recordings?startTime=0&caller=x"),
    State("not-found", "/ui/nowhere"),
)


async def take(browser: Browser, scheme: Scheme, arguments: argparse.Namespace) -> None:
    """Takes the pictures of one colour scheme in both widths, one state after the other."""
    for width, viewport in (("wide", WIDE), ("narrow", NARROW)):
        context = await browser.new_context(
            base_url=arguments.address, viewport=viewport, color_scheme=scheme, timezone_id="Europe/Paris"
        )
        signed_in = False
        for state in STATES:
            page = await context.new_page()
            if state.signed_in and not signed_in:
                await page.goto("/ui/sign-in")
                await page.get_by_label("User name").fill(arguments.user)
                await page.get_by_label("Password").fill(f"{arguments.user}-demo")
                await page.get_by_role("button", name="Sign in").click()
                await page.wait_for_url("**/ui/recordings*")
                signed_in = True
            if arguments.only in state.name:
                await page.goto(state.path)
                if state.prepare:
                    await state.prepare(page)
                await page.screenshot(path=arguments.folder / f"{state.name}-{width}-{scheme}.png")
            await page.close()
        await context.close()


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--address", default="http://127.0.0.1:8080")
    parser.add_argument("--user", default="admin", help="a demo user")
    parser.add_argument("--only", default="", help="states whose name contains this")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    async with async_playwright() as playwright:
        program = shutil.which("chromium") or shutil.which("google-chrome")
        browser = await playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        schemes: tuple[Scheme, ...] = ("light", "dark")
        for scheme in schemes:
            await take(browser, scheme, arguments)
        await browser.close()
    print(f"pictures are in {arguments.folder}")


if __name__ == "__main__":
    asyncio.run(main())
