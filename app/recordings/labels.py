"""Labels and their definitions: what a client may write, and what it reads (docs/contract.md section 9)."""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from app.errors import InvalidParameter, MissingParameter
from app.folding import fold_text
from app.recordings.dates import format_instant

_NAME = re.compile(r"(?!__)(?!\.{1,2}\Z)[A-Za-z0-9._-]{1,64}")
_MAX_DISPLAY_NAME_LENGTH = 100
_MAX_TEXT_LENGTH = 1_000

MAX_LABELS = 50


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


# By `name_key`.
Definitions = Mapping[str, LabelDefinition]


class Label(msgspec.Struct, frozen=True, array_like=True):
    """A label of a recording: its definition's name, and display name at the time; who gave it, and when.

    `at` is in milliseconds since 1970. `given` tells this label from one of the same name that is given later.
    """

    name: str
    display_name: str
    by: str
    at: int
    given: str
    comment: str = ""

    def rendered(self, definitions: Definitions) -> dict[str, str]:
        """Returns the label as a client reads it: with the display name of its definition, if there is one still."""
        definition = definitions.get(name_key(self.name))
        label = {
            "name": self.name,
            "displayName": definition.display_name if definition else self.display_name,
            "by": self.by,
            "at": format_instant(self.at),
        }
        return label | {"comment": self.comment} if self.comment else label


# The labels of a recording, by name.
Labels = tuple[Label, ...]


class DefinitionChanges(msgspec.Struct, frozen=True):
    """What a client changes of a definition; None for what stays."""

    display_name: str | None = None
    description: str | None = None

    def applied_to(self, definition: LabelDefinition) -> LabelDefinition:
        changes = {name: value for name, value in msgspec.structs.asdict(self).items() if value is not None}
        return msgspec.structs.replace(definition, **changes)


def valid_name(name: str) -> bool:
    """Returns whether a label may have this name."""
    return bool(_NAME.fullmatch(name))


def name_key(name: str) -> str:
    """Returns the form in which names are compared: the case of ASCII letters is ignored, and names have no others."""
    return name.lower() if name.isascii() else name


def display_name_key(display_name: str) -> str:
    """Returns the form in which display names are compared (docs/contract.md section 5, "Unicode")."""
    return fold_text(display_name)


def label_named(labels: Labels, name: str) -> Label | None:
    """Returns the label of a name."""
    return next((label for label in labels if name_key(label.name) == name_key(name)), None)


def without_label(labels: Labels, name: str) -> Labels:
    """Returns all labels but that of a name."""
    return tuple(label for label in labels if name_key(label.name) != name_key(name))


def with_label(labels: Labels, label: Label) -> Labels:
    """Returns the labels with one added, or in the place of that of the same name."""
    return tuple(sorted((*without_label(labels, label.name), label), key=lambda label: name_key(label.name)))


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


def parse_label(body: object) -> tuple[str, str | None]:
    """Returns the name and the comment, if there is one; raises MissingParameter or InvalidParameter."""
    attributes = _attributes(body)
    return _name(attributes), _optional_text(attributes, "comment")


def parse_label_of_many(body: Mapping[str, Any]) -> tuple[str, str | None]:
    """Returns the name and the comment of an operation on many; raises MissingParameter or InvalidParameter."""
    return _name(body, "label"), _optional_text(body, "comment")


def parse_comment(body: object, name: str) -> str:
    """Returns the new comment of the label `name`; raises MissingParameter or InvalidParameter."""
    attributes = _attributes(body)
    _check_same_name(attributes, name)
    comment = _optional_text(attributes, "comment")
    if comment is None:
        raise MissingParameter("comment")
    return comment


def _attributes(body: object) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise InvalidParameter("body", "it must be a JSON object")
    return body


def _name(attributes: Mapping[str, Any], key: str = "name") -> str:
    if key not in attributes:
        raise MissingParameter(key)
    name = attributes[key]
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidParameter(
            key,
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
