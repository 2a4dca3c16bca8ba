"""Access groups, partitions and agents of a recording: what limits on its readers look at (docs/contract.md section 2).

A path is compared by its parts, case-sensitively and in NFC. It holds itself and everything below it.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from app.folding import fold_name, fold_text
from app.recordings.model import Recording

Path = tuple[str, ...]

ROOT: Path = ()


def path_of(text: str) -> Path:
    """Returns the parts of a path; a leading or trailing slash does not matter, and a slash alone is the root."""
    inner = fold_text(text).strip("/")
    return tuple(inner.split("/")) if inner else ROOT


def holds(path: Path, other: Path) -> bool:
    """Returns whether a path holds another one: itself, or one below it."""
    return other[: len(path)] == path


def access_groups(media: Mapping[str, Any]) -> frozenset[Path]:
    """Returns the access groups of a media file under both names; one without lies at the root."""
    return _paths([*(media.get("accessgroup") or ()), *(media.get("accessgroups") or ())])


def partitions(media: Mapping[str, Any]) -> frozenset[Path]:
    """Returns the partitions of a media file; one without lies at the root."""
    return _paths(media.get("partitions") or ())


def agents(recording: Recording) -> Iterator[str]:
    """Yields the folded `userName` of every contact of type `User` in the history."""
    for event in recording["eventHistory"]:
        contact = event["contact"]
        if contact["type"] == "User":
            yield fold_name(contact["userName"])


def _paths(texts: Any) -> frozenset[Path]:
    return frozenset(map(path_of, texts)) or frozenset({ROOT})
