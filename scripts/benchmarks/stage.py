"""The environment of a benchmark: an Elasticsearch, indices of its own, and one process of the service."""

import asyncio
import os
import platform
import shlex
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, TypeVar
from uuid import uuid4

import click
import msgspec
import uvloop
from argon2 import PasswordHasher
from elasticsearch import AsyncElasticsearch

from app.cli.types import POSITIVE
from app.embedded.choose import elasticsearch_for_development
from app.embedded.elasticsearch import Node
from app.embedded.errors import DistributionError, NodeError
from app.embedded.loader import Loader, LoadError, Sample
from app.embedded.servers import ServerError, running, server_folder, write_settings
from app.errors import RecallError
from app.progress import progress
from app.recordings.model import Recording
from app.settings import Settings, User
from app.store.client import connect
from app.store.documents import to_document
from app.store.indices import alias, create_indices
from benchmarks.client import OPS_USER, PASSWORD, USER

F = TypeVar("F", bound=Callable[..., Any])

REGION = "bench"
CONTACT_CENTER = "a5539ef5-7dd5-4150-818f-ee1bcd447cbe"

BATCH = 500

_NODE_HEAP = "2g"
_SETTLE_SECONDS = 300.0


@dataclass
class Stage:
    """Elasticsearch, and indices that are only this run's."""

    settings: Settings
    client: AsyncElasticsearch
    version: str

    def index(self, name: str) -> str:
        return f"{self.settings.index_prefix}-{name}"

    async def load_ours(self, sample: Sample, count: int) -> str:
        """Loads recordings as the service stores them. Returns the alias."""
        await create_indices(self.client, self.settings)
        index = alias(self.settings, "recordings")
        await self.load(Loader(self.client, index, to_document), sample, count, "our schema")
        return index

    async def load_plain(self, sample: Sample, count: int) -> str:
        """Loads the same recordings into an index with Elasticsearch's default dynamic mappings. Returns its name."""
        index = self.index("plain")
        await self.client.indices.create(index=index, settings={"number_of_replicas": 0})
        loader = Loader(self.client, index, _plain_document, is_alias=False)
        await self.load(loader, sample, count, "default mappings")
        return index

    async def load(self, loader: Loader, sample: Sample, count: int, what: str) -> None:
        with progress(count, what) as advance:
            await loader.load(sample, count, BATCH, advance)
        if loader.stored != count:
            raise LoadError(f"{what}: of {count} recordings {loader.stored} were stored: {loader.examples}")

    async def settle(self) -> None:
        """Waits until background merges, which the loading has left, no longer take the processor."""
        deadline = time.monotonic() + _SETTLE_SECONDS
        while time.monotonic() < deadline:
            stats = await self.client.indices.stats(index=f"{self.settings.index_prefix}-*", metric="merge")
            if not stats.body["_all"]["total"]["merges"]["current"]:
                return
            await asyncio.sleep(0.5)

    async def merge(self, index: str) -> None:
        """Merges an index to one segment, so that the number of segments does not depend on chance."""
        await self.client.options(request_timeout=_SETTLE_SECONDS).indices.forcemerge(index=index, max_num_segments=1)
        await self.settle()

    async def segments(self, index: str) -> int:
        stats = await self.client.indices.stats(index=index, metric="segments")
        return int(stats.body["_all"]["primaries"]["segments"]["count"])

    async def megabytes(self, index: str) -> float:
        stats = await self.client.indices.stats(index=index, metric="store")
        return float(stats.body["_all"]["primaries"]["store"]["size_in_bytes"]) / 1e6

    async def copy_index(self, resource: str, name: str) -> None:
        """Creates an empty index with the schema and settings of one of ours."""
        created = (await self.client.indices.get(index=alias(self.settings, resource))).body
        [index] = created.values()
        wanted = {
            "sort": index["settings"]["index"]["sort"],
            "number_of_replicas": 0,
            "number_of_shards": 1,
            # Elasticsearch by default refreshes only indices that are searched. The service's index is searched often.
            "refresh_interval": "1s",
        }
        await self.client.indices.create(index=self.index(name), mappings=index["mappings"], settings={"index": wanted})

    async def seconds_of_elasticsearch(self) -> float:
        """Returns the processor time of all nodes so far."""
        nodes = (await self.client.nodes.stats(metric="process")).body["nodes"].values()
        return sum(float(node["process"]["cpu"]["total_in_millis"]) for node in nodes) / 1000

    async def count(self, index: str) -> int:
        await self.client.indices.refresh(index=index)
        return int((await self.client.count(index=index)).body["count"])

    async def remove(self) -> None:
        indices = list((await self.client.indices.get(index=f"{self.settings.index_prefix}-*")).body)
        if indices:
            await self.client.indices.delete(index=indices)


def _plain_document(contact_center: str, recording: Recording) -> dict[str, Any]:
    return {"contactCenter": contact_center, **recording}


def on_stage(measure: Callable[[Stage], Awaitable[None]]) -> None:
    """Runs a benchmark and prints the machine it ran on. A failure is one line and exit status 1."""
    try:
        with _elasticsearch() as url:
            uvloop.run(_on_stage(url, measure))
    except (DistributionError, NodeError, ServerError, LoadError, RecallError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("interrupted")


@contextmanager
def _elasticsearch() -> Iterator[str]:
    """The URL of the given one, or of a node with more memory than development needs."""
    if os.environ.get("RECALL_ELASTICSEARCH_URL") or os.environ.get("RECALL_ELASTICSEARCH"):
        with elasticsearch_for_development() as url:
            yield url
    else:
        with Node.start(heap=_NODE_HEAP) as node:
            yield node.url


async def _on_stage(url: str, measure: Callable[[Stage], Awaitable[None]]) -> None:
    settings = Settings(
        elasticsearch_url=url,
        index_prefix=f"bench-{uuid4().hex[:8]}",
        replicas=0,
        region=REGION,
        elasticsearch_timeout=60.0,
    )
    async with connect(settings) as client:
        stage = Stage(settings, client, await _version(client))
        try:
            await measure(stage)
            _print_machine(stage)
        finally:
            await stage.remove()


async def _version(client: AsyncElasticsearch) -> str:
    nodes = (await client.nodes.info(node_id="_master")).body["nodes"]  # not every node has GET /
    return str(next(iter(nodes.values()))["version"])


def _print_machine(stage: Stage) -> None:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    print(f"\n`{shlex.join(['scripts/bench.py', *sys.argv[1:]])}`\n")
    print(f"{os.cpu_count()} cores, {memory:.0f} GiB memory, {platform.system()} {platform.machine()}; ", end="")
    libraries = ", ".join(f"{name} {version(name)}" for name in ("uvicorn", "starlette", "elasticsearch", "msgspec"))
    node = "given Elasticsearch" if os.environ.get("RECALL_ELASTICSEARCH_URL") else f"heap {_NODE_HEAP}"
    print(f"Python {platform.python_version()}, {libraries}; Elasticsearch {stage.version} ({node})")


@contextmanager
def service(settings: Settings, more_users: tuple[User, ...] = ()) -> Iterator[str]:
    """Runs one process of the service, configured by a file as in production, and yields its URL.

    Its audit log is a file in its folder.
    """
    password_hash = PasswordHasher().hash(PASSWORD)
    users = (
        User(USER, password_hash, ("admin",), CONTACT_CENTER),
        User(OPS_USER, password_hash, ("ops",), None),
        *more_users,
    )
    with server_folder() as folder:
        file = folder / "recall.toml"

        def command(port: int) -> list[str]:
            audit_log = str(folder / "audit.log")
            write_settings(msgspec.structs.replace(settings, users=users, port=port, audit_log=audit_log), file)
            return [sys.executable, "-m", "app"]

        with running(folder, command, {"RECALL_CONFIG": str(file)}, ready="/health/ready") as port:
            yield f"http://127.0.0.1:{port}"


def recordings(default: int) -> Callable[[F], F]:
    """Declares the option for the number of recordings."""
    return click.option(
        "--recordings", metavar="N", type=POSITIVE, default=default, help=f"How many (default: {default:,})."
    )


def rounds(default: int) -> Callable[[F], F]:
    """Declares the option for the number of rounds."""
    return click.option(
        "--rounds", metavar="N", type=POSITIVE, default=default, help=f"Not counting the warm-up (default: {default})."
    )


def seconds(default: float) -> Callable[[F], F]:
    """Declares the option for the length of a round."""
    return click.option(
        "--seconds",
        metavar="N",
        type=float,
        default=default,
        help=f"Of each side in each round (default: {default:g}).",
    )
