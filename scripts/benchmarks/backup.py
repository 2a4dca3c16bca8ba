"""`bench.py backup`: a backup of recordings from S3 to a folder, and `rclone copy` of the same files."""

import os
import random
import resource
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import botocore.session
import click
import msgspec
from botocore.config import Config

from app.cli.framework import Command
from app.cli.types import POSITIVE
from app.embedded.loader import LoadError, Sample
from app.embedded.servers import find_program, go_folders, inherited_environment, server_folder, write_settings
from app.progress import progress
from app.recordings.merge import merge
from app.recordings.model import parse_recording
from app.settings import S3Config, StorageConfig
from app.store.documents import document_id, to_document
from app.store.indices import alias, create_indices
from benchmarks import stage as stages
from benchmarks.servers import versitygw
from benchmarks.stage import CONTACT_CENTER, REGION, Stage, on_stage
from benchmarks.tables import print_row

_BUCKET, _KEY, _SECRET = "recordings", "bench", "bench-secret"
_SCRIPT = Path(__file__).parents[1] / "backup.py"
_PARALLEL = "16"


@click.command("backup", cls=Command)
@stages.recordings(2_000)
@stages.rounds(3)
@click.option("--bytes", "size", metavar="N", type=POSITIVE, default=500_000, help="Of each file (default: 500 kB).")
def command(**options: Any) -> None:
    """Back up recordings, beside `rclone copy` of their media files.

    Both copy from the same storage to a folder, sixteen files at a time. It needs versitygw and rclone.
    """
    on_stage(partial(backup, **options))


async def backup(stage: Stage, *, recordings: int, rounds: int, size: int) -> None:
    """Copies everything with both in turn, each time to a new folder. A second run of each finds nothing to do.

    No folder is removed before the end. For half a minute ext4 does not use inodes again that were freed, and looks for
    others, which a run would pay for.
    """
    rclone = shutil.which("rclone", path=str(Path(sys.executable).parent)) or find_program("rclone", *go_folders())
    if rclone is None:
        raise LoadError("rclone is missing")
    with versitygw(_BUCKET, _KEY, _SECRET) as s3, server_folder() as folder:
        await create_indices(stage.client, stage.settings)
        await _load(stage, s3, recordings, size)
        storage = StorageConfig(s3=(S3Config((_BUCKET,), s3, "us-east-1", _KEY, _SECRET),))
        configuration = folder / "recall.toml"
        write_settings(
            msgspec.structs.replace(stage.settings, storage=storage, audit_log=str(folder / "audit.log")), configuration
        )
        sides: dict[str, tuple[list[Any], dict[str, str]]] = {
            "recall backup": (
                [sys.executable, _SCRIPT, "--contact-center", CONTACT_CENTER, "--parallel", _PARALLEL],
                {"RECALL_CONFIG": str(configuration)},
            ),
            "rclone copy": (
                [rclone, "--config", "/dev/null", "--transfers", _PARALLEL, "copy", f":s3:{_BUCKET}"],
                {
                    "RCLONE_S3_PROVIDER": "Other",
                    "RCLONE_S3_ENDPOINT": s3,
                    "RCLONE_S3_ACCESS_KEY_ID": _KEY,
                    "RCLONE_S3_SECRET_ACCESS_KEY": _SECRET,
                },
            ),
        }
        seconds: dict[str, list[tuple[float, ...]]] = {name: [] for name in sides}
        for number in range(rounds + 1):
            for name, (arguments, environment) in sides.items():
                copying = [*arguments, folder / f"{name.partition(' ')[0]}-{number}"]
                os.sync()
                (first, used), (again, _) = _timed(copying, environment), _timed(copying, environment)
                if number:
                    seconds[name].append((first, used, again))
                told = f"round {number}, {name}: {first:.1f} s, {used:.1f} s of processor, again {again:.1f} s"
                print(told, file=sys.stderr, flush=True)
        _print(seconds, recordings, size)


async def _load(stage: Stage, s3: str, recordings: int, size: int) -> None:
    """Stores recordings with one media file each. A part of each file is its own."""
    client = botocore.session.Session().create_client(
        "s3",
        endpoint_url=s3,
        region_name="us-east-1",
        aws_access_key_id=_KEY,
        aws_secret_access_key=_SECRET,
        config=Config(s3={"addressing_style": "path"}),
    )
    content = random.Random(1).randbytes(size)
    index = alias(stage.settings, "recordings")
    operations: list[dict[str, Any]] = []
    with progress(recordings, "media files") as advance:
        for number, recording in enumerate(Sample(CONTACT_CENTER, REGION).recordings(0, recordings)):
            key = f"calls/{number:06}.wav"
            client.put_object(Bucket=_BUCKET, Key=key, Body=str(number).encode() + content, ContentType="audio/wav")
            descriptor = {"storage": "awsS3", "path": key, "data": {"bucket": _BUCKET}}
            media = {**recording["mediaFiles"][0], "mediaDescriptor": descriptor, "type": "audio/wav"}
            stored = merge(None, parse_recording({**recording, "mediaFiles": [media]}))
            operations += [
                {"index": {"_id": document_id(CONTACT_CENTER, REGION, stored["id"])}},
                to_document(CONTACT_CENTER, stored),
            ]
            if len(operations) >= 2 * stages.BATCH or number == recordings - 1:
                answer = await stage.client.bulk(index=index, operations=operations, refresh=True)
                if answer.body["errors"]:
                    raise LoadError("not all recordings were stored")
                operations = []
            advance(1)


def _timed(arguments: list[Any], environment: dict[str, str]) -> tuple[float, float]:
    """Returns how many seconds a command takes, and how many of a processor. Raises LoadError if it fails."""
    whole = {**inherited_environment(), **environment}
    whole.pop("PYTHONDONTWRITEBYTECODE", None)  # or each start compiles everything
    begun, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([*map(str, arguments)], env=whole, capture_output=True, check=False)
    if done.returncode:
        raise LoadError(f"{arguments[0]} failed: {done.stderr.decode()[-1000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return time.perf_counter() - begun, used


def _print(seconds: dict[str, list[tuple[float, ...]]], recordings: int, size: int) -> None:
    print(f"\n{recordings:,} recordings with a file of {size / 1e3:g} kB each, {_PARALLEL} at a time, medians:\n")
    print_row("", "s", "files/s", "MB/s", "s of processor", "again, nothing to do: s")
    print_row("---", *["---:"] * 5)
    medians = {name: [median(column) for column in zip(*rows, strict=True)] for name, rows in seconds.items()}
    for name, (first, used, again) in medians.items():
        rate = recordings / first
        print_row(name, f"{first:.1f}", f"{rate:.0f}", f"{rate * size / 1e6:.0f}", f"{used:.1f}", f"{again:.1f}")
    ours, theirs = medians["recall backup"], medians["rclone copy"]
    print_row("ratio of the rates (wanted: 0.7)", f"{theirs[0] / ours[0]:.2f}", "", "", "", "")
    print_row("ratio of the processor seconds (wanted: 1.4)", "", "", "", f"{ours[1] / theirs[1]:.2f}", "")
