"""The search (docs/contract.md sections 5 and 13)."""

from starlette.requests import Request
from starlette.responses import Response

from app.page.rendering import page


async def show(request: Request) -> Response:
    """`GET /ui/recordings?…`"""
    return page(request, "search.html")
