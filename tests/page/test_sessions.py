"""Sessions of the page: they begin with a sign-in, hold in every process, and end at once in every process."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import msgspec
import pytest
from click.testing import CliRunner
from elasticsearch import AsyncElasticsearch

import app.api.authentication
import app.api.requests
from app.auth.sessions import key_of
from app.cli import sessions as sessions_command
from app.lifecycle import sessions as lifecycle
from app.settings import Settings, StorageConfig, WebDavConfig
from tests.page.support import OURS, is_signed_in, post_sign_in, signed_in, token_of
from tests.support.audit import lines_but_posts
from tests.support.faults import CountingStorage
from tests.support.processes import Scripts
from tests.support.recordings import CONTACT_CENTER, OPS_PATH, a_media_file, a_recording
from tests.support.service import PATIENT, USERS, Service, StartService, assert_error, hash_password
from tests.support.waiting import eventually

pytestmark = pytest.mark.emptied_indices


async def stored(elasticsearch: AsyncElasticsearch, settings: Settings) -> dict[str, Any]:
    """Every session's document, by its id."""
    index = f"{settings.index_prefix}-sessions"
    await elasticsearch.indices.refresh(index=index)
    hits = (await elasticsearch.search(index=index, size=1_000))["hits"]["hits"]
    return {hit["_id"]: hit["_source"] for hit in hits}


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the clock of sessions on, by seconds."""
    passed = 0.0

    def now() -> int:
        return int((time.time() + passed) * 1000)

    def move(seconds: float) -> None:
        nonlocal passed
        passed += seconds

    monkeypatch.setattr(lifecycle, "_now", now)
    return move


# --- begin ---


async def test_a_session_has_a_random_token_of_which_only_the_hash_is_stored(
    service: Service, elasticsearch: AsyncElasticsearch, settings: Settings
) -> None:
    clients = [await signed_in(service), await signed_in(service)]
    tokens = [token_of(client) for client in clients]
    assert len(set(tokens)) == 2
    for token in tokens:
        assert len(token) == 43  # 256 bits in base64
    documents = await stored(elasticsearch, settings)
    assert set(documents) == {key_of(token) for token in tokens}
    text = json.dumps(documents)
    (admin,) = (user for user in USERS if user.name == "admin")
    for secret in (*tokens, admin.password_hash, "admin-password"):
        assert secret not in text
    for client in clients:
        assert await is_signed_in(client)


@pytest.mark.parametrize("is_https", [False, True])
async def test_cookie_is_hidden_from_scripts_and_by_https_bound_to_the_host(
    start_service: StartService, is_https: bool
) -> None:
    service = await start_service(public_url="https://recall.example" if is_https else None, **PATIENT)
    response = await post_sign_in(service.client(), "admin", "admin-password")
    (cookie,) = response.headers.get_list("set-cookie")
    pair, *attributes = cookie.split("; ")
    assert pair.partition("=")[0] == ("__Host-recall-session" if is_https else "recall-session")
    assert sorted(attribute.lower() for attribute in attributes) == sorted(
        ["httponly", "path=/", "samesite=lax", *(["secure"] if is_https else [])]
    )
    # By https a cookie that another host or a plain connection may have planted is none.
    value = pair.partition("=")[2]
    for name, status in (("recall-session", 401 if is_https else 200), ("__Host-recall-session", 200)):
        answer = await service.client().get("/ui/api/me", headers={"Cookie": f"{name}={value}"})
        assert answer.status_code == (status if is_https or name == "recall-session" else 401)


async def test_a_planted_token_is_not_the_one_of_the_session_that_begins(service: Service) -> None:
    attacker = await signed_in(service, "other-admin")
    planted = token_of(attacker)
    victim = service.client(cookies={"recall-session": planted})
    # As who is signed in already would not see the form, it is posted.
    assert (await post_sign_in(victim, "admin", "admin-password")).status_code == 303
    values = [cookie.value for cookie in victim.cookies.jar]
    assert not await is_signed_in(attacker)
    assert values[-1] != planted
    invented = service.client(cookies={"recall-session": "x" * 43})
    assert not await is_signed_in(invented)


@pytest.mark.parametrize(
    "token", ["", "x", "x" * 43, "x" * 8_000, "%00", "../a", "é".encode().decode("latin-1"), "*", '"'], ids=repr
)
async def test_an_unknown_token_is_no_session(shared_service: Service, token: str) -> None:
    response = await shared_service.client().get(
        "/ui/api/me", headers={b"Cookie": f"recall-session={token}".encode("latin-1")}
    )
    assert_error(response, 401, 20, "Not authenticated.")
    assert "www-authenticate" not in response.headers


async def test_the_store_is_not_asked_for_what_is_no_token(
    shared_service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    find = shared_service.services.sessions.find

    async def counting(key: str, **options: bool) -> Any:
        asked.append(key)
        return await find(key, **options)

    monkeypatch.setattr(shared_service.services.sessions, "find", counting)
    for token in ("x", "x" * 42, "x" * 44, "x" * 42 + "="):
        client = shared_service.client(cookies={"recall-session": token})
        assert (await client.get("/ui/api/me")).status_code == 401
        assert (await client.get("/ui/session")).json()["session"] is None
    assert asked == []


async def test_refusals_at_the_page_are_spread_out_as_those_of_the_api(
    shared_service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    slowed: list[str] = []

    async def before_refusal(address: str) -> None:
        slowed.append(address)

    monkeypatch.setattr(shared_service.services.authenticator, "before_refusal", before_refusal)
    stranger = shared_service.client(cookies={"recall-session": "x" * 43})
    assert (await stranger.get("/ui/api/me")).status_code == 401
    assert (await stranger.get("/ui/session")).json()["session"] is None
    assert (await post_sign_in(shared_service.client(), "admin", "wrong")).status_code == 401
    assert (await shared_service.client().get("/api/v2/me", auth=("admin", "wrong"))).status_code == 401
    assert slowed == ["127.0.0.1"] * 4


async def test_a_sign_in_that_trickles_is_ended(shared_service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stranger sends it, and bytes that arrive now and then are no sign of life."""
    monkeypatch.setattr(app.api.requests, "_FORM_SECONDS", 0.5)
    port = int(shared_service.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /ui/sign-in HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nOrigin: {shared_service.url}\r\n"
    head += "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 32000\r\n\r\n"
    writer.write(head.encode())
    answer = asyncio.create_task(reader.readuntil(b"\r\n"))
    async with asyncio.timeout(10):
        while not answer.done():
            writer.write(b"a")
            await asyncio.wait((answer,), timeout=0.05)
    assert (await answer).startswith(b"HTTP/1.1 408")
    writer.close()


async def test_a_form_leads_back_to_the_page_around_it(service: Service) -> None:
    response = await service.client().post("/ui/operations/x/stop", headers=OURS)
    assert (response.status_code, response.headers["location"]) == (303, "/ui/sign-in?next=%2Fui%2Foperations")


@pytest.mark.parametrize(
    ("name", "password"),
    [("admin", "wrong"), ("admin", ""), ("", ""), ("nobody", "admin-password"), ("admin:x", "y"), ("<b>", "\x00")],
)
async def test_wrong_credentials_begin_no_session(
    service: Service, elasticsearch: AsyncElasticsearch, settings: Settings, name: str, password: str
) -> None:
    client = service.client()
    response = await post_sign_in(client, name, password)
    assert response.status_code == 401
    assert "The user name or the password is wrong." in response.text
    assert "www-authenticate" not in response.headers
    assert "set-cookie" not in response.headers
    assert password not in response.text or not password or password in {"wrong", "y"}
    assert "<b>" not in response.text
    assert not await stored(elasticsearch, settings)


async def test_wrong_passwords_are_slowed_down_as_in_the_api(service: Service) -> None:
    client = service.client()
    for i in range(6):
        assert (await post_sign_in(client, "agent", f"wrong {i}")).status_code == 401
    throttle = service._app.state.services.authenticator._throttle
    (attempts,) = throttle._attempts.values()
    assert attempts.next > throttle._clock()  # the next attempt has to wait
    attempts.next = throttle._clock() + 1_000
    response = await post_sign_in(client, "agent", "agent-password")
    assert response.status_code == 429
    assert int(response.headers["retry-after"]) > 0
    assert "Too many attempts" in response.text


async def test_a_user_has_a_bounded_number_of_sessions_and_the_oldest_ends(
    service: Service, elasticsearch: AsyncElasticsearch, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "MAX_SESSIONS_OF_A_USER", 3)
    other = await signed_in(service, "supervisor")
    clients = [await signed_in(service) for _ in range(5)]
    assert [await is_signed_in(client) for client in clients] == [False, False, True, True, True]
    await asyncio.gather(*(post_sign_in(service.client(), "admin", "admin-password") for _ in range(20)))
    await signed_in(service)
    sessions = (await stored(elasticsearch, settings)).values()
    assert sum(session["user"] == "admin" for session in sessions) <= 3
    assert (await other.get("/ui/api/me")).status_code == 200


# --- hold and end ---


async def test_idle_sessions_end_and_activity_prolongs_them(service: Service, later: Callable[[float], None]) -> None:
    active, idle = await signed_in(service), await signed_in(service)
    for _ in range(3):
        later(600)
        assert (await active.get("/ui/api/me")).status_code == 200
    assert not await is_signed_in(idle)
    left = (await active.get("/ui/session")).json()["session"]["secondsLeft"]
    assert 880 < left <= 900
    later(901)
    assert not await is_signed_in(active)


async def test_no_session_lasts_longer_than_the_absolute_limit(
    start_service: StartService, later: Callable[[float], None]
) -> None:
    service = await start_service(session_seconds=2_000.0, **PATIENT)
    client = await signed_in(service)
    for _ in range(3):
        later(600)
        assert await is_signed_in(client)
    assert (await client.get("/ui/session")).json()["session"]["secondsLeft"] <= 200
    later(200)
    assert not await is_signed_in(client)


async def test_asking_how_long_a_session_lasts_does_not_prolong_it(
    service: Service, later: Callable[[float], None]
) -> None:
    client = await signed_in(service)
    for _ in range(2):
        later(400)
        assert (await client.get("/ui/session")).json()["session"]["secondsLeft"] > 0
        # So is what the page asks by itself, as of the progress of an operation.
        assert (await client.get("/ui/api/me", headers={"Recall-Activity": "none"})).status_code == 200
    later(101)
    assert (await client.get("/ui/session")).json() == {"statusCode": 0, "session": None}


async def test_few_activities_are_written(
    service: Service, elasticsearch: AsyncElasticsearch, settings: Settings, later: Callable[[float], None]
) -> None:
    client = await signed_in(service)
    ((_, before),) = (await stored(elasticsearch, settings)).items()
    later(50)
    await client.get("/ui/api/me")
    ((_, unwritten),) = (await stored(elasticsearch, settings)).items()
    assert unwritten == before
    later(50)
    await client.get("/ui/api/me")
    ((_, written),) = (await stored(elasticsearch, settings)).items()
    assert written["seen"] >= before["seen"] + 100_000
    assert {**written, "seen": 0} == {**before, "seen": 0}


async def test_signing_out_ends_the_session_in_every_process_at_once(start_service: StartService) -> None:
    services = [await start_service(**PATIENT), await start_service(**PATIENT)]
    client = await signed_in(services[0])
    token = token_of(client)
    elsewhere = services[1].client(cookies={"recall-session": token})
    assert await is_signed_in(elsewhere)
    response = await client.post("/ui/sign-out", headers=OURS)
    assert (response.status_code, response.headers["location"]) == (303, "/ui/sign-in?signed-out")
    assert 'recall-session=""' in response.headers["set-cookie"]
    assert not await is_signed_in(elsewhere)
    # Replayed, the token stays useless.
    assert not await is_signed_in(services[0].client(cookies={"recall-session": token}))
    assert (await elsewhere.post("/ui/sign-out", headers=OURS)).status_code == 303


async def test_an_activity_that_is_written_late_does_not_bring_an_ended_session_back(
    service: Service, later: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await signed_in(service)
    sessions = service._app.state.services.sessions
    see = sessions._store.see

    async def see_late(*arguments: Any) -> None:
        await sessions.end(key_of(token_of(client)))
        await see(*arguments)

    later(100)
    monkeypatch.setattr(sessions._store, "see", see_late)
    assert (await client.get("/ui/api/me")).status_code == 200
    assert not await is_signed_in(client)


@pytest.mark.parametrize("change", ["removed", "password"])
async def test_a_removed_user_and_a_changed_password_end_the_session_for_good(service: Service, change: str) -> None:
    client = await signed_in(service)
    authenticator = service._app.state.services.authenticator
    (admin,) = (user for user in USERS if user.name == "admin")
    others = tuple(user for user in USERS if user.name != "admin")
    changed = msgspec.structs.replace(admin, password_hash=hash_password("another"))
    authenticator.replace_users(others if change == "removed" else (*others, changed))
    assert not await is_signed_in(client)
    authenticator.replace_users(USERS)
    assert not await is_signed_in(client)


async def test_changed_roles_apply_to_the_session(service: Service) -> None:
    client = await signed_in(service)
    authenticator = service._app.state.services.authenticator
    (admin,) = (user for user in USERS if user.name == "admin")
    assert (await client.get("/ui/api/recordings?startTime=0")).status_code == 200
    authenticator.replace_users((*USERS[2:], msgspec.structs.replace(admin, roles=("agent",))))
    assert_error(await client.get("/ui/api/recordings?startTime=0"), 403, 5)
    assert (await client.get("/ui/recordings?startTime=0")).status_code == 403


async def test_sessions_that_are_over_are_swept(
    service: Service, elasticsearch: AsyncElasticsearch, settings: Settings, later: Callable[[float], None]
) -> None:
    await signed_in(service)
    later(600)
    client = await signed_in(service)
    sweep = service._app.state.services.sessions.sweep
    await sweep()
    assert len(await stored(elasticsearch, settings)) == 2
    later(400)
    await sweep()
    assert list(await stored(elasticsearch, settings)) == [key_of(token_of(client))]


async def test_a_play_in_flight_ends_with_the_session(
    start_service: StartService, counting_storage: CountingStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.api.authentication, "_LOOK_SECONDS", 0.1)
    service = await start_service(storage=StorageConfig(webdav=(WebDavConfig(counting_storage.url),)), **PATIENT)
    descriptor = {"storage": "webDAV", "path": counting_storage.put("long.wav", 50_000_000)}
    counting_storage.rate = 100_000
    recording = a_recording(mediaFiles=[a_media_file(mediaDescriptor=descriptor)])
    assert (await service.client("ops").post(OPS_PATH, json=recording)).status_code == 201
    client = await signed_in(service)
    uri = (await client.get("/ui/api/recordings/recording")).json()["recording"]["mediaFiles"][0]["mediaUri"]
    assert uri.startswith(f"{service.url}/ui/api/recordings/recording/play/")
    async with client.stream("GET", uri) as response:
        assert response.status_code == 200
        chunks = response.aiter_raw()
        await anext(chunks)
        await service.client(cookies={"recall-session": token_of(client)}).post("/ui/sign-out", headers=OURS)

        async def read() -> None:
            async for _ in chunks:
                pass

        async with asyncio.timeout(20):
            with pytest.raises(httpx.RemoteProtocolError):
                await read()
    await eventually(lambda: counting_storage.open_connections == 0)


# --- where it leads ---


async def test_who_is_not_signed_in_is_led_to_the_form_and_back(shared_service: Service) -> None:
    path = "/ui/recordings/a%2Fb%20c?x=%2B1&y=a%26b"
    client = shared_service.client()
    asked = await client.get(path)
    assert asked.status_code == 303
    form = await client.get(asked.headers["location"])
    assert form.status_code == 200
    assert f'value="{path.replace("&", "&amp;")}"' in form.text
    back = await post_sign_in(client, "admin", "admin-password", next=path + "#t=133")
    assert (back.status_code, back.headers["location"]) == (303, path + "#t=133")
    # Who is signed in already is led on without the form.
    again = await client.get(f"/ui/sign-in?next={quote(path, safe='')}")
    assert (again.status_code, again.headers["location"]) == (303, path)


@pytest.mark.parametrize(
    "wanted",
    [
        "", "/", "//evil.example", "https://evil.example/ui/", "/\\evil.example", "/ui\\evil", "/uix", "ui/recordings",
        "/ui/a\nSet-Cookie: x=y", "/ui/\t/evil", "/ui/é", "javascript:alert(1)", "/ui@evil.example", "/ui.evil.example",
        "/ui/sign-out", "/ui/sign-in?next=/ui/sign-in", "/ui/api/me", "/ui/static/x", "/ui/" + "x" * 20_000,
        "/api/v2/recordings?startTime=0", "\x00/ui", "/ui/operations/x/stop",
    ],
)  # fmt: skip
async def test_no_sign_in_leads_elsewhere(shared_service: Service, wanted: str) -> None:
    response = await post_sign_in(shared_service.client(), "admin", "admin-password", next=wanted)
    assert response.headers["location"] == "/ui/recordings"


@pytest.mark.parametrize("path", ["/", "/ui", "/ui/"])
async def test_the_root_leads_to_the_page(shared_service: Service, path: str) -> None:
    response = await shared_service.client().get(path)
    assert (response.status_code, response.headers["location"]) == (303, "/ui/recordings")


async def test_the_api_takes_no_session_and_the_page_no_basic(shared_service: Service) -> None:
    client = await signed_in(shared_service)
    response = await client.get("/api/v2/me")
    assert_error(response, 401, 20)
    assert "www-authenticate" in response.headers
    response = await shared_service.client("admin").get("/ui/api/me")
    assert_error(response, 401, 20)
    assert "www-authenticate" not in response.headers


async def test_the_readers_paths_are_the_same_under_the_page(service: Service) -> None:
    await service.client("ops").post(f"{OPS_PATH}?refresh=wait_for", json=a_recording("a/b"))
    client = await signed_in(service)
    for path in ("/me", "/recordings?startTime=0", "/recordings/a%2Fb", "/recordings/nothing", "/recordings"):
        api, page = await service.client("admin").get(f"/api/v2{path}"), await client.get(f"/ui/api{path}")
        assert page.status_code == api.status_code
        assert page.text == api.text.replace("/api/v2/", "/ui/api/")
    defined = await client.post("/ui/api/recording-label-definitions", json={"name": "vip"}, headers=OURS)
    assert defined.json()["uri"] == f"{service.url}/ui/api/recording-label-definitions/vip"
    response = await client.post("/ui/api/recordings/a%2Fb", json={"operationName": "applyNonDelete"}, headers=OURS)
    assert response.json() == {"statusCode": 0}
    assert (await service.client("admin").get("/api/v2/recordings/a%2Fb")).json()["recording"]["nonDelete"] is True


# --- requests of other origins ---


@pytest.fixture(scope="module")
async def desk(shared_service: Service) -> AsyncIterator[Service]:
    """A service whose API another origin may call."""
    allowed = ("https://desk.example.com",)
    service = Service(msgspec.structs.replace(shared_service.settings, allowed_origins=allowed))
    await service.start()
    yield service
    await service.stop()


@pytest.mark.parametrize(
    ("headers", "is_ours"),
    [
        (OURS, True),
        ({"Origin": "SELF"}, True),
        ({"Origin": "SELF", **OURS}, True),
        ({}, False),
        ({"Sec-Fetch-Site": "none"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "SELF"}, False),
        ({"Origin": "https://evil.example"}, False),
        ({"Origin": "null"}, False),
        # Such an origin may call the API, but there are no sessions.
        ({"Origin": "https://desk.example.com"}, False),
        ({"Origin": "https://desk.example.com", "Sec-Fetch-Site": "same-site"}, False),
    ],
)
@pytest.mark.parametrize("path", ["/ui/sign-in", "/ui/sign-out", "/ui/api/recordings/recording"])
async def test_changes_come_from_pages_of_ours_alone(
    desk: Service, path: str, headers: dict[str, str], is_ours: bool
) -> None:
    client = await signed_in(desk)
    headers = {name: desk.url if value == "SELF" else value for name, value in headers.items()}
    if path.startswith("/ui/api"):
        response = await client.post(path, json={"operationName": "applyNonDelete"}, headers=headers)
        assert response.status_code == (404 if is_ours else 403)
    else:
        form = {"name": "admin", "password": "admin-password"}
        response = await client.post(path, data=form, headers=headers)
        assert response.status_code == (303 if is_ours else 403)
    if not is_ours:
        assert_error(response, 403, 3, "Requests from other origins are not allowed.")
        assert await is_signed_in(client)
    assert "access-control-allow-origin" not in response.headers


async def test_a_form_changes_nothing_under_the_api(shared_service: Service) -> None:
    client = await signed_in(shared_service)
    for media_type in ("application/x-www-form-urlencoded", "text/plain", "multipart/form-data; boundary=x"):
        response = await client.post(
            "/ui/api/recordings/recording",
            content=b'{"operationName": "applyNonDelete"}',
            headers={**OURS, "Content-Type": media_type},
        )
        assert_error(response, 415, 2)


@pytest.mark.parametrize(
    ("content", "media_type", "status"),
    [
        (b"{}", "application/json", 415),
        (b"name=%ff&password=x", "application/x-www-form-urlencoded", 400),
        (b"name=" + b"x" * 40_000, "application/x-www-form-urlencoded", 413),
        (b"", "application/x-www-form-urlencoded", 401),
    ],
)
async def test_a_sign_in_that_is_no_form_is_refused_in_words(
    shared_service: Service, content: bytes, media_type: str, status: int
) -> None:
    response = await shared_service.client().post(
        "/ui/sign-in", content=content, headers={**OURS, "Content-Type": media_type}
    )
    assert response.status_code == status
    assert response.headers["content-type"] == "text/html; charset=utf-8"


# --- the audit log, and the command ---


async def test_sign_ins_and_sign_outs_are_audited(start_service: StartService, tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    service = await start_service(audit_log=str(file), **PATIENT)
    client = await signed_in(service)
    await post_sign_in(service.client(), "admin", "guess")
    await client.post("/ui/sign-out", headers=OURS)
    await client.post("/ui/sign-out", headers=OURS)  # there is nothing left to sign out of
    lines = lines_but_posts(file)
    common = {"address": "127.0.0.1", "resource": None, "recordingId": ""}
    for line in lines:
        assert line.pop("time")
        assert line.pop("id")
        assert line.pop("seconds") >= 0
    right = {**common, "user": "admin", "contactCenter": CONTACT_CENTER}
    assert lines == [
        {**right, "operation": "sign-in", "outcome": "success", "httpStatus": 303, "statusCode": 0},
        {
            **common, "user": "admin", "contactCenter": None, "operation": "sign-in", "outcome": "refused",
            "httpStatus": 401, "statusCode": 20,
        },
        {**right, "operation": "sign-out", "outcome": "success", "httpStatus": 303, "statusCode": 0},
    ]  # fmt: skip
    assert "guess" not in file.read_text()


async def test_operations_with_a_session_are_audited_with_its_user(start_service: StartService, tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    service = await start_service(audit_log=str(file), **PATIENT)
    client = await signed_in(service)
    await client.post("/ui/api/recordings/none", json={"operationName": "applyNonDelete"}, headers=OURS)
    await service.client().get("/ui/api/recordings/none")
    _, apply, refused = lines_but_posts(file)
    assert (apply["user"], apply["operation"], apply["httpStatus"]) == ("admin", "apply", 404)
    assert (refused["user"], refused["operation"], refused["httpStatus"]) == (None, "read", 401)


async def test_the_command_lists_and_ends_sessions(service: Service, tmp_path: Path) -> None:
    scripts = Scripts(service.settings, tmp_path)
    clients = [await signed_in(service, name) for name in ("admin", "admin", "supervisor", "agent")]

    async def listed(*arguments: str) -> list[dict[str, Any]]:
        status, out, err = await scripts.run("sessions.py", *arguments)
        assert (status, err) == (0, "")
        return [json.loads(line) for line in out.splitlines()]

    async def hold() -> list[bool]:
        return [(await client.get("/ui/session")).json()["session"] is not None for client in clients]

    all_sessions = await listed("list")
    assert [session["user"] for session in all_sessions] == ["admin", "admin", "supervisor", "agent"]
    assert all_sessions[0].keys() == {"id", "user", "address", "created", "seen"}
    for client, session in zip(clients, all_sessions, strict=True):
        assert key_of(token_of(client)).startswith(session["id"])
    assert await listed("end", "--dry-run", "--user", "agent") == all_sessions[3:]
    assert await hold() == [True, True, True, True]
    status, out, err = await scripts.run("sessions.py", "end", "abc", all_sessions[2]["id"])
    assert (status, json.loads(out), err) == (1, all_sessions[2], "no such session: abc\n")
    assert await hold() == [True, True, False, True]
    assert await listed("end", "--user", "admin") == all_sessions[:2]
    assert await hold() == [False, False, False, True]
    assert await listed("end", "--all") == all_sessions[3:]
    assert await hold() == [False, False, False, False]


@pytest.mark.parametrize("arguments", [[], ["abc", "--all"], ["--all", "--user", "x"]], ids=repr)
def test_the_command_wants_to_know_which_sessions_end(arguments: list[str]) -> None:
    assert CliRunner().invoke(sessions_command.command, ["end", *arguments]).exit_code == 2
