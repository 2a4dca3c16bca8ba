"""What an update changed in a recording: for the audit log."""

from collections.abc import Iterator
from hashlib import sha256
from typing import Any

from app.recordings.model import Recording
from app.recordings.text import to_text

_MAX_PATHS = 50
# A key may have hundreds of kilobytes.
_LONGEST_PATH = 200


def changed_paths(before: Recording, after: Recording) -> list[str]:
    """Returns the paths of what differs, as `mediaFiles[0].startTime`; of more than 50 the first, and `…`.

    A long path is cut, and ends with `…` too.
    """
    paths: list[str] = []
    for path in _differences("", before, after):
        if len(paths) == _MAX_PATHS:
            return [*paths, "…"]
        paths.append(path if len(path) <= _LONGEST_PATH else f"{path[:_LONGEST_PATH]}…")
    return paths


def content_digest(recording: Recording) -> str:
    """Returns the SHA-256 of a recording's stored text, in hexadecimal digits."""
    return sha256(to_text(recording).encode()).hexdigest()


def is_same(one: Any, other: Any) -> bool:
    """Returns whether two JSON values are the same. To Python `1`, `1.0` and `true` are equal."""
    return bool(one == other) and _has_same_types(one, other)


def _has_same_types(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return all(_has_same_types(value, other[key]) for key, value in one.items())
    return not isinstance(one, list) or all(map(_has_same_types, one, other))


def _differences(path: str, before: Any, after: Any) -> Iterator[str]:
    if is_same(before, after):
        return
    if isinstance(before, dict) and isinstance(after, dict):
        for key in dict.fromkeys([*before, *after]):
            yield from _differences(f"{path}.{key}" if path else key, before.get(key), after.get(key))
    elif isinstance(before, list) and isinstance(after, list):
        for i in range(max(len(before), len(after))):
            both = [values[i] if i < len(values) else None for values in (before, after)]
            yield from _differences(f"{path}[{i}]", *both)
    else:
        yield path
