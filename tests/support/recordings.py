"""What tests post, and the contact centers and the region it belongs to."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from elasticsearch import AsyncElasticsearch

from app.recordings.identity import Resource
from app.recordings.merge import merge
from app.recordings.model import parse_recording
from app.settings import Settings
from app.store.documents import document_id, to_document
from app.store.indices import alias

CONTACT_CENTER = "a5539ef5-7dd5-4150-818f-ee1bcd447cbe"
OTHER_CONTACT_CENTER = "0b7c1c3e-5e5b-4a53-9c61-0e6f0f7b3a11"
REGION = "test"
OPS_PATH = f"/api/v2/ops/contact-centers/{CONTACT_CENTER}/recordings"


def a_recording(recording_id: str = "recording", **attributes: Any) -> dict[str, Any]:
    """What a client posts; every attribute can be replaced, and None takes it away."""
    recording = {
        "id": recording_id,
        "callerPhoneNumber": "+16504668888",
        "dialedPhoneNumber": "+14155551234",
        "region": REGION,
        "mediaFiles": [a_media_file()],
        "eventHistory": [an_event()],
        **attributes,
    }
    return {name: value for name, value in recording.items() if value is not None}


def a_media_file(path: str = "calls/sample1.mp3", **attributes: Any) -> dict[str, Any]:
    return {
        "startTime": "2013-05-17T11:45:32.000-0800",
        "stopTime": "2013-05-17T14:15:36.000-0800",
        "callUUID": "callUUID",
        "mediaDescriptor": {"storage": "awsS3", "path": path, "data": {"bucket": "stage-recordings"}},
        **attributes,
    }


def an_event(**attributes: Any) -> dict[str, Any]:
    return {"occurredAt": "2013-05-18T22:25:56.000+0000", "contact": a_user(), "event": "Joined", **attributes}


def a_user(first_name: str = "Dima", last_name: str = "Pokh", **attributes: Any) -> dict[str, Any]:
    return {
        "type": "User",
        "phoneNumber": "+14103585834",
        "userName": "dima.p@genesys.com",
        "firstName": first_name,
        "lastName": last_name,
        **attributes,
    }


async def store_many(
    elasticsearch: AsyncElasticsearch,
    settings: Settings,
    recordings: Iterable[dict[str, Any]],
    contact_center: str = CONTACT_CENTER,
    resource: Resource = "recordings",
) -> None:
    """Stores and refreshes what would take too long to post; as if posted for the contact center."""
    index = alias(settings, resource)
    for batch in batched(recordings, 1000):
        operations: list[dict[str, Any]] = []
        for posted in batch:
            document = to_document(contact_center, merge(None, parse_recording(posted)))
            _id = document_id(contact_center, posted["region"], posted["id"])
            operations += [{"index": {"_id": _id}}, document]
        response = await elasticsearch.options(request_timeout=60).bulk(index=index, operations=operations)
        assert not response["errors"], response
    await elasticsearch.indices.refresh(index=index)


def batched(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
