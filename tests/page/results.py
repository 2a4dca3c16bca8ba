"""Recordings to search, and the service that all modules of a worker share, because its indices take seconds."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from app.settings import User
from app.store.client import connect
from tests.support.recordings import CONTACT_CENTER, a_media_file, a_recording, a_user, an_event, store_many
from tests.support.service import PATIENT, USERS, Service, hash_password, own_settings
from tests.support.sizes import size

# With --full more than a page of results holds.
MANY = size(30, full=110)
ALL = 3 + MANY

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOSTILE = '<img src=x onerror="alert(1)">\'<script>alert(2)</script>\u202egnp\u202c&amp;'


def at(minutes: float, **attributes: Any) -> dict[str, Any]:
    """A media file that begins so many minutes after START, and lasts 90 seconds."""
    start = START + timedelta(minutes=minutes)
    stop = start + timedelta(seconds=90)
    return a_media_file(f"{minutes}.wav", startTime=start.isoformat(), stopTime=stop.isoformat(), **attributes)


def recordings() -> list[dict[str, Any]]:
    alice = an_event(contact=a_user("Alice", "Amber", userName="alice@x"), data={"case": "CASE-1", "n": 1.1})
    data = {f"key{i}": f"value {i}" for i in range(8)}
    bob = an_event(contact=a_user("Bob", "Blue", userName="bob@x"), data=data, occurredAt="2026-03-01T00:00:00Z")
    hostile = an_event(
        contact=a_user(HOSTILE, "x" * 5_000, userName=HOSTILE), data={HOSTILE: HOSTILE, "k": "v" * 5_000}
    )
    return [
        a_recording("first/1", mediaFiles=[at(0, type="audio/wav")], eventHistory=[alice]),
        a_recording("second", mediaFiles=[at(1, type="audio/mp3"), at(2, type="video/mp4")], eventHistory=[alice, bob]),
        a_recording(f"h {HOSTILE}"[:60], mediaFiles=[at(3)], eventHistory=[hostile], callerPhoneNumber=HOSTILE),
        *(a_recording(f"many {i:03}", mediaFiles=[at(60 + i)], dialedPhoneNumber=f"+49{i:03}") for i in range(MANY)),
    ]


def users() -> tuple[User, ...]:
    """The usual ones; of the supervisors one sees all and changes nothing, one protects, and one sees nothing."""
    supervisor = next(user for user in USERS if user.name == "supervisor")
    reader = msgspec.structs.replace(supervisor, access_groups=("/",))
    protector = User(
        "protector",
        hash_password("protector-password"),
        ("supervisor",),
        CONTACT_CENTER,
        access_groups=("/",),
        permissions=("RECORDING_PERMISSION_APPLY_NON_DELETE", "RECORDING_PERMISSION_UNAPPLY_NON_DELETE"),
    )
    nobody = User("nobody", hash_password("nobody-password"), ("supervisor",), CONTACT_CENTER)
    return (*(user for user in USERS if user is not supervisor), reader, protector, nobody)


@asynccontextmanager
async def service_with_results(elasticsearch_url: str) -> AsyncIterator[Service]:
    """A service with ALL recordings. A test leaves them as they were."""
    async with own_settings(elasticsearch_url) as settings:
        service = Service(msgspec.structs.replace(settings, users=users(), **PATIENT))
        await service.start()
        async with connect(settings) as client:
            await store_many(client, settings, recordings())
        yield service
        await service.stop()
