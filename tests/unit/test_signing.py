"""URLs of S3 objects, signed without the whole of botocore's client, are those that the client signs."""

import itertools

import pytest
from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError

from app.media.s3 import Signer, s3_client
from app.settings import S3Config

KEYS = (
    "call.wav",
    "a b/é~*+%'()!@:,;=&?#x//y.wav",
    "/leading",
    "trailing/",
    "a/../b/./c",
    "%2e%2e",
    "any-key",
    "x" * 900,
)
BUCKETS = ("recordings", "with.dots", "Up_per", "any-key")
OPERATIONS = {"GET": "get_object", "HEAD": "head_object", "DELETE": "delete_object"}
CONFIGURED = ("key", "secret/+=")


@pytest.mark.parametrize(
    "config",
    [
        S3Config(BUCKETS, "http://127.0.0.1:9000", "us-east-1", *CONFIGURED),
        S3Config(BUCKETS, "https://MinIO.example:443/base/", None, *CONFIGURED),
        S3Config(BUCKETS, None, None, *CONFIGURED),
        S3Config(BUCKETS, None, "eu-central-1", *CONFIGURED),
        S3Config(BUCKETS, None, "cn-north-1", *CONFIGURED),
        S3Config(BUCKETS, "http://127.0.0.1:9000", "us-east-1"),
    ],
    ids=["endpoint", "endpoint-with-a-path", "aws", "aws-region", "aws-china", "usual-credentials"],
)
async def test_urls_are_those_of_the_client(config: S3Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "from-the-environment")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token/+=")
    monkeypatch.setattr("app.media.s3.s3_session", get_session)
    async with s3_client(config) as client:
        signer = Signer(client, config)
        for bucket, key, (method, operation) in itertools.product(BUCKETS, KEYS, OPERATIONS.items()):
            parameters = {"Bucket": bucket, "Key": key}
            while True:  # both in the same second
                before = await signer.any_url(operation, parameters)
                url = await signer.url(method, bucket, key)
                if await signer.any_url(operation, parameters) == before:
                    break
            assert url == before


async def test_without_credentials_nothing_is_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setattr("app.media.s3.s3_session", get_session)
    config = S3Config(BUCKETS, "http://127.0.0.1:9000", "us-east-1")
    async with s3_client(config) as client:
        with pytest.raises(BotoCoreError):
            await Signer(client, config).url("GET", "recordings", "call.wav")
