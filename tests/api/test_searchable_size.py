"""A recording whose searchable form is too large is refused, and what is stored stays (docs/contract.md section 4)."""

import random
import string
from collections.abc import Callable
from typing import Any

import pytest

from app.store import repository
from tests.support.recordings import OPS_PATH, a_recording, a_user, an_event
from tests.support.service import PATIENT, StartService, assert_error
from tests.support.sizes import FULL


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


def distinct_user_data(size: int) -> dict[str, Any]:
    text = random.Random(1)
    values = {f"k{i}": "".join(text.choices(string.printable[:90], k=1_000)) for i in range(size // 1_010)}
    return an_event(data=values)


def names_of_short_words(size: int) -> dict[str, Any]:
    text = random.Random(1)
    letters = string.ascii_lowercase + string.digits
    words = " ".join("".join(text.choices(letters, k=4)) for _ in range(size // 5))
    return an_event(contact=a_user(words))


@pytest.mark.skipif(not FULL, reason="it takes ten seconds of a processor")
@pytest.mark.parametrize(("large", "size"), [(distinct_user_data, 3.6 * 2**20), (names_of_short_words, 1.6 * 2**20)])
async def test_what_the_contract_calls_too_much_to_search_for_is_413(
    start_service: StartService, large: Callable[[int], dict[str, Any]], size: float
) -> None:
    service = await start_service(max_body_bytes=8 * 2**20, **PATIENT)
    response = await service.client("ops").post(OPS_PATH, json=a_recording(eventHistory=[large(int(size))]))
    assert_error(response, 413, 2, "16777216 bytes to search for")
    assert (await service.client("ops").get(f"{OPS_PATH}/recording")).status_code == 404
