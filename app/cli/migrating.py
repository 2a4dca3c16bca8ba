"""The common parts of `recall migrate` and `recall reindex`: options, the run as a whole, the report."""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

import click
from elasticsearch import AsyncElasticsearch
from msgspec.structs import replace

from app import codec
from app.cli import options as shared
from app.cli.failures import configured
from app.cli.files import open_private
from app.cli.framework import exclusive
from app.cli.types import POSITIVE
from app.lifecycle.protection import Protection
from app.migration.cutover import acquire_and_recover, current_index, drop_old
from app.migration.plan import MigrationError, MigrationLease, Options, RejectedDocument, Report
from app.migration.rollback import roll_back
from app.migration.run import Migration
from app.migration.sources import Source, Unchanged, V2Recordings
from app.progress import progress
from app.recordings.identity import Resource
from app.settings import Settings
from app.store.client import connect
from app.store.indices import SchemaMismatch, alias, create_indices, load_schema, missing_indices
from app.store.repository import RecordingRepository
from app.workers import collect_rarely

F = TypeVar("F", bound=Callable[..., Any])

FindSources = Callable[[AsyncElasticsearch, Settings, str, list[str]], Awaitable[list[Source]]]

_DOCUMENTS_PER_REQUEST = 200
_REJECTS_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """The values of `options`."""

    dry_run: bool
    rollback: bool
    drop_old: bool
    shards: int | None
    replicas: int | None
    workers: int
    rate: int | None
    allow_rejects: bool
    reject_file: Path
    discard: bool


def options(function: F) -> F:
    """Adds the options that both commands have; the function gets their values as keyword arguments."""
    for option in reversed(
        (
            click.option("--dry-run", is_flag=True, help="Transform every document, report, and change nothing."),
            click.option(
                "--rollback", is_flag=True, help="Go back to the old index and list what was written since the swap."
            ),
            click.option("--drop-old", is_flag=True, help="Remove the indices that earlier migrations replaced."),
            shared.shards,
            shared.replicas,
            click.option(
                "--workers", metavar="N", type=POSITIVE, default=4, help="Slices copied concurrently (default: 4)."
            ),
            click.option(
                "--rate", metavar="N", type=POSITIVE, help="Documents per second at most (default: no limit)."
            ),
            click.option("--allow-rejects", is_flag=True, help="Leave out documents that cannot be transformed."),
            click.option(
                "--reject-file",
                metavar="FILE",
                type=click.Path(path_type=Path),
                default=Path("rejects.ndjson"),
                help="Write those documents here (default: rejects.ndjson).",
            ),
            click.option("--discard", is_flag=True, help="Remove what an interrupted run has copied, and start over."),
        )
    ):
        function = option(function)
    return function


def migrate(resource: str, find: FindSources, *, needed: bool, arguments: dict[str, Any]) -> None:
    """Runs a migration and prints its report; exits with 0 only on success.

    `find` returns the older sources; when they are `needed` and there are none, there is nothing to do. `arguments`
    are the values of `options`.
    """
    exclusive(click.get_current_context(), "dry_run", "rollback", "drop_old")
    given = Arguments(**arguments)
    collect_rarely()
    with configured(
        "interrupted; nothing was swapped, and another run goes on from here",
        level=logging.WARNING,
        expected=(MigrationError,),
        shards=given.shards,
        replicas=given.replicas,
    ) as settings:
        asyncio.run(_run(given, settings, resource, find, needed=needed))


async def _run(arguments: Arguments, settings: Settings, resource: str, find: FindSources, *, needed: bool) -> None:
    if arguments.dry_run:
        await _dry_run(arguments, settings, resource, find)
    elif arguments.rollback:
        await _roll_back(settings, resource)
    elif arguments.drop_old:
        await _drop_old(settings, resource)
    else:
        await _migrate(arguments, settings, resource, find, needed=needed)


async def _migrate(arguments: Arguments, settings: Settings, resource: str, find: FindSources, *, needed: bool) -> None:
    name = alias(settings, resource)
    async with _lease(settings, resource) as (client, lease):
        current = await current_index(client, name)
        older = await find(client, settings, current, lease.state.superseded)
        if needed and not older:
            click.echo(f"nothing to do: {name} is {current}, and no older index is left")
            return
        migration = _migration(arguments, settings, client, resource, [*older, _source(resource, current)])
        try:
            await migration.run(lease, current)
        finally:
            await _write_rejects(client, migration.report.rejects, arguments.reject_file)
            _print(migration.report, arguments.reject_file)
        click.echo(f"{name} is {migration.report.target}; {current} stays, blocked for writes, until --drop-old")
        await _settle_holds(client, settings)


async def _settle_holds(client: AsyncElasticsearch, settings: Settings) -> None:
    """Stores who holds whom, for the holds of version 0.1.0, once recordings and screen recordings are migrated."""
    try:
        await missing_indices(client, settings)
    except SchemaMismatch:  # documents cannot be written there yet; the migration of that index comes here, too
        return
    recordings, screens = (RecordingRepository(client, settings, one) for one in get_args(Resource))
    if settled := await Protection(recordings, screens).settle_all():
        click.echo(f"{settled} holds of version 0.1.0 name the screen recordings now that they took along")


async def _roll_back(settings: Settings, resource: str) -> None:
    name = alias(settings, resource)
    async with _lease(settings, resource) as (client, lease):
        changes = await roll_back(client, settings, lease, resource)
        click.echo(f"{name} is {await current_index(client, name)} again; writes are not blocked any more")
    for what, names in (
        ("carried over to the old index", changes.carried),
        ("protected, and still to be protected elsewhere", changes.not_carried),
        ("written, and not in the old index", changes.written),
        ("deleted, and back", changes.deleted),
    ):
        click.echo(f"since the migration, in {changes.index}: {what}: {len(names)}")
        for contact_center, _id in names:
            click.echo(f"  {contact_center} {_id}".rstrip())
    if changes.leave_something_to_do:
        sys.exit(1)


async def _drop_old(settings: Settings, resource: str) -> None:
    async with _lease(settings, resource) as (client, lease):
        for index in await drop_old(client, settings, lease, resource):
            click.echo(f"removed {index}")


async def _dry_run(arguments: Arguments, settings: Settings, resource: str, find: FindSources) -> None:
    name = alias(settings, resource)
    async with _connect(settings) as client:
        exists = bool(await client.indices.exists_alias(name=name))
        current = await current_index(client, name) if exists else ""
        sources = await find(client, settings, current, [])
        if exists:
            sources.append(_source(resource, current))
        report = await _migration(arguments, settings, client, resource, sources).dry_run()
        await _write_rejects(client, report.rejects, arguments.reject_file)
    click.echo(f"would copy {report.documents} documents from {', '.join(source.index for source in sources)}")
    _print_rejects(report, arguments.reject_file)


@asynccontextmanager
async def _lease(settings: Settings, resource: str) -> AsyncIterator[tuple[AsyncElasticsearch, MigrationLease]]:
    async with _connect(settings) as client:
        # An index that exists may have an older schema, which is a reason to migrate it, so it is not compared.
        if not await client.indices.exists_alias(name=alias(settings, resource)):
            await create_indices(client, settings)
        async with acquire_and_recover(client, settings, resource) as lease:
            yield client, lease


def _connect(settings: Settings) -> AsyncElasticsearch:
    return connect(replace(settings, elasticsearch_timeout=60.0))


def _migration(
    arguments: Arguments, settings: Settings, client: AsyncElasticsearch, resource: str, sources: list[Source]
) -> Migration:
    options = Options(arguments.workers, arguments.rate, arguments.allow_rejects, settings.shards, arguments.discard)
    return Migration(client, settings, resource, sources=sources, options=options, progress=progress)


def _source(resource: str, index: str) -> Source:
    """Returns the source for the index behind the alias of a resource."""
    everything = load_schema(resource)["mappings"].get("_source") is None
    return Unchanged(index) if everything else V2Recordings(index)


async def _write_rejects(client: AsyncElasticsearch, rejects: list[RejectedDocument], file: Path) -> None:
    """One JSON object a line: `index`, `id`, `reason` and the `document`. The file appears as a whole."""
    if not rejects:
        return
    unfinished = file.with_name(f".{file.name}.unfinished")
    with open_private(unfinished) as out:
        for i in range(0, len(rejects), _DOCUMENTS_PER_REQUEST):
            some = rejects[i : i + _DOCUMENTS_PER_REQUEST]
            found = await client.mget(docs=[{"_index": reject.index, "_id": reject.id} for reject in some])
            for reject, hit in zip(some, found.body["docs"], strict=True):
                line = {"index": reject.index, "id": reject.id, "reason": reject.reason}
                out.write(codec.encode(line | {"document": hit.get("_source")}) + b"\n")
    unfinished.replace(file)


def _print(report: Report, file: Path) -> None:
    if report.swapped:
        click.echo(
            f"{report.documents} documents in {report.target}: {report.read} read, {report.repaired} repaired, "
            f"{report.removed} removed; writes were blocked for {report.blocked_seconds:.2f} s"
        )
    _print_rejects(report, file)


def _print_rejects(report: Report, file: Path) -> None:
    if report.rejects:
        click.echo(f"{len(report.rejects)} rejects, in {file}:")
        for reject in report.rejects[:_REJECTS_SHOWN]:
            click.echo(f"  {reject.index} {reject.id}: {reject.reason}")
