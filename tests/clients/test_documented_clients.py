"""The examples of docs/clients.md, run as they stand there, and a client that a generator makes of `/openapi.json`."""

import asyncio
import json
import os
import re
import shutil
import sys
from asyncio.subprocess import PIPE, create_subprocess_exec
from pathlib import Path

import pytest

from app.settings import User
from tests.support.launch import missing
from tests.support.recordings import CONTACT_CENTER, OPS_PATH, a_media_file, a_recording
from tests.support.service import USERS, Service, StartService, hash_password
from tests.support.storages import WebDav, webdav_storage

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "clients.md").read_text()


def example(language: str, number: int = 0) -> str:
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    return found[number]


async def run(service: Service, *command: str, **environment: str) -> str:
    process = await create_subprocess_exec(
        *command, env={**os.environ, "RECALL": service.url, **environment}, stdout=PIPE, stderr=PIPE
    )
    async with asyncio.timeout(120):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


@pytest.fixture
async def demo(start_service: StartService) -> Service:
    """A service with the users of the guide, and three recordings."""
    admin = User(
        name="admin", password_hash=hash_password("admin-demo"), roles=("admin",), contact_center=CONTACT_CENTER
    )
    ops = User(name="ops", password_hash=hash_password("ops-demo"), roles=("ops",))
    service = await start_service(users=(admin, ops))
    poster = service.client(None, headers={})
    for i in range(3):
        answer = await poster.post(f"{OPS_PATH}?refresh=wait_for", json=a_recording(f"r{i}"), auth=("ops", "ops-demo"))
        assert answer.status_code == 201
    return service


async def test_the_curl_examples_work(demo: Service) -> None:
    found = json.loads(await run(demo, "sh", "-c", example("sh")))
    assert sorted(recording["id"] for recording in found["recordings"]) == ["r0", "r1", "r2"]
    lines = {"FIRST": json.dumps(a_recording("n1")), "SECOND": json.dumps(a_recording("n2"))}
    answer = await run(demo, "sh", "-c", example("sh", 1), CONTACT_CENTER=CONTACT_CENTER, **lines)
    assert json.loads(answer) == {"statusCode": 0, "created": 2, "updated": 0}


async def test_the_python_example_works(demo: Service) -> None:
    assert sorted((await run(demo, sys.executable, "-c", example("python"))).split()) == ["r0", "r1", "r2"]


async def test_the_java_example_works(demo: Service, tmp_path: Path) -> None:
    java, javac = shutil.which("java"), shutil.which("javac")
    if not (java and javac):
        missing("a Java compiler", "install a JDK, such as default-jdk-headless")
    source = tmp_path / "Search.java"
    source.write_text(example("java"))
    found = json.loads(await run(demo, java, str(source)))
    assert len(found["recordings"]) == 3


async def test_the_javascript_example_works(demo: Service, tmp_path: Path) -> None:
    node = shutil.which("node")
    if not node:
        missing("Node", "install nodejs")
    script = tmp_path / "search.mjs"
    script.write_text(example("js"))
    assert sorted((await run(demo, node, str(script))).split()) == ["r0", "r1", "r2"]


async def test_generated_python_client_posts_searches_walks_plays_protects_and_labels(
    wsgidav: WebDav, start_service: StartService, tmp_path: Path
) -> None:
    service = await start_service(users=USERS, storage=webdav_storage(wsgidav))
    descriptor = {"storage": "webDAV", "path": wsgidav.put("generated/call.wav", b"0123456789")}
    file = tmp_path / "recordings.json"
    file.write_text(
        json.dumps([a_recording(f"r{i}", mediaFiles=[a_media_file(mediaDescriptor=descriptor)]) for i in range(3)])
    )
    generator = Path(sys.executable).with_name("openapi-python-client")
    path = f"{generator.parent}{os.pathsep}{os.environ['PATH']}"  # it formats what it has made with ruff
    arguments = ("generate", "--path", str(ROOT / "docs" / "openapi.json"), "--meta", "none")
    await run(service, str(generator), *arguments, "--output-path", str(tmp_path / "recall_client"), PATH=path)
    story = Path(__file__).with_name("generated_story.py")
    told = await run(service, sys.executable, str(story), CONTACT_CENTER, str(file), PYTHONPATH=str(tmp_path))
    assert told == "done\n"
