"""Media objects in S3 buckets."""

import logging
from collections.abc import Mapping
from typing import Any

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError, ClientError

from app.errors import MediaStorageFailed
from app.media.http import HttpPool
from app.media.location import S3Location
from app.media.stream import MediaStream
from app.settings import S3Config

log = logging.getLogger(__name__)

# Enough to use immediately, too short to be of use to a reader of a log with a URL in it.
_PRESIGNED_SECONDS = 60


class S3Storage:
    """An S3 endpoint with its buckets. URLs are signed here, so that bodies stream as WebDAV's do."""

    def __init__(self, client: Any, http: HttpPool) -> None:
        self._client = client
        self._http = http

    async def open(self, method: str, location: S3Location, headers: Mapping[str, str]) -> MediaStream:
        operation = "head_object" if method == "HEAD" else "get_object"
        return await self._http.open(method, await self._sign(operation, location), headers)

    async def delete(self, location: S3Location) -> None:
        # Of an object that is not there S3 says 204 too; 404 is about its bucket.
        status, _ = await self._http.request("DELETE", await self._sign("delete_object", location), {})
        if status not in {200, 204}:
            log.warning("the media storage answered DELETE with %d", status)
            raise MediaStorageFailed

    async def _sign(self, operation: str, location: S3Location) -> str:
        try:
            url: str = await self._client.generate_presigned_url(
                operation, {"Bucket": location.bucket, "Key": location.key}, ExpiresIn=_PRESIGNED_SECONDS
            )
        except (BotoCoreError, ClientError) as error:  # no credentials, for one
            raise MediaStorageFailed from error
        return url


def s3_client(config: S3Config) -> Any:
    return get_session().create_client(
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
