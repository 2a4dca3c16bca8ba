"""`recall demo`, and `scripts/serve`."""

import os
import sys
from pathlib import Path

import click

from app.cli import serve
from app.cli.framework import Command
from app.errors import RecallError
from app.settings import ConfigurationError
from app.store.indices import SchemaMismatch


@click.command("demo", cls=Command, short_help="Start the service with Elasticsearch and demo data.")
@click.option("--no-demo", is_flag=True, help="Load no demo recordings.")
@click.option(
    "--data",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Keep the recordings in this folder. Without it they are gone after Ctrl-C.",
)
@click.pass_context
def command(context: click.Context, no_demo: bool, data: Path | None) -> None:
    """Start the service with an Elasticsearch of its own, demo users and demo recordings.

    With RECALL_ELASTICSEARCH_URL set, start just the service, as `recall serve` does.
    """
    if os.environ.get("RECALL_ELASTICSEARCH_URL"):
        if data:
            raise click.UsageError(
                "--data is for an Elasticsearch of its own, but RECALL_ELASTICSEARCH_URL is set", context
            )
        context.invoke(serve.command)
        return
    # Only this needs the extra "embedded".
    from app.embedded import demo  # noqa: PLC0415
    from app.embedded.errors import DistributionError, NodeError  # noqa: PLC0415

    try:
        if not demo.serve(recordings=not no_demo, data=data):
            sys.exit(1)
    except (ConfigurationError, DistributionError, NodeError, RecallError, SchemaMismatch) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        pass  # Ctrl-C is the normal way to stop it.
