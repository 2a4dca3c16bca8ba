"""The command line: `recall COMMAND`, and `scripts/….py`, each of which is one of its commands."""

import resource
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import click

from app.cli.framework import Command, Group, run

# Each has a module of its name here, which is imported when it is needed: that takes a second, and an installation
# without the extra "embedded" lacks what `demo` imports. So the list of commands has the first line of their help here.
_COMMANDS = {
    "serve": "Start the service, with as many worker processes as RECALL_WORKERS says.",
    "demo": "Start the service with Elasticsearch and demo data.",
    "indices": "Create missing indices, check the others.",
    "migrate": "Move recordings from schema v1 to schema v2.",
    "reindex": "Move to a new index: other shards, changed mapping.",
    "purge": "Delete recordings that are older than some time.",
    "backup": "Copy recordings and their media.",
    "restore": "Bring back what a backup has.",
    "retention": "Purge and back up by rules, once or every day.",
    "sweep": "Delete media objects that deletions left behind.",
    "verify": "Check an evidence package: each of its files against the manifest.",
    "sessions": "List and end the sessions of the page.",
    "users": "Hash a password, and tell what a user may do and see.",
    "sample": "Load made-up recordings.",
    "import": "Post files of recordings to a running service.",
}
# A module cannot be called `import`.
_MODULES = {"import": "importing"}


class _Commands(Group):
    def list_commands(self, _context: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        return _command(name) if name in _COMMANDS else None

    def format_commands(self, _context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


def _command(name: str) -> Command | Group:
    command: Command | Group = import_module(f"app.cli.{_MODULES.get(name, name)}").command
    return command


@click.group(cls=_Commands, epilog="recall COMMAND --help describes a command. All settings are in README.md.")
@click.version_option(package_name="recall", prog_name="recall", message="%(prog)s %(version)s")
def recall() -> None:
    """Recall: search, play and keep call recordings."""


def main(arguments: list[str] | None = None) -> None:
    """Runs `recall` with these arguments, or those of the process, and exits."""
    _forbid_core_dumps()
    run(recall, (sys.argv[1:] if arguments is None else arguments) or ["--help"], "recall")


def script(name: str) -> Callable[[], None]:
    """Returns the main function of a script that is one command."""

    def main() -> None:
        _forbid_core_dumps()
        run(_command(name), sys.argv[1:], Path(sys.argv[0]).name)

    return main


def _forbid_core_dumps() -> None:
    """For this process and all that it starts: a core dump would hold passwords and recordings."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
