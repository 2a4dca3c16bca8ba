"""A browser's part of signing in, without a browser."""

from typing import Any

import httpx

from tests.support.service import Service

# What a browser says of a request that a page of ours sends.
OURS = {"Sec-Fetch-Site": "same-origin"}


async def post_sign_in(client: httpx.AsyncClient, name: str, password: str, **fields: str) -> httpx.Response:
    return await client.post("/ui/sign-in", data={"name": name, "password": password, **fields}, headers=OURS)


async def signed_in(service: Service, name: str = "admin", **options: Any) -> httpx.AsyncClient:
    """A client with the cookie of a session of its own."""
    client = service.client(**options)
    response = await post_sign_in(client, name, f"{name}-password")
    assert response.status_code == 303, response.text
    return client


def token_of(client: httpx.AsyncClient) -> str:
    (cookie,) = client.cookies.jar
    assert cookie.value
    return cookie.value


async def is_signed_in(client: httpx.AsyncClient) -> bool:
    """Whether the client's session holds, by every kind of path that wants one."""
    api, html = await client.get("/ui/api/me"), await client.get("/ui/recordings/none")
    peeked = (await client.get("/ui/session")).json()["session"]
    holds = api.status_code == 200
    assert api.status_code in {200, 401}
    assert html.status_code == (404 if holds else 303)
    assert (peeked is not None) == holds
    return holds
