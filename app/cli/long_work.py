"""What commands share that work on many recordings: they are patient, and can be interrupted."""

import asyncio
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import click
import msgspec

from app.lifecycle.backup import Failure
from app.settings import Settings

# A batch is more work than a request of the service, and no client waits for it.
_LEAST_TIMEOUT = 30.0

# How many failures are shown on the terminal.
_SHOWN = 20


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
