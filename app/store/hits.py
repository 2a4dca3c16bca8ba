"""Documents as Elasticsearch returns them, decoded to types."""

from typing import Any, Generic, TypeVar

import msgspec

from app.store.documents import ProtectionSource, Source

S = TypeVar("S")

# Finding the texts in an answer takes a millisecond for a megabyte: less than a twentieth of decoding all of it.
EASIER = 16


class _Fields(msgspec.Struct, frozen=True):
    recordingBytes: tuple[int, ...] = (0,)  # noqa: N815
    nonDelete: tuple[bool, ...] = (False,)  # noqa: N815


class Hit(
    msgspec.Struct,
    Generic[S],
    frozen=True,
    kw_only=True,
    gc=False,  # without cycles, the collector has nothing to look for in the hundreds of a page
    rename={"index": "_index", "id": "_id", "read": "_source", "seq_no": "_seq_no", "primary_term": "_primary_term"},
):
    """A hit of a search, or a document that was read by id. What was not asked for has its default.

    `sort` are its values in the order of the search. A document that does not exist is not `found`, or has an `error`.
    """

    index: str = ""
    id: str = ""
    read: S | None = None
    seq_no: int = -1
    primary_term: int = -1
    sort: tuple[int | str, ...] = ()
    found: bool = True
    error: dict[str, Any] | None = None
    fields: _Fields = _Fields()

    @property
    def source(self) -> S:
        """The document's `_source`; it must have been asked for."""
        assert self.read is not None
        return self.read

    @property
    def size(self) -> int:
        """The bytes of the recording, if asked for. One that a former version stored has 0: they are small."""
        return self.fields.recordingBytes[0]

    @property
    def is_protected(self) -> bool:
        """Whether the recording is protected from deletion, if asked for."""
        return self.fields.nonDelete[0]

    @property
    def place(self) -> tuple[int, str]:
        """The start time, in milliseconds since 1970, and the id, of a hit in the order of results."""
        start_time, recording_id, *_ = self.sort
        assert isinstance(start_time, int)
        assert isinstance(recording_id, str)
        return start_time, recording_id


class _Hits(msgspec.Struct, Generic[S]):
    hits: list[Hit[S]]


class _Found(msgspec.Struct, Generic[S]):
    hits: _Hits[S]


class _Documents(msgspec.Struct, Generic[S]):
    docs: list[Hit[S]]


class HitDecoder(Generic[S]):
    """Decodes answers of Elasticsearch about documents whose `_source` has a type."""

    def __init__(self, source: type[S]) -> None:
        self._found = msgspec.json.Decoder(_Found[source])  # type: ignore[valid-type]
        self._documents = msgspec.json.Decoder(_Documents[source])  # type: ignore[valid-type]
        self._document = msgspec.json.Decoder(Hit[source])  # type: ignore[valid-type]

    def search(self, answer: bytes) -> list[Hit[S]]:
        """Returns the hits of a `_search`."""
        return self._found.decode(answer).hits.hits

    def mget(self, answer: bytes) -> list[Hit[S]]:
        """Returns the documents of an `_mget`, in the order in which they were asked for."""
        return self._documents.decode(answer).docs

    def get(self, answer: bytes) -> Hit[S]:
        """Returns the document of a GET."""
        return self._document.decode(answer)


RecordingHit = Hit[Source]
RECORDINGS = HitDecoder(Source)
PROTECTIONS = HitDecoder(ProtectionSource)
