"""All configured media storages, under one interface."""

from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Protocol, TypeVar

from app.media.http import HttpPool
from app.media.location import Location, WebDavLocation
from app.media.missing import MissingMedia, Sightings
from app.media.s3 import S3Storage, Signer, s3_client
from app.media.stream import MediaStream, Removal
from app.media.webdav import WebDavStorage
from app.settings import S3Config, Settings, WebDavConfig

LocationT_contra = TypeVar("LocationT_contra", contravariant=True)


class Storage(Protocol[LocationT_contra]):
    """One configured storage. Locations come from `app.media.location`."""

    async def open(self, method: str, location: LocationT_contra, headers: Mapping[str, str]) -> MediaStream:
        """GET or HEAD with the range and conditions of `headers`; any status is an answer.

        Raises MediaStorageBusy, MediaStorageTimeout or MediaStorageFailed.
        """
        ...

    async def delete(self, location: LocationT_contra) -> Removal:
        """Deletes an object; returns when the storage has shown that it is gone. Raises as `open` does."""
        ...

    async def is_gone(self, location: LocationT_contra) -> bool:
        """Returns whether an object is missing. Raises as `open` does, and if the storage does not prove either."""
        ...


class MediaStorages:
    """All configured storages, each with a pool of connections of its own for the life of the process."""

    def __init__(
        self,
        webdav: Mapping[WebDavConfig, WebDavStorage],
        s3: Mapping[S3Config, S3Storage],
        sightings: Sightings,
        missing: MissingMedia,
    ) -> None:
        self._webdav = webdav
        self._s3 = s3
        self._sightings = sightings
        self._missing = missing

    def judging(self, missing: MissingMedia) -> "MediaStorages":
        """Returns the same storages with another judgement of objects that are missing when they are deleted."""
        return MediaStorages(self._webdav, self._s3, self._sightings, missing)

    @property
    def s3(self) -> Collection[S3Config]:
        """The configured S3 storages."""
        return self._s3.keys()

    async def is_versioned(self, bucket: str) -> bool:
        """Returns whether a configured bucket keeps old versions. Raises as `Storage.open` does."""
        config = next(config for config in self._s3 if bucket in config.buckets)
        return await self._s3[config].is_versioned(bucket)

    async def open(self, method: str, location: Location, headers: Mapping[str, str]) -> MediaStream:
        """Opens a media object, as `Storage.open` does."""
        if isinstance(location, WebDavLocation):
            return await self._webdav[location.storage].open(method, location, headers)
        return await self._s3[location.storage].open(method, location, headers)

    async def delete(self, location: Location) -> Removal:
        """Deletes a media object, as `Storage.delete` does. Raises MediaStorageFailed for a doubtful one, too."""
        if isinstance(location, WebDavLocation):
            removal = await self._webdav[location.storage].delete(location)
            if removal == "missing":
                await self._check_missing(location)
            return removal
        return await self._s3[location.storage].delete(location)

    async def is_gone(self, location: Location) -> bool:
        """As `Storage.is_gone`. Raises MediaStorageFailed for a doubtful one, too."""
        if isinstance(location, WebDavLocation):
            is_gone = await self._webdav[location.storage].is_gone(location)
            if is_gone:
                await self._check_missing(location)
            return is_gone
        return await self._s3[location.storage].is_gone(location)

    async def _check_missing(self, location: WebDavLocation) -> None:
        storage = self._webdav[location.storage]
        await self._missing.check(location, self._sightings, partial(storage.has_folder, location))


@asynccontextmanager
async def open_storages(settings: Settings) -> AsyncIterator[MediaStorages]:
    """Opens no connection yet."""
    async with AsyncExitStack() as stack:
        sightings = Sightings()
        webdav: dict[WebDavConfig, WebDavStorage] = {}
        s3: dict[S3Config, S3Storage] = {}
        for webdav_config in settings.storage.webdav:
            http = await stack.enter_async_context(HttpPool(webdav_config.base_url, webdav_config.ca_file, settings))
            webdav[webdav_config] = WebDavStorage(webdav_config, http, sightings)
        for s3_config in settings.storage.s3:
            client = await stack.enter_async_context(s3_client(s3_config))
            name = s3_config.endpoint_url or "AWS S3"
            http = await stack.enter_async_context(HttpPool(name, s3_config.ca_file, settings))
            s3[s3_config] = S3Storage(Signer(client, s3_config), http)
        yield MediaStorages(webdav, s3, sightings, MissingMedia(believes_all=True))
