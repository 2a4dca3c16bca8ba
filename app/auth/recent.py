"""A bounded memory: it keeps the newest entries."""

from collections import OrderedDict
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


def put_newest(entries: OrderedDict[K, V], key: K, value: V, *, max_entries: int) -> None:
    """Puts an entry behind all others, and drops the oldest one when there are too many."""
    entries[key] = value
    entries.move_to_end(key)
    if len(entries) > max_entries:
        entries.popitem(last=False)
