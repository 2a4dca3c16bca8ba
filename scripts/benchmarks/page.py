"""`scripts/bench.py page`: how long somebody waits in the page, from a click to what it was for."""

import asyncio
import contextlib
import os
import re
import shutil
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np
import soundfile  # type: ignore[import-untyped]
from playwright.async_api import Error, Page, async_playwright

from app.cli.framework import Command
from app.cli.types import POSITIVE
from app.embedded.demo_calls import make_calls, write_media
from app.embedded.loader import LoadError
from app.embedded.media import MediaServer
from app.media import decoder
from app.settings import StorageConfig, WebDavConfig
from app.store.indices import create_indices
from benchmarks import stage as stages
from benchmarks.client import OPS_USER, PASSWORD, USER, Request, authorization, fetch
from benchmarks.stage import CONTACT_CENTER, REGION, Stage, on_stage, service
from benchmarks.tables import print_row

# When something was clicked, and when what the click was for was there, by the browser's clock in ms. A page is shown
# in the frame after its content was complete, a sound when an element says that it plays, a waveform when its canvas
# has its channels.
_WATCH = """
const now = () => performance.timeOrigin + performance.now();
addEventListener("click", (event) => {
  sessionStorage.clicked = performance.timeOrigin + event.timeStamp;
  delete window.reached;
}, { capture: true });
addEventListener("DOMContentLoaded", () => {
  if (document.querySelector(".wave")) {
    new MutationObserver((_, observer) => {
      if (!document.querySelector(".wave.two")) return;
      window.drawn = now();
      observer.disconnect();
    }).observe(document.body, { subtree: true, attributeFilter: ["class"] });
  }
  requestAnimationFrame(() => requestAnimationFrame(() => { window.reached = now(); }));
});
addEventListener("playing", () => { window.reached = now(); }, { capture: true });
"""

_RATE = 8000
_DECODER = decoder.__file__
_PATIENCE_SECONDS = 60.0
_KINDS = {"G.711": ("wav", "audio/wav", "ULAW"), "MP3": ("mp3", "audio/mpeg", "MPEG_LAYER_III")}


@click.command("page", cls=Command)
@stages.rounds(15)
@click.option("--minutes", metavar="N", type=POSITIVE, default=60, help="Of the long recordings (default: 60).")
def command(**options: Any) -> None:
    """Measure clicks in the page, in Chromium: the first page of results, a sound, a waveform.

    It stores the demo's calls, and two long recordings of two channels, in G.711 and in MP3. Each click stands beside
    one that asks for nothing.
    """
    on_stage(partial(measure, **options))


async def measure(stage: Stage, *, rounds: int, minutes: int) -> None:
    """Clicks in the page of a service of its own, in turn, so that other load disturbs all alike."""
    with ExitStack() as servers:
        folder = Path(servers.enter_context(tempfile.TemporaryDirectory(prefix="recall-media-")))
        media = servers.enter_context(MediaServer(folder))
        storage = StorageConfig((WebDavConfig(media.url, media.username, media.password),))
        await create_indices(stage.client, stage.settings)
        url = servers.enter_context(service(msgspec.structs.replace(stage.settings, storage=storage)))
        calls = make_calls(await asyncio.to_thread(write_media, folder), region=REGION, base_url=media.url)
        files = await asyncio.to_thread(_write_long, folder, minutes)
        long = {kind: _long(kind, f"{media.url}/{file.name}", minutes) for kind, file in files.items()}
        for recording in [*calls.recordings, *long.values()]:
            await asyncio.to_thread(_post, url, recording)
        await stage.client.indices.refresh(index=f"{stage.settings.index_prefix}-*")
        async with _signed_in(url) as page:
            await _clicks(page, rounds, minutes)
            await _waveforms(page, rounds, files)


def _write_long(folder: Path, minutes: int) -> dict[str, Path]:
    """Writes the long files, with another loudness in each second. Returns them by their kinds."""
    random = np.random.default_rng(1)
    loudness = np.repeat(random.uniform(0.05, 0.6, (60, 2)), _RATE, axis=0)
    minute = random.uniform(-1, 1, (60 * _RATE, 2)) * loudness
    files = {}
    for kind, (ending, _, subtype) in _KINDS.items():
        files[kind] = folder / f"long.{ending}"
        with soundfile.SoundFile(files[kind], "w", _RATE, 2, subtype) as file:
            for _ in range(minutes):
                file.write(minute)
    return files


def _long(kind: str, url: str, minutes: int) -> dict[str, Any]:
    # Before all calls of the demo, so that the pages of results stay theirs.
    start = datetime.now(UTC) - timedelta(days=100)
    caller = {"type": "External", "phoneNumber": "+16504668888"}
    return {
        "id": kind,
        "region": REGION,
        "callerPhoneNumber": caller["phoneNumber"],
        "dialedPhoneNumber": "+14155551234",
        "eventHistory": [{"occurredAt": start.isoformat(), "contact": caller, "event": "Joined"}],
        "mediaFiles": [
            {
                "startTime": start.isoformat(),
                "stopTime": (start + timedelta(minutes=minutes)).isoformat(),
                "callUUID": kind,
                "type": _KINDS[kind][1],
                "mediaId": kind,
                "mediaDescriptor": {"storage": "webDAV", "path": url},
            }
        ],
    }


def _post(url: str, recording: dict[str, Any]) -> None:
    path = f"/api/v2/ops/contact-centers/{CONTACT_CENTER}/recordings"
    headers = (authorization(OPS_USER), ("Content-Type", "application/json"))
    status, body = fetch(url, Request("POST", path, headers, msgspec.json.encode(recording)))
    if status != 201:
        raise LoadError(f"a recording was not stored: {status} {body[:200]!r}")


@asynccontextmanager
async def _signed_in(url: str) -> AsyncIterator[Page]:
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        raise LoadError("Chromium is not installed: apt-get install chromium")
    async with async_playwright() as playwright:
        arguments = ["--no-sandbox", "--no-proxy-server"]
        browser = await playwright.chromium.launch(executable_path=program, args=arguments)
        page = await browser.new_page(base_url=url)
        await page.add_init_script(_WATCH)
        await page.goto("/ui/sign-in")
        await page.get_by_label("User name").fill(USER)
        await page.get_by_label("Password").fill(PASSWORD)
        await page.get_by_role("button", name="Sign in").click()
        await page.wait_for_url("**/ui/recordings*")
        yield page
        await browser.close()


async def _clicks(page: Page, rounds: int, minutes: int) -> None:
    later = minutes * 50  # minute 50 of an hour

    async def sound(kind: str, second: int) -> float:
        await page.goto("about:blank")
        await page.goto(f"/ui/recordings/{kind}#t={second}")
        await page.wait_for_load_state("networkidle")
        return await _clicked(page, page.get_by_role("button", name="Play", exact=True).click)

    asked: dict[str, Callable[[], Awaitable[float]]] = {
        "a page without a search": lambda: _link(page, "/ui/nowhere"),
        "the first 100 of all recordings": lambda: _link(page, "/ui/recordings?startTime=0"),
        "recordings of an agent": lambda: _link(page, "/ui/recordings?startTime=0&userName=*a*"),
    }
    for kind in _KINDS:
        asked[f"{kind} from the beginning"] = partial(sound, kind, 0)
        asked[f"{kind} from {later // 60}:{later % 60:02}"] = partial(sound, kind, later)
    times: dict[str, list[float]] = {name: [] for name in asked}
    for number in range(rounds + 1):
        for name, ask in asked.items():
            taken = await ask()
            if number:
                times[name].append(taken)
    print_row("from a click to", "median ms", "best", "worst")
    print_row("---", *["---:"] * 3)
    for name, each in times.items():
        print_row(name, *(f"{value:.0f}" for value in (statistics.median(each), min(each), max(each))))
    print("\nWanted: the first page, and a sound from 50:00 of an hour, within 300 ms.\n")


async def _waveforms(page: Page, rounds: int, files: dict[str, Path]) -> None:
    print_row("waveform, from the click to the drawing", "first median s", "worst", "again median s", "decoder MB")
    print_row("---", *["---:"] * 4)
    for kind, file in files.items():
        first, again, most = [], [], 0
        for number in range(rounds):
            os.utime(file, (number, number))  # another version of the file, which nobody remembers
            drawing = asyncio.create_task(_link(page, f"/ui/recordings/{kind}", "drawn"))
            while not drawing.done():
                most = max(most, _memory_of_decoders())
                await asyncio.sleep(0.01)
            first.append(await drawing / 1000)
            again.append(await _link(page, f"/ui/recordings/{kind}", "drawn") / 1000)
        times = (statistics.median(first), max(first), statistics.median(again))
        size = file.stat().st_size / 1e6
        print_row(f"{kind}, {size:.0f} MB", *(f"{each:.2f}" for each in times), f"{most / 1e6:.0f}")
    print("\nWanted: within 3 s with less than 150 MB in the decoder, and again at once.")


def _memory_of_decoders() -> int:
    """Returns the greatest memory that a decoder, which now runs, has had, in bytes."""
    most = 0
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            if str(_DECODER) in file.read_text():
                status = file.with_name("status").read_text()
                most = max([most, *(1024 * int(size) for size in re.findall(r"VmHWM:\s*(\d+) kB", status))])
    return most


async def _link(page: Page, path: str, what: str = "reached") -> float:
    """Returns the milliseconds from the click on a link to what is at its end."""
    await page.goto("/ui/recordings?startTime=2000-01-01&endTime=2000-01-02")
    link = page.locator("a.button").first
    await link.evaluate("(link, path) => { link.href = path; }", path)
    return await _clicked(page, link.click, what)


async def _clicked(page: Page, act: Callable[[], Awaitable[None]], what: str = "reached") -> float:
    """Returns the milliseconds from a click to what it was for: `reached` or `drawn`."""
    await act()
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        # The page may be on its way to another.
        with contextlib.suppress(Error):
            taken = await page.evaluate(f"window.{what} && sessionStorage.clicked && {what} - sessionStorage.clicked")
            if taken:
                return float(taken)
        await asyncio.sleep(0.02)
    raise LoadError(f"the page did not get to what was clicked: {page.url}")
