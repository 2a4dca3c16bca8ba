"""Which missing objects of a storage are believed to be gone, for those who delete many.

A storage whose share is not mounted answers 404 to everything, and has all its files back later. A run that believed it
would forget them. See docs/decisions/0020-proof-before-deletion.md.
"""

import time
from collections import Counter
from collections.abc import Awaitable, Callable

from app.errors import MediaStorageFailed
from app.media.location import WebDavLocation
from app.settings import WebDavConfig

# For how long an object that a storage has shown is a sign that its share is mounted, in seconds.
_MEMORY_SECONDS = 60.0

# How many objects may be missing before a run stops, if the storage has shown none.
_FIRST_OBJECTS = 5


class Sightings:
    """When each WebDAV storage has last shown an object: that it is there, or its bytes."""

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
    """Decides for one run whether an object that is missing is gone; `believes_all` is the operator's own word.

    Recent sightings of other objects of the storage are a sign that its share is mounted. So is the object's folder,
    but not for many objects in a row.
    """

    def __init__(self, *, believes_all: bool = False) -> None:
        self.doubted = 0
        self._believes_all = believes_all
        self._sightings = Sightings()
        self._in_a_row: Counter[WebDavConfig] = Counter()

    @property
    def suspect(self) -> str | None:
        """The storage whose first objects are all missing, None if there is none."""
        for storage, count in self._in_a_row.items():
            if count >= _FIRST_OBJECTS and not self._sightings.is_recent(storage):
                return storage.base_url
        return None

    async def check(
        self, location: WebDavLocation, sightings: Sightings, has_folder: Callable[[], Awaitable[bool]]
    ) -> None:
        """Raises MediaStorageFailed if a missing object may be on a share that is not mounted."""
        storage = location.storage
        self._sightings = sightings
        # A storage with a presence_url has answered it by now.
        if self._believes_all or storage.presence_url is not None or sightings.is_recent(storage):
            self._in_a_row.pop(storage, None)
            return
        self._in_a_row[storage] += 1
        if self._in_a_row[storage] < _FIRST_OBJECTS and await has_folder():
            return
        self.doubted += 1
        raise MediaStorageFailed("it is missing, and its storage has not shown that its share is mounted")
