"""Requests of pages of other origins (docs/contract.md section 1)."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest

from app.settings import Settings
from app.store.repository import RecordingRepository
from tests.support.recordings import CONTACT_CENTER, OPS_PATH, a_recording
from tests.support.service import PATIENT, Service, StartService, assert_error, own_settings

MESSAGE = "Requests from other origins are not allowed."
ALLOWED = ("https://desk.example.com", "https://*.example.org", "http://localhost:3000")
APPLY = {"operationName": "applyNonDelete"}
UNAPPLY = {"operationName": "unapplyNonDelete"}


@pytest.fixture(scope="module")
async def service(elasticsearch_url: str) -> AsyncIterator[Service]:
    async with own_settings(elasticsearch_url) as settings:
        service = Service(msgspec.structs.replace(settings, allowed_origins=ALLOWED, **PATIENT))
        await service.start()
        yield service
        await service.stop()


@pytest.fixture
async def recording(service: Service) -> Service:
    """The service with a recording `held`, which is not protected."""
    await service.client("admin").post("/api/v2/recordings/held", json=UNAPPLY)
    await service.client("ops").post(OPS_PATH, json=a_recording("held"))
    return service


@pytest.mark.parametrize(
    ("headers", "is_ours"),
    [
        ({}, True),
        ({"Origin": "SELF"}, True),
        ({"Origin": "SELF", "Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "none"}, True),
        # Behind a proxy that ends TLS the browser's origin is not the one that the service sees.
        ({"Origin": "https://recall.example.net", "Sec-Fetch-Site": "same-origin"}, True),
        ({"Origin": "https://desk.example.com", "Sec-Fetch-Site": "cross-site"}, True),
        ({"Origin": "https://desk.example.com"}, True),
        ({"Origin": "https://a.example.org"}, True),
        ({"Origin": "https://a.b.example.org"}, True),
        ({"Origin": "http://localhost:3000", "Sec-Fetch-Site": "same-site"}, True),
        ({"Origin": "SELF", "Sec-Fetch-Site": "cross-site"}, False),
        ({"Origin": "http://127.0.0.1:1", "Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "something new"}, False),
        ({"Origin": "http://127.0.0.1:1"}, False),
        ({"Origin": "http://127.0.0.1"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": ""}, False),
        ({"Origin": "https://desk.example.com.evil.example"}, False),
        ({"Origin": "https://desk.example.com:444"}, False),
        ({"Origin": "http://desk.example.com"}, False),
        ({"Origin": "https://example.org"}, False),
        ({"Origin": "https://evilexample.org"}, False),
        ({"Origin": "https://evil.example/.example.org"}, False),
        ({"Origin": "http://localhost:3001"}, False),
    ],
)
@pytest.mark.parametrize("method", ["POST", "DELETE", "PUT"])
async def test_changes_are_accepted_only_from_own_and_allowed_origins(
    recording: Service, method: str, headers: dict[str, str], is_ours: bool
) -> None:
    headers = {name: recording.url if value == "SELF" else value for name, value in headers.items()}
    user, path = ("ops", f"{OPS_PATH}/held") if method == "DELETE" else ("admin", "/api/v2/recordings/held")
    response = await recording.client(user).request(
        method, path, json=APPLY if method == "POST" else None, headers=headers
    )
    if is_ours:
        assert response.status_code == (405 if method == "PUT" else 200), response.text
    else:
        assert_error(response, 403, 3, MESSAGE)
        assert "access-control-allow-origin" not in response.headers


async def test_refused_change_leaves_the_recording_unchanged(recording: Service) -> None:
    admin = recording.client("admin")
    await admin.post("/api/v2/recordings/held", json=APPLY, headers={"Origin": "https://evil.example"})
    assert "nonDelete" not in (await admin.get("/api/v2/recordings/held")).json()["recording"]


@pytest.mark.parametrize("origin", ["https://desk.example.com", "https://a.example.org"])
async def test_allowed_origin_may_read_responses_with_credentials(recording: Service, origin: str) -> None:
    for response in (
        await recording.client("admin").get("/api/v2/recordings/held", headers={"Origin": origin}),
        await recording.client().get("/api/v2/recordings/held", headers={"Origin": origin}),
    ):
        assert response.headers["access-control-allow-origin"] == origin
        assert response.headers["access-control-allow-credentials"] == "true"
        assert "Origin" in response.headers["vary"]
        assert "Content-Range" in response.headers["access-control-expose-headers"]


async def test_allowed_origin_may_read_an_unexpected_error(recording: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError

    monkeypatch.setattr(RecordingRepository, "find", fail)
    admin = recording.client("admin")
    response = await admin.get("/api/v2/recordings/held", headers={"Origin": "https://desk.example.com"})
    assert_error(response, 500, 4)
    assert response.headers["access-control-allow-origin"] == "https://desk.example.com"
    assert "access-control-allow-origin" not in (await admin.get("/api/v2/recordings/held")).headers


async def test_foreign_origin_gets_no_cors_headers(recording: Service) -> None:
    response = await recording.client("admin").get(
        "/api/v2/recordings/held", headers={"Origin": "https://evil.example"}
    )
    assert response.status_code == 200
    assert not [name for name in response.headers if name.startswith("access-control")]


async def preflight(service: Service, origin: str) -> httpx.Response:
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    return await service.client().options("/api/v2/recordings/held", headers=headers)


async def test_preflight_of_an_allowed_origin_needs_no_credentials(recording: Service) -> None:
    response = await preflight(recording, "https://desk.example.com")
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == "https://desk.example.com"
    assert {"POST", "DELETE", "PUT"} <= set(response.headers["access-control-allow-methods"].split(", "))
    allowed = set(response.headers["access-control-allow-headers"].lower().split(", "))
    assert {"authorization", "content-type", "range", "if-range", "if-match", "if-none-match"} < allowed
    assert {"if-modified-since", "if-unmodified-since"} < allowed


async def test_preflight_of_a_foreign_origin_is_answered_like_any_options_request(recording: Service) -> None:
    assert_error(await preflight(recording, "https://evil.example"), 405, 2)


@pytest.mark.parametrize(
    "origin",
    [
        "*",
        "https://*",
        "desk.example.com",
        "https://desk.example.com/",
        "https://*.*.example.com",
        "https://a.*.com",
        "",
    ],
)
def test_configured_origin_is_exact_or_one_wildcard(origin: str) -> None:
    with pytest.raises(ValueError, match="allowed origin"):
        msgspec.convert({"allowed_origins": [origin]}, Settings)


async def test_public_url_is_an_own_origin(start_service: StartService) -> None:
    service = await start_service(public_url="https://Recall.example.net:443/base")
    response = await service.client("ops").post(
        f"/api/v2/ops/contact-centers/{CONTACT_CENTER}/recordings",
        json=a_recording("public"),
        headers={"Origin": "https://recall.example.net"},
    )
    assert response.status_code == 201


@pytest.mark.parametrize("host", ["[", "]", "[::1", "a b", "", "\u00e9".encode().decode("latin-1"), "x" * 5_000])
async def test_a_host_that_is_none_is_no_error_of_the_service(recording: Service, host: str) -> None:
    port = int(recording.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /api/v2/me HTTP/1.1\r\nHost: {host}\r\nOrigin: http://evil.example\r\nContent-Length: 0\r\n\r\n"
    writer.write(head.encode("latin-1"))
    status = int((await reader.readuntil(b"\r\n")).split()[1])
    writer.close()
    assert status in {400, 403}
