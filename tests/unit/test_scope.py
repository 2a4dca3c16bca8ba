"""What a scope admits, and what it makes of a query."""

import pytest

from app.auth.scope import Scope
from app.errors import RecordingNotFound
from app.search.query import query
from app.store.repository import RecordingRepository, StoredRecording
from tests.support.recordings import a_recording


def stored(contact_center: str = "cc", region: str = "eu") -> StoredRecording:
    return StoredRecording("document", contact_center, a_recording(region=region), None, version=None)  # type: ignore[arg-type]


def test_scope_admits_only_its_contact_center_and_region() -> None:
    scope = Scope("cc", "eu")
    assert scope.admits(stored())
    assert not scope.admits(stored(contact_center="other"))
    assert not scope.admits(stored(region="us"))


def test_scope_without_contact_center_admits_every_contact_center_of_its_region() -> None:
    scope = Scope(None, "eu")
    assert scope.admits(stored(contact_center="other"))
    assert not scope.admits(stored(region="us"))


def test_scope_without_contact_center_searches_every_contact_center_of_its_region() -> None:
    assert query(Scope(None, "eu"), ()) == {"term": {"region": "eu"}}


class _Repository(RecordingRepository):
    """Reads one recording, whatever is asked for."""

    def __init__(self, found: StoredRecording | None) -> None:
        self._found = found

    async def read(self, document: str) -> StoredRecording | None:
        return self._found


async def test_recording_outside_the_scope_does_not_exist() -> None:
    scope = Scope("cc", "eu")
    assert await _Repository(stored()).get(scope, "recording") == stored()
    for found in (None, stored(contact_center="other"), stored(region="us")):
        with pytest.raises(RecordingNotFound):
            await _Repository(found).get(scope, "recording")


async def test_id_without_contact_center_identifies_no_recording() -> None:
    with pytest.raises(ValueError, match="contact center"):
        await _Repository(stored()).get(Scope(None, "eu"), "recording")
