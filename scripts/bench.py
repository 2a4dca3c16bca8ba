#!/usr/bin/env python3
"""Measure Recall beside plain Elasticsearch: `scripts/benchmarks/`."""

import signal
import sys

import click
from benchmarks import (
    access,
    backup,
    growth,
    ingest,
    isolation,
    migrate,
    operations,
    page,
    play,
    search,
    soak,
    wildcard,
    workers,
)

from app.cli.framework import Group, run


@click.group(cls=Group)
def bench() -> None:
    """Measure Recall beside plain Elasticsearch, and print a table in Markdown.

    Without RECALL_ELASTICSEARCH_URL it starts an embedded node of its own. It loads made-up recordings into indices of
    its own, and removes them at the end.
    """


for benchmark in (
    search, growth, access, ingest, wildcard, play, migrate, isolation, operations, soak, workers, backup, page,
):  # fmt: skip
    bench.add_command(benchmark.command)


def main() -> None:
    """Runs the command line."""
    # As Ctrl-C, so that servers end and temporary folders go.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    run(bench, sys.argv[1:], "bench.py")


if __name__ == "__main__":
    main()
