"""How the caller of a route proves who it is: one way for each value of `Endpoint.authentication`."""

import asyncio
from collections.abc import Mapping
from typing import Protocol

from starlette.requests import Request

from app.api.cookies import session_key
from app.api.endpoint import Authentication
from app.api.requests import address_of, services, user_of
from app.auth.basic import parse_basic
from app.errors import RecallError, SignedOut
from app.settings import User

# How often a stream asks whether its session still holds, in seconds.
_LOOK_SECONDS = 20.0


class Backend(Protocol):
    """One way to authenticate."""

    async def authenticate(self, request: Request) -> User:
        """Returns the user; raises NotAuthenticated."""

    def claimed_name(self, request: Request) -> str | None:
        """Returns the name that the caller claims, verified or not, for the audit log."""

    async def until_refused(self, request: Request) -> None:
        """Returns when the caller, who was authenticated, would not be any more, or may do something else."""


class Basic:
    """HTTP Basic, against the configured users."""

    async def authenticate(self, request: Request) -> User:
        """Returns the user; raises NotAuthenticated."""
        address = address_of(request) or ""
        return await services(request).authenticator.authenticate(request.headers.get("authorization"), address)

    def claimed_name(self, request: Request) -> str | None:
        """Returns the name in the Authorization header."""
        credentials = parse_basic(request.headers.get("authorization"))
        return credentials.name if credentials else None

    async def until_refused(self, request: Request) -> None:
        """Returns when the user is removed or changed."""
        await services(request).authenticator.until_changed(user_of(request))


class SessionCookie:
    """A session of the page, by the token in its cookie (docs/decisions/0026-sessions.md)."""

    async def authenticate(self, request: Request) -> User:
        """Returns the user; raises SignedOut."""
        key = session_key(request)
        # The page marks what it asks by itself, so that a page that is left open keeps nobody signed in.
        is_activity = request.headers.get("recall-activity") != "none"
        signed_in = await services(request).sessions.find(key, is_activity=is_activity) if key else None
        if signed_in is None:
            if key:  # the store was asked for a token that nobody has
                await services(request).authenticator.before_refusal(address_of(request) or "")
            raise SignedOut
        request.state.session = signed_in.session
        return signed_in.user

    def claimed_name(self, request: Request) -> str | None:
        """Returns None: a token names nobody before it is looked up."""
        return None

    async def until_refused(self, request: Request) -> None:
        """Returns when the session ends or its user is changed. Until then the stream keeps the session alive."""
        changed = asyncio.ensure_future(services(request).authenticator.until_changed(user_of(request)))
        try:
            while not (await asyncio.wait((changed,), timeout=_LOOK_SECONDS))[0]:
                try:
                    if await services(request).sessions.find(request.state.session.key) is None:
                        return
                except RecallError:  # Elasticsearch is away, and tells next time
                    continue
        finally:
            changed.cancel()


BACKENDS: Mapping[Authentication, Backend] = {"basic": Basic(), "session": SessionCookie()}
