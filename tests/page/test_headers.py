"""Every answer under `/ui` has the page's security headers, errors too."""

import re
from pathlib import Path

import httpx
import msgspec
import pytest

from app.page import assets
from app.page.assets import VERSION, address
from tests.page.support import OURS, signed_in
from tests.support.service import Service

POLICY = re.compile(
    r"default-src 'none'; script-src 'self'; style-src 'self' 'nonce-[\w-]{22}'; img-src 'self' data:; "
    r"media-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
COMMON = {
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-content-type-options": "nosniff",
}


def assert_page_headers(response: httpx.Response, cache: str = "no-store") -> None:
    headers = response.headers
    assert POLICY.fullmatch(headers["content-security-policy"])
    assert {name: headers[name] for name in COMMON} == COMMON
    assert headers["cache-control"] == cache


@pytest.fixture(scope="module")
def service(shared_service: Service) -> Service:
    return shared_service


@pytest.fixture(scope="module")
async def client(service: Service) -> httpx.AsyncClient:
    return await signed_in(service)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 303),
        ("GET", "/ui", 303),
        ("GET", "/ui/sign-in", 303),
        ("HEAD", "/ui/recordings?startTime=0", 200),
        ("GET", "/ui/recordings?startTime=0", 200),
        ("GET", "/ui/recordings?startTime=x", 400),
        ("GET", "/ui/recordings?unknown=x", 400),
        ("GET", "/ui/recordings", 303),
        ("GET", "/ui/recordings/nothing", 404),
        ("GET", "/ui/recordings/%ff", 400),
        ("GET", "/ui/nowhere/at/all", 404),
        ("GET", "/ui/static/x/nothing.js", 404),
        ("POST", "/ui/recordings", 405),
        ("PATCH", "/ui/recordings", 405),
        ("GET", "/ui/sign-out", 405),
        ("GET", "/ui/session", 200),
        ("GET", "/ui/api/me", 200),
        ("GET", "/ui/api/recordings/nothing", 404),
        ("GET", "/ui/api/nowhere", 404),
        ("POST", "/ui/api/recordings/nothing", 400),
    ],
)
async def test_each_answer_has_the_headers(client: httpx.AsyncClient, method: str, path: str, status: int) -> None:
    response = await client.request(method, path, headers=OURS)
    assert response.status_code == status
    assert_page_headers(response)
    if path.startswith(("/ui/api", "/ui/session", "/ui/static")):
        assert "html" not in response.headers.get("content-type", "")
    elif response.content:
        assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert_page_headers(await client.request("POST", path))  # from a foreign origin


async def test_an_unexpected_error_has_the_headers_and_tells_nothing(
    service: Service, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:

    async def fail(*_: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(service.repository, "search", fail)
    for path, kind in (("/ui/recordings", "text/html"), ("/ui/api/recordings", "application/json")):
        response = await client.get(f"{path}?startTime=0")
        assert response.status_code == 500
        assert response.headers["content-type"].startswith(kind)
        assert_page_headers(response)
        assert "secret" not in response.text
        assert "Internal server error" in response.text


async def test_other_paths_do_not_have_them(service: Service) -> None:
    for path in ("/health/live", "/api/v2/recordings", "/uix", "/nowhere"):
        response = await service.client().get(path)
        assert "content-security-policy" not in response.headers


async def test_a_nonce_is_never_the_same_and_stands_in_no_page_that_does_not_need_it(
    client: httpx.AsyncClient,
) -> None:
    nonces = set()
    for _ in range(3):
        response = await client.get("/ui/recordings?startTime=0")
        (nonce,) = re.findall(r"'nonce-([\w-]+)'", response.headers["content-security-policy"])
        nonces.add(nonce)
    assert len(nonces) == 3


async def test_only_by_https_browsers_are_told_to_stay_there(service: Service) -> None:
    secure = Service(msgspec.structs.replace(service.settings, public_url="https://recall.example"))
    await secure.start()
    response = await secure.client().get("/ui/sign-in")
    assert response.headers["strict-transport-security"] == "max-age=63072000"
    assert "strict-transport-security" not in (await secure.client().get("/health/live")).headers
    assert "strict-transport-security" not in (await service.client().get("/ui/sign-in")).headers
    await secure.stop()


async def test_static_files_may_be_kept_for_ever_under_their_version_alone(service: Service) -> None:
    client = service.client()
    for name, kind in (("page.css", "text/css"), ("page.js", "text/javascript"), ("icons.svg", "image/svg+xml")):
        response = await client.get(address(name))
        assert response.status_code == 200
        assert_page_headers(response, "public, max-age=31536000, immutable")
        assert response.headers["content-type"].startswith(kind)
        old = await client.get(address(name).replace(VERSION, "0" * 16))
        assert old.content == response.content
        assert_page_headers(old)
    for name in ("../rendering.py", "..%2Frendering.py", "", "page.css/", "%00", "%ff"):
        assert (await client.get(f"/ui/static/{VERSION}/{name}")).status_code in {400, 404}


def test_our_own_files_are_small() -> None:
    folder = Path(assets.__file__).parent / "static"
    sizes = {file.name: file.stat().st_size for file in folder.rglob("*") if file.is_file()}
    assert len(sizes) > 10
    for name in sizes:
        assert address(name)  # each is served
    scripts = [size for name, size in sizes.items() if name.endswith(".js")]
    assert max(scripts) < 100_000
    assert sum(sizes.values()) < 400_000


async def test_pages_name_no_file_of_another_host(service: Service, client: httpx.AsyncClient) -> None:
    for page in (
        await service.client().get("/ui/sign-in"),
        await client.get("/ui/recordings?startTime=0"),
        await client.get("/ui/recordings/nothing"),
    ):
        assert page.content
        assert re.findall(r"(?:src|href)=\"(?!/|#)", page.text) == []
