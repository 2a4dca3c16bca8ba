"""What a storage's words about a name prove (docs/decisions/0020-proof-before-deletion.md)."""

import pytest
from starlette.datastructures import Headers

from app.media.http import Answer
from app.media.location import WebDavLocation
from app.media.proof import (
    Names,
    ProvenFile,
    Unproven,
    decoded_twice,
    file_of_get,
    file_of_propfind,
    names_another,
    shows_folder,
)
from app.settings import WebDavConfig

BASE = "http://a.example:80/recordings"
EXACT = WebDavLocation(WebDavConfig(BASE, aliases=("http://b.example/rec",)), f"{BASE}/x/My%20call%C3%BC.wav")
FOLDED = WebDavLocation(WebDavConfig(BASE, case_sensitive=False), EXACT.url)

OWN_NAMES = [
    "/recordings/x/My%20call%C3%BC.wav",
    "/recordings/x/My call\u00fc.wav",
    "/%72ecordings/x/%4dy%20call%c3%bc.wav",
    "http://internal:8080/recordings/x/My%20call%C3%BC.wav",
    "  /recordings/x/My%20call%C3%BC.wav\n",
    "/recordings//x/My%20call%C3%BC.wav",
    "My%20call%C3%BC.wav",
]
OTHER_NAMES = [
    "/recordings/x/My%20call%C3%BC.wav.bak",
    "/recordings/x/My%20call%C3%BC",
    "/recordings/x/My%20call%C3%BC.wav/",
    "/recordings/x/My%20call%FC.wav",
    "/recordings/x/",
    "/recordings/y/My%20call%C3%BC.wav",
    "/recordings/x/My%20call%C3%BC.wav?x=1",
    "/recordings/x/My%20call%C3%BC.wav#x",
    "/other/x/My%20call%C3%BC.wav",
    "http://[",
    "/recordings/x/My%20ca\nll%C3%BC.wav",
    "/recordings%2Fx/My%20call%C3%BC.wav",
    "/recordings/x/My%2520call%C3%BC.wav",
    "urn:/recordings/x/My%20call%C3%BC.wav",
]


def location_of(path: str) -> WebDavLocation:
    return WebDavLocation(EXACT.storage, f"{BASE}/{path}")


@pytest.mark.parametrize("location", [EXACT, FOLDED])
def test_only_spellings_of_the_path_are_names_of_the_object(location: WebDavLocation) -> None:
    names = Names(location)
    assert [name for name in OWN_NAMES if not names.include(name)] == []
    assert [name for name in OTHER_NAMES if names.include(name)] == []


def test_aliases_and_case_count_where_the_configuration_says_so() -> None:
    alias, other_case = "/rec/x/My%20call%C3%BC.wav", "/Recordings/X/MY%20CALL%C3%9C.WAV"
    assert Names(EXACT).include(alias)
    assert not Names(EXACT).include(other_case)
    assert Names(FOLDED).include(other_case)
    assert not Names(FOLDED).include(alias)


@pytest.mark.parametrize(
    ("headers", "is_other"),
    [
        ({}, False),
        ({"vary": "Accept-Encoding"}, False),
        ({"content-location": "/recordings/x/My%20call%C3%BC.wav"}, False),
        ({"content-location": "My%20call%C3%BC.wav"}, False),
        ({"content-location": "My%20call%C3%BC.wav.mp3"}, True),
        ({"tcn": "choice"}, True),
        ({"vary": "negotiate,accept"}, True),
    ],
)
def test_what_negotiation_chose_is_another_object(headers: dict[str, str], *, is_other: bool) -> None:
    assert names_another(Headers(headers), EXACT) is is_other


def multistatus(prop: str, *, href: str = OWN_NAMES[0], status: str = "200 OK", encoding: str = "utf-8") -> Answer:
    text = (
        f'<?xml version="1.0" encoding="{encoding}"?><d:multistatus xmlns:d="DAV:"><d:response><d:href>{href}</d:href>'
        f"<d:propstat><d:prop>{prop}</d:prop><d:status>HTTP/1.1 {status}</d:status></d:propstat></d:response>"
        "</d:multistatus>"
    )
    return Answer(207, Headers({}), text.encode(encoding))


FILE, FOLDER = "<d:resourcetype/>", "<d:resourcetype><d:collection/></d:resourcetype>"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "cp1252", "iso-8859-15", "gb18030"])
def test_a_file_is_a_file_and_a_folder_a_folder_in_every_encoding(encoding: str) -> None:
    etag = '<d:getetag>"1-2"</d:getetag>'
    assert file_of_propfind(multistatus(FILE + etag, encoding=encoding), EXACT) == ProvenFile('"1-2"')
    folder = multistatus(FOLDER, encoding=encoding)
    with pytest.raises(Unproven, match="folder"):
        file_of_propfind(folder, EXACT)
    assert shows_folder(folder, EXACT)
    assert not shows_folder(multistatus(FILE, encoding=encoding), EXACT)


@pytest.mark.parametrize(
    "answer",
    [
        multistatus(FILE, href="/recordings/x/other.wav"),
        multistatus(FILE, status="404 Not Found"),
        multistatus(FILE, status="403 Forbidden"),
        multistatus("<d:getetag>x</d:getetag>"),
        multistatus("<d:resourcetype><x xmlns='y'/></d:resourcetype>"),
        multistatus(FILE + FOLDER),
        multistatus(FILE)._replace(body=b""),
        multistatus(FILE)._replace(body=multistatus(FILE).body[:-1]),
        multistatus(FILE)._replace(body=multistatus(FILE).body.replace(b"DAV:", b"other:")),
        multistatus(FILE)._replace(body=multistatus(FILE).body.replace(b"?>", b"?><!DOCTYPE x>", 1)),
        multistatus(FILE)._replace(body=multistatus(FILE).body.replace(b"utf-8", b"rot13", 1)),
        multistatus(FILE)._replace(headers=Headers({"content-encoding": "gzip"})),
        multistatus(FILE)._replace(headers=Headers({"content-location": "other.wav"})),
    ],
)
def test_an_answer_to_propfind_that_says_less_proves_nothing(answer: Answer) -> None:
    with pytest.raises(Unproven):
        file_of_propfind(answer, EXACT)


@pytest.mark.parametrize("weak", ['W/"1-2"', "1-2", "", '"a"b"'])
def test_only_a_strong_validator_serves_as_a_condition(weak: str) -> None:
    assert file_of_propfind(multistatus(f"{FILE}<d:getetag>{weak}</d:getetag>"), EXACT) == ProvenFile(None)


MISSING = Answer(404, Headers({}), b"")
SOUND = {"content-type": "audio/wav", "etag": '"1"'}
RANGE = Answer(206, Headers({**SOUND, "content-range": "bytes 0-0/9"}), b"")


@pytest.mark.parametrize(
    ("answer", "with_slash", "is_file"),
    [
        (RANGE, MISSING, True),
        (RANGE, RANGE, True),
        (Answer(200, Headers(SOUND), b""), MISSING, True),
        (Answer(200, Headers({"last-modified": "x"}), b""), MISSING, True),
        (Answer(200, Headers({"content-type": "audio/wav"}), b""), MISSING, False),
        (Answer(200, Headers(SOUND), b""), Answer(200, Headers(SOUND), b""), False),
        (RANGE, Answer(206, Headers({**SOUND, "etag": '"2"', "content-range": "bytes 0-0/9"}), b""), False),
        (RANGE, Answer(301, Headers({}), b""), False),
        (RANGE, Answer(403, Headers({}), b""), False),
        (Answer(301, Headers({}), b""), MISSING, False),
        (Answer(401, Headers({}), b""), MISSING, False),
        (Answer(500, Headers({}), b""), MISSING, False),
        (Answer(200, Headers({**SOUND, "content-type": "text/html; charset=utf-8"}), b""), MISSING, False),
        (Answer(200, Headers({**SOUND, "content-type": "application/xhtml+xml"}), b""), MISSING, False),
        (Answer(200, Headers({**SOUND, "content-type": "application/json"}), b""), MISSING, False),
        (Answer(200, Headers({**SOUND, "content-type": "httpd/unix-directory"}), b""), MISSING, False),
        (Answer(200, Headers({**SOUND, "tcn": "choice"}), b""), MISSING, False),
    ],
)
def test_get_proves_a_file_only_together_with_the_name_of_a_folder(
    answer: Answer, with_slash: Answer, *, is_file: bool
) -> None:
    if is_file:
        assert file_of_get(answer, with_slash, EXACT)
    else:
        with pytest.raises(Unproven):
            file_of_get(answer, with_slash, EXACT)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a/b.wav", None),
        ("a/100%25.wav", None),
        ("a%252Fb.wav", "a/b.wav"),
        ("a%2520b%25c3%25bc.wav", "a%20b%C3%BC.wav"),
        ("a%25252Fb.wav", "a%252Fb.wav"),
    ],
)
def test_the_name_that_a_server_sees_that_decodes_twice(path: str, expected: str | None) -> None:
    other = decoded_twice(location_of(path))
    assert other == (None if expected is None else f"{BASE}/{expected}")


@pytest.mark.parametrize(
    "path", ["a%252F..%252Fb.wav", "%252e%252e/b.wav", "a%255Cb.wav", "a%252F%252Fb.wav", "a%252F"]
)
def test_a_name_that_leaves_its_folder_when_it_is_decoded_twice_is_not_asked_for(path: str) -> None:
    with pytest.raises(Unproven):
        decoded_twice(location_of(path))


@pytest.mark.parametrize(
    ("twice_decoded", "is_file"),
    [
        (MISSING, True),
        (RANGE, False),
        (Answer(200, Headers({**SOUND, "etag": '"2"'}), b""), True),
        (Answer(200, Headers({**SOUND, "etag": 'W/"2"'}), b""), False),
        (Answer(403, Headers({}), b""), False),
    ],
)
def test_get_proves_a_file_only_if_the_name_is_decoded_once(twice_decoded: Answer, *, is_file: bool) -> None:
    if is_file:
        assert file_of_get(RANGE, MISSING, EXACT, twice_decoded)
    else:
        with pytest.raises(Unproven):
            file_of_get(RANGE, MISSING, EXACT, twice_decoded)
