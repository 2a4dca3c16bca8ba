"""What a document of schema v1, or of an earlier generation, becomes. No Elasticsearch."""

from typing import Any

import msgspec
import pytest

from app import codec
from app.embedded.sample import sample_recordings
from app.embedded.sample_v1 import v1_document
from app.migration.sources import (
    Made,
    Rejected,
    Unchanged,
    V1Recordings,
    V2Recordings,
    digest_of,
    transform_encoded,
    transform_page,
)
from app.recordings.merge import merge
from app.recordings.model import parse_recording
from app.store.documents import Decision, decision_of, document_id, from_source, to_document
from app.store.indices import load_schema
from app.workers import processes
from tests.support import CONTACT_CENTER, REGION, a_media_file, a_recording, an_event

V1 = V1Recordings("old", CONTACT_CENTER)


def hit(source: dict[str, Any], _id: str = "recording", **fields: Any) -> dict[str, Any]:
    return {"_id": _id, "_source": source, "fields": {name: [value] for name, value in fields.items()}}


def test_a_v1_document_becomes_what_posting_it_would_make() -> None:
    posted = a_recording(startTime="long ago", note={"a": 1})
    _id, document = V1.transform(hit(posted))
    assert _id == document_id(CONTACT_CENTER, REGION, "recording")
    assert document == to_document(CONTACT_CENTER, merge(None, parse_recording(posted)))


@pytest.mark.parametrize(
    "spelling",
    ["2013-05-17T11:45:32.000-0800", "2013-05-17T19:45:32Z", "2013-05-17 20:45:32.0000+01:00"],
)
def test_all_spellings_of_a_date_are_one(spelling: str) -> None:
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
def test_a_v1_document_that_breaks_a_rule_is_rejected(source: dict[str, Any], reason: str) -> None:
    with pytest.raises(Rejected) as error:
        V1.transform(hit(source))
    assert reason in str(error.value)


def test_the_sample_of_schema_v1_has_about_one_fault_in_a_hundred_and_nothing_else_is_lost() -> None:
    recordings = [merge(None, parse_recording(posted)) for posted in sample_recordings(3000, region=REGION)]
    before = msgspec.json.encode(recordings)
    rejects = 0
    for recording in recordings:
        try:
            _, document = V1.transform(hit(v1_document(recording), recording["id"]))
        except Rejected:
            rejects += 1
        else:
            assert from_source(document) == recording
    assert 10 <= rejects <= 60
    assert msgspec.json.encode(recordings) == before


def test_what_is_compared_is_what_can_be_read_back() -> None:
    decision = Decision(1, "somebody", ("another",))
    posted = a_recording()
    document = to_document(CONTACT_CENTER, merge(None, parse_recording(posted)), decision)
    v2 = hit({name: document[name] for name in ("recording", "protection")}, contactCenter=CONTACT_CENTER)
    for source, old in ((V1, hit(posted)), (V2Recordings("old"), v2)):
        _id, document = source.transform(old)
        for resource in ("recordings", "screen-recordings"):
            names = load_schema(resource)["mappings"]["_source"]["includes"]
            kept = {name: document[name] for name in names if name in document}
            assert source.transform(old, kept_only=True) == (_id, kept)
            for kept_only in (True, False):
                (made,) = transform_page(source, [old], names, kept_only=kept_only)
                assert isinstance(made, Made)
                assert made.digest == digest_of(_id, kept)
                assert bool(made.body) != kept_only


def test_a_page_is_transformed_in_another_process_as_here() -> None:
    posted = a_recording(note=msgspec.Raw(b"1.10"))
    hits = [hit(posted), hit(a_recording(region=None)), hit(posted, "another")]
    with processes(1) as pool:
        there = pool.submit(transform_encoded, V1, codec.encode(hits), None, kept_only=False).result()
    here = transform_page(V1, hits, None, kept_only=False)
    assert isinstance(here[0], Made)
    assert b"1.10" in here[0].body
    assert there[0] == here[0]
    assert list(map(str, there[1:])) == list(map(str, here[1:]))
    assert all(isinstance(rejected, Rejected) for rejected in there[1:])


def test_a_recording_of_schema_v2_is_derived_anew_and_stays_protected() -> None:
    decision = Decision(1, "somebody", ("another",))
    recording = merge(None, parse_recording(a_recording())) | {"nonDelete": True}
    document = to_document(CONTACT_CENTER, recording, decision)
    stored = {name: document[name] for name in ("recording", "protection")}
    _id, again = V2Recordings("old").transform(hit(stored, "an id", contactCenter=CONTACT_CENTER))
    assert (_id, again) == ("an id", document)
    assert decision_of(again) == decision


@pytest.mark.parametrize("source", [{}, {"recording": "{"}, {"recording": "{}"}, {"recording": 1}])
def test_what_is_no_document_of_schema_v2_is_rejected(source: dict[str, Any]) -> None:
    with pytest.raises(Rejected):
        V2Recordings("old").transform(hit(source, contactCenter=CONTACT_CENTER))


def test_journal_entries_stay_as_they_are() -> None:
    assert Unchanged("old").transform(hit({"any": [1]}, "an id")) == ("an id", {"any": [1]})


@pytest.mark.parametrize(
    ("contact_center", "expected"), [(CONTACT_CENTER, "recording"), ("another contact center", None)]
)
def test_where_a_copied_document_may_come_from(contact_center: str, expected: str | None) -> None:
    copied = hit({}, "an id", contactCenter=contact_center, id="recording")
    assert V1.source_id(copied) == expected
    assert V2Recordings("old").source_id(copied) == "an id"
