"""What can be read of a media object: by an HTTP response, and by whatever else needs its bytes."""

from collections.abc import Mapping
from typing import Literal, Protocol

# What a deletion has found: an object that it deleted, or none.
Removal = Literal["deleted", "missing"]


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
