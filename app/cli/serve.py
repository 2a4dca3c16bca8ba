"""`recall serve`, and `python -m app`."""

import logging
import sys
from contextlib import ExitStack

import click

from app.cli.failures import configured
from app.cli.framework import Command
from app.server.supervisor import bound, serve
from app.settings import misspelt

log = logging.getLogger(__name__)


@click.command("serve", cls=Command)
def command() -> None:
    """Start the service, with as many worker processes as RECALL_WORKERS says."""
    with configured(level=logging.INFO) as settings, ExitStack() as stack:
        sockets = [stack.enter_context(one) for one in bound(settings)]
        for name, meant in misspelt().items():
            log.warning("%s is not a setting and is ignored; did you mean %s?", name, meant)
        if not settings.users:
            log.warning("no [[users]] are configured, so no client can log in: set RECALL_CONFIG")
        started = serve(settings, sockets)
    if not started:
        sys.exit(1)
