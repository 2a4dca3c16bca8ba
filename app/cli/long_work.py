"""Code that the commands for many recordings share: longer timeouts, interruption, reports."""

import asyncio
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import click
import msgspec

from app.cli.files import write_report
from app.errors import RecallError
from app.lifecycle.backup import Failure
from app.media.archives import ArchiveFailed
from app.recordings.dates import format_instant
from app.settings import Settings
from app.store.journal import now_milliseconds
from app.workers import collect_rarely

# A batch is more work than a request of the service, and no client waits for it.
_LEAST_TIMEOUT = 30.0

# How many failures are shown on the terminal.
_SHOWN = 20


INTERRUPTED = "interrupted; another run goes on with what is left"


class Counted(Protocol):
    """How many recordings and files the work was about, by what became of them."""

    @property
    def is_complete(self) -> bool: ...


C = TypeVar("C", bound=Counted)


class Report(msgspec.Struct, Generic[C], kw_only=True, rename="camel"):
    """The file of `--report`, which has the counts beside the rest."""

    parameters: dict[str, Any]
    started: str
    counts: C
    ended: str | None = None
    completed: bool = False
    error: str | None = None

    def write(self, path: Path) -> None:
        """Writes the file as JSON, or ends the process with an error."""
        attributes = msgspec.to_builtins(self)
        attributes |= attributes.pop("counts")
        write_report(path, attributes)


class CopyReport(Report[C]):
    """The report of a backup or a restore. `failures` has the first 1,000; `failed` is what they are called."""

    failures: list[Failure] = []
    failed: ClassVar[str]


def run_and_report(work: Callable[[], None], report: Report[Any], file: Path | None, elasticsearch_url: str) -> None:
    """Does the work of a command, which keeps the report up to date.

    Ends the process with status 1 unless all went well.
    """
    collect_rarely()
    try:
        work()
    except ArchiveFailed as error:
        report.error = str(error)
    except RecallError as error:
        report.error = f"cannot go on with the Elasticsearch at {elasticsearch_url}: {error.__cause__ or error}"
    except KeyboardInterrupt:
        report.error = INTERRUPTED
    report.ended = format_instant(now_milliseconds())
    if isinstance(report, CopyReport):
        show_failures(report.failed, report.failures)
    if report.error:
        click.echo(report.error, err=True)
    if file:
        report.write(file)
    if report.error or not report.counts.is_complete:
        sys.exit(1)


class Stoppable(Protocol):
    """Work that ends after what is in flight when it is told to stop."""

    def stop(self) -> None: ...


def patient(settings: Settings) -> Settings:
    """Returns the settings with longer timeouts."""
    return msgspec.structs.replace(
        settings,
        elasticsearch_timeout=max(settings.elasticsearch_timeout, _LEAST_TIMEOUT),
        elasticsearch_search_timeout=max(settings.elasticsearch_search_timeout, _LEAST_TIMEOUT),
        elasticsearch_write_timeout=max(settings.elasticsearch_write_timeout, _LEAST_TIMEOUT),
    )


@contextmanager
def stopping(work: Stoppable) -> Iterator[None]:
    """The first SIGINT or SIGTERM lets what is in flight finish; the second one has its default effect."""
    loop = asyncio.get_running_loop()

    def restore() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)

    def interrupt() -> None:
        work.stop()
        restore()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt)
    try:
        yield
    finally:
        restore()


def show_failures(what: str, failures: Sequence[Failure]) -> None:
    """Prints the first failures of a backup or a restore on standard error."""
    for failure in failures[:_SHOWN]:
        file = f"{failure.file} of " if failure.file else ""
        whose = f" ({failure.contact_center})" if failure.contact_center else ""
        click.echo(f"{what}: {file}{failure.recording_id}{whose}: {failure.reason}", err=True)
    if len(failures) > _SHOWN:
        click.echo(f"and {len(failures) - _SHOWN} more; --report has them", err=True)
