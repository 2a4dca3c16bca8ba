"""Options that several commands have."""

import click

from app.cli.types import NOT_NEGATIVE, POSITIVE

ABOUT_SETTINGS = "Elasticsearch and everything else are configured as for the service (README.md)."

shards = click.option(
    "--shards", metavar="N", type=POSITIVE, help="Primary shards of a new index (default: as configured)."
)
replicas = click.option(
    "--replicas", metavar="N", type=NOT_NEGATIVE, help="Replicas of a new index (default: as configured)."
)
