#!/usr/bin/env python3
"""Move recordings from schema v1 to a new index with schema v2, while everybody goes on working.

What the alias points to goes along. Interrupted, it can be started again and goes on.
"""

import argparse

from elasticsearch import AsyncElasticsearch
from load_sample import progress

from app.migration import command
from app.migration.sources import Source, V1Recordings
from app.settings import Settings
from app.store.indices import alias


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "indices",
        metavar="INDEX[=CONTACT_CENTER]",
        nargs="*",
        help="a v1 index; its contact center is what follows '-v1-' (default: all PREFIX-recordings-v1-*)",
    )
    command.add_arguments(parser)
    options = parser.parse_args()

    async def find(client: AsyncElasticsearch, settings: Settings, current: str, superseded: list[str]) -> list[Source]:
        begin = f"{alias(settings, 'recordings')}-v1-"
        names = options.indices or sorted((await client.indices.get(index=f"{begin}*", features="aliases")).body)
        sources: list[Source] = []
        for text in names:
            index, _, contact_center = text.partition("=")
            if index not in superseded:
                sources.append(V1Recordings(index, contact_center or index.partition("-v1-")[2]))
        return sources

    command.main(options, "recordings", find, progress, needed=True)


if __name__ == "__main__":
    main()
