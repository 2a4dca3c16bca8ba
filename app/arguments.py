"""Kinds of arguments that several command lines take, for `argparse`."""

import argparse

from app.errors import RecallError
from app.recordings.model import validate_id


def positive(text: str) -> int:
    """A whole number, 1 or greater."""
    if not _is_number(text) or int(text) < 1:
        raise argparse.ArgumentTypeError("it must be a whole number, 1 or greater")
    return int(text)


def not_negative(text: str) -> int:
    """A whole number, 0 or greater."""
    if not _is_number(text):
        raise argparse.ArgumentTypeError("it must be a whole number, 0 or greater")
    return int(text)


def contact_center(text: str) -> str:
    """The id of one."""
    try:
        validate_id("contact-center", text)
    except RecallError as error:
        raise argparse.ArgumentTypeError(error.message) from None
    return text


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()
