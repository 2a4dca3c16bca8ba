"""`scripts/users.py check`: what the entry of a user lets her do and see."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from elasticsearch import AsyncElasticsearch

from app.settings import Settings, User
from app.store.indices import create_indices
from tests.support.forked import Forked
from tests.support.recordings import CONTACT_CENTER, REGION, a_media_file, a_recording, store_many
from tests.support.service import PATIENT, hash_password

ROOT = Path(__file__).parents[2]


def an_entry(name: str, **entry: Any) -> User:
    fields = {"name": name, "password_hash": hash_password("x"), "contact_center": CONTACT_CENTER, **entry}
    return User(**fields)


@pytest.fixture
def config(tmp_path: Path, settings: Settings) -> Path:
    file = tmp_path / "recall.toml"
    users = [
        an_entry("amy", roles=("supervisor",), access_groups=("/US",), own_recordings=True),
        an_entry("bob", roles=("agent",), permissions=("RECORDING_PERMISSION_APPLY_NON_DELETE",)),
        an_entry("carl", roles=("admin",)),
        an_entry("olga", roles=("ops",), contact_center=None),
    ]
    body = {
        "region": REGION,
        "index_prefix": settings.index_prefix,
        "elasticsearch_url": settings.elasticsearch_url,
        "replicas": 0,
        "users": users,
        **PATIENT,
    }
    file.write_bytes(msgspec.toml.encode(body | {"users": [_set(user) for user in users]}))
    return file


def _set(user: User) -> dict[str, Any]:
    return {name: value for name, value in msgspec.structs.asdict(user).items() if value is not None}


async def check(config: Path, *arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output, standard error. The script has no settings but those of the file."""
    out, err = config.with_name("out"), config.with_name("err")
    program = [str(ROOT / "scripts" / "users.py"), "check", str(config), *arguments]
    status = await Forked(program, {"PATH": "/usr/bin"}, out=out, err=err).wait()
    return status, out.read_text(), err.read_text()


def line(text: str, name: str) -> str:
    (found,) = [line for line in text.splitlines() if line.startswith(name)]
    return found.removeprefix(name).strip()


async def test_check_tells_what_a_user_may_do_and_see(config: Path) -> None:
    status, told, _ = await check(config, "amy")
    assert status == 0
    assert {"search", "read", "play"} <= set(line(told, "may").split(", "))
    assert "apply" not in line(told, "may").split(", ")
    assert line(told, "sees") == "media files in the access groups /US; the user's own recordings"
    _, told, _ = await check(config, "bob")
    assert "apply" in line(told, "may").split(", ")
    assert line(told, "sees") == "no recording"
    assert line((await check(config, "carl"))[1], "sees") == "every recording of the contact center"
    assert line((await check(config, "olga"))[1], "sees") == "every recording"


async def test_check_names_the_users_of_the_file_when_one_is_missing(config: Path) -> None:
    status, _, message = await check(config, "dora")
    assert status == 1
    assert "no user 'dora'" in message
    assert "'amy', 'bob'" in message


async def test_check_tells_which_media_files_of_a_recording_a_user_sees_and_why(
    config: Path, settings: Settings, elasticsearch: AsyncElasticsearch
) -> None:
    await create_indices(elasticsearch, settings)
    media = [
        a_media_file("1", mediaId="one", accessgroups=["US/CA"]),
        a_media_file("2", mediaId="two\x1b[31m", accessgroups=["DE"], partitions=["sales"]),
    ]
    await store_many(elasticsearch, settings, [a_recording("r", mediaFiles=media)])
    await store_many(elasticsearch, settings, [a_recording("s", mediaFiles=[media[1]])])
    status, told, _ = await check(config, "amy", "--recording", "r")
    assert status == 0
    assert "r is visible" in told
    assert "own recording: no; its agents are dima.p@genesys.com" in told
    assert "visible  one  access groups US/CA; partitions /" in told
    assert 'hidden   "two\\u001b[31m"  access groups DE; partitions sales' in told
    assert (await check(config, "amy", "--recording", "s"))[0] == 1
    assert (await check(config, "carl", "--recording", "s"))[0] == 0
    status, told, _ = await check(config, "amy", "--recording", "absent")
    assert status == 1
    assert "absent does not exist in the region test" in told
    status, _, message = await check(config, "olga", "--recording", "r")
    assert (status, "--contact-center" in message) == (2, True)
    assert (await check(config, "olga", "--recording", "r", "--contact-center", CONTACT_CENTER))[0] == 0
