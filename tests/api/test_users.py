"""Users change when the configuration file does, without a restart."""

import asyncio
import errno
import logging
import shutil
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import certifi
import httpx
import msgspec
import pytest

import app.auth.throttle
import app.auth.users_file
import app.settings
from app.auth.passwords import Authenticator
from app.embedded.servers import to_toml
from app.errors import NotAuthenticated, TooManyAttempts
from app.settings import StorageConfig, User, WebDavConfig
from tests.support.faults import CountingStorage
from tests.support.recordings import CONTACT_CENTER, OPS_PATH, OTHER_CONTACT_CENTER, a_media_file, a_recording
from tests.support.service import USERS, Service, StartService, basic, hash_password
from tests.support.waiting import eventually

OPS, ADMIN, *_ = USERS
PATH = "/api/v2/recordings/any"
OPS_READS = f"/api/v2/ops/contact-centers/{CONTACT_CENTER}/recordings/any"


def toml(users: Sequence[User], head: str = "") -> str:
    """A configuration file with these users."""
    return f"{head}\n{to_toml({'users': users}).decode()}"


def write(file: Path, content: str | bytes | None) -> None:
    """In place; None is no file."""
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())


def replace(file: Path, text: str) -> None:
    """As careful editors and deployments do it."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.replace(file)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "recall.toml"
    file.write_text(toml(USERS))
    return file


@pytest.fixture(autouse=True)
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every look at a file; they are frequent, so that tests are not long."""
    paths: list[Path] = []
    state = app.auth.users_file._state

    def look(path: Path) -> object:
        paths.append(path)
        return state(path)

    monkeypatch.setattr(app.auth.users_file, "_state", look)
    monkeypatch.setattr(app.auth.users_file, "_LOOK_SECONDS", 0.1)
    return paths


@pytest.fixture
async def service(start_service: StartService, file: Path, caplog: pytest.LogCaptureFixture) -> Service:
    caplog.set_level(logging.INFO, "app.auth.users_file")
    return await start_service(config=str(file))


async def answers(service: Service, name: str, password: str, status: int, path: str = PATH) -> None:
    """Waits until that is how the service answers."""
    client = service.client()
    headers = {"authorization": basic(name, password)}

    async def condition() -> bool:
        return (await client.get(path, headers=headers)).status_code == status

    await eventually(condition)


async def logged(caplog: pytest.LogCaptureFixture, text: str) -> None:
    await eventually(lambda: text in caplog.text)


async def test_a_process_that_starts_has_the_users_of_the_file_at_once(
    start_service: StartService, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker may start long after the process that has read its settings."""
    monkeypatch.setattr(app.auth.users_file, "_LOOK_SECONDS", 3_600.0)
    new = User("new", hash_password("secret"), ("admin",), CONTACT_CENTER)
    write(file, toml([new]))
    service = await start_service(config=str(file))
    client = service.client()
    assert (await client.get(PATH, headers={"authorization": basic("new", "secret")})).status_code == 404
    assert (await client.get(PATH, headers={"authorization": basic("admin", "admin-password")})).status_code == 401


async def test_added_user_can_log_in(service: Service, file: Path) -> None:
    new = User("new", hash_password("secret"), ("admin",), CONTACT_CENTER)
    write(file, toml([*USERS, new]))
    await answers(service, "new", "secret", 404)
    await answers(service, "admin", "admin-password", 404)


def make_writable(file: Path, yes: bool) -> None:
    """For every user of the machine."""
    file.chmod(0o666 if yes else 0o600)


async def read_to_the_end(chunks: AsyncIterator[bytes]) -> None:
    async for _ in chunks:
        pass


async def test_only_a_change_of_the_user_matters_to_a_play() -> None:
    authenticator = Authenticator(USERS)
    changed = asyncio.ensure_future(authenticator.until_changed(ADMIN))
    for users in (USERS, (OPS, ADMIN)):
        authenticator.replace_users(users)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not changed.done()
    authenticator.replace_users((OPS, msgspec.structs.replace(ADMIN, roles=("agent",))))
    await asyncio.wait_for(changed, 10)


async def read_at(service: Service) -> float:
    """Returns what the metric says: when the users were read."""
    text = (await service.client().get("/metrics")).text
    (line,) = [line for line in text.splitlines() if line.startswith("recall_users_read_timestamp_seconds ")]
    return float(line.split()[1])


async def test_a_metric_says_when_the_users_were_read(service: Service, file: Path) -> None:
    begun = time.time()
    assert abs(await read_at(service) - begun) < 60
    write(file, toml([*USERS, User("new", hash_password("secret"), ("admin",), CONTACT_CENTER)]))
    await answers(service, "new", "secret", 404)
    assert await read_at(service) >= begun


async def test_a_file_that_every_user_may_write_leaves_the_users(
    service: Service, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await answers(service, "admin", "admin-password", 404)
    make_writable(file, True)
    write(file, toml([OPS]))
    await logged(caplog, "every user of the machine may write")
    await answers(service, "admin", "admin-password", 404)
    make_writable(file, False)
    await answers(service, "admin", "admin-password", 401)


@pytest.mark.parametrize("change", ["removed", "moved"])
async def test_plays_in_flight_of_a_user_who_is_removed_or_changed_end(
    start_service: StartService, file: Path, counting_storage: CountingStorage, change: str
) -> None:
    storage = StorageConfig(webdav=(WebDavConfig(counting_storage.url),))
    service = await start_service(config=str(file), storage=storage)
    descriptor = {"storage": "webDAV", "path": counting_storage.put("long.wav", 50_000_000)}
    counting_storage.rate = 100_000
    recording = a_recording(mediaFiles=[a_media_file(mediaDescriptor=descriptor)])
    assert (await service.client("ops").post(OPS_PATH, json=recording)).status_code == 201
    admin = service.client("admin")
    path = (await admin.get("/api/v2/recordings/recording")).json()["recording"]["mediaFiles"][0]["playPath"]
    async with admin.stream("GET", f"/api/v2{path}") as response:
        chunks = response.aiter_raw()
        await anext(chunks)
        elsewhere = msgspec.structs.replace(ADMIN, contact_center=OTHER_CONTACT_CENTER)
        replace(file, toml([OPS] if change == "removed" else [OPS, elsewhere]))
        async with asyncio.timeout(20):
            with pytest.raises(httpx.RemoteProtocolError):
                await read_to_the_end(chunks)
    await eventually(lambda: counting_storage.open_connections == 0)


async def test_removed_user_is_refused_although_credentials_are_cached(service: Service, file: Path) -> None:
    await answers(service, "admin", "admin-password", 404)
    replace(file, toml([OPS]))
    await answers(service, "admin", "admin-password", 401)
    replace(file, toml(USERS))
    await answers(service, "admin", "admin-password", 404)


async def test_only_the_changed_password_is_valid(service: Service, file: Path) -> None:
    await answers(service, "admin", "admin-password", 404)
    replace(file, toml([OPS, msgspec.structs.replace(ADMIN, password_hash=hash_password("another"))]))
    await answers(service, "admin", "another", 404)
    await answers(service, "admin", "admin-password", 401)


async def test_changed_roles_and_contact_centers_apply_to_cached_credentials(
    service: Service, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await answers(service, "admin", "admin-password", 404)
    replace(file, toml([OPS, msgspec.structs.replace(ADMIN, roles=("agent",))]))
    await answers(service, "admin", "admin-password", 403)
    replace(file, toml([OPS, msgspec.structs.replace(ADMIN, roles=("ops",), contact_center=None)]))
    await answers(service, "admin", "admin-password", 404, OPS_READS)
    assert ADMIN.password_hash not in caplog.text


async def test_file_behind_symbolic_links_is_watched(start_service: StartService, tmp_path: Path) -> None:
    for version, users in (("1", USERS), ("2", USERS[:1])):
        (tmp_path / version).mkdir()
        (tmp_path / version / "recall.toml").write_text(toml(users))
    data, file = tmp_path / "data", tmp_path / "recall.toml"
    data.symlink_to("1")
    file.symlink_to("data/recall.toml")
    service = await start_service(config=str(file))
    await answers(service, "admin", "admin-password", 404)
    (tmp_path / "new").symlink_to("2")
    (tmp_path / "new").replace(data)
    await answers(service, "admin", "admin-password", 401)


BROKEN = {
    "Invalid": "region = ",
    "same name": toml([*USERS, ADMIN]),
    "it has no [[users]]": "",
    "Unterminated string": toml(USERS).rpartition(f'{CONTACT_CENTER}"')[0],
    "utf-8": b"\xff",
    "unknown field": toml(USERS, head="regoin = 'x'"),
    "No such file": None,
}


async def test_unusable_file_keeps_the_users_and_is_logged_once_per_change(
    service: Service, file: Path, looks: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    for fault, content in BROKEN.items():
        caplog.clear()
        write(file, content)
        await logged(caplog, "the users stay as they were")
        seen = len(looks)
        await eventually(lambda seen=seen: len(looks) > seen + 3)  # type: ignore[misc]
        assert (await service.client("admin").get(PATH)).status_code == 404
        (error,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
        assert str(file) in error
        assert fault.lower() in error.lower(), error
        assert "$argon2" not in caplog.text
    replace(file, toml([OPS]))
    await answers(service, "admin", "admin-password", 401)
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1


@pytest.mark.parametrize("unreadable", ["the file", "a ca_file that it names"])
async def test_a_changed_file_that_cannot_be_read_now_is_read_later(
    service: Service, file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, unreadable: str
) -> None:
    """As without a free descriptor: a user that it no longer has must go all the same."""
    ca_file = file.with_name("ca.pem")

    def fails(_: Path) -> str:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        if unreadable == "the file":
            patch.setattr(app.settings, "_read", fails)
        replace(file, f"{toml([OPS])}\n[[storage.webdav]]\nbase_url = 'https://a.example'\nca_file = '{ca_file}'")
        await logged(caplog, "the users stay as they were")
        assert (await service.client("admin").get(PATH)).status_code == 404
        shutil.copy(certifi.where(), ca_file)
    await answers(service, "admin", "admin-password", 401)
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1


async def test_other_changes_need_a_restart_which_is_logged(
    service: Service, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # What it is compared with is what the first look found.
    replace(file, toml([OPS]))
    await answers(service, "admin", "admin-password", 401)
    replace(file, toml(USERS, head="region = 'elsewhere'\nelasticsearch_password = 'hidden'"))
    await logged(caplog, "need a restart: region, elasticsearch_password")
    await answers(service, "admin", "admin-password", 404)
    assert "hidden" not in caplog.text
    assert "users added: 'admin'" in caplog.text


async def test_environment_takes_precedence_over_a_changed_file(
    service: Service, file: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECALL_REGION", "here")
    replace(file, toml([OPS], head="region = 'elsewhere'"))
    await answers(service, "admin", "admin-password", 401)
    replace(file, toml(USERS, head="region = 'nowhere'"))
    await answers(service, "admin", "admin-password", 404)
    assert "restart" not in caplog.text


async def test_no_watching_without_a_file(service: Service, start_service: StartService) -> None:
    def watches() -> int:
        return sum(getattr(task.get_coro(), "__qualname__", "") == "_watch" for task in asyncio.all_tasks())

    assert watches() == 1
    await start_service()
    assert watches() == 1


async def test_failed_attempts_are_counted_across_a_reload(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.auth.throttle, "_FIRST_PAUSE", 100.0)
    authenticator = Authenticator(USERS)
    for _ in range(20):
        authenticator._throttle._count("admin", "10.0.0.1")
    (attempts,) = authenticator._throttle._attempts.values()
    attempts.next = authenticator._clock() + 1_000
    authenticator.replace_users((OPS, ADMIN))
    with pytest.raises(TooManyAttempts) as refused:
        await authenticator.authenticate(basic("admin", "guess"), "10.0.0.1")
    assert refused.value.headers is not None
    assert "Retry-After" in refused.value.headers


async def test_password_that_changes_during_its_verification_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    authenticator = Authenticator(USERS)
    verify = authenticator._matches

    def change_meanwhile(password_hash: str, password: str) -> bool:
        authenticator.replace_users((OPS,))
        return verify(password_hash, password)

    monkeypatch.setattr(authenticator, "_matches", change_meanwhile)
    for _ in range(2):
        with pytest.raises(NotAuthenticated):
            await authenticator.authenticate(basic("admin", "admin-password"), "10.0.0.1")
