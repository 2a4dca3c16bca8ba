"""Tells an operator which S3 buckets keep old versions, which a deletion leaves readable for ever."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry, Gauge

from app.background import in_background
from app.errors import RecallError
from app.media.storages import MediaStorages

log = logging.getLogger(__name__)

# The wait before a bucket is asked again doubles from one to the other.
_INITIAL_BACKOFF = 60.0
_MAX_BACKOFF = 3600.0


@asynccontextmanager
async def versioned_buckets_reported(storages: MediaStorages, registry: CollectorRegistry) -> AsyncIterator[None]:
    """Asks each bucket without `delete_versions`, beside the requests, until the storage has answered."""
    versioned = Gauge(
        "recall_media_bucket_versioned",
        "1 if a bucket keeps old versions and delete_versions is not set: deletions leave them readable.",
        ["bucket"],
        registry=registry,
        multiprocess_mode="livemax",
    )
    async with in_background(_report(storages, versioned)):
        yield


async def _report(storages: MediaStorages, versioned: Gauge) -> None:
    buckets = [bucket for config in storages.s3 if not config.delete_versions for bucket in config.buckets]
    await asyncio.gather(*(_report_bucket(storages, bucket, versioned) for bucket in buckets))


async def _report_bucket(storages: MediaStorages, bucket: str, versioned: Gauge) -> None:
    wait = _INITIAL_BACKOFF
    while True:
        try:
            is_versioned = await storages.is_versioned(bucket)
            break
        except RecallError as error:
            if wait == _INITIAL_BACKOFF:
                reason = getattr(error, "reason", None) or error
                log.warning("bucket %s does not tell whether it is versioned: %s", bucket, reason)
        await asyncio.sleep(wait)
        wait = min(2 * wait, _MAX_BACKOFF)
    versioned.labels(bucket).set(is_versioned)
    if is_versioned:
        log.warning(
            "bucket %s is versioned: deleted media stay readable as old versions; set delete_versions in its entry",
            bucket,
        )
