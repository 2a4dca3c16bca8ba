"""The indices that a migration copies, and how each of their documents is transformed. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Protocol

from app import codec
from app.errors import RecallError
from app.migration.point_in_time import Hit, ReadableIndex
from app.recordings.merge import merge
from app.recordings.model import parse_recording
from app.store.documents import Document, document_id, from_source, labels_of, protection_of, to_document, to_source

# The fields that the target's mapping keeps in `_source`, or None for all fields.
SourceFields = Sequence[str] | None


class CannotTransform(Exception):
    """A document breaks a rule of the target's schema. The text says which."""


class Source(ReadableIndex, Protocol):
    """An index to copy. `contact_center` is None if its documents name their contact center themselves."""

    @property
    def contact_center(self) -> str | None: ...

    def transform(self, hit: Hit, *, source_only: bool = False) -> tuple[str, Document]:
        """Returns the `_id` and the document for the target, or only the part that the target keeps in `_source`.

        The `_id` is unique over all documents of all sources. Raises CannotTransform.
        """

    def source_id(self, copy: Hit) -> str | None:
        """Returns the `_id` in this index from which a document of the target was copied.

        None if it cannot come from this index. `copy` has the `fields` `contactCenter` and `id` if its mapping has.
        """


@dataclass(frozen=True)
class V1Recordings:
    """The recordings of one contact center in schema v1 (docs/decisions/0012-schema-v1.md)."""

    index: str
    contact_center: str
    docvalue_fields: tuple[str, ...] = ()

    def transform(self, hit: Hit, *, source_only: bool = False) -> tuple[str, Document]:
        try:
            recording = merge(None, parse_recording(hit["_source"]))
        except RecallError as error:
            raise CannotTransform(error.message) from error
        if recording["id"] != hit["_id"]:
            raise CannotTransform(f"Parameter 'id' is invalid: the document itself has the id {hit['_id']}")
        if hit["_source"].get("nonDelete") is True:
            # Schema v1 says nothing about protection. If a deployment had it, a lost hold would be evidence lost.
            recording["nonDelete"] = True
        _id = document_id(self.contact_center, recording["region"], recording["id"])
        make = to_source if source_only else to_document
        return _id, make(self.contact_center, recording)

    def source_id(self, copy: Hit) -> str | None:
        fields = copy["fields"]
        return str(fields["id"][0]) if fields["contactCenter"] == [self.contact_center] else None


@dataclass(frozen=True)
class V2Recordings:
    """Recordings or screen recordings in an older index of schema v2."""

    index: str
    docvalue_fields: tuple[str, ...] = ("contactCenter",)
    contact_center: None = None

    def transform(self, hit: Hit, *, source_only: bool = False) -> tuple[str, Document]:
        make = to_source if source_only else to_document
        try:
            (contact_center,) = hit["fields"]["contactCenter"]
            source = hit["_source"]
            return hit["_id"], make(contact_center, from_source(source), protection_of(source), labels_of(source))
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise CannotTransform(f"not a document of schema v2: {error!r}") from error

    def source_id(self, copy: Hit) -> str | None:
        return str(copy["_id"])


@dataclass(frozen=True)
class Unchanged:
    """An index whose mapping keeps every field in `_source`, for example the journal of media deletions."""

    index: str
    docvalue_fields: tuple[str, ...] = ()
    contact_center: None = None

    def transform(self, hit: Hit, *, source_only: bool = False) -> tuple[str, Document]:
        return hit["_id"], hit["_source"]

    def source_id(self, copy: Hit) -> str | None:
        return str(copy["_id"])


@dataclass(frozen=True)
class TransformedDocument:
    """The JSON of a document for the target, and the digest of the part that can be read back (`digest_of`)."""

    id: str
    body: bytes
    digest: int
    contact_center: str


def transform_page(
    source: Source, hits: list[Hit], source_fields: SourceFields, *, source_only: bool
) -> list[TransformedDocument | CannotTransform]:
    """Transforms each hit, or returns in its place why it cannot be. With `source_only` the bodies are empty."""
    results: list[TransformedDocument | CannotTransform] = []
    for hit in hits:
        try:
            _id, document = source.transform(hit, source_only=source_only)
        except CannotTransform as error:
            results.append(error)
        else:
            readable = (
                document
                if source_fields is None
                else {name: document[name] for name in source_fields if name in document}
            )
            body = b"" if source_only else codec.encode(document)
            contact_center = document.get("contactCenter", "")
            results.append(TransformedDocument(_id, body, digest_of(_id, readable), contact_center))
    return results


def transform_encoded_page(
    source: Source, hits: bytes, source_fields: SourceFields, *, source_only: bool
) -> list[TransformedDocument | CannotTransform]:
    """Transforms the JSON of hits. A process receives JSON faster than pickled objects."""
    return transform_page(source, codec.decode(hits), source_fields, source_only=source_only)


def digest_of(_id: str, readable: Document) -> int:
    """Returns a digest of 32 bytes of an id and of the fields that can be read back from `_source`."""
    content = codec.encode([_id, sorted(readable.items())])
    return int.from_bytes(blake2b(content, digest_size=32).digest())


def target_id(source: Source, hit: Hit) -> str | None:
    """Returns the `_id` that a document has in the target, or None if it cannot be transformed."""
    try:
        return source.transform(hit, source_only=True)[0]
    except CannotTransform:
        return None
