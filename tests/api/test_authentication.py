"""Who may do what (docs/contract.md section 2, and RFC 7617)."""

import asyncio
import time
from base64 import b64encode
from types import SimpleNamespace
from typing import Any

import argon2
import httpx
import msgspec
import pytest

import app.auth.throttle
from app.auth.passwords import Authenticator
from app.errors import NotAuthenticated, RecallError, TooManyAttempts
from app.settings import User
from tests.support.recordings import CONTACT_CENTER, OPS_PATH, OTHER_CONTACT_CENTER, a_recording
from tests.support.service import USERS, Service, StartService, assert_error, basic
from tests.support.waiting import eventually

hash_password = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash

INTERNAL_PATH = f"/internal-api/contact-centers/{CONTACT_CENTER}/recordings"
# Beside the users that all tests share.
OTHER_USERS = (
    User(name="several", password_hash=hash_password("several-password"), roles=("ops", "admin"), contact_center="x"),
    User(name="recorder", password_hash=hash_password("recorder-password"), roles=("recorder",)),
    User("own-recorder", hash_password("own-recorder-password"), ("recorder",), contact_center=CONTACT_CENTER),
    User("foreign-recorder", hash_password("foreign-recorder-password"), ("recorder",), OTHER_CONTACT_CENTER),
    User(name="none", password_hash=hash_password("none-password"), roles=(), contact_center=CONTACT_CENTER),
)
ODD_PASSWORDS = {
    "colons": ":a:b::c:",
    "jürgen": "pässwörd",
    "名前": "パスワード😀",
    "space in name": " leading and trailing ",
    "percent%20": "%41+a",
    "quote\"'": "\"'\\",
    "empty": "",
    "long": "x" * 4_000,
}
ODD_USERS = tuple(
    User(name=name, password_hash=hash_password(password), roles=("ops",)) for name, password in ODD_PASSWORDS.items()
)


@pytest.fixture(scope="module")
def more_users() -> tuple[User, ...]:
    return OTHER_USERS + ODD_USERS


@pytest.fixture(scope="module")
def service(module_service: Service) -> Service:
    return module_service


def assert_not_authenticated(response: httpx.Response) -> None:
    assert_error(response, 401, 20)
    assert response.json()["statusMessage"] == "Not authenticated."
    challenge = response.headers["www-authenticate"]
    assert challenge.startswith("Basic realm=")
    assert 'charset="UTF-8"' in challenge


# --- credentials ---


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "Basic",
        "Basic !!!",
        "Basic =",
        "Basic b3Bz",  # "ops"
        "Basic /zr/",  # not UTF-8
        "Basic " + b64encode(b"ops:ops-password").decode() + " x",
        "Basic " + b64encode(b"ops:ops-password").decode() + ",x",
        "Basic ops:ops-password",
        "Basic é".encode(),
        "Basic é".encode("latin-1"),
        "Bearer " + b64encode(b"ops:ops-password").decode(),
        "Basic" + b64encode(b"ops:ops-password").decode(),
        b64encode(b"ops:ops-password").decode(),
        "é".encode(),
        basic("", ""),
        basic("", "ops-password"),
        basic("ops", ""),
        basic("OPS", "ops-password"),
        basic(" ops", "ops-password"),
        basic("ops", "ops-password "),
        basic("ops", "Ops-Password"),
        basic("ops\0", "ops-password"),
        basic("ops", "admin-password"),
        basic("unknown", "unknown-password"),
        # The password of a user who exists, which other code might verify in place of an unknown one's.
        basic("stranger", "ops-password"),
        basic("ops", "ops-password", encoding="utf-16"),
        basic("stranger", "x" * 10_000),
    ],
)
async def test_missing_wrong_or_malformed_credentials_are_401(
    service: Service, authorization: str | bytes | None
) -> None:
    encoded = authorization.encode() if isinstance(authorization, str) else authorization
    headers = [(b"authorization", encoded)] if encoded is not None else []
    assert_not_authenticated(await service.client().get(f"{OPS_PATH}/any", headers=headers))


async def test_unknown_user_and_wrong_password_get_the_same_response(service: Service) -> None:
    answers = [
        await service.client().get(f"{OPS_PATH}/any", headers={"authorization": basic(name, "wrong")})
        for name in ("supervisor", "nobody-knows")
    ]
    for response in answers:
        assert_not_authenticated(response)
        response.headers.pop("date")
    assert answers[0].content == answers[1].content
    assert answers[0].headers == answers[1].headers


@pytest.mark.parametrize("scheme", ["Basic", "basic", "BASIC", "bAsIc", "Basic  "])
async def test_authentication_scheme_is_case_insensitive(service: Service, scheme: str) -> None:
    headers = {"authorization": f"{scheme} {b64encode(b'ops:ops-password').decode()}"}
    assert_error(await service.client().get(f"{OPS_PATH}/any", headers=headers), 404, 6)


@pytest.mark.parametrize(("name", "password"), ODD_PASSWORDS.items())
async def test_names_and_passwords_may_contain_any_utf_8_character(service: Service, name: str, password: str) -> None:
    client = service.client()

    async def ask(authorization: str) -> httpx.Response:
        return await client.get(f"{OPS_PATH}/any", headers={"authorization": authorization})

    assert_error(await ask(basic(name, password)), 404, 6)
    assert_not_authenticated(await ask(basic(name, password + "x")))
    assert_not_authenticated(await ask(basic(name, password, encoding="utf-16")))


# --- roles ---

# Each with a query, body or id that is right; `{"json": …}` makes it a POST.
REQUESTS: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("/api/v2/recordings?startTime=0", {}, "admin"),
    ("/api/v2/recordings/recordings?startTime=0", {}, "admin"),
    ("/api/v2/recordings/roles", {}, "admin"),
    (f"{OPS_PATH}?startTime=0", {}, "ops"),
    (f"{OPS_PATH}/roles", {}, "ops"),
    (OPS_PATH, {"json": a_recording("roles")}, "ops"),
    (f"{OPS_PATH}/", {"json": a_recording("roles")}, "ops"),
    (INTERNAL_PATH, {"json": a_recording("roles")}, "ops"),
    (f"{INTERNAL_PATH}/", {"json": a_recording("roles")}, "ops"),
    (OPS_PATH, {"json": {"operationName": "createCRCF"}}, "ops"),
)
# The same resources, asked for something that is wrong or not there.
WRONG_REQUESTS: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("/api/v2/recordings", {}, "admin"),
    ("/api/v2/recordings?unknown=1", {}, "admin"),
    ("/api/v2/recordings?callerPhoneNumber=%FF", {}, "admin"),
    ("/api/v2/recordings/missing", {}, "admin"),
    ("/api/v2/recordings/%FF", {}, "admin"),
    (OPS_PATH, {}, "ops"),
    (f"{OPS_PATH}?startTime=never", {}, "ops"),
    (f"{OPS_PATH}/missing", {}, "ops"),
    ("/api/v2/ops/contact-centers/%FF/recordings/missing", {}, "ops"),
    ("/api/v2/ops/contact-centers/%20/recordings?startTime=0", {}, "ops"),
    (OPS_PATH, {"json": {}}, "ops"),
    (OPS_PATH, {"json": []}, "ops"),
    (OPS_PATH, {"data": {"a": "form"}}, "ops"),
    (OPS_PATH, {"content": b"{", "headers": {"content-type": "application/json"}}, "ops"),
    (OPS_PATH, {"content": b" " * (1024 * 1024 + 1)}, "ops"),
    (f"{OPS_PATH}?refresh=never", {"json": a_recording("roles")}, "ops"),
    (f"{INTERNAL_PATH}?unknown=1", {"json": {}}, "ops"),
)


async def send(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> httpx.Response:
    return await client.request("POST" if body else "GET", path, **body)


@pytest.mark.parametrize("role", ["ops", "admin", "supervisor", "agent"])
@pytest.mark.parametrize(("path", "body", "allowed"), REQUESTS)
async def test_each_path_requires_its_role(
    service: Service, path: str, body: dict[str, Any], allowed: str, role: str
) -> None:
    await service.client("ops").post(OPS_PATH, json=a_recording("roles"))
    response = await send(service.client(role), path, body)
    if role == allowed:
        assert response.status_code in {200, 201}, response.text
    else:
        assert_error(response, 403, 5)
        assert response.json()["statusMessage"] == "Insufficient user roles."


@pytest.mark.parametrize("user", ["recorder", "own-recorder"])
@pytest.mark.parametrize(("path", "body", "allowed"), REQUESTS)
async def test_a_recorder_only_posts(
    service: Service, path: str, body: dict[str, Any], allowed: str, user: str
) -> None:
    response = await send(service.client(user), path, body)
    if body:
        assert response.status_code in {200, 201}, response.text
    else:
        assert_error(response, 403, 5, "Insufficient user roles.")


async def test_a_recorder_deletes_nothing(service: Service) -> None:
    recorder = service.client("recorder")
    await recorder.post(OPS_PATH, json=a_recording("kept"))
    assert_error(await recorder.delete(f"{OPS_PATH}/kept"), 403, 5)
    assert_error(await recorder.post("/api/v2/recordings/kept", json={"operationName": "applyNonDelete"}), 403, 5)
    assert (await service.client("admin").get("/api/v2/recordings/kept")).status_code == 200


@pytest.mark.parametrize("body", [{"json": a_recording("foreign")}, {"json": {}}, {"data": {"a": "form"}}])
@pytest.mark.parametrize("path", [OPS_PATH, f"{OPS_PATH}/", INTERNAL_PATH, f"{INTERNAL_PATH}/"])
async def test_a_recorder_of_another_contact_center_has_no_role_here(
    service: Service, path: str, body: dict[str, Any]
) -> None:
    foreign = service.client("foreign-recorder")
    assert_error(await foreign.post(path, **body), 403, 5, "Insufficient user roles.")
    assert_error(await service.client("admin").get("/api/v2/recordings/foreign"), 404, 6)
    undecodable = path.replace(CONTACT_CENTER, "%FF")
    assert_error(await service.client("own-recorder").post(undecodable, **body), 403, 5)


@pytest.mark.parametrize(("path", "body", "allowed"), REQUESTS)
async def test_user_may_have_several_roles_or_none(
    service: Service, path: str, body: dict[str, Any], allowed: str
) -> None:
    await service.client("ops").post("/api/v2/ops/contact-centers/x/recordings", json=a_recording("roles"))
    await service.client("ops").post(OPS_PATH, json=a_recording("roles"))
    assert (await send(service.client("several"), path, body)).status_code in {200, 201}
    assert_error(await send(service.client("none"), path, body), 403, 5)


@pytest.mark.parametrize(("path", "body", "allowed"), WRONG_REQUESTS)
async def test_role_is_checked_before_parameters_and_existence(
    service: Service, path: str, body: dict[str, Any], allowed: str
) -> None:
    for role in {"ops", "admin", "supervisor", "agent"} - {allowed}:
        assert_error(await send(service.client(role), path, body), 403, 5, "Insufficient user roles.")
    assert (await send(service.client(allowed), path, body)).status_code in {400, 404, 413, 415}


@pytest.mark.parametrize(("path", "body", "allowed"), REQUESTS + WRONG_REQUESTS)
async def test_credentials_are_checked_first(service: Service, path: str, body: dict[str, Any], allowed: str) -> None:
    assert_not_authenticated(await send(service.client(), path, body))


@pytest.mark.parametrize("contact_center", [CONTACT_CENTER, OTHER_CONTACT_CENTER, "one that has no users"])
async def test_ops_may_use_every_contact_center(service: Service, contact_center: str) -> None:
    ops, path = service.client("ops"), f"/api/v2/ops/contact-centers/{contact_center}/recordings"
    assert (await ops.post(path, json=a_recording("every"))).status_code == 201
    assert (await ops.get(f"{path}/every")).status_code == 200
    assert (await ops.get(path, params={"startTime": 0})).status_code == 200


async def test_ops_has_no_contact_center_and_an_administrator_has_one(service: Service) -> None:
    await service.client("ops").post(OPS_PATH, json=a_recording("own"))
    assert (await service.client("admin").get("/api/v2/recordings/own")).status_code == 200
    assert_error(await service.client("other-admin").get("/api/v2/recordings/own"), 404, 6)
    assert_error(await service.client("ops").get("/api/v2/recordings/own"), 403, 5)


# --- failing repeatedly ---


class Clock:
    """The time of an Authenticator; whoever sleeps moves it on, without waiting."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)


class FrozenClock(Clock):
    """For attempts that come all at the same time."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return patched(Clock(), monkeypatch)


@pytest.fixture
def frozen_clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return patched(FrozenClock(), monkeypatch)


def patched(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock, for which `asyncio.sleep` in app/auth/throttle.py was replaced, and only there."""
    monkeypatch.setattr(app.auth.throttle, "asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": clock.sleep}))
    return clock


async def test_many_refusals_of_an_address_are_spread_out_and_leave_the_others_alone(clock: Clock) -> None:
    authenticator = Authenticator(USERS, clock)

    async def seconds_of_refusal(address: str) -> float:
        begun = clock.now
        with pytest.raises(NotAuthenticated):
            await authenticator.authenticate(None, address)
        return clock.now - begun

    assert sum([await seconds_of_refusal("a") for _ in range(100)]) == pytest.approx(0.0, abs=0.001)
    begun = clock.now
    for _ in range(500):
        await seconds_of_refusal("a")
    assert clock.now - begun == pytest.approx(10.0, abs=0.1)
    assert await seconds_of_refusal("b") == 0.0


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The hash of every password verification that was made."""
    hashes: list[str] = []
    verify = argon2.PasswordHasher.verify

    def count(hasher: argon2.PasswordHasher, password_hash: str, password: str) -> bool:
        hashes.append(password_hash)
        return verify(hasher, password_hash, password)

    monkeypatch.setattr(argon2.PasswordHasher, "verify", count)
    return hashes


async def fail(authenticator: Authenticator, name: str, address: str, attempt: int = 0) -> RecallError:
    with pytest.raises((NotAuthenticated, TooManyAttempts)) as caught:
        await authenticator.authenticate(basic(name, f"wrong-{attempt}"), address)
    return caught.value


async def succeed(authenticator: Authenticator, name: str, address: str) -> None:
    assert (await authenticator.authenticate(basic(name, f"{name}-password"), address)).name == name


@pytest.mark.parametrize("name", ["admin", "unknown"])
async def test_delay_grows_after_a_few_free_failures(clock: Clock, name: str) -> None:
    authenticator = Authenticator(USERS, clock)
    pauses = []
    for attempt in range(20):
        begun = clock.now
        await fail(authenticator, name, "10.0.0.1", attempt)
        pauses.append(clock.now - begun)
    assert pauses[:3] == [0, 0, 0]
    assert pauses == sorted(pauses)
    assert pauses[-1] >= 5


async def test_few_passwords_can_be_guessed_in_an_hour(clock: Clock) -> None:
    authenticator = Authenticator(USERS, clock)
    begun, guesses = clock.now, 0
    while clock.now < begun + 3_600:
        await fail(authenticator, "admin", "10.0.0.1", guesses)
        guesses += 1
    assert guesses < 1_000


async def test_concurrent_guesses_gain_little(frozen_clock: Clock, verified: list[str]) -> None:
    authenticator = Authenticator(USERS, frozen_clock)
    refusals = await asyncio.gather(*(fail(authenticator, "admin", "10.0.0.1", i) for i in range(1_000)))
    assert len(verified) <= 20
    assert {refusal.message for refusal in refusals} == {"Not authenticated.", "Too many attempts - please try again."}
    told_to_wait = [refusal for refusal in refusals if "Retry-After" in (refusal.headers or {})]
    assert {type(refusal) for refusal in told_to_wait} == {TooManyAttempts}
    assert len(told_to_wait) >= 980


@pytest.mark.parametrize(
    ("name", "address"),
    [("admin", "10.0.0.2"), ("other-admin", "10.0.0.1"), ("ops", "10.0.0.1"), ("ops", "10.0.0.2")],
)
async def test_failures_do_not_delay_other_users_or_addresses(clock: Clock, name: str, address: str) -> None:
    authenticator = Authenticator(USERS, clock)
    for attempt in range(50):
        await fail(authenticator, "admin", "10.0.0.1", attempt)
    begun = clock.now
    await succeed(authenticator, name, address)
    assert clock.now == begun


async def test_successful_login_resets_the_failures(clock: Clock) -> None:
    authenticator = Authenticator(USERS, clock)
    for attempt in range(10):
        await fail(authenticator, "admin", "10.0.0.1", attempt)
    await succeed(authenticator, "admin", "10.0.0.1")
    begun = clock.now
    for attempt in range(3):
        await fail(authenticator, "admin", "10.0.0.1", attempt)
    assert clock.now == begun


async def test_failures_expire(clock: Clock) -> None:
    authenticator = Authenticator(USERS, clock)
    for attempt in range(20):
        await fail(authenticator, "admin", "10.0.0.1", attempt)
    clock.now += 24 * 3_600
    begun = clock.now
    await fail(authenticator, "admin", "10.0.0.1")
    assert clock.now == begun


async def test_concurrent_first_logins_are_not_delayed(clock: Clock) -> None:
    authenticator = Authenticator(USERS, clock)
    begun = clock.now
    await asyncio.gather(*(succeed(authenticator, "admin", "10.0.0.1") for _ in range(200)))
    await asyncio.gather(*(succeed(authenticator, "supervisor", f"10.0.1.{i}") for i in range(20)))
    assert clock.now == begun


async def test_unknown_user_costs_a_verification_like_a_known_one(clock: Clock, verified: list[str]) -> None:
    authenticator = Authenticator(USERS, clock)
    await fail(authenticator, "admin", "10.0.0.1")
    await fail(authenticator, "unknown", "10.0.0.1")
    assert len(verified) == 2
    assert argon2.extract_parameters(verified[0]) == argon2.extract_parameters(verified[1])


async def test_service_without_users_refuses_every_login(clock: Clock, verified: list[str]) -> None:
    await fail(Authenticator((), clock), "admin", "10.0.0.1")
    assert len(verified) == 1


async def test_only_a_correct_password_is_cached_briefly(clock: Clock, verified: list[str]) -> None:
    authenticator = Authenticator(USERS, clock)
    for _ in range(10):
        await succeed(authenticator, "admin", "10.0.0.1")
    assert len(verified) == 1
    clock.now += 3_600
    await succeed(authenticator, "admin", "10.0.0.1")
    assert len(verified) == 2
    for _ in range(3):
        await fail(authenticator, "admin", "10.0.0.1")
    assert len(verified) == 5


async def test_one_wrong_password_again_and_again_makes_no_other_wait(clock: Clock) -> None:
    """A forgotten client sends an old password every few seconds for hours, from the address of the right user."""
    authenticator = Authenticator(USERS, clock)
    for _ in range(2_000):
        begun = clock.now
        assert isinstance(await fail(authenticator, "admin", "10.0.0.1"), NotAuthenticated)
        assert clock.now == begun
        clock.now += 4
    begun = clock.now
    await succeed(authenticator, "admin", "10.0.0.1")
    assert clock.now == begun
    await fail(authenticator, "admin", "10.0.0.1", 1)
    assert clock.now == begun


async def test_one_wrong_password_many_times_at_once_takes_no_place(clock: Clock, verified: list[str]) -> None:
    authenticator = Authenticator(USERS, clock)
    await fail(authenticator, "admin", "10.0.0.1")
    refusals, _ = await asyncio.gather(
        asyncio.gather(*(fail(authenticator, "admin", "10.0.0.1") for _ in range(500))),
        succeed(authenticator, "admin", "10.0.0.1"),
    )
    assert {type(refusal) for refusal in refusals} == {NotAuthenticated}
    assert len(verified) <= 10


async def test_a_password_that_was_wrong_is_right_as_soon_as_the_user_has_it(clock: Clock) -> None:
    authenticator = Authenticator(USERS, clock)
    for name in ("admin", "new"):
        await fail(authenticator, name, "10.0.0.1")
    changed = {user.name: user for user in USERS}
    for name in ("admin", "new"):
        changed[name] = msgspec.structs.replace(changed["admin"], name=name, password_hash=hash_password("wrong-0"))
    authenticator.replace_users(tuple(changed.values()))
    for name in ("admin", "new"):
        assert (await authenticator.authenticate(basic(name, "wrong-0"), "10.0.0.1")).name == name


async def test_a_right_password_is_never_answered_401(frozen_clock: Clock) -> None:
    """While many guesses wait, it is told to come back."""
    authenticator = Authenticator(USERS, frozen_clock)
    guesses = [asyncio.create_task(fail(authenticator, "admin", "10.0.0.1", attempt)) for attempt in range(100)]
    await asyncio.sleep(0)
    with pytest.raises(TooManyAttempts) as caught:
        await authenticator.authenticate(basic("admin", "admin-password"), "10.0.0.1")
    assert int((caught.value.headers or {})["Retry-After"]) >= 1
    await asyncio.gather(*guesses)


async def test_too_many_attempts_are_429_with_the_time_to_wait(start_service: StartService) -> None:
    service = await start_service()
    client = service.client()

    async def guess(attempt: int) -> httpx.Response:
        headers = {"authorization": basic("admin", f"wrong-{attempt}")}
        return await client.get("/api/v2/recordings/any", headers=headers)

    guesses = [asyncio.create_task(guess(attempt)) for attempt in range(20)]
    try:

        def refused() -> list[httpx.Response]:
            return [task.result() for task in guesses if task.done() and task.result().status_code == 429]

        await eventually(lambda: bool(refused()))
        assert_error(refused()[0], 429, 20, "Too many attempts - please try again.")
        assert int(refused()[0].headers["Retry-After"]) >= 1
        assert "WWW-Authenticate" not in refused()[0].headers
    finally:
        for task in guesses:
            task.cancel()
        await asyncio.gather(*guesses, return_exceptions=True)


async def test_client_that_keeps_failing_is_delayed(start_service: StartService) -> None:
    service = await start_service()
    client = service.client()
    begun = time.monotonic()
    for attempt in range(7):
        headers = {"authorization": basic("admin", f"wrong-{attempt}")}
        assert_not_authenticated(await client.get("/api/v2/recordings/any", headers=headers))
    assert time.monotonic() - begun > 0.4
    assert_error(await service.client("other-admin").get("/api/v2/recordings/any"), 404, 6)


async def test_password_attempts_per_address_are_bounded(verified: list[str]) -> None:
    authenticator = Authenticator(USERS)
    guesses = await asyncio.gather(
        *(authenticator.authenticate(basic(f"guess{n}", "x"), "attacker") for n in range(500)), return_exceptions=True
    )
    assert all(isinstance(guess, NotAuthenticated | TooManyAttempts) for guess in guesses)
    assert len(verified) == app.auth.throttle.MAX_WAITING_AT_ONE_ADDRESS
    assert (await authenticator.authenticate(basic("ops", "ops-password"), "elsewhere")).name == "ops"
