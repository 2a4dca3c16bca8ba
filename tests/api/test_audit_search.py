"""The audit log as the API shows it (docs/contract.md section 11)."""

import asyncio
import json
import logging
import random
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args
from urllib.parse import parse_qs, urlsplit

import httpx
import msgspec
import pytest
from elasticsearch import AsyncElasticsearch
from prometheus_client import CollectorRegistry

from app import audit
from app.api.audit_search import OPERATIONS
from app.audit import AuditLog, Entry
from app.embedded.elasticsearch import Node
from app.lifecycle import audit_indexing
from app.lifecycle.audit_indexing import AuditIndexing
from app.main import ENDPOINTS
from app.search.paging import Cursor
from app.settings import Settings, User
from app.store.audit_index import AuditIndex
from app.store.client import connect
from app.store.indices import create_indices
from tests.support.processes import AppProcess
from tests.support.recordings import CONTACT_CENTER, OPS_PATH, OTHER_CONTACT_CENTER, a_recording
from tests.support.service import (
    PATIENT,
    USERS,
    Service,
    StartService,
    assert_error,
    hash_password,
    own_settings,
)
from tests.support.sizes import AUDIT_SEARCHES
from tests.support.waiting import eventually
from tests.support.workers import SPARE_NODE

PATH = "/api/v2/audit"
OPS_AUDIT = f"/api/v2/ops/contact-centers/{CONTACT_CENTER}/audit"


def an_entry(**attributes: Any) -> Entry:
    given = {
        "user": "admin",
        "contact_center": CONTACT_CENTER,
        "address": "127.0.0.1",
        "operation": "play",
        "resource": "recordings",
        "recording_id": "recording",
        "outcome": "success",
    }
    return Entry(**{**given, **attributes})


def lines_of(file: Path, contact_center: str | None = CONTACT_CENTER) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in file.read_bytes().splitlines()]
    return [line for line in lines if line["contactCenter"] == contact_center]


def by_id(lines: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {line["id"]: line for line in lines}


async def walk(client: httpx.AsyncClient, uri: str, link: str = "nextUri", **params: Any) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    response = await client.get(uri, params=params)
    while True:
        assert response.status_code == 200, response.text
        entries += response.json()["entries"]
        if link not in response.json():
            return entries
        response = await client.get(response.json()[link])


async def until_shown(client: httpx.AsyncClient, path: str, wanted: list[dict[str, Any]]) -> None:
    """Returns when the API shows these lines, and no other ones, within the 10 s of the contract and some more."""
    shown: list[dict[str, Any]] = []

    async def are_shown() -> bool:
        shown[:] = await walk(client, path)
        return by_id(shown) == by_id(wanted)

    try:
        await eventually(are_shown, seconds=15)
    except TimeoutError:
        assert by_id(shown) == by_id(wanted)
    assert len(shown) == len(wanted)


def test_each_operation_that_a_line_may_have_can_be_searched_and_no_other() -> None:
    of_methods = {
        method.audit or method.operations[0]
        for endpoint in ENDPOINTS
        if endpoint.authentication != "none"
        for method in endpoint.methods.values()
    }
    assert len(OPERATIONS) == len(set(OPERATIONS))
    assert set(OPERATIONS) == of_methods | set(get_args(audit.Operation))


# --- what is shown to whom ---


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


async def test_every_line_of_a_contact_center_is_an_entry_for_its_admin_and_for_ops(
    start_service: StartService, file: Path
) -> None:
    service = await start_service(audit_log=str(file))
    admin, other, ops, stranger = map(service.client, ("admin", "other-admin", "ops", None))
    for number in range(3):
        assert (await ops.post(OPS_PATH, json=a_recording(f"r{number}"))).status_code == 201
    path = "/api/v2/recordings/r1"
    assert (await admin.post(path, json={"operationName": "applyNonDelete", "reason": 'a "reason"\n\u2028'})).is_success
    assert (await ops.delete(f"{OPS_PATH}/r1")).status_code == 403
    assert (await other.post(path, json={"operationName": "applyNonDelete"})).status_code == 404
    assert (await other.get(f"{OPS_PATH}/r1")).status_code == 403
    assert (await stranger.get(f"{OPS_PATH}/r1")).status_code == 401
    assert (await stranger.get("/api/v2/recordings/r1")).status_code == 401  # of no contact center
    lines = lines_of(file)
    assert len(lines) == 7
    await until_shown(admin, PATH, lines)
    await until_shown(ops, OPS_AUDIT, lines)
    await until_shown(other, PATH, lines_of(file, OTHER_CONTACT_CENTER))
    assert len(lines_of(file, OTHER_CONTACT_CENTER)) == 1
    assert len(lines_of(file, None)) == 1
    assert [entry["recordingId"] for entry in await walk(admin, PATH, operation="create")] == ["r2", "r1", "r0"]


LIMITED = (
    ("groups", {"access_groups": ("/",)}),
    ("partitions", {"partitions": ("/",)}),
    ("own", {"own_recordings": True}),
)


@pytest.mark.parametrize("user", ["supervisor", "agent", "ops", *(name for name, _ in LIMITED)])
async def test_others_than_an_admin_without_limits_are_refused(start_service: StartService, user: str) -> None:
    limited = tuple(
        User(name, hash_password(f"{name}-password"), ("admin",), CONTACT_CENTER, **limits) for name, limits in LIMITED
    )
    service = await start_service(users=USERS + limited)
    assert_error(await service.client(user).get(PATH), 403, 5, "Insufficient user roles.")


async def test_the_path_of_ops_is_for_ops_alone(start_service: StartService) -> None:
    service = await start_service()
    for user in ("admin", "supervisor"):
        assert_error(await service.client(user).get(OPS_AUDIT), 403, 5)
    assert_error(await service.client().get(PATH), 401, 20)
    entries = (await service.client("ops").get("/api/v2/ops/contact-centers/nobody/audit")).json()
    assert entries == {"statusCode": 0, "entries": []}


async def test_the_page_gets_it_with_a_session(start_service: StartService, file: Path) -> None:
    service = await start_service(audit_log=str(file))
    browser = service.client(follow_redirects=False)
    signed_in = await browser.post(
        "/ui/sign-in",
        data={"name": "admin", "password": "admin-password"},
        headers={"Sec-Fetch-Site": "same-origin"},
    )
    assert signed_in.status_code == 303, signed_in.text
    await until_shown(browser, "/ui/api/audit", lines_of(file))
    first = (await browser.get("/ui/api/audit", params={"limit": 1, "offset": 1})).json()
    assert urlsplit(first["prevUri"]).path == "/ui/api/audit"


async def test_without_an_index_the_answer_says_so(start_service: StartService) -> None:
    service = await start_service(audit_days=0)
    assert_error(await service.client("admin").get(PATH), 404, 6, "cannot be searched")


# --- criteria and pages ---

START = datetime(2024, 2, 3, tzinfo=UTC)
USERS_OF_LINES = ("amy", "Amy", "amy@example.com", None, "bob smith", "é\u0301*?")
RECORDINGS = ("", "r", "R", "r/1 ?#*", "é", "x" * 400)


def a_random_line(rng: random.Random) -> Entry:
    moment = START + timedelta(milliseconds=rng.choice((0, 1, 2, 999, 1000, rng.randrange(90_000_000))))
    return an_entry(
        time=moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        contact_center=rng.choice((CONTACT_CENTER, CONTACT_CENTER, OTHER_CONTACT_CENTER, None)),
        user=rng.choice(USERS_OF_LINES),
        operation=rng.choice(("play", "delete", "sign-in", "search", "create", "purge")),
        outcome=rng.choice(("success", "refused", "failed")),
        recording_id=rng.choice(RECORDINGS),
    )


def random_criteria(rng: random.Random) -> dict[str, str]:
    times = [START + timedelta(milliseconds=rng.choice((0, 1, 2, 1000, rng.randrange(90_000_000)))) for _ in "ab"]
    values = {
        "recordingId": rng.choice(RECORDINGS[1:]),
        "user": rng.choice([user for user in USERS_OF_LINES if user]),
        "operation": rng.choice(("play", "delete", "sign-in", "search", "unapply")),
        "outcome": rng.choice(("success", "refused", "failed")),
        "startTime": times[0].isoformat(),
        "endTime": str(round(times[1].timestamp() * 1000)),
    }
    return {name: values[name] for name in rng.sample(sorted(values), rng.choice((0, 0, 1, 1, 2, 3)))}


def found(lines: list[dict[str, Any]], criteria: dict[str, str]) -> list[str]:
    """The ids of the lines that the criteria find, in their order: what the API is compared with."""

    def moment(line: dict[str, Any]) -> float:
        return datetime.fromisoformat(line["time"]).timestamp()

    checks: dict[str, Callable[[dict[str, Any], str], bool]] = {
        "startTime": lambda line, text: moment(line) > datetime.fromisoformat(text).timestamp(),
        "endTime": lambda line, text: round(moment(line) * 1000) < int(text),
    }

    def matches(line: dict[str, Any]) -> bool:
        return all(checks.get(name, lambda li, t, n=name: li[n] == t)(line, text) for name, text in criteria.items())

    return [line["id"] for line in sorted(filter(matches, lines), key=lambda li: (-moment(li), li["id"]))]


@pytest.fixture(scope="module")
async def searched(elasticsearch_url: str) -> AsyncIterator[Service]:
    """A service that stores nothing, and keeps lines of any age."""
    async with own_settings(elasticsearch_url) as settings:
        service = Service(msgspec.structs.replace(settings, audit_days=36_500, **PATIENT))
        await service.start()
        yield service
        await service.stop()


@pytest.fixture(scope="module")
async def many(searched: Service, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """400 random lines of a contact center and as many of others, in the index."""
    rng = random.Random(5)
    settings, file = searched.settings, tmp_path_factory.mktemp("audit") / "audit.jsonl"
    log, registry = AuditLog(str(file)), CollectorRegistry()
    async with connect(settings) as client:
        async with AuditIndexing(AuditIndex(client, settings), days=36_500, registry=registry).following(log):
            for _ in range(800):
                log.write(a_random_line(rng))
        await client.indices.refresh(index=f"{settings.index_prefix}-audit")
    return lines_of(file)


async def test_criteria_and_pages_find_what_a_plain_look_at_the_lines_finds(
    searched: Service, many: list[dict[str, Any]]
) -> None:
    rng = random.Random(6)
    clients = [(searched.client("admin"), PATH), (searched.client("ops"), OPS_AUDIT)]
    kinds = set()
    for _ in range(AUDIT_SEARCHES):
        client, path = rng.choice(clients)
        criteria = random_criteria(rng)
        wanted = found(many, criteria)
        kinds.add(bool(wanted))
        limit = rng.choice((1, 7, 50, 100)) if len(wanted) < 60 else rng.choice((50, 77, 100))
        order = rng.choice(("newest", "oldest"))
        expected = wanted if order == "newest" else wanted[::-1]
        entries = await walk(client, path, **criteria, limit=limit, order=order)
        assert [entry["id"] for entry in entries] == expected, criteria
        assert by_id(entries) == {key: value for key, value in by_id(many).items() if key in set(wanted)}
        total = (await client.get(path, params={**criteria, "total": "*"})).json()
        assert (total["total"], total["totalIsExact"]) == (len(wanted), True)
        offset = rng.randrange(len(wanted) + 3)
        page = (await client.get(path, params={**criteria, "limit": 5, "offset": offset})).json()
        assert [entry["id"] for entry in page["entries"]] == wanted[offset : offset + 5]
        assert ("prevUri" in page, "nextUri" in page) == (offset > 0, offset + 5 < len(wanted))
        if offset >= 5:
            before = (await client.get(page["prevUri"])).json()
            assert [entry["id"] for entry in before["entries"]] == wanted[offset - 5 : offset]
    assert kinds == {False, True}


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("foo=1", "Parameter 'foo' is invalid: it is not known; known are recordingId"),
        ("userName=amy", "'userName' is invalid: it is not known"),
        ("user=a&user=b", "'user' is invalid: it is given more than once"),
        ("recordingId=", "'recordingId' is invalid: it is empty"),
        ("operation=plays", "'operation' is invalid: it must be one of play, "),
        ("outcome=SUCCESS", "'outcome' is invalid: it must be one of success, refused, failed"),
        ("startTime=yesterday", "'startTime' is invalid"),
        ("endTime=2013", "'endTime' is invalid"),
        ("limit=0", "'limit' is invalid"),
        ("limit=101", "'limit' is invalid"),
        ("offset=-1", "'offset' is invalid"),
        ("offset=10001", "'offset' is invalid"),
        ("cursor=x", "'cursor' is invalid"),
        ("user=%ff", "'user' is invalid: it is not UTF-8"),
        ("user=" + "x" * 5_001, "'user' is invalid"),
    ],
)
async def test_a_bad_parameter_is_named(searched: Service, query: str, message: str) -> None:
    assert_error(await searched.client("admin").get(f"{PATH}?{query}"), 400, 2, message)


@pytest.mark.parametrize("start_time", [-62_135_596_800_000, -5, 0, 2013, 253_402_300_799_999])
@pytest.mark.parametrize("direction", ["after", "before"])
async def test_a_cursor_of_the_clients_own_only_names_a_place(
    searched: Service, many: list[dict[str, Any]], direction: Any, start_time: int
) -> None:
    cursor = Cursor(direction, start_time, "x\ud7ff").encode()
    page = await searched.client("admin").get(PATH, params={"cursor": cursor, "offset": 3})
    assert page.status_code == 200, page.text
    are_all_there = (direction == "before") == (start_time < 1_600_000_000_000)
    assert bool(page.json()["entries"]) == are_all_there


async def test_links_keep_the_parameters(searched: Service, many: list[dict[str, Any]]) -> None:
    page = (await searched.client("admin").get(f"{PATH}?outcome=success&limit=2&offset=2&total=*")).json()
    for link, offset in (("prevUri", "0"), ("nextUri", "4")):
        url = urlsplit(page[link])
        assert url.path == PATH
        kept = parse_qs(url.query)
        assert len(kept.pop("cursor")) == 1
        assert kept == {"outcome": ["success"], "limit": ["2"], "offset": [offset], "total": ["*"]}


# --- nothing is lost ---


class Indexing:
    """An audit log, and an index that follows it through a client of its own."""

    def __init__(self, settings: Settings, file: Path | None, days: int = 365) -> None:
        self.settings = settings
        self.log = AuditLog(None if file is None else str(file))
        self.registry = CollectorRegistry()
        self.client = connect(settings)
        self.index = AuditIndex(self.client, settings)
        self.indexing = AuditIndexing(self.index, days=days, registry=self.registry)

    def left_out(self, reason: str = "full") -> float:
        return self.registry.get_sample_value("recall_audit_lines_not_indexed_total", {"reason": reason}) or 0

    def waiting(self) -> float:
        return self.registry.get_sample_value("recall_audit_lines_waiting") or 0


@pytest.fixture
async def indexing(settings: Settings, file: Path) -> AsyncIterator[Indexing]:
    made = Indexing(settings, file)
    await create_indices(made.client, settings)
    yield made
    await made.client.close()
    made.log.close()


async def ids_in(elasticsearch: AsyncElasticsearch, settings: Settings) -> list[str]:
    index = f"{settings.index_prefix}-audit"
    await elasticsearch.indices.refresh(index=index)
    hits = (await elasticsearch.search(index=index, size=10_000, source=False))["hits"]["hits"]
    return sorted(hit["_id"] for hit in hits)


async def test_the_lines_that_wait_are_indexed_when_the_process_ends(
    indexing: Indexing, elasticsearch: AsyncElasticsearch, settings: Settings, file: Path
) -> None:
    async with indexing.indexing.following(indexing.log):
        for _ in range(1_200):
            indexing.log.write(an_entry())
        assert indexing.waiting() == 1_200
    assert await ids_in(elasticsearch, settings) == [line["id"] for line in lines_of(file)]


async def test_what_a_killed_process_leaves_in_the_file_is_indexed_by_the_next_one(
    start_service: StartService, file: Path
) -> None:
    log = AuditLog(str(file))
    for number in range(1_500):  # nothing follows: as if the process had been killed at once
        log.write(an_entry(recording_id=f"r{number}"))
    wanted = lines_of(file)
    with file.open("ab") as opened:
        opened.write(b'{"time": "2099-01-01T00:00:00.000Z", "contactCenter": "a", half of a li\n')
        opened.write(b"[]\n")
    log.write(an_entry(time="2001-01-01T00:00:00.000Z"))  # older than lines stay in the index
    log.write(an_entry(contact_center=None))
    service = await start_service(audit_log=str(file))
    await until_shown(service.client("admin"), PATH, wanted)


async def test_lines_without_an_id_get_one_that_is_always_the_same(start_service: StartService, file: Path) -> None:
    old_log = logging.getLogger("old audit log")
    handler = logging.FileHandler(file)
    old_log.addHandler(handler)
    for number in range(5):
        entry = an_entry(time="2026-01-01T00:00:00.000Z", seconds=number)
        old_log.error("%s", json.dumps(msgspec.to_builtins(entry)))
    handler.close()
    ids = []
    for _ in range(2):
        service = await start_service(audit_log=str(file), audit_days=36_500)
        admin = service.client("admin")

        async def are_shown(admin: httpx.AsyncClient = admin) -> bool:
            return len((await admin.get(PATH)).json()["entries"]) == 5

        await eventually(are_shown)
        entries = await walk(admin, PATH)
        assert sorted(entry["seconds"] for entry in entries) == [0, 1, 2, 3, 4]
        ids.append(sorted(entry["id"] for entry in entries))
    assert ids[0] == ids[1]


async def test_a_process_that_is_killed_again_and_again_loses_no_line(settings: Settings, file: Path) -> None:
    app = AppProcess(msgspec.structs.replace(settings, audit_log=str(file)), file.parent)
    for number in range(3):
        await app.start()
        async with app.client("ops") as ops:
            for each in range(20):
                assert (await ops.post(OPS_PATH, json=a_recording(f"r{number}-{each}"))).status_code == 201
        await app.kill()
    await app.start()
    lines = lines_of(file)
    assert len(lines) == 60
    async with app.client("admin") as admin:
        await until_shown(admin, PATH, lines)
    await app.stop()


async def test_lines_that_found_no_place_in_memory_are_counted_and_read_from_the_file(
    indexing: Indexing,
    elasticsearch: AsyncElasticsearch,
    settings: Settings,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(audit_indexing, "_MAX_WAITING_BYTES", 20_000)
    async with indexing.indexing.following(indexing.log):
        for _ in range(1_000):
            indexing.log.write(an_entry())
        assert indexing.left_out() + indexing.waiting() == 1_000
        assert 0 < indexing.waiting() < 100

        async def are_all_there() -> bool:
            return await ids_in(elasticsearch, settings) == [line["id"] for line in lines_of(file)]

        await eventually(are_all_there)


async def test_without_a_file_lines_that_found_no_place_are_counted(
    settings: Settings, elasticsearch: AsyncElasticsearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_indexing, "_MAX_WAITING_BYTES", 20_000)
    made = Indexing(settings, None)
    await create_indices(made.client, settings)
    async with made.indexing.following(made.log):
        for _ in range(1_000):
            made.log.write(an_entry())
        kept = made.waiting()
        assert made.left_out() == 1_000 - kept > 0
    assert len(await ids_in(elasticsearch, settings)) == kept
    await made.client.close()


async def test_a_line_that_elasticsearch_never_takes_is_counted_and_holds_no_other_up(
    indexing: Indexing, elasticsearch: AsyncElasticsearch, settings: Settings
) -> None:
    async with indexing.indexing.following(indexing.log):
        for time in ("2026-01-01T00:00:00.000Z", "no time", "2026-01-02T00:00:00.000Z"):
            indexing.log.write(an_entry(time=time))
    assert len(await ids_in(elasticsearch, settings)) == 2
    assert indexing.left_out("refused") == 1


async def test_lines_that_are_too_old_are_deleted(
    settings: Settings, elasticsearch: AsyncElasticsearch, file: Path
) -> None:
    made = Indexing(settings, file, days=30)
    await create_indices(made.client, settings)
    now = datetime.now(UTC)
    async with made.indexing.following(made.log):
        for days in (0, 29, 31, 400, *[100] * 2_500):
            moment = now - timedelta(days=days)
            made.log.write(an_entry(time=moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")))
    await elasticsearch.indices.refresh(index=f"{settings.index_prefix}-audit")
    await made.indexing.forget()
    assert await ids_in(elasticsearch, settings) == [line["id"] for line in lines_of(file)[:2]]
    await made.client.close()


@SPARE_NODE
async def test_an_outage_of_elasticsearch_loses_no_line(
    start_service: StartService, spare_node: Node, file: Path
) -> None:
    """With and without a file: what is answered meanwhile, refusals, is found afterwards."""
    service = await start_service(elasticsearch_url=spare_node.url, audit_log=str(file))
    admin, supervisor = service.client("admin"), service.client("supervisor")
    assert (await service.client("ops").post(OPS_PATH, json=a_recording())).status_code in {200, 201}
    spare_node.pause()
    begun = asyncio.get_running_loop().time()
    try:
        while asyncio.get_running_loop().time() - begun < 5:
            assert_error(await supervisor.get("/api/v2/recordings?startTime=0"), 403, 5)
            await asyncio.sleep(0.01)
    finally:
        spare_node.resume()
    lines = lines_of(file)
    assert len(lines) > 50
    await until_shown(admin, PATH, lines)
