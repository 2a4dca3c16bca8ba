"""The security headers of the page (docs/decisions/0026-sessions.md)."""

import secrets
from collections.abc import Mapping

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HEADERS: Mapping[str, str] = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'nonce-{nonce}'; img-src 'self' data:; media-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
# Two years: what lists of hosts that are only reached by https ask for.
_ONLY_HTTPS = "max-age=63072000"


class PageHeaders:
    """Adds the headers to every answer under `/ui`, errors too, except where an answer has its own.

    It stands around everything else. `public_url` tells whether browsers use https when a proxy ends it.
    """

    def __init__(self, app: ASGIApp, public_url: str | None) -> None:
        self._app = app
        self._is_https = (public_url or "").startswith("https:")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _is_page(scope["path"]):
            await self._app(scope, receive, send)
            return
        nonce = scope["csp_nonce"] = secrets.token_urlsafe(16)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("Content-Security-Policy", _POLICY.format(nonce=nonce))
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                if self._is_https or scope["scheme"] == "https":
                    headers.setdefault("Strict-Transport-Security", _ONLY_HTTPS)
            await send(message)

        await self._app(scope, receive, send_with_headers)


def _is_page(path: str) -> bool:
    return path in {"/", "/ui"} or path.startswith("/ui/")
