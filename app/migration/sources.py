"""What a document of an older index becomes in a new one. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Protocol

from app import codec
from app.errors import RecallError
from app.recordings.merge import merge
from app.recordings.model import parse_recording
from app.store.documents import Document, decision_of, document_id, from_source, to_document, to_source

# As a search returns it, with `_seq_no` and, where a source names some, `fields`.
Hit = dict[str, Any]
# That `_source` holds of a document, None for all.
Fields = Sequence[str] | None


class Rejected(Exception):
    """A document cannot be transformed; the text says why."""


class Readable(Protocol):
    """An index, and what its hits need besides their `_source`."""

    @property
    def index(self) -> str: ...

    @property
    def docvalue_fields(self) -> tuple[str, ...]: ...


class Source(Readable, Protocol):
    """An index to copy from, of one contact center or, if that is None, of any."""

    @property
    def contact_center(self) -> str | None: ...

    def transform(self, hit: Hit, *, kept_only: bool = False) -> tuple[str, Document]:
        """The new `_id` and document, or of that only what `_source` keeps. Raises Rejected.

        Two documents never become one.
        """

    def source_id(self, copied: Hit) -> str | None:
        """The `_id` here of a document of the new generation, None if it cannot come from here.

        The hit has `contactCenter` and `id` in its `fields`, if its index has.
        """


@dataclass(frozen=True)
class V1Recordings:
    """The recordings of one contact center in schema v1 (docs/decisions/0012-schema-v1.md)."""

    index: str
    contact_center: str
    docvalue_fields: tuple[str, ...] = ()

    def transform(self, hit: Hit, *, kept_only: bool = False) -> tuple[str, Document]:
        try:
            recording = merge(None, parse_recording(hit["_source"]))
        except RecallError as error:
            raise Rejected(error.message) from error
        if recording["id"] != hit["_id"]:
            raise Rejected(f"Parameter 'id' is invalid: the document itself has the id {hit['_id']}")
        _id = document_id(self.contact_center, recording["region"], recording["id"])
        make = to_source if kept_only else to_document
        return _id, make(self.contact_center, recording)

    def source_id(self, copied: Hit) -> str | None:
        fields = copied["fields"]
        return str(fields["id"][0]) if fields["contactCenter"] == [self.contact_center] else None


@dataclass(frozen=True)
class V2Recordings:
    """Recordings or screen recordings of an earlier generation of schema v2."""

    index: str
    docvalue_fields: tuple[str, ...] = ("contactCenter",)
    contact_center: None = None

    def transform(self, hit: Hit, *, kept_only: bool = False) -> tuple[str, Document]:
        make = to_source if kept_only else to_document
        try:
            (contact_center,) = hit["fields"]["contactCenter"]
            source = hit["_source"]
            return hit["_id"], make(contact_center, from_source(source), decision_of(source))
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise Rejected(f"it is no document of schema v2: {error!r}") from error

    def source_id(self, copied: Hit) -> str | None:
        return str(copied["_id"])


@dataclass(frozen=True)
class Unchanged:
    """Documents whose `_source` is all of them."""

    index: str
    docvalue_fields: tuple[str, ...] = ()
    contact_center: None = None

    def transform(self, hit: Hit, *, kept_only: bool = False) -> tuple[str, Document]:
        return hit["_id"], hit["_source"]

    def source_id(self, copied: Hit) -> str | None:
        return str(copied["_id"])


@dataclass(frozen=True)
class Made:
    """What a hit becomes: the JSON of the new document, and a digest of what can be read back of it (`digest_of`)."""

    id: str
    body: bytes
    digest: int
    contact_center: str


def transform_page(source: Source, hits: list[Hit], kept: Fields, *, kept_only: bool) -> list[Made | Rejected]:
    """For each hit what `transform` makes of it, or why it does not; without its body when that is `kept_only`."""
    transformed: list[Made | Rejected] = []
    for hit in hits:
        try:
            _id, document = source.transform(hit, kept_only=kept_only)
        except Rejected as error:
            transformed.append(error)
        else:
            readable = document if kept is None else {name: document[name] for name in kept if name in document}
            body = b"" if kept_only else codec.encode(document)
            made = Made(_id, body, digest_of(_id, readable), document.get("contactCenter", ""))
            transformed.append(made)
    return transformed


def transform_encoded(source: Source, hits: bytes, kept: Fields, *, kept_only: bool) -> list[Made | Rejected]:
    """In another process: JSON gets there faster than objects do."""
    return transform_page(source, codec.decode(hits), kept, kept_only=kept_only)


def digest_of(_id: str, readable: Document) -> int:
    """Of a document, as far as it can be read back; 32 bytes."""
    content = codec.encode([_id, sorted(readable.items())])
    return int.from_bytes(blake2b(content, digest_size=32).digest())


@dataclass(frozen=True)
class Filled:
    """A new generation, to look through what it has."""

    index: str
    docvalue_fields: tuple[str, ...]
