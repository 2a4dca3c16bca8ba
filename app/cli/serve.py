"""`recall serve`, and `python -m app`."""

import logging
import sys
from contextlib import ExitStack

import click

from app.cli.failures import configured
from app.cli.framework import Command
from app.server.supervisor import bound, serve


@click.command("serve", cls=Command)
def command() -> None:
    """Start the service, with as many worker processes as RECALL_WORKERS says."""
    with configured(level=logging.INFO) as settings, ExitStack() as stack:
        sockets = [stack.enter_context(one) for one in bound(settings)]
        if not settings.users:
            logging.getLogger(__name__).warning(
                "no [[users]] are configured, so no client can log in: set RECALL_CONFIG"
            )
        started = serve(settings, sockets)
    if not started:
        sys.exit(1)
