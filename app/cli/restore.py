"""`recall restore`, and `scripts/restore.py`."""

import logging
import time
from contextlib import closing
from pathlib import Path

import click
import msgspec
import uvloop
from prometheus_client import CollectorRegistry

from app.audit import AuditLog
from app.cli import options
from app.cli.failures import configured
from app.cli.framework import Command, once
from app.cli.long_work import INTERRUPTED, CopyReport, patient, run_and_report, stopping
from app.cli.options import ABOUT_SETTINGS
from app.cli.types import CONTACT_CENTER, POSITIVE
from app.lifecycle.backup import PARALLEL
from app.lifecycle.restore import Restore, RestoreCounts, RestoreTask
from app.media.uploads import Uploads
from app.media.zipped import open_archive
from app.progress import progress
from app.recordings.dates import format_instant
from app.recordings.mapping import Destination
from app.services import open_services
from app.settings import Settings
from app.store.journal import now_milliseconds


class RestoreReport(CopyReport[RestoreCounts]):
    """The report of a restore."""

    failed = "not restored"


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
@options.report
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
    differs is listed and left. A media object is never overwritten. One that is damaged in the backup is not stored.

    The exit status is 0 if everything that the backup has is there.
    """
    try:
        destination = msgspec.toml.decode(mapping.read_bytes(), type=Destination) if mapping else Destination()
    except (OSError, ValueError, RecursionError) as error:
        raise click.UsageError(f"argument --mapping: {error}", context) from None
    with configured(level=logging.ERROR) as settings, closing(AuditLog(settings.audit_log)) as audit:
        result = RestoreReport(
            parameters={
                "place": place,
                "contactCenter": contact_center,
                "mapping": msgspec.to_builtins(destination),
                "merge": merge,
                "dryRun": dry_run,
            },
            started=format_instant(now_milliseconds()),
            counts=RestoreCounts(),
        )
        task = RestoreTask(destination, contact_center, merge, dry_run, parallel or PARALLEL, patience)
        _Run(result, report).run(patient(settings), task, audit)


class _Run:
    """One run of the command: it restores and reports."""

    def __init__(self, report: RestoreReport, file: Path | None) -> None:
        self._report = report
        self._file = file

    def run(self, settings: Settings, task: RestoreTask, audit: AuditLog) -> None:
        """Ends the process with status 1 unless all went well."""
        run_and_report(
            lambda: uvloop.run(self._restore(settings, task, audit)),
            self._report,
            self._file,
            settings.elasticsearch_url,
        )

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
                for name in sorted(restore.unused):
                    click.echo(f"note: the mapping has the {name}, and no recording of the backup", err=True)
                self._report.completed = not restore.is_stopped
                self._report.error = INTERRUPTED if restore.is_stopped else None
            finally:
                self._summarise(time.monotonic() - begun)

    def _summarise(self, seconds: float) -> None:
        counts = self._report.counts
        click.echo(
            f"{'would be ' if self._report.parameters['dryRun'] else ''}restored {counts.restored}, "
            f"merged {counts.merged}, unchanged {counts.unchanged}, different {counts.different}, "
            f"failed {counts.failed}; media files restored {counts.media_restored} ({counts.bytes / 2**20:.1f} MiB), "
            f"unchanged {counts.media_unchanged}, failed {counts.media_failed}; "
            f"definitions of labels failed {counts.labels_failed}; in {seconds:.1f} s"
        )
