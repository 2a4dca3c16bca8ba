#!/usr/bin/env python3
"""Users of the service: make the password_hash of a [[users]] entry."""

import argparse
import getpass
import sys

from argon2 import PasswordHasher


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser(
        "hash", help="print the hash of a password, asked for on a terminal, else the first line of the input"
    )
    command.set_defaults(run=print_hash)
    parser.parse_args().run()


def print_hash() -> None:
    """Never from an argument: those are in everybody's process list."""
    password = _ask() if sys.stdin.isatty() else sys.stdin.readline().rstrip("\r\n")
    if not password:
        sys.exit("a password must not be empty")
    print(PasswordHasher().hash(password))


def _ask() -> str:
    password = getpass.getpass("Password: ")
    if getpass.getpass("Again: ") != password:
        sys.exit("the passwords differ")
    return password


if __name__ == "__main__":
    main()
