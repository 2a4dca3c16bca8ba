"""`/ops/contact-centers/{cc}/recordings`: for the component that makes recordings (CONTRACT.md section 3)."""

from starlette.endpoints import HTTPEndpoint
from starlette.requests import Request
from starlette.responses import Response

from app.api.recordings import read, search
from app.api.requests import (
    api_url,
    authenticated,
    envelope,
    json_body,
    path_segment,
    query_parameters,
    services,
)
from app.errors import InvalidParameter
from app.recordings.identity import encode_segment
from app.recordings.model import check_id, parse_recording


class PostedRecordings(HTTPEndpoint):
    """`POST /ops/contact-centers/{cc}/recordings`, under each of its paths."""

    async def post(self, request: Request) -> Response:
        await authenticated(request, "ops")
        return await _create_or_update(request)


class OpsRecordings(PostedRecordings):
    """`GET /ops/contact-centers/{cc}/recordings?…`, beside the `POST`"""

    async def get(self, request: Request) -> Response:
        await authenticated(request, "ops")
        return await search(request, _contact_center(request), for_ops=True)


class OneOpsRecording(HTTPEndpoint):
    """`GET /ops/contact-centers/{cc}/recordings/{id}`"""

    async def get(self, request: Request) -> Response:
        await authenticated(request, "ops")
        return await read(request, _contact_center(request), for_ops=True)


async def _create_or_update(request: Request) -> Response:
    contact_center = _contact_center(request)
    wait_for_refresh = _wait_for_refresh(request)
    posted = parse_recording(await json_body(request))
    created = await services(request).recordings.save(contact_center, posted, wait_for_refresh=wait_for_refresh)
    path = f"/ops/contact-centers/{encode_segment(contact_center)}/recordings/{encode_segment(posted['id'])}"
    return envelope({"id": posted["id"], "uri": api_url(request) + path}, status=201 if created else 200)


def _contact_center(request: Request) -> str:
    contact_center = path_segment(request, "contact_center")
    check_id("contact-center-id", contact_center)
    return contact_center


def _wait_for_refresh(request: Request) -> bool:
    parameters = query_parameters(request)
    for name, value in parameters:
        if name != "refresh":
            raise InvalidParameter(name, "it is not known; known is refresh")
        if value != "wait_for":
            raise InvalidParameter(name, "it must be wait_for")
    return bool(parameters)
