"""The schema v2 document of a recording (docs/decisions/0002-schema-v2.md, es_mappings/v2/recordings.json)."""

from typing import Any

import msgspec

from app.recordings.dates import format_instant
from app.recordings.identity import digest
from app.recordings.labels import Definitions, Labels
from app.recordings.model import Recording
from app.recordings.text import from_text, is_protected, to_text
from app.search.fields import LABEL_NAMES, indexed

Document = dict[str, Any]


class Hold(msgspec.Struct, frozen=True, array_like=True):
    """The latest change of a recording's protection that a screen recording has followed.

    It `protects` the screen recording, or does no longer. `by`, `reason` and `since` are those of the change.
    """

    decided_at: int
    change_id: str
    protects: bool
    by: str = ""
    reason: str | None = None
    since: int = 0


class ProtectionChange(msgspec.Struct, frozen=True, array_like=True):
    """The latest change of a recording's protection, made for it or followed by it.

    `decided_at` (milliseconds since 1970) and then `change_id` order all changes. Of two concurrent changes of one
    recording the later one stands. `by` is the name of the user; `reason` is what the user gave; `since` is when the
    user did so, if that was another time (milliseconds since 1970): a change may only take more along.

    Of a recording: `pending` are the document ids of the screen recordings that have not followed this change yet,
    `taken` of all that its hold has taken along. Of a screen recording: `holders` are the latest changes that it has
    followed, by the document id of the recording. Version 0.1.0 stored neither `taken` nor `holders`.

    `history` is made with the first change, and stays. It names the recording in `app.store.versions`. `version` is the
    key of its latest former version there, "" if it has none.
    """

    decided_at: int
    change_id: str
    pending: tuple[str, ...] = ()
    taken: tuple[str, ...] = ()
    holders: dict[str, Hold] = {}
    by: str = ""
    reason: str | None = None
    history: str = ""
    version: str = ""
    since: int = 0

    def is_before(self, other: "ProtectionChange") -> bool:
        return (self.decided_at, self.change_id) < (other.decided_at, other.change_id)

    def is_held(self) -> bool:
        """Returns whether any recording holds the screen recording."""
        return any(hold.protects for hold in self.holders.values())


class Source(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """A document's `_source` as it was read: the recording, the protection and the labels are still JSON text."""

    recording: str
    contact_center: str
    protection: str | None = None
    labels: str | None = None

    @property
    def has_labels(self) -> bool:
        return self.labels not in {None, "[]"}


class ProtectionSource(msgspec.Struct, frozen=True, gc=False):
    """The part of a document's `_source` that tells its protection."""

    protection: str | None = None


SCHEMA_VERSION = 2

_labels_decoder = msgspec.json.Decoder(Labels)


def document_id(contact_center: str, region: str, recording_id: str) -> str:
    """Returns the `_id`: a digest, because the three may be longer than the 512 bytes that Elasticsearch allows."""
    return digest(contact_center, region, recording_id)


def to_document(
    contact_center: str,
    recording: Recording,
    protection: ProtectionChange | None = None,
    labels: Labels | None = None,
) -> Document:
    """Returns the document of a recording in its stored form (`app.recordings.model`).

    None for the labels of one that never had any.
    """
    source = to_source(contact_center, recording, protection, labels)
    document = {
        **source,
        "recordingBytes": len(source["recording"].encode()),
        "schemaVersion": SCHEMA_VERSION,
        **indexed(recording),
    }
    if protection is not None:
        document["protectionPending"] = bool(protection.pending)
    if labels:
        document |= LABEL_NAMES.index_values(label.name for label in labels)
    return document


def to_source(
    contact_center: str,
    recording: Recording,
    protection: ProtectionChange | None = None,
    labels: Labels | None = None,
) -> Document:
    """Returns the part of the document that `_source` keeps. Everything else is derived from it."""
    source = {"recording": to_text(recording), "contactCenter": contact_center}
    if protection is not None:
        source["protection"] = msgspec.json.encode(protection).decode()
    if labels is not None:
        source["labels"] = msgspec.json.encode(labels).decode()
    return source


def from_source(source: Document) -> Recording:
    """Returns the recording in a document's `_source`."""
    return from_text(source["recording"])


def protection_of(source: Document) -> ProtectionChange | None:
    """Returns the protection change in a document's `_source`, None if there is none."""
    return protection_from(source.get("protection"))


def state_of(source: Source, text: str, definitions: Definitions) -> dict[str, Any]:
    """Returns the attributes that a client reads beside those in the recording's marked text.

    They are what changes without the recording: who protected it, and labels, which have the display names of their
    definitions (docs/contract.md section 4).
    """
    state: dict[str, Any] = {}
    if is_protected(text) and (non_deletion := _non_deletion(protection_from(source.protection))):
        state["nonDeletion"] = non_deletion
    if labels := labels_from(source.labels):
        state["labels"] = [label.rendered(definitions) for label in labels]
    return state


def _non_deletion(change: ProtectionChange | None) -> dict[str, Any] | None:
    """Returns who protected a recording, when and why, None if that is unknown: version 0.1.0 stored no names.

    A screen recording names the first of those who hold it.
    """
    if change is None:
        return None
    holds = (hold for hold in change.holders.values() if hold.protects)
    stated = min(holds, key=lambda hold: hold.since or hold.decided_at, default=change)
    if not stated.by:
        return None
    non_deletion = {"by": stated.by, "at": format_instant(stated.since or stated.decided_at)}
    return non_deletion if stated.reason is None else non_deletion | {"reason": stated.reason}


def protection_from(text: str | None) -> ProtectionChange | None:
    """Returns the protection change of a text in `_source`, None if there is none."""
    return msgspec.json.decode(text, type=ProtectionChange) if text else None


def labels_of(source: Document) -> Labels | None:
    """Returns the labels in a document's `_source`, None if it never had any."""
    return labels_from(source.get("labels"))


def labels_from(text: str | None) -> Labels | None:
    """Returns the labels of a text in `_source`, None if there is none."""
    return None if text is None else _labels_decoder.decode(text)
