"""The whole service on a machine with nothing but Python, with users and recordings to try: `scripts/serve`."""

import asyncio
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
from argon2 import PasswordHasher

from app import codec
from app.auth.scope import Scope
from app.embedded.demo_calls import PROTECTED, make_calls, write_media
from app.embedded.elasticsearch import Node
from app.embedded.loader import define_sample_labels
from app.embedded.media import MediaServer
from app.embedded.sample import DEMO_CONTACT_CENTER, sample_labels
from app.errors import RecallError
from app.lifecycle.protection import Protection
from app.logs import log_to_stderr
from app.recordings.model import parse_recording
from app.server import supervisor as server
from app.settings import ConfigurationError, Role, S3Config, Settings, StorageConfig, User, WebDavConfig, load_settings
from app.store.client import connect
from app.store.indices import create_indices
from app.store.repository import RecordingRepository, StoredRecording, Update

# Region and contact center are those of the reference documents' examples.
REGION = "test"

# With these, the reference documents' examples can be posted, although their media do not exist.
_STORAGE_OF_THE_EXAMPLES = StorageConfig(
    webdav=(WebDavConfig("http://10.10.15.83:8080"),),
    s3=(S3Config(("stage-recordings",), "http://127.0.0.1:9", "us-east-1", "none", "none"),),
)

_ROLES: tuple[Role, ...] = ("ops", "recorder", "admin", "supervisor", "agent")
_PERMISSIONS = tuple(
    f"RECORDING_PERMISSION_{name}" for name in ("APPLY_NON_DELETE", "UNAPPLY_NON_DELETE", "ADD_LABEL", "DELETE_LABEL")
)


def serve(*, recordings: bool, data: Path | None) -> bool:
    """Serves until Ctrl-C or SIGTERM, and returns whether it could start.

    Loads demo recordings if `recordings` is true. Elasticsearch keeps its documents in `data`; without it they are
    discarded. Raises ConfigurationError, DistributionError, NodeError, RecallError or SchemaMismatch.
    """
    # As Ctrl-C, so that the temporary folders go. uvicorn sends the signal again when it has stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    settings = _demo_settings()
    log_to_stderr(settings.log_format)
    with ExitStack() as stack:
        # The port, before any slow step.
        sockets = [stack.enter_context(one) for one in server.bound(settings)]
        print("Starting Elasticsearch ...", flush=True)
        with Node.start(data=data) as node, _media() as (media, folder):
            storage = StorageConfig((*settings.storage.webdav, media), settings.storage.s3)
            settings = msgspec.structs.replace(settings, elasticsearch_url=node.url, storage=storage)
            if recordings:
                asyncio.run(_load_recordings(settings, media, folder))
            return server.serve(settings, sockets, _announcement(settings))


def _demo_settings() -> Settings:
    """Returns the configured settings; without RECALL_CONFIG, one user for each role. One node holds no replicas."""
    environment = {"RECALL_REPLICAS": "0", **os.environ}
    if environment.get("RECALL_CONFIG"):
        return load_settings(environment)
    settings = load_settings({"RECALL_REGION": REGION, **environment})
    if settings.host not in {"127.0.0.1", "::1", "localhost"}:
        raise ConfigurationError("the demo users' passwords are public: set RECALL_CONFIG to serve other machines")
    hasher = PasswordHasher()
    users = tuple(
        User(
            name=role,
            password_hash=hasher.hash(_password(role)),
            roles=(role,),
            contact_center=None if role == "ops" else DEMO_CONTACT_CENTER,
            permissions=_PERMISSIONS if role == "supervisor" else (),
            access_groups=("/US",) if role == "supervisor" else (),
            own_recordings=role == "agent",
        )
        for role in _ROLES
    )
    return msgspec.structs.replace(settings, users=users, storage=_STORAGE_OF_THE_EXAMPLES)


def _password(user: str) -> str:
    return f"{user}-demo"


@contextmanager
def _media() -> Iterator[tuple[WebDavConfig, Path]]:
    """A WebDAV server, and the folder that it serves."""
    with tempfile.TemporaryDirectory(prefix="recall-media-") as folder, MediaServer(Path(folder)) as server:
        yield WebDavConfig(server.url, server.username, server.password), Path(folder)


async def _load_recordings(settings: Settings, media: WebDavConfig, folder: Path) -> None:
    sounds = await asyncio.to_thread(write_media, folder)
    calls = make_calls(sounds, region=settings.region, base_url=media.base_url)
    async with connect(settings) as client:
        await create_indices(client, settings)
        await define_sample_labels(client, settings, DEMO_CONTACT_CENTER)
        recordings = RecordingRepository(client, settings)
        screens = RecordingRepository(client, settings, "screen-recordings")
        await _save(screens, calls.screens)
        await _save(recordings, calls.recordings)
        await client.indices.refresh(index=f"{settings.index_prefix}-*")
        scope = Scope(DEMO_CONTACT_CENTER, settings.region)
        protection = Protection(recordings, screens)
        for number, reason in PROTECTED.items():
            recording_id = calls.recordings[number]["id"]
            await protection.change(scope, recording_id, protect=True, by="supervisor", reason=reason)
        await asyncio.gather(*(_label(recordings, scope, recording["id"]) for recording in calls.recordings))
        await client.indices.refresh(index=f"{settings.index_prefix}-*")


async def _save(repository: RecordingRepository, posted: list[dict[str, Any]]) -> None:
    parsed = [parse_recording(recording, repository.resource) for recording in posted]
    sizes = [len(codec.encode(recording)) for recording in parsed]
    for outcome in await repository.save_many(DEMO_CONTACT_CENTER, parsed, by="demo", sizes=sizes):
        if isinstance(outcome, RecallError):
            raise outcome


async def _label(repository: RecordingRepository, scope: Scope, recording_id: str) -> None:
    async def label(now: StoredRecording) -> Update:
        return Update(now.contact_center, now.recording, now.protection, sample_labels(now.recording))

    await repository.update(scope, recording_id, label)


def _announcement(settings: Settings) -> str:
    url = f"http://{settings.host}:{settings.port}"
    lines = [f"\nRecall serves the page {url}/ui and the API {url}/api/v2 - Ctrl-C stops it.\n"]
    if not os.environ.get("RECALL_CONFIG"):
        lines.append(f"{'user':<12} password")
        lines += [f"{user.name:<12} {_password(user.name)}" for user in settings.users]
        lines.append(f"\ncontact center {DEMO_CONTACT_CENTER}, region {settings.region}")
    return "\n".join(lines)
