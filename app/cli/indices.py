"""`recall indices`, and `scripts/create_indices.py`."""

import asyncio
import logging

import click

from app.cli.failures import configured
from app.cli.framework import Command
from app.cli.options import ABOUT_SETTINGS, replicas, shards
from app.settings import Settings
from app.store.client import connect
from app.store.indices import create_indices, missing_indices


@click.command("indices", cls=Command, short_help="Create missing indices, check the others.", epilog=ABOUT_SETTINGS)
@shards
@replicas
@click.option("--dry-run", is_flag=True, help="Print what is missing and create nothing.")
def command(shards: int | None, replicas: int | None, dry_run: bool) -> None:
    """Create missing indices and aliases, and check the mappings of the others.

    An index that exists must have the mapping of es_mappings/.
    """
    failed = "the Elasticsearch at {url} does not answer as it should: {reason}"
    with configured(level=logging.WARNING, elasticsearch_failed=failed, shards=shards, replicas=replicas) as settings:
        names = asyncio.run(_create(settings, dry_run=dry_run))
    for name in names:
        click.echo(f"{'would create' if dry_run else 'created'} {name}")
    if not names:
        click.echo("everything is there")


async def _create(settings: Settings, *, dry_run: bool) -> list[str]:
    async with connect(settings) as client:
        if dry_run:
            return [*(await missing_indices(client, settings)).values()]
        return await create_indices(client, settings)
