"""The command line: `recall COMMAND`, and `scripts/….py`, each of which is one of its commands."""

import resource
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import click

from app.cli.framework import Command, Group, run

# Each has a module of its name here, which is imported when it is needed: an installation without the extra
# "embedded" lacks what `demo` imports.
_COMMANDS = (
    "serve",
    "demo",
    "indices",
    "migrate",
    "reindex",
    "purge",
    "backup",
    "restore",
    "retention",
    "sweep",
    "verify",
    "sessions",
    "users",
    "sample",
    "import",
)
# A module cannot be called `import`.
_MODULES = {"import": "importing"}


class _Commands(Group):
    def list_commands(self, _context: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        return _command(name) if name in _COMMANDS else None


def _command(name: str) -> Command | Group:
    command: Command | Group = import_module(f"app.cli.{_MODULES.get(name, name)}").command
    return command


@click.group(cls=_Commands, epilog="recall COMMAND --help describes a command. All settings are in README.md.")
@click.version_option(version("recall"), prog_name="recall", message="%(prog)s %(version)s")
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
