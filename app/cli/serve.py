"""`recall serve`, and `python -m app`."""

import gc
import logging
import sys

import click

from app.cli.failures import configured
from app.cli.framework import Command
from app.server import Server


@click.command("serve", cls=Command)
def command() -> None:
    """Start one process of the service."""
    with configured(level=logging.INFO) as settings:
        server = Server(settings)
        if not settings.users:
            logging.getLogger(__name__).warning(
                "no [[users]] are configured, so no client can log in: set RECALL_CONFIG"
            )
        # Pages of recordings are many small objects and hardly ever a cycle: collecting took a fifth of the processor.
        gc.freeze()
        gc.set_threshold(20_000, 50, 100)
        server.run()
    if not server.started:
        sys.exit(1)
