"""The page of one recording in real Chromium: what it shows, and what is heard."""

import re
from collections.abc import AsyncIterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec
import pytest
from playwright.async_api import Page, expect

from app.errors import ElasticsearchUnavailable
from app.recordings.package import check
from app.settings import StorageConfig, WebDavConfig
from tests.page.browsing import (
    SECONDS,
    assert_accessible,
    assert_fits,
    assert_good_in_every_look,
    focus_by_tab,
    opened,
    position,
    until,
)
from tests.page.calls import RATE, at, call, tones
from tests.page.conftest import NewContext
from tests.support.audit import lines_but_posts
from tests.support.faults import Connection, LocalServer, Request
from tests.support.recordings import OPS_PATH, a_media_file, a_recording, a_user, an_event
from tests.support.service import PATIENT, STORAGES, USERS, Service, own_settings
from tests.support.storages import WebDav
from tests.support.waiting import eventually

HOSTILE = "<img src=x onerror=alert(1)>\"'&\u202etxt.exe\u202c " + "long" * 1250
HOSTILE_COMMENT = HOSTILE[:1000]
AWAY = ("Failed to load resource",)


class Sounds(LocalServer):
    """A storage with one file, under any name, that can be away for a while."""

    away = False

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self._content = content

    async def answer(self, request: Request, connection: Connection) -> None:
        if self.away:
            connection.reset()
            return
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
        length = len(self._content)
        first, last = (int(found[1]), int(found[2] or length - 1)) if found else (0, length - 1)
        about = {"ETag": '"1"', "Accept-Ranges": "bytes", "Content-Length": str(last + 1 - first)}
        if found:
            about["Content-Range"] = f"bytes {first}-{last}/{length}"
        await connection.start(206 if found else 200, about)
        for start in range(first, last + 1, 65536):
            await connection.send(self._content[start : min(start + 65536, last + 1)])


@pytest.fixture(scope="module")
async def sounds() -> AsyncIterator[Sounds]:
    async with Sounds(tones(120)) as server:
        yield server


@pytest.fixture(scope="module")
async def service(
    elasticsearch_url: str, wsgidav_basic: WebDav, sounds: Sounds, tmp_path_factory: Any
) -> AsyncIterator[Service]:
    storage = WebDavConfig(wsgidav_basic.url, wsgidav_basic.username, wsgidav_basic.password)
    wsgidav_basic.put("page/call.wav", tones(120))
    wsgidav_basic.put("page/hour.wav", tones(3540))
    wsgidav_basic.put("page/text.wav", b"no sound at all" * 100)
    wsgidav_basic.put("page/screen.webm", (files("app.embedded") / "videos" / "screen-1.webm").read_bytes())
    supervisor = next(user for user in USERS if user.name == "supervisor")
    limited = msgspec.structs.replace(supervisor, access_groups=("/",))
    async with own_settings(elasticsearch_url) as settings:
        service = Service(
            msgspec.structs.replace(
                settings,
                users=(*(user for user in USERS if user is not supervisor), limited),
                storage=StorageConfig((*STORAGES.webdav, storage, sounds.config), STORAGES.s3),
                audit_log=str(tmp_path_factory.mktemp("audit") / "audit.log"),
                **PATIENT,
            )
        )
        await service.start()
        sound, hour = (wsgidav_basic.descriptor(f"page/{name}.wav") for name in ("call", "hour"))
        encrypted = a_media_file(
            mediaDescriptor=wsgidav_basic.descriptor("page/none.wav"), type="audio/wav", pkcs7="MII"
        )
        missing = a_media_file("x", mediaDescriptor=wsgidav_basic.descriptor("page/none.wav"), type="audio/wav")
        text = a_media_file("x", mediaDescriptor=wsgidav_basic.descriptor("page/text.wav"), type="audio/wav")
        contact = a_user(HOSTILE, HOSTILE, phoneNumber=HOSTILE, userName=HOSTILE)
        event = an_event(
            contact=contact, data={HOSTILE: [HOSTILE, {"deep": None, "n": 1.10}], "</script>": "</script>"}
        )
        recordings = [
            call(sound, "call"),
            call(sound, "call/2 ü#?"),
            call(hour, "hour", minutes=59),
            call({"storage": "webDAV", "path": f"{sounds.url}/a.wav"}, "away"),
            a_recording("short", mediaFiles=[of_seconds(sound, 0, 30)]),
            a_recording("no length", mediaFiles=[of_seconds(sound, 0, 0)]),
            a_recording("parts", mediaFiles=[
                of_seconds(sound, 0, 120, paused=(10, 60)), of_seconds(hour, 0, 120, paused=(40, 100)),
            ]),
            a_recording("encrypted", mediaFiles=[encrypted]),
            a_recording("missing", mediaFiles=[missing]),
            a_recording("text", mediaFiles=[text]),
            a_recording(
                "hostile", callerPhoneNumber=HOSTILE, dialedPhoneNumber=HOSTILE, eventHistory=[event],
                mediaFiles=[a_media_file(type=HOSTILE, size=HOSTILE, masks=[{"time": 5}, {"type": HOSTILE}, {}])],
            ),
        ]  # fmt: skip
        screen = a_media_file(
            mediaDescriptor=wsgidav_basic.descriptor("page/screen.webm"), callUUID="call", type="video/webm",
            startTime=at(0, 10), stopTime=at(1, 10),
        )  # fmt: skip
        ops = service.client("ops")
        for recording in recordings:
            response = await ops.post(OPS_PATH, json=recording)
            assert response.status_code == 201, response.text
        screens = OPS_PATH.replace("/recordings", "/screen-recordings")
        assert (await ops.post(f"{screens}?refresh=wait_for", json=a_recording("s", mediaFiles=[screen]))).is_success
        definitions = OPS_PATH.replace("/recordings", "/recording-label-definitions")
        for definition in ({"name": "vip", "displayName": "VIP"}, {"name": "x", "displayName": HOSTILE[:100]}):
            assert (await ops.post(definitions, json=definition)).status_code == 201
        await ops.post(f"{OPS_PATH}/hostile/labels", json={"name": "x", "comment": HOSTILE_COMMENT})
        yield service
        await service.stop()


def of_seconds(descriptor: dict[str, Any], start: int, stop: int, paused: tuple[int, int] | None = None) -> Any:
    """A media file with these times, and a period in which it was paused."""
    first, last = (at(*divmod(second, 60)) for second in (start, stop))
    kinds = dict(zip(("pause", "resume"), paused or (), strict=False))
    masks = [{"time": at(*divmod(second, 60)), "type": kind} for kind, second in kinds.items()]
    return a_media_file(mediaDescriptor=descriptor, type="audio/wav", startTime=first, stopTime=last, masks=masks)


def path_of(encoded: str) -> str:
    return f"/ui/recordings/{encoded}"


def slider(page: Page) -> Any:
    return page.get_by_role("slider", name="Position")


# --- what it shows ---


async def test_it_shows_the_call_without_scripts(service: Service, new_context: NewContext) -> None:
    page = await opened(service, new_context, path_of("call%2F2%20%C3%BC%23%3F"), java_script_enabled=False)
    await expect(page.get_by_role("heading", level=1)).to_contain_text("+16504668888")
    await expect(page.locator(".facts")).to_contain_text("call/2 ü#?")
    await expect(page.locator(".track .lane rect")).to_have_count(3)
    await expect(page.locator(".events li")).to_have_count(5)
    await expect(page.locator(".events")).to_contain_text("Paused for 30 s")
    await expect(page.locator(".events")).to_contain_text("A-17")
    await expect(page.locator("#player")).to_be_hidden()
    await expect(page.locator("#history")).to_be_hidden()


async def test_the_waveform_is_drawn_with_its_channels_and_finer_on_zoom(
    service: Service, new_context: NewContext
) -> None:
    page = await opened(service, new_context, path_of("call#t=60"))
    await until(page, "document.querySelector('.wave').classList.contains('two')")
    await expect(page.locator(".legend li:visible")).to_have_text(["Left channel", "Right channel", "Paused"])
    async with page.expect_response(re.compile(r"/peaks/.*from=")) as asked:
        for _ in range(3):
            await page.get_by_role("button", name="Zoom in").click()
    assert (await (await asked.value).json())["peaks"]["from"] > 0
    await expect(page.locator("#status")).to_contain_text("Shows")


# --- playing ---


async def test_nothing_plays_or_is_fetched_by_itself(service: Service, new_context: NewContext) -> None:
    page = await opened(service, new_context, path_of("call#t=33"))
    played: list[str] = []
    page.on("request", lambda request: played.append(request.url) if "/play/" in request.url else None)
    await expect(slider(page)).to_have_attribute("aria-valuenow", "33.0")
    await expect(slider(page)).to_have_attribute("aria-valuetext", "33 seconds of 2 minutes")
    await expect(page.get_by_role("button", name="Play", exact=True)).to_be_visible()
    await page.wait_for_load_state("networkidle")
    assert played == []


async def test_the_right_tone_is_heard_after_a_seek_and_the_bytes_before_are_not_fetched(
    service: Service, new_context: NewContext
) -> None:
    page = await opened(service, new_context, path_of("hour#t=3000"))
    await page.evaluate("listen()")
    await page.get_by_role("button", name="Play", exact=True).click()
    for _ in range(2):
        await until(page, "hears()")
        before = await position(page)
        await page.get_by_role("button", name="+5 seconds").click()
        await until(page, f"!document.querySelector('audio').seeking && {SECONDS} >= {before + 5}")
    await until(page, "hears()")
    await page.get_by_role("button", name="Pause", exact=True).click()
    await page.goto("about:blank")
    assert service.settings.audit_log
    log = Path(service.settings.audit_log)
    lines: list[dict[str, Any]] = []

    def are_complete() -> bool:
        lines[:] = [line for line in lines_but_posts(log) if line["recordingId"] == "hour"]
        return bool(lines)

    await eventually(are_complete)
    assert len({line["listen"] for line in lines}) == 1
    # The 3,000 seconds before have 48 MB.
    assert sum(line.get("bytesSent", 0) for line in lines) < 40_000_000


@pytest.mark.parametrize("recording_id", ["short", "no%20length"])
async def test_sound_is_heard_to_its_end_whatever_the_recorder_says(
    service: Service, new_context: NewContext, recording_id: str
) -> None:
    """Of both the file has two minutes."""
    page = await opened(service, new_context, path_of(recording_id))
    await expect(slider(page)).to_have_attribute("aria-valuemax", "120")
    await page.evaluate("location.hash = 't=118'")
    await page.get_by_role("button", name="Play", exact=True).click()
    await until(page, f"{SECONDS} >= 119")


async def test_a_file_without_a_length_is_played_before_its_waveform_is_known(
    service: Service, new_context: NewContext
) -> None:
    page = await opened(service, new_context, path_of("encrypted"))
    none = {"statusCode": 0, "peaks": None, "reason": "decoder", "message": "The decoder is not installed."}
    await page.route("**/peaks/**", lambda route: route.fulfill(json=none))
    await page.goto(path_of("no%20length"))
    await expect(slider(page)).to_have_attribute("aria-valuemax", "0.0")
    await page.get_by_role("button", name="Play", exact=True).click()
    await until(page, f"{SECONDS} >= 1")
    await expect(slider(page)).to_have_attribute("aria-valuemax", "120")


async def test_only_what_is_paused_in_every_file_is_skipped(service: Service, new_context: NewContext) -> None:
    page = await opened(service, new_context, path_of("parts#t=12"))
    await page.get_by_label("Skip pauses and silence").check()
    await page.get_by_role("button", name="Play", exact=True).click()
    await until(page, f"{SECONDS} >= 13")
    assert await position(page) < 30  # the other file is not paused yet
    await page.evaluate("location.hash = 't=39'")
    await until(page, f"{SECONDS} >= 60")
    await expect(page.locator("#status")).to_contain_text("Skipped")


async def test_a_download_that_fails_leaves_the_page(service: Service, new_context: NewContext) -> None:
    page = await opened(service, new_context, path_of("missing"))
    address = page.url
    await page.get_by_role("link", name="Download").first.click()
    await page.get_by_role("dialog", name="Download").get_by_role("button", name="Download").click()

    def was_asked_for() -> bool:
        lines = lines_but_posts(Path(service.settings.audit_log or ""))
        return any(line["recordingId"] == "missing" and line.get("download") for line in lines)

    await eventually(was_asked_for)
    await expect(page.get_by_role("dialog", name="Download")).to_be_hidden()
    assert page.url == address


async def test_it_skips_a_pause_and_loops(service: Service, new_context: NewContext) -> None:
    page = await opened(service, new_context, path_of("call#t=39"))
    await page.get_by_label("Skip pauses and silence").check()
    await page.get_by_role("button", name="Play", exact=True).click()
    await until(page, f"{SECONDS} >= 70")
    await expect(page.locator("#status")).to_contain_text("Skipped")
    await page.get_by_label("Skip pauses and silence").uncheck()
    await page.get_by_role("button", name="Pause", exact=True).click()
    for second, button in ((100, "A"), (101, "B")):
        await page.evaluate(f"location.hash = 't={second}'")
        await expect(slider(page)).to_have_attribute("aria-valuenow", f"{second}.0")
        await page.get_by_role("button", name=button, exact=True).click()
    await page.get_by_role("button", name="Play", exact=True).click()
    await until(page, f"{SECONDS} < 100.7")
    assert await position(page) >= 99.9


async def test_speed_is_kept_with_the_pitch(service: Service, new_context: NewContext) -> None:
    page = await opened(service, new_context, path_of("call"))
    await page.get_by_label("Speed").fill("1.4")
    await page.keyboard.press("Enter")
    await page.reload()
    await expect(page.get_by_label("Speed")).to_have_value("1.4")
    assert await page.evaluate(
        "[document.querySelector('audio').playbackRate, document.querySelector('audio').preservesPitch]"
    ) == [1.4, True]


async def test_balance_leaves_one_channel(service: Service, new_context: NewContext) -> None:
    page = await opened(service, new_context, path_of("call"))
    await page.get_by_role("button", name="Play", exact=True).click()
    for balance, audible, silent in (("-100", 0, 1), ("100", 1, 0)):
        await page.get_by_label("Balance").fill(balance)
        await until(page, f"hears({audible}) && heard({silent}) === 0")
    await page.get_by_label("Balance").fill("0")
    await until(page, "hears(0) && hears(1)")


async def test_a_screen_recording_keeps_in_step_with_the_sound(service: Service, new_context: NewContext) -> None:
    page = await opened(service, new_context, path_of("call#t=30"))
    video = page.locator("video")
    await expect(video).to_have_count(1)
    assert await video.evaluate("video => [video.muted, video.paused, video.readyState]") == [True, True, 0]
    in_step = (
        f"document.querySelector('video').currentTime > 0 && Math.abs({SECONDS} - 10 - video.currentTime) < 0.5"
    ).replace("video.currentTime", "document.querySelector('video').currentTime")
    await page.get_by_role("button", name="Play", exact=True).click()
    await until(page, f"!document.querySelector('video').paused && {in_step}")
    await page.evaluate("location.hash = 't=50'")
    await until(page, f"{SECONDS} >= 50 && !document.querySelector('video').seeking && {in_step}")
    await page.get_by_role("button", name="2×").click()
    await until(page, f"document.querySelector('video').playbackRate === 2 && {in_step}")
    # It ends before the call does.
    await page.evaluate("location.hash = 't=75'")
    await until(page, f"{SECONDS} > 75.5 && document.querySelector('video').paused")
    await page.evaluate("location.hash = 't=20'")
    await until(page, f"!document.querySelector('video').paused && {in_step}")
    await page.get_by_role("button", name="Pause", exact=True).click()
    assert await video.evaluate("video => video.paused")


async def test_each_key_does_what_the_list_says(service: Service, new_context: NewContext) -> None:
    page = await opened(service, new_context, path_of("call"))
    keyboard = page.keyboard
    for key in "llj":
        await keyboard.press(key)
    assert await position(page) == 10
    await slider(page).focus()
    for key, expected in (("ArrowRight", 15), ("Shift+ArrowLeft", 14), ("PageUp", 44), ("End", 120), ("Home", 0)):
        await keyboard.press(key)
        assert await position(page) == expected
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
    assert await position(page) == 5


# --- what can be done ---


async def test_changes_are_shown_while_the_call_goes_on(service: Service, new_context: NewContext) -> None:
    page = await opened(service, new_context, path_of("call%2F2%20%C3%BC%23%3F"))
    await page.get_by_role("button", name="Play", exact=True).click()
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
    await page.get_by_role("button", name="Edit the comment").click()
    dialog = page.get_by_role("dialog", name="Comment on “VIP”")
    await expect(dialog.get_by_label("Comment")).to_have_value("asked twice")
    await dialog.get_by_label("Comment").fill(HOSTILE_COMMENT)
    await dialog.get_by_role("button", name="Save").click()
    await expect(page.locator("#labels p")).to_have_text(HOSTILE_COMMENT)
    await assert_fits(page)
    await page.get_by_role("button", name="Edit the comment").click()
    await dialog.get_by_label("Comment").fill("")
    await dialog.get_by_role("button", name="Save").click()
    await expect(page.get_by_role("button", name="Add the comment")).to_be_focused()
    await page.get_by_role("button", name="Remove").click()
    await expect(page.locator("#labels")).to_have_text("None")
    # Nothing of this has stopped what is heard.
    await expect(page.get_by_role("button", name="Pause", exact=True)).to_be_visible()
    assert await position(page) > 0
    await page.get_by_role("link", name="Download").click()
    async with page.expect_download() as download:
        await page.get_by_role("dialog", name="Download").get_by_role("button", name="Download").click()
    assert (await (await download.value).path()).stat().st_size == 120 * RATE * 2 + 58


async def test_administrator_takes_an_evidence_package_after_a_question(
    service: Service, new_context: NewContext
) -> None:
    page = await opened(service, new_context, path_of("call"))
    await page.get_by_role("link", name="Evidence package").focus()
    await page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Evidence package")
    await expect(dialog).to_contain_text("The audit log keeps who took it")
    await assert_accessible(page)
    async with page.expect_download() as download:
        await dialog.get_by_role("button", name="Download").click()
    package = await (await download.value).path()
    with package.open("rb") as file:
        checked = check(file, lambda size: None)
    assert checked.problems == []
    assert (checked.manifest.recording_id, checked.manifest.created_by) == ("call", "admin")
    other = await opened(service, new_context, path_of("call"), user="supervisor")
    await expect(other.get_by_role("link", name="Download").first).to_be_visible()
    await expect(other.get_by_role("link", name="Evidence package")).to_have_count(0)


async def test_id_and_links_are_copied(service: Service, new_context: NewContext) -> None:
    page = await opened(
        service, new_context, path_of("call%2F2%20%C3%BC%23%3F#t=61.7"),
        permissions=["clipboard-read", "clipboard-write"],
    )  # fmt: skip
    address = f"{service.url}/ui/recordings/call%2F2%20%C3%BC%23%3F"
    for name, copied in (("id", "call/2 ü#?"), ("link", address), ("link at 1:01", f"{address}#t=61")):
        await page.get_by_role("button", name=f"Copy {name}", exact=True).click()
        await until(page, f"navigator.clipboard.readText().then((text) => text === {copied!r})")


async def test_results_before_and_after_are_a_key_or_a_click_away(service: Service, new_context: NewContext) -> None:
    page = await opened(service, new_context, "/ui/recordings?startTime=2026-03-01&order=oldest")
    links = page.locator("#recordings .c-start a")
    paths = [await link.get_attribute("href") for link in await links.all()]
    assert len(paths) > 3
    await links.nth(1).click()
    await page.get_by_role("link", name="Previous").click()
    await page.wait_for_url(f"**{paths[0]}")
    await expect(page.get_by_role("link", name="Previous")).to_be_hidden()
    for path in paths[1:]:
        await page.keyboard.press("]")
        await page.wait_for_url(f"**{path}")
    await expect(page.get_by_role("link", name="Next")).to_be_hidden()
    await page.keyboard.press("[")
    await page.wait_for_url(f"**{paths[-2]}")
    await page.get_by_role("link", name="Results").click()
    await expect(links).to_have_count(len(paths))


# --- history ---


async def test_administrators_see_who_did_what(service: Service, new_context: NewContext) -> None:
    admin, path = service.client("admin"), "/api/v2/recordings/call"
    reason = HOSTILE[:400]
    assert (await admin.post(path, json={"operationName": "applyNonDelete", "reason": reason})).is_success
    assert (await admin.post(f"{path}/labels", json={"name": "vip", "comment": "a <b>comment</b>"})).status_code == 201
    media = (await admin.get(path)).json()["recording"]["mediaFiles"][0]["mediaUri"]
    for query in ("listen=aa", "listen=aa", "download"):
        assert (await admin.get(f"{media}?{query}", headers={"Range": "bytes=0-9"})).status_code == 206
    assert (await service.client("agent").post(path, json={"operationName": "unapplyNonDelete"})).status_code == 403

    async def are_searchable() -> bool:
        found = await admin.get("/api/v2/audit", params={"recordingId": "call", "operation": "unapply"})
        return len(found.json()["entries"]) == 1

    await eventually(are_searchable)
    page = await opened(service, new_context, path_of("call"))
    rows = page.locator("#history-list li")
    await expect(rows.nth(0)).to_contain_text("agentUnprotected refused with 403")
    await expect(rows.nth(1)).to_contain_text("adminDownloaded")
    await expect(rows.nth(2)).to_contain_text("adminPlayed")  # both requests of it
    await expect(rows.nth(3)).to_contain_text("adminLabelled vip “a <b>comment</b>”")
    await expect(rows.nth(4)).to_contain_text(f"adminProtected with 1 screen recording “{reason}”")
    await expect(rows.last).to_contain_text("opsStored")
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$", await rows.nth(0).locator("time").inner_text())
    await assert_good_in_every_look(page)


async def test_limited_users_and_others_have_no_history(service: Service, new_context: NewContext) -> None:
    page = await opened(service, new_context, path_of("call"), user="supervisor")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    await page.reload()
    await page.wait_for_load_state("networkidle")
    await expect(page.locator("#history")).to_have_count(0)
    assert not [url for url in asked if "/audit" in url]


async def test_history_is_read_in_pages_and_says_when_there_is_none(service: Service, new_context: NewContext) -> None:
    page = await opened(service, new_context, path_of("hour"))
    pages: list[dict[str, Any]] = [
        {"entries": [], "nextUri": f"{service.url}/ui/api/audit?cursor=x"},
        {"entries": [{
            "time": "2026-03-01T12:00:00.000Z", "user": HOSTILE, "address": None, "operation": "something-new",
            "resource": "recordings", "outcome": "failed", "httpStatus": None, "reason": HOSTILE,
        }]},
        {"entries": []},
    ]  # fmt: skip
    answers = iter(pages)

    async def answer(route: Any) -> None:
        await route.fulfill(json={"statusCode": 0, **next(answers)})

    await page.route("**/ui/api/audit?**", answer)
    await page.get_by_role("button", name="Refresh").click()
    await expect(page.locator("#history-note")).to_contain_text("nothing about this recording")
    await page.get_by_role("button", name="Older").click()
    await expect(page.locator("#history-list li")).to_contain_text("something-new “<img src=x onerror")
    await assert_fits(page)
    await assert_accessible(page)
    await page.get_by_role("button", name="Refresh").click()
    await expect(page.locator("#history-list li")).to_have_count(0)
    await expect(page.get_by_role("button", name="Older")).to_be_hidden()


# --- what is away ---


async def test_what_cannot_be_played_says_why(service: Service, new_context: NewContext) -> None:
    page = await opened(service, new_context, path_of("encrypted"), expected=AWAY)
    await expect(page.locator(".media")).to_contain_text("It is encrypted, so it cannot be played here.")
    await expect(page.get_by_role("button", name="Play", exact=True)).to_be_disabled()
    await expect(page.get_by_role("link", name="Download")).to_be_visible()
    await page.goto(path_of("missing"))
    await expect(page.locator(".track.sound")).to_contain_text("The file is not in its storage.")
    await page.get_by_role("button", name="Play", exact=True).click()
    await expect(page.locator("#player-problem")).to_contain_text("cannot be found")
    await page.goto(path_of("text"))
    await page.get_by_role("button", name="Play", exact=True).click()
    await expect(page.locator("#player-problem")).to_contain_text("this browser does not know its codec")


async def test_while_the_storage_is_away_the_call_stands_and_then_goes_on(
    service: Service, new_context: NewContext, sounds: Sounds
) -> None:
    sounds.away = True
    page = await opened(service, new_context, path_of("away#t=5"), expected=AWAY)
    await expect(page.locator(".track.sound")).to_contain_text("Trying again")
    await page.get_by_role("button", name="1.5×").click()
    await page.get_by_role("button", name="Play", exact=True).click()
    problem = page.locator("#player-problem")
    await expect(problem).to_contain_text("The media storage failed. Trying again")
    assert await position(page) == 5
    sounds.away = False
    await expect(problem).to_be_hidden()
    await until(page, f"{SECONDS} > 5.5")
    assert await page.evaluate("document.querySelector('audio').playbackRate") == 1.5
    await until(page, "document.querySelector('.wave').classList.contains('two')")
    await expect(page.locator(".media .why")).to_be_hidden()


async def test_while_elasticsearch_is_away_the_page_says_so_and_then_goes_on(
    service: Service, new_context: NewContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise ElasticsearchUnavailable

    with monkeypatch.context() as away:
        away.setattr(service.services.audit_index, "search", fail)
        away.setattr(service.repository, "update", fail)
        away.setattr("app.api.health.check_indices", fail)
        page = await opened(service, new_context, path_of("hour"), expected=AWAY)
        await expect(page.locator("#history-note")).to_contain_text("not available at the moment. Trying again")
        await page.get_by_role("button", name="Protect…").click()
        dialog = page.get_by_role("dialog", name="Protect")
        await dialog.get_by_label("Reason").fill("LegalHold#7")
        await dialog.get_by_role("button", name="Protect", exact=True).click()
        await expect(dialog.get_by_role("alert")).to_contain_text("The recording store is not available")
        away.setattr(service.repository, "find", fail)
        other = await opened(service, new_context, path_of("call"), expected=AWAY)
        await expect(other.get_by_text("Trying again")).to_be_visible()
    await expect(page.locator("#history-list li").first).to_be_visible()
    await dialog.get_by_role("button", name="Protect", exact=True).click()
    await expect(page.locator(".reason")).to_have_text("LegalHold#7")
    await expect(other.locator("#timeline")).to_be_visible()


# --- how it looks ---


@pytest.mark.parametrize("path", ["call", "hostile", "encrypted"])
async def test_it_is_accessible_and_keeps_its_layout(service: Service, new_context: NewContext, path: str) -> None:
    page = await opened(service, new_context, path_of(path), expected=AWAY)
    await page.wait_for_load_state("networkidle")
    await assert_good_in_every_look(page)
    assert await page.locator("img").count() == 0


async def test_a_narrow_player_has_every_control_and_covers_nothing(service: Service, new_context: NewContext) -> None:
    page = await opened(service, new_context, path_of("call"), viewport={"width": 320, "height": 720})
    await expect(page.get_by_label("Volume")).to_be_hidden()
    await focus_by_tab(page, "#more-controls")
    await page.keyboard.press("Enter")
    for name in ("Volume", "Balance", "Speed", "Skip pauses and silence"):
        await expect(page.get_by_label(name)).to_be_visible()
    await assert_fits(page)
    await assert_accessible(page)
    # The last element of the page can be seen above the player.
    await page.locator(".raw summary").focus()
    covered = await page.evaluate(
        "document.querySelector('.raw summary').getBoundingClientRect().bottom"
        " - document.getElementById('player').getBoundingClientRect().top"
    )
    assert covered <= 0
