"""The description of the API, and a page that shows it and can send requests (docs/contract.md section 12)."""

from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response

from app.errors import ResourceNotFound

VERSION = version("recall")

_FILES = files("app.api") / "swagger"

_TYPES = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "start.js": "text/javascript",
    "page.css": "text/css",
}

# Swagger UI draws its icons from data URLs. Its requests go to this server alone.
_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # A browser asks each time, so that the files fit together after an upgrade.
    "Cache-Control": "no-cache",
}


async def description(request: Request) -> Response:
    """`GET /openapi.json`"""
    document: bytes = request.app.state.description
    return Response(document, media_type="application/json", headers={"Cache-Control": "no-cache"})


async def page(request: Request) -> Response:
    """`GET /docs`"""
    return Response(_read("index.html"), media_type="text/html", headers=_HEADERS)


async def file(request: Request) -> Response:
    """`GET /docs/{file}`; raises ResourceNotFound."""
    name = request.path_params["file"]
    if name not in _TYPES:
        raise ResourceNotFound
    return Response(_read(name), media_type=_TYPES[name], headers=_HEADERS)


@cache
def _read(name: str) -> bytes:
    return (_FILES / name).read_bytes()
