"""The client's address and scheme, as a trusted proxy states them (docs/operations.md, "Configure a load balancer")."""

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from app.settings import ConfigurationError

_Address = IPv4Address | IPv6Address
_Networks = Sequence[IPv4Network | IPv6Network]


class ForwardedHeaders:
    """Takes `client` and `scheme` of a request from X-Forwarded-For and X-Forwarded-Proto, if its peer is trusted.

    `trusted` is FORWARDED_ALLOW_IPS: addresses and networks, separated by commas, or `*` for all. A header that is no
    address is never taken for one: then the client is the proxy that sent it. One address has one spelling. Raises
    ConfigurationError.
    """

    def __init__(self, app: ASGIApp, trusted: str) -> None:
        self._app = app
        self._trusts_all = trusted.strip() == "*"
        self._trusted = () if self._trusts_all else _networks(trusted)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope.get("client"):
            host, port = scope["client"]
            peer = _address(host)
            if peer is not None:
                client = peer
                if self._trusts(peer):
                    headers = Headers(raw=scope["headers"])
                    client = self._client(peer, headers.getlist("x-forwarded-for"))
                    if (scheme := headers.get("x-forwarded-proto", "").strip()) in {"http", "https"}:
                        scope["scheme"] = scheme
                scope["client"] = (str(client), port if client == peer else 0)
        await self._app(scope, receive, send)

    def _client(self, peer: _Address, values: Sequence[str]) -> _Address:
        """Returns the address that the last trusted proxy has seen; each proxy appends the one that it sees."""
        hops = ",".join(values).split(",")
        if self._trusts_all:
            return _address(hops[0]) or peer
        client = peer
        for hop in reversed(hops):
            address = _address(hop)
            if address is None:
                break
            client = address
            if not self._trusts(address):
                break
        return client

    def _trusts(self, address: _Address) -> bool:
        return self._trusts_all or any(address in network for network in self._trusted)


def _networks(text: str) -> _Networks:
    try:
        return [ip_network(part.strip()) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise ConfigurationError(f"FORWARDED_ALLOW_IPS is addresses and networks, or *: {error}") from None


@lru_cache(maxsize=4096)
def _address(text: str) -> _Address | None:
    """Returns the address that a text is, with or without a port; a zone is left out, and an IPv4 address is one."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address
