"""Labels and their definitions: what a client may write, and what it reads (docs/contract.md section 9)."""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from app.errors import InvalidParameter, MissingParameter
from app.folding import fold_text

_NAME = re.compile(r"(?!__)(?!\.{1,2}\Z)[A-Za-z0-9._-]{1,64}")
_MAX_DISPLAY_NAME_LENGTH = 100
_MAX_TEXT_LENGTH = 1_000


class LabelDefinition(msgspec.Struct, frozen=True, rename="camel"):
    """What a label of a contact center is called.

    A deletion that asks whether recordings carry the label writes its own name into `deleting`. Whoever gives the
    label meanwhile clears it, and so stops the deletion (`app.lifecycle.labels`).
    """

    name: str
    display_name: str
    description: str = ""
    deleting: str = ""

    def rendered(self) -> dict[str, str]:
        """Returns the definition as a client reads it."""
        return {"name": self.name, "displayName": self.display_name, "description": self.description}


class DefinitionChanges(msgspec.Struct, frozen=True):
    """What a client changes of a definition; None for what stays."""

    display_name: str | None = None
    description: str | None = None

    def applied_to(self, definition: LabelDefinition) -> LabelDefinition:
        changes = {name: value for name, value in msgspec.structs.asdict(self).items() if value is not None}
        return msgspec.structs.replace(definition, **changes)


def name_key(name: str) -> str:
    """Returns the form in which names are compared: the case of ASCII letters is ignored, and names have no others."""
    return name.lower() if name.isascii() else name


def display_name_key(display_name: str) -> str:
    """Returns the form in which display names are compared (docs/contract.md section 5, "Unicode")."""
    return fold_text(display_name)


def parse_definition(body: object) -> LabelDefinition:
    """Returns the definition that a client creates; raises MissingParameter or InvalidParameter."""
    attributes = _attributes(body)
    name = _name(attributes)
    changes = _changes(attributes)
    return changes.applied_to(LabelDefinition(name, display_name=name))


def parse_definition_changes(body: object, name: str) -> DefinitionChanges:
    """Returns what a client changes of the definition `name`; raises InvalidParameter."""
    attributes = _attributes(body)
    _check_same_name(attributes, name)
    return _changes(attributes)


def _attributes(body: object) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise InvalidParameter("body", "it must be a JSON object")
    return body


def _name(attributes: Mapping[str, Any]) -> str:
    if "name" not in attributes:
        raise MissingParameter("name")
    name = attributes["name"]
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidParameter(
            "name",
            "it must have 1 to 64 characters, each an ASCII letter, a digit, or one of - _ . and must not begin with "
            "__ or be . or ..",
        )
    return name


def _check_same_name(attributes: Mapping[str, Any], name: str) -> None:
    given = attributes.get("name")
    if given is not None and (not isinstance(given, str) or name_key(given) != name_key(name)):
        raise InvalidParameter("name", "it cannot be changed, except that it may be written in another case")


def _changes(attributes: Mapping[str, Any]) -> DefinitionChanges:
    display_name = attributes.get("displayName")
    if display_name is not None:
        display_name = display_name.strip() if isinstance(display_name, str) else ""
        if not 1 <= len(display_name) <= _MAX_DISPLAY_NAME_LENGTH:
            raise InvalidParameter("displayName", f"it must be a string of 1 to {_MAX_DISPLAY_NAME_LENGTH} characters")
    return DefinitionChanges(display_name, _optional_text(attributes, "description"))


def _optional_text(attributes: Mapping[str, Any], key: str) -> str | None:
    """Returns None for an attribute that is absent or null."""
    text = attributes.get(key)
    if text is not None and (not isinstance(text, str) or len(text) > _MAX_TEXT_LENGTH):
        raise InvalidParameter(key, f"it must be a string of at most {_MAX_TEXT_LENGTH} characters")
    return text
