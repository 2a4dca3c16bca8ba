"""`recall retention`, and `scripts/retention.py`."""

import asyncio
import logging
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import click
import msgspec
from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

from app.audit import AuditLog
from app.cli import options
from app.cli.failures import configured
from app.cli.files import report_text, write_report
from app.cli.framework import Group, once
from app.cli.long_work import patient, stopping
from app.cli.options import ABOUT_SETTINGS
from app.cli.types import POSITIVE
from app.errors import RecallError
from app.lifecycle.retention import Retention, RuleResult
from app.lifecycle.retention_rules import Rule, RulesError, overlaps, parse_rules
from app.progress import progress
from app.recordings.dates import format_instant
from app.services import open_services
from app.settings import Settings
from app.store.journal import now_milliseconds
from app.store.retention import RetentionStore

# How long a clock that was set, or a machine that slept, may go unnoticed.
_MOST_SECONDS = 30.0


class Report(msgspec.Struct, rename="camel", kw_only=True):
    """The report. `completed` is false if any rule that was run is no success. `overlaps` are sentences."""

    started: str
    region: str
    dry_run: bool
    overlaps: list[str]
    rules: list[RuleResult] = []
    ended: str | None = None
    completed: bool = False

    def write(self, path: Path | None) -> None:
        """Writes it as JSON to a file, or to standard output."""
        if path is None:
            click.echo(report_text(self), nl=False)
        else:
            write_report(path, self)


command = Group(
    "retention",
    help="Purge and back up recordings by the rules of a file, once or every day.",
    short_help="Purge and back up by rules, once or every day.",
)


@command.command("run", short_help="Run the rules of a file.", epilog=ABOUT_SETTINGS)
@click.argument("rules", metavar="RULES.toml", type=click.Path(path_type=Path))
@click.option("--rule", "names", metavar="NAME", multiple=True, help="Only this rule; may be given several times.")
@click.option("--watch", is_flag=True, help="Stay, and run each rule every day at its time (at, in UTC).")
@click.option("--dry-run", is_flag=True, help="Count what each task would purge or back up; change nothing.")
@once(
    "--report",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write the report, as JSON, to a file; else it goes to standard output.",
)
@once(
    "--metrics",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write metrics of all rules to a file for Prometheus's textfile collector.",
)
@once("--rate", metavar="N", type=POSITIVE, help="Recordings per second that a purge deletes at most.")
@options.patience
@click.pass_context
def run(
    context: click.Context,
    /,
    *,
    rules: Path,
    names: Sequence[str],
    watch: bool,
    dry_run: bool,
    report: Path | None,
    metrics: Path | None,
    rate: int | None,
    patience: int,
) -> None:
    """Run the rules of a file, one after the other, and each rule's tasks in their order.

    Protected recordings are never purged. The command does not ask, so try the rules with --dry-run first. A rule that
    another process is running is refused. Without --watch all rules are run now, whatever their time is, as cron needs
    it.

    docs/operations.md describes the file, and docs/examples/retention.toml is one. The exit status is 0 only if
    every rule was a success.
    """
    all_rules, chosen = _chosen(context, rules, names)
    if watch and dry_run:
        raise click.UsageError("argument --dry-run: not allowed with argument --watch", context)
    if watch and (timeless := [rule.name for rule in chosen if rule.at is None]):
        raise click.UsageError(f"--watch needs a time (at) in each rule; {', '.join(timeless)} has none", context)
    with configured(level=logging.ERROR) as settings, closing(AuditLog(settings.audit_log)) as audit:
        runner = _Runner(all_rules, chosen, report, metrics, dry_run=dry_run)
        completed = asyncio.run(runner.run(patient(settings), audit, watch=watch, rate=rate, patience=patience))
    if not completed:
        sys.exit(1)


def _chosen(context: click.Context, path: Path, names: Sequence[str]) -> tuple[Sequence[Rule], Sequence[Rule]]:
    """Returns the rules of a file, and those to run; ends the process with an error for one that cannot be used."""
    try:
        found = parse_rules(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        sys.exit(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}")
    except RulesError as error:
        sys.exit(f"{path}: {error}")
    known = {rule.name for rule in found}
    for name in names:
        if name not in known:
            raise click.UsageError(f"argument --rule: no rule is called {name}; there are {', '.join(known)}", context)
    return found, [rule for rule in found if not names or rule.name in names]


class _Runner:
    """Runs the rules, and says what became of them. `stop` ends it after what is in flight."""

    def __init__(
        self,
        all_rules: Sequence[Rule],
        rules: Sequence[Rule],
        report: Path | None,
        metrics: Path | None,
        *,
        dry_run: bool,
    ) -> None:
        self._all_rules = all_rules
        self._rules = rules
        self._report = report
        self._metrics = metrics
        self._dry_run = dry_run
        self._stop = asyncio.Event()
        self._retention: Retention | None = None

    def stop(self) -> None:
        self._stop.set()
        if self._retention is not None:
            self._retention.stop()

    async def run(self, settings: Settings, audit: AuditLog, *, watch: bool, rate: int | None, patience: int) -> bool:
        """Returns whether every rule was a success; with `watch`, when it was stopped."""
        async with open_services(settings, audit, CollectorRegistry()) as services:
            store = RetentionStore(services.client, settings)
            self._retention = Retention(
                services.repositories,
                services.deletion,
                services.labelling,
                services.storages,
                store=store,
                settings=settings,
                audit=audit,
                show=progress,
                rate=rate,
                patience=patience,
            )
            for sentence in overlaps(self._rules):
                click.echo(f"note: {sentence}", err=True)
            with stopping(self):
                if watch:
                    await self._watch(self._retention, store, settings)
                    return True
                return await self._run_all(self._retention, store, settings, [(rule, 0) for rule in self._rules])

    async def _run_all(
        self, retention: Retention, store: RetentionStore, settings: Settings, due: Sequence[tuple[Rule, int]]
    ) -> bool:
        """Runs rules, each for a slot, or for none (0)."""
        now = now_milliseconds()
        report = Report(
            started=format_instant(now),
            region=settings.region,
            dry_run=self._dry_run,
            overlaps=overlaps(self._rules),
        )
        if self._report is not None:
            report.write(self._report)  # if that is not possible, better now than after some hours
        for rule, slot in due:
            result = await retention.run(rule, now_milliseconds(), slot=slot, dry_run=self._dry_run)
            report.rules.append(result)
            for line in _lines(result, dry_run=self._dry_run):
                click.echo(line, err=True)
            if retention.is_stopped:
                break
        report.completed = len(report.rules) == len(due) and all(
            result.outcome in {"success", "done already"} for result in report.rules
        )
        report.ended = format_instant(now_milliseconds())
        report.write(self._report)
        if self._metrics is not None and not self._dry_run:
            await self._write_metrics(self._metrics, store, report)
        return report.completed

    async def _watch(self, retention: Retention, store: RetentionStore, settings: Settings) -> None:
        begun = now_milliseconds()
        # Until Elasticsearch tells otherwise, a rule has done what was before.
        done = {rule.name: rule.slot(begun) for rule in self._rules}
        for rule in self._rules:
            try:
                state = await store.state(rule.name)
            except RecallError as error:
                click.echo(f"{rule.name}: its last run is unknown: {error.__cause__ or error}", err=True)
                continue
            # A rule that has run before also runs for a daily time that it has missed.
            done[rule.name] = state.slot or done[rule.name]
            click.echo(f"{rule.name}: next at {format_instant(_next(rule, done[rule.name], begun))}", err=True)
        while not self._stop.is_set():
            now = now_milliseconds()
            due = [(rule, rule.slot(now)) for rule in self._rules if rule.slot(now) > done[rule.name]]
            if due:
                await self._run_all(retention, store, settings, due)
                done.update({rule.name: slot for rule, slot in due})
                continue
            seconds = (min(rule.next_slot(now) for rule in self._rules) - now) / 1000
            try:
                async with asyncio.timeout(min(seconds, _MOST_SECONDS)):
                    await self._stop.wait()
            except TimeoutError:
                pass

    async def _write_metrics(self, path: Path, store: RetentionStore, report: Report) -> None:
        registry = CollectorRegistry()

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"recall_retention_{name}", text, ["rule", *labels], registry=registry)

        ended = gauge("last_run_timestamp_seconds", "When the rule's last run came to its end.")
        succeeded = gauge("last_success_timestamp_seconds", "When the rule's last run that was a success ended, or 0.")
        recordings = gauge("last_run_recordings", "How many recordings of the last run had the outcome.", "outcome")
        failed = gauge("failed", "1 if the rule's last run is no success, else 0.")
        outcomes = {result.name: result.outcome for result in report.rules}
        for rule in self._all_rules:
            if rule.name in outcomes:
                failed.labels(rule.name).set(outcomes[rule.name] not in {"success", "done already"})
            try:
                state = await store.state(rule.name)
            except RecallError:
                continue  # without its times, an alert about a rule that did not run goes off
            if rule.name not in outcomes and state.ended:
                failed.labels(rule.name).set(state.failed)
            ended.labels(rule.name).set(state.ended / 1000)
            succeeded.labels(rule.name).set(state.succeeded / 1000)
            for outcome, count in state.counts.items():
                recordings.labels(rule.name, outcome).set(count)
        try:
            write_to_textfile(str(path), registry)
        except OSError as error:
            sys.exit(f"the metrics cannot be written: {error}")


def _next(rule: Rule, done: int, now: int) -> int:
    return now if rule.slot(now) > done else rule.next_slot(now)


def _lines(result: RuleResult, *, dry_run: bool) -> list[str]:
    """Returns what a person is told of a rule."""
    lines = []
    for task in result.tasks:
        where = f"contact center {task.contact_center}" if task.contact_center else "all contact centers"
        what = f"{result.name}: {task.kind} of {task.resource} of {where}"
        counts: dict[str, Any] = {"matched": task.matched, "protected": task.protected} | task.counts
        told = ", ".join(f"{name} {count}" for name, count in counts.items() if count or name == "matched")
        lines.append(f"{what}: {'would take ' if dry_run else ''}{told}; {task.outcome}")
    return [*lines, f"{result.name}: {result.outcome}{f': {result.error}' if result.error else ''}"]
