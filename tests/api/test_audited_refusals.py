"""Generated from the route table: each refusal leaves the one audit line that its row promises, or none.

A row with an audit operation has a line for every refusal. Another row has one for a caller who is not authenticated,
may not do what it asks for, or asks for more than its share (docs/decisions/0011-users-and-audit.md).
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

import app.services
from app.api.endpoint import Endpoint, Method
from app.auth.passwords import Authenticator
from app.auth.policy import POLICY
from app.errors import TooManyAttempts
from app.main import ENDPOINTS
from app.shares import Owner
from tests.page.support import OURS, signed_in
from tests.support.recordings import CONTACT_CENTER, OPS_PATH, a_recording
from tests.support.service import PATIENT, USERS, Service, StartService

SCREENS_PATH = OPS_PATH.replace("/recordings", "/screen-recordings")
NDJSON = "application/x-ndjson"


class Row(NamedTuple):
    """One method of one path."""

    endpoint: Endpoint
    name: str
    method: Method
    path: str

    def url(self, recording_id: str = "missing", media: str = "missing.wav", label: str = "missing") -> str:
        named = {"contact_center": CONTACT_CENTER, "id": recording_id, "name": media, "label": label}
        return self.path.format(**named, operation="missing")


ROWS = [
    Row(endpoint, name, method, path)
    for endpoint in ENDPOINTS
    if endpoint.authentication != "none"
    for path in endpoint.paths
    for name, method in endpoint.methods.items()
]


def allowed(row: Row) -> str:
    """A user of `tests.support.service` who may do everything that the row is for."""
    return "ops" if "contact-centers" in row.path else "admin"


class Audited:
    """A service, its clients with Basic or with sessions, and its audit log."""

    def __init__(self, start_service: StartService, file: Path) -> None:
        self.file = file
        self._start_service = start_service
        self._clients: dict[tuple[str | None, str], httpx.AsyncClient] = {}

    async def start(self, **changes: Any) -> Service:
        self._clients.clear()
        self.service = await self._start_service(**{**PATIENT, "audit_log": str(self.file), **changes})
        return self.service

    async def client(self, row: Row, user: str | None) -> httpx.AsyncClient:
        key = user, row.endpoint.authentication
        if key not in self._clients:
            with_session = user is not None and row.endpoint.authentication == "session"
            client = await signed_in(self.service, user or "") if with_session else self.service.client(user)
            self._clients[key] = client
        return self._clients[key]

    async def ask(self, row: Row, user: str | None, url: str | None = None, **options: Any) -> httpx.Response:
        client = await self.client(row, user)
        self.file.write_bytes(b"")
        headers = {**OURS, **options.pop("headers", {})}
        return await client.request(row.name, url or row.url(), headers=headers, **options)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.file.read_bytes().splitlines()]

    def assert_line(
        self, row: Row, user: str | None, status: int, code: int, *, operation: str | None = None, **also: Any
    ) -> None:
        """Exactly one line tells who, what and the outcome. `user` is None also for one who is not authenticated."""
        of_user = {one.name: one.contact_center for one in USERS}
        named = CONTACT_CENTER if "{contact_center}" in row.path else None
        expected = {
            "user": user,
            "contactCenter": named or (of_user[user] if user is not None and status != 401 and code != 20 else None),
            "address": "127.0.0.1",
            "operation": operation or row.method.audit or row.method.operations[0],
            "resource": row.endpoint.resource,
            "recordingId": "missing" if "{id}" in row.path else "",
            "outcome": "refused",
            "httpStatus": status,
            "statusCode": code,
            **also,
        }
        lines = self.lines()
        assert [{name: line.get(name) for name in expected} for line in lines] == [expected], (row.name, row.path)


@pytest.fixture
def audited(start_service: StartService, tmp_path: Path) -> Audited:
    return Audited(start_service, tmp_path / "audit.jsonl")


async def test_a_caller_who_is_not_authenticated(audited: Audited, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.audit._OF_AN_ADDRESS", (10_000, 0.0))
    monkeypatch.setattr("app.audit._OF_ALL_ADDRESSES", (10_000, 0.0))
    await audited.start()
    for row in ROWS:
        await audited.ask(row, None)
        audited.assert_line(row, None, 401, 20)
        if row.endpoint.authentication == "basic":
            await audited.ask(row, None, auth=("admin", "hunter2"))
            audited.assert_line(row, "admin", 401, 20)
        else:
            await audited.ask(row, None, headers={"Cookie": "recall-session=hunter2"})
            audited.assert_line(row, None, 401, 20)
        assert b"hunter2" not in audited.file.read_bytes()


async def test_a_login_that_is_not_verified(audited: Audited, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only Basic logs in with each request."""
    monkeypatch.setattr("app.audit._OF_AN_ADDRESS", (10_000, 0.0))
    await audited.start()

    async def authenticate(*_: object) -> None:
        raise TooManyAttempts(1)

    monkeypatch.setattr(Authenticator, "authenticate", authenticate)
    for row in ROWS:
        if row.endpoint.authentication == "basic":
            assert (await audited.ask(row, allowed(row))).status_code == 429
            audited.assert_line(row, allowed(row), 429, 20)


async def test_a_caller_without_the_role_is_one_line(audited: Audited) -> None:
    await audited.start()
    refused = 0
    for row in ROWS:
        requirements = [POLICY[operation].roles for operation in row.method.operations]
        for user in USERS:
            if user.contact_center is None and row.endpoint.authentication == "session":
                continue  # ops users have nothing at the page
            if all(roles is not None and not roles & set(user.roles) for roles in requirements):
                refused += 1
                await audited.ask(row, user.name)
                audited.assert_line(row, user.name, 403, 5)
    assert refused > 100


async def test_a_caller_without_the_permission_is_one_line(audited: Audited) -> None:
    await audited.start()
    seen = set()
    for row in ROWS:
        names: dict[str | None, str | None] = {name: choice.audit for name, choice in row.method.choices.items()}
        if any(POLICY[operation].permissions for operation in row.method.operations):
            for name, operation in (names or {None: None}).items():
                body = {} if name is None else {"operationName": name}
                response = await audited.ask(row, "supervisor", json=body)
                assert response.status_code == 403
                audited.assert_line(row, "supervisor", 403, 3, operation=operation)
                seen.add(operation or row.method.audit)
    assert {"apply", "unapply", "add-label", "delete-label", "create-label-definition"} <= seen


async def test_a_request_for_what_does_not_exist_is_one_line(audited: Audited) -> None:
    await audited.start()
    seen = set()
    for row in ROWS:
        response = await audited.ask(row, allowed(row), **body_that_is_right(row))
        if response.status_code == 404 and row.method.audit is not None:
            operation = "apply" if row.method.choices else None
            audited.assert_line(row, allowed(row), 404, 6, operation=operation)
            seen.add(row.method.audit)
        elif row.method.audit is None:
            assert audited.lines() == [], (row.name, row.path)
    assert seen == {
        *("play", "export", "delete", "protection", "add-label", "update-label", "delete-label"),
        *("update-label-definition", "delete-label-definition", "cancel-operation"),
    }


def body_that_is_right(row: Row) -> dict[str, Any]:
    if row.name not in {"POST", "PUT"}:
        return {}
    if row.method.choices:
        return {"json": {"operationName": "applyNonDelete"}}
    if row.name == "PUT":
        return {"json": {"comment": "no"} if row.method.audit == "update-label" else {"displayName": "Other"}}
    if row.method.audit == "ops-post":
        return {"json": a_recording("posted")}
    return {"json": {"name": "other", "displayName": "Other"} if "definition" in row.path else {"name": "other"}}


async def test_a_body_that_is_too_large_is_one_line(audited: Audited) -> None:
    await audited.start(max_body_bytes=1_000)
    seen = set()
    for row in ROWS:
        # A form without fields: its body is not read.
        if row.name in {"POST", "PUT"} and row.endpoint.name != "page-operation-stop":
            response = await audited.ask(row, allowed(row), json={"x": "x" * 1_000})
            assert response.status_code == 413
            audited.assert_line(row, allowed(row), 413, 2)
            seen.add(row.method.audit)
    assert len(seen) >= 5


async def test_a_change_that_the_state_forbids_is_one_line(audited: Audited) -> None:
    """A definition that exists or is in use, and recordings that are protected."""
    service = await audited.start()
    admin, ops = service.client("admin"), service.client("ops")
    for recording_path in (OPS_PATH, SCREENS_PATH):
        await ops.post(recording_path, json=a_recording("missing"))
    read = (await ops.get(f"{SCREENS_PATH}/missing")).json()["screenRecording"]
    media = read["mediaFiles"][0]["playPath"].rpartition("/")[2]
    definition = {"name": "used", "displayName": "Used"}
    assert (await admin.post("/api/v2/recording-label-definitions", json=definition)).status_code == 201
    assert (await admin.post("/api/v2/recordings/missing/labels", json={"name": "used"})).status_code == 201
    protected = await admin.post("/api/v2/recordings/missing", json={"operationName": "applyNonDelete"})
    assert protected.status_code == 200
    seen = set()
    for row in ROWS:
        expected = {
            "create-label-definition": (409, 18),
            "delete-label-definition": (409, 19),
            "delete": (403, 3),
        }.get(row.method.audit or "")
        if expected:
            body = {"json": definition} if row.name == "POST" else {}
            response = await audited.ask(row, allowed(row), row.url(label="used", media=media), **body)
            assert response.status_code == expected[0], (row.name, row.path, response.text)
            audited.assert_line(row, allowed(row), *expected)
            seen.add((row.method.audit, row.endpoint.resource))
    assert {("delete", "recordings"), ("delete", "screen-recordings")} <= seen
    assert len(seen) == 4


async def test_a_request_beyond_a_share_is_one_line(audited: Audited, monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches, plays, posts of many and operations by ids, while the contact center's places are taken."""
    monkeypatch.setattr(app.services, "_BATCH_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(app.services, "_SEARCH_PATIENCE_SECONDS", 0.01)
    service = await audited.start(search_wait_seconds=0.01, storage_wait_seconds=0.01)
    services = service.services
    for shares in (services.searches, services.streams, services.batches, services.operations_by_ids):
        await shares.take(Owner(CONTACT_CENTER), amount=1_000_000)  # as many as there are
    ops = service.client("ops")
    media = {}
    for recording_path, one in ((OPS_PATH, "recording"), (SCREENS_PATH, "screenRecording")):
        await ops.post(recording_path, json=a_recording("missing"))
        read = (await ops.get(f"{recording_path}/missing")).json()[one]
        media[recording_path.rpartition("/")[2]] = read["mediaFiles"][0]["playPath"].rpartition("/")[2]
    seen: set[str | None] = set()
    for row, url, options in with_shares(media):
        response = await audited.ask(row, allowed(row), url, **options)
        assert response.status_code == 429, (row.name, row.path, response.text)
        assert response.headers["retry-after"]
        audited.assert_line(row, allowed(row), 429, 4)
        seen |= {row.method.audit} if row.method.choices else set(row.method.operations)
    assert seen == {"search", "play", "ops-search", "ops-play", "ops-post", "start-operation"}


def with_shares(media: dict[str, str]) -> Iterator[tuple[Row, str, dict[str, Any]]]:
    for row in ROWS:
        if row.method.audit == "play" and row.endpoint.resource is not None:
            yield row, row.url(media=media[row.endpoint.resource]), {}
        elif row.method.audit == "ops-post":
            yield row, row.url(), {"content": b"{}", "headers": {"Content-Type": NDJSON}}
        elif row.name == "POST" and row.path.endswith("/recording-operations"):
            yield row, row.url(), {"json": {"operationName": "applyNonDelete", "recordings": ["missing"]}}
        elif {"search", "ops-search"} & set(row.method.operations) and not row.endpoint.error_answer:
            yield row, f"{row.url()}?startTime=0", {}
