"""`recall sessions`, and `scripts/sessions.py`."""

import asyncio
import json
import logging
import sys
from collections.abc import AsyncIterator

import click

from app.auth.sessions import Session
from app.cli.failures import configured
from app.cli.framework import Command, Group, exclusive, once
from app.cli.options import ABOUT_SETTINGS
from app.recordings.dates import format_instant
from app.settings import Settings
from app.store.client import connect
from app.store.sessions import SessionStore

# Of a key: enough to tell sessions apart.
_ID_LENGTH = 12


@click.group("sessions", cls=Group)
def command() -> None:
    """List and end the sessions of the page."""


@command.command("list", cls=Command, epilog=ABOUT_SETTINGS)
@once("--user", metavar="NAME", help="Only the sessions of this user.")
def list_(user: str | None) -> None:
    """Print the sessions as lines of JSON, the oldest first.

    A session that nobody has used for a while may be over and not removed yet.
    """
    with configured(level=logging.WARNING) as settings:
        asyncio.run(_list(settings, user))


@command.command("end", cls=Command, epilog=ABOUT_SETTINGS)
@click.argument("ids", metavar="[ID]...", nargs=-1)
@once("--user", metavar="NAME", help="All sessions of this user.")
@click.option("--all", "all_", is_flag=True, help="All sessions.")
@click.option("--dry-run", is_flag=True, help="Print what would end and end nothing.")
@click.pass_context
def end(context: click.Context, ids: tuple[str, ...], user: str | None, *, all_: bool, dry_run: bool) -> None:
    """End sessions at once: those with these IDs, as `list` prints them, or of a user, or all."""
    exclusive(context, "user", "all_")
    if bool(ids) == bool(user or all_):
        raise click.UsageError("either IDs, --user or --all are required", context)
    with configured(level=logging.WARNING) as settings:
        unknown = asyncio.run(_end(settings, frozenset(ids), user, dry_run=dry_run))
    if unknown:
        sys.exit(f"no such session: {', '.join(sorted(unknown))}")


async def _list(settings: Settings, user: str | None) -> None:
    async with connect(settings) as client:
        async for session in _sessions(SessionStore(client, settings), user):
            click.echo(_line(session))


async def _end(settings: Settings, ids: frozenset[str], user: str | None, *, dry_run: bool) -> frozenset[str]:
    """Ends sessions and prints them; returns the ids that no session has."""
    known = set()
    async with connect(settings) as client:
        store = SessionStore(client, settings)
        for session in [session async for session in _sessions(store, user)]:
            if not ids or _id(session) in ids:
                known.add(_id(session))
                if not dry_run:
                    await store.remove(session.key)
                click.echo(_line(session))
    return ids - known


async def _sessions(store: SessionStore, user: str | None) -> AsyncIterator[Session]:
    async for session in store.all():
        if user is None or session.user == user:
            yield session


def _id(session: Session) -> str:
    return session.key[:_ID_LENGTH]


def _line(session: Session) -> str:
    """Returns JSON in ASCII, so that no name can drive a terminal."""
    return json.dumps(
        {
            "id": _id(session),
            "user": session.user,
            "address": session.address,
            "created": format_instant(session.created),
            "seen": format_instant(session.seen),
        }
    )
