"""Signing in and out (docs/decisions/0026-sessions.md)."""

import re

from starlette.requests import Request
from starlette.responses import Response

from app.api.audit import AuditedRequest
from app.api.cookies import forget_session, session_key, set_session
from app.api.requests import address_of, form_body, query_parameters, services
from app.api.responses import envelope
from app.auth.basic import Credentials
from app.errors import NotAuthenticated, RecallError, TooManyAttempts
from app.page.rendering import page, see_other

_FORM_BYTES = 32 * 1024

_HOME = "/ui/recordings"
# Paths of the page, with query and fragment, in the characters of a URL. No other host can be meant.
_OWN_PATH = re.compile(r"/ui(?:[/?#][!-\[\]-~]*)?")
_NO_PAGES = re.compile(r"/ui/(?:sign-in|sign-out|session|static|api|operations/[^/?#]*/stop)(?:[/?#]|$)")
_LONGEST_PATH = 16_000

_WRONG = "The user name or the password is wrong."


async def home(request: Request) -> Response:
    """`GET /` and `GET /ui`"""
    return see_other(_HOME)


async def show(request: Request) -> Response:
    """`GET /ui/sign-in`: the form, or for who is signed in already the way to what was wanted."""
    parameters = dict(query_parameters(request))
    wanted = _own_path(parameters.get("next", ""))
    key = session_key(request)
    if key and await services(request).sessions.find(key) is not None:
        return see_other(wanted)
    return page(request, "sign_in.html", wanted=wanted, signed_out="signed-out" in parameters, name="", problem=None)


async def sign_in(request: Request) -> Response:
    """`POST /ui/sign-in`: a form, so that it works without scripts, and with every password manager."""
    form = await form_body(request, _FORM_BYTES)
    wanted, name = _own_path(form.get("next", "")), form.get("name", "").strip()
    audited = AuditedRequest(request, "sign-in", name)
    sessions, address = services(request).sessions, address_of(request) or ""
    try:
        credentials = Credentials(name, form.get("password", ""))
        user = await services(request).authenticator.verify(credentials, address)
        request.state.user = user
        # A token that somebody planted in the browser is never the one of the session that begins.
        if key := session_key(request):
            await sessions.end(key)
        token = await sessions.begin(user, address)
    except RecallError as error:
        audited.write(error.http_status, error.code)
        request.state.user = None  # nobody is signed in
        if isinstance(error, NotAuthenticated | TooManyAttempts):
            await services(request).authenticator.before_refusal(address)
        headers = {} if isinstance(error, NotAuthenticated) else error.headers
        problem = _WRONG if isinstance(error, NotAuthenticated) else error.message
        return page(
            request,
            "sign_in.html",
            error.http_status,
            headers,
            wanted=wanted,
            signed_out=False,
            name=name,
            problem=problem,
        )
    response = see_other(wanted)
    set_session(request, response, token)
    audited.write(response.status_code, 0)
    return response


async def sign_out(request: Request) -> Response:
    """`POST /ui/sign-out`: ends the session, if there still is one."""
    response = see_other("/ui/sign-in?signed-out")
    if key := session_key(request):
        signed_in = await services(request).sessions.find(key, is_activity=False)
        if signed_in is not None:
            audited = AuditedRequest(request, "sign-out", signed_in.user.name)
            request.state.user = signed_in.user
            try:
                await services(request).sessions.end(key)
            except RecallError as error:
                audited.write(error.http_status, error.code)
                raise
            audited.write(response.status_code, 0)
    forget_session(request, response)
    return response


async def session(request: Request) -> Response:
    """`GET /ui/session`: how long the session still lasts, null without one. Asking does not prolong it."""
    key = session_key(request)
    signed_in = await services(request).sessions.find(key, is_activity=False) if key else None
    if signed_in is None:
        if key:
            await services(request).authenticator.before_refusal(address_of(request) or "")
        return envelope({"session": None})
    left = services(request).sessions.seconds_left(signed_in.session)
    return envelope({"session": {"secondsLeft": round(left, 3)}})


def _own_path(wanted: str) -> str:
    """Returns where to go after signing in: what was wanted, if it is a page of ours."""
    is_own = len(wanted) <= _LONGEST_PATH and _OWN_PATH.fullmatch(wanted) and not _NO_PAGES.match(wanted)
    return wanted if is_own else _HOME
