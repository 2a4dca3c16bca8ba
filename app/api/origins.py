"""Requests that a browser sends for a page of another origin (docs/contract.md section 1).

A browser adds a remembered Basic login to requests of any page. So a change of state counts only when it comes from
our own pages, from a configured origin, or from a client that is no browser. Under the page's own paths it counts only
when it comes from our own pages: a browser adds the cookie of a session, too, and only browsers have one.
"""

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.audit import write_refused_request
from app.api.authentication import BACKENDS
from app.api.errors import unexpected
from app.api.responses import error_envelope
from app.errors import ForeignOrigin

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# The paths that know sessions.
_PAGE = re.compile(r"/ui(?:/.*)?")
# Headers of ours that scripts of an allowed origin may read, beside those that browsers always show.
_EXPOSED = ("Accept-Ranges", "Allow", "Content-Disposition", "Content-Range", "ETag", "Retry-After")


# What a play understands (docs/contract.md section 6).
_OF_PLAYS = ("Range", "If-Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since")


class Origins:
    """Refuses changes from foreign origins, and answers allowed ones with CORS headers and credentials.

    `allowed` holds origins as in the configuration: exact, or `https://*.example.com` for all hosts below one.
    """

    def __init__(self, app: ASGIApp, *, allowed: Sequence[str] = (), public_url: str | None = None) -> None:
        self._app = app
        self._public_origin = _origin(public_url) if public_url else None
        pattern = "|".join(_pattern(origin) for origin in allowed)
        self._allowed = re.compile(pattern) if allowed else None
        self._cors = CORSMiddleware(
            # Beyond it an answer to an unexpected error would lack its headers.
            ServerErrorMiddleware(app, handler=unexpected),
            allow_origin_regex=pattern,
            allow_methods=("GET", "HEAD", "POST", "PUT", "DELETE"),
            allow_headers=("Authorization", "Content-Type", *_OF_PLAYS),
            allow_credentials=True,
            expose_headers=_EXPOSED,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(raw=scope["headers"])
        origin = headers.get("origin")
        if _PAGE.fullmatch(scope["path"]):
            is_allowed = scope["method"] in _SAFE_METHODS or self._is_our_page(scope, headers, origin)
            await (self._app if is_allowed else _refuse)(scope, receive, send)
        elif origin is not None and self._allowed is not None and self._allowed.fullmatch(origin):
            await self._cors(scope, receive, send)
        elif scope["method"] in _SAFE_METHODS or self._is_ours(scope, headers, origin):
            await self._app(scope, receive, send)
        else:
            await _refuse(scope, receive, send)

    def _is_ours(self, scope: Scope, headers: Headers, origin: str | None) -> bool:
        # Browsers set this header themselves; "none" is a person's own doing, such as a bookmark.
        site = headers.get("sec-fetch-site")
        if site is not None:
            return site in {"same-origin", "none"}
        return origin is None or self._is_own(scope, headers, origin)

    def _is_our_page(self, scope: Scope, headers: Headers, origin: str | None) -> bool:
        site = headers.get("sec-fetch-site")
        if site is not None:
            return site == "same-origin"
        return origin is not None and self._is_own(scope, headers, origin)

    def _is_own(self, scope: Scope, headers: Headers, origin: str) -> bool:
        try:
            asked = _origin(f"{scope['scheme']}://{headers.get('host', '')}")
        except ValueError:  # a bracket that is not closed
            return False
        return origin in {self._public_origin, asked}


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    error, request = ForeignOrigin(), Request(scope)
    # A browser has added the login of a user who knows nothing of this request.
    write_refused_request(request, BACKENDS["basic"].claimed_name(request), error)
    await error_envelope(error)(scope, receive, send)


def _origin(url: str) -> str:
    """Returns the origin of a URL as browsers write it: in lower case, without the scheme's usual port."""
    scheme, host, *_ = urlsplit(url.lower())
    usual_port = {"http": ":80", "https": ":443"}.get(scheme, "")
    return f"{scheme}://{host.removesuffix(usual_port) if usual_port else host}"


def _pattern(allowed: str) -> str:
    return re.escape(_origin(allowed)).replace(r"\*", "[a-z0-9.-]+")
