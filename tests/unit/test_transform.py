"""The transformation of documents of schema v1 and of older indices of schema v2. No Elasticsearch."""

from typing import Any

import msgspec
import pytest

from app import codec
from app.embedded.sample import sample_recordings
from app.embedded.sample_v1 import v1_document
from app.migration.sources import (
    CannotTransform,
    TransformedDocument,
    Unchanged,
    V1Recordings,
    V2Recordings,
    digest_of,
    transform_encoded_page,
    transform_page,
)
from app.recordings.labels import Label
from app.recordings.merge import merge
from app.recordings.model import parse_recording
from app.store.documents import ProtectionChange, document_id, from_source, labels_of, protection_of, to_document
from app.store.indices import load_schema
from app.workers import processes
from tests.support.recordings import CONTACT_CENTER, REGION, a_media_file, a_recording, an_event

V1 = V1Recordings("old", CONTACT_CENTER)


def hit(source: dict[str, Any], _id: str = "recording", **fields: Any) -> dict[str, Any]:
    return {"_id": _id, "_source": source, "fields": {name: [value] for name, value in fields.items()}}


def test_v1_document_is_transformed_as_if_posted() -> None:
    posted = a_recording(startTime="long ago", note={"a": 1})
    _id, document = V1.transform(hit(posted))
    assert _id == document_id(CONTACT_CENTER, REGION, "recording")
    assert document == to_document(CONTACT_CENTER, merge(None, parse_recording(posted)))


@pytest.mark.parametrize(
    "spelling",
    ["2013-05-17T11:45:32.000-0800", "2013-05-17T19:45:32Z", "2013-05-17 20:45:32.0000+01:00"],
)
def test_dates_are_normalised(spelling: str) -> None:
    _, document = V1.transform(hit(a_recording(mediaFiles=[a_media_file(startTime=spelling)])))
    assert from_source(document)["startTime"] == "2013-05-17T19:45:32.000+0000"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (a_recording(callerPhoneNumber=None), "Parameter 'callerPhoneNumber' is missing"),
        (a_recording(region=" x"), "Parameter 'region' is invalid"),
        (a_recording(mediaFiles=[]), "Parameter 'mediaFiles' is invalid"),
        (a_recording(mediaFiles="none"), "Parameter 'mediaFiles' is invalid"),
        (a_recording(mediaFiles=[a_media_file(startTime="17.05.2013")]), "'mediaFiles[0].startTime' is invalid"),
        (a_recording(eventHistory=[an_event(event="Paused")]), "'eventHistory[0].event' is invalid"),
        (a_recording(eventHistory=[an_event(contact=None)]), "'eventHistory[0].contact' is invalid"),
        (a_recording("another"), "the document itself has the id recording"),
    ],
)
def test_invalid_v1_document_is_rejected(source: dict[str, Any], reason: str) -> None:
    with pytest.raises(CannotTransform) as error:
        V1.transform(hit(source))
    assert reason in str(error.value)


def test_v1_sample_has_about_one_percent_of_rejects_and_loses_nothing_else() -> None:
    recordings = [merge(None, parse_recording(posted)) for posted in sample_recordings(3000, region=REGION)]
    before = msgspec.json.encode(recordings)
    rejects = 0
    for recording in recordings:
        try:
            _, document = V1.transform(hit(v1_document(recording), recording["id"]))
        except CannotTransform:
            rejects += 1
        else:
            assert from_source(document) == recording
    assert 10 <= rejects <= 60
    assert msgspec.json.encode(recordings) == before


def test_digest_covers_exactly_the_fields_kept_in_source() -> None:
    protection = ProtectionChange(1, "somebody", ("another",))
    posted = a_recording()
    document = to_document(CONTACT_CENTER, merge(None, parse_recording(posted)), protection)
    v2 = hit({name: document[name] for name in ("recording", "protection")}, contactCenter=CONTACT_CENTER)
    for source, old in ((V1, hit(posted)), (V2Recordings("old"), v2)):
        _id, document = source.transform(old)
        for resource in ("recordings", "screen-recordings"):
            names = load_schema(resource)["mappings"]["_source"]["includes"]
            kept = {name: document[name] for name in names if name in document}
            assert source.transform(old, source_only=True) == (_id, kept)
            for source_only in (True, False):
                (made,) = transform_page(source, [old], names, source_only=source_only)
                assert isinstance(made, TransformedDocument)
                assert made.digest == digest_of(_id, kept)
                assert bool(made.body) != source_only


def test_page_is_transformed_identically_in_another_process() -> None:
    posted = a_recording(note=msgspec.Raw(b"1.10"))
    hits = [hit(posted), hit(a_recording(region=None)), hit(posted, "another")]
    with processes(1) as pool:
        there = pool.submit(transform_encoded_page, V1, codec.encode(hits), None, source_only=False).result()
    here = transform_page(V1, hits, None, source_only=False)
    assert isinstance(here[0], TransformedDocument)
    assert b"1.10" in here[0].body
    assert there[0] == here[0]
    assert list(map(str, there[1:])) == list(map(str, here[1:]))
    assert all(isinstance(rejected, CannotTransform) for rejected in there[1:])


def test_v2_document_is_recomputed_and_stays_protected() -> None:
    protection = ProtectionChange(1, "somebody", ("another",))
    recording = merge(None, parse_recording(a_recording())) | {"nonDelete": True}
    document = to_document(CONTACT_CENTER, recording, protection)
    stored = {name: document[name] for name in ("recording", "protection")}
    _id, again = V2Recordings("old").transform(hit(stored, "an id", contactCenter=CONTACT_CENTER))
    assert (_id, again) == ("an id", document)
    assert protection_of(again) == protection


@pytest.mark.parametrize(
    "labels", [(), (Label("A", "Bee", "admin", 1, "given", "why"), Label("b", "b", "ops", 2, "x"))]
)
def test_v2_document_keeps_its_labels_and_that_it_had_some(labels: tuple[Label, ...]) -> None:
    document = to_document(CONTACT_CENTER, merge(None, parse_recording(a_recording())), labels=labels)
    assert document.get("labelNames", []) == [label.name.lower() for label in labels]
    stored = {name: document[name] for name in ("recording", "labels")}
    for source_only in (False, True):
        _id, again = V2Recordings("old").transform(hit(stored, contactCenter=CONTACT_CENTER), source_only=source_only)
        assert labels_of(again) == labels


@pytest.mark.parametrize("source", [{}, {"recording": "{"}, {"recording": "{}"}, {"recording": 1}])
def test_invalid_v2_document_is_rejected(source: dict[str, Any]) -> None:
    with pytest.raises(CannotTransform):
        V2Recordings("old").transform(hit(source, contactCenter=CONTACT_CENTER))


def test_journal_entries_are_copied_unchanged() -> None:
    assert Unchanged("old").transform(hit({"any": [1]}, "an id")) == ("an id", {"any": [1]})


@pytest.mark.parametrize(
    ("contact_center", "expected"), [(CONTACT_CENTER, "recording"), ("another contact center", None)]
)
def test_a_copy_knows_the_id_of_its_source(contact_center: str, expected: str | None) -> None:
    copied = hit({}, "an id", contactCenter=contact_center, id="recording")
    assert V1.source_id(copied) == expected
    assert V2Recordings("old").source_id(copied) == "an id"
