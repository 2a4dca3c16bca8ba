"""How the caller of a route proves who it is: one way for each value of `Endpoint.authentication`."""

from collections.abc import Mapping
from typing import Protocol

from starlette.requests import Request

from app.api.endpoint import Authentication
from app.api.requests import address_of, services
from app.auth.basic import parse_basic
from app.settings import User


class Backend(Protocol):
    """One way to authenticate."""

    async def authenticate(self, request: Request) -> User:
        """Returns the user; raises NotAuthenticated."""

    def claimed_name(self, request: Request) -> str | None:
        """Returns the name that the caller claims, verified or not, for the audit log."""


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


BACKENDS: Mapping[Authentication, Backend] = {"basic": Basic()}
