"""`recall purge`, and `scripts/purge.py`."""

import asyncio
import logging
import sys
import time
from contextlib import AsyncExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import click
from prometheus_client import CollectorRegistry

from app.audit import AuditLog
from app.auth.scope import Scope
from app.cli import options
from app.cli.failures import configured, first_objects_missing, some_objects_missing
from app.cli.framework import Command, exclusive, once
from app.cli.long_work import INTERRUPTED, Report, patient, run_and_report, stopping
from app.cli.options import ABOUT_SETTINGS
from app.cli.types import AGE, POSITIVE, Age
from app.errors import RecallError
from app.lifecycle.purge import Counts, Purge, Task
from app.progress import progress
from app.recordings.dates import format_instant
from app.recordings.identity import Resource
from app.search import criteria as search
from app.search.criteria import ENDED_BEFORE
from app.services import open_services
from app.settings import Settings
from app.store.journal import now_milliseconds
from app.store.repository import MatchCounts

_WHAT = "What to delete"


class PurgeReport(Report[Counts]):
    """The report of a purge; `matched` is the number of recordings at the start, including protected ones."""

    matched: int = 0


@click.command("purge", cls=Command, epilog=ABOUT_SETTINGS)
@once(
    "--older-than",
    metavar="AGE",
    required=True,
    type=AGE,
    help="Recordings that started and stopped this long ago: hours, days or weeks, such as 36h, 90d or 52w.",
    section=_WHAT,
)
@options.contact_centers(_WHAT)
@options.screen_recordings(_WHAT)
@options.criteria
@click.option("--with-media", is_flag=True, help="Delete their media objects too.")
@click.option(
    "--missing-media-ok",
    is_flag=True,
    help="Go on if the first media objects of a storage are all missing, and count them as deleted.",
)
@click.option("--dry-run", is_flag=True, help="Print what would be deleted; delete nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@once("--rate", metavar="N", type=POSITIVE, help="Recordings per second at most.")
@options.report
@options.patience
@click.pass_context
def command(
    context: click.Context,
    /,
    *,
    older_than: Age,
    contact_center: str | None,
    all_contact_centers: bool,
    screen_recordings: bool,
    with_media: bool,
    missing_media_ok: bool,
    dry_run: bool,
    yes: bool,
    rate: int | None,
    report: Path | None,
    patience: int,
    **parameters: str | None,
) -> None:
    """Delete recordings that are older than some time.

    Recordings that are protected from deletion stay. The command prints how many recordings would be deleted, and
    asks. It can be interrupted at any point; another run continues with what is left.
    """
    exclusive(context, "contact_center", "all_contact_centers", required=True)
    if not (yes or dry_run or sys.stdin.isatty()):
        raise click.UsageError("there is no terminal to ask on; give --yes or --dry-run", context)
    resource: Resource = "screen-recordings" if screen_recordings else "recordings"
    now = now_milliseconds()
    given = {name: value for name, value in parameters.items() if value is not None}
    try:
        criteria = (*options.parse(given, resource), *search.older_than(now - older_than.milliseconds))
    except RecallError as error:
        raise click.UsageError(error.message, context) from None
    with configured(level=logging.WARNING) as settings, closing(AuditLog(settings.audit_log)) as audit:
        task = Task(
            resource=resource,
            scope=Scope(contact_center, settings.region),
            criteria=criteria,
            with_media=with_media,
            missing_media_ok=missing_media_ok,
            rate=rate,
            patience=patience,
        )
        report_parameters: dict[str, Any] = {
            "resource": task.resource,
            "contactCenter": contact_center,
            "region": settings.region,
            "olderThan": older_than.text,
            "stoppedBefore": format_instant(min(c.value for c in criteria if c.criterion is ENDED_BEFORE)),
            "criteria": given,
            "withMedia": with_media,
            "dryRun": dry_run,
            "rate": rate,
        }
        if missing_media_ok:
            report_parameters["missingMediaOk"] = True
        result = PurgeReport(parameters=report_parameters, started=format_instant(now), counts=Counts())
        _Run(result, report, ask=not yes).run(patient(settings), task, audit)


class _Run:
    """One run of the command: it counts, asks, deletes and reports."""

    def __init__(self, report: PurgeReport, file: Path | None, *, ask: bool) -> None:
        self._report = report
        self._file = file
        self._ask = ask

    def run(self, settings: Settings, task: Task, audit: AuditLog) -> None:
        """Ends the process with status 1 unless all went well."""
        run_and_report(
            partial(self._purge, settings, task, audit), self._report, self._file, settings.elasticsearch_url
        )

    def _purge(self, settings: Settings, task: Task, audit: AuditLog) -> None:
        """Raises RecallError."""
        # The question is asked between two runs of the event loop, where Ctrl-C ends it like any other program.
        with asyncio.Runner() as runner:
            stack = AsyncExitStack()
            try:
                services = runner.run(stack.enter_async_context(open_services(settings, audit, CollectorRegistry())))
                purge = Purge(services.repositories[task.resource], services.deletion, audit, task)
                self._report.counts = purge.counts
                matching = runner.run(purge.count())
                self._report.matched = matching.total
                if self._file:
                    self._report.write(self._file)  # If that is not possible, better now than after some hours.
                _announce(self._report.parameters, matching)
                if self._report.parameters["dryRun"]:
                    self._report.completed = True
                elif self._ask and not _confirmed():
                    self._report.error = "nothing was deleted, because it was not confirmed"
                else:
                    self._delete(runner, purge)
            finally:
                runner.run(stack.aclose())

    def _delete(self, runner: asyncio.Runner, purge: Purge) -> None:
        begun = time.monotonic()
        try:
            runner.run(_until_stopped(purge, self._report.matched))
        finally:
            counts = purge.counts
            click.echo(
                f"deleted {counts.deleted}, protected {counts.protected}, changed meanwhile {counts.changed}, "
                f"failed {counts.failed}, media objects not deleted {counts.media_failed}, "
                f"in {time.monotonic() - begun:.1f} s"
            )
            if purge.missing.doubted:
                click.echo(some_objects_missing(purge.missing.doubted))
            if counts.media_failed:
                click.echo("scripts/sweep_media.py tries again to delete the media objects, and so does the service")
        if purge.missing.suspect is not None:
            self._report.error = first_objects_missing(purge.missing.suspect)
        elif purge.is_stopped:
            self._report.error = INTERRUPTED
        else:
            self._report.completed = True


async def _until_stopped(purge: Purge, total: int) -> None:
    with stopping(purge), progress(total, "purging") as advance:
        await purge.run(advance)


def _announce(parameters: dict[str, Any], matching: MatchCounts) -> None:
    """Prints what would be deleted."""
    what = parameters["resource"].replace("-", " ")
    where = f"contact center {parameters['contactCenter']}" if parameters["contactCenter"] else "all contact centers"
    click.echo(f"{what} of {where} in region {parameters['region']} that stopped before {parameters['stoppedBefore']}")
    for name, value in parameters["criteria"].items():
        click.echo(f"  {name}: {value}")
    media = "with their media objects" if parameters["withMedia"] else "their media objects stay"
    click.echo(
        f"{matching.total} match; {matching.protected} of them are protected and stay; "
        f"{matching.total - matching.protected} would be deleted ({media})"
    )


def _confirmed() -> bool:
    try:
        return input("Delete them? Type yes: ").strip() == "yes"
    except EOFError:
        return False
