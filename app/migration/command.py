"""What the command lines of migrations share: arguments, the run as a whole, the report."""

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from elasticsearch import ApiError, AsyncElasticsearch
from msgspec.structs import replace

from app import codec
from app.arguments import not_negative, positive
from app.errors import RecallError
from app.migration.patience import MigrationError
from app.migration.run import (
    Migration,
    Options,
    Progress,
    Reject,
    Report,
    current_index,
    drop_old,
    holding,
    roll_back,
)
from app.migration.sources import Source, Unchanged, V2Recordings
from app.settings import ConfigurationError, Settings, load_settings
from app.store.client import connect
from app.store.indices import SchemaMismatch, alias, create_indices, load_schema
from app.workers import collect_rarely

_READ_AT_ONCE = 200
_SHOWN = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that all migrations have."""
    parser.epilog = "Elasticsearch and everything else are configured as for the service (README.md)."
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--dry-run", action="store_true", help="transform everything, report, and change nothing")
    what.add_argument("--rollback", action="store_true", help="go back to the old index and say what was written since")
    what.add_argument("--drop-old", action="store_true", help="remove the indices that migrations have left behind")
    parser.add_argument("--shards", type=positive, help="primary shards of the new index (default: as configured)")
    parser.add_argument("--replicas", type=not_negative, help="replicas of the new index (default: as configured)")
    parser.add_argument("--workers", type=positive, default=4, help="slices copied at a time (default: 4)")
    parser.add_argument("--rate", type=positive, help="documents a second at most (default: no limit)")
    parser.add_argument("--allow-rejects", action="store_true", help="leave behind what cannot be transformed")
    parser.add_argument("--reject-file", type=Path, default=Path("rejects.ndjson"), help="(default: rejects.ndjson)")
    parser.add_argument(
        "--discard", action="store_true", help="remove what an interrupted run has filled, and begin anew"
    )


FindSources = Callable[[AsyncElasticsearch, Settings, str, list[str]], Awaitable[list[Source]]]


def no_older_schema(
    _client: AsyncElasticsearch, _settings: Settings, _current: str, _superseded: list[str]
) -> Awaitable[list[Source]]:
    """A FindSources of a move within schema v2."""

    async def none() -> list[Source]:
        return []

    return none()


def main(options: argparse.Namespace, resource: str, find: FindSources, progress: Progress, *, needed: bool) -> None:
    """Runs and reports; exits with 0 only on success. `needed`: without older sources there is nothing to do."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("elastic_transport").setLevel(logging.CRITICAL)
    collect_rarely()
    try:
        given = {f"RECALL_{key.upper()}": getattr(options, key) for key in ("shards", "replicas")}
        settings = load_settings({**os.environ, **{key: str(v) for key, v in given.items() if v is not None}})
        asyncio.run(_run(options, settings, resource, find, progress, needed=needed))
    except (ConfigurationError, MigrationError, SchemaMismatch) as error:
        sys.exit(str(error))
    except (RecallError, ApiError) as error:
        sys.exit(f"cannot use the Elasticsearch at {settings.elasticsearch_url}: {error.__cause__ or error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; nothing was swapped, and another run goes on from here")


async def _run(
    options: argparse.Namespace,
    settings: Settings,
    resource: str,
    find: FindSources,
    progress: Progress,
    *,
    needed: bool,
) -> None:
    name = alias(settings, resource)
    async with connect(replace(settings, elasticsearch_timeout=60.0)) as client:
        if options.dry_run:
            await _dry_run(client, settings, resource, find, options=options, progress=progress)
            return
        # The schema of what is there may be older: that is what a migration is for.
        if not await client.indices.exists_alias(name=name):
            await create_indices(client, settings)
        async with holding(client, settings, resource) as lease:
            if options.rollback:
                since = await roll_back(client, settings, lease, resource)
                _say(f"{name} is {await current_index(client, name)} again; writes are not blocked any more")
                _say(f"written to {since.index} since the migration: {len(since.written)}; deleted there: {since.gone}")
                for contact_center, _id in since.written:
                    _say(f"  {contact_center} {_id}".rstrip())
                return
            if options.drop_old:
                for index in await drop_old(client, settings, lease, resource):
                    _say(f"removed {index}")
                return
            current = await current_index(client, name)
            older = await find(client, settings, current, lease.state.superseded)
            if needed and not older:
                _say(f"nothing to do: {name} is {current}, and no older index is left")
                return
            migration = Migration(
                client,
                settings,
                resource,
                sources=[*older, *_current(resource, current)],
                options=_migration_options(options, settings),
                progress=progress,
            )
            try:
                await migration.run(lease, current)
            finally:
                await _write_rejects(client, migration.rejects, options.reject_file)
                _print(migration.report, options.reject_file)
            _say(f"{name} is {migration.report.target}; {current} stays, blocked for writes, until --drop-old")


async def _dry_run(
    client: AsyncElasticsearch,
    settings: Settings,
    resource: str,
    find: FindSources,
    *,
    options: argparse.Namespace,
    progress: Progress,
) -> None:
    name = alias(settings, resource)
    there = bool(await client.indices.exists_alias(name=name))
    current = await current_index(client, name) if there else ""
    sources = [*await find(client, settings, current, []), *(_current(resource, current) if there else ())]
    migration = Migration(
        client, settings, resource, sources=sources, options=_migration_options(options, settings), progress=progress
    )
    report = await migration.rehearse()
    await _write_rejects(client, report.rejects, options.reject_file)
    _say(f"would copy {report.documents} documents from {', '.join(source.index for source in sources)}")
    _print_rejects(report, options.reject_file)


def _current(resource: str, index: str) -> list[Source]:
    everything = load_schema(resource)["mappings"].get("_source") is None
    return [Unchanged(index) if everything else V2Recordings(index)]


def _migration_options(options: argparse.Namespace, settings: Settings) -> Options:
    return Options(options.workers, options.rate, options.allow_rejects, settings.shards, options.discard)


async def _write_rejects(client: AsyncElasticsearch, rejects: list[Reject], file: Path) -> None:
    """One JSON object a line: `index`, `id`, `reason` and the `document`. The file appears as a whole."""
    if not rejects:
        return
    unfinished = file.with_name(f".{file.name}.unfinished")
    with unfinished.open("wb") as out:
        for i in range(0, len(rejects), _READ_AT_ONCE):
            some = rejects[i : i + _READ_AT_ONCE]
            found = await client.mget(docs=[{"_index": reject.index, "_id": reject.id} for reject in some])
            for reject, hit in zip(some, found.body["docs"], strict=True):
                line = {"index": reject.index, "id": reject.id, "reason": reject.reason}
                out.write(codec.encode(line | {"document": hit.get("_source")}) + b"\n")
    unfinished.replace(file)


def _print(report: Report, file: Path) -> None:
    if report.swapped:
        _say(
            f"{report.documents} documents in {report.target}: {report.read} read, {report.repaired} mended, "
            f"{report.removed} removed; writes were blocked for {report.blocked_seconds:.2f} s"
        )
    _print_rejects(report, file)


def _print_rejects(report: Report, file: Path) -> None:
    if report.rejects:
        _say(f"{len(report.rejects)} rejects, in {file}:")
        for reject in report.rejects[:_SHOWN]:
            _say(f"  {reject.index} {reject.id}: {reject.reason}")


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201
