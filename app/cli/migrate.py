"""`recall migrate`, and `scripts/migrate_to_v2.py`."""

from typing import Any

import click
from elasticsearch import AsyncElasticsearch

from app.cli import migrating
from app.cli.framework import Command
from app.cli.options import ABOUT_SETTINGS
from app.migration.sources import Source, V1Recordings
from app.settings import Settings
from app.store.indices import alias


@click.command("migrate", cls=Command, short_help="Move recordings from schema v1 to schema v2.", epilog=ABOUT_SETTINGS)
@click.argument("indices", metavar="[INDEX[=CONTACT_CENTER]]...", nargs=-1)
@migrating.options
def command(indices: tuple[str, ...], **arguments: Any) -> None:
    """Move recordings from schema v1 to a new index with schema v2.

    By default these are all indices named PREFIX-recordings-v1-CONTACT_CENTER. To choose indices, give their names,
    with =CONTACT_CENTER where the name does not contain it. The index behind the alias is always included.

    The service keeps reading and writing meanwhile. If a run is interrupted, the next one continues it.
    """

    async def find(
        client: AsyncElasticsearch, settings: Settings, _current: str, superseded: list[str]
    ) -> list[Source]:
        begin = f"{alias(settings, 'recordings')}-v1-"
        names = indices or sorted((await client.indices.get(index=f"{begin}*", features="aliases")).body)
        sources: list[Source] = []
        for text in names:
            index, _, contact_center = text.partition("=")
            if index not in superseded:
                sources.append(V1Recordings(index, contact_center or index.partition("-v1-")[2]))
        return sources

    migrating.migrate("recordings", find, needed=True, arguments=arguments)
