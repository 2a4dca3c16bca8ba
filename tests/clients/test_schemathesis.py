"""schemathesis, which tries what the description allows and forbids: nothing it answers may be undescribed."""

import asyncio
import sys
from asyncio.subprocess import PIPE, STDOUT, create_subprocess_exec
from pathlib import Path

import pytest

from app.settings import S3Config, StorageConfig, User, WebDavConfig
from tests.support.recordings import CONTACT_CENTER
from tests.support.service import PATIENT, USERS, StartService, hash_password
from tests.support.sizes import FULL, size

# Nothing listens there, so that a play fails at once.
NOWHERE = "http://127.0.0.1:9"
STORAGE = StorageConfig(
    webdav=(WebDavConfig(NOWHERE),),
    s3=(S3Config(("stage-recordings",), NOWHERE, "us-east-1", "key", "secret"),),
)
MORE_USERS = (
    User(
        name="amy",
        password_hash=hash_password("amy-password"),
        roles=("supervisor",),
        contact_center=CONTACT_CENTER,
        access_groups=("US",),
    ),
    User(name="recorder", password_hash=hash_password("recorder-password"), roles=("recorder",)),
)
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)
# The other paths of one resource, what has no behaviour of its own, and packages: they are 502 without their storage.
LEFT_OUT = r"/$|recordings/(screen-)?recordings$|^/docs|^/metrics|^/openapi|/package$"
# Forbidden to users of a contact center, whatever they send. They ask with `--full` only: tests/api/test_routes.py has
# each of these requests.
FORBIDDEN = "/ops/|^/internal-api"


@pytest.mark.parametrize("user", ["ops", "recorder", "admin", "amy", "agent"])
async def test_nothing_undescribed_is_answered(start_service: StartService, tmp_path: Path, user: str) -> None:
    left_out = LEFT_OUT if FULL or user in {"ops", "recorder"} else f"{LEFT_OUT}|{FORBIDDEN}"
    service = await start_service(users=(*USERS, *MORE_USERS), storage=STORAGE, **PATIENT)
    command = [
        *(str(Path(sys.executable).with_name("schemathesis")), "run", f"{service.url}/openapi.json"),
        *("--url", service.url, "--auth", f"{user}:{user}-password", "--checks", ",".join(CHECKS)),
        *("--phases", "examples,coverage,fuzzing", "--max-examples", str(size(1, full=3))),
        *("--exclude-path-regex", left_out, "--exclude-method", "HEAD", "--continue-on-failure"),
        *("--suppress-health-check", "all", "--max-time", str(size(4, full=30)), "--seed", "1", "--no-color"),
    ]
    process = await create_subprocess_exec(*command, stdout=PIPE, stderr=STDOUT, cwd=tmp_path)
    async with asyncio.timeout(size(120, full=400)):
        told, _ = await process.communicate()
    assert process.returncode == 0, told.decode()[-8_000:]
    assert b"generated" in told
