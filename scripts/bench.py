#!/usr/bin/env python3
"""Measure Recall beside plain Elasticsearch; prints a table in Markdown.

Without RECALL_ELASTICSEARCH_URL it starts an embedded node of its own. It loads made-up recordings into indices of
its own and removes them at the end.
"""

import argparse
import asyncio
import base64
import http.client
import itertools
import json
import os
import platform
import random
import selectors
import shlex
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlencode, urlsplit
from uuid import uuid4

import botocore.session
import msgspec
import uvloop
from argon2 import PasswordHasher
from botocore.config import Config
from elasticsearch import AsyncElasticsearch
from elasticsearch.helpers import async_bulk, async_scan

from app import codec
from app.auth.scope import Scope
from app.embedded.choose import elasticsearch_for_development
from app.embedded.elasticsearch import Node
from app.embedded.errors import DistributionError, NodeError
from app.embedded.loader import Loader, LoadError, Sample, create_v1_index, v1_schema
from app.embedded.sample import BUCKETS, WEBDAV_URLS, sample_recordings
from app.embedded.sample_v1 import v1_document
from app.errors import RecallError
from app.migration.cutover import acquire_and_recover, current_index, roll_back
from app.migration.plan import Options as MigrationOptions
from app.migration.run import Migration
from app.migration.sources import CannotTransform, V1Recordings, V2Recordings
from app.progress import progress
from app.recordings.dates import format_instant, parse_instant
from app.recordings.merge import merge
from app.recordings.model import Recording, parse_recording
from app.search.criteria import CALLER, DIALED, USER_DATA_VALUE, Condition
from app.search.paging import PageRequest
from app.search.parsers import Terms
from app.search.pattern import Pattern
from app.search.query import search_body
from app.settings import S3Config, Settings, StorageConfig, WebDavConfig
from app.store.client import connect
from app.store.documents import document_id, to_document
from app.store.indices import alias, create_indices, load_schema
from app.workers import collect_rarely

REGION = "bench"
CONTACT_CENTER = "a5539ef5-7dd5-4150-818f-ee1bcd447cbe"
USER, OPS_USER, PASSWORD = "admin", "ops", "a-password"

PAGE = 100
CONNECTIONS = 8
INGEST_CONNECTIONS = 32
# As many recordings as those connections have under way, but in two requests.
INGEST_GATHERED, INGEST_GATHERED_CONNECTIONS = 16, 2
NODE_HEAP = "2g"

_BATCH = 500
_START_SECONDS = 60.0
_MOST_SECONDS = 600.0
_SETTLE_SECONDS = 300.0


# --- What is measured ---------------------------------------------------------------------------------------


@dataclass
class Stage:
    """Elasticsearch, and indices that are only this run's."""

    settings: Settings
    client: AsyncElasticsearch
    version: str

    def index(self, name: str) -> str:
        return f"{self.settings.index_prefix}-{name}"

    async def load_ours(self, sample: Sample, count: int) -> str:
        """Recordings as the service stores them. Returns the alias."""
        await create_indices(self.client, self.settings)
        index = alias(self.settings, "recordings")
        await self.load(Loader(self.client, index, to_document), sample, count, "our schema")
        return index

    async def load_plain(self, sample: Sample, count: int) -> str:
        """The same recordings in an index with Elasticsearch's default dynamic mappings. Returns its name."""
        index = self.index("plain")
        await self.client.indices.create(index=index, settings={"number_of_replicas": 0})
        loader = Loader(self.client, index, _plain_document, is_alias=False)
        await self.load(loader, sample, count, "default mappings")
        return index

    async def load(self, loader: Loader, sample: Sample, count: int, what: str) -> None:
        with progress(count, what) as advance:
            await loader.load(sample, count, _BATCH, advance)
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
        """To one segment, so that chance does not decide how many there are."""
        await self.client.options(request_timeout=_SETTLE_SECONDS).indices.forcemerge(index=index, max_num_segments=1)
        await self.settle()

    async def segments(self, index: str) -> int:
        stats = await self.client.indices.stats(index=index, metric="segments")
        return int(stats.body["_all"]["primaries"]["segments"]["count"])

    async def copy_index(self, resource: str, name: str) -> None:
        """An empty index with the schema and settings of one of ours."""
        created = (await self.client.indices.get(index=alias(self.settings, resource))).body
        [index] = created.values()
        wanted = {
            "sort": index["settings"]["index"]["sort"],
            "number_of_replicas": 0,
            "number_of_shards": 1,
            # The service searches its own now and then; what nobody searches is by default never made searchable.
            "refresh_interval": "1s",
        }
        await self.client.indices.create(index=self.index(name), mappings=index["mappings"], settings={"index": wanted})

    async def count(self, index: str) -> int:
        await self.client.indices.refresh(index=index)
        return int((await self.client.count(index=index)).body["count"])

    async def remove(self) -> None:
        indices = list((await self.client.indices.get(index=f"{self.settings.index_prefix}-*")).body)
        if indices:
            await self.client.indices.delete(index=indices)


def _plain_document(contact_center: str, recording: Recording) -> dict[str, Any]:
    return {"contactCenter": contact_center, **recording}


@contextmanager
def _elasticsearch() -> Iterator[str]:
    """The URL of the given one, or of a node with more memory than development needs."""
    if os.environ.get("RECALL_ELASTICSEARCH_URL") or os.environ.get("RECALL_ELASTICSEARCH"):
        with elasticsearch_for_development() as url:
            yield url
    else:
        with Node.start(heap=NODE_HEAP) as node:
            yield node.url


async def _on_stage(url: str, run: Callable[[Stage], Awaitable[None]]) -> None:
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
            await run(stage)
            _print_machine(stage)
        finally:
            await stage.remove()


async def _version(client: AsyncElasticsearch) -> str:
    nodes = (await client.nodes.info(node_id="_master")).body["nodes"]  # not every node has GET /
    return str(next(iter(nodes.values()))["version"])


@contextmanager
def _app(settings: Settings) -> Iterator[str]:
    """One process of the service; its URL. It takes what it needs from a file, as in production."""
    port = _free_port()
    config = {
        "port": port,
        "region": settings.region,
        "elasticsearch_url": settings.elasticsearch_url,
        "index_prefix": settings.index_prefix,
        "replicas": 0,
    }
    password_hash = PasswordHasher().hash(PASSWORD)
    admin = {"name": USER, "password_hash": password_hash, "roles": ["admin"], "contact_center": CONTACT_CENTER}
    tables: list[tuple[str, dict[str, object]]] = [
        ("", config),
        ("[[users]]", admin),
        ("[[users]]", {"name": OPS_USER, "password_hash": password_hash, "roles": ["ops"]}),
        *(("[[storage.webdav]]", msgspec.structs.asdict(storage)) for storage in settings.storage.webdav),
        *(("[[storage.s3]]", msgspec.structs.asdict(storage)) for storage in settings.storage.s3),
    ]
    lines = [
        line
        for title, values in tables
        # JSON strings, numbers and lists are TOML ones.
        for line in (title, *(f"{name} = {json.dumps(value)}" for name, value in values.items() if value is not None))
    ]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "recall.toml"
        file.write_text("\n".join(lines))
        command = [sys.executable, "-m", "app"]
        with _process(command, Path(folder), port, {"RECALL_CONFIG": str(file)}, ready="/health/ready"):
            yield f"http://127.0.0.1:{port}"


@contextmanager
def _process(
    command: Sequence[str], folder: Path, port: int, environment: dict[str, str], ready: str | None = None
) -> Iterator[None]:
    """A server that answers at the port, at `ready` with 200; its log is in the folder."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RECALL_")}
    log = folder / "log"
    with log.open("w") as output:
        process = subprocess.Popen(command, env=inherited | environment, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not _answers(port, ready):
            if time.monotonic() > deadline or process.poll() is not None:
                raise LoadError(f"{shlex.join(command)} did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait()


def _answers(port: int, ready: str | None) -> bool:
    try:
        status, _ = _get(f"http://127.0.0.1:{port}", Request("GET", ready or "/"))
    except OSError:
        return False
    return status == 200 or ready is None


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


# --- Questions ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Request:
    """An HTTP request, as far as it varies."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    def encoded(self, host: str) -> bytes:
        lines = [f"{self.method} {self.path} HTTP/1.1", f"Host: {host}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        if self.body:
            lines.append(f"Content-Length: {len(self.body)}")
        return "\r\n".join([*lines, "", ""]).encode() + self.body


@dataclass(frozen=True)
class Question:
    """The same question to both sides."""

    kind: str
    api: Request
    direct: Request


Clause = dict[str, Any]


class Questions:
    """What supervisors ask, about values drawn from the sample."""

    def __init__(self, sample: Sample, count: int, index: str, data_fields: Sequence[str], seed: int = 1) -> None:
        self._random = random.Random(seed)
        self._sample = sample
        self._count = count
        self._path = f"/{index}/_search"
        self._data_fields = data_fields
        self._api_headers = (_authorization(), ("Accept", "application/json"))

    def make(self, number: int) -> list[Question]:
        """All kinds in turn."""
        kinds = itertools.cycle(
            (
                self._time_range,
                self._caller,
                self._caller_prefix,
                self._inside_caller,
                self._agent,
                self._case,
                self._inside_data,
            )
        )
        return [next(kinds)() for _ in range(number)]

    def _time_range(self) -> Question:
        begin = parse_instant(self._recording()["startTime"])
        end = begin + self._random.randrange(1, 60) * 86_400_000
        return self._question(
            "newest in a time range",
            {"startTime": format_instant(begin), "endTime": format_instant(end)},
            [{"range": {"startTime": {"gt": begin}}}, {"range": {"stopTime": {"lt": end}}}],
        )

    def _caller(self) -> Question:
        number = self._recording()["callerPhoneNumber"]
        return self._question(
            "caller's number", {"callerPhoneNumber": number}, [{"term": {"callerPhoneNumber.keyword": number}}]
        )

    def _caller_prefix(self) -> Question:
        pattern = f"{self._phone_number()[: self._random.randrange(5, 8)]}*"
        return self._question("caller begins with", {"callerPhoneNumber": pattern}, [_wildcard("caller", pattern)])

    def _inside_caller(self) -> Question:
        pattern = f"*{_piece(self._random, self._phone_number(), 4)}*"
        return self._question(
            "inside the caller's number", {"callerPhoneNumber": pattern}, [_wildcard("caller", pattern)]
        )

    def _agent(self) -> Question:
        agent = self._contact()
        first, last = agent["firstName"].split()[0], agent["lastName"].split()[0]
        clauses: list[Clause] = [
            {"match": {"eventHistory.contact.firstName": {"query": first, "operator": "and"}}},
            {"match": {"eventHistory.contact.lastName": {"query": last, "operator": "and"}}},
        ]
        return self._question("agent's first AND last name", {"userName": f"{first} AND {last}"}, clauses)

    def _case(self) -> Question:
        case = self._data()["caseNumber"]
        return self._question(
            "case number", {"userData": case}, [{"term": {"eventHistory.data.caseNumber.keyword": case}}]
        )

    def _inside_data(self) -> Question:
        pattern = f"*{_piece(self._random, self._data()['caseNumber'][-7:], 5)}*"
        # A client of the API need not know which values there are.
        clauses = [{"wildcard": {name: {"value": pattern}}} for name in self._data_fields]
        return self._question("inside user data", {"userData": pattern}, [{"bool": {"should": clauses}}])

    def _question(self, kind: str, parameters: dict[str, str], clauses: list[Clause]) -> Question:
        body = {
            "query": {"bool": {"filter": [{"term": {"contactCenter.keyword": CONTACT_CENTER}}, *clauses]}},
            "sort": [{"startTime": "desc"}, {"id.keyword": "asc"}],
            "size": PAGE,
            "track_total_hits": False,  # the API counts nothing either
        }
        return Question(
            kind,
            Request("GET", f"/api/v2/recordings?{urlencode(parameters)}", self._api_headers),
            Request("POST", self._path, (("Content-Type", "application/json"),), codec.encode(body)),
        )

    def _recording(self) -> Recording:
        return next(self._sample.recordings(self._random.randrange(self._count), 1))

    def _phone_number(self) -> str:
        while True:
            number: str = self._recording()["callerPhoneNumber"]
            if number.startswith("+"):
                return number

    def _contact(self) -> dict[str, Any]:
        events = self._recording()["eventHistory"]
        contact: dict[str, Any] = next(e["contact"] for e in events if e["contact"]["type"] == "User")
        return contact

    def _data(self) -> dict[str, Any]:
        events = self._recording()["eventHistory"]
        data: dict[str, Any] = next(e["data"] for e in events if "caseNumber" in e.get("data", {}))
        return data


def _authorization(user: str = USER) -> tuple[str, str]:
    return "Authorization", f"Basic {base64.b64encode(f'{user}:{PASSWORD}'.encode()).decode()}"


def _wildcard(who: str, pattern: str) -> Clause:
    return {"wildcard": {f"{who}PhoneNumber.keyword": {"value": pattern}}}


def _piece(random: random.Random, value: str, length: int) -> str:
    start = random.randrange(max(len(value) - length, 0) + 1)
    return value[start : start + length]


async def _keywords_below(client: AsyncElasticsearch, index: str, path: str) -> list[str]:
    """The names of all keyword fields that dynamic mapping has made below a field."""
    mapping = (await client.indices.get_mapping(index=index)).body[index]["mappings"]
    for name in path.split("."):
        mapping = mapping["properties"][name]

    def below(mapping: dict[str, Any], path: str) -> Iterator[str]:
        for name, field_ in mapping.get("properties", {}).items():
            if "keyword" in field_.get("fields", {}):
                yield f"{path}.{name}.keyword"
            yield from below(field_, f"{path}.{name}")

    return list(below(mapping, path))


# --- The load generator -------------------------------------------------------------------------------------


@dataclass
class Measured:
    """What one side did: the seconds that each answer took, by kind of question."""

    seconds: float = 0.0
    latencies: dict[str, list[float]] = field(default_factory=dict)
    bytes: int = 0

    @property
    def all(self) -> list[float]:
        return [latency for latencies in self.latencies.values() for latency in latencies]

    @property
    def rate(self) -> float:
        return len(self.all) / self.seconds

    def percentile(self, percent: int, kind: str | None = None) -> float:
        """In milliseconds."""
        values = sorted(self.latencies[kind] if kind else self.all)
        return 1000 * values[min(len(values) * percent // 100, len(values) - 1)]


class _Connection(asyncio.Protocol):
    """Asks one question after the other, and looks at no more of an answer than where it ends."""

    def __init__(self, questions: Iterator[tuple[str, bytes]], measured: Measured, until: float) -> None:
        self._questions = questions
        self._measured = measured
        self._until = until
        self._head = b""
        self._left = 0  # bytes to come of this body or chunk
        self._chunked = False
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._ask()

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(f"a connection was closed: {error}")

    def _fail(self, why: str) -> None:
        if not self.done.done():
            self.done.set_exception(LoadError(why))
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._measured.bytes += len(data)
        if len(data) < self._left:  # most often: in the middle of a body
            self._left -= len(data)
            return
        rest = data[self._left :]
        in_body, self._left = self._left > 0, 0
        if in_body and not self._chunked:
            self._answered()
        else:
            self._read(self._head + rest)

    def _read(self, data: bytes) -> None:
        """At the start of an answer, or at the size of a chunk."""
        while True:
            self._head = data
            if not self._chunked:
                head, end, data = data.partition(b"\r\n\r\n")
                if not end:
                    return
                if not head.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 201 ")):
                    self._fail(f"an answer was {head!r}")
                    return
                size = self._read_head(head)
                if self._chunked:
                    continue
            else:
                line, end, data = data.partition(b"\r\n")
                if not end:
                    return
                size = int(line, 16) + 2  # a line break follows every chunk, also the empty last one
                if size == 2:
                    self._chunked = False
            self._head = b""
            if len(data) < size:
                self._left = size - len(data)
                return
            data = data[size:]
            if not self._chunked:
                self._answered()
                return

    def _read_head(self, head: bytes) -> int:
        """The length of the body, 0 when it comes in chunks."""
        for line in head.split(b"\r\n"):
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                return int(value)
            self._chunked |= name.lower() == b"transfer-encoding"
        return 0

    def _answered(self) -> None:
        now = time.perf_counter()
        self._measured.latencies.setdefault(self._kind, []).append(now - self._asked)
        self._ask()

    def _ask(self) -> None:
        self._asked = time.perf_counter()
        if self._asked < self._until and (question := next(self._questions, None)):
            self._kind, request = question
            self._transport.write(request)
        else:
            self.done.set_result(None)
            self._transport.close()


async def _load(
    url: str,
    requests: Sequence[tuple[str, Request]],
    measured: Measured,
    *,
    connections: int,
    seconds: float | None = None,
) -> None:
    """Keeps the connections busy for some time, or until each request was made once; adds to `measured`."""
    address = urlsplit(url)
    assert address.hostname
    assert address.port
    encoded = [(kind, request.encoded(address.netloc)) for kind, request in requests]
    questions = itertools.cycle(encoded) if seconds else iter(encoded)
    seconds = seconds or _MOST_SECONDS
    begun = time.perf_counter()
    until = begun + seconds
    opened = [
        (
            await asyncio.get_running_loop().create_connection(
                lambda: _Connection(questions, measured, until), address.hostname, address.port
            )
        )[1]
        for _ in range(connections)
    ]
    async with asyncio.timeout(seconds + 60):
        await asyncio.gather(*(connection.done for connection in opened))
    measured.seconds += time.perf_counter() - begun


def _get(url: str, request: Request) -> tuple[int, bytes]:
    """One request by the standard library."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    try:
        connection.request(request.method, request.path, request.body or None, dict(request.headers))
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


# --- search -------------------------------------------------------------------------------------------------


async def search(stage: Stage, options: argparse.Namespace) -> None:
    """The same questions to the API and straight to Elasticsearch."""
    sample = Sample(CONTACT_CENTER, REGION)
    ours = await stage.load_ours(sample, options.recordings)
    plain = await stage.load_plain(sample, options.recordings)
    await stage.settle()
    fields = await _keywords_below(stage.client, plain, "eventHistory.data")
    questions = Questions(sample, options.recordings, plain, fields).make(options.questions)
    questions = [question for question in questions if options.kind in question.kind]
    with _app(stage.settings) as app_url:
        urls = {"API": app_url, "direct": stage.settings.elasticsearch_url}
        checked = _check(questions[: options.check], urls)
        sides = await _rounds(questions, urls, options)
    segments = f"{await stage.segments(ours)} (ours) and {await stage.segments(plain)}"
    print(f"\n{options.recordings} recordings; segments as the loading left them: {segments}; ", end="")
    print(f"{checked} questions compared beforehand, the same ids in the same order from both sides\n")
    _print_search(sides["API"], sides["direct"])


def _check(questions: Sequence[Question], urls: dict[str, str]) -> int:
    """Fails unless both sides return the same recordings for each question; at least half must return some."""
    answered = 0
    for question in questions:
        status, body = _get(urls["API"], question.api)
        api = [recording["id"] for recording in codec.decode(body).get("recordings", [])] if status == 200 else body
        hits = codec.decode(_get(urls["direct"], question.direct)[1])["hits"]["hits"]
        direct = [hit["_source"]["id"] for hit in hits]
        if api != direct:
            raise LoadError(f"the two sides differ for {question}:\n{api!r}\n{direct}")
        answered += bool(direct)
    if answered * 2 < len(questions):
        raise LoadError(f"only {answered} of {len(questions)} questions have an answer")
    return len(questions)


async def _rounds(
    questions: Sequence[Question], urls: dict[str, str], options: argparse.Namespace
) -> dict[str, Measured]:
    """The sides take turns, so that whatever else the machine does hits both; each round has its own questions."""
    sides = {name: Measured() for name in urls}
    warm_up = {name: Measured() for name in urls}
    size = len(questions) // (options.rounds + 1)
    for number in range(options.rounds + 1):
        some = questions[number * size : (number + 1) * size]
        requests = {"API": [(q.kind, q.api) for q in some], "direct": [(q.kind, q.direct) for q in some]}
        for name, url in urls.items():
            # The first round is for the caches and the Java compiler.
            measured = sides[name] if number else warm_up[name]
            await _load(url, requests[name], measured, connections=CONNECTIONS, seconds=options.seconds)
            print(f"round {number}, {name}: {measured.rate:.0f} requests/s so far", file=sys.stderr, flush=True)
    return sides


def _print_search(api: Measured, direct: Measured) -> None:
    _print_sides(api, direct, "wanted: rate at least 1.0, p50 at most 1.1")
    print()
    _print_row("question", "API p50 ms", "p95", "direct p50 ms", "p95", "p50 ratio")
    _print_row("---", *["---:"] * 5)
    for kind in sorted(api.latencies.keys() & direct.latencies.keys()):
        cells = [f"{side.percentile(percent, kind):.1f}" for side in (api, direct) for percent in (50, 95)]
        _print_row(kind, *cells, f"{api.percentile(50, kind) / direct.percentile(50, kind):.2f}")


def _print_sides(api: Measured, direct: Measured, wanted: str) -> None:
    _print_row("", "requests/s", "p50 ms", "p95 ms", "p99 ms", "KB/answer", "answers")
    _print_row("---", *["---:"] * 6)
    for name, side in (("API", api), ("Elasticsearch directly", direct)):
        percentiles = [f"{side.percentile(percent):.1f}" for percent in (50, 95, 99)]
        answers = len(side.all)
        _print_row(name, f"{side.rate:.1f}", *percentiles, f"{side.bytes / answers / 1000:.0f}", str(answers))
    ratios = [f"{api.percentile(percent) / direct.percentile(percent):.2f}" for percent in (50, 95, 99)]
    _print_row(f"ratio ({wanted})", f"{api.rate / direct.rate:.2f}", *ratios, "", "")


def _print_row(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |")


# --- ingest -------------------------------------------------------------------------------------------------


async def ingest(stage: Stage, options: argparse.Namespace) -> None:
    """Posts to the API, and the same documents put one by one straight into Elasticsearch, in an index alike.

    Also, in a third index, gathered beforehand: what a service would reach that gathers them and costs nothing.
    """
    await create_indices(stage.client, stage.settings)
    sides = {"API": Measured(), "direct": Measured(), "gathered": Measured()}
    for name in ("direct", "gathered"):
        await stage.copy_index("recordings", name)
    sample = Sample(CONTACT_CENTER, REGION)
    # Nothing is asked of them, but media elsewhere is refused.
    storages = StorageConfig(tuple(map(WebDavConfig, WEBDAV_URLS)), (S3Config(BUCKETS),))
    with _app(msgspec.structs.replace(stage.settings, storage=storages)) as app_url:
        for number in range(options.rounds + 1):
            requests = _posts(stage, sample, number * options.recordings, options.recordings)
            for name, side in sides.items():
                # The first round is for the Java compiler.
                measured = side if number else Measured()
                await stage.settle()
                url = app_url if name == "API" else stage.settings.elasticsearch_url
                connections = INGEST_GATHERED_CONNECTIONS if name == "gathered" else INGEST_CONNECTIONS
                await _load(url, requests[name], measured, connections=connections)
                print(f"round {number}, {name}: {measured.rate:.0f} requests/s so far", file=sys.stderr, flush=True)
    indices = [alias(stage.settings, "recordings"), stage.index("direct"), stage.index("gathered")]
    counts = [await stage.count(index) for index in indices]
    if counts != [(options.rounds + 1) * options.recordings] * 3:
        raise LoadError(f"stored were {counts}")
    print(f"\n{options.rounds} rounds of {options.recordings} new recordings each, {INGEST_CONNECTIONS} connections\n")
    _print_sides(sides["API"], sides["direct"], "wanted: rate at least 1.5, p99 at most 2")
    most = options.rounds * options.recordings / sides["gathered"].seconds
    print(f"\nGathered beforehand, {INGEST_GATHERED} in a `_bulk`, {INGEST_GATHERED_CONNECTIONS} at once: ", end="")
    print(f"{most:.1f} recordings/s, {most / sides['direct'].rate:.2f} times the rate of single `PUT`s")


def _posts(stage: Stage, sample: Sample, first: int, count: int) -> dict[str, list[tuple[str, Request]]]:
    """For each side its requests, ready to be sent."""
    path = f"/api/v2/ops/contact-centers/{CONTACT_CENTER}/recordings"
    json_type = ("Content-Type", "application/json")
    posted = sample_recordings(
        count, seed=sample.seed, region=REGION, contact_center=CONTACT_CENTER, first=first, until=sample.until
    )
    api = [
        ("POST", Request("POST", path, (_authorization(OPS_USER), json_type), codec.encode(body))) for body in posted
    ]
    direct = []
    lines = []
    for recording in sample.recordings(first, count):
        document = document_id(CONTACT_CENTER, REGION, recording["id"])
        body = codec.encode(to_document(CONTACT_CENTER, recording))
        direct.append(("PUT", Request("PUT", f"/{stage.index('direct')}/_doc/{document}", (json_type,), body)))
        lines.append(b'{"index":{"_id":"%b"}}\n%b\n' % (document.encode(), body))
    bulk = f"/{stage.index('gathered')}/_bulk"
    gathered = [
        ("POST", Request("POST", bulk, (json_type,), b"".join(lines[at : at + INGEST_GATHERED])))
        for at in range(0, count, INGEST_GATHERED)
    ]
    return {"API": api, "direct": direct, "gathered": gathered}


# --- wildcard -----------------------------------------------------------------------------------------------


# Field, way to ask, whether the recordings are read → milliseconds.
Took = dict[tuple[str, str, bool], float]

_WILDCARD_FIELDS = ("callerPhoneNumber", "dialedPhoneNumber", "userData")


async def wildcard(stage: Stage, options: argparse.Namespace) -> None:
    """Patterns inside values: our query beside `wildcard` on a keyword of the same index, small and large."""
    took: dict[int, Took] = {}
    for count in (options.recordings // 10, options.recordings):
        # Two indices would share the caches: the small one is gone before the large one comes.
        await stage.remove()
        sample = Sample(CONTACT_CENTER, REGION)
        index = await stage.load_ours(sample, count)
        await stage.merge(index)
        took[count] = await _took(stage, index, sample, count, options)
    print("\nMilliseconds for one search, by Elasticsearch's own clock (`took`): the median over requests of ", end="")
    print(
        f"{options.batch} searches each, one after the other, none with a pattern seen before. Merged to one ", end=""
    )
    print("segment. *Find*: which are the newest 101; *answer*: and read them, which costs both the same.\n")
    _print_wildcard(took)


async def _took(stage: Stage, index: str, sample: Sample, count: int, options: argparse.Namespace) -> Took:
    """Medians.

    `took` is in whole milliseconds, and a search takes one or less. So many searches go in one request: its `took`
    is that of all of them, and the rounding is divided by their number.
    """
    random_ = random.Random(1)
    patterns = {name: _patterns(random_, sample, count, name) for name in _WILDCARD_FIELDS}
    took: dict[tuple[str, str, bool], list[float]] = {}
    for round_ in range(-options.warm_up, options.rounds):
        for key in itertools.product(_WILDCARD_FIELDS, ("trigrams", "keyword"), (False, True)):
            searches: list[dict[str, Any]] = []
            for pattern in itertools.islice(patterns[key[0]], options.batch):
                searches += [{}, _wildcard_body(*key, pattern)]
            answer = await stage.client.msearch(index=index, searches=searches, max_concurrent_searches=1)
            if any(response["status"] != 200 for response in answer.body["responses"]):
                raise LoadError(f"a search failed: {answer.body['responses'][0]}")
            if round_ >= 0:
                # Less than a millisecond for all is shown as none.
                took.setdefault(key, []).append(max(answer.body["took"], 1) / options.batch)
    return {key: statistics.median(values) for key, values in took.items()}


def _patterns(random_: random.Random, sample: Sample, count: int, name: str) -> Iterator[str]:
    """Five to seven characters of a stored value between stars, never the same twice."""
    seen = set()
    while True:
        document = to_document(CONTACT_CENTER, next(sample.recordings(random_.randrange(count), 1)))
        values = [value for value in document[name] if len(value) >= 7 and "*" not in value]
        if not values:
            continue
        pattern = f"*{_piece(random_, random_.choice(values), random_.randrange(5, 8))}*"
        if pattern not in seen:
            seen.add(pattern)
            yield pattern


def _wildcard_body(name: str, way: str, read: bool, text: str) -> dict[str, Any]:
    pattern = Pattern.parse(text)
    criterion = next(criterion for criterion in (CALLER, DIALED, USER_DATA_VALUE) if criterion.name == name)
    criteria = (Condition(criterion, Terms.any_of(pattern)),)
    body = search_body(Scope(CONTACT_CENTER, REGION), criteria, PageRequest())
    if way == "keyword":
        filters = [{"term": {"contactCenter": CONTACT_CENTER}}, {"term": {"region": REGION}}]
        body["query"] = {"bool": {"filter": [*filters, {"wildcard": {name: {"value": text}}}]}}
    return body if read else body | {"_source": False, "stored_fields": "_none_"}


def _print_wildcard(took: dict[int, Took]) -> None:
    small, large = took
    ways = ("wildcard on keyword", "trigrams", "times faster")
    _print_row("field", "recordings", *(f"{what}: {way}" for what in ("find", "answer") for way in ways))
    _print_row("---", *["---:"] * 7)
    for name, count in itertools.product(_WILDCARD_FIELDS, took):
        cells = []
        for read in (False, True):
            keyword, trigrams = took[count][name, "keyword", read], took[count][name, "trigrams", read]
            cells += [f"{keyword:.2f}", f"{trigrams:.2f}", f"{keyword / trigrams:.1f}"]
        _print_row(name, str(count), *cells)
    print(f"\nTrigrams, {large} recordings beside {small}:\n")
    _print_row("field", "find", "answer")
    _print_row("---", "---:", "---:")
    for name in _WILDCARD_FIELDS:
        keys = [(name, "trigrams", read) for read in (False, True)]
        _print_row(name, *(f"{took[large][key] / took[small][key]:.2f}" for key in keys))
    print("\nWanted: 10 times faster with the more recordings, and with them at most 2 times slower.")


# --- play ---------------------------------------------------------------------------------------------------


_MEDIA_BYTES = 10_000_000
_MEDIA_FILES = 8  # few enough to stay in memory
_LOOK_UPS = 10_000
_BUCKET = "recordings"
_S3_KEY, _S3_SECRET = "bench", "bench-secret"
# Both ends of what nginx can do: as it comes, and with the buffers of our own players' size.
_NGINX_TUNED = "proxy_buffers 16 64k; proxy_buffer_size 64k; proxy_busy_buffers_size 128k; proxy_max_temp_file_size 0;"


@dataclass
class Played:
    """What one side did: for each play the seconds to the first byte of the body, and to the last."""

    seconds: float = 0.0
    first: list[float] = field(default_factory=list)
    last: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """In MB/s."""
        return len(self.last) * _MEDIA_BYTES / 1e6 / self.seconds


async def play(stage: Stage, options: argparse.Namespace) -> None:
    """Media files through the service, and through nginx from the same storage."""
    names = [f"{number}.wav" for number in range(_MEDIA_FILES)]
    content = {name: random.Random(name).randbytes(_MEDIA_BYTES) for name in names}
    with ExitStack() as servers:
        webdav = servers.enter_context(_nginx_webdav())
        s3 = servers.enter_context(_versitygw())
        descriptors: dict[str, list[dict[str, Any]]] = {"WebDAV": [], "S3": []}
        direct: dict[str, list[str]] = {"WebDAV": [], "S3": []}
        for name, file in content.items():
            descriptors["WebDAV"].append({"storage": "webDAV", "path": f"{webdav}/{name}"})
            direct["WebDAV"].append(f"{webdav}/{name}")
            _put(f"{webdav}/{name}", file)
            descriptors["S3"].append({"storage": "awsS3", "path": name, "data": {"bucket": _BUCKET}})
            direct["S3"].append(_sign(s3, "get_object", name))
            _put(_sign(s3, "put_object", name), file)
        storage = StorageConfig(
            webdav=(WebDavConfig(webdav),), s3=(S3Config((_BUCKET,), s3, "us-east-1", _S3_KEY, _S3_SECRET),)
        )
        await create_indices(stage.client, stage.settings)
        app = servers.enter_context(_app(msgspec.structs.replace(stage.settings, storage=storage)))
        for kind in ("WebDAV", "S3"):
            if options.kind not in kind:
                continue
            origin = urlsplit(direct[kind][0])
            paths = [url.partition(origin.netloc)[2] for url in direct[kind]]
            plays = await _store_recordings(stage, kind, descriptors[kind])
            sides = {
                "service": (app, plays),
                "nginx": (servers.enter_context(_nginx_proxy(origin.netloc, "")), paths),
                "nginx, tuned": (servers.enter_context(_nginx_proxy(origin.netloc, _NGINX_TUNED)), paths),
                "storage directly": (f"http://{origin.netloc}", paths),
            }
            for url, asked in sides.values():
                for path, file in zip(asked, content.values(), strict=True):
                    if _get(url, _play_request(path)) != (200, file):
                        raise LoadError(f"{url}{path} is not the file")
            await _warm_up_look_up(app, plays)
            _print_play(kind, await _play_rounds(sides, options))


async def _store_recordings(stage: Stage, kind: str, descriptors: list[dict[str, Any]]) -> list[str]:
    """One recording for each file, in an index of many; the paths to play them."""
    sample = Sample(CONTACT_CENTER, REGION)
    index = alias(stage.settings, "recordings")
    paths = []
    for number, (recording, descriptor) in enumerate(
        zip(sample.recordings(0, len(descriptors)), descriptors, strict=True)
    ):
        media = {**recording["mediaFiles"][0], "mediaDescriptor": descriptor, "type": "audio/wav"}
        posted = {**recording, "id": f"{kind}-{number}", "mediaFiles": [media]}
        stored = merge(None, parse_recording(posted))
        _id = document_id(CONTACT_CENTER, REGION, stored["id"])
        await stage.client.index(index=index, id=_id, document=to_document(CONTACT_CENTER, stored))
        paths.append(f"/api/v2{stored['mediaFiles'][0]['mediaPath']}")
    return paths


async def _warm_up_look_up(app: str, plays: Sequence[str]) -> None:
    """A node just started takes thousands of look-ups until Java has compiled what they use, and nginx needs none."""
    recordings = [path.partition("/play/")[0] for path in plays]
    requests = [("", _play_request(path)) for path in itertools.islice(itertools.cycle(recordings), _LOOK_UPS)]
    # One after the other, or they would be gathered.
    await _load(app, requests, Measured(), connections=1)


async def _play_rounds(sides: dict[str, tuple[str, list[str]]], options: argparse.Namespace) -> dict[str, Played]:
    """The sides take turns, so that whatever else the machine does hits all."""
    played = {name: Played() for name in sides}
    for number in range(options.rounds + 1):
        for name, (url, paths) in sides.items():
            side = played[name] if number else Played()
            await asyncio.to_thread(_play_load, url, [_play_request(path) for path in paths], options.seconds, side)
            print(f"round {number}, {name}: {side.rate:.0f} MB/s so far", file=sys.stderr, flush=True)
    return played


def _play_request(path: str) -> Request:
    return Request("GET", path, (_authorization(),))


class _Player:
    """Plays one file after the other over one connection, as cheaply as can be: the kernel throws bodies away."""

    def __init__(self, address: tuple[str, int], requests: Iterator[bytes], played: Played) -> None:
        self._requests = requests
        self._played = played
        self.socket = socket.create_connection(address)
        self.ask()

    def ask(self) -> None:
        self._head = b""
        self._left = 0
        self._asked = time.perf_counter()
        self.socket.sendall(next(self._requests))

    def receive(self, buffer: bytearray) -> bool:
        """Takes what has come; whether that was the end of a file."""
        if self._left:
            # Linux discards instead of copying, so that little of the two cores goes to the player.
            received = self.socket.recv_into(buffer, min(self._left, len(buffer)), socket.MSG_TRUNC)
        else:
            self._head += self.socket.recv(4096)
            received = self._begin()
        self._left -= received
        if not received and (self._left or not self._head):
            raise LoadError(f"a connection was closed: {self._head!r}")
        if received and not self._left:
            self._played.last.append(time.perf_counter() - self._asked)
            return True
        return False

    def _begin(self) -> int:
        """The bytes of the body that came with the end of the head."""
        head, end, body = self._head.partition(b"\r\n\r\n")
        if not end or not body:
            return len(body)
        if b" 200 " not in head.partition(b"\r\n")[0]:
            raise LoadError(f"an answer was {head!r}")
        self._played.first.append(time.perf_counter() - self._asked)
        self._left = _MEDIA_BYTES
        return len(body)


def _play_load(url: str, requests: Sequence[Request], seconds: float, played: Played) -> None:
    """Keeps the connections busy for some time; adds to `played`."""
    address = urlsplit(url)
    assert address.hostname
    assert address.port
    encoded = itertools.cycle([request.encoded(address.netloc) for request in requests])
    buffer = bytearray(1 << 20)
    begun = time.perf_counter()
    with selectors.DefaultSelector() as selector:
        for _ in range(CONNECTIONS):
            player = _Player((address.hostname, address.port), encoded, played)
            selector.register(player.socket, selectors.EVENT_READ, player)
        while selector.get_map():
            ready = selector.select(60)
            if not ready:
                raise LoadError(f"{url} has stopped to answer")
            for key, _ in ready:
                if key.data.receive(buffer):
                    if time.perf_counter() - begun < seconds:
                        key.data.ask()
                    else:
                        selector.unregister(key.data.socket)
                        key.data.socket.close()
    played.seconds += time.perf_counter() - begun


@contextmanager
def _nginx_webdav() -> Iterator[str]:
    """A WebDAV server so fast that not it, but what is before it, is measured: nginx's own. The URL of its folder."""
    with _nginx("root files; location / { dav_methods PUT DELETE; client_max_body_size 0; }") as url:
        yield f"{url}/recordings"


@contextmanager
def _nginx_proxy(storage: str, tuning: str) -> Iterator[str]:
    upstream = f"upstream storage {{ server {storage}; keepalive {CONNECTIONS}; }}"
    # S3's signature is over the name of the host.
    keep_alive = f'proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host {storage};'
    authorization = 'proxy_set_header Authorization "";'
    with _nginx(f"location / {{ proxy_pass http://storage; {keep_alive} {authorization} {tuning} }}", upstream) as url:
        yield url


@contextmanager
def _nginx(server: str, before: str = "") -> Iterator[str]:
    """nginx with one worker, as the service has one process, and otherwise as it comes."""
    port = _free_port()
    temporary = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "files/recordings").mkdir(parents=True)
        (folder / "nginx.conf").write_text(f"""
            {"user root;" if os.geteuid() == 0 else ""}
            daemon off;
            worker_processes 1;
            pid pid;
            error_log stderr;
            events {{}}
            http {{
                access_log off;
                sendfile on;
                {" ".join(f"{what}_temp_path {what};" for what in temporary)}
                {before}
                server {{ listen 127.0.0.1:{port}; {server} }}
            }}
        """)
        with _process([_program("nginx"), "-p", name, "-e", "stderr", "-c", "nginx.conf"], folder, port, {}):
            yield f"http://127.0.0.1:{port}"


@contextmanager
def _versitygw() -> Iterator[str]:
    """An S3 server with one bucket; its URL."""
    port = _free_port()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "files" / _BUCKET).mkdir(parents=True)
        (folder / "attributes").mkdir()
        command = [_program("versitygw"), "--quiet", "--keep-alive", "--port", f"127.0.0.1:{port}"]
        backend = ["posix", "--sidecar", str(folder / "attributes"), str(folder / "files")]
        secrets = {"ROOT_ACCESS_KEY": _S3_KEY, "ROOT_SECRET_KEY": _S3_SECRET}
        with _process([*command, *backend], folder, port, secrets):
            yield f"http://127.0.0.1:{port}"


def _program(name: str) -> str:
    program = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:{Path.home() / 'go/bin'}")
    if program is None:
        raise LoadError(f"{name} is not installed")
    return program


def _sign(endpoint: str, operation: str, key: str) -> str:
    client = botocore.session.Session().create_client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=_S3_KEY,
        aws_secret_access_key=_S3_SECRET,
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )
    url: str = client.generate_presigned_url(operation, {"Bucket": _BUCKET, "Key": key}, ExpiresIn=86_400)
    return url


def _put(url: str, content: bytes) -> None:
    parts = urlsplit(url)
    status, body = _get(url, Request("PUT", f"{parts.path}?{parts.query}" if parts.query else parts.path, (), content))
    if status not in {200, 201, 204}:
        raise LoadError(f"PUT {url} is {status}: {body[:200]!r}")


def _print_play(kind: str, played: dict[str, Played]) -> None:
    print(f"\n{kind}, {_MEDIA_BYTES / 1e6:.0f} MB files, {CONNECTIONS} connections:\n")
    _print_row("", "MB/s", "first byte p50 ms", "p95 ms", "whole file p50 ms", "plays")
    _print_row("---", *["---:"] * 5)
    for name, side in played.items():
        first, last = sorted(side.first), sorted(side.last)
        times = [first[len(first) // 2], first[len(first) * 95 // 100], last[len(last) // 2]]
        _print_row(name, f"{side.rate:.0f}", *(f"{1000 * time_:.1f}" for time_ in times), str(len(last)))
    service = played["service"]
    for name, side in played.items():
        if name.startswith("nginx"):
            first_byte = statistics.median(service.first) / statistics.median(side.first)
            _print_row(f"service to {name}", f"{service.rate / side.rate:.2f}", f"{first_byte:.2f}", "", "", "")
    wanted = {"WebDAV": "1.0", "S3": "0.8"}[kind]
    print(f"\nWanted: rate at least {wanted} times nginx's, median time to the first byte at most 2 times.")


# --- migrate ------------------------------------------------------------------------------------------------


async def migrate(stage: Stage, options: argparse.Namespace) -> None:
    """A whole migration from schema v1 beside bare copies with the Elasticsearch client's own helpers."""
    # As the scripts do; it helps the helpers too.
    collect_rarely()
    sample = Sample(CONTACT_CENTER, REGION)
    old = await create_v1_index(stage.client, stage.settings, CONTACT_CENTER)
    loader = Loader(
        stage.client,
        old,
        lambda _, recording: v1_document(recording),
        to_id=lambda _, recording: str(recording["id"]),
        is_alias=False,
    )
    await stage.load(loader, sample, options.recordings, "schema v1")
    rates: dict[str, list[float]] = {}
    for number in range(options.rounds + 1):
        if number == 1:  # the first round was for the Java compiler
            rates.clear()
        await stage.settle()
        rates.setdefault(_MIGRATION, []).append(await _migrated(stage, old, rates))
        await stage.settle()
        rates.setdefault(_V1_COPY, []).append(await _helpers_copy(stage, old, v1_schema()))
        full = await _full_documents(stage, old)
        await stage.settle()
        rates.setdefault(_V2_COPY, []).append(await _helpers_copy(stage, full, load_schema("recordings")))
        await stage.client.indices.delete(index=full)
    print()
    _print_row("", "documents/s, median", "of them the slowest", "migration beside it")
    _print_row("---", *["---:"] * 3)
    ours = statistics.median(rates[_MIGRATION])
    for what, measured in rates.items():
        median = statistics.median(measured)
        _print_row(what, f"{median:.0f}", f"{min(measured):.0f}", f"{ours / median:.2f}")
    print("\nWanted: at least 0.8.")


_MIGRATION = "migration, all of it: copy, verify, catch up, swap"
_COPYING = "migration, copying alone"
_V1_COPY = "helpers: the v1 documents into an index of schema v1"
_V2_COPY = "helpers: the v2 documents into an index of schema v2"


async def _migrated(stage: Stage, old: str, rates: dict[str, list[float]]) -> float:
    """Documents a second, and those of the copying alone into `rates`. The old state is there again afterwards."""
    await create_indices(stage.client, stage.settings)
    phases: dict[str, float] = {}

    @contextmanager
    def timed(_total: int, what: str) -> Iterator[Callable[[int], object]]:
        begun = time.perf_counter()
        yield lambda _: None
        phases[what] = time.perf_counter() - begun

    async with acquire_and_recover(stage.client, stage.settings, "recordings") as lease:
        current = await current_index(stage.client, alias(stage.settings, "recordings"))
        migration = Migration(
            stage.client,
            stage.settings,
            "recordings",
            sources=[V1Recordings(old, CONTACT_CENTER), V2Recordings(current)],
            options=MigrationOptions(allow_rejects=True),
            progress=timed,
        )
        begun = time.perf_counter()
        report = await migration.run(lease, current)
        seconds = time.perf_counter() - begun
        rates.setdefault(_COPYING, []).append(report.read / phases["copying"])
        await roll_back(stage.client, stage.settings, lease, "recordings")
    await stage.client.indices.delete(index=report.target)
    return report.read / seconds


async def _helpers_copy(stage: Stage, old: str, schema: dict[str, Any]) -> float:
    """Documents a second of `scan` and `bulk`, as they come, into an index in the state that fills fastest."""
    target = stage.index("copy")
    settings = {**schema.get("settings", {}), "index.number_of_replicas": 0, "index.refresh_interval": "-1"}
    await stage.client.indices.create(index=target, mappings=schema["mappings"], settings=settings)
    begun = time.perf_counter()
    actions = (
        {"_op_type": "index", "_index": target, "_id": hit["_id"], "_source": hit["_source"]}
        async for hit in async_scan(stage.client, index=old, size=_BATCH, request_timeout=_START_SECONDS)
    )
    copied, _ = await async_bulk(stage.client, actions)
    await stage.client.indices.refresh(index=target)
    seconds = time.perf_counter() - begun
    await stage.client.indices.delete(index=target)
    return int(copied) / seconds


async def _full_documents(stage: Stage, old: str) -> str:
    """An index whose `_source` is all of each v2 document, so that a copy of it needs no transformation."""
    index = stage.index("full")
    schema = load_schema("recordings")
    mappings = {key: value for key, value in schema["mappings"].items() if key != "_source"}
    await stage.client.indices.create(
        index=index, mappings=mappings, settings={**schema["settings"], "index.number_of_replicas": 0}
    )

    async def actions() -> AsyncIterator[dict[str, Any]]:
        async for hit in async_scan(stage.client, index=old, size=_BATCH, request_timeout=_START_SECONDS):
            with suppress(CannotTransform):
                _id, document = V1Recordings(old, CONTACT_CENTER).transform(hit)
                yield {"_op_type": "index", "_index": index, "_id": _id, "_source": document}

    await async_bulk(stage.client, actions())
    await stage.client.indices.refresh(index=index)
    return index


# --- The command line ---------------------------------------------------------------------------------------


def _print_machine(stage: Stage) -> None:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    print(f"\n`{shlex.join(['scripts/bench.py', *sys.argv[1:]])}`\n")
    print(f"{os.cpu_count()} cores, {memory:.0f} GiB memory, {platform.system()} {platform.machine()}; ", end="")
    libraries = ", ".join(f"{name} {version(name)}" for name in ("uvicorn", "starlette", "elasticsearch", "msgspec"))
    node = "given Elasticsearch" if os.environ.get("RECALL_ELASTICSEARCH_URL") else f"heap {NODE_HEAP}"
    print(f"Python {platform.python_version()}, {libraries}; Elasticsearch {stage.version} ({node})")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        run: Callable[[Stage, argparse.Namespace], Awaitable[None]], rounds: int, recordings: int = 200_000
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(run.__name__, help=run.__doc__, description=run.__doc__)
        command.set_defaults(run=run)
        if run is not play:
            command.add_argument("--recordings", type=int, default=recordings)
        command.add_argument("--rounds", type=int, default=rounds, help=f"not counting warm-up (default: {rounds})")
        return command

    command = add(search, rounds=4)
    command.add_argument("--seconds", type=float, default=10.0, help="for one side in one round (default: 10)")
    command.add_argument("--questions", type=int, default=21_000, help="different ones (default: 21,000)")
    command.add_argument("--kind", default="", help="only questions whose name in the table holds this text")
    command.add_argument("--check", type=int, default=140, help="questions to compare beforehand (default: 140)")
    add(ingest, rounds=5, recordings=5_000)
    add(migrate, rounds=3)
    command = add(wildcard, rounds=15)
    # A fresh node takes some thousand searches until Java has compiled what they use.
    command.add_argument("--warm-up", type=int, default=10, help="rounds beforehand (default: 10)")
    command.add_argument("--batch", type=int, default=50, help="searches in one request (default: 50)")
    command = add(play, rounds=4)
    command.add_argument("--seconds", type=float, default=5.0, help="for one side in one round (default: 5)")
    command.add_argument("--kind", default="", help="only this storage: WebDAV or S3")
    return parser.parse_args()


def main() -> None:
    """The command line."""
    options = _options()
    try:
        with _elasticsearch() as url:
            uvloop.run(_on_stage(url, lambda stage: options.run(stage, options)))
    except (DistributionError, NodeError, LoadError, RecallError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("interrupted")


if __name__ == "__main__":
    main()
