"""Recordings whose media is in a storage of the test, and playing it."""

from typing import Any

import httpx

from tests.support.recordings import OPS_PATH, a_media_file, a_recording
from tests.support.service import Service


class Media:
    """A media file in a storage, and the service that may play it."""

    def __init__(self, service: Service, path: str) -> None:
        self.service = service
        self.path = f"/api/v2{path}"
        self.admin = service.client("admin")

    async def play(self, **headers: str) -> httpx.Response:
        return await self.admin.get(self.path, headers={name.replace("_", "-"): v for name, v in headers.items()})


async def post_media(service: Service, descriptor: dict[str, Any], **attributes: Any) -> Media:
    recording = a_recording(mediaFiles=[a_media_file(mediaDescriptor=descriptor, **attributes)])
    response = await service.client("ops").post(OPS_PATH, json=recording)
    assert response.status_code in {200, 201}, response.text
    read = await service.client("admin").get("/api/v2/recordings/recording")
    return Media(service, read.json()["recording"]["mediaFiles"][0]["playPath"])
