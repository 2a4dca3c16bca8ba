"""The names in a backup, and the mapping of a restore."""

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.media_urls import parse_url
from app.recordings.backup import CONTENTS, MANIFEST, encode_name, folder_name, is_day
from app.recordings.identity import media_name, media_path
from app.recordings.mapping import Destination, StorageMapping

SAFE = re.compile(r"[a-z0-9._=-]{1,255}")


@given(st.text(min_size=1), st.text(min_size=1))
def test_names_are_safe_and_differ_where_case_does_not_matter(one: str, other: str) -> None:
    name = encode_name(one)
    assert SAFE.fullmatch(name)
    assert name[0] not in ".-"
    assert name[-1] != "."
    assert (name == encode_name(other)) == (one == other)
    assert folder_name("screen-recordings", one) != folder_name("recordings", other)
    assert name != CONTENTS


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("00pv5q27-mg8ab8", "00pv5q27-mg8ab8"),
        ("A/b", "=41=2fb"),
        ("..", "=2e=2e"),
        ("a.b.", "a.b=2e"),
        ("=2e", "=3d2e"),
        ("é", "=c3=a9"),
    ],
)
def test_names_stay_readable(text: str, name: str) -> None:
    assert encode_name(text) == name


def test_files_of_the_backup_itself_have_names_of_their_own() -> None:
    descriptor = {"storage": "awsS3", "path": "x.recording.json", "data": {"bucket": "b"}}
    assert media_name({"mediaPath": media_path("recordings", "a/b", {"mediaDescriptor": descriptor})}).endswith(".json")
    assert not is_day(f"2026-01-01{MANIFEST}")


S3 = {"storage": "awsS3", "path": "calls/a b.wav", "data": {"bucket": "old", "x": 1}, "storage_version": "1"}
WEBDAV = {"storage": "webDAV", "path": "http://old/media/calls/a%20(b).wav"}
IN_FOLDER = {"storage": "webDAV", "path": "a b.mp4", "data": {"storagePath": "http://old/media/screens/", "x": 1}}


@pytest.mark.parametrize(
    ("origin", "to", "descriptor", "expected"),
    [
        ("s3://old", "s3://new", S3, {**S3, "data": {"bucket": "new", "x": 1}}),
        ("s3://old/calls/", "s3://new/all", S3, {**S3, "path": "all/a b.wav", "data": {"bucket": "new", "x": 1}}),
        ("s3://old/call", "s3://new", S3, S3),
        ("s3://ol", "s3://new", S3, S3),
        ("http://old/media", "https://new:8443/", WEBDAV, {**WEBDAV, "path": "https://new:8443/calls/a%20(b).wav"}),
        ("http://OLD:80/media/", "http://new/x", WEBDAV, {**WEBDAV, "path": "http://new/x/calls/a%20%28b%29.wav"}),
        ("http://old/med", "http://new", WEBDAV, WEBDAV),
        ("http://old/media/calls/a%20(b).wav", "http://new", WEBDAV, WEBDAV),
        (
            "http://old/media",
            "s3://new/p",
            WEBDAV,
            {"storage": "awsS3", "path": "p/calls/a (b).wav", "data": {"bucket": "new"}},
        ),
        (
            "s3://old",
            "http://new/x",
            S3,
            {"storage": "webDAV", "path": "http://new/x/calls/a%20b.wav", "data": {"x": 1}, "storage_version": "1"},
        ),
        (
            "http://old/media",
            "http://new",
            IN_FOLDER,
            {**IN_FOLDER, "data": {"storagePath": "http://new/screens", "x": 1}},
        ),
        (
            "http://old",
            "s3://new",
            IN_FOLDER,
            {"storage": "awsS3", "path": "media/screens/a b.mp4", "data": {"bucket": "new", "x": 1}},
        ),
    ],
)
def test_descriptors_are_mapped(origin: str, to: str, descriptor: dict[str, Any], expected: dict[str, Any]) -> None:
    assert Destination(storages=(StorageMapping(origin, to),)).descriptor(descriptor) == expected


def test_the_longest_mapping_counts() -> None:
    storages = (StorageMapping("s3://old", "s3://a"), StorageMapping("s3://old/calls", "s3://b"))
    assert Destination(storages=storages).descriptor(S3)["data"]["bucket"] == "b"


@pytest.mark.parametrize(
    "text",
    [
        '[[storages]]\nfrom = "ftp://x"\nto = "s3://x"',
        '[[storages]]\nfrom = "s3://"\nto = "s3://x"',
        '[[storages]]\nfrom = "http://u:p@x"\nto = "s3://x"',
        '[[storages]]\nfrom = "http://x"',
        '[regions]\na = ""',
        '[contact_centers]\na = " b"',
        "[contact-centers]",
    ],
)
def test_wrong_mappings_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        msgspec.toml.decode(text, type=Destination)


def test_mapped_urls_are_urls() -> None:
    mapped = Destination(storages=(StorageMapping("s3://old", "http://new"),)).descriptor({**S3, "path": "a/é?#%.wav"})
    assert parse_url(mapped["path"])[1] == ["a", "é?#%.wav"]
