"""`recall sweep`, and `scripts/sweep_media.py`."""

import asyncio
import json
import logging
import sys
from contextlib import AsyncExitStack, closing

import click
from prometheus_client import CollectorRegistry

from app import codec
from app.audit import AuditLog
from app.cli.failures import configured, first_objects_missing, some_objects_missing
from app.cli.framework import Command
from app.cli.options import ABOUT_SETTINGS
from app.lifecycle.deletion import SweepResult
from app.media.missing import MissingMedia
from app.progress import progress
from app.recordings.dates import format_instant
from app.services import open_services
from app.settings import Settings
from app.store.client import connect
from app.store.journal import DeletionJournal, MediaDeletion


@click.command(
    "sweep", cls=Command, short_help="Delete media objects that deletions left behind.", epilog=ABOUT_SETTINGS
)
@click.option("--dry-run", is_flag=True, help="List the media objects as lines of JSON and delete nothing.")
@click.option(
    "--missing-media-ok",
    is_flag=True,
    help="Go on if the first media objects of a storage are all missing, and count them as deleted.",
)
def command(*, dry_run: bool, missing_media_ok: bool) -> None:
    """Delete the media objects that deletions of recordings left behind.

    The service also tries them again by itself, but later.
    """
    with configured("interrupted; another run goes on with what is left", level=logging.WARNING) as settings:
        if dry_run:
            click.echo(f"{asyncio.run(_show(settings))} media objects are to be deleted", err=True)
            return
        missing = MissingMedia(believes_all=missing_media_ok)
        swept = asyncio.run(_sweep(settings, missing))
    click.echo(f"deleted {swept.deleted}, still needed {swept.needed}, failed {swept.failed}")
    if missing.suspect is not None:
        sys.exit(first_objects_missing(missing.suspect))
    if missing.doubted:
        click.echo(some_objects_missing(missing.doubted), err=True)
    if swept.failed:
        sys.exit(1)


async def _sweep(settings: Settings, missing: MissingMedia) -> SweepResult:
    async with AsyncExitStack() as stack:
        audit = stack.enter_context(closing(AuditLog(settings.audit_log)))
        services = await stack.enter_async_context(open_services(settings, audit, CollectorRegistry()))
        total = await DeletionJournal(services.client, settings).count()
        advance = stack.enter_context(progress(total, "sweeping", "media objects"))
        return await services.deletion.judging(missing).sweep(
            only_due=False, advance=advance, is_over=lambda: missing.suspect is not None
        )


async def _show(settings: Settings) -> int:
    """Prints the entries of the journal, and returns how many there are."""
    count = 0
    async with connect(settings) as client:
        async for batch in DeletionJournal(client, settings).entries():
            for entry in batch:
                click.echo(_line(entry))
            count += len(batch)
    return count


def _line(entry: MediaDeletion) -> str:
    """Returns JSON in ASCII, so that what clients once posted cannot drive a terminal."""
    return json.dumps(
        {
            "contactCenter": entry.contact_center,
            "resource": entry.resource,
            "recordingId": entry.recording_id,
            "mediaId": entry.media_uuid,
            "mediaDescriptor": codec.decode(entry.descriptor),
            "created": format_instant(entry.created),
            "attempts": entry.attempts,
        }
    )
