"""Which missing objects of a storage are believed to be gone, for those who delete many.

A storage whose share is not mounted answers 404 to everything, and has all its files back later. A run that believed it
would forget them. See docs/decisions/0020-proof-before-deletion.md.
"""

import time
from collections import Counter

from app.errors import MediaStorageFailed
from app.media.location import WebDavLocation
from app.settings import WebDavConfig

# For how long an object that a storage has shown is a sign that its share is mounted, in seconds.
_MEMORY_SECONDS = 60.0

# How many objects may be missing before a run stops, if the storage has shown none.
_FIRST_OBJECTS = 10


class Sightings:
    """When each WebDAV storage has last shown an object, by deleting or sending it."""

    def __init__(self) -> None:
        self._seen: dict[WebDavConfig, float] = {}

    def add(self, storage: WebDavConfig) -> None:
        """Notes an object that a storage has shown now."""
        self._seen[storage] = time.monotonic()

    def is_recent(self, storage: WebDavConfig) -> bool:
        """Returns whether a storage has shown an object within the last minute."""
        seen = self._seen.get(storage)
        return seen is not None and time.monotonic() - seen < _MEMORY_SECONDS


class MissingMedia:
    """Decides for one run whether an object that is missing is gone; `believes_all` is the operator's own word."""

    def __init__(self, *, believes_all: bool = False) -> None:
        self._believes_all = believes_all
        self._doubted: Counter[WebDavConfig] = Counter()

    @property
    def suspect(self) -> str | None:
        """The storage whose first objects are all missing, None if there is none."""
        return next((one.base_url for one, count in self._doubted.items() if count >= _FIRST_OBJECTS), None)

    @property
    def doubted(self) -> int:
        """The number of missing objects that were not believed to be gone."""
        return self._doubted.total()

    def check(self, location: WebDavLocation, sightings: Sightings) -> None:
        """Raises MediaStorageFailed if a missing object may be on a share that is not mounted."""
        storage = location.storage
        # A storage with a presence_url has answered it by now.
        if self._believes_all or storage.presence_url is not None or sightings.is_recent(storage):
            self._doubted.pop(storage, None)
            return
        self._doubted[storage] += 1
        raise MediaStorageFailed("it is missing, and its storage has not shown that its share is mounted")
