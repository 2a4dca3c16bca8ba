"""The cookie of a session (docs/decisions/0026-sessions.md)."""

from starlette.requests import Request
from starlette.responses import Response

from app.api.requests import base_url
from app.auth.sessions import is_token, key_of

_NAME = "recall-session"


def is_https(request: Request) -> bool:
    """Returns whether the browser reached the service by https, perhaps through a proxy."""
    return base_url(request).startswith("https:")


def session_key(request: Request) -> str | None:
    """Returns the key of the session whose token a browser sends, whether or not there is such a session."""
    token = request.cookies.get(_name(request))
    return key_of(token) if token and is_token(token) else None


def set_session(request: Request, response: Response, token: str) -> None:
    """Gives the browser a token. It forgets it when it is closed; the session's own limits are the server's."""
    response.set_cookie(_name(request), token, path="/", secure=is_https(request), httponly=True, samesite="lax")


def forget_session(request: Request, response: Response) -> None:
    """Takes the token back from the browser."""
    response.delete_cookie(_name(request), path="/", secure=is_https(request), httponly=True, samesite="lax")


def _name(request: Request) -> str:
    # With this prefix a browser takes the cookie only by https, from this very host. So no other host can plant one.
    return f"__Host-{_NAME}" if is_https(request) else _NAME
