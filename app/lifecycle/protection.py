"""Protection from deletion, of a recording and the screen recordings that belong to it (docs/contract.md section 8).

One write of the recording commits the change, together with the list of screen recordings that must follow it. The
process that wrote it completes it; if that process dies, `repair` does. See docs/decisions/0010-protection.md.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable
from uuid import uuid4

import msgspec

from app.auth.scope import Scope
from app.background import concurrently
from app.errors import ElasticsearchUnavailable, RecordingChanged
from app.recordings.identity import Resource
from app.recordings.model import Recording
from app.store.documents import Hold, ProtectionChange
from app.store.journal import now_milliseconds
from app.store.repository import ProtectionState, RecordingRepository, StoredRecording, Update

log = logging.getLogger(__name__)

_CONCURRENCY = 10

# The process that made a younger change is probably still completing it.
_ABANDONED_SECONDS = 10.0

TookAlong = Callable[[str], object]


def _ignore(_screen_recording_id: str) -> None:
    pass


class Protection:
    """Changes the protection of recordings, and completes every change.

    Every method raises ElasticsearchUnavailable when Elasticsearch is away or overloaded.
    """

    def __init__(self, recordings: RecordingRepository, screen_recordings: RecordingRepository) -> None:
        self._recordings = recordings
        self._screen_recordings = screen_recordings
        self._slots = asyncio.Semaphore(_CONCURRENCY)
        for repository in (recordings, screen_recordings):
            repository.settle_hold = self.settle

    async def change(
        self,
        scope: Scope,
        recording_id: str,
        *,
        protect: bool,
        by: str,
        reason: str | None = None,
        took_along: TookAlong = _ignore,
        begun_at: int | None = None,
    ) -> None:
        """Protects a recording and its screen recordings, or ends their protection; `by` is the user's name.

        A recording that is protected already stays protected by the same user for the same reason, unless another
        `reason` is given.

        `took_along` gets the id of each screen recording that has followed. `begun_at` (milliseconds since 1970) is for
        a change that an interrupted attempt, begun then, may have made already: a change since then stands, and if it
        says otherwise RecordingChanged is raised.

        Raises RecordingNotFound. When it protects, it raises MediaBeingDeleted while a deletion that began before may
        delete one of their media objects; the protection stands all the same, and repeating the call is safe.
        """
        group: Collection[str] = ()

        async def decide(stored: StoredRecording) -> Update | None:
            nonlocal group
            protection = stored.protection
            settled, latest, associated = True, _decided_at(protection), list[str]()
            async for screen in self._screen_recordings.associated(stored):
                associated.append(screen.document_id)
                settled = settled and _has_followed(screen, stored.document_id, protect=protect)
                latest = max(latest, _decided_at(screen.change))
            standing = _standing(stored, reason) if protect else None
            unfinished = protection.pending if protection else ()
            # Whoever was taken along follows, also if its callUUID or the recording's has changed since.
            taken = protection.taken if protection else ()
            group = pending = dict.fromkeys([*associated, *taken, *unfinished])
            if begun_at is not None and protection is not None and protection.decided_at >= begun_at:
                # By the clock of another process, which may be ahead: then it was no attempt of ours.
                if is_protected(stored.recording) != protect:
                    raise RecordingChanged(recording_id)
                return None
            needs_mark = standing is None if protect else is_protected(stored.recording)
            if not unfinished and settled and not needs_mark:
                return None
            change = ProtectionChange(
                decided_at=await self._next_instant(latest, pending.keys() - associated),
                change_id=uuid4().hex,
                pending=tuple(pending),
                taken=tuple(pending),
                by=by,
                reason=reason,
                history=protection.history if protection else uuid4().hex,
                version=protection.version if protection else "",
            )
            if standing is not None:
                since = standing.since or standing.decided_at
                change = msgspec.structs.replace(change, by=standing.by, reason=standing.reason, since=since)
            return _marked(stored, change, protect=protect)

        stored, update = await self._recordings.update(scope, recording_id, decide)
        if stored is not None and update is not None and update.protection is not None:
            await self._complete(stored.document_id, update.protection, took_along, protect=protect)
        elif stored is not None:
            await self.complete(stored)
        if protect:
            protected = update or stored
            assert protected is not None
            await self._keep_media(protected.recording, group)

    async def _keep_media(self, recording: Recording, screens: Iterable[str]) -> None:
        """As `RecordingRepository.keep_media`, for a recording and its screen recordings.

        The screen recordings are read again, a few concurrently: a media file that was deleted before its recording was
        protected is no longer in it.
        """

        async def keep(document: str) -> None:
            async with self._slots:
                screen = await self._screen_recordings.read(document)
                if screen is not None:
                    await self._screen_recordings.keep_media([screen.recording])

        await concurrently([self._recordings.keep_media([recording]), *map(keep, screens)])

    async def complete(self, stored: StoredRecording) -> None:
        """Completes the protection change of a recording, if some screen recordings have yet to follow it."""
        if stored.protection is not None and stored.protection.pending:
            await self._complete(stored.document_id, stored.protection, _ignore, protect=is_protected(stored.recording))

    async def settle(self, stored: StoredRecording, resource: Resource) -> None:
        """Stores who holds whom, for a hold of version 0.1.0: until then only their calls tell."""
        if resource == "recordings":
            await self._settle(stored.document_id)
            return
        # All of them first, because a page of a search would miss what changes meanwhile.
        for document in [recording.document_id async for recording in self._recordings.associated(stored)]:
            await self._settle(document)

    async def settle_all(self) -> int:
        """As `settle`, for all holds; returns the number of recordings whose hold has got its screen recordings."""
        settled = 0
        async for documents in self._recordings.holds_known_by_call():
            settled += sum([await self._settle(document) for document in documents])
        return settled

    async def _settle(self, document: str) -> bool:
        """Makes a protected recording a holder of the screen recordings that it must have taken along."""

        async def decide(stored: StoredRecording | None) -> Update | None:
            if stored is None or stored.protection is None or not is_protected(stored.recording):
                return None
            change = stored.protection
            taken = [
                screen.document_id
                async for screen in self._screen_recordings.associated(stored)
                if screen.document_id not in change.taken and _may_be_held(screen, document)
            ]
            if not taken:
                return None
            change = msgspec.structs.replace(
                change,
                pending=(*change.pending, *taken),
                taken=(*change.taken, *taken),
                history=change.history or uuid4().hex,
            )
            return Update(stored.contact_center, stored.recording, change)

        _, update = await self._recordings.update_document(document, decide)
        if update is None or update.protection is None:
            return False
        await self._complete(document, update.protection, _ignore, protect=True)
        return True

    async def repair(self, *, older_than_seconds: float = _ABANDONED_SECONDS) -> int:
        """Completes the changes that were left incomplete; returns their number.

        One that cannot be completed holds up no other; its error is raised at the end.
        """
        repaired, failed = 0, None
        for document in await self._recordings.pending():
            try:
                stored = await self._recordings.read(document)
                if (
                    stored is not None
                    and stored.protection is not None
                    and stored.protection.pending
                    and stored.protection.decided_at <= now_milliseconds() - older_than_seconds * 1000
                ):
                    await self.complete(stored)
                    repaired += 1
            except ElasticsearchUnavailable:
                raise
            except Exception as error:
                log.exception("the protection change of the document %s cannot be completed", document)
                failed = error
        if repaired:
            log.warning("completed %d protection changes that were left incomplete", repaired)
        if failed is not None:
            raise failed
        return repaired

    async def _next_instant(self, latest: int, screens: Iterable[str]) -> int:
        """Returns a time later than the `latest` and than the changes of these screen recordings.

        It is so even if the clock of another process is ahead.
        """
        for document in screens:
            screen = await self._screen_recordings.read(document)
            latest = max(latest, _decided_at(screen.protection if screen else None))
        return max(now_milliseconds(), latest + 1)

    async def _complete(self, document: str, change: ProtectionChange, took_along: TookAlong, *, protect: bool) -> None:
        await concurrently(
            self._follow(screen, document, change, took_along, protect=protect) for screen in change.pending
        )
        if not change.pending:
            return

        async def remove_pending(stored: StoredRecording | None) -> Update | None:
            # A later change has taken over the list.
            if stored is None or stored.protection is None or stored.protection.change_id != change.change_id:
                return None
            # Of what is stored now: an update since has added a former version.
            done = msgspec.structs.replace(stored.protection, pending=(), taken=change.taken if protect else ())
            return Update(stored.contact_center, stored.recording, done)

        await self._recordings.update_document(document, remove_pending)

    async def _follow(
        self, document: str, holder: str, change: ProtectionChange, took_along: TookAlong, *, protect: bool
    ) -> None:
        """Lets a screen recording follow a change of the recording `holder`. It is protected while any holds it."""

        async def follow(stored: StoredRecording | None) -> Update | None:
            if stored is None:
                return None
            before = stored.protection
            holders = await self._holders(stored, holder, change)
            known = holders.get(holder)
            if known is not None and not _is_before(known, change):
                return None
            # Also what was never taken along is marked, or a slower apply would take it along after this unapply.
            holders[holder] = Hold(change.decided_at, change.change_id, protect, change.by, change.reason, change.since)
            latest = change if before is None or before.is_before(change) else before
            followed = ProtectionChange(
                latest.decided_at,
                latest.change_id,
                holders=holders,
                history=before.history if before else uuid4().hex,
                version=before.version if before else "",
            )
            return _marked(stored, followed, protect=followed.is_held())

        async with self._slots:
            screen, update = await self._screen_recordings.update_document(document, follow)
        if screen is not None and update is not None and (protect or is_protected(screen.recording)):
            took_along(screen.recording["id"])

    async def _holders(self, screen: StoredRecording, holder: str, change: ProtectionChange) -> dict[str, Hold]:
        """Returns a copy of the holders of a screen recording.

        Version 0.1.0 recorded none. Then they are the protected recordings that share a call with it, whatever
        `holder` and the `change` to follow say. Every recording that may hold it is among them.
        """
        before = screen.protection
        if before is not None and before.holders:
            return dict(before.holders)
        if not is_protected(screen.recording):
            if before is not None and not before.is_before(change):  # it has followed a later change of 0.1.0
                return {holder: Hold(before.decided_at, before.change_id, protects=False)}
            return {}
        return {
            other.document_id: Hold(other.change.decided_at, other.change.change_id, protects=True)
            async for other in self._recordings.associated(screen)
            if other.document_id != holder and other.change is not None and other.is_protected
        }


def is_protected(recording: Recording) -> bool:
    """Returns whether a recording in its stored form is protected from deletion."""
    return bool(recording.get("nonDelete", False))


def _standing(stored: StoredRecording, reason: str | None) -> ProtectionChange | None:
    """Returns the change by which a recording is protected already; None if there is more to state.

    Version 0.1.0 did not store by whom.
    """
    change = stored.protection
    if change is None or not change.by or not is_protected(stored.recording):
        return None
    return change if reason in {None, change.reason} else None


def _decided_at(change: ProtectionChange | None) -> int:
    return change.decided_at if change else 0


def _has_followed(screen: ProtectionState, holder: str, *, protect: bool) -> bool:
    """Returns whether a screen recording needs no change to be held by a recording, or not to be."""
    if screen.change is None or not screen.change.holders:
        # From before holders were recorded: when it is protected, its holders are found when it follows.
        return not protect and not screen.is_protected
    hold = screen.change.holders.get(holder)
    return (hold is not None and hold.protects) == protect


def _may_be_held(screen: ProtectionState, holder: str) -> bool:
    """Returns whether a screen recording is held by a recording, or was protected before holders were recorded."""
    if screen.change is None or not screen.change.holders:
        return screen.is_protected
    hold = screen.change.holders.get(holder)
    return hold is not None and hold.protects


def _is_before(hold: Hold, change: ProtectionChange) -> bool:
    return (hold.decided_at, hold.change_id) < (change.decided_at, change.change_id)


def _marked(stored: StoredRecording, change: ProtectionChange, *, protect: bool) -> Update:
    recording = {key: value for key, value in stored.recording.items() if key != "nonDelete"}
    if protect:
        recording["nonDelete"] = True
    return Update(stored.contact_center, recording, change)
