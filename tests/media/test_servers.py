"""Each server does what the tests of media rely on; ours have no part in it."""

import asyncio
import contextlib
import importlib.util
import shutil
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import ClientError

from app.embedded import servers
from tests.support import storages
from tests.support.faults import CountingStorage, FaultServer, Trap, generated
from tests.support.storages import BUCKETS, S3, WebDav
from tests.support.waiting import eventually

CONTENT = Random(1).randbytes(10_000)
PATH = "2013/05/a call, 100% of+it #1 für Åsa.wav"
RANGES = [
    ("0-99", CONTENT[:100]),
    ("5-5", CONTENT[5:6]),
    ("100-4999", CONTENT[100:5000]),
    ("9990-", CONTENT[9990:]),
    ("9990-20000", CONTENT[9990:]),
    ("-7", CONTENT[-7:]),
    ("-20000", CONTENT),
    ("0-", CONTENT),
]


# --- WebDAV -------------------------------------------------------------------------------------------------


@pytest.fixture
def dav(webdav: WebDav) -> Iterator[httpx.Client]:
    with httpx.Client(auth=webdav.auth, trust_env=False, verify=False) as client:  # or each test loads certificates
        yield client


@pytest.fixture
def url(webdav: WebDav) -> str:
    return webdav.put(PATH, CONTENT)


def test_webdav_serves_the_file(dav: httpx.Client, url: str) -> None:
    response = dav.get(url)
    assert (response.status_code, response.content) == (200, CONTENT)
    assert response.headers["content-length"] == "10000"
    assert response.headers["content-type"] in {"audio/wav", "audio/x-wav"}
    assert response.headers["accept-ranges"] == "bytes"
    assert response.headers["etag"].startswith('"')  # a strong one
    assert response.headers["last-modified"].endswith(" GMT")


@pytest.mark.parametrize(("wanted", "part"), RANGES)
def test_webdav_serves_ranges(dav: httpx.Client, url: str, wanted: str, part: bytes) -> None:
    response = dav.get(url, headers={"Range": f"bytes={wanted}"})
    assert (response.status_code, response.content) == (206, part)
    first = CONTENT.index(part)
    assert response.headers["content-range"] == f"bytes {first}-{first + len(part) - 1}/10000"


def test_webdav_refuses_a_range_beyond_the_end(dav: httpx.Client, url: str) -> None:
    assert dav.get(url, headers={"Range": "bytes=10000-"}).status_code == 416


def test_webdav_answers_head(dav: httpx.Client, url: str) -> None:
    head, get = dav.head(url), dav.get(url)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-length", "content-type", "etag", "last-modified"):
        assert head.headers[name] == get.headers[name]


def test_webdav_knows_conditions(dav: httpx.Client, url: str) -> None:
    about = dav.head(url).headers
    assert dav.get(url, headers={"If-None-Match": about["etag"]}).status_code == 304
    assert dav.get(url, headers={"If-None-Match": '"another"'}).status_code == 200
    assert dav.get(url, headers={"If-Match": '"another"'}).status_code == 412
    for validator, status in ((about["etag"], 206), (about["last-modified"], 206), ('"another"', 200)):
        response = dav.get(url, headers={"Range": "bytes=0-99", "If-Range": validator})
        assert (response.status_code, len(response.content)) == (status, 100 if status == 206 else 10_000)


def test_webdav_deletes(dav: httpx.Client, webdav: WebDav, url: str) -> None:
    assert webdav.exists(PATH)
    assert dav.delete(url).status_code == 204
    assert not webdav.exists(PATH)
    assert dav.delete(url).status_code == 404
    assert dav.get(url).status_code == 404
    assert dav.head(url).status_code == 404


def test_webdav_deletes_a_folder_with_all_that_is_in_it(dav: httpx.Client, webdav: WebDav) -> None:
    """Even if it is not named as one: this is what a client has to be careful about."""
    webdav.put("folder/call.wav", CONTENT)
    assert dav.delete(webdav.url_of("folder")).status_code == 204
    assert not webdav.exists("folder/call.wav")


@pytest.mark.parametrize("auth", [None, (storages.USERNAME, "wrong"), ("another", storages.PASSWORD)])
def test_webdav_refuses_requests_without_password(webdav_basic: WebDav, auth: tuple[str, str] | None) -> None:
    url = webdav_basic.put("secret.wav", CONTENT)
    for method in ("GET", "HEAD", "DELETE"):
        response = httpx.request(method, url, auth=auth, trust_env=False)
        assert response.status_code == 401
        assert response.headers["www-authenticate"].startswith("Basic ")
    assert webdav_basic.exists("secret.wav")


# --- S3 -----------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def s3_client(server: S3, **options: str) -> AsyncIterator[Any]:
    # Without a version presigned URLs are signed in the old way, which only AWS itself still knows.
    config = AioConfig(signature_version="s3v4", s3={"addressing_style": "path"}, retries={"max_attempts": 1})
    async with get_session().create_client("s3", config=config, **{**server.options, **options}) as client:
        yield client


@pytest.fixture(scope="module")
async def connected(s3: S3) -> AsyncIterator[Any]:
    async with s3_client(s3) as client:  # takes a second
        yield client


@pytest.fixture
def client(connected: Any, s3: S3) -> Any:
    s3.put(PATH, CONTENT)
    return connected


async def s3_get(client: Any, **arguments: str) -> tuple[int, bytes, dict[str, str]]:
    """The status, the body and the headers of an object, or of an error."""
    try:
        response = await client.get_object(**{"Bucket": BUCKETS[0], "Key": PATH, **arguments})
        async with response["Body"] as body:
            content = await body.read()
    except ClientError as error:
        response, content = error.response, b""
    metadata = response["ResponseMetadata"]
    return metadata["HTTPStatusCode"], content, metadata["HTTPHeaders"]


async def test_s3_serves_the_object(client: Any) -> None:
    status, content, headers = await s3_get(client)
    assert (status, content) == (200, CONTENT)
    assert headers["content-length"] == "10000"
    assert headers["content-type"] == "audio/wav"
    assert headers["accept-ranges"] == "bytes"
    assert headers["etag"].startswith('"')
    assert headers["last-modified"].endswith(" GMT")


@pytest.mark.parametrize(("wanted", "part"), RANGES)
async def test_s3_serves_ranges(client: Any, wanted: str, part: bytes) -> None:
    status, content, headers = await s3_get(client, Range=f"bytes={wanted}")
    assert (status, content) == (206, part)
    first = CONTENT.index(part)
    assert headers["content-range"] == f"bytes {first}-{first + len(part) - 1}/10000"


async def test_s3_refuses_a_range_beyond_the_end(client: Any) -> None:
    assert (await s3_get(client, Range="bytes=10000-"))[0] == 416


async def test_s3_answers_head(client: Any) -> None:
    head = (await client.head_object(Bucket=BUCKETS[0], Key=PATH))["ResponseMetadata"]["HTTPHeaders"]
    _, _, headers = await s3_get(client)
    for name in ("content-length", "content-type", "etag", "last-modified"):
        assert head[name] == headers[name]


async def test_s3_knows_conditions(client: Any) -> None:
    etag = (await s3_get(client))[2]["etag"]
    assert (await s3_get(client, IfNoneMatch=etag))[0] == 304
    assert (await s3_get(client, IfNoneMatch='"another"'))[0] == 200
    assert (await s3_get(client, IfMatch=etag, Range="bytes=0-99"))[:2] == (206, CONTENT[:100])
    assert (await s3_get(client, IfMatch='"another"', Range="bytes=0-99"))[0] == 412


async def test_s3_deletes(client: Any, s3: S3) -> None:
    assert s3.exists(PATH)
    await client.delete_object(Bucket=BUCKETS[0], Key=PATH)
    assert not s3.exists(PATH)
    await client.delete_object(Bucket=BUCKETS[0], Key=PATH)  # again is no error
    assert (await s3_get(client))[0] == 404
    assert (await s3_get(client, Bucket="another-bucket"))[0] == 404


async def test_s3_has_two_buckets(client: Any, s3: S3) -> None:
    s3.put("call.wav", b"in the other one", bucket=BUCKETS[1])
    assert s3.exists("call.wav", bucket=BUCKETS[1])
    assert not s3.exists("call.wav")
    assert (await s3_get(client, Bucket=BUCKETS[1], Key="call.wav"))[1] == b"in the other one"


async def test_s3_serves_presigned_urls(client: Any) -> None:
    url = await presigned(client)
    async with httpx.AsyncClient(trust_env=False) as http:
        response = await http.get(url, headers={"Range": "bytes=100-199"})
    assert (response.status_code, response.content) == (206, CONTENT[100:200])


@pytest.mark.parametrize(
    ("wrong", "status", "code"),
    [
        ({"aws_secret_access_key": "wrong"}, 403, "SignatureDoesNotMatch"),
        # AWS has InvalidAccessKeyId and 403. This 404 must not be taken for an object that is gone.
        ({"aws_access_key_id": "another"}, 404, "XAdminUserNotFound"),
    ],
)
async def test_versitygw_refuses_a_wrong_key(wrong: dict[str, str], status: int, code: str, versitygw: S3) -> None:
    versitygw.put(PATH, CONTENT)
    async with s3_client(versitygw, **wrong) as client:
        assert (await s3_get(client))[0] == status
        with pytest.raises(ClientError, match=code):
            await client.delete_object(Bucket=BUCKETS[0], Key=PATH)
    assert versitygw.exists(PATH)


async def test_versitygw_refuses_unsigned_or_wrongly_signed_requests(versitygw: S3) -> None:
    versitygw.put(PATH, CONTENT)
    async with s3_client(versitygw) as client, httpx.AsyncClient(trust_env=False) as http:
        url = await presigned(client)
        assert (await http.get(url)).status_code == 200
        assert (await http.get(url.partition("?")[0])).status_code == 403
        assert (await http.get(url.replace("Signature=", "Signature=0"))).status_code == 403
        assert (await http.get(url.replace("2013", "2014"))).status_code == 403
        assert (await http.head(url)).status_code == 403  # signed for GET
        assert (await http.delete(url)).status_code == 403


async def test_versitygw_refuses_an_expired_url(versitygw: S3) -> None:
    versitygw.put(PATH, CONTENT)
    async with s3_client(versitygw) as client, httpx.AsyncClient(trust_env=False) as http:
        url = await presigned(client, seconds=1)

        async def expired() -> bool:
            return (await http.get(url)).status_code == 403

        await eventually(expired)
        assert "Request has expired" in (await http.get(url)).text


async def presigned(client: Any, seconds: int = 60) -> str:
    url: str = await client.generate_presigned_url(
        "get_object", {"Bucket": BUCKETS[0], "Key": PATH}, ExpiresIn=seconds, HttpMethod="GET"
    )
    return url


# --- What starts and stops them -----------------------------------------------------------------------------


def test_stopped_server_does_not_answer() -> None:
    with storages.wsgidav() as server:
        server.put("call.wav", CONTENT)
        folder = server.folder.parent
        assert httpx.get(server.url_of("call.wav"), trust_env=False).content == CONTENT
    assert not folder.exists()
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.url, trust_env=False)


def test_failed_start_of_a_server_is_explained(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError, match="here is why"),
        servers.running(tmp_path, lambda _: ["sh", "-c", "echo here is why"]),
    ):
        pass


@pytest.mark.parametrize(
    "server",
    [
        storages.apache, storages.dufs, storages.gofakes3, storages.moto, storages.nginx_webdav,
        storages.rclone_s3, storages.rclone_webdav, storages.versitygw, storages.wsgidav,
    ],
)  # fmt: skip
def test_missing_program_skips_the_test_except_in_ci(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storages, "find_program", lambda *_: None)
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"is not installed: .* install "), server():
        pass
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=r"is not installed: .* install "), server():
        pass


# --- Servers in the test's own event loop -------------------------------------------------------------------


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False, verify=False, timeout=httpx.Timeout(30, read=0.5)) as client:
        yield client


async def test_counting_storage_serves_exact_ranges(counting_storage: CountingStorage, http: httpx.AsyncClient) -> None:
    size = 300_000
    url = counting_storage.put("2013/a call.wav", size)
    random = Random(1)
    for _ in range(50):
        first = random.randrange(size)
        last = random.randrange(first, size)
        response = await http.get(url, headers={"Range": f"bytes={first}-{last}"})
        assert (response.status_code, response.content) == (206, generated(first, last + 1))
        assert response.headers["content-range"] == f"bytes {first}-{last}/{size}"
    whole = await http.get(url)
    assert (whole.status_code, whole.content) == (200, generated(0, size))
    assert (await http.get(url, headers={"Range": "bytes=-5"})).content == generated(size - 5, size)
    assert (await http.get(url, headers={"Range": f"bytes=0-{size}"})).status_code == 206
    for refused in (f"bytes={size}-", "bytes=-0"):
        response = await http.get(url, headers={"Range": refused})
        assert (response.status_code, response.headers["content-range"]) == (416, f"bytes */{size}")
    for ignored in ("bytes=5-2", "bytes=", "bytes=-", "bytes=0-1,5-6", "items=0-1"):
        assert (await http.get(url, headers={"Range": ignored})).status_code == 200


async def test_counting_storage_knows_conditions_head_and_delete(
    counting_storage: CountingStorage, http: httpx.AsyncClient
) -> None:
    url = counting_storage.put("call.wav", 1000)
    head = await http.head(url)
    assert (head.status_code, head.headers["content-length"], counting_storage.bytes_sent) == (200, "1000", 0)
    assert (await http.get(url, headers={"If-None-Match": head.headers["etag"]})).status_code == 304
    for validator, status in ((head.headers["etag"], 206), (head.headers["last-modified"], 206), ('"another"', 200)):
        response = await http.get(url, headers={"Range": "bytes=0-99", "If-Range": validator})
        assert response.status_code == status
    assert (await http.delete(url)).status_code == 204
    assert not counting_storage.exists("call.wav")
    assert (await http.delete(url)).status_code == 404
    assert (await http.get(url)).status_code == 404
    assert [request.method for request in counting_storage.requests] == [
        "HEAD",
        *["GET"] * 4,
        "DELETE",
        "DELETE",
        "GET",
    ]
    assert counting_storage.connections == 1


async def test_counting_storage_counts(counting_storage: CountingStorage, http: httpx.AsyncClient) -> None:
    url = counting_storage.put("long.wav", 1_000_000_000)
    bodies = []  # or they would be closed as soon as nobody knows them
    async with contextlib.AsyncExitStack() as players:
        for _ in range(3):
            response = await players.enter_async_context(http.stream("GET", url))
            bodies.append(response.aiter_raw())
            await anext(bodies[-1])
        assert (counting_storage.open_connections, counting_storage.answering) == (3, 3)
    await eventually(lambda: counting_storage.open_connections == 0)
    assert counting_storage.answering == 0
    assert counting_storage.connections == len(counting_storage.requests) == 3


async def test_counting_storage_waits_for_clients_that_do_not_read(counting_storage: CountingStorage) -> None:
    url = httpx.URL(counting_storage.put("long.wav", 1_000_000_000))
    reader, writer = await asyncio.open_connection(url.host, url.port)
    try:
        writer.write(f"GET {url.path} HTTP/1.1\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        await settled(counting_storage)
        assert 0 < counting_storage.bytes_sent < 50_000_000
        assert counting_storage.answering == 1
    finally:
        writer.transport.abort()
    await eventually(lambda: counting_storage.open_connections == 0)


async def test_counting_storage_can_be_slow(counting_storage: CountingStorage, http: httpx.AsyncClient) -> None:
    counting_storage.rate = 100_000
    url = counting_storage.put("call.wav", 50_000)
    started = asyncio.get_running_loop().time()
    assert (await http.get(url)).content == generated(0, 50_000)
    assert 0.4 < asyncio.get_running_loop().time() - started < 5


async def settled(storage: CountingStorage) -> None:
    """Returns when nothing has been sent for a while."""
    before = -1
    async with asyncio.timeout(30):
        while before != storage.bytes_sent:
            before = storage.bytes_sent
            await asyncio.sleep(0.2)


@pytest.mark.parametrize("headers", [{}, {"Range": "bytes=1000-900000"}])
@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("stall-before-headers", httpx.ReadTimeout),
        ("stall-in-headers", httpx.ReadTimeout),
        ("stall-in-body", httpx.ReadTimeout),
        ("short-body", httpx.RemoteProtocolError),
        ("reset-before-headers", httpx.ReadError),
        ("reset-in-body", httpx.ReadError),
        ("not-http", httpx.RemoteProtocolError),
    ],
)
async def test_fault_is_visible_to_the_client(
    fault: str, error: type[Exception], headers: dict[str, str], faults: FaultServer, http: httpx.AsyncClient
) -> None:
    received = bytearray()

    async def play() -> None:
        async with http.stream("GET", faults.url_of(fault), headers=headers) as response:
            assert response.status_code == (206 if headers else 200)
            async for piece in response.aiter_raw():
                received.extend(piece)

    with pytest.raises(error):
        await play()
    if fault in {"stall-in-body", "short-body"}:
        first, length = (1000, 899_001) if headers else (0, 1_000_000)
        assert received == generated(first, first + length // 2)
    await eventually(lambda: faults.open_connections == 0)
    assert [request.method for request in faults.requests] == ["GET"]


async def test_redirect_leads_to_the_trap(faults: FaultServer, trap: Trap, http: httpx.AsyncClient) -> None:
    response = await http.get(faults.url_of("redirect"))
    assert (response.status_code, response.headers["location"]) == (302, f"{trap.url}/call.wav")
    assert (trap.connections, trap.requests) == (0, [])
    assert (await http.get(faults.url_of("redirect"), follow_redirects=True)).content == b"the trap's content"
    assert (trap.connections, [request.target for request in trap.requests]) == (1, ["/recordings/call.wav"])


async def test_endless_body_does_not_end(faults: FaultServer, http: httpx.AsyncClient) -> None:
    received = 0
    async with http.stream("GET", faults.url_of("endless")) as response:
        async for piece in response.aiter_raw():
            received += len(piece)
            if received > 20 * FaultServer.SIZE:
                break
    await eventually(lambda: faults.open_connections == 0)


async def test_fault_server_gives_wrong_answers(faults: FaultServer, http: httpx.AsyncClient) -> None:
    wanted = {"Range": "bytes=10-19"}
    whole = await http.get(faults.url_of("ignores-range"), headers=wanted)
    assert (whole.status_code, len(whole.content)) == (200, FaultServer.SIZE)
    shifted = await http.get(faults.url_of("wrong-range"), headers=wanted)
    assert (shifted.status_code, shifted.headers["content-range"]) == (206, "bytes 11-19/1000000")
    assert shifted.content == generated(11, 20)
    for method in ("GET", "HEAD", "DELETE"):
        for status in (500, 403, 503):
            response = await http.request(method, faults.url_of(f"status-{status}"))
            assert response.status_code == status
            assert response.text == ("" if method == "HEAD" else FaultServer.SECRET)
    assert faults.connections == 1


async def test_every_fault_is_tested(faults: FaultServer) -> None:
    assert all(hasattr(faults, f"_{fault.replace('-', '_')}") for fault in FaultServer.FAULTS if "status" not in fault)


async def test_reset_is_visible_to_the_client(faults: FaultServer) -> None:
    """And not as an end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", faults.port)
    writer.write(b"GET /recordings/reset-in-body/call.wav HTTP/1.1\r\n\r\n")
    with pytest.raises(ConnectionResetError):
        await reader.read(-1)
    writer.close()
    with contextlib.suppress(ConnectionResetError):
        await writer.wait_closed()


async def test_trap_sees_every_connection(trap: Trap) -> None:
    """Also those who say nothing, and those who come by IPv6."""
    hosts = ["127.0.0.1", "::1"] if len(trap._servers) == 2 else ["127.0.0.1"]
    for host in hosts:
        _, writer = await asyncio.open_connection(host, trap.port)
        writer.close()
        await writer.wait_closed()
    await eventually(lambda: trap.connections == len(hosts))
    assert trap.requests == []


async def test_reset_by_the_client_is_noticed(counting_storage: CountingStorage) -> None:
    url = httpx.URL(counting_storage.put("long.wav", 1_000_000_000))
    _, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(f"GET {url.path} HTTP/1.1\r\n\r\n".encode())
    await eventually(lambda: counting_storage.answering == 1)
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()
    await eventually(lambda: counting_storage.open_connections == 0)


async def test_error_in_a_server_is_reported() -> None:
    class Broken(Trap):
        async def answer(self, *_: object) -> None:
            raise ValueError("a bug")

    server = Broken()
    await server.__aenter__()
    async with httpx.AsyncClient(trust_env=False) as client:
        with pytest.raises(httpx.HTTPError):
            await client.get(server.url)
    with pytest.raises(ExceptionGroup, match="the server failed"):
        await server.__aexit__()
