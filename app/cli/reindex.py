"""`recall reindex`, and `scripts/reindex.py`."""

from typing import Any

import click
from elasticsearch import AsyncElasticsearch

from app.cli import migrating
from app.cli.framework import Command
from app.cli.options import ABOUT_SETTINGS
from app.migration.sources import Source
from app.settings import Settings
from app.store.indices import MIGRATED_RESOURCES


@click.command(
    "reindex", cls=Command, short_help="Move to a new index: other shards, changed mapping.", epilog=ABOUT_SETTINGS
)
@click.option(
    "--resource",
    type=click.Choice(MIGRATED_RESOURCES),
    default="recordings",
    help="What to move (default: recordings).",
)
@migrating.options
def command(resource: str, **arguments: Any) -> None:
    """Move a resource to a new index with another number of shards or a changed mapping.

    The service keeps reading and writing meanwhile. All search fields are computed again. If a run is interrupted,
    the next one continues it.
    """
    migrating.migrate(resource, _no_older_sources, needed=False, arguments=arguments)


async def _no_older_sources(
    _client: AsyncElasticsearch, _settings: Settings, _current: str, _superseded: list[str]
) -> list[Source]:
    return []
