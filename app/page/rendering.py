"""Templates → answers in HTML, errors too."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from importlib.metadata import version
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import Response

from app.api.requests import services
from app.auth.policy import Operation, require_permission, require_role
from app.auth.sessions import Session
from app.errors import NotAuthenticated, RecallError
from app.page import assets
from app.recordings.dates import format_instant
from app.settings import User

_TEMPLATES = Environment(
    loader=PackageLoader("app.page"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
_TEMPLATES.globals |= {"static": assets.address, "version": version("recall")}
_TEMPLATES.filters["utc"] = lambda instant: f"{format_instant(instant).removesuffix('+0000')}Z"

# A user who may do one of these may start operations on many recordings.
_OF_MANY: Sequence[Operation] = ("apply", "unapply", "label", "unlabel")

_HTML = "text/html; charset=utf-8"


def page(
    request: Request, template: str, status: int = 200, headers: Mapping[str, str] | None = None, **context: Any
) -> Response:
    """Returns a template as an answer. What `context` holds is text: the templates escape it."""
    user: User | None = getattr(request.state, "user", None)
    session: Session | None = getattr(request.state, "session", None)
    text = _TEMPLATES.get_template(template).render(
        nonce=request.scope["csp_nonce"],
        user=user,
        here=request.scope["path"],
        operates=user is not None and any(why_not(user, operation) is None for operation in _OF_MANY),
        seconds_left=services(request).sessions.seconds_left(session) if session else None,
        **context,
    )
    return Response(text, status, headers, media_type=_HTML)


def see_other(location: str) -> Response:
    """Returns an answer that leads to another path of the page."""
    return Response(status_code=303, headers={"Location": location})


def own_link(path: str, uri: str | None) -> str | None:
    """Returns a link of the API without its origin: the page's links lead to where the page came from."""
    return None if uri is None else f"{path}?{uri.partition('?')[2]}"


def why_not(user: User, operation: Operation) -> str | None:
    """Returns why a user may not do something, None for who may."""
    try:
        require_role(user, operation)
        require_permission(user, operation)
    except RecallError as error:
        return error.message
    return None


def error_page(request: Request, error: RecallError) -> Response:
    """Returns what a person is told of an error. Who is not signed in is asked to, and then led back."""
    if isinstance(error, NotAuthenticated):
        return see_other(sign_in_address(request))
    return page(
        request,
        "error.html",
        error.http_status,
        error.headers,
        message=error.message,
        title=HTTPStatus(error.http_status).phrase,
        retry=error.http_status in {429, 503},
    )


def _around(path: str) -> str:
    return "/".join(path.split("/")[:3])


def sign_in_address(request: Request) -> str:
    """Returns the path of the sign-in that leads back to what was asked for."""
    query = request.scope["query_string"].decode("latin-1")
    # A form's path is no page: the way back is to the pages around it.
    path = request.scope["path"] if request.method in {"GET", "HEAD"} else _around(request.scope["path"])
    wanted = path + (f"?{query}" if query else "")
    return f"/ui/sign-in?next={quote(wanted, safe='')}"
