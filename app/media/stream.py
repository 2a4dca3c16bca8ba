"""What can be read of a media object: by an HTTP response, and by whatever else needs its bytes."""

import re
from collections.abc import Mapping
from typing import Literal, Protocol

from starlette.datastructures import Headers

# What a deletion has found: an object that it deleted, or none.
Removal = Literal["deleted", "missing"]

# A coding of uploads to S3, which some storages remember and which is not one of the object; a name for none.
_NO_CODINGS = frozenset({"aws-chunked", "identity", ""})
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class MediaStream(Protocol):
    """A storage's answer whose body has not been read yet. The caller that opened it closes it, on every path."""

    @property
    def status(self) -> int:
        """The HTTP status of the answer."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers of the answer; names ignore case."""
        ...

    @property
    def length(self) -> int | None:
        """The number of bytes of the body, None if only its end will tell."""
        ...

    async def read(self) -> bytes:
        """Returns the next chunk, nothing at the end; raises MediaStorageFailed when the body breaks off."""
        ...

    def close(self) -> None:
        """Frees the connection immediately. No coroutine, because one would not run in a cancelled task."""
        ...


def values_of(headers: Mapping[str, str], name: str) -> list[str]:
    """Returns each value of a header that may be repeated, where a plain look-up has only the first one."""
    if isinstance(headers, Headers):  # which decodes only these
        return headers.getlist(name)
    return [value for key, value in headers.items() if key.lower() == name.lower()]


def header_of(headers: Mapping[str, str], name: str) -> str | None:
    """Returns the value of a header, as one list if the header is repeated."""
    values = values_of(headers, name)
    return ", ".join(values) if values else None


def codings_of(stream: MediaStream) -> list[str]:
    """Returns the codings of the object (its Content-Encoding). Raises ValueError if the header is malformed."""
    value = header_of(stream.headers, "Content-Encoding") or ""
    codings = [coding for coding in re.split("[ \t]*,[ \t]*", value.strip()) if coding.lower() not in _NO_CODINGS]
    if not all(map(_TOKEN.fullmatch, codings)):
        raise ValueError("its Content-Encoding is malformed")
    return codings
