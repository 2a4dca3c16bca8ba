"""`recall users`, and `scripts/users.py`."""

import asyncio
import getpass
import json
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from typing import get_args

import click
from argon2 import PasswordHasher

from app.auth.policy import Operation, require_permission, require_role
from app.auth.scope import Limits, Scope, limits_of
from app.cli.failures import configured
from app.cli.framework import Group
from app.errors import InsufficientPermissions, InsufficientRole, RecordingNotFound
from app.recordings.access import access_groups, agents, partitions
from app.recordings.identity import Resource, media_name
from app.recordings.model import Recording
from app.settings import Settings, User
from app.store.client import connect
from app.store.repository import RecordingRepository

_PLACES = (access_groups, partitions)


@click.group("users", cls=Group)
def command() -> None:
    """Hash a password, and tell what a user may do and see."""


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


@command.command("check")
@click.argument("config", type=click.Path(dir_okay=False))
@click.argument("name")
@click.option("--recording", metavar="ID", help="Tell what the user sees of this recording, and why.")
@click.option("--screen-recording", metavar="ID", help="The same of a screen recording.")
@click.option(
    "--contact-center", metavar="ID", help="Where the recording is, if the user belongs to no contact center."
)
def check(
    *, config: str, name: str, recording: str | None, screen_recording: str | None, contact_center: str | None
) -> None:
    """Tell what a user may do and see.

    NAME is the user's in the configuration file CONFIG.

    With a recording this reads Elasticsearch, else only the file. The exit status is 1 when there is no such user or
    recording, or when the user does not see it.
    """
    os.environ["RECALL_CONFIG"] = config
    with configured(level=logging.WARNING) as settings:
        user = next((user for user in settings.users if user.name == name), None)
        if user is None:
            sys.exit(f"{config} has no user {name!r}; it has {', '.join(repr(user.name) for user in settings.users)}")
        for line in _about(user):
            click.echo(line)
        wanted: list[tuple[Resource, str | None]] = [
            ("recordings", recording),
            ("screen-recordings", screen_recording),
        ]
        sees_all = True
        for resource, recording_id in wanted:
            if recording_id is not None:
                where = user.contact_center or contact_center
                if where is None:
                    raise click.UsageError("--contact-center is needed, because the user belongs to none")
                sees_all &= asyncio.run(_tell(settings, user, where, resource, recording_id))
    sys.exit(0 if sees_all else 1)


def _about(user: User) -> Iterator[str]:
    yield f"user            {_printable(user.name)}"
    yield f"contact center  {user.contact_center or 'all'}"
    yield f"roles           {', '.join(user.roles)}"
    yield f"permissions     {', '.join(user.permissions) or 'none'}"
    yield f"may             {', '.join(operation for operation in get_args(Operation) if _may(user, operation))}"
    yield f"sees            {_sees(user)}"


def _may(user: User, operation: Operation) -> bool:
    try:
        require_role(user, operation, contact_center=user.contact_center)
        require_permission(user, operation)
    except (InsufficientRole, InsufficientPermissions):
        return False
    return True


def _sees(user: User) -> str:
    if not _may(user, "read"):
        return "every recording" if _may(user, "ops-read") else "no recording"
    parts = []
    if user.access_groups:
        parts.append(f"in the access groups {_listed(user.access_groups)}")
    if user.partitions:
        parts.append(f"in the partitions {_listed(user.partitions)}")
    shown = [f"media files {' and '.join(parts)}"] if parts else []
    if user.own_recordings:
        shown.append("the user's own recordings")
    return "; ".join(shown) or "every recording of the contact center"


async def _tell(settings: Settings, user: User, contact_center: str, resource: Resource, recording_id: str) -> bool:
    """Prints what a user sees of a recording; returns whether she sees any of it."""
    async with connect(settings) as client:
        everything = Scope(contact_center, settings.region)
        try:
            stored = await RecordingRepository(client, settings, resource).get(everything, recording_id)
        except RecordingNotFound:
            click.echo(f"\n{_printable(recording_id)} does not exist in the region {settings.region}")
            return False
    limits = limits_of(user)
    reads = _may(user, "read") or _may(user, "ops-read")
    visible = reads and Scope(contact_center, settings.region, limits).admits(stored)
    click.echo(f"\n{_printable(recording_id)} is {'visible' if visible else 'hidden'}")
    if limits is not None and limits.agent is not None:
        is_own = "yes" if limits.owns(stored.recording) else "no"
        click.echo(f"  own recording: {is_own}; its agents are {_listed(dict.fromkeys(agents(stored.recording)))}")
    for media in _media_lines(stored.recording, limits, reads=reads):
        click.echo(media)
    return visible


def _media_lines(recording: Recording, limits: Limits | None, *, reads: bool) -> Iterator[str]:
    for media in recording["mediaFiles"]:
        shows = reads and (limits is None or limits.owns(recording) or limits.shows(media))
        name = media.get("mediaId") or media_name(media)
        groups, parts = (_listed("/".join(path) or "/" for path in sorted(paths(media))) for paths in _PLACES)
        yield f"  {'visible' if shows else 'hidden '}  {_printable(name)}  access groups {groups}; partitions {parts}"


def _listed(texts: Iterable[str]) -> str:
    return ", ".join(map(_printable, texts)) or "none"


def _printable(text: str) -> str:
    """Returns a text as JSON in ASCII unless it is plain, so that what clients once posted cannot drive a terminal."""
    return text if text.isascii() and text.isprintable() else json.dumps(text)
