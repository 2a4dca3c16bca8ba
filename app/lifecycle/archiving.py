"""Turns a stored recording into the content of a backup, and back (`app.recordings.backup`)."""

from collections.abc import Mapping, Sequence
from uuid import uuid4

import msgspec

from app import codec
from app.background import apart
from app.lifecycle.labels import Labelling
from app.media.archives import LONGEST_FILE
from app.recordings.backup import (
    FORMAT,
    ArchivedDefinition,
    ArchivedHold,
    ArchivedLabel,
    ArchivedProtection,
    ArchivedRecording,
    ArchivedVersion,
    Reference,
)
from app.recordings.identity import Resource, encode_segment
from app.recordings.labels import Definitions, name_key
from app.recordings.mapping import Destination
from app.recordings.render import MediaAddresses
from app.recordings.text import TextRenderer
from app.store.documents import Hold, ProtectionChange, Source, document_id, state_of, to_source
from app.store.repository import RecordingRepository, StoredRecording
from app.store.versions import FormerVersion


class VersionsMissing(Exception):
    """A recording names a former version that is not there: it was deleted meanwhile, or Elasticsearch has lost it."""


class TooLong(Exception):
    """A recording has so many former versions that its recording.json would have more than LONGEST_FILE bytes."""


class Archiving:
    """Reads all that a backup keeps of a recording. Raises as the stores do."""

    def __init__(self, repositories: Mapping[Resource, RecordingRepository], labelling: Labelling) -> None:
        self._repositories = repositories
        self._labelling = labelling

    async def content(self, resource: Resource, stored: StoredRecording) -> bytes:
        """Returns the content of recording.json: the same bytes as long as nothing of it has changed.

        Raises TooLong, before it reads what would be, and VersionsMissing.
        """
        definitions = await self._labelling.definitions(stored.contact_center) if stored.labels else {}
        versions = await self._versions(resource, stored)
        protection = await self._protection(resource, stored.protection) if stored.protection else None
        size = sum(len(version.recording) for version in versions)
        content = await apart(size, _content, resource, stored, definitions, versions, protection)
        if len(content) > LONGEST_FILE:
            raise TooLong
        return content

    async def _versions(self, resource: Resource, stored: StoredRecording) -> list[FormerVersion]:
        if stored.protection is None or not stored.protection.version:
            return []
        repository = self._repositories[resource]
        chain = await repository.versions(stored)
        if sum(version.bytes for version in chain) > LONGEST_FILE:
            raise TooLong
        versions = [version async for version in repository.version_store.with_content(chain)]
        # An archive may have the only copy of one that is missing here.
        if not versions or versions[0].previous or len(versions) < len(chain):
            raise VersionsMissing
        return versions

    async def _protection(self, resource: Resource, change: ProtectionChange) -> ArchivedProtection:
        other: Resource = "screen-recordings" if resource == "recordings" else "recordings"
        holders = [
            ArchivedHold(
                await self._reference(other, document),
                hold.decided_at,
                hold.change_id,
                hold.protects,
                hold.by,
                hold.reason,
                hold.since,
            )
            for document, hold in change.holders.items()
        ]
        return ArchivedProtection(
            change.decided_at,
            change.change_id,
            change.by,
            change.reason,
            change.since,
            await self._references(other, sorted({*change.pending, *change.taken})),
            holders,
        )

    async def _references(self, resource: Resource, documents: Sequence[str]) -> list[Reference]:
        return [await self._reference(resource, document) for document in documents]

    async def _reference(self, resource: Resource, document: str) -> Reference:
        stored = await self._repositories[resource].read(document)
        if stored is None:
            return Reference(document)
        return Reference(document, stored.recording["region"], stored.recording["id"])


def as_ops_reads_it(stored: StoredRecording, definitions: Definitions) -> bytes:
    """Returns what an ops client reads, without the host in its URIs, which is none of the recording's."""
    source = msgspec.convert(
        to_source(stored.contact_center, stored.recording, stored.protection, stored.labels), Source
    )
    prefix = f"/ops/contact-centers/{encode_segment(stored.contact_center)}"
    renderer = TextRenderer(MediaAddresses("", prefix, descriptors=True))
    return renderer.render(source.recording, state_of(source, source.recording, definitions))


def protection_from(archived: ArchivedProtection, contact_center: str, destination: Destination) -> ProtectionChange:
    """Returns the protection of a recording that is restored to a contact center.

    The screen recordings that it took along follow it again, because they may be there already. The history of former
    versions begins anew: a deletion of the recording may still be deleting those of the old one.
    """

    def document(reference: Reference) -> str:
        if reference.id is None or reference.region is None:
            return reference.document
        return document_id(contact_center, destination.region(reference.region), reference.id)

    taken = tuple(document(one) for one in archived.taken)
    return ProtectionChange(
        archived.decided_at,
        archived.change_id,
        pending=taken,
        taken=taken,
        holders={
            document(one.holder): Hold(one.decided_at, one.change_id, one.protects, one.by, one.reason, one.since)
            for one in archived.holders
        },
        by=archived.by,
        reason=archived.reason,
        since=archived.since,
        history=uuid4().hex,
    )


def _content(
    resource: Resource,
    stored: StoredRecording,
    definitions: Definitions,
    versions: Sequence[FormerVersion],
    protection: ArchivedProtection | None,
) -> bytes:
    labels = stored.labels
    used = [definitions[name_key(label.name)] for label in labels or () if name_key(label.name) in definitions]
    archived = ArchivedRecording(
        format=FORMAT,
        resource=resource,
        contact_center=stored.contact_center,
        region=stored.recording["region"],
        recording=msgspec.Raw(as_ops_reads_it(stored, definitions)),
        labels=None
        if labels is None
        else [ArchivedLabel(one.name, one.display_name, one.by, one.at, one.given, one.comment) for one in labels],
        label_definitions=[ArchivedDefinition(one.name, one.display_name, one.description) for one in used],
        protection=protection,
        versions=[
            ArchivedVersion(version.at, version.by, msgspec.Raw(codec.encode(version.content())))
            for version in versions
        ],
    )
    return codec.encode(archived) + b"\n"
