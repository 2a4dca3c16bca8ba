"""`/recordings/{id}/package`: a recording with all that belongs to it, as one zip (docs/contract.md section 10)."""

import re
from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

from app.api.audit import audit_entry
from app.api.ops import ops_addresses
from app.api.playback import HEADERS, LONGEST_FILE_NAME, attachment
from app.api.recordings import shown_to
from app.api.requests import api_url, owner_of, path_segment, scope_of, services, user_of
from app.media.response import MediaResponse, unless_client_leaves
from app.recordings.identity import Resource
from app.recordings.render import MediaAddresses

# Characters that some system forbids in a file name: separators, wildcards, control characters, and a dot in front.
_UNSAFE = re.compile(r"[^\w.+=@ -]|^\.")


async def export(request: Request) -> Response:
    """`GET` and `HEAD /recordings/{id}/package`, for ops too."""
    recording_id, scope, by = path_segment(request, "id"), scope_of(request), user_of(request).name
    is_ops = "contact_center" in request.path_params
    addresses = ops_addresses(request) if is_ops else MediaAddresses(api_url(request))
    packages, settings = services(request).packages, services(request).settings

    async def read(resource: Resource, each_id: str) -> bytes:
        source = await services(request).repositories[resource].find(scope, each_id)
        (shown,) = await shown_to(request, [source], addresses)
        return shown

    def finished(digest: str) -> None:
        audit_entry(request).digest = digest

    place = await services(request).streams.take(owner_of(request))
    try:
        plan = await unless_client_leaves(request.receive, packages.plan(scope, recording_id, by=by))
        return MediaResponse(
            packages.stream(plan, read, finished),
            200,
            _headers(recording_id),
            settings.player_stall_seconds,
            scarce_seconds=settings.player_stall_scarce_seconds,
            place=place,
        )
    except BaseException:
        place.release()
        raise


def _headers(recording_id: str) -> Mapping[str, str]:
    name = _UNSAFE.sub("_", recording_id).encode()[:LONGEST_FILE_NAME].decode(errors="ignore")
    return {**HEADERS, "Content-Type": "application/zip", "Content-Disposition": attachment(f"{name}.zip")}
