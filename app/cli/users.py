"""`recall users`, and `scripts/users.py`."""

import getpass
import sys

import click
from argon2 import PasswordHasher

from app.cli.framework import Group


@click.group("users", cls=Group)
def command() -> None:
    """Make the password_hash of a [[users]] entry."""


@command.command("hash")
def print_hash() -> None:
    """Print the hash of a password.

    The password is asked for on a terminal. Elsewhere it is the first line of standard input. It is never an argument,
    because every user of the machine can read the arguments of a process.
    """
    password = _ask() if sys.stdin.isatty() else sys.stdin.readline().rstrip("\r\n")
    if not password:
        sys.exit("a password must not be empty")
    click.echo(PasswordHasher().hash(password))


def _ask() -> str:
    password = getpass.getpass("Password: ")
    if getpass.getpass("Again: ") != password:
        sys.exit("the passwords differ")
    return password
