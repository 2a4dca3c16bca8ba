"""Makes the schema v2 document of a recording (docs/decisions/0002-schema-v2.md, es_mappings/v2/recordings.json)."""

from typing import Any

import msgspec

from app import codec
from app.recordings.identity import digest
from app.recordings.model import Recording
from app.search.fields import indexed

Document = dict[str, Any]


class Decision(msgspec.Struct, frozen=True, array_like=True):
    """The latest decision about protection from deletion that a recording has followed.

    `at` (milliseconds) and then `by` order all decisions. Of two concurrent decisions the later one stands.
    `pending` are the document ids of the screen recordings that have not followed this one yet.
    """

    at: int
    by: str
    pending: tuple[str, ...] = ()

    def is_before(self, other: "Decision") -> bool:
        return (self.at, self.by) < (other.at, other.by)


SCHEMA_VERSION = 2


def document_id(contact_center: str, region: str, recording_id: str) -> str:
    """Returns the `_id`: a digest, because the three may be longer than the 512 bytes that Elasticsearch allows."""
    return digest(contact_center, region, recording_id)


def to_document(contact_center: str, recording: Recording, decision: Decision | None = None) -> Document:
    """Returns the document of a recording in its stored form (`app.recordings.model`)."""
    document = {
        **to_source(contact_center, recording, decision),
        "schemaVersion": SCHEMA_VERSION,
        **indexed(recording),
    }
    if decision is not None:
        document["protectionPending"] = bool(decision.pending)
    return document


def to_source(contact_center: str, recording: Recording, decision: Decision | None = None) -> Document:
    """Returns the part of the document that `_source` keeps. Everything else is derived from it."""
    source = {"recording": codec.encode(recording).decode(), "contactCenter": contact_center}
    if decision is not None:
        source["protection"] = msgspec.json.encode(decision).decode()
    return source


def from_source(source: Document) -> Recording:
    """Returns the recording in a document's `_source`."""
    recording: Recording = codec.decode(source["recording"])
    return recording


def decision_of(source: Document) -> Decision | None:
    """Returns the decision about protection in a document's `_source`, None if there is none."""
    text = source.get("protection")
    return msgspec.json.decode(text, type=Decision) if text else None
