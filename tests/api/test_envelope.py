"""The envelope of every answer (docs/contract.md section 1)."""

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from app.store.repository import RecordingRepository
from tests.support.recordings import CONTACT_CENTER, OPS_PATH, a_recording
from tests.support.service import Service, StartService, assert_error

JSON = {"content-type": "application/json"}
DEFAULT_LIMIT = 1024 * 1024


@pytest.fixture(scope="module")
def service(module_service: Service) -> Service:
    return module_service


# --- paths and methods ---


@pytest.mark.parametrize(
    "path",
    [
        "/api",
        "/api/v2",
        "/api/v1/recordings",
        "/api/v2/recording",
        "/api/v2/recordings//",
        "/api/v2/recordings/a/b",
        "/api/v2/recordings/a/",
        "/API/v2/recordings",
        "//api/v2/recordings",
        "/api/v2/ops",
        f"/api/v2/ops/contact-centers/{CONTACT_CENTER}",
        "/api/v2/ops/contact-centers//recordings",
        f"{OPS_PATH}/a/b",
        f"{OPS_PATH}//",
        f"/internal-api/contact-centers/{CONTACT_CENTER}/recordings/a",
        f"/api/v2/internal-api/contact-centers/{CONTACT_CENTER}/recordings",
        f"/ops/contact-centers/{CONTACT_CENTER}/recordings",
        "/health",
        "/api/v2/health/live",
        "/metrics/",
        "/favicon.ico",
        "/%2e%2e/%2e%2e/etc/passwd",
    ],
)
async def test_unknown_path_is_404_with_code_6(service: Service, path: str) -> None:
    assert_error(await service.client().get(service.url + path), 404, 6, "cannot be found.")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/api/v2/recordings", {"GET", "HEAD"}),
        ("DELETE", "/api/v2/recordings", {"GET", "HEAD"}),
        ("OPTIONS", "/api/v2/recordings", {"GET", "HEAD"}),
        ("PUT", "/api/v2/recordings/recordings", {"GET", "HEAD"}),
        ("PUT", "/api/v2/recordings/a", {"GET", "HEAD"}),
        ("PATCH", "/api/v2/recordings/a", {"GET", "HEAD"}),
        ("PUT", OPS_PATH, {"GET", "HEAD", "POST"}),
        ("PROPFIND", OPS_PATH, {"GET", "HEAD", "POST"}),
        ("PUT", f"{OPS_PATH}/", {"GET", "HEAD", "POST"}),
        ("DELETE", f"{OPS_PATH}/", {"GET", "HEAD", "POST"}),
        ("PUT", f"{OPS_PATH}/a", {"GET", "HEAD"}),
        ("GET", f"/internal-api/contact-centers/{CONTACT_CENTER}/recordings", {"POST"}),
        ("GET", f"/internal-api/contact-centers/{CONTACT_CENTER}/recordings/", {"POST"}),
        ("POST", "/health/live", {"GET", "HEAD"}),
        ("PUT", "/health/ready", {"GET", "HEAD"}),
        ("POST", "/metrics", {"GET", "HEAD"}),
    ],
)
async def test_method_that_a_path_does_not_support_is_405_with_allow(
    ops: httpx.AsyncClient, method: str, path: str, allowed: set[str]
) -> None:
    response = await ops.request(method, path)
    if method == "HEAD":
        assert (response.status_code, response.content) == (405, b"")
    else:
        assert_error(response, 405, 2)
    listed = set(response.headers["allow"].split(", "))
    assert allowed <= listed
    assert method not in listed


# --- success ---


async def test_success_has_code_0_and_no_message(ops: httpx.AsyncClient, admin: httpx.AsyncClient) -> None:
    answers = [
        await ops.post(OPS_PATH, json=a_recording("success")),
        await ops.post(OPS_PATH, json=a_recording("success")),
        await ops.get(f"{OPS_PATH}/success"),
        await ops.get(OPS_PATH, params={"startTime": 0}),
        await admin.get("/api/v2/recordings/success"),
        await admin.get("/api/v2/recordings", params={"startTime": 0}),
        await admin.get("/health/live"),
        await admin.get("/health/ready"),
    ]
    assert [response.status_code for response in answers] == [201, *[200] * 7]
    for response in answers:
        assert response.headers["content-type"] == "application/json"
        assert response.json()["statusCode"] == 0
        assert "statusMessage" not in response.json()


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/v2/recordings?callerPhoneNumber=1", 200),
        ("/api/v2/recordings/recordings?callerPhoneNumber=1", 200),
        ("/api/v2/recordings/head", 200),
        ("/health/live", 200),
        ("/health/ready", 200),
        ("/api/v2/recordings", 400),
        ("/api/v2/recordings/missing", 404),
        (OPS_PATH, 403),
        ("/unknown", 404),
    ],
)
async def test_head_answers_like_get_without_a_body(
    ops: httpx.AsyncClient, admin: httpx.AsyncClient, path: str, status: int
) -> None:
    await ops.post(OPS_PATH, json=a_recording("head"))
    head, get = await admin.head(path), await admin.get(path)
    assert (head.status_code, get.status_code) == (status, status)
    assert head.content == b""
    assert get.content != b""
    for header in ("content-type", "content-length"):
        assert head.headers[header] == get.headers[header]


# --- size and type of the body ---


async def chunks(body: bytes, size: int = 16_384) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


def padded(size: int, recording_id: str = "padded") -> bytes:
    """A recording as JSON of exactly so many bytes."""
    body = json.dumps(a_recording(recording_id)).encode()
    return body + b" " * (size - len(body))


@pytest.mark.parametrize("chunked", [False, True], ids=["content-length", "chunked"])
@pytest.mark.parametrize("limit", [DEFAULT_LIMIT, 2_000], ids=["default", "configured"])
async def test_body_size_is_limited_as_configured(start_service: StartService, limit: int, chunked: bool) -> None:
    service = await (start_service() if limit == DEFAULT_LIMIT else start_service(max_body_bytes=limit))
    ops = service.client("ops")
    for size, status in ((limit, 201), (limit + 1, 413), (limit, 200)):
        body = padded(size)
        response = await ops.post(OPS_PATH, content=chunks(body) if chunked else body, headers=JSON)
        if status == 413:
            assert_error(response, 413, 2, str(limit))
        else:
            assert response.status_code == status, response.text


@pytest.mark.parametrize("chunked", [False, True], ids=["content-length", "chunked"])
@pytest.mark.parametrize("mebibytes", [2, 32])
async def test_client_that_sends_far_too_much_can_read_the_413(
    ops: httpx.AsyncClient, mebibytes: int, chunked: bool
) -> None:
    body = b" " * (mebibytes * 1024 * 1024)
    response = await ops.post(OPS_PATH, content=chunks(body, 1024 * 1024) if chunked else body, headers=JSON)
    assert_error(response, 413, 2)


async def test_declared_length_is_refused_before_the_body_is_sent(service: Service) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(service.url).port)
    credentials = b64encode(b"ops:ops-password").decode()
    writer.write(
        f"POST {OPS_PATH} HTTP/1.1\r\nHost: recall\r\nAuthorization: Basic {credentials}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {DEFAULT_LIMIT + 1}\r\n\r\n".encode()
    )
    async with asyncio.timeout(10):
        assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
    writer.close()


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "multipart/form-data; boundary=x"},
        {"content-type": "text/plain"},
        {"content-type": "text/json"},
        {"content-type": "application/xml"},
        {"content-type": "application/jsonp"},
        {"content-type": "application"},
        {"content-type": "application/json; charset=latin-1"},
        {"content-type": "application/json; charset=utf-16"},
        {"content-type": 'application/json;charset="iso-8859-1"'},
        {**JSON, "content-encoding": "gzip"},
        {**JSON, "content-encoding": "deflate"},
        {**JSON, "content-encoding": "identity, br"},
    ],
)
async def test_body_of_another_type_or_encoding_is_415(ops: httpx.AsyncClient, headers: dict[str, str]) -> None:
    body = json.dumps(a_recording()).encode()
    assert_error(await ops.post(OPS_PATH, content=body, headers=headers), 415, 2)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "application/json"},
        {"content-type": "Application/JSON"},
        {"content-type": "application/json;charset=utf-8"},
        {"content-type": 'application/json ; charset="UTF-8"'},
        {**JSON, "content-encoding": "identity"},
    ],
)
async def test_content_type_of_json_has_several_spellings(ops: httpx.AsyncClient, headers: dict[str, str]) -> None:
    body = json.dumps(a_recording("announced")).encode()
    assert (await ops.post(OPS_PATH, content=body, headers=headers)).status_code in {200, 201}


# --- the body as JSON ---


def nested(opening: str, closing: str, depth: int) -> str:
    return opening * depth + "0" + closing * depth


def with_extra(value: str) -> str:
    """A recording with one more attribute, whose value is this JSON text."""
    return json.dumps(a_recording("extra", extra="@")).replace('"@"', value)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b" \r\n", id="white-space"),
        b"{",
        b"{}}",
        b"{} {}",
        b"{'id': 'x'}",
        b'{"id": "x",}',
        b'{"id": undefined}',
        b'{"id": "a\tb"}',
        b'{"id": "\\x41"}',
        b'// {}\n{"id": "x"}',
        b"id=x",
        b"\x00",
        pytest.param(b'\xef\xbb\xbf\xef\xbb\xbf{"id": "x"}', id="two-byte-order-marks"),
        pytest.param(b'{"id": "\xff"}', id="not-utf-8"),
        pytest.param(b'{"\xc3": "x"}', id="not-utf-8-in-a-name"),
        pytest.param(b'{"id": "\xc0\xaf"}', id="overlong-utf-8"),
        pytest.param(b'{"id": "\xed\xa0\x80"}', id="surrogate-in-utf-8"),
        pytest.param('{"id": "x"}'.encode("utf-16"), id="utf-16"),
        pytest.param(with_extra('"\\ud800"'), id="lone-high-surrogate"),
        pytest.param(with_extra('"\\udc00x"'), id="lone-low-surrogate"),
        pytest.param(with_extra('"\\ud800\\ud800"'), id="two-high-surrogates"),
        pytest.param(with_extra('{"\\udfff": 1}'), id="lone-surrogate-in-a-name"),
        with_extra("NaN"),
        with_extra("Infinity"),
        with_extra("-Infinity"),
        with_extra("01"),
        with_extra("+1"),
        with_extra(".5"),
        with_extra("1."),
        with_extra("0x10"),
        with_extra("1_000"),
        pytest.param(with_extra("1" * 2_000), id="2000-digits"),
        pytest.param(with_extra("-" + "1" * 2_000), id="minus-2000-digits"),
        pytest.param(with_extra("0." + "1" * 2_000), id="2000-decimals"),
        pytest.param(with_extra("1e" + "1" * 2_000), id="2000-digits-of-exponent"),
        pytest.param(with_extra("1" * 5_000), id="5000-digits"),
        pytest.param(with_extra("1" * 100_000), id="100000-digits"),
        pytest.param(nested("[", "]", 1_000), id="1000-arrays"),
        pytest.param(nested("[", "]", 100_000), id="100000-arrays"),
        pytest.param(nested('{"a":', "}", 1_000), id="1000-objects"),
        pytest.param(nested('{"a":', "}", 100_000), id="100000-objects"),
        pytest.param("[" * 100_000, id="100000-arrays-not-closed"),
        pytest.param(with_extra(nested("[", "]", 1_000)), id="1000-arrays-within"),
        pytest.param(with_extra(nested('{"a":', "}", 100_000)), id="100000-objects-within"),
        b"[]",
        b"[{}]",
        b'"id"',
        b"1",
        b"true",
        b"null",
    ],
)
async def test_body_that_is_not_a_storable_json_object_is_code_2(ops: httpx.AsyncClient, body: bytes | str) -> None:
    assert_error(await ops.post(OPS_PATH, content=body, headers=JSON), 400, 2, "Parameter 'body' is invalid: ")


async def test_a_byte_order_mark_before_the_body_is_no_part_of_it(
    ops: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    """Programs of Windows write one."""
    mark = b"\xef\xbb\xbf"
    headers = {"Content-Type": "application/json"}
    body = mark + json.dumps(a_recording("marked")).encode()
    assert (await ops.post(OPS_PATH, content=body, headers=headers)).status_code == 201
    body = mark + b'{"operationName": "applyNonDelete"}'
    assert (await admin.post("/api/v2/recordings/marked", content=body, headers=headers)).status_code == 200
    missing = await admin.post("/api/v2/recordings/marked", content=mark, headers=headers)
    assert_error(missing, 400, 1, "Parameter 'operationName' is missing")


async def test_last_of_duplicate_attributes_wins(ops: httpx.AsyncClient) -> None:
    body = '{"callerPhoneNumber": 5, "extra": 1, "extra": 2, ' + json.dumps(a_recording("duplicate"))[1:]
    response = await ops.post(OPS_PATH, content=body, headers=JSON)
    assert response.status_code == 201, response.text
    text = (await ops.get(f"{OPS_PATH}/duplicate")).text
    assert text.count('"extra"') == text.count('"callerPhoneNumber"') == 1
    assert json.loads(text)["recording"]["extra"] == 2


async def test_nul_characters_and_surrogate_pairs_are_kept(ops: httpx.AsyncClient) -> None:
    extra = {"\0": "a\0b", "": "\0", "pair": "😀", "controls": "\x01\x1f\x7f\x85\u2028\ufeff\ufffe"}
    await ops.post(OPS_PATH, json=a_recording("nul", callerPhoneNumber="1\x002", extra=extra))
    recording = (await ops.get(f"{OPS_PATH}/nul")).json()["recording"]
    assert (recording["callerPhoneNumber"], recording["extra"]) == ("1\x002", extra)


# --- paths and queries that are not UTF-8 ---

NOT_UTF_8 = ("%FF", "%C3", "a%80b", "%C0%AF", "%E0%80%AF", "%ED%A0%80", "%F4%90%80%80")


@pytest.mark.parametrize("encoded", NOT_UTF_8)
@pytest.mark.parametrize(
    "path",
    [
        f"{OPS_PATH}?callerPhoneNumber={{}}",
        f"{OPS_PATH}?{{}}=1",
        f"{OPS_PATH}/{{}}",
        "/api/v2/ops/contact-centers/{}/recordings?startTime=0",
        "/api/v2/ops/contact-centers/{}/recordings/a",
    ],
)
async def test_path_or_query_that_is_not_utf_8_is_code_2(ops: httpx.AsyncClient, path: str, encoded: str) -> None:
    assert_error(await ops.get(path.format(encoded)), 400, 2, "it is not UTF-8")


@pytest.mark.parametrize("encoded", NOT_UTF_8)
async def test_id_that_is_not_utf_8_is_code_2_for_an_administrator(admin: httpx.AsyncClient, encoded: str) -> None:
    assert_error(await admin.get(f"/api/v2/recordings/{encoded}"), 400, 2, "Parameter 'id' is invalid: ")


# --- internal errors ---


@pytest.mark.parametrize(
    ("method", "path", "failing"),
    [
        ("GET", f"{OPS_PATH}/a", "find"),
        ("GET", f"{OPS_PATH}?startTime=0", "search"),
        ("POST", OPS_PATH, "save"),
    ],
)
async def test_internal_error_does_not_reveal_its_cause(
    ops: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, method: str, path: str, failing: str
) -> None:
    async def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("the secret cause")

    monkeypatch.setattr(RecordingRepository, failing, fail)
    response = await ops.request(method, path, json=a_recording() if method == "POST" else None)
    assert_error(response, 500, 4)
    assert response.json()["statusMessage"] == "Internal server error - please contact administrator."
    assert "secret" not in response.text + str(response.headers)
