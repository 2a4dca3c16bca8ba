"""What clients ask before they begin: who they are, and the version (docs/contract.md section 3)."""

from importlib.metadata import version

from starlette.requests import Request
from starlette.responses import Response

from app.api.requests import user_of
from app.api.responses import envelope

_VERSION = version("recall")


async def me(request: Request) -> Response:
    """`GET /me`"""
    user = user_of(request)
    return envelope(
        {
            "user": {
                "userName": user.name,
                "roles": list(user.roles),
                "permissions": list(user.permissions),
                "contactCenterId": user.contact_center,
            }
        }
    )


async def diagnostics_version(request: Request) -> Response:
    """`GET /diagnostics/version`"""
    return envelope({"version": _VERSION})
