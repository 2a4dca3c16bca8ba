"""Which address and scheme a request has behind proxies, trusted or not."""

from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from app.server.forwarding import ForwardedHeaders
from app.settings import ConfigurationError

PROXY = "10.0.0.1"


async def seen(trusted: str, peer: str, *forwarded: str, scheme: str = "https") -> tuple[str, str]:
    """Returns the address and the scheme that the application sees."""
    scopes: list[Scope] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)

    headers = [(b"x-forwarded-for", value.encode("latin-1")) for value in forwarded]
    scope: dict[str, Any] = {
        "type": "http",
        "scheme": "http",
        "client": (peer, 4711),
        "headers": [*headers, (b"x-forwarded-proto", scheme.encode())],
    }
    await ForwardedHeaders(application, trusted)(scope, None, None)  # type: ignore[arg-type]
    return scopes[0]["client"][0], scopes[0]["scheme"]


@pytest.mark.parametrize(
    ("trusted", "forwarded", "address"),
    [
        (PROXY, ["192.0.2.7"], "192.0.2.7"),
        ("10.0.0.0/8, 192.0.2.1", ["192.0.2.7, 192.0.2.1, 10.9.9.9"], "192.0.2.7"),
        (PROXY, ["198.51.100.9, 192.0.2.7"], "192.0.2.7"),
        (PROXY, ["198.51.100.9", "192.0.2.7"], "192.0.2.7"),
        ("*", ["192.0.2.7, 10.9.9.9"], "192.0.2.7"),
        (PROXY, ["192.0.2.7:5123"], "192.0.2.7"),
        (PROXY, ["[2001:DB8:0::1]:5123"], "2001:db8::1"),
        (PROXY, ["::ffff:192.0.2.7"], "192.0.2.7"),
        (PROXY, [], PROXY),
    ],
)
async def test_a_trusted_proxy_states_the_address(trusted: str, forwarded: list[str], address: str) -> None:
    assert await seen(trusted, PROXY, *forwarded) == (address, "https")


@pytest.mark.parametrize("trusted", ["", "10.0.0.2", "192.0.2.0/24"])
async def test_no_other_peer_states_one(trusted: str) -> None:
    assert await seen(trusted, PROXY, "192.0.2.7") == (PROXY, "http")


@pytest.mark.parametrize("trusted", ["*", PROXY])
@pytest.mark.parametrize(
    "forged", ["", "unknown", "admin\x1b[31m", "x" * 5000, "1.2.3", "192.0.2.7 or so", "localhost:80"]
)
async def test_what_is_no_address_never_becomes_one(trusted: str, forged: str) -> None:
    assert (await seen(trusted, PROXY, forged))[0] == PROXY


async def test_one_address_has_one_spelling() -> None:
    spellings = ["2001:db8::1", "2001:DB8::1", "2001:0db8:0:0:0:0:0:1", "2001:db8::1%eth0", "2001:db8::1%anything"]
    assert {(await seen("*", PROXY, spelling))[0] for spelling in spellings} == {"2001:db8::1"}
    assert await seen("10.0.0.1", "::ffff:10.0.0.1", "192.0.2.7") == ("192.0.2.7", "https")


async def test_another_scheme_is_ignored() -> None:
    assert (await seen(PROXY, PROXY, "192.0.2.7", scheme="javascript"))[1] == "http"


@pytest.mark.parametrize("trusted", ["proxy.example", "10.0.0.1/8", "10.0.0.1;10.0.0.2"])
def test_a_mistake_in_the_setting_is_named(trusted: str) -> None:
    with pytest.raises(ConfigurationError, match="FORWARDED_ALLOW_IPS"):
        ForwardedHeaders(lambda: None, trusted)  # type: ignore[arg-type, misc]
