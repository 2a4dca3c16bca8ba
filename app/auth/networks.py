"""Which addresses are counted together."""

from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network


@lru_cache(10_000)
def network_of(address: str) -> str:
    """Returns what an address is counted as: whoever has one address of IPv6 has all of its /64."""
    try:
        parsed = ip_address(address)
    except ValueError:  # of a socket without addresses
        return address
    return str(ip_network((parsed, 64), strict=False)) if isinstance(parsed, IPv6Address) else address
