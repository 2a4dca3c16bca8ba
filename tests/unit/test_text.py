"""What clients read is made from the stored text as from the decoded recording, whatever clients post."""

from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given, reject, settings, strategies

from app import codec
from app.embedded.sample import sample_recordings
from app.errors import InvalidParameter
from app.recordings.merge import merge
from app.recordings.model import Recording, parse_recording
from app.recordings.render import MediaAddresses, render
from app.recordings.text import TextRenderer, from_text, is_protected, marked, to_text
from tests.support.recordings import REGION, a_media_file, a_recording, an_event
from tests.support.sizes import RENDERED_RECORDINGS

ADDRESSES = (
    MediaAddresses("http://127.0.0.1:8080/api/v2"),
    MediaAddresses('http://a"\\b\n:1/api/v2'),  # a Host is the client's to make up
    MediaAddresses("https://recall.example/api/v2", "/ops/contact-centers/c%2Fc", descriptors=True),
    MediaAddresses("https://recall.example/internal-api", "/contact-centers/cc", "content", descriptors=True),
)
STATE: dict[str, Any] = {"nonDeletion": {"by": 'a"}', "at": "2013-05-17T19:45:32.000+0000", "reason": "\n}"}}

# Texts that look like what the service itself writes.
HOSTILE = (
    "\n", "\\n", "\r\n", '"', "\\", "}", '}\n}', ',"nonDelete":true}', 'x,"nonDelete', "nonDelete", "nonDeletion",
    '\n,"mediaDescriptor":', '","mediaPath":\n"', "/play/", "/recordings/x/play/y.mp3", "mediaUri", "mediaFiles",
    "\u0000", "\u2028", "\u2029", "\u0085", "\u000b", "\u001f", "é", "日本", "😀", "",
)  # fmt: skip

texts = strategies.sampled_from(HOSTILE) | strategies.text(max_size=8)
numbers = strategies.sampled_from(("1.10", "-0.0", "3E-5", "1e400", "0.1000000000000000055511151231257827")).map(
    lambda text: msgspec.Raw(text.encode())
)
values = strategies.recursive(
    texts | numbers | strategies.integers() | strategies.booleans() | strategies.none(),
    lambda inner: strategies.lists(inner, max_size=3) | strategies.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
attributes = strategies.dictionaries(texts, values, max_size=4)
ids = texts.map(lambda text: f"a{text}z")


@strategies.composite
def recordings(draw: strategies.DrawFn) -> Recording:
    media_files = []
    for number in range(draw(strategies.integers(1, 3))):
        path = f"a{draw(texts)}{number}.mp3"
        descriptor = {"storage": "awsS3", "path": path, "data": {"bucket": "b"}} | draw(attributes)
        descriptor |= {"storage": "awsS3", "path": path, "data": {"bucket": "b", "more": draw(values)}}
        descriptor = {name: value for name, value in descriptor.items() if name not in {"auth", "storage_version"}}
        media_files.append({**draw(attributes), **a_media_file(), "mediaDescriptor": descriptor, **draw(known())})
    posted = {**draw(attributes), **a_recording(draw(ids)), "mediaFiles": media_files, **draw(known())}
    posted["eventHistory"] = [an_event(data=draw(attributes), more=draw(values))]
    # As it comes over the wire: bytes, and numbers in their spelling.
    try:
        recording = merge(None, parse_recording(codec.decode(codec.encode(posted))))
    except InvalidParameter:  # an attribute happens to have a known name, such as `masks`, and a wrong type
        reject()
    return {**recording, "nonDelete": True} if draw(strategies.booleans()) else recording


def known() -> strategies.SearchStrategy[dict[str, Any]]:
    """What a client may post back of what it has read."""
    names = ("nonDelete", "nonDeletion", "labels", "mediaUri", "playPath", "originalMediaDesc")
    return strategies.dictionaries(strategies.sampled_from(names), values, max_size=2)


def assert_reads_the_same(recording: Recording) -> None:
    text = to_text(recording)
    assert from_text(text) == recording
    assert text.count("\n") == 3 * len(recording["mediaFiles"])
    assert text.replace("\n", "") == codec.encode(from_text(text)).decode()
    assert is_protected(text) == recording.get("nonDelete", False)
    assert marked(text) == text
    unmarked = marked(codec.encode(recording).decode())
    for addresses in ADDRESSES:
        for state in ({}, STATE):
            shown = TextRenderer(addresses).render(text, state)
            expected = codec.encode(render(recording, addresses) | state)
            assert codec.decode(shown) == codec.decode(expected)
            assert len(shown) == len(expected)  # no attribute twice
            assert TextRenderer(addresses).render(unmarked, state) == shown


@settings(max_examples=RENDERED_RECORDINGS, deadline=None)
@given(recordings())
def test_hostile_recordings_are_rendered_from_text_as_if_decoded(recording: Recording) -> None:
    assert_reads_the_same(recording)


def test_sample_recordings_are_rendered_from_text_as_if_decoded() -> None:
    random = Random(1)
    for posted in sample_recordings(RENDERED_RECORDINGS, region=REGION):
        recording = merge(None, parse_recording(posted))
        assert_reads_the_same(recording | {"nonDelete": True} if random.random() < 0.2 else recording)


@pytest.mark.parametrize("name", ["nonDelete", 'x,"nonDelete', "nonDelete "])
def test_no_posted_attribute_protects(name: str) -> None:
    posted = {**a_recording(), name: True}
    assert not is_protected(to_text(merge(None, parse_recording(posted))))
    assert not is_protected(to_text({**merge(None, parse_recording(a_recording())), "last": {"nonDelete": True}}))


def test_attributes_of_the_service_that_a_former_version_kept_are_left_out() -> None:
    recording = merge(None, parse_recording(a_recording()))
    kept = {**recording, "labels": ["posted"], "nonDeletion": 1}
    kept["mediaFiles"] = [{"playPath": "posted", "originalMediaDesc": 1, **media} for media in kept["mediaFiles"]]
    assert from_text(codec.encode(kept).decode()) == recording
    assert marked(codec.encode(kept).decode()) == to_text(recording)
