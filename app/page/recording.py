"""One recording (docs/contract.md section 13)."""

import json

from starlette.requests import Request
from starlette.responses import Response

from app.api import recordings
from app.page.rendering import page


async def show(request: Request) -> Response:
    """`GET /ui/recordings/{id}`: what the API answers under the page's mount, as HTML."""
    answer = await recordings.read(request)
    found = json.loads(bytes(answer.body))["recording"]
    return page(request, "recording.html", recording=found, raw=json.dumps(found, indent=2, ensure_ascii=False))
