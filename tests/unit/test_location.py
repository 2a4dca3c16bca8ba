"""Only storage that the configuration names is ever contacted (docs/contract.md section 6)."""

from typing import Any

import pytest

from app.media.location import LocationNotAllowed, S3Location, WebDavLocation, resolve_location
from app.settings import S3Config, StorageConfig, WebDavConfig

BASE = WebDavConfig("http://media.example/recordings/")
DEEPER = WebDavConfig("http://media.example/recordings/private", username="u")
SECURE = WebDavConfig("https://[2001:DB8::1]:8443/")
S3 = S3Config(("one", "two"))
STORAGES = StorageConfig(webdav=(BASE, DEEPER, SECURE), s3=(S3,))


def webdav(path: str) -> dict[str, Any]:
    return {"storage": "webDAV", "path": path}


@pytest.mark.parametrize(
    ("path", "storage", "url"),
    [
        ("http://media.example/recordings/a.wav", BASE, "http://media.example:80/recordings/a.wav"),
        ("HTTP://MEDIA.example:80/recordings/a.wav", BASE, "http://media.example:80/recordings/a.wav"),
        ("http://media.example/%72ecordings/a%2eb", BASE, "http://media.example:80/recordings/a.b"),
        (
            "http://media.example/recordings/ü a".replace(" ", "%20"),
            BASE,
            "http://media.example:80/recordings/%C3%BC%20a",
        ),
        ("http://media.example/recordings/private/a", DEEPER, "http://media.example:80/recordings/private/a"),
        ("http://media.example/recordings/privateer", BASE, "http://media.example:80/recordings/privateer"),
        ("https://[2001:db8:0::1]:8443/a", SECURE, "https://[2001:db8::1]:8443/a"),
    ],
)
def test_file_below_a_base_url_has_a_normalised_url(path: str, storage: WebDavConfig, url: str) -> None:
    assert resolve_location(webdav(path), STORAGES) == WebDavLocation(storage, url)


@pytest.mark.parametrize(
    "path",
    [
        "http://169.254.169.254/recordings/a.wav",
        "http://media.example:8080/recordings/a.wav",
        "https://media.example/recordings/a.wav",
        "http://media.example/other/a.wav",
        "http://media.example/recordings",
        "http://media.example/recordings/",
        "http://media.example/recordings/folder/",
        "http://media.example/recordingsx/a.wav",
        "http://media.example/Recordings/a.wav",
        "http://media.example/recordings/../other/a.wav",
        "http://media.example/recordings/%2e%2e/a.wav",
        "http://media.example/recordings/.%2E/a.wav",
        "http://media.example/recordings/./a.wav",
        "http://media.example/recordings//a.wav",
        "http://media.example/recordings/a%2f..%2f..%2fb",
        "http://media.example/recordings/a%5c..%5cb",
        "http://media.example/recordings\\..\\a.wav",
        "http://media.example/recordings/a.wav?x=1",
        "http://media.example/recordings/a.wav#x",
        "http://media.example/recordings/a%00.wav",
        "http://media.example/recordings/a%zz.wav",
        "http://media.example/recordings/a%ff.wav",
        "http://media.example@evil.example/recordings/a.wav",
        "http://user:password@media.example/recordings/a.wav",
        "http://@media.example/recordings/a.wav",
        "http://media.example./recordings/a.wav",
        "http://media.example.evil.example/recordings/a.wav",
        "http://media.example:80:80/recordings/a.wav",
        "http://media.example:99999/recordings/a.wav",
        "http://ｍedia.example/recordings/a.wav",
        "https://[::1]:8443/a",
        "https://[2001:db8::1%25eth0]:8443/a",
        "file:///recordings/a.wav",
        "//media.example/recordings/a.wav",
    ],
)
def test_url_outside_the_base_urls_is_refused(path: str) -> None:
    with pytest.raises(LocationNotAllowed):
        resolve_location(webdav(path), STORAGES)


def test_only_objects_in_configured_buckets_are_found() -> None:
    descriptor = {"storage": "awsS3", "path": "../a b/ü", "data": {"bucket": "two"}}
    assert resolve_location(descriptor, STORAGES) == S3Location(S3, "two", "../a b/ü")
    with pytest.raises(LocationNotAllowed):
        resolve_location({**descriptor, "data": {"bucket": "three"}}, STORAGES)
    with pytest.raises(LocationNotAllowed):
        resolve_location(descriptor, StorageConfig())
