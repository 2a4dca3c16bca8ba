"""What of a storage's answers may reach a client (docs/contract.md section 6).

The right bytes, an error before the first byte, or a cut connection; never anything else.
"""

import asyncio
import logging
import random
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import httptools
import msgspec
import pytest
import uvicorn
import uvloop
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.api.responses import error_envelope
from app.errors import MediaStorageFailed, OtherMediaObject, RecallError
from app.media.answers import open_media
from app.media.conditions import parse_content_range
from app.media.location import S3Location, WebDavLocation
from app.media.response import MediaResponse, unless_client_leaves
from app.media.storages import MediaStorages, open_storages
from app.server.protocol import ConnectionPool, Limits, Protocol
from app.settings import S3Config, Settings, StorageConfig, WebDavConfig
from tests.support import storages as storages_for_tests
from tests.support.answers import (
    CONTENT_RANGES,
    ENDS,
    FRAMINGS,
    RANGES,
    Answer,
    End,
    Framing,
    MemoryConnection,
    Outcome,
    honest_answer,
    play,
    why_wrong,
)
from tests.support.faults import Connection, LocalServer, Request
from tests.support.sizes import ANSWERED_PLAYS, RANDOM_PLAYS
from tests.support.waiting import eventually

CONTENT = b"0123456789"
CONFIG = WebDavConfig("http://127.0.0.1:9/recordings")
LOCATION = WebDavLocation(CONFIG, "http://127.0.0.1:9/recordings/a.wav")
WEBDAV = StorageConfig(webdav=(CONFIG,))
S3 = S3Config(("calls",), "http://127.0.0.1:9", "us-east-1", "key", "secret")

# A storage: what it answers to a method and headers.
Storage = Callable[[str, Mapping[str, str]], Answer]


@asynccontextmanager
async def in_memory(
    monkeypatch: pytest.MonkeyPatch, config: StorageConfig = WEBDAV
) -> AsyncIterator[tuple[MediaStorages, list[Storage]]]:
    """Storages whose connections are answered by the last one of the list."""
    current: list[Storage] = []

    async def connect(*_: Any) -> MemoryConnection:
        return MemoryConnection(current[-1])

    monkeypatch.setattr("app.media.http.connect", connect)
    async with open_storages(Settings(storage=config)) as storages:
        yield storages, current


def honest(method: str, headers: Mapping[str, str]) -> Answer:
    return honest_answer(CONTENT, headers.get("range"))


# How a body is framed, and how the connection ends where that matters.
MESSAGES: list[tuple[Framing, End]] = [
    ("length", "clean"),
    ("chunked", "clean"),
    ("chunked", "cut"),
    *product(("one more", "until the end"), ENDS),  # type: ignore[list-item]
]


def answers() -> Iterator[Answer]:
    """Every combination of status, Content-Range, framing, length of the body, and end of the connection.

    The body begins where the Content-Range says, or else at the beginning; a part comes with 200, too. What no client
    can detect is left out: a whole answer in whose head all is right, with other bytes. One that only lacks its end can
    be detected, if its connection tells the end.
    """
    combinations = product((200, 203, 206, 416), CONTENT_RANGES, range(6), MESSAGES)
    for status, content_range, number, (framing, end) in combinations:
        told = parse_content_range(content_range or "")
        positions = told.positions if told and status == 206 else range(len(CONTENT))
        labelled = CONTENT[positions.start : positions.stop]
        part = CONTENT[told.positions.start : told.positions.stop] if told else b""
        body = (labelled, labelled[:-1], labelled + b"x", b"", CONTENT[positions.start :], part)[number]
        answer = Answer(status, content_range, body, framing, end)
        is_other_file = (answer.is_whole_message and body != CONTENT) or not CONTENT.startswith(body)
        is_contradictory = told is not None and len(body) != len(told.positions)
        is_part = told is not None and body == part and told.positions != range(told.length or 0)
        is_right = not is_other_file or lacks_its_end(answer)
        if status == 206 or (status == 416 and not body) or is_right or is_contradictory or is_part:
            yield answer
    for status, end in product((204, 301, 304, 400, 401, 403, 404, 410, 412, 429, 500, 503), ENDS):
        yield Answer(status, None, b"" if status in {204, 304} else b"no", end=end)


def lacks_its_end(answer: Answer) -> bool:
    """Whether only a second request can tell that this whole answer is not whole: its connection was its end."""
    is_plain = answer.status in {200, 203} and answer.content_range is None and answer.framing == "until the end"
    return is_plain and answer.is_whole_message and answer.body != CONTENT and CONTENT.startswith(answer.body)


FINAL = {301, 400, 401, 403, 404, 410}

# A request, an answer, and whether it is given always.
Case = tuple[str | None, Answer, bool]

# What of a case meets what else of it.
SORTS: tuple[Callable[[Case], Any], ...] = (
    lambda case: (case[0], case[1].status, case[2]),
    lambda case: (case[1].status, case[1].content_range, case[2]),
    lambda case: (case[1].framing, case[1].end, len(case[1].body), case[2]),
    lambda case: (case[0], case[1].content_range),
)


async def test_no_answer_to_any_request_makes_a_play_wrong(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Given always, and given once by a storage that is honest from then on: then the client gets what it asked for.

    Without `--full` it is a sample of them, in which each two properties meet.
    """
    caplog.set_level(logging.CRITICAL)
    cases = [
        (request_range, answer, always)
        for request_range, answer, always in product(RANGES, dict.fromkeys(answers()), (True, False))
        if not (always and lacks_its_end(answer))
    ]
    random.Random(14).shuffle(cases)
    of_each_sort = [case for sort in SORTS for case in {sort(case): case for case in cases}.values()]
    chosen = dict.fromkeys([*of_each_sort, *cases[:ANSWERED_PLAYS]])
    async with in_memory(monkeypatch) as (storages, current):
        for request_range, answer, always in chosen:
            given = 0

            def storage(method: str, headers: Mapping[str, str]) -> Answer:
                nonlocal given
                given += 1
                return answer if always or given == 1 else honest(method, headers)  # noqa: B023

            current[:] = [storage]
            headers = {"range": request_range} if request_range else {}
            outcome = await play(storages, "GET", LOCATION, headers)
            about = (request_range, answer, always, outcome)
            assert given <= 6, about
            assert (why := why_wrong(outcome, CONTENT, request_range)) is None, (why, *about)
            if not always and answer.status not in FINAL and outcome.complete:
                assert outcome.status in {200, 206, 416}, about
                # A 200 tells how long the file is, also if it breaks off later.
                if outcome.status == 416 and answer.status != 200:
                    assert honest_answer(CONTENT, request_range).status == 416, about
            # A 203 is asked for again.
            if lacks_its_end(answer) and answer.status != 203 and outcome.status == 200:
                assert not outcome.complete, about


HEADS = [
    Answer(200, None, CONTENT),
    Answer(200, None, CONTENT, "until the end"),
    Answer(200, "bytes 0-9/10", CONTENT),
    Answer(200, None, b""),
    *(Answer(status, None, b"no") for status in (204, 206, 304, 400, 403, 404, 405, 416, 500, 501)),
]


@pytest.mark.parametrize("answer", HEADS, ids=lambda answer: str(answer.status))
@pytest.mark.parametrize(("request_range", "status"), [(None, 200), ("bytes=-0", 416), ("bytes=10-", 416)])
async def test_a_storage_that_answers_no_head_is_asked_by_get(
    monkeypatch: pytest.MonkeyPatch, answer: Answer, request_range: str | None, status: int
) -> None:
    """HEAD is also how the length is found out that a range goes beyond. GET tells what HEAD does not."""
    async with in_memory(monkeypatch) as (storages, current):
        current.append(lambda method, headers: answer if method == "HEAD" else honest(method, headers))
        method = "GET" if request_range else "HEAD"
        headers = {"range": request_range} if request_range else {}
        outcome = await play(storages, method, LOCATION, headers)
        assert outcome.status == status
        if request_range:
            assert outcome.headers["Content-Range"] == "bytes */10"
        else:
            assert outcome.headers["content-length"] == "10"


@pytest.mark.parametrize("size", [0, 1])
@pytest.mark.parametrize("request_range", ["bytes=0-", "bytes=0-0", "bytes=-5", "bytes=1-"])
@pytest.mark.parametrize("knows_ranges", [True, False])
async def test_a_range_of_an_empty_file_is_unsatisfiable(
    monkeypatch: pytest.MonkeyPatch, size: int, request_range: str, knows_ranges: bool
) -> None:
    content = b"x" * size
    async with in_memory(monkeypatch) as (storages, current):
        current.append(lambda _, headers: honest_answer(content, headers.get("range") if knows_ranges else None))
        outcome = await play(storages, "GET", LOCATION, {"range": request_range})
    if size == 0 or request_range == "bytes=1-":
        assert (outcome.status, outcome.headers["Content-Range"]) == (416, f"bytes */{size}")
    else:
        assert (outcome.status, outcome.body) == (206 if knows_ranges else 200, content)


async def test_a_suffix_that_a_storage_does_not_know_is_asked_for_as_an_explicit_range(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A 416 to a suffix that is longer than the file, and a suffix that is served from the front, are both seen."""
    ranges = []

    def refuses(method: str, headers: Mapping[str, str]) -> Answer:
        ranges.append(headers.get("range"))
        is_long = headers.get("range") == "bytes=-20"
        return Answer(416, "bytes */10", b"") if is_long else honest(method, headers)

    def from_the_front(method: str, headers: Mapping[str, str]) -> Answer:
        ranges.append(headers.get("range"))
        return Answer(206, "bytes 0-2/10", b"012") if headers.get("range") == "bytes=-3" else honest(method, headers)

    async with in_memory(monkeypatch) as (storages, current):
        current.append(refuses)
        outcome = await play(storages, "GET", LOCATION, {"range": "bytes=-20"})
        assert (outcome.status, outcome.body) == (206, CONTENT)
        assert ranges == ["bytes=-20", None, "bytes=0-9"]
        ranges.clear()
        current.append(from_the_front)
        outcome = await play(storages, "GET", LOCATION, {"range": "bytes=-3"})
        assert (outcome.status, outcome.body) == (206, CONTENT[7:])
        assert ranges == ["bytes=-3", "bytes=7-9"]


async def test_a_part_with_the_status_200_is_served_as_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Content-Range and its Content-Length show that it is one. Without the length it would be the whole."""
    async with in_memory(monkeypatch) as (storages, current):
        for request_range, part in (("bytes=2-4", b"234"), ("bytes=-3", b"789"), ("bytes=4-", b"456789")):
            current.append(lambda method, headers: replace(honest(method, headers), status=200))
            outcome = await play(storages, "GET", LOCATION, {"range": request_range})
            assert (outcome.status, outcome.body) == (206, part)
            current.append(
                lambda method, headers: (
                    replace(honest(method, headers), status=200, framing="chunked")
                    if "range" in headers
                    else honest(method, headers)
                )
            )
            outcome = await play(storages, "GET", LOCATION, {"range": request_range})
            assert (outcome.status, outcome.body) == (200, CONTENT)


VALIDATORS = 'ETag: "a,b"\r\nLast-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n'


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"if-match": '"a,b"'}, 206),
        ({"if-match": '"x"'}, 412),
        ({"if-unmodified-since": "Sun Nov  6 08:49:36 1994"}, 412),
        ({"if-unmodified-since": "Sun Nov  6 08:49:37 1994"}, 206),
        ({"if-none-match": '"a,b"'}, 304),
        ({"if-match": '"x"', "if-none-match": '"a,b"'}, 412),
        ({"if-range": '"a,b"'}, 206),
        ({"if-range": '"x"'}, 200),
        ({"if-range": "Sunday, 06-Nov-94 08:49:37 GMT"}, 206),
    ],
)
@pytest.mark.parametrize("request_range", ["bytes=2-4", "bytes=10-", "bytes=-0", None])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_conditions_come_before_ranges(
    monkeypatch: pytest.MonkeyPatch, method: str, headers: dict[str, str], status: int, request_range: str | None
) -> None:
    if method == "HEAD" or request_range is None:
        status = 200 if status == 206 else status
    elif request_range != "bytes=2-4":
        status = 416 if status == 206 else status
    if request_range is not None:
        headers = {**headers, "range": request_range}
    async with in_memory(monkeypatch) as (storages, current):
        current.append(lambda _, asked: honest_answer(CONTENT, asked.get("range"), VALIDATORS))
        outcome = await play(storages, method, LOCATION, Headers(headers))
    assert (outcome.status, outcome.complete) == (status, True)
    assert outcome.body == (b"" if method == "HEAD" or status >= 300 else CONTENT[2:5] if status == 206 else CONTENT)
    if status == 304:
        assert set(outcome.headers) == {"etag", "last-modified"}


@pytest.mark.parametrize(
    ("sent", "passed_on"),
    [
        ("gzip", "gzip"),
        ("aws-chunked", None),
        ("gzip,aws-chunked", "gzip"),
        ("AWS-Chunked, br ,gzip", "br, gzip"),
        ("identity", None),
        ("", None),
    ],
)
async def test_the_encoding_of_the_object_is_passed_on(
    monkeypatch: pytest.MonkeyPatch, sent: str, passed_on: str | None
) -> None:
    async with in_memory(monkeypatch) as (storages, current):
        current.append(lambda _, asked: honest_answer(CONTENT, asked.get("range"), f"Content-Encoding: {sent}\r\n"))
        for headers in ({}, {"range": "bytes=2-4"}):
            outcome = await play(storages, "GET", LOCATION, headers)
            assert outcome.headers.get("content-encoding") == passed_on


@pytest.mark.parametrize("content_type", ["text/html", "Text/HTML; charset=utf-8", "application/xhtml+xml"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_page_where_a_sound_was_expected_is_an_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, content_type: str, method: str
) -> None:
    async with in_memory(monkeypatch) as (storages, current):
        current.append(lambda _, asked: honest_answer(CONTENT, asked.get("range"), f"Content-Type: {content_type}\r\n"))
        for headers in ({}, {"range": "bytes=2-4"}):
            assert (await play(storages, method, LOCATION, headers)).status == 502
    assert "is a login needed?" in caplog.text
    assert CONFIG.base_url in caplog.text


@pytest.mark.parametrize("request_range", [None, "bytes=2-4"])
async def test_a_page_that_is_the_file_itself_is_no_error(
    monkeypatch: pytest.MonkeyPatch, request_range: str | None
) -> None:
    async with in_memory(monkeypatch) as (storages, current):
        current.append(lambda _, asked: honest_answer(CONTENT, asked.get("range"), "Content-Type: text/html\r\n"))
        headers = {"range": request_range} if request_range else {}
        stream = await open_media(storages, "GET", LOCATION, headers, "x.html", may_be_html=True)
        assert stream.status in {200, 206}
        stream.close()


async def test_several_ranges_are_no_answer_to_one(monkeypatch: pytest.MonkeyPatch) -> None:
    several = "Content-Type: multipart/byteranges; boundary=x\r\n"
    async with in_memory(monkeypatch) as (storages, current):
        for content_range in (None, "bytes 2-4/10"):
            answer = Answer(206, content_range, b"234", headers=several)
            current.append(lambda method, asked: answer if "range" in asked else honest(method, asked))  # noqa: B023
            outcome = await play(storages, "GET", LOCATION, {"range": "bytes=2-4"})
            assert (outcome.status, outcome.body) == (200, CONTENT)


async def test_a_header_that_is_repeated_differently_is_a_contradiction(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = Answer(206, "bytes 2-4/10", b"234", headers="Content-Range: bytes 5-7/10\r\n")
    async with in_memory(monkeypatch) as (storages, current):
        current.append(lambda method, asked: answer if "range" in asked else honest(method, asked))
        outcome = await play(storages, "GET", LOCATION, {"range": "bytes=2-4"})
    assert (outcome.status, outcome.body) == (200, CONTENT)


async def test_what_a_proxy_has_transformed_is_asked_for_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A transformed answer (203) is a success nevertheless, if the storage has no other."""
    asked: list[str | None] = []

    def transforms(method: str, headers: Mapping[str, str]) -> Answer:
        asked.append(headers.get("cache-control"))
        return Answer(203 if asked[-1] is None or is_stubborn else 200, None, CONTENT)

    async with in_memory(monkeypatch) as (storages, current):
        current.append(transforms)
        for is_stubborn in (False, True):  # noqa: B007
            outcome = await play(storages, "GET", LOCATION, {})
            assert (outcome.status, outcome.body) == (200, CONTENT)
    assert asked == [None, "no-transform"] * 2


@pytest.mark.parametrize("status", [301, 302, 307, 308, 400, 401, 403, 404, 410])
async def test_a_refusal_is_final_and_is_one_line_of_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    given = 0

    def storage(method: str, headers: Mapping[str, str]) -> Answer:
        nonlocal given
        given += 1
        return Answer(status, None, b"a detail")

    async with in_memory(monkeypatch) as (storages, current):
        current.append(storage)
        outcome = await play(storages, "GET", LOCATION, {"range": "bytes=2-4"})
    assert (outcome.status, given) == (404 if status in {404, 410} else 502, 1)
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(lines) == (outcome.status == 502)
    assert all(CONFIG.base_url in line for line in lines)


S3_ERRORS = {
    # status, code: the client's status, and what the line says
    (404, "NoSuchKey"): (404, None),
    (404, "NoSuchBucket"): (502, "check the buckets"),
    (404, "InvalidAccessKeyId"): (502, "check the access_key_id"),
    (403, "InvalidAccessKeyId"): (502, "check the access_key_id"),
    (403, "SignatureDoesNotMatch"): (502, "secret_access_key"),
    (403, "AccessDenied"): (502, "s3:ListBucket"),
    (403, "InvalidObjectState"): (502, "archived"),
    (403, "RequestTimeTooSkewed"): (502, "clocks"),
    (400, "AuthorizationHeaderMalformed"): (502, "region"),
    (301, "PermanentRedirect"): (502, "region"),
    (404, None): (502, "endpoint_url"),
    (418, "Teapot"): (502, "418 Teapot"),
}


@pytest.mark.parametrize(("status", "code"), list(S3_ERRORS))
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_refusals_of_s3_name_themselves(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    method: str,
    status: int,
    code: str | None,
) -> None:
    expected, words = S3_ERRORS[status, code]
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code></Error>" if code else "<html>not here</html>"
    async with in_memory(monkeypatch, StorageConfig(s3=(S3,))) as (storages, current):
        current.append(lambda *_: Answer(status, None, body.encode()))
        outcome = await play(storages, method, S3Location(S3, "calls", "a.wav"), {"range": "bytes=2-4"})
    assert outcome.status == expected
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(lines) == (0 if words is None else 1)
    if words is not None:
        assert words in lines[0]
        assert "bucket calls" in lines[0]


async def test_a_header_outside_ascii_is_passed_on_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    async with in_memory(monkeypatch) as (storages, current):
        current.append(lambda _, asked: honest_answer(CONTENT, asked.get("range"), 'ETag: "é"\r\n'))
        outcome = await play(storages, "GET", LOCATION, {})
    assert (outcome.status, outcome.headers["etag"]) == (200, '"é"')


# --- Whose bytes they are -------------------------------------------------------------------------------------

OWN_NAMES = (
    "a.wav", "./a.wav", "../recordings/a.wav", "/recordings/a.wav", "/recordings//a.wav", "/recordings/%61%2ewav", "",
    "http://127.0.0.1:9/recordings/a.wav", "https://proxy.example/recordings/a.wav", "//proxy.example/recordings/a.wav",
    "a.wav\r\nContent-Location: /recordings/a.wav",
)  # fmt: skip
OTHER_NAMES = (
    "b.wav", "a", "A.wav", "a.wav/", "/recordings/", "/other/a.wav", "../a.wav", "a.wav?version=1", "a.wav#1",
    "/recordings%2Fa.wav", "/recordings/%2561.wav", "a%00.wav", "%FF.wav", "ü.wav", "a.wav, b.wav", "*",
    "http://127.0.0.1:9/recordings/b.wav", "http://[", "urn:/recordings/a.wav", "recordings/a.wav",
    "a.wav\r\nContent-Location: b.wav", "b.wav\r\nContent-Location: a.wav",
)  # fmt: skip
SIGNS = ("TCN: choice", "Vary: negotiate", "Vary: Accept-Language, Negotiate", "Vary: Origin\r\nVary: negotiate")


@pytest.mark.parametrize("status", [None, 403, 500])
async def test_an_answer_of_another_name_is_no_answer(monkeypatch: pytest.MonkeyPatch, status: int | None) -> None:
    """A refusal may have any name: it is not the object that is missing then."""

    def storage(headers: str, _: str, asked: Mapping[str, str]) -> Answer:
        answer = honest_answer(CONTENT, asked.get("range"), f"{headers}\r\n")
        return replace(answer, status=status) if status else answer

    own = [*(f"Content-Location: {name}" for name in OWN_NAMES), "Vary: Accept-Encoding\r\nVary: Origin"]
    others = [*(f"Content-Location: {name}" for name in OTHER_NAMES), *SIGNS]
    requests: list[tuple[str, dict[str, str]]] = [("GET", {}), ("GET", {"range": "bytes=2-4"}), ("HEAD", {})]
    async with in_memory(monkeypatch) as (storages, current):
        for headers, (method, asked) in product([*own, *others], requests):
            current[:] = [partial(storage, headers)]
            try:
                stream = await open_media(storages, method, LOCATION, asked, "a.wav")
            except OtherMediaObject:
                assert headers in others, headers
                assert status is None, headers
            except MediaStorageFailed:
                assert status, headers
            else:
                stream.close()
                assert status is None, headers
                assert headers in own, headers


async def test_a_name_that_a_storage_does_not_encode_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    location = WebDavLocation(CONFIG, f"{CONFIG.base_url}/%C3%BC%201.wav")
    for name in ("ü 1.wav", "/recordings/ü%201.wav", "%c3%bc%201.wav"):
        headers = f"Content-Location: {name}\r\n".encode().decode("latin-1")
        async with in_memory(monkeypatch) as (storages, current):
            current.append(lambda _, asked: honest_answer(CONTENT, asked.get("range"), headers))  # noqa: B023
            assert (await play(storages, "GET", location, {})).body == CONTENT


# --- Real servers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "bucket", "words"),
    [
        ({}, "none", "NoSuchBucket"),
        ({"access_key_id": "unknown"}, "stage-recordings", "access_key_id"),
        ({"secret_access_key": "wrong"}, "stage-recordings", "SignatureDoesNotMatch"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_what_an_s3_server_refuses_is_not_a_missing_recording(  # noqa: PLR0917
    versitygw: storages_for_tests.S3,
    caplog: pytest.LogCaptureFixture,
    method: str,
    changes: dict[str, str],
    bucket: str,
    words: str,
) -> None:
    config = msgspec.structs.replace(
        storages_for_tests.s3_storage(versitygw).s3[0], buckets=("stage-recordings", "none"), **changes
    )
    async with open_storages(Settings(storage=StorageConfig(s3=(config,)))) as storages:
        outcome = await play(storages, method, S3Location(config, bucket, "a.wav"), {})
    assert outcome.status == 502
    (line,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert words in line


# --- Over sockets ---------------------------------------------------------------------------------------------


VERSIONS = 3


def content_of(number: int, version: int = 0) -> bytes:
    """Every object and every version of it has other bytes at every place."""
    return (b"%05d%c." % (number, 97 + version)) * (number % 40)


def why_wrong_in_all(outcome: Outcome, number: int, request_range: str | None) -> str | None:
    """As `why_wrong`, None if it is right for one version of the object."""
    reasons = [why_wrong(outcome, content_of(number, version), request_range) for version in range(VERSIONS)]
    return None if None in reasons else reasons[0]


class RandomStorage(LocalServer):
    """Answers at random: honestly, with any contradiction, with surplus bytes, in pieces, or with 408 unasked.

    An object may change between two requests, and the answer may be another object's, which it then names.
    """

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._rng = rng

    async def answer(self, request: Request, connection: Connection) -> None:
        rng, transport = self._rng, connection.transport
        answer = self._answer(int(request.target.rpartition("/")[2]), request.headers)
        wire = answer.wire(request.method)
        if answer.framing == "length" and rng.random() < 0.1:
            wire += rng.choice([b"x", b"\r\n", b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"])
        for _ in range(rng.choice([0, 0, 1, 3])):
            piece = rng.randrange(len(wire) + 1)
            transport.write(wire[:piece])
            wire = wire[piece:]
            await asyncio.sleep(0)
        transport.write(wire)
        if answer.end == "cut":
            connection.reset()
        elif answer.end == "clean" and (answer.framing == "until the end" or rng.random() < 0.3):
            transport.close()
        elif answer.is_whole_message and rng.random() < 0.05:  # or it would be the missing end of the body
            await asyncio.sleep(0.01)
            transport.write(b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n")

    def _answer(self, number: int, asked: Mapping[str, str]) -> Answer:
        rng = self._rng
        version = rng.choice([0] * 8 + [1, 2])
        etag, request_range = f'"{version}"', asked.get("range")
        if asked.get("if-range", etag) != etag and rng.random() < 0.8:
            request_range = None
        etag = rng.choice([*[etag] * 8, f"W/{etag}", f"{etag}\r\nETag: W/{etag}"])
        headers = f"ETag: {etag}\r\nLast-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
        content = content_of(number, version)
        if rng.random() < 0.05:
            name = rng.choice(
                ["{}", "/recordings/{}", "http://proxy/recordings/{}", "{}?x", "{own}\r\nContent-Location: {}"]
            )
            headers += f"Content-Location: {name.format(number + 1, own=number)}\r\n"
            content = content_of(number + 1)
        elif rng.random() < 0.1:
            headers += f"Content-Location: {rng.choice(['', '/recordings/', 'http://proxy/recordings/'])}{number}\r\n"
        right = honest_answer(content, request_range, headers)
        if rng.random() < 0.3:
            return right
        told = right.content_range
        if rng.random() < 0.5:
            first, last, length = sorted(rng.choices(range(300), k=3))
            told = rng.choice([None, f"bytes {first}-{last}/{length}", f"bytes {last}-{first}/{length}", "bytes 0-9"])
        status = rng.choice([right.status, right.status, 200, 203, 206, 416, rng.choice([404, 301, 307]), 500])
        parsed = parse_content_range(told or "")
        start = parsed.positions.start if parsed and status == 206 else 0
        stop = parsed.positions.stop if parsed and status == 206 else len(content)
        body = content[start:stop]
        if status in {206, 416, 500}:
            body = rng.choice([body, body, body[:-1], body + b"x", b""])
        framing = rng.choice([*FRAMINGS, "length"])
        end: End = rng.choice(ENDS[:2]) if framing != "until the end" or status not in {200, 203} else "clean"
        return Answer(status, told, body, framing, end, right.headers)


def test_no_random_answer_makes_a_play_wrong(caplog: pytest.LogCaptureFixture) -> None:
    """No client gets bytes of another object, or a complete answer with wrong bytes. On uvloop, as in production."""
    caplog.set_level(logging.CRITICAL)
    rng = random.Random(12)
    outcomes: Counter[str] = Counter()

    async def play_all() -> None:
        async with RandomStorage(rng) as server:
            config = WebDavConfig(server.url)
            settings = Settings(storage=StorageConfig(webdav=(config,)), storage_stall_seconds=0.3)
            async with open_storages(settings) as storages:
                numbers = iter(range(RANDOM_PLAYS))

                async def play_some() -> None:
                    for number in numbers:
                        request_range = rng.choice(
                            [*RANGES, f"bytes={number % 200}-", f"bytes={number % 90}-{number % 200}"]
                        )
                        location = WebDavLocation(config, f"{server.url}/{number}")
                        headers = Headers({"range": request_range} if request_range else {})
                        outcome = await play(storages, "GET", location, headers)
                        why = why_wrong_in_all(outcome, number, request_range)
                        assert why is None, (why, number, request_range, outcome)
                        outcomes[f"{outcome.status}{'' if outcome.complete else ' cut'}"] += 1

                async with asyncio.TaskGroup() as group:
                    for _ in range(40):
                        group.create_task(play_some())

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(play_all())
    assert sum(outcomes.values()) == RANDOM_PLAYS
    # All kinds were there.
    assert min(outcomes[kind] for kind in ("200", "206", "416", "404", "502", "206 cut")) > RANDOM_PLAYS / 500, outcomes


class Plays:
    """Plays `/NUMBER` from a storage, as the service does without its recordings."""

    def __init__(self, storages: MediaStorages, config: WebDavConfig) -> None:
        self._storages = storages
        self._config = config

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        location = WebDavLocation(self._config, f"{self._config.base_url}{scope['path']}")
        response: Response
        try:
            opening = open_media(self._storages, scope["method"], location, headers, "x.wav")
            stream = await unless_client_leaves(receive, opening)
        except RecallError as error:
            response = error_envelope(error)
        else:
            response = MediaResponse(stream, stream.status, stream.headers, 5)
        await response(scope, receive, send)


async def play_over_http(port: int, number: int, request_range: str | None, version: str) -> Outcome:
    """What a client gets that believes the framing of HTTP, and nothing else."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    asked = f"Range: {request_range}\r\n" if request_range else ""
    writer.write(f"GET /{number} HTTP/{version}\r\nHost: x\r\nConnection: close\r\n{asked}\r\n".encode())
    received, is_reset = b"", False
    try:
        while data := await reader.read(65536):
            received += data
    except ConnectionResetError:
        is_reset = True
    writer.close()
    events = Events()
    parser = httptools.HttpResponseParser(events)
    parser.feed_data(received)
    headers = Headers(raw=events.headers)
    has_end = "content-length" in headers or "transfer-encoding" in headers
    complete = events.is_complete if has_end else not is_reset
    return Outcome(parser.get_status_code(), headers, events.body, complete)


class Events:
    """What the parser tells."""

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.is_complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.is_complete = True


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_random_answers_as_a_client_sees_them(caplog: pytest.LogCaptureFixture, version: str) -> None:
    caplog.set_level(logging.CRITICAL)
    rng = random.Random(13)
    outcomes: Counter[str] = Counter()
    async with AsyncExitStack() as stack:
        storage = await stack.enter_async_context(RandomStorage(rng))
        config = WebDavConfig(storage.url)
        settings = Settings(storage=StorageConfig(webdav=(config,)), storage_stall_seconds=0.3)
        storages = await stack.enter_async_context(open_storages(settings))
        port = await stack.enter_async_context(serving(Plays(storages, config)))
        numbers = iter(range(RANDOM_PLAYS // 10))

        async def play_some() -> None:
            for number in numbers:
                request_range = rng.choice([*RANGES, f"bytes={number % 200}-"])
                outcome = await play_over_http(port, number, request_range, version)
                why = why_wrong_in_all(outcome, number, request_range)
                assert why is None, (why, number, request_range, outcome)
                outcomes[f"{outcome.status}{'' if outcome.complete else ' cut'}"] += 1

        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(play_some())
    assert min(outcomes[kind] for kind in ("200", "206", "416", "404", "502", "206 cut")) > 1, outcomes


@asynccontextmanager
async def serving(app: Plays) -> AsyncIterator[int]:
    """The port where the application is served as in production."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app,
        http=partial(Protocol, ConnectionPool(Limits())),  # type: ignore[arg-type]
        lifespan="off",
        log_config=None,
        access_log=False,
        ws="none",
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    await eventually(lambda: server.started)
    yield listener.getsockname()[1]
    server.should_exit = True
    await task
