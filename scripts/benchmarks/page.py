"""`scripts/bench.py page`: how long somebody waits in the page, from a click to what it was for."""

import asyncio
import shutil
import statistics
from collections.abc import Awaitable, Callable

import click
from playwright.async_api import Page, async_playwright

from app.cli.framework import Command

# When something was clicked, and when what the click was for was there, by the browser's clock in ms. A page is shown
# in the frame after its content was complete; a sound is there when an element says that it plays.
_WATCH = """
const now = () => performance.timeOrigin + performance.now();
addEventListener("click", (event) => {
  sessionStorage.clicked = performance.timeOrigin + event.timeStamp;
  delete window.reached;
}, { capture: true });
addEventListener("DOMContentLoaded", () => requestAnimationFrame(() => requestAnimationFrame(() => {
  window.reached = now();
})));
addEventListener("playing", () => { window.reached = now(); }, { capture: true });
"""


@click.command("page", cls=Command)
@click.option("--address", default="http://127.0.0.1:8080", show_default=True, help="A service with the demo.")
@click.option("--user", default="admin", show_default=True, help="Its password is the name and -demo.")
@click.option("--play", metavar="PATH", help="Of a recording an hour long, such as /ui/recordings/ID.")
@click.option("--rounds", default=15, show_default=True)
def command(address: str, user: str, play: str | None, rounds: int) -> None:
    """Measure clicks in the page of a running demo, in Chromium. Each stands beside a click that asks for nothing."""
    asyncio.run(_measure(address, user, play, rounds))


async def _measure(address: str, user: str, play: str | None, rounds: int) -> None:
    async with async_playwright() as playwright:
        program = shutil.which("chromium") or shutil.which("google-chrome")
        browser = await playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--no-proxy-server"])
        page = await browser.new_page(base_url=address)
        await page.add_init_script(_WATCH)
        await page.goto("/ui/sign-in")
        await page.get_by_label("User name").fill(user)
        await page.get_by_label("Password").fill(f"{user}-demo")
        await page.get_by_role("button", name="Sign in").click()
        await page.wait_for_url("**/ui/recordings*")

        async def link(path: str) -> float:
            await page.goto("/ui/recordings?startTime=2000-01-01&endTime=2000-01-02")
            await page.locator("a.button").first.evaluate("(link, path) => { link.href = path; }", path)
            return await _clicked(page, page.locator("a.button").first.click)

        async def sound(second: int) -> float:
            await page.goto("about:blank")
            await page.goto(f"{play}#t={second}")
            await page.wait_for_load_state("networkidle")
            return await _clicked(page, page.get_by_role("button", name="Play", exact=True).click)

        asked: dict[str, Callable[[], Awaitable[float]]] = {
            "a page without a search": lambda: link("/ui/nowhere"),
            "the first 100 of all recordings": lambda: link("/ui/recordings?startTime=0"),
            "recordings of an agent": lambda: link("/ui/recordings?startTime=0&userName=*a*"),
        }
        if play:
            asked |= {"sound from the beginning": lambda: sound(0), "sound from minute 50": lambda: sound(3000)}
        times: dict[str, list[float]] = {name: [] for name in asked}
        for _ in range(rounds):  # in turn, so that other load disturbs all alike
            for name, ask in asked.items():
                times[name].append(await ask())
        await browser.close()
    print("| from a click to | median ms | best | worst |\n|---|---:|---:|---:|")
    for name, each in times.items():
        print(f"| {name} | {statistics.median(each):.0f} | {min(each):.0f} | {max(each):.0f} |")


async def _clicked(page: Page, act: Callable[[], Awaitable[None]]) -> float:
    """Returns the milliseconds from a click to what it was for."""
    await act()
    while True:
        try:
            if await page.evaluate("Boolean(window.reached && sessionStorage.clicked)"):
                return float(await page.evaluate("window.reached - Number(sessionStorage.clicked)"))
        except Exception:  # noqa: BLE001, S110  # the page is on its way to another
            pass
        await asyncio.sleep(0.02)
