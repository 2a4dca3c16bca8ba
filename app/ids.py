"""The rule for the ids of recordings and contact centers (docs/contract.md section 3)."""

MAX_ID_BYTES = 400


def id_error(value: str) -> str | None:
    """Returns why a string cannot be the id of a recording or a contact center, or None if it can."""
    if not value or value != value.strip():
        return "it must be a non-empty string without leading or trailing white space"
    if len(value.encode()) > MAX_ID_BYTES:
        return f"it must have at most {MAX_ID_BYTES} UTF-8 bytes"
    return None
