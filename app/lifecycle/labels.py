"""Labels, and the definitions that they need (docs/contract.md section 9)."""

from app.errors import (
    DisplayNameExists,
    LabelDefinitionExists,
    LabelDefinitionNotFound,
    TooManyLabelDefinitions,
)
from app.recordings.labels import DefinitionChanges, LabelDefinition, display_name_key, name_key
from app.store.label_definitions import Definitions, LabelDefinitionStore

# All definitions of a contact center are one document, which each page with labels reads.
MAX_DEFINITIONS = 1_000


class Labels:
    """Defines labels. Every method raises ElasticsearchUnavailable when Elasticsearch is away or overloaded."""

    def __init__(self, definitions: LabelDefinitionStore) -> None:
        self._definitions = definitions

    async def definitions(self, contact_center: str) -> list[LabelDefinition]:
        """Returns the definitions of a contact center by name."""
        found = await self._definitions.of(contact_center)
        return [found[key] for key in sorted(found)]

    async def definition(self, contact_center: str, name: str) -> LabelDefinition:
        """Returns one definition; raises LabelDefinitionNotFound."""
        return _named(await self._definitions.of(contact_center), name)

    async def define(self, contact_center: str, definition: LabelDefinition) -> None:
        """Creates a definition. Raises LabelDefinitionExists, DisplayNameExists, TooManyLabelDefinitions."""
        key = name_key(definition.name)

        def add(definitions: Definitions) -> Definitions:
            if key in definitions:
                raise LabelDefinitionExists(definitions[key].name)
            if len(definitions) >= MAX_DEFINITIONS:
                raise TooManyLabelDefinitions(MAX_DEFINITIONS)
            return _with(definitions, definition)

        await self._definitions.update(contact_center, add)

    async def redefine(self, contact_center: str, name: str, changes: DefinitionChanges) -> LabelDefinition:
        """Changes a definition and returns it. Raises LabelDefinitionNotFound, DisplayNameExists."""
        changed: LabelDefinition | None = None

        def change(definitions: Definitions) -> Definitions | None:
            nonlocal changed
            before = _named(definitions, name)
            changed = changes.applied_to(before)
            return None if changed == before else _with(definitions, changed)

        await self._definitions.update(contact_center, change)
        assert changed is not None
        return changed

    async def remove_definition(self, contact_center: str, name: str) -> None:
        """Removes a definition; raises LabelDefinitionNotFound."""

        def remove(definitions: Definitions) -> Definitions:
            _named(definitions, name)
            return {key: known for key, known in definitions.items() if key != name_key(name)}

        await self._definitions.update(contact_center, remove)


def _named(definitions: Definitions, name: str) -> LabelDefinition:
    definition = definitions.get(name_key(name))
    if definition is None:
        raise LabelDefinitionNotFound(name)
    return definition


def _with(definitions: Definitions, definition: LabelDefinition) -> Definitions:
    """Adds or replaces a definition. Raises DisplayNameExists if another one has its display name."""
    key, display_name = name_key(definition.name), display_name_key(definition.display_name)
    for other, known in definitions.items():
        if other != key and display_name_key(known.display_name) == display_name:
            raise DisplayNameExists(known.display_name)
    return {**definitions, key: definition}
