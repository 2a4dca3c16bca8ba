"""A minimal HTTP client for the benchmarks."""

import base64
import http.client
from dataclasses import dataclass
from urllib.parse import urlsplit

from app.embedded.loader import LoadError

USER, OPS_USER, PASSWORD = "admin", "ops", "a-password"


@dataclass(frozen=True)
class Request:
    """The parts of an HTTP request that vary."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    def encoded(self, host: str) -> bytes:
        lines = [f"{self.method} {self.path} HTTP/1.1", f"Host: {host}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        if self.body:
            lines.append(f"Content-Length: {len(self.body)}")
        return "\r\n".join([*lines, "", ""]).encode() + self.body


def authorization(user: str = USER) -> tuple[str, str]:
    """Returns the header for a user of the service."""
    return "Authorization", f"Basic {base64.b64encode(f'{user}:{PASSWORD}'.encode()).decode()}"


def fetch(url: str, request: Request) -> tuple[int, bytes]:
    """Makes one request, and returns the status and the body."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    try:
        connection.request(request.method, request.path, request.body or None, dict(request.headers))
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def put(url: str, content: bytes) -> None:
    """Stores a file at a URL. Raises LoadError."""
    parts = urlsplit(url)
    status, body = fetch(url, Request("PUT", f"{parts.path}?{parts.query}" if parts.query else parts.path, (), content))
    if status not in {200, 201, 204}:
        raise LoadError(f"PUT {url} is {status}: {body[:200]!r}")
