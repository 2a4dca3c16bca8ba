"""JSON both ways. A number with a fraction or an exponent keeps the spelling it came with: `1.10` stays `1.10`."""

from typing import Any

import msgspec


def _as_it_came(number: str) -> msgspec.Raw:
    return msgspec.Raw(number.encode())


_decoder = msgspec.json.Decoder(float_hook=_as_it_came)

encode = msgspec.json.encode


def decode(data: bytes | str) -> Any:
    """Raises ValueError when the text is not JSON in UTF-8, RecursionError when it is nested too deeply.

    Numbers that are not whole come back as `msgspec.Raw`, the bytes of their text.
    """
    return _decoder.decode(data)


def number_length(value: object) -> int:
    """How many characters a decoded number has; 0 for anything that is none."""
    if isinstance(value, msgspec.Raw):
        return len(bytes(value))
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return len(str(value))
    return 0
