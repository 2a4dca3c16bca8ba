"""A recording → its schema v2 document (docs/decisions/0002-schema-v2.md and es_mappings/v2/recordings.json)."""

from base64 import urlsafe_b64encode
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from typing import Any

import msgspec

from app import codec
from app.recordings.dates import parse_instant
from app.recordings.identity import media_object
from app.recordings.model import Recording
from app.search.query import MAX_KEYWORD_LENGTH
from app.search.trigrams import tokens_of_value

Document = dict[str, Any]


class Decision(msgspec.Struct, frozen=True, array_like=True):
    """The latest decision about protection from deletion that a recording has followed.

    `at` (milliseconds) and then `by` put all decisions in order: of two that meet, the later one stands.
    `pending` are the document ids of the screen recordings that still have to follow this one.
    """

    at: int
    by: str
    pending: tuple[str, ...] = ()

    def is_before(self, other: "Decision") -> bool:
        return (self.at, self.by) < (other.at, other.by)


SCHEMA_VERSION = 2

_MAX_KEYWORD_BYTES = 32_766


def document_id(contact_center: str, region: str, recording_id: str) -> str:
    """The `_id`: a digest, because Elasticsearch allows 512 bytes and the three together may have more."""
    return _digest(contact_center, region, recording_id)


def to_document(contact_center: str, recording: Recording, decision: Decision | None = None) -> Document:
    """The document of a recording in its stored form (`app.recordings.model`)."""
    names = list(dict.fromkeys(_user_names(recording)))
    data = list(dict.fromkeys(_user_data(recording)))
    document = {
        **to_source(contact_center, recording, decision),
        "schemaVersion": SCHEMA_VERSION,
        "region": _keyword(recording["region"]),
        "id": recording["id"],
        "startTime": parse_instant(recording["startTime"]),
        "stopTime": parse_instant(recording["stopTime"]),
        **_searchable("callerPhoneNumber", [recording["callerPhoneNumber"]]),
        **_searchable("dialedPhoneNumber", [recording["dialedPhoneNumber"]]),
        **_searchable("userNames", names),
        **_searchable("userData", data),
        "callUUIDs": call_uuids(recording),
        "mediaIdentities": [object_key(media["mediaDescriptor"]) for media in recording["mediaFiles"]],
        "nonDelete": recording.get("nonDelete", False),
    }
    if decision is not None:
        document["protectionPending"] = bool(decision.pending)
    return document


def to_source(contact_center: str, recording: Recording, decision: Decision | None = None) -> Document:
    """Of the document, what `_source` keeps: all else is derived from it."""
    source = {"recording": codec.encode(recording).decode(), "contactCenter": contact_center}
    if decision is not None:
        source["protection"] = msgspec.json.encode(decision).decode()
    return source


def call_uuids(recording: Recording) -> list[str]:
    """What `callUUIDs` holds: by these, screen recordings belong to a recording."""
    return list(dict.fromkeys(_keyword(media["callUUID"]) for media in recording["mediaFiles"]))


def object_key(descriptor: Mapping[str, Any]) -> str:
    """What `mediaIdentities` holds for the object that a media descriptor names."""
    return _digest(*media_object(descriptor))


def from_source(source: Document) -> Recording:
    """The recording of a document's `_source`."""
    recording: Recording = codec.decode(source["recording"])
    return recording


def decision_of(source: Document) -> Decision | None:
    """The decision about protection in a document's `_source`."""
    text = source.get("protection")
    return msgspec.json.decode(text, type=Decision) if text else None


def _searchable(field: str, values: list[str]) -> Document:
    return {
        field: [_keyword(value) for value in values],
        f"{field}Trigrams": [tokens_of_value(value) for value in values],
    }


def _keyword(value: str) -> str:
    """A value as a keyword: of one that is too long, as much as surely fits."""
    if len(value) <= MAX_KEYWORD_LENGTH or len(value.encode()) <= _MAX_KEYWORD_BYTES:
        return value
    return value[:MAX_KEYWORD_LENGTH]


def _user_names(recording: Recording) -> Iterator[str]:
    """Every name, whole and word by word, ignoring case (CONTRACT.md section 5, `userName`)."""
    for event in recording["eventHistory"]:
        for key in ("userName", "firstName", "lastName"):
            name = event["contact"].get(key)
            if name is not None:
                folded = name.casefold()
                yield folded
                yield from folded.split()


def _user_data(recording: Recording) -> Iterator[str]:
    """Every value of every event's `data` at any depth, as text (CONTRACT.md section 5, `userData`)."""
    for event in recording["eventHistory"]:
        yield from _leaves([event.get("data")])


def _leaves(values: Iterable[Any]) -> Iterator[str]:
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            yield from _leaves(value.values())
        elif isinstance(value, list):
            yield from _leaves(value)
        elif value is not None:
            yield codec.encode(value).decode()


def _digest(*texts: str) -> str:
    return urlsafe_b64encode(sha256(msgspec.json.encode(texts)).digest()).decode().rstrip("=")
