"""`bench.py play`: media files through the service, and through nginx from the same storage."""

import asyncio
import itertools
import random
import selectors
import socket
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import botocore.session
import click
import msgspec
from botocore.config import Config

from app.cli.framework import Command
from app.cli.types import POSITIVE
from app.embedded.loader import LoadError, Sample
from app.recordings.merge import merge
from app.recordings.model import parse_recording
from app.settings import S3Config, StorageConfig, WebDavConfig
from app.store.documents import document_id, to_document
from app.store.indices import alias, create_indices
from benchmarks import stage as stages
from benchmarks.client import Request, authorization, fetch, put
from benchmarks.load import Measured, load
from benchmarks.servers import nginx_proxy, nginx_webdav, versitygw
from benchmarks.stage import CONTACT_CENTER, REGION, Stage, on_stage, service
from benchmarks.tables import print_row


@click.command("play", cls=Command)
@stages.rounds(4)
@stages.seconds(5)
@click.option("--players", metavar="N", type=POSITIVE, default=8, help="How many play concurrently (default: 8).")
@click.option("--bytes", "size", metavar="N", type=POSITIVE, default=10_000_000, help="Of each file (default: 10 MB).")
@click.option("--kind", metavar="TEXT", default="", help="Only storages with this in their name: WebDAV, TLS or S3.")
def command(**options: Any) -> None:
    """Play media through the service, and through nginx.

    Both read from the same storage. It needs nginx and versitygw.
    """
    on_stage(partial(play, **options))


_MEDIA_FILES = 8  # few enough to stay in memory
_LOOK_UPS = 10_000
_TLS = "WebDAV over TLS"
_BUCKET = "recordings"
_S3_KEY, _S3_SECRET = "bench", "bench-secret"
# Two extremes of nginx: its defaults, and buffers of the size of our own players' chunks.
_NGINX_TUNED = "proxy_buffers 16 64k; proxy_buffer_size 64k; proxy_busy_buffers_size 128k; proxy_max_temp_file_size 0;"


@dataclass
class Played:
    """The result of one side: for each play, the seconds to the first and to the last byte of the body.

    `size` is the number of bytes of each file.
    """

    size: int
    seconds: float = 0.0
    first: list[float] = field(default_factory=list)
    last: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Returns the rate in MB/s."""
        return len(self.last) * self.size / 1e6 / self.seconds


async def play(stage: Stage, *, rounds: int, seconds: float, players: int, size: int, kind: str) -> None:
    """Media files through the service, and through nginx from the same storage."""
    names = [f"{number}.wav" for number in range(_MEDIA_FILES)]
    content = {name: random.Random(name).randbytes(size) for name in names}
    with ExitStack() as servers:
        webdav = servers.enter_context(nginx_webdav())
        s3 = servers.enter_context(versitygw(_BUCKET, _S3_KEY, _S3_SECRET))
        descriptors: dict[str, list[dict[str, Any]]] = {"WebDAV": [], _TLS: [], "S3": []}
        direct: dict[str, list[str]] = {"WebDAV": [], _TLS: [], "S3": []}
        for name, file in content.items():
            put(f"{webdav.url}/{name}", file)
            for storage_kind, base in (("WebDAV", webdav.url), (_TLS, webdav.tls_url)):
                descriptors[storage_kind].append({"storage": "webDAV", "path": f"{base}/{name}"})
                direct[storage_kind].append(f"{base}/{name}")
            descriptors["S3"].append({"storage": "awsS3", "path": name, "data": {"bucket": _BUCKET}})
            direct["S3"].append(_sign(s3, "get_object", name))
            put(_sign(s3, "put_object", name), file)
        storage = StorageConfig(
            webdav=(WebDavConfig(webdav.url), WebDavConfig(webdav.tls_url, ca_file=str(webdav.ca_file))),
            s3=(S3Config((_BUCKET,), s3, "us-east-1", _S3_KEY, _S3_SECRET),),
        )
        await create_indices(stage.client, stage.settings)
        app = servers.enter_context(service(msgspec.structs.replace(stage.settings, storage=storage)))
        for storage_kind, stored in descriptors.items():
            if kind not in storage_kind:
                continue
            origin = urlsplit(direct[storage_kind][0])
            paths = [url.partition(origin.netloc)[2] for url in direct[storage_kind]]
            plays = await _store_recordings(stage, storage_kind, stored)
            sides = {"service": (app, plays)}
            ca_file = webdav.ca_file if storage_kind == _TLS else None
            for side, tuning in (("nginx", ""), ("nginx, tuned", _NGINX_TUNED)):
                proxy = servers.enter_context(nginx_proxy(origin.netloc, players, tuning, ca_file))
                sides[side] = (proxy, paths)
            if ca_file is None:  # the player speaks no TLS
                sides["storage directly"] = (f"http://{origin.netloc}", paths)
            for url, asked in sides.values():
                for path, file in zip(asked, content.values(), strict=True):
                    if fetch(url, _play_request(path)) != (200, file):
                        raise LoadError(f"{url}{path} is not the file")
            await _warm_up_look_up(app, plays)
            played = {name: Played(size) for name in sides}
            await _play_rounds(sides, played, rounds, seconds, players)
            _print_play(storage_kind, played, players)


async def _store_recordings(stage: Stage, kind: str, descriptors: list[dict[str, Any]]) -> list[str]:
    """Stores one recording for each file, in an index of many. Returns the paths to play them."""
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
    # One after the other: concurrent ones would be batched.
    await load(app, requests, Measured(), connections=1)


async def _play_rounds(
    sides: dict[str, tuple[str, list[str]]], played: dict[str, Played], rounds: int, seconds: float, players: int
) -> None:
    """Runs the sides in turn, so that other load on the machine affects all of them.

    Each side ends its last files before the next begins: what a storage still sends would be part of the next turn.
    """
    for number in range(rounds + 1):
        for name, (url, paths) in sides.items():
            side = played[name] if number else Played(played[name].size)
            requests = [_play_request(path) for path in paths]
            await asyncio.to_thread(_play_load, url, requests, seconds, players, side)
            print(f"round {number}, {name}: {side.rate:.0f} MB/s so far", file=sys.stderr, flush=True)


def _play_request(path: str) -> Request:
    return Request("GET", path, (authorization(),))


class _Player:
    """Plays one file after the other over one connection. It costs little, because the kernel discards bodies."""

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
        """Reads the bytes that have arrived. Returns whether they end a file."""
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
        self._left = self._played.size
        return len(body)


def _play_load(url: str, requests: Sequence[Request], seconds: float, players: int, played: Played) -> None:
    """Keeps the connections busy for some time; adds to `played`."""
    address = urlsplit(url)
    assert address.hostname
    assert address.port
    encoded = itertools.cycle([request.encoded(address.netloc) for request in requests])
    buffer = bytearray(1 << 20)
    begun = time.perf_counter()
    with selectors.DefaultSelector() as selector:
        for _ in range(players):
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


def _print_play(kind: str, played: dict[str, Played], players: int) -> None:
    service = played["service"]
    print(f"\n{kind}, files of {service.size / 1e6:g} MB, {players} players:\n")
    print_row("", "MB/s", "first byte p50 ms", "p95 ms", "whole file p50 ms", "plays")
    print_row("---", *["---:"] * 5)
    for name, side in played.items():
        first, last = sorted(side.first), sorted(side.last)
        times = [first[len(first) // 2], first[len(first) * 95 // 100], last[len(last) // 2]]
        print_row(name, f"{side.rate:.0f}", *(f"{1000 * time_:.1f}" for time_ in times), str(len(last)))
    for name, side in played.items():
        if name.startswith("nginx"):
            first_byte = statistics.median(service.first) / statistics.median(side.first)
            print_row(f"service to {name}", f"{service.rate / side.rate:.2f}", f"{first_byte:.2f}", "", "", "")
    wanted = "0.8" if kind == "S3" else "1.0"
    print(f"\nWanted: rate at least {wanted} times nginx's, median time to the first byte at most 2 times.")
