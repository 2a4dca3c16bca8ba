"""`recall sample`, and `scripts/load_sample.py`."""

import asyncio
import logging
import sys
import time

import click

from app.cli.failures import configured
from app.cli.framework import Command
from app.cli.options import ABOUT_SETTINGS
from app.cli.types import CONTACT_CENTER, POSITIVE, TRIMMED
from app.embedded.loader import Loader, LoadError, Sample, load_sample, load_sample_v1
from app.embedded.sample import DEMO_CONTACT_CENTER


@click.command("sample", cls=Command, short_help="Load made-up recordings.", epilog=ABOUT_SETTINGS)
@click.argument("count", metavar="N", type=POSITIVE)
@click.option("--seed", metavar="N", type=int, default=1, help="Another seed makes other recordings (default: 1).")
@click.option(
    "--contact-center",
    metavar="ID",
    type=CONTACT_CENTER,
    default=DEMO_CONTACT_CENTER,
    help="Their contact center (default: that of the demo).",
)
@click.option("--region", metavar="NAME", type=TRIMMED, help="Their region (default: as configured).")
@click.option("--batch", metavar="N", type=POSITIVE, default=500, help="Recordings in a bulk request (default: 500).")
@click.option(
    "--schema",
    type=click.Choice(["v1", "v2"]),
    default="v2",
    help="v1 stores them as an earlier deployment did, to try a migration (default: v2).",
)
def command(*, count: int, seed: int, contact_center: str, region: str | None, batch: int, schema: str) -> None:
    """Load N made-up recordings, always the same for one seed.

    Recordings that exist already stay as they are.
    """
    # A failure is reported once, below. The libraries' warnings about every attempt would bury it.
    interrupted = "interrupted; what was stored stays, and another run loads the rest"
    with configured(interrupted, level=logging.CRITICAL, expected=(LoadError,)) as settings:
        sample = Sample(contact_center, region or settings.region, seed)
        begun = time.monotonic()
        load = load_sample_v1 if schema == "v1" else load_sample
        loader = asyncio.run(load(settings, sample, count, batch))
    _report(loader, count, time.monotonic() - begun)
    if loader.stored + loader.already_there != count:
        sys.exit(1)


def _report(loader: Loader, count: int, seconds: float) -> None:
    click.echo(
        f"{count} recordings: {loader.stored} stored, {loader.already_there} already there, "
        f"{loader.refused.total()} refused, in {seconds:.1f} s ({count / seconds:.0f}/s)"
    )
    for kind, number in loader.refused.most_common():
        click.echo(f"refused {number} times: {kind}: {loader.examples[kind]}", err=True)
