"""Labels, and the definitions that they need (docs/contract.md section 9, docs/decisions/0025-labels.md)."""

from uuid import uuid4

import msgspec

from app.auth.scope import Scope
from app.errors import (
    DisplayNameExists,
    LabelDefinitionExists,
    LabelDefinitionNotFound,
    LabelInUse,
    LabelNotFound,
    RecordingNotFound,
    TooManyLabelDefinitions,
    TooManyLabels,
)
from app.recordings.labels import (
    MAX_LABELS,
    DefinitionChanges,
    Definitions,
    Label,
    LabelDefinition,
    Labels,
    display_name_key,
    label_named,
    name_key,
    with_label,
    without_label,
)
from app.retry import Backoff
from app.store.journal import now_milliseconds
from app.store.label_definitions import LabelDefinitionStore
from app.store.repository import RecordingRepository, StoredRecording, Update

# All definitions of a contact center are one document, which each page with labels reads.
MAX_DEFINITIONS = 1_000


class Labelling:
    """Defines labels, and gives and takes them.

    Every method raises ElasticsearchUnavailable when Elasticsearch is away or overloaded.
    """

    def __init__(self, definitions: LabelDefinitionStore, recordings: RecordingRepository) -> None:
        self._definitions = definitions
        self._recordings = recordings

    # --- Definitions ---

    async def definitions(self, contact_center: str) -> Definitions:
        """Returns the definitions of a contact center, as of the last acknowledged change of any process."""
        return await self._definitions.of(contact_center)

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
            before = definition_named(definitions, name)
            changed = changes.applied_to(before)
            return None if changed == before else _with(definitions, changed)

        await self._definitions.update(contact_center, change)
        assert changed is not None
        return changed

    async def remove_definition(self, contact_center: str, name: str, *, force: bool) -> None:
        """Removes a definition, with `force` also while recordings carry its label.

        Raises LabelDefinitionNotFound, LabelInUse.
        """
        if force:
            await self._remove(contact_center, name, deleting=None)
            return
        deleting, backoff = uuid4().hex, Backoff(initial=0.01, maximum=0.2)
        while True:
            await self._mark(contact_center, name, deleting)
            # Whoever gives the label after the recordings are asked finds the mark, or no definition.
            if await self._recordings.carry_label(contact_center, name_key(name)):
                raise LabelInUse(name)
            if await self._remove(contact_center, name, deleting=deleting):
                return
            await backoff.wait()  # a label was given meanwhile, or another deletion began

    async def _mark(self, contact_center: str, name: str, deleting: str) -> None:
        def mark(definitions: Definitions) -> Definitions:
            marked = msgspec.structs.replace(definition_named(definitions, name), deleting=deleting)
            return {**definitions, name_key(name): marked}

        await self._definitions.update(contact_center, mark)

    async def _remove(self, contact_center: str, name: str, *, deleting: str | None) -> bool:
        """Removes a definition that has this mark, or any if it is None. Returns whether it has."""
        removed = False

        def remove(definitions: Definitions) -> Definitions | None:
            nonlocal removed
            removed = deleting in {None, definition_named(definitions, name).deleting}
            return {key: known for key, known in definitions.items() if key != name_key(name)} if removed else None

        await self._definitions.update(contact_center, remove)
        return removed

    # --- Labels ---

    async def give(
        self, scope: Scope, recording_id: str, name: str, comment: str | None, *, by: str
    ) -> tuple[Label, bool]:
        """Gives a recording a label, or the label that it has another comment; None for no other.

        Returns the label, and whether it is new. `by` is the user's name. Raises RecordingNotFound,
        LabelDefinitionNotFound, TooManyLabels.
        """
        contact_center = _contact_center(scope)
        definition = (await self._definitions.of(contact_center)).get(name_key(name))
        identity, now = uuid4().hex, now_milliseconds()
        given: Label | None = None
        before: Label | None = None

        async def add(stored: StoredRecording) -> Update | None:
            nonlocal given, before
            if definition is None:
                raise LabelDefinitionNotFound(name)
            labels = stored.labels or ()
            known = label_named(labels, name)
            if known is not None and known.given == identity:  # an earlier attempt has stored it; its answer was lost
                return None
            before = known
            if known is not None:
                given = known if comment is None else msgspec.structs.replace(known, comment=comment)
            elif len(labels) >= MAX_LABELS:
                raise TooManyLabels(MAX_LABELS)
            else:
                given = Label(definition.name, definition.display_name, by, now, identity, comment or "")
            return None if given == known else _labelled(stored, with_label(labels, given))

        await self._recordings.update(scope, recording_id, add)
        assert given is not None
        if given != before and not await self._stop_deletion(contact_center, name):
            await self._undo(scope, recording_id, given, before)
            raise LabelDefinitionNotFound(name)
        return given, before is None

    async def comment(self, scope: Scope, recording_id: str, name: str, comment: str) -> Label:
        """Changes the comment of a label and returns the label. Raises RecordingNotFound, LabelNotFound."""
        changed: Label | None = None

        async def change(stored: StoredRecording) -> Update | None:
            nonlocal changed
            before = label_of(stored, name)
            changed = msgspec.structs.replace(before, comment=comment)
            return None if changed == before else _labelled(stored, with_label(stored.labels or (), changed))

        await self._recordings.update(scope, recording_id, change)
        assert changed is not None
        return changed

    async def take(self, scope: Scope, recording_id: str, name: str, *, begun_at: int | None = None) -> Label:
        """Takes a label away and returns it. Raises RecordingNotFound, LabelNotFound.

        `begun_at` (milliseconds since 1970) is for what an interrupted attempt, begun then, may have done already: a
        label that was given since then stays.
        """
        taken: Label | None = None

        async def remove(stored: StoredRecording) -> Update | None:
            nonlocal taken
            taken = label_of(stored, name)
            if begun_at is not None and taken.at >= begun_at:
                return None
            return _labelled(stored, without_label(stored.labels or (), name))

        await self._recordings.update(scope, recording_id, remove)
        assert taken is not None
        return taken

    async def _stop_deletion(self, contact_center: str, name: str) -> bool:
        """Takes the mark of a deletion from a definition. Returns False if the definition is gone."""
        exists = False

        def clear(definitions: Definitions) -> Definitions | None:
            nonlocal exists
            definition = definitions.get(name_key(name))
            exists = definition is not None
            if definition is None or not definition.deleting:
                return None
            return {**definitions, name_key(name): msgspec.structs.replace(definition, deleting="")}

        await self._definitions.update(contact_center, clear)
        return exists

    async def _undo(self, scope: Scope, recording_id: str, given: Label, before: Label | None) -> None:
        """Takes back what was given, whatever comment it has now; of a label from before only the comment."""

        async def restore(stored: StoredRecording) -> Update | None:
            labels = stored.labels or ()
            now = label_named(labels, given.name)
            if before is None and now is not None and now.given == given.given:
                return _labelled(stored, without_label(labels, given.name))
            return _labelled(stored, with_label(labels, before)) if before is not None and now == given else None

        try:
            await self._recordings.update(scope, recording_id, restore)
        except RecordingNotFound:
            return


def definition_named(definitions: Definitions, name: str) -> LabelDefinition:
    """Returns one definition; raises LabelDefinitionNotFound."""
    definition = definitions.get(name_key(name))
    if definition is None:
        raise LabelDefinitionNotFound(name)
    return definition


def label_of(stored: StoredRecording, name: str) -> Label:
    """Returns a label of a recording; raises LabelNotFound."""
    label = label_named(stored.labels or (), name)
    if label is None:
        raise LabelNotFound(name)
    return label


def _with(definitions: Definitions, definition: LabelDefinition) -> Definitions:
    """Adds or replaces a definition. Raises DisplayNameExists if another one has its display name."""
    key, display_name = name_key(definition.name), display_name_key(definition.display_name)
    for other, known in definitions.items():
        if other != key and display_name_key(known.display_name) == display_name:
            raise DisplayNameExists(known.display_name)
    return {**definitions, key: definition}


def _contact_center(scope: Scope) -> str:
    if scope.contact_center is None:
        raise ValueError("labels belong to a contact center")
    return scope.contact_center


def _labelled(stored: StoredRecording, labels: Labels) -> Update:
    return Update(stored.contact_center, stored.recording, stored.protection, labels)
