"""`recall restore`, and `scripts/restore.py`."""

import logging
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import click
import msgspec
import uvloop
from prometheus_client import CollectorRegistry

from app.audit import AuditLog
from app.cli import options
from app.cli.failures import configured
from app.cli.files import write_report
from app.cli.framework import Command, once
from app.cli.long_work import patient, show_failures, stopping
from app.cli.options import ABOUT_SETTINGS
from app.cli.types import CONTACT_CENTER, POSITIVE
from app.errors import RecallError
from app.lifecycle.backup import PARALLEL, Failure
from app.lifecycle.restore import Restore, RestoreCounts, RestoreTask
from app.media.archives import ArchiveFailed, open_archive
from app.media.uploads import Uploads
from app.progress import progress
from app.recordings.dates import format_instant
from app.recordings.mapping import Destination
from app.services import open_services
from app.settings import Settings
from app.store.journal import now_milliseconds

_INTERRUPTED = "interrupted; another run goes on with what is left"


class Report(msgspec.Struct, rename="camel"):
    """The file of `--report`. `failures` has the first 1,000."""

    parameters: dict[str, Any]
    started: str
    counts: RestoreCounts = msgspec.field(default_factory=RestoreCounts)
    failures: list[Failure] = []
    ended: str | None = None
    completed: bool = False
    error: str | None = None

    def write(self, path: Path) -> None:
        """Writes the file as JSON, or ends the process with an error."""
        attributes = msgspec.to_builtins(self)
        attributes |= attributes.pop("counts")
        write_report(path, attributes)


@click.command("restore", cls=Command, epilog=ABOUT_SETTINGS, short_help="Bring back what a backup has.")
@click.argument("place", metavar="FOLDER|s3://BUCKET/PREFIX")
@once("--contact-center", metavar="ID", type=CONTACT_CENTER, help="Only the recordings of this one, by its old id.")
@once(
    "--mapping",
    metavar="FILE",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Other contact centers, regions and storages, as TOML (docs/operations.md).",
)
@click.option("--merge", is_flag=True, help="Add to recordings that exist what only the backup has.")
@click.option("--dry-run", is_flag=True, help="Compare, and print what would be restored; change nothing.")
@once("--parallel", metavar="N", type=POSITIVE, help="Recordings that are restored concurrently (default: 16).")
@once(
    "--report",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write the result to a file, as JSON.",
)
@options.patience
@click.pass_context
def command(
    context: click.Context,
    /,
    *,
    place: str,
    contact_center: str | None,
    mapping: Path | None,
    merge: bool,
    dry_run: bool,
    parallel: int | None,
    report: Path | None,
    patience: int,
) -> None:
    """Bring back recordings with their labels, protection and media, from a backup that `recall backup` has made.

    What exists and equals is skipped, so another run goes on where one was interrupted. A recording that exists and
    differs is listed and left. A media object is never overwritten, and one that is damaged in the backup not stored.

    The exit status is 0 if everything that the backup has is there.
    """
    try:
        destination = msgspec.toml.decode(mapping.read_bytes(), type=Destination) if mapping else Destination()
    except (OSError, ValueError, RecursionError) as error:
        raise click.UsageError(f"argument --mapping: {error}", context) from None
    with configured(level=logging.ERROR) as settings, closing(AuditLog(settings.audit_log)) as audit:
        result = Report(
            parameters={
                "place": place,
                "contactCenter": contact_center,
                "mapping": msgspec.to_builtins(destination),
                "merge": merge,
                "dryRun": dry_run,
            },
            started=format_instant(now_milliseconds()),
        )
        task = RestoreTask(destination, contact_center, merge, dry_run, parallel or PARALLEL, patience)
        _Run(result, report).run(patient(settings), task, audit)


class _Run:
    """One run of the command: it restores and reports."""

    def __init__(self, report: Report, file: Path | None) -> None:
        self._report = report
        self._file = file

    def run(self, settings: Settings, task: RestoreTask, audit: AuditLog) -> None:
        """Ends the process with status 1 unless all went well."""
        try:
            uvloop.run(self._restore(settings, task, audit))
        except ArchiveFailed as error:
            self._report.error = str(error)
        except RecallError as error:
            reason = error.__cause__ or error
            self._report.error = f"cannot go on with the Elasticsearch at {settings.elasticsearch_url}: {reason}"
        except KeyboardInterrupt:
            self._report.error = _INTERRUPTED
        self._report.ended = format_instant(now_milliseconds())
        show_failures("not restored", self._report.failures)
        if self._report.error:
            click.echo(self._report.error, err=True)
        if self._file:
            self._report.write(self._file)
        if self._report.error or not self._report.counts.is_complete:
            sys.exit(1)

    async def _restore(self, settings: Settings, task: RestoreTask, audit: AuditLog) -> None:
        """Raises RecallError, ArchiveFailed."""
        place, connections = self._report.parameters["place"], 2 * task.parallel
        async with (
            open_services(settings, audit, CollectorRegistry()) as services,
            open_archive(place, settings.storage.s3, to_write=False, connections=connections) as archive,
            Uploads(settings, connections) as uploads,
        ):
            restore = Restore(
                services.repositories,
                services.labelling,
                services.protection,
                services.storages,
                settings.storage,
                uploads=uploads,
                archive=archive,
                audit=audit,
                task=task,
            )
            self._report.counts, self._report.failures = restore.counts, restore.failures
            begun = time.monotonic()
            try:
                with stopping(restore), progress(0, "restoring") as advance:
                    await restore.run(advance)
                self._report.completed = not restore.is_stopped
                self._report.error = _INTERRUPTED if restore.is_stopped else None
            finally:
                self._summarise(time.monotonic() - begun)

    def _summarise(self, seconds: float) -> None:
        counts = self._report.counts
        click.echo(
            f"{'would be ' if self._report.parameters['dryRun'] else ''}restored {counts.restored}, "
            f"merged {counts.merged}, unchanged {counts.unchanged}, different {counts.different}, "
            f"failed {counts.failed}; media files restored {counts.media_restored} ({counts.bytes / 2**20:.1f} MiB), "
            f"unchanged {counts.media_unchanged}, failed {counts.media_failed}; in {seconds:.1f} s"
        )
