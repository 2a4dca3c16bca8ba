"""Protection from deletion, of a recording and the screen recordings that belong to it (CONTRACT.md section 8).

The decision and the list of screen recordings that must follow it are written with the recording, in one write: from
then on it will be completed, by whoever made it or by `repair`. See docs/decisions/0010-protection.md.
"""

import asyncio
import logging
from collections.abc import Sequence
from uuid import uuid4

import msgspec

from app.auth.scope import Scope
from app.recordings.model import Recording
from app.store.documents import Decision
from app.store.journal import now_milliseconds
from app.store.repository import RecordingRepository, Stored, pause_after_conflict

log = logging.getLogger(__name__)

_AT_ONCE = 10

# A decision that is younger is probably being completed by whoever made it.
_ABANDONED_SECONDS = 10.0


class Protection:
    """Decides about protection, and sees every decision through.

    Every method raises StoreUnavailable when Elasticsearch is away or overloaded.
    """

    def __init__(self, recordings: RecordingRepository, screen_recordings: RecordingRepository) -> None:
        self._recordings = recordings
        self._screen_recordings = screen_recordings
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def change(self, scope: Scope, recording_id: str, *, protect: bool) -> None:
        """Protects a recording with its screen recordings, or no longer; raises RecordingNotFound."""
        conflicts = 0
        while True:
            stored = await self._recordings.get(scope, recording_id)
            screens = await self._screen_recordings.associated(stored)
            unfinished = stored.decision.pending if stored.decision else ()
            if not unfinished and all(is_protected(other.recording) == protect for other in [stored, *screens]):
                return
            decision = await self._next_decision(stored, screens, unfinished)
            if await self._recordings.replace(stored, _marked(stored.recording, protect=protect), decision):
                break
            conflicts += 1
            await pause_after_conflict(conflicts)
        await self._complete(stored.document, decision, protect=protect)

    async def settle(self, stored: Stored) -> None:
        """Completes what was decided about a recording."""
        if stored.decision is not None and stored.decision.pending:
            await self._complete(stored.document, stored.decision, protect=is_protected(stored.recording))

    async def repair(self, *, older_than_seconds: float = _ABANDONED_SECONDS) -> int:
        """Completes decisions that were left half done, and returns how many."""
        repaired = 0
        for document in await self._recordings.pending():
            stored = await self._recordings.read(document)
            if (
                stored is not None
                and stored.decision is not None
                and stored.decision.pending
                and stored.decision.at <= now_milliseconds() - older_than_seconds * 1000
            ):
                await self.settle(stored)
                repaired += 1
        if repaired:
            log.warning("completed %d decisions about protection that were left half done", repaired)
        return repaired

    async def _next_decision(self, stored: Stored, screens: Sequence[Stored], unfinished: Sequence[str]) -> Decision:
        """A decision after every one that was seen, whatever the clocks of those who made them said."""
        pending = dict.fromkeys(screen.document for screen in screens)
        left_over = [await self._screen_recordings.read(screen) for screen in unfinished if screen not in pending]
        seen = [other.decision for other in [stored, *screens, *left_over] if other is not None]
        latest = max((decision.at for decision in seen if decision is not None), default=0)
        pending |= dict.fromkeys(unfinished)
        return Decision(at=max(now_milliseconds(), latest + 1), by=uuid4().hex, pending=tuple(pending))

    async def _complete(self, document: str, decision: Decision, *, protect: bool) -> None:
        async with asyncio.TaskGroup() as tasks:
            for screen in decision.pending:
                tasks.create_task(self._follow(screen, decision, protect=protect))
        conflicts = 0
        while True:
            stored = await self._recordings.read(document)
            # Whoever decided since has taken over the list.
            if stored is None or stored.decision is None or stored.decision.by != decision.by:
                return
            done = msgspec.structs.replace(decision, pending=())
            if not decision.pending or await self._recordings.replace(stored, stored.recording, done):
                return
            conflicts += 1
            await pause_after_conflict(conflicts)

    async def _follow(self, document: str, decision: Decision, *, protect: bool) -> None:
        followed = msgspec.structs.replace(decision, pending=())
        conflicts = 0
        async with self._slots:
            while True:
                stored = await self._screen_recordings.read(document)
                if stored is None or (stored.decision is not None and not stored.decision.is_before(decision)):
                    return
                marked = _marked(stored.recording, protect=protect)
                if await self._screen_recordings.replace(stored, marked, followed):
                    return
                conflicts += 1
                await pause_after_conflict(conflicts)


def is_protected(recording: Recording) -> bool:
    return bool(recording.get("nonDelete", False))


def _marked(recording: Recording, *, protect: bool) -> Recording:
    unmarked = {key: value for key, value in recording.items() if key != "nonDelete"}
    return {**unmarked, "nonDelete": True} if protect else unmarked
