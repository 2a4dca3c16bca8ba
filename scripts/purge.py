#!/usr/bin/env python3
"""Delete recordings that are older than some time, but none that is protected from deletion.

It says what would go and asks. Interrupted at any point, another run goes on with what is left. Elasticsearch, the
region, the media storages and the audit log are configured as for the service (README.md).
"""

import argparse
import asyncio
import logging
import re
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
from load_sample import progress
from prometheus_client import CollectorRegistry

from app.arguments import contact_center, positive
from app.audit import AuditLog, Entry
from app.audit import Outcome as AuditOutcome
from app.auth.scope import Scope
from app.errors import RecallError, StoreUnavailable
from app.recordings.dates import format_instant
from app.recordings.identity import Resource
from app.search.criteria import CRITERIA, Criteria, parse_search
from app.services import Services, open_services
from app.settings import ConfigurationError, Settings, load_settings
from app.store.journal import now_milliseconds
from app.store.repository import Matching, Stored, pause_after_conflict

# How many recordings are read, and deleted, at once: with media fewer, because each may take a storage some time.
_BATCH = 500
_BATCH_WITH_MEDIA = 100

# How often recordings that others change meanwhile are read again.
_ATTEMPTS = 20

_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 30.0

# A batch is more work than what the service asks of Elasticsearch, and nobody is waiting for it.
_LEAST_TIMEOUT = 30.0

_MILLISECONDS = {"h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}

_INTERRUPTED = "interrupted; another run goes on with what is left"

_SUCCESS, _PROTECTED, _FAILED, _MEDIA_LEFT = 0, 3, 4, 7  # statusCode (CONTRACT.md section 1)

T = TypeVar("T")


@dataclass(frozen=True)
class Task:
    """What is to be deleted, and how. `rate` is in recordings per second."""

    resource: Resource
    scope: Scope
    criteria: Criteria
    with_media: bool
    rate: int | None
    patience: float


class Counts(msgspec.Struct, rename="camel"):
    """What became of the recordings.

    `changed`: they no longer matched, or were gone, when their turn came. `media_failed` counts media objects.
    """

    deleted: int = 0
    protected: int = 0
    changed: int = 0
    failed: int = 0
    media_failed: int = 0


class Report(msgspec.Struct, rename="camel"):
    """The file of `--report`; `matched` is how many there were at the start, protected ones too."""

    parameters: dict[str, Any]
    started: str
    matched: int = 0
    counts: Counts = msgspec.field(default_factory=Counts)
    ended: str | None = None
    completed: bool = False
    error: str | None = None

    def write(self, path: Path) -> None:
        """Exits when that is not possible."""
        attributes = msgspec.to_builtins(self)
        attributes |= attributes.pop("counts")
        try:
            path.write_bytes(msgspec.json.format(msgspec.json.encode(attributes), indent=2) + b"\n")
        except OSError as error:
            sys.exit(f"the report cannot be written: {error}")


class Purge:
    """Walks from the oldest recording to the newest, once, until it is asked to stop."""

    def __init__(self, services: Services, task: Task, counts: Counts, stop: asyncio.Event) -> None:
        self._task = task
        self._counts = counts
        self._stop = stop
        self._repository = services.repositories[task.resource]
        self._deletion = services.deletion
        self._audit = services.audit
        batch = _BATCH_WITH_MEDIA if task.with_media else _BATCH
        self._batch = min(batch, task.rate) if task.rate else batch

    async def count(self) -> Matching:
        return await self._patiently(partial(self._repository.count, self._task.scope, self._task.criteria))

    async def run(self, advance: Callable[[int], object]) -> None:
        """Raises StoreUnavailable when Elasticsearch stays away, InternalError when it cannot do what it should."""
        after: Stored | None = None
        while not self._stop.is_set():
            begun = time.monotonic()
            batch = await self._patiently(
                partial(self._repository.oldest, self._task.scope, self._task.criteria, self._batch, after)
            )
            if not batch:
                return
            after = batch[-1]
            await self._delete(batch)
            advance(len(batch))
            if self._task.rate:
                await self._pause(begun + len(batch) / self._task.rate - time.monotonic())

    async def _delete(self, batch: Sequence[Stored]) -> None:
        """Deletes each in the state that was judged; one that has changed since is judged again."""
        task = self._task
        try:
            for conflicts in range(_ATTEMPTS):
                outcomes = await self._patiently(
                    partial(self._deletion.delete_stored, task.resource, batch, with_media=task.with_media)
                )
                changed = []
                for stored, outcome in zip(batch, outcomes, strict=True):
                    if outcome.status == "changed":
                        changed.append(stored)
                    elif outcome.status == "protected":
                        self._counts.protected += 1
                        self._write(stored, "refused", _PROTECTED)
                    else:
                        self._counts.deleted += 1
                        self._counts.media_failed += len(outcome.failed)
                        self._write(stored, "success", _MEDIA_LEFT if outcome.failed else _SUCCESS)
                batch = changed
                if not batch:
                    return
                await pause_after_conflict(conflicts)
                batch = await self._patiently(
                    partial(self._repository.still_matching, task.scope, task.criteria, changed)
                )
                self._counts.changed += len(changed) - len(batch)
        finally:
            # Too many attempts, or Elasticsearch failed, which leaves open what has become of them.
            for stored in batch:
                self._counts.failed += 1
                self._write(stored, "failed", _FAILED)

    def _write(self, stored: Stored, outcome: AuditOutcome, code: int) -> None:
        self._audit.write(
            Entry(
                user="purge",
                contact_center=stored.contact_center,
                address=None,
                operation="purge",
                resource=self._task.resource,
                recording_id=stored.recording["id"],
                outcome=outcome,
                status_code=code,
            )
        )

    async def _patiently(self, work: Callable[[], Awaitable[T]]) -> T:
        """Tries again while Elasticsearch is away: everything that is asked of it here may be repeated."""
        deadline = time.monotonic() + self._task.patience
        pause = _FIRST_PAUSE
        while True:
            try:
                return await work()
            except StoreUnavailable:
                if self._stop.is_set() or time.monotonic() + pause > deadline:
                    raise
            await self._pause(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _pause(self, seconds: float) -> None:
        """Ends early when the purge is to stop."""
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._stop.wait()
        except TimeoutError:
            pass


async def count(settings: Settings, task: Task, audit: AuditLog) -> Matching:
    async with open_services(settings, audit, CollectorRegistry()) as services:
        return await Purge(services, task, Counts(), asyncio.Event()).count()


async def purge(settings: Settings, task: Task, audit: AuditLog, report: Report) -> None:
    """Fills in the counts of the report; raises what `Purge.run` raises."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def interrupt() -> None:
        """The first one lets the batch under way finish; the second one is not caught."""
        stop.set()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt)
    async with open_services(settings, audit, CollectorRegistry()) as services:
        with progress(report.matched, "purging") as advance:
            await Purge(services, task, report.counts, stop).run(advance)
    if stop.is_set():
        report.error = _INTERRUPTED
    else:
        report.completed = True


class _Once(argparse.Action):
    """An option that would silently replace what was said before would delete something else than was meant."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        if getattr(namespace, self.dest) is not None:
            raise argparse.ArgumentError(self, "it is given more than once")
        setattr(namespace, self.dest, values)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = partial(parser.add_argument, action=_Once)
    add(
        "--older-than",
        metavar="AGE",
        required=True,
        type=_age,
        help="those that stopped so long ago: hours, days or weeks, as in 36h, 90d, 52w",
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--contact-center", metavar="ID", action=_Once, type=contact_center)
    where.add_argument("--all-contact-centers", action="store_true")
    filters = parser.add_argument_group("only those that also match", "as in a search of the API; all must match")
    for name in CRITERIA:
        filters.add_argument(_option(name), metavar="VALUE", action=_Once, type=partial(_criterion, name), dest=name)
    parser.add_argument("--with-media", action="store_true", help="delete their media objects too")
    parser.add_argument("--screen-recordings", action="store_true", help="screen recordings instead of recordings")
    parser.add_argument("--dry-run", action="store_true", help="say what would go, and delete nothing")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    add("--rate", metavar="N", type=positive, help="at most so many recordings per second")
    add("--report", metavar="FILE", type=Path, help="write what was done to a file, as JSON")
    parser.add_argument(
        "--patience",
        metavar="SECONDS",
        default=120,
        type=positive,
        help="go on trying so long while Elasticsearch is away (default: 120)",
    )
    return parser


def _option(name: str) -> str:
    """callerPhoneNumber → --caller-phone-number"""
    return "--" + re.sub("[A-Z]", lambda capital: f"-{capital[0].lower()}", name)


class _Age(NamedTuple):
    text: str
    milliseconds: int


def _age(text: str) -> _Age:
    match = re.fullmatch(r"([0-9]{1,5})([hdw])", text)
    if match is None or not int(match[1]):
        raise argparse.ArgumentTypeError("it must be a number, 1 or greater, and h, d or w, as in 90d")
    return _Age(text, int(match[1]) * _MILLISECONDS[match[2]])


def _criterion(name: str, text: str) -> str:
    try:
        parse_search([(name, text)])
    except RecallError as error:
        raise argparse.ArgumentTypeError(error.message) from None
    return text


def _task(options: argparse.Namespace, region: str, now: int) -> Task:
    """Raises InvalidParameter when the criteria are too much together."""
    given = {name: value for name in CRITERIA if (value := getattr(options, name)) is not None}
    criteria = parse_search([*given.items()])[0] if given else Criteria()
    stopped_before = now - options.older_than.milliseconds
    if criteria.ended_before is not None:
        stopped_before = min(stopped_before, criteria.ended_before)
    return Task(
        resource="screen-recordings" if options.screen_recordings else "recordings",
        scope=Scope(options.contact_center, region),
        criteria=replace(criteria, ended_before=stopped_before),
        with_media=options.with_media,
        rate=options.rate,
        patience=options.patience,
    )


def _parameters(options: argparse.Namespace, task: Task) -> dict[str, Any]:
    return {
        "resource": task.resource,
        "contactCenter": task.scope.contact_center,
        "region": task.scope.region,
        "olderThan": options.older_than.text,
        "stoppedBefore": format_instant(task.criteria.ended_before or 0),
        "criteria": {name: value for name in CRITERIA if (value := getattr(options, name)) is not None},
        "withMedia": task.with_media,
        "dryRun": options.dry_run,
        "rate": task.rate,
    }


def _announce(parameters: dict[str, Any], matching: Matching) -> None:
    """What would go, on standard output."""
    what = parameters["resource"].replace("-", " ")
    where = f"contact center {parameters['contactCenter']}" if parameters["contactCenter"] else "all contact centers"
    print(f"{what} of {where} in region {parameters['region']} that stopped before {parameters['stoppedBefore']}")
    for name, value in parameters["criteria"].items():
        print(f"  {name}: {value}")
    media = "with their media objects" if parameters["withMedia"] else "their media objects stay"
    print(
        f"{matching.total} match; {matching.protected} of them are protected and stay; "
        f"{matching.total - matching.protected} would be deleted ({media})",
        flush=True,
    )


def _confirmed() -> bool:
    try:
        return input("Delete them? Type yes: ").strip() == "yes"
    except EOFError:
        return False


def _run(options: argparse.Namespace, settings: Settings, task: Task, audit: AuditLog, report: Report) -> None:
    """Fills in the report, and prints what became of it; raises RecallError."""
    matching = asyncio.run(count(settings, task, audit))
    report.matched = matching.total
    if options.report:
        report.write(options.report)  # if that is not possible, better now than after some hours
    _announce(report.parameters, matching)
    if options.dry_run:
        report.completed = True
        return
    if not options.yes and not _confirmed():
        report.error = "nothing was deleted, because it was not confirmed"
        return
    begun = time.monotonic()
    try:
        asyncio.run(purge(settings, task, audit, report))
    finally:
        counts = report.counts
        print(
            f"deleted {counts.deleted}, protected {counts.protected}, changed meanwhile {counts.changed}, "
            f"failed {counts.failed}, media objects not deleted {counts.media_failed}, "
            f"in {time.monotonic() - begun:.1f} s"
        )
        if counts.media_failed:
            print("scripts/sweep_media.py tries again to delete the media objects, and so does the service")


def _log_to_stderr() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("recall.audit").setLevel(logging.INFO)
    # What matters of it, `app.store.client` says once.
    logging.getLogger("elastic_transport").setLevel(logging.ERROR)


def _patient(settings: Settings) -> Settings:
    return msgspec.structs.replace(
        settings,
        elasticsearch_timeout=max(settings.elasticsearch_timeout, _LEAST_TIMEOUT),
        elasticsearch_search_timeout=max(settings.elasticsearch_search_timeout, _LEAST_TIMEOUT),
        elasticsearch_write_timeout=max(settings.elasticsearch_write_timeout, _LEAST_TIMEOUT),
    )


def main() -> None:
    """The command line."""
    parser = _parser()
    options = parser.parse_args()
    if not (options.yes or options.dry_run or sys.stdin.isatty()):
        parser.error("there is no terminal to ask on; give --yes or --dry-run")
    _log_to_stderr()
    now = now_milliseconds()
    try:
        settings = load_settings()
        task = _task(options, settings.region, now)
        audit = AuditLog(settings.audit_log)
    except RecallError as error:
        parser.error(error.message)
    except ConfigurationError as error:
        sys.exit(str(error))
    report = Report(parameters=_parameters(options, task), started=format_instant(now))
    try:
        with closing(audit):
            _run(options, _patient(settings), task, audit, report)
    except RecallError as error:
        report.error = (
            f"cannot go on with the Elasticsearch at {settings.elasticsearch_url}: {error.__cause__ or error}"
        )
    except KeyboardInterrupt:
        report.error = _INTERRUPTED
    _finish(options.report, report)


def _finish(file: Path | None, report: Report) -> None:
    report.ended = format_instant(now_milliseconds())
    if report.error:
        print(report.error, file=sys.stderr)
    if file:
        report.write(file)
    if report.error or report.counts.failed or report.counts.media_failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
