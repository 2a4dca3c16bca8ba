"""Many recordings in one POST, one a line (docs/contract.md sections 4 and 14)."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from random import Random
from typing import Any

import httpx
import msgspec
import pytest

from app.settings import User
from tests.api.test_merge_properties import some_post
from tests.support import oracle
from tests.support.oracle import Number
from tests.support.processes import AppProcess, kill_now_and_then
from tests.support.recordings import CONTACT_CENTER, OPS_PATH, OTHER_CONTACT_CENTER, a_media_file, a_recording
from tests.support.service import PATIENT, USERS, Service, StartService, assert_error, basic, hash_password
from tests.support.sizes import POSTED_BATCHES
from tests.support.waiting import eventually

NDJSON = {"Content-Type": "application/x-ndjson"}
OTHER_PATH = OPS_PATH.replace(CONTACT_CENTER, OTHER_CONTACT_CENTER)
INTERNAL_PATH = f"/internal-api/contact-centers/{CONTACT_CENTER}/recordings"
MIB = 1024 * 1024


def lines_of(recordings: Iterable[Any]) -> str:
    return "".join(f"{json.dumps(recording)}\n" for recording in recordings)


async def post_lines(client: httpx.AsyncClient, content: str | bytes, path: str = OPS_PATH) -> dict[str, Any]:
    response = await client.post(path, content=content, headers=NDJSON)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def read(client: httpx.AsyncClient, recording_id: str, path: str = OPS_PATH) -> dict[str, Any] | None:
    response = await client.get(f"{path}/{recording_id}")
    if response.status_code == 404:
        return None
    assert response.status_code == 200, response.text
    recording: dict[str, Any] = oracle.loads(response.content)["recording"]
    return recording


def failed(line: int, recording_id: str | None, code: int, message: str) -> dict[str, Any]:
    return {"line": line, "id": recording_id, "statusCode": code, "statusMessage": message}


# --- What is answered ---


async def test_each_line_creates_or_updates_a_recording(ops: httpx.AsyncClient) -> None:
    assert await post_lines(ops, lines_of(a_recording(f"r{i}") for i in range(3))) == {
        "statusCode": 0,
        "created": 3,
        "updated": 0,
    }
    again = [a_recording("r1", note="changed"), a_recording("r3")]
    assert await post_lines(ops, lines_of(again)) == {"statusCode": 0, "created": 1, "updated": 1}
    assert [(await read(ops, f"r{i}") or {}).get("note") for i in range(4)] == [None, "changed", None, None]


async def test_lines_that_fail_are_told_with_their_number_and_the_others_are_stored(ops: httpx.AsyncClient) -> None:
    elsewhere = a_media_file(mediaDescriptor={"storage": "webDAV", "path": "http://elsewhere.example/a.mp3"})
    lines = [
        "\n  \t\r",
        json.dumps(a_recording("good")),
        "{",
        "[]",
        json.dumps(a_recording("no-region", region=None)),
        "",
        json.dumps({"id": 7}),
        json.dumps(a_recording("elsewhere", mediaFiles=[elsewhere])),
        json.dumps(a_recording("also-good", note="ü")) + "\r",
        '{"id":"\\ud800"',
        "[" * 200 + "]" * 200,
        '{"operationName":"createCRCF"}',
        json.dumps(a_recording(" blank")),
        json.dumps(a_recording("x" * 401)),
    ]
    answer = await post_lines(ops, "\n".join(lines))
    assert answer == {
        "statusCode": 7,
        "created": 2,
        "updated": 0,
        "failed": [
            failed(4, None, 2, "Parameter 'body' is invalid: it is not JSON"),
            failed(5, None, 2, "Parameter 'body' is invalid: it must be a JSON object"),
            failed(6, "no-region", 1, "Parameter 'region' is missing"),
            failed(
                8,
                None,
                2,
                "Parameter 'id' is invalid: it must be a non-empty string without leading or trailing white space",
            ),
            failed(
                9,
                "elsewhere",
                2,
                "Parameter 'mediaFiles[0].mediaDescriptor.path' is invalid: "
                "it is not below a base URL of the configured storage",
            ),
            failed(11, None, 2, "Parameter 'body' is invalid: it is not JSON"),
            failed(12, None, 2, "Parameter 'body' is invalid: it is nested more than 100 levels deep"),
            failed(13, None, 1, "Parameter 'id' is missing"),
            failed(
                14,
                " blank",
                2,
                "Parameter 'id' is invalid: it must be a non-empty string without leading or trailing white space",
            ),
            failed(15, None, 2, "Parameter 'id' is invalid: it must have at most 400 UTF-8 bytes"),
        ],
    }
    assert await read(ops, "good") is not None
    assert (await read(ops, "also-good") or {})["note"] == "ü"


async def test_all_lines_may_fail(ops: httpx.AsyncClient) -> None:
    answer = await post_lines(ops, "1\n2")
    assert (answer["statusCode"], answer["created"], answer["updated"]) == (7, 0, 0)
    assert [(one["line"], one["id"]) for one in answer["failed"]] == [(1, None), (2, None)]


@pytest.mark.parametrize("content", ["", "\n", " \r\n\t\n" * 5_000])
async def test_a_body_without_a_line_is_refused(ops: httpx.AsyncClient, content: str) -> None:
    response = await ops.post(OPS_PATH, content=content, headers=NDJSON)
    assert_error(response, 400, 2, "Parameter 'body' is invalid: it must have at least one line")


async def test_a_thousand_lines_are_allowed_and_one_more_is_not(ops: httpx.AsyncClient) -> None:
    lines = "{}\n\n" * 1_000
    assert len((await post_lines(ops, lines))["failed"]) == 1_000
    response = await ops.post(OPS_PATH, content=f"{lines}{json.dumps(a_recording('last'))}", headers=NDJSON)
    assert_error(response, 400, 2, "Parameter 'body' is invalid: it has more than 1000 lines")
    assert await read(ops, "last") is None


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_of_more_than_32_mebibytes_is_refused(ops: httpx.AsyncClient, declared: bool) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(33):
            yield b"\n" * MIB

    content = b"\n" * (32 * MIB + 1) if declared else chunks()
    assert_error(await ops.post(OPS_PATH, content=content, headers=NDJSON), 413, 2, "33554432 bytes")


async def test_a_line_may_be_as_large_as_a_recording_that_is_posted_alone(start_service: StartService) -> None:
    ops = (await start_service(max_body_bytes=5_000, **PATIENT)).client("ops")
    lines = [json.dumps(a_recording(f"r{size}", note="x" * size)) for size in (10, 5_000, 4_000)]
    answer = await post_lines(ops, "\n".join(lines))
    assert answer["failed"] == [failed(2, None, 2, "The line is larger than 5000 bytes.")]
    assert answer["created"] == 2


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"Content-Type": "application/x-ndjson; charset=latin-1"}, "application/x-ndjson in UTF-8"),
        ({"Content-Type": "application/x-ndjson", "Content-Encoding": "gzip"}, "Content-Encoding"),
        ({"Content-Type": "text/plain"}, "application/json in UTF-8"),
    ],
)
async def test_other_media_types_are_refused(ops: httpx.AsyncClient, headers: dict[str, str], message: str) -> None:
    assert_error(await ops.post(OPS_PATH, content="{}", headers=headers), 415, 2, message)


async def test_the_byte_order_mark_of_windows_and_charsets_are_accepted(ops: httpx.AsyncClient) -> None:
    content = lines_of([a_recording("marked")]).encode("utf-8-sig")
    response = await ops.post(
        OPS_PATH, content=content, headers={"Content-Type": 'Application/X-NDJSON;charset="UTF-8"'}
    )
    assert response.json() == {"statusCode": 0, "created": 1, "updated": 0}


async def test_the_internal_paths_take_lines_with_an_empty_history(ops: httpx.AsyncClient) -> None:
    lines = lines_of([a_recording("a", eventHistory=[]), a_recording("b")])
    assert (await post_lines(ops, lines, INTERNAL_PATH)) == {"statusCode": 0, "created": 2, "updated": 0}
    assert [one["id"] for one in (await post_lines(ops, lines))["failed"]] == ["a"]


async def test_screen_recordings_can_be_posted_by_the_line(ops: httpx.AsyncClient) -> None:
    path = OPS_PATH.replace("/recordings", "/screen-recordings")
    media = {name: value for name, value in a_media_file().items() if name != "callUUID"}
    assert (await post_lines(ops, lines_of([a_recording("s", mediaFiles=[media])]), path))["created"] == 1
    assert (await ops.get(f"{path}/s")).status_code == 200


@pytest.fixture(scope="module")
def more_users() -> tuple[User, ...]:
    return (
        User(
            name="recorder",
            password_hash=hash_password("recorder-password"),
            roles=("recorder",),
            contact_center=CONTACT_CENTER,
        ),
    )


async def test_who_may_post_one_may_post_many(start_service: StartService, more_users: tuple[User, ...]) -> None:
    service = await start_service(users=USERS + more_users, **PATIENT)
    lines = lines_of([a_recording()])
    assert (await post_lines(service.client("recorder"), lines))["created"] == 1
    for user, path in (("recorder", OTHER_PATH), ("admin", OPS_PATH)):
        assert_error(await service.client(user).post(path, content=lines, headers=NDJSON), 403, 5)


async def test_refresh_wait_for_answers_when_all_are_searchable(
    ops: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    lines = lines_of(a_recording(f"r{i}") for i in range(150))
    response = await ops.post(OPS_PATH, content=lines, headers=NDJSON, params={"refresh": "wait_for"})
    assert response.json()["created"] == 150
    found = (await admin.get("/api/v2/recordings", params={"startTime": "0", "limit": "100"})).json()
    assert len(found["recordings"]) == 100
    response = await ops.post(OPS_PATH, content=lines, headers=NDJSON, params={"refresh": "yes"})
    assert_error(response, 400, 2, "Parameter 'refresh' is invalid")


# --- What is stored ---


async def test_lines_with_the_same_id_take_effect_in_their_order(ops: httpx.AsyncClient) -> None:
    lines = [a_recording(f"r{i % 3}", note=i, **{f"x{i}": i}) for i in range(240)]
    assert await post_lines(ops, lines_of(lines)) == {"statusCode": 0, "created": 3, "updated": 237}
    for number in range(3):
        stored = await read(ops, f"r{number}")
        assert stored is not None
        assert stored["note"] == Number(str(237 + number))
        assert [key for key in stored if key.startswith("x")] == [f"x{i}" for i in range(number, 240, 3)]


@pytest.mark.parametrize("seed", range(POSTED_BATCHES))
async def test_many_lines_are_what_they_are_one_by_one(seed: int, service: Service) -> None:
    """The oracle is the POST of one recording, in another contact center."""
    rng = Random(seed)
    ops, other = service.client("ops"), service.client("ops")
    ids = [f"r{number}" for number in range(6)]
    admins = {OPS_PATH: service.client("admin"), OTHER_PATH: service.client("other-admin")}
    for _ in range(2):
        lines = [some_line(rng, rng.choice(ids)) for _ in range(rng.randint(1, 30))]
        lines.append("nonsense")  # as an empty body would be refused
        answer = await post_lines(ops, "".join(f"{line}\n" for line in lines))
        expected: dict[str, Any] = {"statusCode": 0, "created": 0, "updated": 0}
        failures = []
        for number, line in enumerate(lines, 1):
            if not line:
                continue
            single = await other.post(OTHER_PATH, content=line, headers={"Content-Type": "application/json"})
            if single.status_code in {200, 201}:
                expected["created" if single.status_code == 201 else "updated"] += 1
            else:
                failures.append((number, single.json()["statusCode"], single.json()["statusMessage"]))
        told = [(one["line"], one["statusCode"], one["statusMessage"]) for one in answer.pop("failed", [])]
        assert told == failures
        assert answer == {**expected, "statusCode": 7 if failures else 0}
        for recording_id in ids:
            assert await contents(ops, OPS_PATH, recording_id) == await contents(ops, OTHER_PATH, recording_id)
        # From now on the former versions of some are kept.
        for recording_id in rng.sample(ids, 2):
            for path, admin in admins.items():
                protected = await admin.post(
                    f"/api/v2/recordings/{recording_id}", json={"operationName": "applyNonDelete"}
                )
                assert protected.status_code == (200 if await read(ops, recording_id, path) else 404)


def some_line(rng: Random, recording_id: str) -> str:
    if rng.random() < 0.1:
        return rng.choice(["", "nonsense", "{}", '{"id":1}', json.dumps(a_recording(recording_id, region=None))])
    return oracle.dumps(some_post(rng, recording_id))


async def contents(ops: httpx.AsyncClient, path: str, recording_id: str) -> Any:
    stored = await read(ops, recording_id, path)
    if stored is None:
        return None
    versions = await ops.get(f"{path}/{recording_id}/versions")
    kept = [oracle.without_links(version["recording"]) for version in oracle.loads(versions.content)["versions"]]
    return oracle.comparable([oracle.without_links(stored), kept])


async def test_lines_and_single_posts_of_the_same_ids_are_all_kept(ops: httpx.AsyncClient) -> None:
    async def post_one(number: int) -> None:
        response = await ops.post(OPS_PATH, json=a_recording(f"r{number % 4}", **{f"single{number}": 1}))
        assert response.status_code in {200, 201}, response.text

    many = [lines_of(a_recording(f"r{i % 4}", **{f"batch{batch}-{i}": 1}) for i in range(40)) for batch in range(3)]
    answers, *_ = await asyncio.gather(
        asyncio.gather(*(post_lines(ops, lines) for lines in many)), *(post_one(number) for number in range(20))
    )
    assert all(answer["statusCode"] == 0 for answer in answers)
    for number in range(4):
        stored = await read(ops, f"r{number}") or {}
        expected = {f"single{i}" for i in range(number, 20, 4)}
        expected |= {f"batch{batch}-{i}" for batch in range(3) for i in range(number, 40, 4)}
        assert {key for key in stored if key.startswith(("single", "batch"))} == expected


async def test_what_was_acknowledged_outlives_kill_9(service: Service, tmp_path: Path) -> None:
    app = AppProcess(msgspec.structs.replace(service.settings, **PATIENT), tmp_path)
    await app.start()

    async def post_batch(client: httpx.AsyncClient, batch: str) -> None:
        answer = await post_lines(client, lines_of(a_recording(f"{batch}-{i}") for i in range(120)))
        assert answer["created"] + answer["updated"] == 120, answer

    batches = [f"b{number}" for number in range(20)]
    done, kills = await kill_now_and_then(app, "ops", batches, post_batch, Random(1))
    assert kills > 0
    ops = service.client("ops")
    for batch in done:
        for i in (0, 59, 119):
            assert await read(ops, f"{batch}-{i}") is not None


# --- Beside others ---


async def test_one_contact_center_cannot_take_all_places(service: Service) -> None:
    """Two bodies that do not end hold the places of a contact center; others post as if they were not there."""
    ops = service.client("ops")
    batches = service._app.state.services.batches
    batches._wait = 0.2
    end = asyncio.Event()

    async def slow_body() -> AsyncIterator[bytes]:
        yield lines_of([a_recording("slow")]).encode()
        await end.wait()

    slow = [asyncio.create_task(ops.post(OPS_PATH, content=slow_body(), headers=NDJSON)) for _ in range(2)]
    await eventually(lambda: batches._used == 2)
    lines = lines_of([a_recording("quick")])
    refused = await ops.post(OPS_PATH, content=lines, headers=NDJSON)
    assert_error(refused, 429, 4, "The posts of many recordings that the contact center may have in flight are in use")
    assert int(refused.headers["retry-after"]) > 0
    assert (await post_lines(ops, lines, OTHER_PATH))["created"] == 1
    assert (await ops.post(OPS_PATH, json=a_recording("single"))).status_code == 201
    end.set()
    assert [response.json()["statusCode"] for response in await asyncio.gather(*slow)] == [0, 0]
    await eventually(lambda: batches._used == 0)


# --- What is left of it ---


async def test_each_line_leaves_the_audit_line_of_a_single_post(start_service: StartService, tmp_path: Path) -> None:
    service = await start_service(audit_log=str(tmp_path / "audit.log"), **PATIENT)
    ops = service.client("ops")
    await post_lines(ops, lines_of([a_recording("a"), a_recording("b"), a_recording("a", note="x"), {"id": "c"}, 1]))
    for one in (a_recording("a"), a_recording("b"), a_recording("a", note="x"), {"id": "c"}, 1):
        await ops.post(OTHER_PATH, json=one)
    assert (await ops.post(OPS_PATH, content="", headers=NDJSON)).status_code == 400
    lines = [json.loads(line) for line in (tmp_path / "audit.log").read_text().splitlines()]
    for line in lines:
        del line["time"], line["seconds"], line["id"]
    many, one_by_one, (refused,) = lines[:5], lines[5:10], lines[10:]
    assert {line.pop("contactCenter") for line in many} == {CONTACT_CENTER}
    assert {line.pop("contactCenter") for line in one_by_one} == {OTHER_CONTACT_CENTER}
    # A refused POST of one is not read so far that its id would be known.
    assert many.pop(3)["recordingId"] == "c"
    one_by_one.pop(3)
    assert many == one_by_one
    assert [line["operation"] for line in many] == ["create", "create", "update", "ops-post"]
    assert (refused["operation"], refused["outcome"], refused["recordingId"]) == ("ops-post", "refused", "")


@pytest.mark.parametrize("media_type", ["application/x-ndjson", "application/json"])
async def test_a_body_that_trickles_is_ended(
    module_service: Service, monkeypatch: pytest.MonkeyPatch, media_type: str
) -> None:
    monkeypatch.setattr("app.api.requests._BODY_SECONDS", 0.5)
    reader, writer = await asyncio.open_connection("127.0.0.1", int(module_service.url.rpartition(":")[2]))
    head = f"POST {OPS_PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: {basic('ops', 'ops-password')}\r\n"
    writer.write(f"{head}Content-Type: {media_type}\r\nContent-Length: 32000\r\n\r\n".encode())
    answer = asyncio.create_task(reader.readuntil(b"\r\n"))
    async with asyncio.timeout(10):
        while not answer.done():
            writer.write(b" ")
            await asyncio.wait((answer,), timeout=0.05)
    assert (await answer).startswith(b"HTTP/1.1 408")
    writer.close()
