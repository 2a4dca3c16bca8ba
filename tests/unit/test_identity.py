"""Which descriptors name the same media object, for the question whether a recording still needs it."""

from typing import Any

import pytest

from app.errors import InvalidParameter
from app.media.identity import same_object_keys
from app.media.location import LocationNotAllowed, S3Location, check_key, resolve_location
from app.recordings.identity import media_object_keys, media_path, media_uuid
from app.recordings.model import parse_recording
from app.settings import S3Config, StorageConfig, WebDavConfig
from tests.support.recordings import a_media_file, a_recording

PLAIN = WebDavConfig("http://a.example/recordings")
ALIASED = WebDavConfig("http://a.example/recordings", aliases=("https://b.example/rec/", "http://10.0.0.1:8080/"))
IGNORES_CASE = WebDavConfig("http://a.example/recordings", case_sensitive=False)
BOTH = WebDavConfig("http://a.example/Recordings", aliases=("http://b.example/",), case_sensitive=False)


def webdav(path: str, **data: str) -> dict[str, Any]:
    return {"storage": "webDAV", "path": path, **({"data": data} if data else {})}


def s3(key: str, bucket: str = "one") -> dict[str, Any]:
    return {"storage": "awsS3", "path": key, "data": {"bucket": bucket}}


def is_needed(deleted: dict[str, Any], by: dict[str, Any], *storages: WebDavConfig) -> bool:
    """Whether a recording `by` keeps the object of a `deleted` one."""
    return bool(same_object_keys(deleted, StorageConfig(webdav=storages)) & set(media_object_keys(by)))


@pytest.mark.parametrize("storage", [PLAIN, ALIASED, IGNORES_CASE, BOTH])
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("http://a.example/recordings/x.wav", "HTTP://A.example:80/recordings/%78.wav"),
        ("http://a.example/recordings/x.wav", "http://a.example/%72ecordings/x%2ewav"),
    ],
)
def test_two_spellings_of_a_url_are_one_object(storage: WebDavConfig, one: str, other: str) -> None:
    assert is_needed(webdav(one), webdav(other), storage)
    assert is_needed(webdav(other), webdav(one), storage)


@pytest.mark.parametrize(
    ("one", "other", "storages"),
    [
        ("http://a.example/recordings/Call.wav", "http://a.example/recordings/call.WAV", [IGNORES_CASE]),
        ("http://a.example/recordings/STRASSE.wav", "http://a.example/recordings/straße.wav", [IGNORES_CASE]),
        ("http://a.example/recordings/u\u0308.wav", "http://a.example/recordings/\u00fc.wav", [IGNORES_CASE]),
        ("http://a.example/recordings/call.wav", "http://a.example/recordings/call.wav.", [IGNORES_CASE]),
        ("http://a.example/recordings/x/y.wav", "https://b.example/rec/x/y.wav", [ALIASED]),
        ("https://b.example/rec/y.wav", "http://10.0.0.1:8080/y.wav", [ALIASED]),
        ("http://b.example/Y.wav", "http://a.example/RECORDINGS/y.wav", [BOTH]),
        # Each storage knows one half of the way from one name to the other.
        (
            "http://x.example/y.wav",
            "http://z.example/y.wav",
            [
                WebDavConfig("http://x.example", aliases=("http://y.example",)),
                WebDavConfig("http://z.example", aliases=("http://y.example",)),
            ],
        ),
    ],
)
def test_configured_aliases_are_one_object(one: str, other: str, storages: list[WebDavConfig]) -> None:
    assert is_needed(webdav(one), webdav(other), *storages)
    assert is_needed(webdav(other), webdav(one), *storages)
    assert not is_needed(webdav(one), webdav(other), PLAIN)


@pytest.mark.parametrize("storage", [PLAIN, ALIASED, IGNORES_CASE, BOTH])
@pytest.mark.parametrize(
    "other",
    [
        "http://a.example/recordings/y.wav",
        "http://a.example/recordings/x/call.wav",
        "http://a.example/other/call.wav",
        "http://c.example/recordings/call.wav",
        "http://a.example/recordings/call",
    ],
)
def test_other_files_are_other_objects(storage: WebDavConfig, other: str) -> None:
    assert not is_needed(webdav("http://a.example/recordings/call.wav"), webdav(other), storage)


def test_mutually_nested_aliases_terminate() -> None:
    storages = (
        WebDavConfig("http://a.example", aliases=("http://b.example",)),
        WebDavConfig("http://b.example/x", aliases=("http://a.example",)),
    )
    assert is_needed(webdav("http://a.example/y.wav"), webdav("http://b.example/x/y.wav"), *storages)


@pytest.mark.parametrize("other", ["/al/x.wav", "al//x.wav", "./al/x.wav", "al/./x.wav", "b/../al/x.wav", "al/x.wav/"])
def test_all_spellings_of_an_s3_key_are_one_object(other: str) -> None:
    assert is_needed(s3(other), s3("al/x.wav"))
    assert is_needed(s3("al/x.wav"), s3(other))
    for different in (s3("al/y.wav"), s3("x.wav"), s3("AL/x.wav"), s3(other, "two")):
        assert not is_needed(different, s3(other))


@pytest.mark.parametrize("key", ["/x", "x/", "a//x", ".", "./x", "a/./x", "..", "a/../x", "/", "//"])
def test_ambiguous_s3_key_is_refused_unless_the_storage_has_exact_keys(key: str) -> None:
    refusing, exact = (StorageConfig(s3=(S3Config(("one",), exact_keys=exact),)) for exact in (False, True))
    location = resolve_location(s3(key), refusing)  # to be played
    with pytest.raises(LocationNotAllowed):
        check_key(location)
    location = resolve_location(s3(key), exact)
    check_key(location)
    assert isinstance(location, S3Location)
    assert location.key == key


@pytest.mark.parametrize("key", ["x", "a/x", "a/.x", "a/x..wav", "...", "a b/ü", "a\\..\\b"])
def test_other_s3_keys_are_accepted(key: str) -> None:
    check_key(resolve_location(s3(key), StorageConfig(s3=(S3Config(("one",)),))))


# --- a file name in a folder (docs/contract.md section 3) ---

IN_FOLDER = webdav("a b%20ü#1.mp4", storagePath="http://a.example/recordings/2013")
AS_URL = webdav("http://a.example/recordings/2013/a%20b%2520%C3%BC%231.mp4")


def test_folder_and_name_are_joined_to_a_url() -> None:
    configured = StorageConfig(webdav=(PLAIN,))
    assert resolve_location(IN_FOLDER, configured) == resolve_location(AS_URL, configured)
    assert media_uuid("r", IN_FOLDER) == media_uuid("r", AS_URL)
    assert media_object_keys(IN_FOLDER) == media_object_keys(AS_URL)
    with_slash = webdav(IN_FOLDER["path"], storagePath="http://a.example/recordings/2013/")
    assert media_uuid("r", with_slash) == media_uuid("r", AS_URL)
    assert media_path("recordings", "r", {"mediaDescriptor": IN_FOLDER}).endswith(".mp4")


def test_descriptor_with_a_folder_is_returned_as_posted() -> None:
    media = parse_recording(a_recording(mediaFiles=[a_media_file(mediaDescriptor=IN_FOLDER)]))["mediaFiles"]
    assert media[0]["mediaDescriptor"] == IN_FOLDER


def test_url_takes_precedence_over_the_folder() -> None:
    both = webdav(AS_URL["path"], storagePath="http://elsewhere.example")
    assert media_uuid("r", both) == media_uuid("r", AS_URL)


@pytest.mark.parametrize("name", ["../x.mp4", "a/../../x.mp4", "/x.mp4", "a//x.mp4", ".", "x/", "a\\b", "a\x00b"])
def test_name_cannot_leave_its_folder(name: str) -> None:
    with pytest.raises(LocationNotAllowed):
        resolve_location(webdav(name, storagePath="http://a.example/recordings"), StorageConfig(webdav=(PLAIN,)))


@pytest.mark.parametrize(
    ("descriptor", "parameter"),
    [
        (webdav("x.mp4"), "path"),
        (webdav("x.mp4", storagePath="recordings"), "data.storagePath"),
        ({**webdav("x.mp4"), "data": {"storagePath": 1}}, "path"),
        ({**webdav("x.mp4"), "data": []}, "path"),
    ],
)
def test_name_without_a_folder_is_refused(descriptor: dict[str, Any], parameter: str) -> None:
    with pytest.raises(InvalidParameter, match=f"mediaDescriptor.{parameter}'"):
        parse_recording(a_recording(mediaFiles=[a_media_file(mediaDescriptor=descriptor)]))


@pytest.mark.parametrize(
    "settings",
    [
        {"aliases": ["http://a.example/recordings/"]},
        {"aliases": ["http://a.example/recordings/deeper"]},
        {"aliases": ["http://b.example/x", "http://b.example"]},
        {"aliases": ["ftp://b.example"]},
        {"presence_url": "http://b.example/recordings/.mounted"},
        {"presence_url": "http://a.example/recordings/.mounted?"},
    ],
)
def test_contradictory_urls_of_a_storage_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"storage|presence_url"):
        WebDavConfig("http://a.example/recordings", **settings)
