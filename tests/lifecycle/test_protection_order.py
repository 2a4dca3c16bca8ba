"""Changes of protection whose steps overlap (docs/decisions/0010-protection.md)."""

import asyncio
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from app.audit import AuditLog
from app.auth.scope import Scope
from app.lifecycle.protection import Protection, is_protected
from app.recordings.model import parse_recording
from app.services import open_services
from app.settings import Settings
from app.store.indices import create_indices
from tests.support.recordings import CONTACT_CENTER, REGION, a_recording

SCOPE = Scope(CONTACT_CENTER, REGION)


async def test_a_slow_apply_takes_nothing_along_after_a_later_unapply(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_services(settings, AuditLog(None), CollectorRegistry()) as services:
        await create_indices(services.client, settings)
        recordings, screens = services.repositories["recordings"], services.repositories["screen-recordings"]
        for repository in (recordings, screens):
            await repository.save(CONTACT_CENTER, parse_recording(a_recording("call")), by="ops")

        slow = Protection(recordings, screens)
        complete, has_committed, may_go_on = slow._complete, asyncio.Event(), asyncio.Event()

        async def complete_later(*arguments: Any, **named: Any) -> None:
            has_committed.set()
            await may_go_on.wait()
            await complete(*arguments, **named)

        monkeypatch.setattr(slow, "_complete", complete_later)
        applying = asyncio.create_task(slow.change(SCOPE, "call", protect=True, by="amy"))
        await has_committed.wait()
        await services.protection.change(SCOPE, "call", protect=False, by="ben")
        may_go_on.set()
        await applying

        assert [
            is_protected((await repository.get(SCOPE, "call")).recording) for repository in (recordings, screens)
        ] == [
            False,
            False,
        ]
