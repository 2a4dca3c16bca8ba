"""Java's HTTP client with its defaults, which offers HTTP/2 by an Upgrade header (docs/contract.md section 1)."""

import asyncio
import json
import random
from asyncio.subprocess import PIPE, create_subprocess_exec
from pathlib import Path

from app.embedded.servers import find_program
from tests.support.launch import missing
from tests.support.recordings import CONTACT_CENTER, a_media_file, a_recording
from tests.support.service import StartService
from tests.support.storages import WebDav, webdav_storage

STORY = Path(__file__).with_name("Story.java")


async def test_java_client_posts_searches_plays_protects_and_deletes(
    wsgidav: WebDav, start_service: StartService, tmp_path: Path
) -> None:
    if not find_program("javac"):
        missing("a Java compiler", "install a JDK, such as default-jdk-headless")
    java = find_program("java")
    assert java is not None
    media = tmp_path / "media.wav"
    media.write_bytes(random.Random(1).randbytes(300_000))
    descriptor = {"storage": "webDAV", "path": wsgidav.put("java/call.wav", media.read_bytes())}
    recording_id = "Java's own"
    file = tmp_path / "recording.json"
    file.write_text(json.dumps(a_recording(recording_id, mediaFiles=[a_media_file(mediaDescriptor=descriptor)])))
    service = await start_service(storage=webdav_storage(wsgidav))

    # `java FILE` compiles the file in memory.
    arguments = [java, str(STORY), service.url, CONTACT_CENTER, str(file), recording_id, str(media)]
    process = await create_subprocess_exec(*arguments, stdout=PIPE, stderr=PIPE)
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert (process.returncode, out) == (0, b"done\n"), err.decode()
