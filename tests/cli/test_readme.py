"""The README's commands, run as they stand there."""

import asyncio
import os
import re
import signal
import socket
import sys
import wave
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from app.embedded.servers import free_port
from app.settings import Settings
from tests.support.processes import Scripts

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()

EXAMPLE_ID = "00PV5Q27MG8AB8VNE49362LAES000014"


def commands(section: str) -> list[str]:
    """The shell commands of a section."""
    _, _, text = README.partition(f"\n## {section}\n")
    text = text.partition("\n## ")[0]
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [command for block in blocks for command in re.split(r"(?<!\\)\n", block.strip())]


async def run(command: str, **environment: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_shell(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


@pytest.fixture(scope="module")
async def url() -> AsyncIterator[str]:
    """The service as `scripts/serve` starts it, but on a free port."""
    port = free_port()
    (start,) = commands("Start it")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RECALL_")}
    process = await asyncio.create_subprocess_exec(
        *start.split(),
        cwd=ROOT,
        env={**environment, "RECALL_PORT": str(port)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout
    printed = ""
    async with asyncio.timeout(180):
        while "region test" not in printed:
            line = await process.stdout.readline()
            assert line, printed
            printed += line.decode()
    assert f"http://127.0.0.1:{port}/api/v2" in printed
    assert re.search(r"^admin +admin-demo$", printed, re.MULTILINE)
    yield f"http://127.0.0.1:{port}"
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(30):
        assert await process.wait() == 0


async def test_demo_shows_calls_of_all_kinds_to_three_users(url: str) -> None:
    totals = {}
    for user in ("admin", "supervisor", "agent"):
        async with httpx.AsyncClient(auth=(user, f"{user}-demo"), trust_env=False, timeout=30) as client:
            answer = await client.get(f"{url}/api/v2/recordings", params={"startTime": "2020-01-01", "total": "*"})
            totals[user] = answer.json()["total"]
            newest = answer.json()["recordings"][:9]
            if user != "admin":
                continue
            played = [(await client.head(recording["mediaFiles"][0]["mediaUri"])).status_code for recording in newest]
            assert played == [200] * 8 + [404]
            protected = (await client.get(f"{url}/api/v2/recordings", params={"nonDelete": "true"})).json()[
                "recordings"
            ]
            assert all(recording["nonDeletion"]["reason"] for recording in protected)
            assert len(protected) == 4
            screens = (await client.get(f"{url}/api/v2/screen-recordings", params={"startTime": "2020-01-01"})).json()
            video = await client.get(screens["screenRecordings"][0]["mediaFiles"][0]["mediaUri"])
            assert video.headers["content-type"] == "video/webm"
            assert len(video.content) < 200_000
    assert totals["admin"] == 300
    assert 20 < totals["supervisor"] < 200
    assert totals["agent"] == 25


async def test_every_curl_command_works_as_described(url: str, tmp_path: Path) -> None:
    found: list[dict[str, Any]] = []
    for command in commands("Try it"):
        assert command.startswith("curl ")
        local = command.replace("curl ", "curl --silent --fail ").replace("http://127.0.0.1:8080", url)
        status, output = await run(local.replace("/tmp/", f"{tmp_path}/"))
        assert status == 0, command
        if "--output" not in command:
            found.append(msgspec.json.decode(output))
    s3, webdav, user_data, *searches, read, walk, _, label, labelled, _, _, _ = found
    with wave.open(str(tmp_path / "recording.wav")) as audio:
        assert audio.getnframes() / audio.getframerate() >= 3
    assert all(answer["statusCode"] == 0 for answer in found)
    assert s3["id"] == webdav["id"] == user_data["id"] == read["recording"]["id"] == EXAMPLE_ID
    assert len(read["recording"]["mediaFiles"]) == 2
    assert len(searches) == 4
    for search in searches:
        assert EXAMPLE_ID in [recording["id"] for recording in search["recordings"]]
    assert len(walk["recordings"]) == 5
    assert "nextUri" in walk
    assert label["label"]["displayName"] == "Court order"
    assert labelled["total"] == len(labelled["recordings"]) > 0


async def test_scripts_test_passes_its_arguments_to_pytest() -> None:
    (command,) = commands("Test it")
    status, output = await run(f"{command} --collect-only -q tests/api/test_paging.py -k walk")
    assert status == 0
    assert "test_walk_forward_and_back" in output
    assert "test_default_page" not in output


async def test_port_in_use_is_reported_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, _, errors = await Scripts(Settings(port=port), tmp_path).run("-m", "app", "demo")
    assert status == 1
    assert errors == f"cannot listen on 127.0.0.1:{port}: Address already in use; RECALL_PORT chooses another port\n"


async def test_demo_refuses_to_listen_for_other_machines() -> None:
    status, _ = await run(
        f"{sys.executable} -m app demo", RECALL_HOST="0.0.0.0", RECALL_ELASTICSEARCH_URL="", RECALL_CONFIG=""
    )
    assert status == 1


async def test_password_hash_is_printed_as_one_line() -> None:
    command = re.search(r"`(\S+ scripts/users\.py hash)`", README)
    assert command
    status, output = await run(f"echo secret | {command[1]}")
    assert status == 0
    assert output.startswith("$argon2id$")
    assert output.count("\n") == 1
    status, output = await run(f"echo | {command[1]}")
    assert (status, output) == (1, "")
