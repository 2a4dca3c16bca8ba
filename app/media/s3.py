"""Media objects in S3 buckets."""

import asyncio
import logging
from collections.abc import Mapping
from functools import cache, partial
from typing import Any
from urllib.parse import parse_qs, quote, unquote_plus, urlsplit
from xml.etree.ElementTree import Element

from aiobotocore.config import AioConfig
from aiobotocore.credentials import AioCredentials
from aiobotocore.session import get_session
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from app.errors import MediaStorageBusy, MediaStorageFailed
from app.media.http import Address, HttpPool
from app.media.location import S3Location
from app.media.markup import MalformedXml, children, local_name, parse_xml
from app.media.s3_errors import NO_SUCH_KEY, error_code, explain, read_error
from app.media.stream import MediaStream, Removal
from app.settings import S3Config

log = logging.getLogger(__name__)

# The clocks of storage and service may differ by minutes. A URL is signed when its request is sent.
_PRESIGNED_SECONDS = 15 * 60

# A key that is the same in a URL, and that no host name or path ends with.
_ANY_KEY = "any-key"

# How many versions are asked for in one request.
_VERSIONS = 100

# The statuses of answers whose XML is read.
_WITH_BODY = frozenset({200, *range(300, 600)})

_FIRST_BYTE = {"Range": "bytes=0-0"}

# The pause before a request is repeated that S3 refused with 503 SlowDown.
_SLOW_DOWN_SECONDS = 1.0


class Signer:
    """Signs URLs of an S3 endpoint as its client does, which is slow: it finds the endpoint and checks types each time.

    So the client signs one URL for each bucket. It has the host, the path of the bucket and the region of all others.
    """

    def __init__(self, client: Any, config: S3Config) -> None:
        self._client = client
        self._credentials: AioCredentials | None = None
        if config.access_key_id is not None:
            self._credentials = AioCredentials(config.access_key_id, config.secret_access_key)
        self._buckets: dict[str, tuple[str, str, str]] = {}

    async def url(self, method: str, bucket: str, key: str) -> str:
        """Returns the URL of a request for an object. Raises what botocore raises."""
        base, host, region = self._buckets.get(bucket) or await self._find(bucket)
        if self._credentials is None:
            self._credentials = await s3_session().get_credentials()
            if self._credentials is None:
                raise NoCredentialsError
        # It computes the same, and twice, if it is not told.
        request = AWSRequest(method, base + quote(key, safe="/~"), headers={"Host": host})
        credentials = await self._credentials.get_frozen_credentials()
        S3SigV4QueryAuth(credentials, "s3", region, expires=_PRESIGNED_SECONDS).add_auth(request)
        url: str = request.url
        return url

    async def any_url(self, operation: str, parameters: Mapping[str, Any]) -> str:
        """Returns the URL of any request, by the names of the client. Raises what botocore raises."""
        signed: str = await self._client.generate_presigned_url(
            operation, dict(parameters), ExpiresIn=_PRESIGNED_SECONDS
        )
        return signed

    async def _find(self, bucket: str) -> tuple[str, str, str]:
        """Returns where the keys of a bucket begin, the host that is signed, and the bucket's region."""
        parts = urlsplit(await self.any_url("get_object", {"Bucket": bucket, "Key": _ANY_KEY}))
        (credential,) = parse_qs(parts.query)["X-Amz-Credential"]
        base = f"{parts.scheme}://{parts.netloc}{parts.path.removesuffix(_ANY_KEY)}"
        default = {"http": ":80", "https": ":443"}[parts.scheme]
        host = parts.netloc.lower().removesuffix(default)
        found = self._buckets[bucket] = base, host, credential.split("/")[-3]
        return found


class S3Storage:
    """An S3 endpoint with its buckets. URLs are signed here, so that bodies stream as WebDAV's do."""

    def __init__(self, signer: Signer, http: HttpPool) -> None:
        self._signer = signer
        self._http = http

    async def open(self, method: str, location: S3Location, headers: Mapping[str, str]) -> MediaStream:
        """As `Storage.open`. A storage that asks for a slower pace (503) is asked once more, after a pause.

        A refusal of GET is raised as MediaStorageFailed, but for 404 of a missing object, and 416.
        """
        address = self._address(method, location)
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

    async def delete(self, location: S3Location) -> Removal:
        if location.storage.delete_versions:
            removal = await self._delete_versions(location)
        else:
            removal = await self._delete(location)
        # Without the permission to list the bucket 403 is the answer about an object that is gone.
        left = await self._http.request("HEAD", self._address("HEAD", location), {}, patiently=True)
        if left.status in {200, 206}:
            raise _failed(location, f"it still has the object {location.key!r} after its deletion")
        if left.status >= 500 and left.status != 501:
            raise _failed(location, f"it answers HEAD with {left.status} after the deletion of {location.key!r}")
        return removal

    async def is_gone(self, location: S3Location) -> bool:
        # Only the answer to GET tells a missing object from a missing bucket.
        stream = await self.open("GET", location, _FIRST_BYTE)
        stream.close()
        return stream.status == 404

    async def is_versioned(self, bucket: str) -> bool:
        """Returns whether a bucket keeps old versions. Raises as `open` does, and when it may not be asked."""
        address = self._any_address("get_bucket_versioning", {"Bucket": bucket})
        answer = await self._http.request("GET", address, {}, statuses_with_body=_WITH_BODY)
        if answer.status != 200:
            raise MediaStorageFailed(explain("GetBucketVersioning", answer.status, error_code(answer.body)))
        try:
            states = children(parse_xml(answer.body), "Status")
        except MalformedXml as error:
            raise MediaStorageFailed(f"its answer is not XML: {error}") from None
        return any((state.text or "").strip() in {"Enabled", "Suspended"} for state in states)

    async def _delete_versions(self, location: S3Location) -> Removal:
        """Deletes every version and every delete marker of exactly this key."""
        deleted: set[str] = set()
        while versions := await self._versions(location):
            if deleted.issuperset(versions):
                raise _failed(location, f"it still has versions of {location.key!r} after their deletion")
            for version in versions:
                await self._delete(location, version)
            deleted.update(versions)
        return "deleted" if deleted else "missing"

    async def _versions(self, location: S3Location) -> list[str]:
        """Returns the first version ids of a key, nothing when there are none."""
        # Of all keys with this prefix the key itself comes first.
        parameters = {"Bucket": location.bucket, "Prefix": location.key, "MaxKeys": _VERSIONS}
        address = self._any_address("list_object_versions", parameters)
        answer = await self._http.request("GET", address, {}, statuses_with_body=_WITH_BODY, patiently=True)
        if answer.status != 200:
            reason = explain("ListObjectVersions", answer.status, error_code(answer.body))
            raise _failed(location, f"{reason} (delete_versions needs the permission to list versions)")
        try:
            root = parse_xml(answer.body)
        except MalformedXml as error:
            raise _failed(location, f"its list of versions is not XML: {error}") from None
        if local_name(root) != "ListVersionsResult":
            raise _failed(location, "its list of versions is none")
        is_encoded = _text(root, "EncodingType") == "url"
        return [
            _text(entry, "VersionId")
            for entry in [*children(root, "Version"), *children(root, "DeleteMarker")]
            if (unquote_plus(_text(entry, "Key")) if is_encoded else _text(entry, "Key")) == location.key
        ]

    async def _delete(self, location: S3Location, version: str = "") -> Removal:
        address = self._address("DELETE", location)
        if version:
            parameters = {"Bucket": location.bucket, "Key": location.key, "VersionId": version}
            address = self._any_address("delete_object", parameters)
        answer = await self._http.request("DELETE", address, {}, statuses_with_body=_WITH_BODY, patiently=True)
        if answer.status in {200, 204}:
            return "deleted"
        if answer.status == 404 and _proven_code(answer.body) in {NO_SUCH_KEY, "NoSuchVersion"}:
            return "missing"
        raise _failed(location, explain("DELETE", answer.status, error_code(answer.body)))

    def _address(self, method: str, location: S3Location) -> Address:
        return partial(self._signed, location.bucket, partial(self._signer.url, method, location.bucket, location.key))

    def _any_address(self, operation: str, parameters: Mapping[str, Any]) -> Address:
        return partial(self._signed, parameters["Bucket"], partial(self._signer.any_url, operation, parameters))

    async def _signed(self, bucket: str, sign: Address) -> str:
        """Raises MediaStorageFailed."""
        try:
            return await sign()
        except (BotoCoreError, ClientError) as error:  # no credentials, for one
            log.warning("media storage %s: its URLs cannot be signed: %s", bucket, error)
            raise MediaStorageFailed(f"its URLs cannot be signed: {error}") from error


# One for all clients, because each session reads the API descriptions of botocore again, which takes 0.1 s.
s3_session = cache(get_session)


def _proven_code(body: bytes) -> str:
    """Returns the code of an error that is well-formed, an empty text for any other: a page may quote a code."""
    try:
        root = parse_xml(body)
    except MalformedXml:
        return ""
    return _text(root, "Code") if local_name(root) == "Error" else ""


def _failed(location: S3Location, reason: str) -> MediaStorageFailed:
    log.warning("media storage %s: %s", location.name, reason)
    return MediaStorageFailed(reason)


def _text(element: Element, name: str) -> str:
    """Returns the text of the child of that name, which must stand there once: the text is never stripped."""
    found = children(element, name)
    return found[0].text or "" if len(found) == 1 else ""


def s3_client(config: S3Config) -> Any:
    return s3_session().create_client(
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
