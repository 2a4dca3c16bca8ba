"""The page's scripts and styles, which a browser may keep for ever: a new version has a new address."""

from collections.abc import Iterator
from hashlib import sha256
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import PurePosixPath
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from app.api.requests import path_segment
from app.errors import ResourceNotFound

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}


class _Asset(NamedTuple):
    content: bytes
    media_type: str


def _read(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, _Asset]]:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from _read(entry, f"{prefix}{entry.name}/")
        elif media_type := _TYPES.get(PurePosixPath(entry.name).suffix):
            yield f"{prefix}{entry.name}", _Asset(entry.read_bytes(), media_type)


_ASSETS = dict(_read(files("app.page") / "static"))
VERSION = sha256(repr(_ASSETS).encode()).hexdigest()[:16]


def address(name: str) -> str:
    """Returns the path of a file of `static`; raises KeyError if there is none."""
    _ASSETS[name]
    return f"/ui/static/{VERSION}/{name}"


async def static(request: Request) -> Response:
    """`GET /ui/static/{version}/{name}`

    A process of another version serves its own file under the name, which is not to be kept.
    """
    asset = _ASSETS.get(path_segment(request, "name"))
    if asset is None:
        raise ResourceNotFound
    is_current = path_segment(request, "version") == VERSION
    lasts = "public, max-age=31536000, immutable" if is_current else "no-store"
    return Response(asset.content, media_type=asset.media_type, headers={"Cache-Control": lasts})
