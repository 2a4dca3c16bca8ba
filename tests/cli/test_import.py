"""`scripts/import.py`: files of recordings, posted to a running service."""

import gzip
import json
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web

from app.embedded.servers import inherited_environment
from tests.support.processes import Scripts
from tests.support.recordings import CONTACT_CENTER, OPS_PATH, a_recording
from tests.support.service import Service
from tests.support.waiting import eventually


class Import:
    """Runs the command in a folder."""

    def __init__(self, service: Service, folder: Path) -> None:
        self.scripts = Scripts(service.settings, folder)
        self.folder = folder
        self.url = service.url

    def write(self, name: str, lines: Iterable[Any]) -> None:
        content = "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines).encode()
        (self.folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)

    async def start(self, *arguments: str, password: str = "ops-password", **streams: Any) -> Process:
        environment = {**inherited_environment(), "RECALL_IMPORT_PASSWORD": password, "RECALL_IMPORT_URL": self.url}
        options = ("--contact-center", CONTACT_CENTER, "--user", "ops")
        return await self.scripts.start("import.py", *options, *arguments, env=environment, **streams)

    async def run(self, *arguments: str, password: str = "ops-password") -> tuple[int, str, str]:
        return await self.scripts.end(await self.start(*arguments, password=password))

    async def interrupt(self, *files: str) -> int:
        """Begins an import, and kills it within the last file. Returns up to which line of that it has come."""
        process = await self.start("--lines", "3", *files)
        state = self.folder / f"{files[-1]}.import-state"
        await eventually(lambda: state.exists() or process.returncode is not None)
        process.kill()
        await process.wait()
        return int(json.loads(state.read_bytes())["lines"])

    def refused(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / name).read_text().splitlines()]


@pytest.fixture
def importer(service: Service, tmp_path: Path) -> Import:
    return Import(service, tmp_path)


async def stored(ops: httpx.AsyncClient, recording_id: str, path: str = OPS_PATH) -> dict[str, Any] | None:
    response = await ops.get(f"{path}/{recording_id}")
    return (
        response.json()["recording" if path == OPS_PATH else "screenRecording"] if response.status_code == 200 else None
    )


async def test_files_compressed_files_and_standard_input_are_stored(importer: Import, ops: httpx.AsyncClient) -> None:
    importer.write("a.ndjson", [a_recording(f"a{i}") for i in range(25)])
    # In the order of the lines, also when one id comes in several requests.
    importer.write("b.ndjson.gz", [a_recording(f"b{i % 7}", note=i) for i in range(60)])
    status, out, _ = await importer.run("--lines", "10", "a.ndjson", "b.ndjson.gz")
    assert (status, out) == (0, "created 32, updated 53, refused 0\n")
    assert all([await stored(ops, f"a{i}") for i in range(25)])
    assert [(await stored(ops, f"b{i}") or {})["note"] for i in range(7)] == [56, 57, 58, 59, 53, 54, 55]
    assert not list(importer.folder.glob("*state*"))

    process = await importer.start("--screen-recordings", "-", stdin=PIPE)
    out_of_pipe, _ = await process.communicate(json.dumps(a_recording("screen")).encode())
    assert (process.returncode, out_of_pipe) == (0, b"created 1, updated 0, refused 0\n")
    assert await stored(ops, "screen", OPS_PATH.replace("/recordings", "/screen-recordings"))


async def test_refused_lines_are_written_to_a_file_with_the_reason(importer: Import, ops: httpx.AsyncClient) -> None:
    bad = a_recording("bad", region=None)
    importer.write("a.ndjson", [a_recording("good"), "", bad, "nonsense ü", a_recording("better")])
    status, out, err = await importer.run("a.ndjson")
    assert (status, out, err) == (1, "created 2, updated 0, refused 2\n", "")
    no_json = "Parameter 'body' is invalid: it is not JSON"
    assert importer.refused("a.ndjson.refused.ndjson") == [
        {
            "file": "a.ndjson",
            "line": 3,
            "id": "bad",
            "statusCode": 1,
            "statusMessage": "Parameter 'region' is missing",
            "text": json.dumps(bad),
        },
        {"file": "a.ndjson", "line": 4, "id": None, "statusCode": 2, "statusMessage": no_json, "text": "nonsense ü"},
    ]
    assert await stored(ops, "better")


async def test_an_import_that_was_killed_goes_on_where_it_stopped(importer: Import, ops: httpx.AsyncClient) -> None:
    importer.write("a.ndjson", [a_recording(f"a{i}") for i in range(400)])
    lines = await importer.interrupt("a.ndjson")
    state = importer.folder / "a.ndjson.import-state"
    assert 0 < lines < 400

    status, out, err = await importer.run("a.ndjson")
    assert status == 0
    assert err == f"a.ndjson: an earlier import was interrupted; going on after line {lines}\n"
    created, updated = (int(word.strip(",")) for word in out.split()[1:4:2])
    assert created + updated == 400 - lines
    assert all([await stored(ops, f"a{i}") for i in (0, lines - 1, lines, 399)])
    assert not state.exists()

    state.write_bytes(b'{"size":1,"modified":1,"lines":5}')
    status, _, err = await importer.run("a.ndjson")
    assert status == 1
    assert err.endswith("a.ndjson has changed since its import was interrupted; --restart begins at the first line\n")
    assert (await importer.run("--restart", "a.ndjson"))[:2] == (0, "created 0, updated 400, refused 0\n")


async def test_a_file_that_is_done_is_not_posted_again_before_the_others_are(
    importer: Import, ops: httpx.AsyncClient
) -> None:
    """Its recordings would replace what a later file has said of them."""
    importer.write("monday.ndjson", [a_recording(f"a{i}", note="monday") for i in range(5)])
    importer.write("tuesday.ndjson", [a_recording(f"a{i % 5}", note="tuesday") for i in range(300)])
    files = ("monday.ndjson", "tuesday.ndjson")
    begun = await importer.interrupt(*files)
    assert 0 < begun < 300
    status, out, _ = await importer.run(*files)
    assert status == 0
    created, updated = (int(word.strip(",")) for word in out.split()[1:4:2])
    assert created + updated == 300 - begun
    assert {(await stored(ops, f"a{i}") or {})["note"] for i in range(5)} == {"tuesday"}
    assert not list(importer.folder.glob("*state*"))


async def test_an_interrupted_import_goes_on_only_where_it_was_going(importer: Import) -> None:
    importer.write("a.ndjson", [a_recording(f"a{i}") for i in range(5)])
    status, _, _ = await importer.run("a.ndjson", "none.ndjson")
    assert status == 1
    assert (importer.folder / "a.ndjson.import-state").exists()
    for options in (("--screen-recordings",), ("--url", "http://127.0.0.1:1")):
        status, out, err = await importer.run(*options, "a.ndjson")
        assert (status, out) == (1, "")
        assert "--restart begins at the first line" in err
        assert "the interrupted import of a.ndjson was to http" in err
    status, out, _ = await importer.run("a.ndjson")
    assert (status, out) == (0, "created 0, updated 0, refused 0\n")


async def test_an_import_that_goes_on_tells_what_was_refused_before(importer: Import) -> None:
    importer.write("a.ndjson", ["nonsense", *(a_recording(f"a{i}") for i in range(5))])
    assert (await importer.run("a.ndjson", "none.ndjson"))[0] == 1
    status, out, _ = await importer.run("a.ndjson")
    assert (status, out) == (1, "created 0, updated 0, refused 1\n")


async def test_a_line_that_is_repeated_does_not_replace_a_later_one(
    importer: Import, service: Service, ops: httpx.AsyncClient
) -> None:
    importer.write("a.ndjson", [a_recording(f"a{i % 2}", note=i) for i in range(6)])
    async with busy(service) as importer.url:
        status, out, _ = await importer.run("a.ndjson")
    assert (status, out) == (0, "created 2, updated 4, refused 0\n")
    assert [(await stored(ops, f"a{i}") or {})["note"] for i in range(2)] == [4, 5]


@asynccontextmanager
async def busy(service: Service) -> AsyncIterator[str]:
    """A way to the service that is busy, away or cut off now and then, and at last refuses some lines for a while."""
    script = [429, 503, None, "lines"]

    async def handle(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        step = script.pop(0) if script else 200
        if step is None:
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        if step in {429, 503}:
            return web.json_response(
                {"statusCode": 4, "statusMessage": "busy"}, status=step, headers={"Retry-After": "0"}
            )
        if step == "lines":  # the second line is not stored
            first, _, *rest = body.split(b"\n")
            body = b"\n".join([first, b"", *rest])
        async with service.client("ops") as ops:
            response = await ops.post(OPS_PATH, content=body, headers={"Content-Type": "application/x-ndjson"})
        answer = response.json()
        if step == "lines":
            failure = {"line": 2, "id": "a1", "statusCode": 4, "statusMessage": "busy"}
            answer = {**answer, "statusCode": 7, "failed": [failure]}
        return web.json_response(answer)

    app = web.Application(client_max_size=2**26)
    app.router.add_post("/{path:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_an_import_waits_for_a_service_that_is_busy_or_away(importer: Import, service: Service) -> None:
    importer.write("a.ndjson", [a_recording(f"a{i}") for i in range(5)])
    async with busy(service) as importer.url:
        status, out, _ = await importer.run("a.ndjson")
    assert (status, out) == (0, "created 5, updated 0, refused 0\n")


async def test_what_cannot_work_is_told_in_one_line(importer: Import) -> None:
    importer.write("a.ndjson", [a_recording()])
    status, _, err = await importer.run("a.ndjson", password="wrong")
    assert status == 1
    assert err.splitlines()[-1].endswith("answers 401: Not authenticated.")
    status, _, err = await importer.run("missing.ndjson")
    assert status == 1
    assert "No such file or directory: 'missing.ndjson'" in err
    status, _, err = await importer.run("--lines", "1001", "a.ndjson")
    assert status == 2
    assert err.endswith("argument --lines: it must be at most 1000\n")


@asynccontextmanager
async def elsewhere(status: int, headers: dict[str, str], body: str) -> AsyncIterator[tuple[str, list[str]]]:
    """The URL of a server that gives this answer, and the logins that it was sent."""
    logins: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        logins.append(request.headers.get("Authorization", ""))
        return web.Response(status=status, headers=headers, text=body)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}", logins
    await runner.cleanup()


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_gets_neither_password_nor_recordings(importer: Import, status: int) -> None:
    importer.write("a.ndjson", [a_recording()])
    async with elsewhere(200, {}, '{"statusCode":0,"created":1,"updated":0}') as (other, logins):
        async with elsewhere(status, {"Location": other}, "") as (importer.url, _):
            code, _, err = await importer.run("a.ndjson")
        assert code == 1
        assert err.splitlines()[-1].endswith(f"answers {status}: it is at {other}")
        assert logins == []


async def test_an_answer_that_leaves_lines_out_is_none(importer: Import) -> None:
    importer.write("a.ndjson", [a_recording("a"), a_recording("b")])
    async with elsewhere(200, {}, '{"statusCode":0}') as (importer.url, _):
        status, _, err = await importer.run("a.ndjson")
    assert status == 1
    assert "is not an address of Recall" in err
