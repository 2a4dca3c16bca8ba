"""The page of one recording in real Chromium: what it shows, and what is heard."""

import io
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import soundfile  # type: ignore[import-untyped]
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page, ViewportSize, expect

from app.settings import StorageConfig, WebDavConfig
from tests.page.conftest import NewContext
from tests.page.support import signed_in
from tests.support.audit import lines_but_posts
from tests.support.recordings import OPS_PATH, a_media_file, a_recording, a_user, an_event
from tests.support.service import PATIENT, STORAGES, USERS, Service, own_settings
from tests.support.storages import WebDav
from tests.support.waiting import eventually

RATE = 8000
SECONDS = "Number(document.getElementById('position').getAttribute('aria-valuenow'))"
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}
HOSTILE = "<img src=x onerror=alert(1)>\"'&\u202etxt.exe\u202c " + "long" * 1250


def tones(seconds: int) -> bytes:
    """Each second sounds of its own: 500 Hz and 100 Hz more for each second of ten; the right channel an octave up."""
    time = np.arange(RATE) / RATE
    pieces = [
        np.stack([0.4 * np.sin(2 * np.pi * frequency * time * channel) for channel in (1, 2)], axis=1)
        for frequency in (500 + 100 * (second % 10) for second in range(10))
    ]
    file = io.BytesIO()
    soundfile.write(file, np.tile(np.concatenate(pieces), (seconds // 10, 1)), RATE, format="WAV", subtype="ULAW")
    return file.getvalue()


def at(minutes: int, seconds: int = 0) -> str:
    return f"2026-03-01T12:{minutes:02}:{seconds:02}.000Z"


def call(storage: WebDav, recording_id: str, path: str, minutes: int = 2, **attributes: Any) -> dict[str, Any]:
    media = a_media_file(
        mediaDescriptor=storage.descriptor(path), startTime=at(0), stopTime=at(minutes), type="audio/wav",
        size="960058", callUUID=recording_id,
        masks=[{"time": at(0, 40), "type": "paused"}, {"time": at(1, 10), "type": "resumed"}],
    )  # fmt: skip
    events = [
        an_event(occurredAt=at(0), contact={"type": "External", "phoneNumber": "+16504668888"}),
        an_event(
            occurredAt=at(0, 5), contact=a_user("Alice", "Ng", userName="alice"), data={"case": "A-17", "vip": True}
        ),
        an_event(occurredAt=at(1), event="Left", contact=a_user("Alice", "Ng", userName="alice")),
        an_event(occurredAt=at(1, 2), contact=a_user("Bob", "Li", phoneNumber="5002", userName="bob")),
    ]
    return a_recording(recording_id, **{"mediaFiles": [media], "eventHistory": events, **attributes})


@pytest.fixture(scope="module")
async def service(elasticsearch_url: str, wsgidav_basic: WebDav, tmp_path_factory: Any) -> AsyncIterator[Service]:
    storage = WebDavConfig(wsgidav_basic.url, wsgidav_basic.username, wsgidav_basic.password)
    wsgidav_basic.put("page/call.wav", tones(120))
    wsgidav_basic.put("page/hour.wav", tones(3540))
    supervisor = next(user for user in USERS if user.name == "supervisor")
    limited = msgspec.structs.replace(supervisor, access_groups=("/",))
    async with own_settings(elasticsearch_url) as settings:
        service = Service(
            msgspec.structs.replace(
                settings,
                users=(*(user for user in USERS if user is not supervisor), limited),
                storage=StorageConfig((*STORAGES.webdav, storage), STORAGES.s3),
                audit_log=str(tmp_path_factory.mktemp("audit") / "audit.log"),
                **PATIENT,
            )
        )
        await service.start()
        encrypted = a_media_file(
            mediaDescriptor=wsgidav_basic.descriptor("page/none.wav"), type="audio/wav", pkcs7="MII"
        )
        missing = a_media_file("x", mediaDescriptor=wsgidav_basic.descriptor("page/none.wav"), type="audio/wav")
        contact = a_user(HOSTILE, HOSTILE, phoneNumber=HOSTILE, userName=HOSTILE)
        event = an_event(
            contact=contact, data={HOSTILE: [HOSTILE, {"deep": None, "n": 1.10}], "</script>": "</script>"}
        )
        recordings = [
            call(wsgidav_basic, "call", "page/call.wav"),
            call(wsgidav_basic, "call/2 ü#?", "page/call.wav"),
            call(wsgidav_basic, "hour", "page/hour.wav", minutes=59),
            a_recording("encrypted", mediaFiles=[encrypted]),
            a_recording("missing", mediaFiles=[missing]),
            a_recording(
                "hostile", callerPhoneNumber=HOSTILE, dialedPhoneNumber=HOSTILE, eventHistory=[event],
                mediaFiles=[a_media_file(type=HOSTILE, size=HOSTILE, masks=[{"time": 5}, {"type": HOSTILE}, {}])],
            ),
        ]  # fmt: skip
        ops = service.client("ops")
        for recording in recordings:
            response = await ops.post(OPS_PATH, json=recording)
            assert response.status_code == 201, response.text
        definitions = OPS_PATH.replace("/recordings", "/recording-label-definitions")
        assert (await ops.post(definitions, json={"name": "vip", "displayName": "VIP"})).status_code == 201
        yield service
        await service.stop()


# Before anything plays, what an element says is led through an analyser, as `window.heard`.
LISTEN = """
window.hear = () => {
  const context = new AudioContext(), element = document.querySelector("audio");
  const splitter = context.createChannelSplitter(2), analyser = context.createAnalyser();
  analyser.fftSize = 4096;
  analyser.smoothingTimeConstant = 0;
  context.createMediaElementSource(element).connect(splitter).connect(analyser, 0);
  analyser.connect(context.destination);
  const bins = new Float32Array(analyser.frequencyBinCount);
  window.heard = () => {
    analyser.getFloatFrequencyData(bins);
    const best = bins.indexOf(Math.max(...bins));
    return bins[best] < -60 ? 0 : (best * context.sampleRate) / analyser.fftSize;
  };
};
"""


async def opened(service: Service, new_context: NewContext, path: str, user: str = "admin", **options: Any) -> Page:
    context = await new_context(service.url, **options)
    client = await signed_in(service, user)
    await context.add_cookies(
        [{"name": c.name, "value": c.value or "", "url": service.url} for c in client.cookies.jar]
    )
    await context.add_init_script(LISTEN)
    page = await context.new_page()
    await page.goto(f"/ui/recordings/{path}")
    return page


async def until(page: Page, expression: str) -> None:
    """Playwright's own way needs `eval`, which the page's policy forbids."""

    async def holds() -> bool:
        return bool(await page.evaluate(expression))

    await eventually(holds, seconds=15)


def position(page: Page) -> Any:
    return page.get_by_role("slider", name="Position")


async def seconds(page: Page) -> float:
    return float(await position(page).get_attribute("aria-valuenow") or "nan")


async def test_it_shows_the_call_without_scripts(service: Service, new_context: NewContext) -> None:
    page = await opened(service, new_context, "call%2F2%20%C3%BC%23%3F", java_script_enabled=False)
    await expect(page.get_by_role("heading", level=1)).to_contain_text("+16504668888")
    await expect(page.locator(".facts")).to_contain_text("call/2 ü#?")
    await expect(page.locator(".track .lane rect")).to_have_count(3)
    await expect(page.locator(".events li")).to_have_count(5)
    await expect(page.locator(".events")).to_contain_text("Paused for 30 s")
    await expect(page.locator(".events")).to_contain_text("A-17")
    await expect(page.locator("#player")).to_be_hidden()


async def test_nothing_plays_or_is_fetched_by_itself(service: Service, new_context: NewContext) -> None:
    page = await opened(service, new_context, "call#t=33")
    played: list[str] = []
    page.on("request", lambda request: played.append(request.url) if "/play/" in request.url else None)
    await expect(position(page)).to_have_attribute("aria-valuenow", "33.0")
    await expect(position(page)).to_have_attribute("aria-valuetext", "33 seconds of 2 minutes")
    await expect(page.get_by_role("button", name="Play", exact=True)).to_be_visible()
    await page.wait_for_load_state("networkidle")
    assert played == []


async def test_the_right_tone_is_heard_after_a_seek_and_the_bytes_before_are_not_fetched(
    service: Service, new_context: NewContext
) -> None:
    page = await opened(service, new_context, "hour#t=3000")
    await page.evaluate("window.hear()")
    await page.get_by_role("button", name="Play", exact=True).click()
    await until(page, "window.heard() > 0")
    for _ in range(3):
        tone, now = await page.evaluate("[window.heard(), document.querySelector('audio').currentTime]")
        near = {500 + 100 * int((now + shift) % 10) for shift in (-0.4, 0, 0.1)}
        assert any(abs(tone - each) < 30 for each in near), (tone, now)
        await page.get_by_role("button", name="+10 seconds").click()
        await until(page, "!document.querySelector('audio').seeking")
        await until(page, f"document.querySelector('audio').currentTime > {now + 10.7}")
    await page.get_by_role("button", name="Pause", exact=True).click()
    await page.goto("about:blank")
    assert service.settings.audit_log
    lines = [line for line in lines_but_posts(Path(service.settings.audit_log)) if line["recordingId"] == "hour"]
    assert len({line["listen"] for line in lines}) == 1
    # The 3,000 seconds before have 48 MB.
    assert sum(line.get("bytesSent", 0) for line in lines) < 20_000_000


async def test_it_skips_a_pause_and_loops(service: Service, new_context: NewContext) -> None:
    page = await opened(service, new_context, "call#t=39")
    await page.get_by_label("Skip pauses and silence").check()
    await page.get_by_role("button", name="Play", exact=True).click()
    await until(page, f"{SECONDS} >= 70")
    assert await seconds(page) < 80
    await expect(page.locator("#status")).to_contain_text("Skipped")
    await page.get_by_label("Skip pauses and silence").uncheck()
    await page.get_by_role("button", name="Pause", exact=True).click()
    for second, button in ((100, "A"), (101, "B")):
        await page.evaluate(f"location.hash = 't={second}'")
        await expect(position(page)).to_have_attribute("aria-valuenow", f"{second}.0")
        await page.get_by_role("button", name=button, exact=True).click()
    await page.get_by_role("button", name="Play", exact=True).click()
    await until(page, f"{SECONDS} < 100.7")
    assert 99.9 <= await seconds(page) < 101.2


async def test_speed_is_kept_with_the_pitch(service: Service, new_context: NewContext) -> None:
    page = await opened(service, new_context, "call")
    await page.get_by_label("Speed").fill("1.4")
    await page.keyboard.press("Enter")
    await page.reload()
    await expect(page.get_by_label("Speed")).to_have_value("1.4")
    assert await page.evaluate(
        "[document.querySelector('audio').playbackRate, document.querySelector('audio').preservesPitch]"
    ) == [1.4, True]


async def test_with_the_keyboard_alone(service: Service, new_context: NewContext) -> None:
    page = await opened(service, new_context, "call")
    keyboard = page.keyboard
    await keyboard.press("l")
    await keyboard.press("l")
    await keyboard.press("j")
    assert await seconds(page) == 10
    await position(page).focus()
    for key, expected in (("ArrowRight", 15), ("Shift+ArrowLeft", 14), ("PageUp", 44), ("End", 120), ("Home", 0)):
        await keyboard.press(key)
        assert await seconds(page) == expected
    await keyboard.press("+")
    await expect(page.get_by_label("Speed")).to_have_value("1.1")
    await keyboard.press("Space")
    await expect(page.get_by_role("button", name="Pause", exact=True)).to_be_visible()
    await until(page, f"{SECONDS} > 0.5")
    await keyboard.press("k")
    await expect(page.get_by_role("button", name="Play", exact=True)).to_be_visible()
    await keyboard.press("m")
    await expect(page.get_by_role("button", name="Mute")).to_have_attribute("aria-pressed", "true")
    await page.locator(".seek").nth(1).focus()
    await keyboard.press("Enter")
    assert await seconds(page) == 5


async def test_the_waveform_is_drawn_and_finer_on_zoom(service: Service, new_context: NewContext) -> None:
    page = await opened(service, new_context, "call#t=60")
    drawn = "document.querySelector('.wave').classList.contains('two')"
    await until(page, drawn)
    async with page.expect_response(re.compile(r"/peaks/.*from=")) as asked:
        for _ in range(3):
            await page.get_by_role("button", name="Zoom in").click()
    assert (await (await asked.value).json())["peaks"]["from"] > 0
    await expect(page.locator("#status")).to_contain_text("Shows")


async def test_protect_label_and_download(service: Service, new_context: NewContext) -> None:
    page = await opened(service, new_context, "call%2F2%20%C3%BC%23%3F")
    await page.get_by_role("button", name="Protect…").click()
    dialog = page.get_by_role("dialog", name="Protect")
    await dialog.get_by_label("Reason").fill("LegalHold#245")
    await dialog.get_by_role("button", name="Protect", exact=True).click()
    await expect(page.get_by_text("Protected from deletion")).to_be_visible()
    await expect(page.locator(".reason")).to_have_text("LegalHold#245")
    await page.locator("#label-name").select_option("VIP")
    await page.locator("#label-comment").fill("asked twice")
    await page.get_by_role("button", name="Label", exact=True).click()
    await expect(page.locator("#labels")).to_contain_text("asked twice")
    await page.get_by_role("button", name="Remove").click()
    await expect(page.locator("#labels")).to_have_text("None")
    await page.get_by_role("link", name="Download").click()
    async with page.expect_download() as download:
        await page.get_by_role("dialog", name="Download").get_by_role("button", name="Download").click()
    assert (await (await download.value).path()).stat().st_size == 120 * RATE * 2 + 58


async def test_who_may_not_protect_is_told_why(service: Service, new_context: NewContext) -> None:
    page = await opened(service, new_context, "call", user="supervisor")
    button = page.get_by_role("button", name="Protect…")
    await expect(button).to_be_disabled()
    await expect(button).to_have_accessible_description("Insufficient recording permissions.")


async def test_what_cannot_be_played_says_why(service: Service, new_context: NewContext) -> None:
    page = await opened(service, new_context, "encrypted", expected=("Failed to load resource",))
    await expect(page.locator(".media")).to_contain_text("It is encrypted, so it cannot be played here.")
    await expect(page.get_by_role("button", name="Play", exact=True)).to_be_disabled()
    await expect(page.get_by_role("link", name="Download")).to_be_visible()
    await page.goto("/ui/recordings/missing")
    await expect(page.locator(".track.sound")).to_contain_text("The file is not in its storage.")
    await page.get_by_role("button", name="Play", exact=True).click()
    await expect(page.locator("#player-problem")).to_contain_text("cannot be found")


@pytest.mark.parametrize("width", [1280, 320])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", ["call", "hostile", "encrypted"])
async def test_it_is_accessible_and_keeps_its_layout(
    service: Service, new_context: NewContext, path: str, scheme: str, width: int
) -> None:
    page = await opened(
        service, new_context, path, color_scheme=scheme, viewport=ViewportSize(width=width, height=720),
        expected=("Failed to load resource",),
    )  # fmt: skip
    await page.wait_for_load_state("networkidle")
    results = await Axe().run(page, options=RULES)
    assert results.violations_count == 0, results.generate_report()
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert await page.locator("img").count() == 0
