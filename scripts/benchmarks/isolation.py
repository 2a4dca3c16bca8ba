"""`bench.py isolation`: what one contact center's requests take while another one attacks."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from urllib.parse import quote

import click
import msgspec

from app import codec
from app.cli.framework import Command
from app.embedded.loader import LoadError, Sample
from app.embedded.sample import BUCKETS, WEBDAV_URLS, sample_recordings
from app.settings import S3Config, StorageConfig, WebDavConfig
from benchmarks import stage as stages
from benchmarks.client import OPS_USER, Request, authorization, fetch
from benchmarks.load import Measured
from benchmarks.stage import CONTACT_CENTER, REGION, Stage, on_stage, service
from benchmarks.tables import print_row

_OTHER = "the other contact center"
_OPS = "/api/v2/ops/contact-centers"
_MANY = 1_000_000


@click.command("isolation", cls=Command)
@stages.recordings(50_000)
@stages.seconds(10)
def command(**options: Any) -> None:
    """Ask in one contact center while another one attacks."""
    on_stage(partial(isolation, **options))


async def isolation(stage: Stage, *, recordings: int, seconds: float) -> None:
    """Measures a well-behaved client alone, and beside each attack."""
    await stage.load_ours(Sample(CONTACT_CENTER, REGION), recordings)
    await stage.settle()
    print_row("attack", "request", "p95 ms", "of alone", "refused", "answers")
    print_row("---", "---", *["---:"] * 4)
    # Never contacted, but a POST with media outside configured storage is refused.
    storages = StorageConfig(tuple(map(WebDavConfig, WEBDAV_URLS)), (S3Config(BUCKETS),))
    with service(msgspec.structs.replace(stage.settings, storage=storages)) as url:
        alone, _ = _measure(url, None, seconds)
        for name, (attack, clients) in _ATTACKS.items():
            measured, refused = _measure(url, attack, seconds, clients)
            for kind in alone.latencies:
                p95 = measured.percentile(95, kind)
                ratio = f"{p95 / alone.percentile(95, kind):.1f}"
                print_row(name, kind, f"{p95:.1f}", ratio, str(refused), str(len(measured.latencies[kind])))


def _walks() -> Request:
    words = quote(" ".join(f"*{letter}*{letter}*" for letter in "ae"))
    return Request("GET", f"/api/v2/recordings?userData={words}", (authorization(),))


def _long_value() -> Request:
    posted = _recording(CONTACT_CENTER)
    posted["eventHistory"][0]["data"] = {"value": "x" * _MANY}
    return _post(CONTACT_CENTER, posted)


_ATTACKS: dict[str, tuple[Callable[[], Request], int]] = {
    "none, again": (lambda: Request("GET", "/health/live"), 1),
    "40 clients search with walks through a dictionary": (_walks, 40),
    "8 clients post a value of 1 MB": (_long_value, 8),
}


def _recording(contact_center: str) -> dict[str, Any]:
    (posted,) = sample_recordings(1, seed=7, region=REGION, contact_center=contact_center)
    media = posted["mediaFiles"][0]
    posted["mediaFiles"] = [{**media, "mediaDescriptor": {"storage": "webDAV", "path": f"{WEBDAV_URLS[0]}/a.wav"}}]
    return posted


def _post(contact_center: str, posted: dict[str, Any]) -> Request:
    headers = (authorization(OPS_USER), ("Content-Type", "application/json"))
    return Request("POST", f"{_OPS}/{quote(contact_center)}/recordings", headers, codec.encode(posted))


def _measure(url: str, attack: Callable[[], Request] | None, seconds: float, clients: int = 0) -> tuple[Measured, int]:
    """Returns what the well-behaved client's requests took, and how many of them were refused."""
    measured, refused, over = Measured(), 0, threading.Event()

    def attacker() -> None:
        assert attack is not None
        request = attack()
        while not over.is_set():
            fetch(url, request)

    posted = _recording(_OTHER)
    path, headers = f"{_OPS}/{quote(_OTHER)}/recordings", (authorization(OPS_USER),)
    requests = {
        "post": _post(_OTHER, posted),
        "read": Request("GET", f"{path}/{quote(posted['id'], safe='')}", headers),
        "search": Request("GET", f"{path}?startTime=0", headers),
    }
    with ThreadPoolExecutor(clients or 1) as pool:
        running = [pool.submit(attacker) for _ in range(clients)]
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for kind, request in requests.items():
                begun = time.perf_counter()
                status, body = fetch(url, request)
                measured.latencies.setdefault(kind, []).append(time.perf_counter() - begun)
                refused += status not in {200, 201}
                if attack is None and refused:
                    raise LoadError(f"a {kind} of the client alone is {status}: {body[:200]!r}")
        over.set()
        for one in running:
            one.result()
    return measured, refused
