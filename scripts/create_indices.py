#!/usr/bin/env python3
"""Create the indices and aliases that are missing; those that exist must have the mapping of es_mappings/."""

import argparse
import asyncio
import os
import sys

from app.errors import RecallError
from app.settings import ConfigurationError, Settings, load_settings
from app.store.client import connect
from app.store.indices import SchemaMismatch, create_indices, missing_indices


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="Elasticsearch and everything else are configured as for the service (README.md)."
    )
    parser.add_argument("--shards", help="primary shards of a new index (default: as configured)")
    parser.add_argument("--replicas", help="replicas of a new index (default: as configured)")
    parser.add_argument("--dry-run", action="store_true", help="say what is missing, and create nothing")
    options = parser.parse_args()
    try:
        given = {f"RECALL_{key.upper()}": getattr(options, key) for key in ("shards", "replicas")}
        settings = load_settings({**os.environ, **{key: value for key, value in given.items() if value}})
        asyncio.run(run(settings, dry_run=options.dry_run))
    except (ConfigurationError, SchemaMismatch) as error:
        sys.exit(str(error))
    except RecallError:
        sys.exit(f"Elasticsearch at {settings.elasticsearch_url} does not answer as it should; see above")


async def run(settings: Settings, *, dry_run: bool) -> None:
    async with connect(settings) as client:
        names = (
            [*(await missing_indices(client, settings)).values()] if dry_run else await create_indices(client, settings)
        )
    for name in names:
        print(f"{'would create' if dry_run else 'created'} {name}")
    if not names:
        print("everything is there")


if __name__ == "__main__":
    main()
