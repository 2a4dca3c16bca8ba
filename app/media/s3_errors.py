"""What an S3 storage's refusal means, and what to configure (S3's error codes)."""

import asyncio
import re
from contextlib import suppress

from app.errors import RecallError
from app.media.stream import MediaStream

# The one code that says that the object is not there: other 404s are about its bucket, or do not come from S3.
NO_SUCH_KEY = "NoSuchKey"

_CODE = re.compile(rb"<Code>\s*([A-Za-z0-9.]{1,100})\s*</Code>")

# The longest error that is read, in bytes, and for how many seconds.
_LONGEST_ERROR = 16 * 1024
_ERROR_SECONDS = 5.0

_REMEDIES = {
    "NoSuchBucket": "the bucket does not exist; check the buckets, the endpoint_url and the region of its entry",
    "AccessDenied": "the access key needs s3:GetObject on the bucket's objects, and s3:DeleteObject to delete them; if"
    " the object is missing this is the answer to a key without s3:ListBucket",
    "AllAccessDisabled": "access to the bucket is disabled",
    "InvalidAccessKeyId": "the access key is unknown; check the access_key_id of its entry",
    "XAdminUserNotFound": "the access key is unknown; check the access_key_id of its entry",  # versitygw
    "SignatureDoesNotMatch": "the signature is wrong; check the secret_access_key and the region of its entry",
    "RequestTimeTooSkewed": "the clocks of this machine and of the storage differ; check both",
    "ExpiredToken": "the temporary credentials have expired",
    "InvalidToken": "the temporary credentials are wrong",
    "InvalidObjectState": "the object is archived; restore it from its storage class before it is played",
    "AuthorizationHeaderMalformed": "the region is wrong; check the region of its entry",
    "AuthorizationQueryParametersError": "the region or the credentials are wrong; check those of its entry",
    "PermanentRedirect": "the bucket is in another region; check the region and the endpoint_url of its entry",
    "TemporaryRedirect": "the bucket is in another region; check the region and the endpoint_url of its entry",
}


def error_code(body: bytes) -> str | None:
    """The code of an error's XML, None if the body is none."""
    match = _CODE.search(body)
    return match[1].decode("ascii") if match else None


def explain(method: str, status: int, code: str | None) -> str:
    """One line for the log: what the storage answered, and what to configure."""
    if code is None:
        remedy = "it does not answer as S3 does; check the endpoint_url of its entry"
    else:
        remedy = _REMEDIES.get(code, "see the documentation of S3's errors")
    return f"it answered {method} with {status} {code or 'and no code'}: {remedy}"


async def read_error(stream: MediaStream) -> bytes:
    """The beginning of an answer's body; less, if it breaks off or stalls. Closes the stream."""
    body = b""
    try:
        with suppress(TimeoutError, RecallError):
            async with asyncio.timeout(_ERROR_SECONDS):
                while len(body) < _LONGEST_ERROR and (chunk := await stream.read()):
                    body += chunk
    finally:
        stream.close()
    return body[:_LONGEST_ERROR]
