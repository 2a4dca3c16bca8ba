"""Media objects in S3 buckets."""

import asyncio
import logging
from collections.abc import Mapping
from functools import cache
from typing import Any

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError, ClientError

from app.errors import MediaStorageBusy, MediaStorageFailed
from app.media.http import Address, HttpPool
from app.media.location import S3Location
from app.media.s3_errors import NO_SUCH_KEY, error_code, explain, read_error
from app.media.stream import MediaStream
from app.settings import S3Config

log = logging.getLogger(__name__)

# The clocks of storage and service may differ by minutes. A URL is signed when its request is sent.
_PRESIGNED_SECONDS = 15 * 60

# The pause before a request is repeated that S3 refused with 503 SlowDown.
_SLOW_DOWN_SECONDS = 1.0


class S3Storage:
    """An S3 endpoint with its buckets. URLs are signed here, so that bodies stream as WebDAV's do."""

    def __init__(self, client: Any, http: HttpPool) -> None:
        self._client = client
        self._http = http

    async def open(self, method: str, location: S3Location, headers: Mapping[str, str]) -> MediaStream:
        """As `Storage.open`. A storage that asks for a slower pace (503) is asked once more, after a pause.

        A refusal of GET is raised as MediaStorageFailed, but for 404 of a missing object, and 416.
        """
        address = self._address("head_object" if method == "HEAD" else "get_object", location)
        stream = await self._http.open(method, address, headers)
        if stream.status == 503:
            stream.close()
            await asyncio.sleep(_SLOW_DOWN_SECONDS)
            stream = await self._http.open(method, address, headers)
        if stream.status == 503:
            stream.close()
            log.warning("media storage %s: it asks for fewer requests (503)", location.bucket)
            raise MediaStorageBusy
        # An answer to HEAD does not say why. An unsatisfiable range is an answer (416).
        if method != "HEAD" and 300 <= stream.status < 500 and stream.status != 416:
            await self._require_missing(method, stream, location)
        return stream

    async def _require_missing(self, method: str, stream: MediaStream, location: S3Location) -> None:
        """Raises MediaStorageFailed, unless the storage says that its bucket is there and the object is not."""
        code = error_code(await read_error(stream))
        if stream.status == 404 and code == NO_SUCH_KEY:
            return
        reason = explain(method, stream.status, code)
        log.warning("media storage %s: %s", location.name, reason)
        raise MediaStorageFailed(reason)

    async def delete(self, location: S3Location) -> None:
        # Of an object that is not there S3 says 204 too; 404 is about its bucket.
        status, _ = await self._http.request("DELETE", self._address("delete_object", location), {})
        if status not in {200, 204}:
            log.warning("media storage %s: it answered DELETE with %d", location.bucket, status)
            raise MediaStorageFailed(f"it answered DELETE with {status}")

    def _address(self, operation: str, location: S3Location) -> Address:
        async def url() -> str:
            try:
                signed: str = await self._client.generate_presigned_url(
                    operation, {"Bucket": location.bucket, "Key": location.key}, ExpiresIn=_PRESIGNED_SECONDS
                )
            except (BotoCoreError, ClientError) as error:  # no credentials, for one
                log.warning("media storage %s: its URLs cannot be signed: %s", location.bucket, error)
                raise MediaStorageFailed(f"its URLs cannot be signed: {error}") from error
            return signed

        return url


# One for all storages, because each session reads the API descriptions of botocore again, which takes 0.1 s.
_session = cache(get_session)


def s3_client(config: S3Config) -> Any:
    return _session().create_client(
        "s3",
        endpoint_url=config.endpoint_url,
        region_name=config.region,
        aws_access_key_id=config.access_key_id,
        aws_secret_access_key=config.secret_access_key,
        config=AioConfig(
            signature_version="s3v4",
            # Endpoints of one's own rarely have a DNS name for each bucket.
            s3={"addressing_style": "path" if config.endpoint_url else "virtual"},
        ),
    )
