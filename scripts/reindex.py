#!/usr/bin/env python3
"""Move a resource to a new index with another number of shards or a changed mapping, while everybody goes on working.

Everything that is searched by is derived again. Interrupted, it can be started again and goes on.
"""

import argparse

from load_sample import progress

from app.migration import command
from app.store.indices import RESOURCES


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--resource", choices=RESOURCES, default=RESOURCES[0], help=f"(default: {RESOURCES[0]})")
    command.add_arguments(parser)
    options = parser.parse_args()
    command.main(options, options.resource, command.no_older_schema, progress, needed=False)


if __name__ == "__main__":
    main()
