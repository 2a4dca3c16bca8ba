"""Chromium plays what the service serves: an `<audio>` element knows the duration and seeks."""

import asyncio
import contextlib
import io
import json
import math
import os
import shutil
import wave
from array import array
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

from app.settings import StorageConfig, WebDavConfig
from tests.support.faults import TypedStorage
from tests.support.launch import missing
from tests.support.media import post_media
from tests.support.recordings import OPS_PATH, a_media_file, a_recording
from tests.support.service import StartService
from tests.support.storages import WebDav
from tests.support.waiting import eventually

RATE = 8000  # samples per second
MINUTES = 20
# A tone for each minute, so that one can tell where in the file one is.
FREQUENCIES = [500 + 150 * minute for minute in range(MINUTES)]

# Runs in the page. `heard` is the frequency that is loudest half a second after a seek.
SEEK = """
(async () => {
    const happens = (audio, event) => new Promise((resolve, reject) => {
        audio.addEventListener(event, resolve, {once: true});
        audio.addEventListener("error", () => reject(new Error(audio.error.message)), {once: true});
    });
    const audio = document.createElement("audio");
    document.documentElement.append(audio);
    const context = new AudioContext({sampleRate: 8000});
    const analyser = new AnalyserNode(context, {fftSize: 4096, smoothingTimeConstant: 0});
    context.createMediaElementSource(audio).connect(analyser).connect(context.destination);
    audio.src = PATH;
    await happens(audio, "loadedmetadata");
    const places = [];
    for (const place of PLACES) {
        const seeked = happens(audio, "seeked");
        audio.currentTime = place;
        await seeked;
        const landed = audio.currentTime;
        await audio.play();
        while (audio.currentTime < place + 1) await happens(audio, "timeupdate");
        const loudness = new Float32Array(analyser.frequencyBinCount);
        analyser.getFloatFrequencyData(loudness);
        const heard = loudness.indexOf(Math.max(...loudness)) * context.sampleRate / analyser.fftSize;
        places.push({landed, playing: audio.currentTime, heard});
        audio.pause();
    }
    return {duration: audio.duration, places};
})()
"""


def minutes_of_tones() -> bytes:
    """A WAV file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE)
        for frequency in FREQUENCIES:
            second = array("h", (round(9000 * math.sin(2 * math.pi * frequency * i / RATE)) for i in range(RATE)))
            out.writeframes(second.tobytes() * 60)
    return file.getvalue()


def a_second_of_silence() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE)
        out.writeframes(bytes(2 * RATE))
    return file.getvalue()


class Page:
    """A page of a browser, by the DevTools protocol."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._last = 0
        self.events: list[dict[str, Any]] = []

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        asked = await self._send(method, **parameters)
        async for message in self._connection:
            answer = json.loads(message)
            if answer.get("id") == asked:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            if "method" in answer:
                self.events.append(answer)
                await self._continue(answer["method"], answer["params"])
        raise AssertionError("the browser has left")

    async def _continue(self, event: str, about: dict[str, Any]) -> None:
        """Answers what `without_login` has asked for."""
        if event == "Fetch.requestPaused":
            await self._send("Fetch.continueRequest", requestId=about["requestId"])
        elif event == "Fetch.authRequired":
            cancel = {"response": "CancelAuth"}
            await self._send("Fetch.continueWithAuth", requestId=about["requestId"], authChallengeResponse=cancel)

    async def _send(self, method: str, **parameters: Any) -> int:
        self._last += 1
        await self._connection.send(json.dumps({"id": self._last, "method": method, "params": parameters}))
        return self._last

    async def without_login(self) -> None:
        """Closes each question for name and password."""
        await self.call("Fetch.enable", handleAuthRequests=True)

    async def run(self, script: str) -> Any:
        """The value that a script's promise gives."""
        answer = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")


@pytest.fixture
async def page(tmp_path: Path) -> AsyncIterator[Page]:
    async with chromium(tmp_path) as page:
        yield page


@contextlib.asynccontextmanager
async def chromium(folder: Path) -> AsyncIterator[Page]:
    """A browser's page. Started again with the folder, the browser has all that it has kept, and no login."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        missing("Chromium", "apt-get install chromium")
    process = await asyncio.create_subprocess_exec(
        program,
        "--headless",
        "--no-sandbox",  # which root cannot have
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--no-proxy-server",
        "--autoplay-policy=no-user-gesture-required",
        "--remote-debugging-port=0",
        f"--user-data-dir={folder}",
        "about:blank",
        env={**os.environ, "HOME": str(folder)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr
    try:
        async with asyncio.timeout(60):
            async for line in process.stderr:
                if line.startswith(b"DevTools listening on "):
                    break
            else:
                raise AssertionError("Chromium did not start")
        browser = line.split()[-1].decode()
        drain = asyncio.create_task(process.stderr.read())
        async with connect(browser, proxy=None, max_size=None) as connection:
            targets = await Page(connection).call("Target.getTargets")
        target = next(target["targetId"] for target in targets["targetInfos"] if target["type"] == "page")
        async with connect(browser.rpartition("/browser/")[0] + f"/page/{target}", proxy=None) as connection:
            yield Page(connection)
        drain.cancel()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def is_loaded(page: Page) -> bool:
    """Whether the page shows an answer of the service."""
    return "statusCode" in (await page.run("document.body ? document.body.innerText : ''"))


async def test_audio_element_knows_the_duration_and_seeks(
    start_service: StartService, apache_basic: WebDav, page: Page
) -> None:
    storage = WebDavConfig(apache_basic.url, apache_basic.username, apache_basic.password)
    service = await start_service(storage=StorageConfig(webdav=(storage,)))
    descriptor = {"storage": "webDAV", "path": apache_basic.put("tones.wav", minutes_of_tones())}
    media = await post_media(service, descriptor, type="audio/wav")
    # Who opens a page with name and password need not give them again for what is in it.
    await page.call("Network.enable")
    await page.call(
        "Page.navigate", url=f"{service.url}/api/v2/recordings/recording".replace("//", "//admin:admin-password@")
    )
    await eventually(lambda: is_loaded(page))
    minutes = [18, 3, 11]
    places = [60 * minute + 10 for minute in minutes]
    async with asyncio.timeout(60):
        found = await page.run(SEEK.replace("PATH", json.dumps(media.path)).replace("PLACES", json.dumps(places)))
    answers = [event["params"]["response"] for event in page.events if event["method"] == "Network.responseReceived"]
    parts = [
        value for answer in answers for name, value in answer["headers"].items() if name.lower() == "content-range"
    ]
    # It did not just load the file up to there.
    assert any(int(part.split()[1].partition("-")[0]) > 60 * 17 * RATE * 2 for part in parts), answers
    assert found["duration"] == 60 * MINUTES
    for minute, place, seen in zip(minutes, places, found["places"], strict=True):
        assert seen["landed"] == pytest.approx(place, abs=0.1)
        assert place + 1 <= seen["playing"] < place + 5
        assert seen["heard"] == pytest.approx(FREQUENCIES[minute], abs=10)


# Tells how a play ends.
PLAY = """
new Promise((resolve) => {
    const audio = new Audio(PATH);
    for (const event of ["ended", "error"]) audio.addEventListener(event, () => resolve(event));
    audio.play().catch(() => {});
})
"""


async def play(page: Page, path: str) -> tuple[str, list[int]]:
    """How it ends, and the statuses with which the service, and no cache, has answered."""
    page.events.clear()
    async with asyncio.timeout(30):
        end = str(await page.run(PLAY.replace("PATH", json.dumps(path))))
    answers = [event["params"] for event in page.events if event["method"] == "Network.responseReceived"]
    return end, [
        answer["response"]["status"]
        for answer in answers
        if answer["response"]["url"].endswith(path) and not answer["response"].get("fromDiskCache")
    ]


async def test_what_was_deleted_or_wants_a_login_is_not_played_from_what_the_browser_has_kept(
    start_service: StartService, tmp_path: Path
) -> None:
    async with TypedStorage() as storage:
        service = await start_service(storage=StorageConfig(webdav=(WebDavConfig(storage.url),)))
        about = {"ETag": '"1"', "Last-Modified": "Fri, 17 May 2013 19:45:32 GMT"}
        ops, paths = service.client("ops"), {}
        for name in ("deleted", "kept"):
            url = storage.put(f"{name}.wav", about, a_second_of_silence())
            media = a_media_file(mediaDescriptor={"storage": "webDAV", "path": url}, type="audio/wav")
            posted = await ops.post(OPS_PATH, json=a_recording(name, mediaFiles=[media]))
            stored = (await ops.get(posted.json()["uri"])).json()["recording"]
            paths[name] = f"/api/v2/recordings/{name}/play/{stored['mediaFiles'][0]['playPath'].rpartition('/')[2]}"
        async with chromium(tmp_path) as page:
            await page.call("Network.enable")
            with_login = service.url.replace("//", "//admin:admin-password@")
            await page.call("Page.navigate", url=f"{with_login}/api/v2/recordings/kept")
            await eventually(lambda: is_loaded(page))
            for path in paths.values():
                assert (await play(page, path))[0] == "ended"
            assert (await ops.delete(f"{OPS_PATH}/deleted")).status_code == 200
            assert await play(page, paths["deleted"]) == ("error", [404])
        async with chromium(tmp_path) as page:
            await page.call("Network.enable")
            await page.without_login()
            await page.call("Page.navigate", url=f"{service.url}/health/live")
            await eventually(lambda: is_loaded(page))
            for path in paths.values():
                assert await play(page, path) == ("error", [401])


# Would lift the protection of the recording, with the login that the browser remembers.
UNPROTECT = """
fetch("/api/v2/recordings/recording", {
    method: "POST",
    headers: {"Content-Type": "application/json"},
    body: JSON.stringify({operationName: "unapplyNonDelete"}),
}).finally(() => { document.documentElement.setAttribute("ran", "yes"); })
"""
HAS_RUN = "document.documentElement?.getAttribute('ran')"


@pytest.mark.parametrize(
    ("media_type", "document"),
    [
        ("text/html", f"<!doctype html><script>{UNPROTECT}</script>"),
        ("image/svg+xml", f'<svg xmlns="http://www.w3.org/2000/svg"><script><![CDATA[{UNPROTECT}]]></script></svg>'),
    ],
)
async def test_media_file_is_not_executed_as_a_page(
    start_service: StartService, page: Page, media_type: str, document: str
) -> None:
    async with TypedStorage() as storage:
        service = await start_service(storage=StorageConfig(webdav=(WebDavConfig(storage.url),)))
        url = storage.put("call.wav", {"Content-Type": media_type}, document.encode())
        media = await post_media(service, {"storage": "webDAV", "path": url}, type=media_type)
        recording = "/api/v2/recordings/recording"
        protected = await media.admin.post(recording, json={"operationName": "applyNonDelete"})
        assert protected.status_code == 200
        # The document does run where it may.
        await page.call("Page.navigate", url=url)

        async def has_run() -> bool:
            return bool(await page.run(HAS_RUN) == "yes")

        await eventually(has_run)
        with_login = service.url.replace("//", "//admin:admin-password@")
        await page.call("Page.navigate", url=f"{with_login}{recording}")
        await eventually(lambda: is_loaded(page))
        opened = await page.call("Page.navigate", url=f"{with_login}{media.path}")
        # It is downloaded instead, and the page stays.
        assert opened.get("errorText") == "net::ERR_ABORTED", opened
        assert await page.run(HAS_RUN) is None
        assert (await media.admin.get(recording)).json()["recording"]["nonDelete"] is True
