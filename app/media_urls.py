"""The normal form of a media object's URL: two spellings of one object must not count as two objects."""

import ipaddress
import re
from urllib.parse import unquote_to_bytes, urlsplit

_DEFAULT_PORTS = {"http": 80, "https": 443}
_MISREAD = re.compile(r"[ \\?#]")
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


_USER_INFO = re.compile(r"(?<=//).*@")


def without_password(url: str) -> str:
    """Returns a URL for a message: in place of a user name and password it has `***`."""
    return _USER_INFO.sub("***@", url)


class AmbiguousUrl(ValueError):
    """A URL that programs may read differently; the text says why."""


def parse_url(url: str) -> tuple[str, list[str]]:
    """Returns the origin (`http://host:port`, normalised) and the decoded path segments. Raises AmbiguousUrl.

    It refuses everything that programs read differently: user info, dot segments (encoded too), encoded slashes,
    backslashes, control characters, a query, a fragment.
    """
    if not url.isprintable() or _MISREAD.search(url):  # white space other than a space is not printable
        raise AmbiguousUrl("it has a query, a fragment, a backslash, white space or a control character")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise AmbiguousUrl("it is not a URL") from None
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or "@" in parts.netloc:
        raise AmbiguousUrl("it must be an http or https URL with a host and without user name or password")
    host = _normal_host(parts.hostname)
    origin = f"{parts.scheme}://{host}:{port if port is not None else _DEFAULT_PORTS[parts.scheme]}"
    return origin, _segments(parts.path)


def _normal_host(host: str) -> str:
    if ":" not in host:
        return host.lower()
    try:
        return f"[{ipaddress.IPv6Address(host)}]"
    except ValueError:
        raise AmbiguousUrl("its host is not an address") from None


def _segments(path: str) -> list[str]:
    if _BAD_PERCENT.search(path):
        raise AmbiguousUrl("it has a % that is not followed by two hexadecimal digits")
    try:
        segments = [unquote_to_bytes(segment).decode() for segment in path.split("/")[1:]]
    except UnicodeDecodeError:
        raise AmbiguousUrl("its path is not UTF-8") from None
    for segment in segments:
        if segment in {".", ".."} or "/" in segment or "\\" in segment or not segment.isprintable():
            raise AmbiguousUrl("its path has a dot segment, an encoded slash, a backslash or a control character")
    if "" in segments[:-1]:
        raise AmbiguousUrl("its path has an empty segment")
    return segments
