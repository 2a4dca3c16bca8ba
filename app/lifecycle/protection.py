"""Protection from deletion, of a recording and the screen recordings that belong to it (docs/contract.md section 8).

One write of the recording commits the change, together with the list of screen recordings that must follow it. The
process that wrote it completes it; if that process dies, `repair` does. See docs/decisions/0010-protection.md.
"""

import asyncio
import logging
from collections.abc import Sequence
from uuid import uuid4

import msgspec

from app.auth.scope import Scope
from app.recordings.model import Recording
from app.store.documents import ProtectionChange
from app.store.journal import now_milliseconds
from app.store.repository import RecordingRepository, StoredRecording, Update

log = logging.getLogger(__name__)

_CONCURRENCY = 10

# The process that made a younger change is probably still completing it.
_ABANDONED_SECONDS = 10.0


class Protection:
    """Changes the protection of recordings, and completes every change.

    Every method raises ElasticsearchUnavailable when Elasticsearch is away or overloaded.
    """

    def __init__(self, recordings: RecordingRepository, screen_recordings: RecordingRepository) -> None:
        self._recordings = recordings
        self._screen_recordings = screen_recordings
        self._slots = asyncio.Semaphore(_CONCURRENCY)

    async def change(self, scope: Scope, recording_id: str, *, protect: bool) -> None:
        """Protects a recording and its screen recordings, or ends their protection.

        Raises RecordingNotFound. When it protects, it raises MediaBeingDeleted while a deletion that began before may
        delete one of their media objects; the protection stands all the same, and repeating the call is safe.
        """
        group: list[StoredRecording] = []

        async def decide(stored: StoredRecording) -> Update | None:
            nonlocal group
            screens = await self._screen_recordings.associated(stored)
            group = [stored, *screens]
            unfinished = stored.protection.pending if stored.protection else ()
            if not unfinished and all(is_protected(other.recording) == protect for other in [stored, *screens]):
                return None
            change = await self._next_change(stored, screens, unfinished)
            return _marked(stored, change, protect=protect)

        stored, update = await self._recordings.update(scope, recording_id, decide)
        if stored is not None and update is not None and update.protection is not None:
            await self._complete(stored.document_id, update.protection, protect=protect)
        if protect:
            await self._recordings.keep_media(protected.recording for protected in group)

    async def complete(self, stored: StoredRecording) -> None:
        """Completes the protection change of a recording, if some screen recordings have yet to follow it."""
        if stored.protection is not None and stored.protection.pending:
            await self._complete(stored.document_id, stored.protection, protect=is_protected(stored.recording))

    async def repair(self, *, older_than_seconds: float = _ABANDONED_SECONDS) -> int:
        """Completes the changes that were left incomplete; returns their number."""
        repaired = 0
        for document in await self._recordings.pending():
            stored = await self._recordings.read(document)
            if (
                stored is not None
                and stored.protection is not None
                and stored.protection.pending
                and stored.protection.decided_at <= now_milliseconds() - older_than_seconds * 1000
            ):
                await self.complete(stored)
                repaired += 1
        if repaired:
            log.warning("completed %d protection changes that were left incomplete", repaired)
        return repaired

    async def _next_change(
        self, stored: StoredRecording, screens: Sequence[StoredRecording], unfinished: Sequence[str]
    ) -> ProtectionChange:
        """Returns a change that is later than all that were read, even if the clock of another process is ahead."""
        pending = dict.fromkeys(screen.document_id for screen in screens)
        left_over = [await self._screen_recordings.read(screen) for screen in unfinished if screen not in pending]
        seen = [other.protection for other in [stored, *screens, *left_over] if other is not None]
        latest = max((change.decided_at for change in seen if change is not None), default=0)
        pending |= dict.fromkeys(unfinished)
        return ProtectionChange(
            decided_at=max(now_milliseconds(), latest + 1), change_id=uuid4().hex, pending=tuple(pending)
        )

    async def _complete(self, document: str, change: ProtectionChange, *, protect: bool) -> None:
        async with asyncio.TaskGroup() as tasks:
            for screen in change.pending:
                tasks.create_task(self._follow(screen, change, protect=protect))

        if not change.pending:
            return

        async def remove_pending(stored: StoredRecording | None) -> Update | None:
            # A later change has taken over the list.
            if stored is None or stored.protection is None or stored.protection.change_id != change.change_id:
                return None
            return Update(stored.contact_center, stored.recording, msgspec.structs.replace(change, pending=()))

        await self._recordings.update_document(document, remove_pending)

    async def _follow(self, document: str, change: ProtectionChange, *, protect: bool) -> None:
        followed = msgspec.structs.replace(change, pending=())

        async def follow(stored: StoredRecording | None) -> Update | None:
            if stored is None or (stored.protection is not None and not stored.protection.is_before(change)):
                return None
            return _marked(stored, followed, protect=protect)

        async with self._slots:
            await self._screen_recordings.update_document(document, follow)


def is_protected(recording: Recording) -> bool:
    """Returns whether a recording in its stored form is protected from deletion."""
    return bool(recording.get("nonDelete", False))


def _marked(stored: StoredRecording, change: ProtectionChange, *, protect: bool) -> Update:
    recording = {key: value for key, value in stored.recording.items() if key != "nonDelete"}
    if protect:
        recording["nonDelete"] = True
    return Update(stored.contact_center, recording, change)
