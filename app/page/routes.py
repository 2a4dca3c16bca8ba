"""The rows of the page in the route table: its HTML, its files, and the readers' rows of the API with a session.

A row of `app.api.routes` that is for readers is under `/ui/api` too, without another declaration. There it takes the
cookie of a session in place of Basic (docs/contract.md section 13).
"""

from collections.abc import Sequence
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import Response

from app.api import routes
from app.api.endpoint import Endpoint, Method
from app.api.requests import API
from app.errors import ResourceNotFound
from app.page import assets, operations, peaks, recording, search, sign_in
from app.page.rendering import error_page
from app.recordings.identity import Resource

_MOUNT = "/ui/api"


def _is_for_readers(endpoint: Endpoint) -> bool:
    return endpoint.authentication == "basic" and endpoint.path.startswith(f"{API}/") and "/ops/" not in endpoint.path


def _with_session(endpoint: Endpoint) -> Endpoint:
    """The row under the page."""
    return replace(
        endpoint,
        name=f"page-api-{endpoint.name}",
        path=_MOUNT + endpoint.path.removeprefix(API),
        aliases=tuple(_MOUNT + path.removeprefix(API) for path in endpoint.aliases),
        authentication="session",
        mount=_MOUNT,
    )


async def _not_found(request: Request) -> Response:
    raise ResourceNotFound


def _peaks(resource: Resource) -> Endpoint:
    return Endpoint(
        name=f"page-{resource}-peaks",
        path=f"{_MOUNT}/{resource}/{{id}}/peaks/{{name}}",
        authentication="session",
        resource=resource,
        get=Method(handler=peaks.peaks, operation="waveform", audit=None),
    )


# A path stands before the patterns that match it too.
ENDPOINTS: Sequence[Endpoint] = (
    *(_with_session(endpoint) for endpoint in routes.ENDPOINTS if _is_for_readers(endpoint)),
    _peaks("recordings"),
    _peaks("screen-recordings"),
    Endpoint(
        name="page-home",
        path="/",
        aliases=("/ui", "/ui/"),
        authentication="none",
        get=Method(handler=sign_in.home, operation=None, audit=None),
    ),
    Endpoint(
        name="page-sign-in",
        path="/ui/sign-in",
        authentication="none",
        get=Method(handler=sign_in.show, operation=None, audit=None),
        post=Method(handler=sign_in.sign_in, operation=None, audit=None),
        error_answer=error_page,
    ),
    Endpoint(
        name="page-sign-out",
        path="/ui/sign-out",
        authentication="none",
        post=Method(handler=sign_in.sign_out, operation=None, audit=None),
        error_answer=error_page,
    ),
    Endpoint(
        name="page-session",
        path="/ui/session",
        authentication="none",
        get=Method(handler=sign_in.session, operation=None, audit=None),
    ),
    Endpoint(
        name="page-recordings",
        path="/ui/recordings",
        aliases=("/ui/recordings/",),
        authentication="session",
        resource="recordings",
        get=Method(handler=search.show, operation="search", audit=None),
        mount="/ui",
        error_answer=error_page,
    ),
    Endpoint(
        name="page-recording",
        path="/ui/recordings/{id}",
        authentication="session",
        resource="recordings",
        get=Method(handler=recording.show, operation="read", audit=None),
        mount=_MOUNT,
        error_answer=error_page,
    ),
    Endpoint(
        name="page-operations",
        path="/ui/operations",
        aliases=("/ui/operations/",),
        authentication="session",
        get=Method(handler=operations.show, operation="operations", audit=None),
        mount="/ui",
        error_answer=error_page,
    ),
    Endpoint(
        name="page-operation-stop",
        path="/ui/operations/{operation}/stop",
        authentication="session",
        resource="recordings",
        post=Method(handler=operations.stop, operation="operations", audit="cancel-operation"),
        error_answer=error_page,
    ),
    Endpoint(
        name="page-static",
        path="/ui/static/{version}/{name:path}",
        authentication="none",
        get=Method(handler=assets.static, operation=None, audit=None),
    ),
    Endpoint(
        name="page-api-unknown",
        path="/ui/api/{rest:path}",
        authentication="none",
        get=Method(handler=_not_found, operation=None, audit=None),
    ),
    Endpoint(
        name="page-unknown",
        path="/ui/{rest:path}",
        authentication="none",
        get=Method(handler=_not_found, operation=None, audit=None),
        error_answer=error_page,
    ),
)
