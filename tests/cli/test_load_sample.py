"""`scripts/load_sample.py`, the sample it loads, and `scripts/bench.py` as far as it can be run in a moment."""

import re
from datetime import UTC, datetime
from pathlib import Path

import httpx
import msgspec
import pytest
from elasticsearch import AsyncElasticsearch

from app.embedded.sample import sample_recordings
from app.embedded.servers import inherited_environment
from app.recordings.merge import merge
from app.recordings.model import parse_recording
from app.settings import Settings
from tests.support.processes import Scripts
from tests.support.recordings import CONTACT_CENTER, REGION
from tests.support.sizes import FULL
from tests.support.workers import BENCHMARKS

FULL_ONLY = pytest.mark.skipif(not FULL, reason="takes half a minute in Chromium: scripts/test --full")

UNTIL = datetime(2025, 6, 1, tzinfo=UTC)


async def load(settings: Settings, folder: Path, *arguments: str) -> tuple[int, str, str]:
    return await Scripts(settings, folder).run("load_sample.py", *arguments)


def test_sample_is_valid_and_varied() -> None:
    recordings = list(sample_recordings(1000, region="eu", until=UNTIL))
    stored = [merge(None, parse_recording(recording)) for recording in recordings]
    assert len({recording["id"] for recording in recordings}) == 1000
    assert {recording["region"] for recording in recordings} == {"eu"}
    assert {len(recording["mediaFiles"]) for recording in recordings} == {1, 2, 3}
    assert {len(recording["eventHistory"]) for recording in recordings} == {2, 3, 4, 5, 6}
    media = [media for recording in recordings for media in recording["mediaFiles"]]
    assert {m["mediaDescriptor"]["storage"] for m in media} == {"awsS3", "webDAV"}
    assert {m["type"] for m in media} == {"audio/mpeg", "audio/wav"}
    assert {e["contact"]["type"] for r in recordings for e in r["eventHistory"]} == {"User", "External"}
    # Nothing was thrown together: events and media files are as many as before.
    assert [len(r["eventHistory"]) for r in stored] == [len(r["eventHistory"]) for r in recordings]
    assert [len(r["mediaFiles"]) for r in stored] == [len(r["mediaFiles"]) for r in recordings]
    assert all("2023-05-25" < r["startTime"] <= r["stopTime"] < "2025-06-02" for r in stored)
    assert sum(8 <= int(m["startTime"][11:13]) < 19 for m in media) > len(media) * 0.8


def test_sample_depends_only_on_its_seed() -> None:
    def sample(count: int, seed: int, first: int = 0) -> list[object]:
        return list(sample_recordings(count, seed=seed, region="eu", first=first, until=UNTIL))

    assert sample(300, seed=7) == sample(300, seed=7)
    assert sample(300, seed=7)[200:] == sample(100, seed=7, first=200)
    another = sample(300, seed=8)
    assert not [recording for recording in sample(300, seed=7) if recording in another]


async def test_repeated_load_adds_no_recordings(
    settings: Settings, elasticsearch: AsyncElasticsearch, admin: httpx.AsyncClient, tmp_path: Path
) -> None:
    status, out, err = await load(settings, tmp_path, "500", "--batch", "70")
    assert (status, err) == (0, "")
    assert re.fullmatch(r"500 recordings: 500 stored, 0 already there, 0 refused, in [\d.]+ s \(\d+/s\)\n", out), out
    found = (await admin.get("/api/v2/recordings", params={"startTime": "0"})).json()
    assert len(found["recordings"]) == 100
    assert found["recordings"][0]["region"] == REGION
    labelled = [recording for recording in found["recordings"] if "labels" in recording]
    assert 30 < len(labelled) < 70
    definitions = (await admin.get("/api/v2/recording-label-definitions")).json()["labelDefinitions"]
    assert {label["name"] for recording in labelled for label in recording["labels"]} == {
        definition["name"] for definition in definitions
    }
    complaints = (await admin.get("/api/v2/recordings", params={"label": "COMPLAINT"})).json()["recordings"]
    assert complaints
    assert all("complaint" in [label["name"] for label in recording["labels"]] for recording in complaints)

    status, out, err = await load(settings, tmp_path, "510", "--contact-center", CONTACT_CENTER, "--seed", "1")
    assert (status, err) == (0, "")
    assert out.startswith("510 recordings: 10 stored, 500 already there, 0 refused")
    assert (await elasticsearch.count(index=f"{settings.index_prefix}-recordings")).body["count"] == 510


async def test_refused_documents_are_reported(
    settings: Settings, elasticsearch: AsyncElasticsearch, tmp_path: Path
) -> None:
    await load(settings, tmp_path, "1")
    await elasticsearch.indices.put_settings(
        index=f"{settings.index_prefix}-recordings", settings={"index.blocks.write": True}
    )
    status, out, err = await load(settings, tmp_path, "3", "--seed", "2")
    assert status == 1
    assert "0 stored, 0 already there, 3 refused" in out
    assert err.startswith("refused 3 times: 403 cluster_block_exception: ")


async def test_unreachable_elasticsearch_is_reported(settings: Settings, tmp_path: Path) -> None:
    away = msgspec.structs.replace(settings, elasticsearch_url="http://127.0.0.1:1")
    status, out, err = await load(away, tmp_path, "5")
    assert (status, out) == (1, "")
    assert re.fullmatch(r"cannot use the Elasticsearch at http://127\.0\.0\.1:1: .+\n", err), err


@pytest.mark.parametrize("arguments", [(), ("0",), ("-5",), ("x",), ("5", "--region", " "), ("5", "--batch", "0")])
async def test_wrong_arguments_are_refused(settings: Settings, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    status, _, err = await load(settings, tmp_path, *arguments)
    assert status == 2
    assert "usage:" in err


@BENCHMARKS
@pytest.mark.parametrize(
    ("arguments", "row"),
    [
        (("search", "--recordings", "300", "--seconds", "0.2", "--rounds", "1"), "| Elasticsearch directly | "),
        (
            ("access", "--recordings", "300", "--seconds", "0.1", "--rounds", "1", "--questions", "3"),
            "| callUUID | groups and own recordings | ",
        ),
        (("wildcard", "--recordings", "300", "--rounds", "1", "--warm-up", "0", "--batch", "5"), "| userData | 300 | "),
        pytest.param(("page", "--minutes", "1", "--rounds", "1"), "| MP3 from 0:50 | ", marks=FULL_ONLY),
    ],
)
async def test_bench_prints_its_tables(
    settings: Settings, elasticsearch: AsyncElasticsearch, tmp_path: Path, arguments: tuple[str, ...], row: str
) -> None:
    scripts = Scripts(settings, tmp_path)
    environment = inherited_environment() | {"RECALL_ELASTICSEARCH_URL": settings.elasticsearch_url}
    status, out, err = await scripts.end(await scripts.start("bench.py", *arguments, env=environment))
    assert status == 0, err
    assert row in out
    assert f"`scripts/bench.py {' '.join(arguments)}`" in out
    assert not (await elasticsearch.indices.get(index="bench-*")).body
