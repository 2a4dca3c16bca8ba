"""The command `recall` itself; its subcommands have tests of their own."""

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from app.cli import recall


def help_of(command: click.Command) -> str:
    result = CliRunner().invoke(command, ["--help"], terminal_width=200)
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


@pytest.mark.parametrize("name", recall.list_commands(click.Context(recall)))
def test_the_list_says_what_each_commands_help_begins_with(name: str) -> None:
    command = recall.get_command(click.Context(recall), name)
    assert command is not None
    assert f" {name} {command.get_short_help_str(limit=200)} " in help_of(recall)


def test_the_list_of_commands_is_shown_without_importing_the_application() -> None:
    program = (
        "import sys; from app.cli import main\n"
        "try: main(['--help'])\n"
        "finally: print({'elasticsearch', 'aiohttp', 'starlette', 'botocore'} & sys.modules.keys())"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.endswith("\nset()\n")
