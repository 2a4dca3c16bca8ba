"""Labels against everything else at the same moment, with several processes (docs/contract.md section 9)."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from typing import Any

import httpx
import msgspec
import pytest

from tests.support.processes import AppProcess
from tests.support.recordings import OPS_PATH, a_media_file, a_recording
from tests.support.rounds import a_little_later, in_rounds
from tests.support.service import PATIENT, own_settings

PATH = "/api/v2/recordings"
DEFINITIONS = "/api/v2/recording-label-definitions"
APPLY, UNAPPLY = {"operationName": "applyNonDelete"}, {"operationName": "unapplyNonDelete"}


@dataclass
class Cluster:
    """Several processes of the service over one Elasticsearch; each client belongs to one of them."""

    ops: list[httpx.AsyncClient]
    admin: list[httpx.AsyncClient]

    async def post(self, process: int, recording_id: str, number: int = 0) -> int:
        """Each number adds a media file."""
        media = a_media_file(f"{recording_id}-{number}", callUUID=recording_id)
        response = await self.ops[process].post(OPS_PATH, json=a_recording(recording_id, mediaFiles=[media]))
        assert response.status_code in {200, 201}, response.text
        return response.status_code

    async def define(self, *names: str) -> None:
        for name in names:
            response = await self.admin[0].post(DEFINITIONS, json={"name": name})
            assert response.status_code in {201, 409}, response.text

    async def undefine(self, process: int, name: str) -> int:
        return (await self.admin[process].delete(f"{DEFINITIONS}/{name}")).status_code

    async def give(self, process: int, recording_id: str, name: str, comment: str = "x") -> int:
        path = f"{PATH}/{recording_id}/labels"
        return (await self.admin[process].post(path, json={"name": name, "comment": comment})).status_code

    async def take(self, process: int, recording_id: str, name: str) -> int:
        return (await self.admin[process].delete(f"{PATH}/{recording_id}/labels/{name}")).status_code

    async def change(self, process: int, recording_id: str, operation: dict[str, str]) -> int:
        return (await self.admin[process].post(f"{PATH}/{recording_id}", json=operation)).status_code

    async def delete(self, process: int, recording_id: str) -> int:
        return (await self.ops[process].delete(f"{OPS_PATH}/{recording_id}")).status_code

    async def read(self, recording_id: str) -> dict[str, Any]:
        recording: dict[str, Any] = (await self.ops[0].get(f"{OPS_PATH}/{recording_id}")).json()["recording"]
        return recording

    async def labels(self, recording_id: str) -> list[str]:
        return [label["name"] for label in (await self.read(recording_id)).get("labels", [])]


async def together(*requests: Awaitable[int]) -> list[int]:
    return list(await asyncio.gather(*requests))


@pytest.fixture(scope="module")
async def cluster(elasticsearch_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    async with own_settings(elasticsearch_url) as own:
        settings = msgspec.structs.replace(own, **PATIENT)
        processes = [AppProcess(settings, tmp_path_factory.mktemp("app")) for _ in range(3)]
        for process in processes:
            await process.start()
        ops, admin = [[process.client(user) for process in processes] for user in ("ops", "admin")]
        yield Cluster(ops, admin)
        for client in ops + admin:
            await client.aclose()
        for process in processes:
            await process.stop()


async def test_two_labels_given_at_once_are_both_there(cluster: Cluster) -> None:
    await cluster.define("a", "b")

    async def run(recording_id: str, rng: random.Random) -> None:
        await cluster.post(0, recording_id)
        given = await together(
            a_little_later(rng, cluster.give(1, recording_id, "a")),
            a_little_later(rng, cluster.give(2, recording_id, "b")),
        )
        assert given == [201, 201]
        assert await cluster.labels(recording_id) == ["a", "b"]

    await in_rounds("two", run)


async def test_the_same_label_given_twice_at_once_is_there_once(cluster: Cluster) -> None:
    await cluster.define("a")

    async def run(recording_id: str, rng: random.Random) -> None:
        await cluster.post(0, recording_id)
        given = await together(
            a_little_later(rng, cluster.give(1, recording_id, "a", "one")),
            a_little_later(rng, cluster.give(2, recording_id, "A", "other")),
        )
        assert sorted(given) == [200, 201]
        (label,) = (await cluster.read(recording_id))["labels"]
        assert label["comment"] == ("one" if given[0] == 200 else "other")  # whoever found it there came later

    await in_rounds("same", run)


async def test_labels_and_updates_at_once_lose_nothing(cluster: Cluster) -> None:
    await cluster.define("a", "b")

    async def run(recording_id: str, rng: random.Random) -> None:
        await cluster.post(0, recording_id)
        assert await cluster.give(0, recording_id, "a") == 201
        changed = await together(
            a_little_later(rng, cluster.post(1, recording_id, 1)),
            a_little_later(rng, cluster.give(2, recording_id, "b")),
            a_little_later(rng, cluster.take(0, recording_id, "a")),
            a_little_later(rng, cluster.post(2, recording_id, 2)),
        )
        assert changed == [200, 201, 200, 200]
        recording = await cluster.read(recording_id)
        assert [label["name"] for label in recording["labels"]] == ["b"]
        assert len(recording["mediaFiles"]) == 3

    await in_rounds("update", run)


async def test_labels_and_protection_at_once_lose_nothing(cluster: Cluster) -> None:
    await cluster.define("a", "b")

    async def run(recording_id: str, rng: random.Random) -> None:
        await cluster.post(0, recording_id)
        assert await cluster.give(0, recording_id, "a") == 201
        if protected := rng.random() < 0.5:
            assert await cluster.change(0, recording_id, APPLY) == 200
        changed = await together(
            a_little_later(rng, cluster.change(1, recording_id, UNAPPLY if protected else APPLY)),
            a_little_later(rng, cluster.give(2, recording_id, "b")),
            a_little_later(rng, cluster.take(0, recording_id, "a")),
        )
        assert changed == [200, 201, 200]
        recording = await cluster.read(recording_id)
        assert [label["name"] for label in recording["labels"]] == ["b"]
        assert recording.get("nonDelete", False) != protected

    await in_rounds("apply", run)


async def test_a_label_and_the_deletion_of_its_recording(cluster: Cluster) -> None:
    await cluster.define("a")
    outcomes: set[tuple[int, int]] = set()

    async def run(recording_id: str, rng: random.Random) -> None:
        await cluster.post(0, recording_id)
        given, deleted = await together(
            a_little_later(rng, cluster.give(1, recording_id, "a")),
            a_little_later(rng, cluster.delete(2, recording_id)),
        )
        outcomes.add((given, deleted))
        assert deleted == 200
        assert given in {201, 404}
        assert (await cluster.ops[0].get(f"{OPS_PATH}/{recording_id}")).status_code == 404
        assert await cluster.post(0, recording_id) == 201
        assert await cluster.labels(recording_id) == []

    await in_rounds("delete", run, seen_enough=lambda: len(outcomes) == 2)
    assert len(outcomes) == 2


async def test_a_label_and_the_deletion_of_its_definition(cluster: Cluster) -> None:
    outcomes: set[tuple[int, int]] = set()

    async def run(name: str, rng: random.Random) -> None:
        await cluster.define(name)
        await cluster.post(0, name)
        given, deleted = await together(
            a_little_later(rng, cluster.give(1, name, name)),
            a_little_later(rng, cluster.undefine(2, name)),
        )
        outcomes.add((given, deleted))
        # Exactly one of them has its way, and the whole of it.
        assert (given, deleted) in {(201, 409), (404, 200)}
        assert await cluster.labels(name) == ([name] if given == 201 else [])
        kept = await cluster.admin[0].get(f"{DEFINITIONS}/{name}")
        assert kept.status_code == (200 if given == 201 else 404)

    await in_rounds("definition", run, seen_enough=lambda: len(outcomes) == 2)
    assert len(outcomes) == 2


async def test_labels_of_many_and_two_deletions_of_their_definition(cluster: Cluster) -> None:
    """Whatever happens, no recording carries a label without a definition, and none that was given is lost."""

    async def run(name: str, rng: random.Random) -> None:
        await cluster.define(name)
        recordings = [f"{name}-{n}" for n in range(3)]
        for recording_id in recordings:
            await cluster.post(0, recording_id)
        given = [a_little_later(rng, cluster.give(n, recordings[n], name)) for n in range(3)]
        again = a_little_later(rng, cluster.give(1, recordings[0], name, "another"))
        taken = a_little_later(rng, cluster.take(0, recordings[2], name))
        deleted = [a_little_later(rng, cluster.undefine(n, name)) for n in range(2)]
        answers = await together(*given, again, taken, *deleted)
        gave, gave_again, took, deletions = answers[:3], answers[3], answers[4], answers[5:]
        carried = [await cluster.labels(recording_id) for recording_id in recordings]
        exists = (await cluster.admin[0].get(f"{DEFINITIONS}/{name}")).status_code == 200
        assert exists == (200 not in deletions)
        assert set(deletions) <= {200, 404, 409}
        assert deletions.count(200) <= 1
        assert exists or carried == [[], [], []]
        if exists:
            assert set(gave) | {gave_again} <= {200, 201}
            assert carried == [[name], [name], [] if took == 200 else [name]]

    await in_rounds("many", run)
