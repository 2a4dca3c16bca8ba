"""The migration scripts beside writers and readers, killed, concurrent, and rolled back."""

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from elasticsearch import ApiError, AsyncElasticsearch
from elasticsearch.helpers import async_scan

from app.auth.scope import Scope
from app.errors import ElasticsearchUnavailable
from app.migration import point_in_time
from app.migration.cutover import acquire_and_recover, current_index
from app.migration.point_in_time import Hit, PlainIndex, PointInTime, ShardView
from app.migration.rollback import roll_back
from app.migration.sources import Source, V1Recordings, V2Recordings
from app.recordings.merge import merge
from app.recordings.model import parse_recording
from app.settings import Settings
from app.store.documents import document_id, from_source, to_document
from app.store.repository import RecordingRepository, StoredRecording, Update
from tests.migration.support import behind_alias, callers, make_v1_index, migration, run, small, start, v1_index
from tests.support.recordings import (
    CONTACT_CENTER,
    OPS_PATH,
    OTHER_CONTACT_CENTER,
    REGION,
    a_media_file,
    a_recording,
    store_many,
)
from tests.support.service import Service
from tests.support.sizes import MIGRATED_DOCUMENTS, MIGRATION_KILLS, MOST_UNAVAILABLE_SECONDS
from tests.support.waiting import eventually

pytestmark = pytest.mark.no_indices


class Writer:
    """The earlier deployment: 100 updates and deletions a second in the v1 index, then the service."""

    def __init__(self, elasticsearch: AsyncElasticsearch, index: str, ops: httpx.AsyncClient, truth: dict[str, str]):
        self._elasticsearch = elasticsearch
        self._index = index
        self._ops = ops
        self._random = random.Random(1)
        self._ids = list(truth)
        self.truth = truth
        self.writes = 0
        self.unavailable_seconds = 0.0

    async def work(self) -> None:
        """Returns after the first write that the service has accepted."""
        begun = last = time.monotonic()
        while True:
            recording_id = self._random.choice(self._ids)
            caller = f"+{self.writes}"
            try:
                if self._random.random() < 0.2:
                    if recording_id in self.truth:
                        await self._elasticsearch.delete(index=self._index, id=recording_id)
                        del self.truth[recording_id]
                else:
                    await self._elasticsearch.index(
                        index=self._index, id=recording_id, document=small(recording_id, caller)
                    )
                    self.truth[recording_id] = caller
            except ApiError as error:
                if error.status_code != 403:
                    raise
                break
            last = time.monotonic()
            self.writes += 1
            await asyncio.sleep(max(0.0, begun + self.writes / 100 - last))
        posted = small("written by the service", "+1")
        while True:
            response = await self._ops.post(OPS_PATH, json=posted)
            index = await behind_alias(self._elasticsearch, self._settings_of())
            if response.status_code in {200, 201} and not index.endswith("000001"):
                break
            assert response.status_code in {200, 201, 503}
            if response.status_code == 503:
                assert int(response.headers["retry-after"]) > 0
            await asyncio.sleep(0.02)
        self.unavailable_seconds = time.monotonic() - last
        self.truth["written by the service"] = "+1"

    def _settings_of(self) -> Settings:
        return Settings(index_prefix=self._index.partition("-recordings-v1-")[0])


async def read(admin: httpx.AsyncClient, until: "asyncio.Task[None]") -> int:
    """Searches until the writer is done; every one is answered."""
    reads = 0
    while not until.done():
        response = await admin.get("/api/v2/recordings", params={"startTime": "0", "limit": "10"})
        assert response.status_code == 200, response.text
        reads += 1
        await asyncio.sleep(0.02)
    return reads


async def test_migration_from_v1_loses_nothing_beside_a_writer_and_a_reader(
    service: Service, elasticsearch: AsyncElasticsearch, settings: Settings, tmp_path: Path
) -> None:
    truth = {f"r{i}": f"+{i}" for i in range(MIGRATED_DOCUMENTS)}
    malformed = {f"bad{i}" for i in range(MIGRATED_DOCUMENTS // 100)}
    documents = [(_id, small(_id, caller)) for _id, caller in truth.items()]
    documents += [(_id, small(_id, "") | {"callerPhoneNumber": " "}) for _id in malformed]
    index = await make_v1_index(elasticsearch, settings, documents)
    writer = Writer(elasticsearch, index, service.client("ops"), truth)
    writing = asyncio.create_task(writer.work())
    reading = asyncio.create_task(read(service.client("admin"), writing))
    status, out, err = await run(settings, "migrate_to_v2.py", "--allow-rejects", cwd=tmp_path)
    assert status == 0, out + err
    await writing
    assert await reading > 10
    assert writer.writes > 50
    assert writer.unavailable_seconds < MOST_UNAVAILABLE_SECONDS
    assert await callers(elasticsearch, await behind_alias(elasticsearch, settings)) == writer.truth
    rejects = [msgspec.json.decode(line) for line in (tmp_path / "rejects.ndjson").read_bytes().splitlines()]
    assert {reject["id"] for reject in rejects} == malformed
    assert len(rejects) == len(malformed)
    assert {reject["index"] for reject in rejects} == {index}
    assert all(reject["reason"].startswith("Parameter 'callerPhoneNumber' is invalid") for reject in rejects)
    assert all(reject["document"]["id"] == reject["id"] for reject in rejects)


async def test_reindex_to_more_shards_loses_nothing_beside_writes_deletions_and_protection(
    service: Service, elasticsearch: AsyncElasticsearch, settings: Settings, tmp_path: Path
) -> None:
    ops = service.client("ops")
    truth: dict[str, str] = {}
    done = asyncio.Event()

    async def write(recording_id: str, caller: str) -> None:
        while (response := await ops.post(OPS_PATH, json=a_recording(recording_id, callerPhoneNumber=caller))).is_error:
            assert response.status_code == 503
            await asyncio.sleep(0.05)
        truth[recording_id] = caller

    async def remove(recording_id: str) -> None:
        while (response := await ops.delete(f"{OPS_PATH}/{recording_id}")).is_error:
            assert response.status_code == 503
            await asyncio.sleep(0.05)
        del truth[recording_id]

    async def work(number: int) -> None:
        for i in range(10_000):
            recording_id = f"{number}-{i % 50}"
            if i % 7 == 6 and recording_id in truth:
                await remove(recording_id)
            else:
                await write(recording_id, f"+{i}")
            if done.is_set():
                return

    for i in range(50):
        await write(f"first{i}", "+0")
    protected = await service.client("admin").post(
        "/api/v2/recordings/first7", json={"operationName": "applyNonDelete"}
    )
    assert protected.status_code == 200
    writers = [asyncio.create_task(work(number)) for number in range(4)]
    status, out, err = await run(settings, "reindex.py", "--shards", "3", cwd=tmp_path)
    assert status == 0, out + err
    await write("after", "+1")
    done.set()
    await asyncio.gather(*writers)
    index = await behind_alias(elasticsearch, settings)
    assert index.endswith("-v2-000002")
    assert await callers(elasticsearch, index) == truth
    assert (await ops.delete(f"{OPS_PATH}/first7")).status_code == 403


async def test_migration_survives_kills_at_random_points(
    service: Service, elasticsearch: AsyncElasticsearch, settings: Settings, tmp_path: Path
) -> None:
    random_ = random.Random(1)
    truth = {f"r{i}": f"+{i}" for i in range(1500)}
    index = await make_v1_index(elasticsearch, settings, [(_id, small(_id, caller)) for _id, caller in truth.items()])
    ids = list(truth)
    settings = msgspec.structs.replace(settings, lease_seconds=1.0)
    whole = 2.0
    killed_holders = 0
    for kill in range(MIGRATION_KILLS):
        before = await holder(elasticsearch, settings)
        process = await start(settings, "migrate_to_v2.py", "--rate", "3000", cwd=tmp_path)
        # The delay begins when the run holds the lease: on a busy machine it takes long until then.
        await eventually(partial(holds_lease, elasticsearch, settings, process, before), seconds=120)
        try:
            await asyncio.wait_for(process.communicate(), random_.uniform(0, whole))
        except TimeoutError:
            process.kill()
            await process.communicate()
            killed_holders += await holder(elasticsearch, settings) is not None
            whole *= 1.1
        else:
            whole *= 0.8  # the machine is fast now
        if not (await behind_alias(elasticsearch, settings)).endswith("000001"):
            # It was not killed before the swap: roll back and start again.
            async with acquire_and_recover(elasticsearch, settings, "recordings") as lease:
                await roll_back(elasticsearch, settings, lease, "recordings")
        await _change(elasticsearch, index, truth, ids, random_=random_, kill=kill)
    assert killed_holders > MIGRATION_KILLS // 4
    status, out, err = await run(settings, "migrate_to_v2.py", cwd=tmp_path)
    assert status == 0, out + err
    target = await behind_alias(elasticsearch, settings)
    assert not target.endswith("000001")
    assert await callers(elasticsearch, target) == truth
    # The old index rejects writes, and the service writes into the new one.
    with pytest.raises(ApiError, match="cluster_block_exception"):
        await elasticsearch.index(index=index, id="x", document={})
    assert (await service.client("ops").post(OPS_PATH, json=a_recording())).status_code == 201


async def holds_lease(
    elasticsearch: AsyncElasticsearch, settings: Settings, process: asyncio.subprocess.Process, before: str | None
) -> bool:
    """Whether a run has taken the lease over from the holder `before`, or has ended already."""
    return process.returncode is not None or await holder(elasticsearch, settings) not in {None, before}


async def holder(elasticsearch: AsyncElasticsearch, settings: Settings) -> str | None:
    """The token of the lease's holder, dead or alive."""
    found = await elasticsearch.options(ignore_status=404).get(
        index=f"{settings.index_prefix}-migrations", id="recordings"
    )
    return (found.body.get("_source", {}).get("holder") or {}).get("token")


async def _change(
    elasticsearch: AsyncElasticsearch,
    index: str,
    truth: dict[str, str],
    ids: list[str],
    *,
    random_: random.Random,
    kill: int,
) -> None:
    """Some updates and deletions between two runs; a block that the killed run left is in the way."""
    for recording_id in random_.sample(ids, 5):
        try:
            if random_.random() < 0.4 and recording_id in truth:
                await elasticsearch.delete(index=index, id=recording_id)
                del truth[recording_id]
            else:
                await elasticsearch.index(index=index, id=recording_id, document=small(recording_id, f"+k{kill}"))
                truth[recording_id] = f"+k{kill}"
        except ApiError as error:
            if error.status_code != 403:
                raise


async def test_concurrent_migration_is_refused_and_killed_one_is_taken_over(
    elasticsearch: AsyncElasticsearch, settings: Settings, tmp_path: Path
) -> None:
    settings = msgspec.structs.replace(settings, lease_seconds=5.0)
    await make_v1_index(elasticsearch, settings, [(f"r{i}", small(f"r{i}", "+1")) for i in range(1000)])
    first = await start(settings, "migrate_to_v2.py", "--rate", "200", cwd=tmp_path)

    async def is_filling() -> bool:
        return bool(await elasticsearch.indices.exists(index=f"{settings.index_prefix}-recordings-v2-000002"))

    await eventually(is_filling)
    status, _, err = await run(settings, "migrate_to_v2.py", cwd=tmp_path)
    assert status == 1
    assert "another process holds the lease" in err
    first.kill()
    await first.communicate()
    status, out, err = await run(settings, "migrate_to_v2.py", cwd=tmp_path)
    assert status == 0, out + err
    assert len(await callers(elasticsearch, await behind_alias(elasticsearch, settings))) == 1000


async def test_rejects_prevent_the_swap_until_allowed_or_corrected(
    elasticsearch: AsyncElasticsearch, settings: Settings, tmp_path: Path
) -> None:
    documents = [("good", small("good", "+1")), ("bad", small("bad", " ")), ("worse", small("other", "+1"))]
    index = await make_v1_index(elasticsearch, settings, documents)
    status, out, err = await run(settings, "migrate_to_v2.py", "--dry-run", cwd=tmp_path)
    assert (status, err) == (0, "")
    assert "would copy 1 documents" in out
    assert not (await elasticsearch.indices.get(index=f"{settings.index_prefix}-recordings-v2-*")).body
    status, out, err = await run(settings, "migrate_to_v2.py", cwd=tmp_path)
    assert status == 1
    assert "2 documents cannot be transformed" in err
    assert (await behind_alias(elasticsearch, settings)).endswith("000001")
    await elasticsearch.index(index=index, id="bad", document=small("bad", "+2"))
    status, out, err = await run(settings, "migrate_to_v2.py", "--allow-rejects", cwd=tmp_path)
    assert status == 0, out + err
    assert "1 rejects" in out
    assert await callers(elasticsearch, await behind_alias(elasticsearch, settings)) == {"good": "+1", "bad": "+2"}


async def test_damaged_copies_are_detected_and_repaired(
    service: Service, elasticsearch: AsyncElasticsearch, settings: Settings
) -> None:
    truth = {f"r{i}": f"+{i}" for i in range(700)}
    index = await make_v1_index(elasticsearch, settings, [(_id, small(_id, caller)) for _id, caller in truth.items()])

    @contextmanager
    def damage(_total: int, what: str) -> Iterator[Callable[[int], object]]:
        if what == "reading back":
            target = f"{settings.elasticsearch_url}/{damaged.report.target}"
            changed, gone = (document_id(CONTACT_CENTER, REGION, name) for name in ("r7", "r8"))
            document = to_document(CONTACT_CENTER, merge(None, parse_recording(small("r7", "+damaged"))))
            httpx.put(f"{target}/_doc/{changed}", json=document).raise_for_status()
            httpx.delete(f"{target}/_doc/{gone}?refresh").raise_for_status()
        yield lambda _: None

    name = f"{settings.index_prefix}-recordings"
    async with acquire_and_recover(elasticsearch, settings, "recordings") as lease:
        current = await current_index(elasticsearch, name)
        sources: list[Source] = [V1Recordings(index, CONTACT_CENTER), V2Recordings(current)]
        damaged = migration(elasticsearch, settings, sources, damage)
        report = await damaged.run(lease, current)
    assert (report.swapped, report.repaired) == (True, 2)
    assert await callers(elasticsearch, report.target) == truth


async def test_reindexed_screen_recordings_stay_protected(
    service: Service, elasticsearch: AsyncElasticsearch, settings: Settings, tmp_path: Path
) -> None:
    ops, admin = service.client("ops"), service.client("admin")
    path = OPS_PATH.replace("recordings", "screen-recordings")
    for number in range(30):
        media = a_media_file(f"s{number}", callUUID=f"call{number}")
        assert (await ops.post(path, json=a_recording(f"s{number}", mediaFiles=[media]))).status_code == 201
    of_call_3 = a_recording("r", mediaFiles=[a_media_file(callUUID="call3")])
    assert (await ops.post(OPS_PATH, json=of_call_3)).status_code == 201
    kept = await admin.post("/api/v2/recordings/r", json={"operationName": "applyNonDelete"})
    assert kept.status_code == 200
    before = [(await ops.get(f"{path}/s{number}")).json() for number in range(30)]
    status, out, err = await run(
        settings, "reindex.py", "--resource", "screen-recordings", "--shards", "2", cwd=tmp_path
    )
    assert status == 0, out + err
    assert await behind_alias(elasticsearch, settings, "screen-recordings") == (
        f"{settings.index_prefix}-screen-recordings-v2-000002"
    )
    assert [(await ops.get(f"{path}/s{number}")).json() for number in range(30)] == before
    assert (await ops.delete(f"{path}/s3")).status_code == 403
    assert (await ops.delete(f"{path}/s4")).status_code == 200


async def test_pending_media_deletions_are_copied_unchanged(
    service: Service, elasticsearch: AsyncElasticsearch, settings: Settings, tmp_path: Path
) -> None:
    name = f"{settings.index_prefix}-media-deletions"
    entry = {
        "resource": "recordings",
        "contactCenter": CONTACT_CENTER,
        "recordingId": "gone",
        "mediaId": "a.wav",
        "descriptor": '{"storage":"webDAV","path":"http://media.example/a.wav"}',
        "mediaIdentity": "x",
        "document": "y",
        "seqNo": 7,
        "primaryTerm": 1,
        "created": 1_700_000_000_000,
        "nextAttempt": 4_000_000_000_000,
        "attempts": 3,
    }
    entries = {f"y.1.7.{number}": entry | {"seqNo": number} for number in range(1200)}
    operations = [line for _id, document in entries.items() for line in ({"index": {"_id": _id}}, document)]
    assert not (await elasticsearch.bulk(index=name, operations=operations))["errors"]
    status, out, err = await run(settings, "reindex.py", "--resource", "media-deletions", cwd=tmp_path)
    assert status == 0, out + err
    assert await behind_alias(elasticsearch, settings, "media-deletions") == f"{name}-v2-000002"
    await elasticsearch.indices.refresh(index=name)
    hits = async_scan(elasticsearch, index=name, request_timeout=60)
    assert {hit["_id"]: hit["_source"] async for hit in hits} == entries


async def test_version_read_before_the_swap_is_rejected_after_it(
    service: Service, elasticsearch: AsyncElasticsearch, settings: Settings, tmp_path: Path
) -> None:
    assert (await service.client("ops").post(OPS_PATH, json=a_recording())).status_code == 201
    repository = RecordingRepository(elasticsearch, settings)
    scope = Scope(CONTACT_CENTER, REGION)
    before = await repository.get(scope, "recording")

    async def migrate_before_writing(stored: StoredRecording) -> Update:
        assert stored == before
        status, out, err = await run(settings, "reindex.py", cwd=tmp_path)
        assert status == 0, out + err
        return Update(CONTACT_CENTER, {**stored.recording, "callerPhoneNumber": "+stale"})

    async def new_number(stored: StoredRecording) -> Update:
        return Update(CONTACT_CENTER, {**stored.recording, "callerPhoneNumber": "+new"})

    with pytest.raises(ElasticsearchUnavailable):
        await repository.update(scope, "recording", migrate_before_writing)
    after = await repository.get(scope, "recording")
    # The copy has the same numbers, so only the name of the index tells that the version is another one.
    assert (before.version.seq_no, before.version.primary_term) == (after.version.seq_no, after.version.primary_term)
    assert before.version.index != after.version.index
    with pytest.raises(ElasticsearchUnavailable):
        await repository.delete([before])
    assert await repository.get(scope, "recording") == after
    assert await repository.update(scope, "recording", new_number) == (after, await new_number(after))


async def test_unread_point_in_time_is_kept_alive_until_closed(
    elasticsearch: AsyncElasticsearch, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(point_in_time, "_RENEWAL_SECONDS", 0.05)
    index = await make_v1_index(elasticsearch, settings, [("one", small("one", "+1"))])

    async def searches() -> int:
        stats = await elasticsearch.indices.stats(index=index, metric="search")
        return int(stats["_all"]["primaries"]["search"]["query_total"])

    async def was_used() -> bool:
        return await searches() > before + 5

    point = await PointInTime.open(elasticsearch, [V1Recordings(index, CONTACT_CENTER)])
    before = await searches()
    await eventually(was_used)
    await point.close()


async def test_large_recordings_are_read_a_few_at_a_time(
    elasticsearch: AsyncElasticsearch, service: Service, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(point_in_time, "_PAGE_BYTES", 100_000)
    sizes = {f"r{i}": 300_000 if i == 7 else 30_000 if i > 7 else 10 for i in range(20)}
    await store_many(elasticsearch, settings, (a_recording(name, mark="x" * size) for name, size in sizes.items()))
    read: list[list[str]] = []

    def sources_of(answer: Any) -> list[str]:
        return [from_source(hit["_source"])["id"] for hit in answer["hits"]["hits"] if "_source" in hit]

    class Watched(PointInTime[PlainIndex]):
        async def search(self, shard: ShardView[PlainIndex], **body: Any) -> Any:
            answer = await super().search(shard, **body)
            read.append(sources_of(answer))
            return answer

    index = f"{settings.index_prefix}-recordings-v2-000001"
    point = await Watched.open(elasticsearch, [PlainIndex(index)])
    later: PointInTime[PlainIndex] | None = None
    try:
        (shard,) = point.shards
        (part,) = point.slices()

        async def are_read(expected: Iterable[str], hits: list[Hit]) -> None:
            """Nothing twice, and in no answer more than fits, or one."""
            ids = [from_source(hit["_source"])["id"] for hit in hits]
            assert sorted(ids) == sorted(expected)
            assert all(len(some) <= 1 or sum(sizes[name] for name in some) <= 100_000 for some in read)
            assert max(len(some) for some in read) >= 3
            read.clear()

        await are_read(sizes, [hit async for hits in point.pages(part) for hit in hits])
        few = [name for name in sizes if sizes[name] == 30_000]
        ids = [document_id(CONTACT_CENTER, REGION, name) for name in few]
        await are_read(few, [hit async for hits in point.with_ids(shard, ids) for hit in hits])
        for _id in ids:
            await elasticsearch.delete(index=index, id=_id)
        later = await PointInTime.open(elasticsearch, [PlainIndex(index)])
        await are_read(few, [hit async for _, _, hits in point.replaced_or_deleted(later) for hit in hits])
    finally:
        await point.close()
        if later is not None:
            await later.close()


async def test_rollback_second_migration_and_removal_of_old_indices(
    service: Service, elasticsearch: AsyncElasticsearch, settings: Settings, tmp_path: Path
) -> None:
    ops = service.client("ops")
    await make_v1_index(elasticsearch, settings, [("one", small("one", "+1"))], CONTACT_CENTER)
    await make_v1_index(elasticsearch, settings, [("one", small("one", "+2"))], OTHER_CONTACT_CENTER)
    status, out, err = await run(settings, "migrate_to_v2.py", cwd=tmp_path)
    assert status == 0, out + err
    assert (await ops.get(f"{OPS_PATH}/one")).json()["recording"]["callerPhoneNumber"] == "+1"
    assert (await ops.post(OPS_PATH, json=a_recording("new"))).status_code == 201
    status, out, err = await run(settings, "migrate_to_v2.py", "--rollback", cwd=tmp_path)
    assert status == 1, out + err
    assert f"written, and not in the old index: 1\n  {CONTACT_CENTER} new\n" in out
    assert (await behind_alias(elasticsearch, settings)).endswith("000001")
    await elasticsearch.index(index=v1_index(settings), id="two", document=small("two", "+1"))
    status, out, err = await run(settings, "migrate_to_v2.py", cwd=tmp_path)
    assert status == 0, out + err
    status, out, err = await run(settings, "migrate_to_v2.py", "--drop-old", cwd=tmp_path)
    assert out.count("removed ") == 4
    left = (await elasticsearch.indices.get(index=f"{settings.index_prefix}-recordings-*")).body
    assert list(left) == [f"{settings.index_prefix}-recordings-v2-000003"]
    status, out, err = await run(settings, "migrate_to_v2.py", "--rollback", cwd=tmp_path)
    assert (status, err) == (1, "there is nothing to roll back\n")


async def test_contact_center_in_two_sources_is_refused(
    service: Service, elasticsearch: AsyncElasticsearch, settings: Settings, tmp_path: Path
) -> None:
    assert (await service.client("ops").post(OPS_PATH, json=a_recording())).status_code == 201
    await make_v1_index(elasticsearch, settings, [("one", small("one", "+1"))])
    status, _, err = await run(settings, "migrate_to_v2.py", cwd=tmp_path)
    assert status == 1
    assert f"the contact center {CONTACT_CENTER} is in" in err


async def test_documents_that_do_not_tell_their_size_are_read_as_many_at_a_time_as_the_last_ones_suggest(
    elasticsearch: AsyncElasticsearch, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(point_in_time, "_PAGE_BYTES", 100_000)
    marks = ["x"] * 12 + ["x" * 30_000] * 25 + ["x"] * 20
    sources = [(f"r{i}", {**small(f"r{i}", "+1"), "mark": mark}) for i, mark in enumerate(marks)]
    index = await make_v1_index(elasticsearch, settings, sources)
    point = await PointInTime.open(elasticsearch, [V1Recordings(index, CONTACT_CENTER)])
    try:
        (part,) = point.slices()
        pages = [[hit["_id"] for hit in hits] async for hits in point.pages(part)]
        assert [name for page in pages for name in page] == [name for name, _ in sources]
        assert [*map(len, pages)] == [4, 8, 16, 3, 3, 3, 3, 6, 11]
        again = [len(hits) async for hits in point.pages(part)]
        assert again[0] == 24
    finally:
        await point.close()
