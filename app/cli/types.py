"""Types of parameters that several commands take."""

import re
from typing import NamedTuple

import click

from app.errors import RecallError
from app.recordings.model import validate_id

_HOUR = 3_600_000
_MILLISECONDS = {"h": _HOUR, "d": 24 * _HOUR, "w": 7 * 24 * _HOUR}


class WholeNumber(click.ParamType[int]):
    """A whole number in ASCII digits, not below a minimum. `int` would also take digits of other scripts."""

    name = "number"

    def __init__(self, minimum: int) -> None:
        self._minimum = minimum

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value)
        if not (text.isascii() and text.isdigit()) or int(text) < self._minimum:
            self.fail(f"it must be a whole number, {self._minimum} or greater", param, ctx)
        return int(text)


class ContactCenter(click.ParamType[str]):
    """The id of a contact center (`docs/contract.md` section 3)."""

    name = "id"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            validate_id("contact-center", str(value))
        except RecallError as error:
            self.fail(error.message, param, ctx)
        return str(value)


class Trimmed(click.ParamType[str]):
    """Text that is not empty and has no white space around it."""

    name = "text"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        if not text or text != text.strip():
            self.fail("it must be without leading or trailing white space, and not empty", param, ctx)
        return text


class Age(NamedTuple):
    """A length of time and how the operator wrote it."""

    text: str
    milliseconds: int


class AgeType(click.ParamType[Age]):
    """Hours, days or weeks, such as 36h, 90d or 52w."""

    name = "age"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Age:
        if isinstance(value, Age):
            return value
        match = re.fullmatch(r"([0-9]{1,5})([hdw])", str(value))
        if match is None or not int(match[1]):
            self.fail("it must be a number, 1 or greater, and h, d or w, as in 90d", param, ctx)
        return Age(match[0], int(match[1]) * _MILLISECONDS[match[2]])


POSITIVE = WholeNumber(1)
NOT_NEGATIVE = WholeNumber(0)
CONTACT_CENTER = ContactCenter()
TRIMMED = Trimmed()
AGE = AgeType()
