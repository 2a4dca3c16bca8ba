"""JSON decoding and encoding. A number with a fraction or an exponent keeps its spelling: `1.10` stays `1.10`."""

from typing import Any

import msgspec


def _as_it_came(number: str) -> msgspec.Raw:
    return msgspec.Raw(number.encode())


_decoder = msgspec.json.Decoder(float_hook=_as_it_came)

encode = msgspec.json.encode


def decode(data: bytes | str) -> Any:
    """Decodes JSON text. Raises ValueError if it is not JSON in UTF-8, RecursionError if it is nested too deeply.

    A number that is not whole becomes `msgspec.Raw`, the bytes of its text.
    """
    return _decoder.decode(data)


def number_length(value: object) -> int:
    """Returns the number of characters of a decoded number; 0 for any other value."""
    if isinstance(value, msgspec.Raw):
        return len(bytes(value))
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return len(str(value))
    return 0
