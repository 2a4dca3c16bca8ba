"""A recording whose searchable form is too large is refused, and what is stored stays (docs/contract.md section 4)."""

import pytest

from app.store import repository
from tests.support.recordings import OPS_PATH, a_recording
from tests.support.service import StartService, assert_error


async def test_too_much_to_search_for_is_413_and_changes_nothing(
    start_service: StartService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The JSON is far below its own limit. The limit is lowered here, because Elasticsearch takes long for 16 MiB."""
    monkeypatch.setattr(repository, "MAX_DOCUMENT_BYTES", 16 * 1024)
    ops = (await start_service()).client("ops")
    assert (await ops.post(OPS_PATH, json=a_recording(note="before"))).status_code == 201
    event = a_recording()["eventHistory"][0]
    values = {f"k{i}": f"{i:05}" * 4 for i in range(100)}
    response = await ops.post(OPS_PATH, json=a_recording(note="after", eventHistory=[{**event, "data": values}]))
    assert_error(response, 413, 2, "16384 bytes to search for")
    assert (await ops.get(f"{OPS_PATH}/recording")).json()["recording"]["note"] == "before"
