"""`bench.py operations`: what a contact center's requests take beside another one's operation on many recordings."""

import asyncio
import time
from functools import partial
from statistics import median
from typing import Any

import click
import msgspec

from app import codec
from app.cli.framework import Command
from app.embedded.loader import LoadError
from benchmarks import stage as stages
from benchmarks.attacks import ATTACKER, OPS, ClientConnection, Target, connected
from benchmarks.client import OPS_USER, Request, authorization
from benchmarks.isolation import KINDS, Measurement, load, storages, victim_of
from benchmarks.stage import REGION, Stage, on_stage, service
from benchmarks.tables import print_row

_PATH = f"{OPS}/{ATTACKER}/recording-operations"
_HEADERS = (authorization(OPS_USER), ("Content-Type", "application/json"))
_SETTLE_SECONDS = 1.0


@click.command("operations", cls=Command)
@stages.recordings(20_000)
@stages.seconds(8)
@stages.rounds(3)
def command(**options: Any) -> None:
    """Ask in one contact center while an operation protects another one's recordings."""
    on_stage(partial(operations, **options))


async def operations(stage: Stage, *, recordings: int, seconds: float, rounds: int) -> None:
    """Measures a client alone and beside an operation, in turn. One process of the service does both."""
    p95: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    rates: list[float] = []
    with storages() as (configured, media, slow):
        await load(stage, recordings, large=0)
        with service(msgspec.structs.replace(stage.settings, storage=configured)) as url:
            target = Target((url,), REGION, f"{media}/short", f"{media}/long", slow)
            async with victim_of(target) as victim, connected(url) as connection:
                for number in range(rounds + 1):
                    alone = _whole(await victim.measure(stage, seconds))
                    operation = await _start(connection)
                    await asyncio.sleep(_SETTLE_SECONDS)
                    done, begun = (await _read(connection, operation))["succeeded"], time.monotonic()
                    beside = _whole(await victim.measure(stage, seconds))
                    now = await _read(connection, operation)
                    if now["state"] != "running":
                        raise LoadError(f"the operation on {recordings} recordings was over: measure with more")
                    if number:
                        rates.append((now["succeeded"] - done) / (time.monotonic() - begun))
                        for kind in KINDS:
                            both = (side.measured.percentile(95, kind) for side in (alone, beside))
                            p95[kind].append((next(both), next(both)))
                    await connection.ask(Request("DELETE", f"{_PATH}/{operation}", _HEADERS))
    print_row("request", "alone p95 ms", "beside the operation", "ratio (wanted: at most 2)")
    print_row("---", *["---:"] * 3)
    for kind, values in p95.items():
        alone_ms, beside_ms = (median(column) for column in zip(*values, strict=True))
        print_row(kind, f"{alone_ms:.1f}", f"{beside_ms:.1f}", f"{median(b / a for a, b in values):.2f}")
    print(f"\nThe operation did {median(rates):.0f} recordings a second.")


def _whole(measurement: Measurement) -> Measurement:
    if measurement.refused.total():
        raise LoadError(f"the client is refused: {measurement.refused}")
    return measurement


async def _start(connection: ClientConnection) -> str:
    """Starts an operation on what earlier rounds have left; returns its id."""
    criteria = {"startTime": "0", "nonDelete": "false"}
    body = codec.encode({"operationName": "applyNonDelete", "criteria": criteria})
    status, answer = await connection.ask(Request("POST", _PATH, _HEADERS, body))
    if status != 202:
        raise LoadError(f"the operation is {status}: {answer[:200]!r}")
    return str(codec.decode(answer)["id"])


async def _read(connection: ClientConnection, operation: str) -> dict[str, Any]:
    _, answer = await connection.ask(Request("GET", f"{_PATH}/{operation}", _HEADERS))
    return dict(codec.decode(answer)["operation"])
