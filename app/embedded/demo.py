"""The whole service on a machine with nothing but Python, with users and recordings to try: `scripts/serve`."""

import asyncio
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
from argon2 import PasswordHasher

from app.auth.scope import Scope
from app.embedded.elasticsearch import Node
from app.embedded.loader import define_sample_labels
from app.embedded.media import MediaServer, write_audio
from app.embedded.sample import DEMO_CONTACT_CENTER, sample_labels, sample_recordings
from app.logs import log_to_stderr
from app.recordings.labels import Labels
from app.recordings.model import parse_recording
from app.server import supervisor as server
from app.settings import ConfigurationError, Role, S3Config, Settings, StorageConfig, User, WebDavConfig, load_settings
from app.store.client import connect
from app.store.indices import create_indices
from app.store.repository import RecordingRepository, StoredRecording, Update

# Region and contact center are those of the reference documents' examples.
REGION = "test"
RECORDINGS = 12

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
    """Loads recordings with one media file each, in which the recording's number is dialled."""
    async with connect(settings) as client:
        await create_indices(client, settings)
        await define_sample_labels(client, settings, DEMO_CONTACT_CENTER)
        repository = RecordingRepository(client, settings)
        scope = Scope(DEMO_CONTACT_CENTER, settings.region)
        for recording in sample_recordings(RECORDINGS, region=settings.region):
            name = f"{recording['id']}.wav"
            write_audio(folder / name, recording["dialedPhoneNumber"])
            descriptor = {"storage": "webDAV", "path": f"{media.base_url}/{name}"}
            first = recording["mediaFiles"][0]
            size = str((folder / name).stat().st_size)
            recording["mediaFiles"] = [{**first, "mediaDescriptor": descriptor, "type": "audio/wav", "size": size}]
            _, stored = await repository.save(DEMO_CONTACT_CENTER, parse_recording(recording), by="demo")
            labels = sample_labels(stored)

            async def label(now: StoredRecording, labels: Labels = labels) -> Update:
                return Update(now.contact_center, now.recording, now.protection, labels)

            if labels:
                await repository.update(scope, recording["id"], label)
        await client.indices.refresh(index=f"{settings.index_prefix}-*")


def _announcement(settings: Settings) -> str:
    lines = [f"\nRecall serves http://{settings.host}:{settings.port}/api/v2 - Ctrl-C stops it.\n"]
    if not os.environ.get("RECALL_CONFIG"):
        lines.append(f"{'user':<12} password")
        lines += [f"{user.name:<12} {_password(user.name)}" for user in settings.users]
        lines.append(f"\ncontact center {DEMO_CONTACT_CENTER}, region {settings.region}")
    return "\n".join(lines)
