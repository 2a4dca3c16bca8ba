"""`recall backup`, and `scripts/backup.py`."""

import logging
import sys
import time
from contextlib import closing
from pathlib import Path

import click
import msgspec
import uvloop
from prometheus_client import CollectorRegistry

from app.audit import AuditLog
from app.auth.scope import Scope
from app.cli import options
from app.cli.failures import configured
from app.cli.files import write_report
from app.cli.framework import Command, exclusive, once
from app.cli.long_work import INTERRUPTED, CopyReport, patient, run_and_report, stopping
from app.cli.options import ABOUT_SETTINGS
from app.cli.types import AGE, POSITIVE, Age
from app.errors import RecallError
from app.lifecycle.backup import PARALLEL, Backup, Counts, Task
from app.lifecycle.verification import Verification, verify
from app.media.archives import ArchiveFailed
from app.media.zipped import open_archive
from app.progress import progress
from app.recordings.dates import format_instant
from app.recordings.identity import Resource
from app.search import criteria as search
from app.search.criteria import STARTED_AFTER, Condition, Criteria
from app.services import open_services
from app.settings import Settings
from app.store.journal import now_milliseconds
from app.store.repository import MatchCounts

_WHAT = "What to back up"


class BackupReport(CopyReport[Counts]):
    """The report of a backup; `matched` is the number of recordings at the start."""

    failed = "not copied"
    matched: int = 0


@click.command("backup", cls=Command, epilog=ABOUT_SETTINGS, short_help="Copy recordings and their media.")
@click.argument("place", metavar="FOLDER|s3://BUCKET/PREFIX")
@options.contact_centers(_WHAT)
@options.screen_recordings(_WHAT)
@once(
    "--older-than",
    metavar="AGE",
    type=AGE,
    help="Recordings that started and stopped this long ago: hours, days or weeks, such as 36h, 90d or 52w.",
    section=_WHAT,
)
@once("--newer-than", metavar="AGE", type=AGE, help="Recordings that started less than this long ago.", section=_WHAT)
@options.criteria
@click.option("--dry-run", is_flag=True, help="Print how many recordings would be backed up; copy nothing.")
@click.option("--zip", "zips", is_flag=True, help="Make a zip of each day that is over.")
@click.option("--verify", "verifies", is_flag=True, help="Read the whole backup and compare it with its manifests.")
@once("--parallel", metavar="N", type=POSITIVE, help="Recordings that are copied concurrently (default: 16).")
@options.report
@options.patience
@click.pass_context
def command(
    context: click.Context,
    /,
    *,
    place: str,
    contact_center: str | None,
    all_contact_centers: bool,
    screen_recordings: bool,
    older_than: Age | None,
    newer_than: Age | None,
    dry_run: bool,
    zips: bool,
    verifies: bool,
    parallel: int | None,
    report: Path | None,
    patience: int,
    **parameters: str | None,
) -> None:
    """Copy recordings and their media to a folder or an S3 bucket.

    Each recording gets a folder, {contact center}/{tenant}/{day}/{id}, with recording.json, its media files and a
    manifest with the SHA-256 of each. What a former run has copied and what has not changed is not copied again, also
    when that run was killed. The backup never loses a recording that is deleted later. Encrypted media stay encrypted.

    With --zip the folder of each day that is over becomes {day}.zip, which a restore and --verify read like a folder.

    With --verify nothing is copied: the backup is read, and files that are damaged, missing or surplus are listed.

    The exit status is 0 if the backup has everything.
    """
    given = {name: value for name, value in parameters.items() if value is not None}
    if verifies:
        others = contact_center, all_contact_centers, screen_recordings, older_than, newer_than, dry_run, zips
        if given or any(others):
            raise click.UsageError("--verify reads the whole backup, so it takes none of the other options", context)
        with configured(level=logging.WARNING) as settings:
            _end(uvloop.run(_verify(settings, place, parallel or PARALLEL)), report)
        return
    exclusive(context, "contact_center", "all_contact_centers", required=True)
    resource: Resource = "screen-recordings" if screen_recordings else "recordings"
    now = now_milliseconds()
    try:
        criteria = _aged(options.parse(given, resource), now, older_than, newer_than)
    except RecallError as error:
        raise click.UsageError(error.message, context) from None
    with configured(level=logging.ERROR) as settings, closing(AuditLog(settings.audit_log)) as audit:
        task = Task(resource, Scope(contact_center, settings.region), criteria, parallel or PARALLEL, patience, zips)
        result = BackupReport(
            parameters={
                "place": place,
                "resource": resource,
                "contactCenter": contact_center,
                "region": settings.region,
                "olderThan": older_than and older_than.text,
                "newerThan": newer_than and newer_than.text,
                "criteria": given,
                "dryRun": dry_run,
                "zip": zips,
            },
            started=format_instant(now),
            counts=Counts(),
        )
        _Run(result, report).run(patient(settings), task, audit)


def _aged(criteria: Criteria, now: int, older_than: Age | None, newer_than: Age | None) -> Criteria:
    if older_than is not None:
        criteria = (*criteria, *search.older_than(now - older_than.milliseconds))
    if newer_than is not None:
        criteria = (*criteria, Condition(STARTED_AFTER, now - newer_than.milliseconds))
    return criteria


# --- Copying ------------------------------------------------------------------------------------------------


class _Run:
    """One run of the command: it counts, copies and reports."""

    def __init__(self, report: BackupReport, file: Path | None) -> None:
        self._report = report
        self._file = file

    def run(self, settings: Settings, task: Task, audit: AuditLog) -> None:
        """Ends the process with status 1 unless all went well."""
        run_and_report(
            lambda: uvloop.run(self._back_up(settings, task, audit)),
            self._report,
            self._file,
            settings.elasticsearch_url,
        )

    async def _back_up(self, settings: Settings, task: Task, audit: AuditLog) -> None:
        """Raises RecallError, ArchiveFailed."""
        place = self._report.parameters["place"]
        async with open_services(settings, audit, CollectorRegistry()) as services:
            repository = services.repositories[task.resource]
            if self._report.parameters["dryRun"]:
                matching = await repository.count(task.scope, task.criteria)
                self._announce(matching)
                self._report.completed = True
                return
            async with open_archive(
                place, settings.storage.s3, to_write=True, connections=2 * task.parallel
            ) as archive:
                backup = Backup(
                    services.repositories,
                    services.labelling,
                    services.storages,
                    settings.storage,
                    archive=archive,
                    audit=audit,
                    task=task,
                )
                self._report.counts, self._report.failures = backup.counts, backup.failures
                self._announce(await backup.count())
                await self._copy(backup)

    async def _copy(self, backup: Backup) -> None:
        begun = time.monotonic()
        try:
            with stopping(backup), progress(self._report.matched, "backing up") as advance:
                counts = await backup.run(advance)
            self._report.completed = not backup.is_stopped
            self._report.error = INTERRUPTED if backup.is_stopped else None
        finally:
            counts = backup.counts
            click.echo(
                f"copied {counts.copied}, unchanged {counts.unchanged}, incomplete {counts.incomplete}, "
                f"failed {counts.failed}; media files copied {counts.media_copied} "
                f"({counts.bytes / 2**20:.1f} MiB), unchanged {counts.media_unchanged}, failed {counts.media_failed}; "
                f"in {time.monotonic() - begun:.1f} s"
            )

    def _announce(self, matching: MatchCounts) -> None:
        """Prints what is backed up."""
        self._report.matched = matching.total
        parameters = self._report.parameters
        what = parameters["resource"].replace("-", " ")
        center = parameters["contactCenter"]
        where = f"contact center {center}" if center else "all contact centers"
        click.echo(f"{what} of {where} in region {parameters['region']}, to {parameters['place']}")
        for name, value in parameters["criteria"].items():
            click.echo(f"  {name}: {value}")
        would = "would be backed up" if parameters["dryRun"] else "match"
        click.echo(f"{matching.total} {would}; {matching.protected} of them are protected from deletion")


# --- Verifying ----------------------------------------------------------------------------------------------


async def _verify(settings: Settings, place: str, parallel: int) -> Verification | str:
    try:
        async with open_archive(place, settings.storage.s3, to_write=False, connections=2 * parallel) as archive:
            with progress(0, "verifying") as advance:
                return await verify(archive, parallel, advance)
    except ArchiveFailed as error:
        return str(error)


def _end(result: Verification | str, report: Path | None) -> None:
    """Prints the result; ends the process with status 1 unless the backup is whole."""
    if isinstance(result, str):
        sys.exit(result)
    if report is not None:
        write_report(report, msgspec.to_builtins(result))
    for kind, problems in (
        ("damaged", result.damaged),
        ("missing", result.missing),
        ("surplus", result.surplus),
        ("unfinished", result.unfinished),
    ):
        for problem in problems:
            click.echo(f"{kind}: {problem}")
    click.echo(
        f"{result.recordings} recordings, {result.files} files, {result.bytes / 2**20:.1f} MiB read; "
        f"damaged {len(result.damaged)}, missing {len(result.missing)}, surplus {len(result.surplus)}, "
        f"unfinished {len(result.unfinished)}"
    )
    if result.unfinished:
        click.echo("another run of the backup finishes what is unfinished")
    if not result.is_whole:
        sys.exit(1)
