"""What a scope admits, and what it makes of a query."""

import gc
from collections.abc import Awaitable, Callable
from typing import Any, cast
from weakref import ref

import msgspec
import pytest

from app.auth.scope import Limits, Scope, limits_of
from app.errors import RecordingNotFound
from app.recordings.merge import merge
from app.recordings.model import parse_recording
from app.search.query import query
from app.settings import User
from app.store.documents import Source, document_id, to_source
from app.store.hits import RecordingHit
from app.store.repository import RecordingRepository, StoredRecording
from tests.support.recordings import a_media_file, a_recording


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


class _Reader:
    """Elasticsearch with one recording."""

    def __init__(self, contact_center: str = "cc", region: str = "eu", **attributes: Any) -> None:
        recording = merge(None, parse_recording(a_recording(region=region, **attributes)))
        source = msgspec.convert(to_source(contact_center, recording), Source)
        self._hit = RecordingHit(index="i", id=document_id(contact_center, region, "recording"), read=source)

    async def get(self, _index: str, _id: str) -> RecordingHit | None:
        return self._hit if self._hit.id == _id else None


class _Repository(RecordingRepository):
    def __init__(self, reader: _Reader) -> None:
        self._reader = cast(Any, reader)
        self._index = "recordings"
        self._seconds = 5.0


IN_US: dict[str, Any] = {"mediaFiles": [a_media_file(accessgroups=["US"])]}
ANYTHING = Scope("cc", "eu")
US = Scope("cc", "eu", Limits(groups=frozenset({("US",)})))


@pytest.mark.parametrize("scope", [ANYTHING, US])
@pytest.mark.parametrize("read", [RecordingRepository.get, RecordingRepository.find])
async def test_recording_outside_the_scope_does_not_exist(
    read: Callable[[RecordingRepository, Scope, str], Awaitable[object]], scope: Scope
) -> None:
    assert await read(_Repository(_Reader(**IN_US)), scope, "recording")
    for found in (_Reader("other", **IN_US), _Reader(region="us", **IN_US)):
        with pytest.raises(RecordingNotFound):
            await read(_Repository(found), scope, "recording")
    with pytest.raises(RecordingNotFound):
        await read(_Repository(_Reader()), US, "recording")


async def test_id_without_contact_center_identifies_no_recording() -> None:
    with pytest.raises(ValueError, match="contact center"):
        await _Repository(_Reader()).get(Scope(None, "eu"), "recording")


def test_limits_of_a_removed_user_are_not_kept() -> None:
    amy = User("amy", "$argon2id$x", ("agent",), "cc", access_groups=("US",))
    limits = limits_of(amy)
    assert limits is not None
    of_amy = ref(limits)
    assert limits_of(msgspec.structs.replace(amy)) is limits  # the same entry, read again
    del amy, limits
    gc.collect()
    assert of_amy() is None
