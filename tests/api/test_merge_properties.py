"""What a GET returns after any sequence of POSTs for one id is what tests/oracle.py says."""

import asyncio
import re
from collections import Counter
from collections.abc import Iterable
from random import Random
from typing import Any
from urllib.parse import quote, urlsplit
from uuid import uuid4

import httpx
import hypothesis
import pytest
from hypothesis import strategies

from tests.support import oracle
from tests.support.oracle import Number, Recording
from tests.support.recordings import (
    CONTACT_CENTER,
    OPS_PATH,
    OTHER_CONTACT_CENTER,
    REGION,
    a_media_file,
    a_recording,
    a_user,
    an_event,
)
from tests.support.service import Service
from tests.support.sizes import MERGED_IDS

# --- What is posted -------------------------------------------------------------------------------

# Few of each, so that identities meet; and near misses, which must stay apart.
PATHS = ("a.mp3", "calls/a.mp3", "/calls/a.mp3", "calls//a.mp3", "calls/A.mp3", "calls/\u00e9", "calls/e\u0301", "a b")
BUCKETS = ("stage-recordings", "stage-recordings", "stage-recordings/calls")
URLS = ("http://10.10.15.83:8080/sample1.mp3", "http://10.10.15.83:8080/sample2", "http://10.10.15.83/sample1.mp3")
PHONE_NUMBERS = ("+1", "+1", "UNKNOWN", "+1 2")

NOON = 1368792000000  # 2013-05-17T12:00:00Z
INSTANTS = (NOON, NOON, NOON + 1, NOON + 100, NOON + 3_600_000, 0, -1)

# Attributes that no table has, among them such as a storage or a merge may keep for itself.
UNKNOWN = (
    *("x", "y", "x.y", "_id", "_source", "_version", "id_", "", " ", "é", "*", "a" * 600, "\u0000"),
    *("statusCode", "contactCenter", "contact_center", "document", "source", "body", "type", "protected", "version"),
)
NUMBERS = ("0", "-1", "1.10", "1e5", "-0.0", "12345678901234567890123", "9007199254740993", "-3.25E-7")


def some_json(rng: Random, depth: int = 2) -> Any:
    match rng.randrange(8 if depth else 5):
        case 0 | 1:
            return rng.choice(("", "text", " spaces ", "2013-05-17T11:45:32.000-0800", "\u0000", "😀", "\ufdd0"))
        case 2 | 3:
            return Number(rng.choice(NUMBERS))
        case 4:
            return rng.choice((True, False, None))
        case 5 | 6:
            return {rng.choice(UNKNOWN): some_json(rng, depth - 1) for _ in range(rng.randint(0, 3))}
    return [some_json(rng, depth - 1) for _ in range(rng.randint(0, 3))]


def unknown_attributes(rng: Random, also: Iterable[str] = ()) -> dict[str, Any]:
    return {rng.choice((*UNKNOWN, *also)): some_json(rng) for _ in range(rng.choice((0, 0, 1, 1, 2)))}


def ignored_attributes(rng: Random, names: Iterable[str]) -> dict[str, Any]:
    """Attributes that are the service's to say, as a client may post back what it once got, or junk."""
    likely = ("http://elsewhere/a.mp3", "2001-01-01T00:00:00.000+0000", True, None, {"storage": "awsS3"}, [Number("1")])
    return {name: rng.choice(likely) for name in names if rng.random() < 0.2}


def some_date(rng: Random) -> str:
    return rng.choice(oracle.spellings(rng.choice(INSTANTS)))


def some_descriptor(rng: Random) -> dict[str, Any]:
    descriptor: dict[str, Any]
    if rng.random() < 0.6:
        data = {"bucket": rng.choice(BUCKETS), **({"x": some_json(rng)} if rng.random() < 0.2 else {})}
        descriptor = {"storage": "awsS3", "path": rng.choice((*PATHS, *PATHS, *URLS)), "data": data}
    else:
        descriptor = {"storage": "webDAV", "path": rng.choice(URLS)}
        if rng.random() < 0.3:
            descriptor["data"] = {"bucket": rng.choice(BUCKETS)}  # no part of the identity here
    if rng.random() < 0.2:
        descriptor["storage_version"] = rng.choice(("1", "2"))
    if rng.random() < 0.2:
        descriptor["auth"] = {"user": "u", "password": rng.choice(("p", "q"))}
    return descriptor


def some_media_file(rng: Random) -> dict[str, Any]:
    known: dict[str, Any] = {
        "mediaId": rng.choice(("one", "two", "")),
        "type": rng.choice(("audio/wav", "audio/mpeg")),
        "duration": "8000",
        "tenant": "Environment",
        "parameters": {"record": "source", "recorddn": some_json(rng)},
        "masks": [{"time": "2013-02-06T10:23:10.034Z", "type": "paused"}],
        "certAlias": ["cert1", "cert2"],
        rng.choice(("accessgroup", "accessgroups")): ["US", rng.choice(("US/CA", "US/NY"))],
    }
    return a_media_file(
        startTime=some_date(rng),
        stopTime=some_date(rng),
        mediaDescriptor=some_descriptor(rng),
        callUUID=rng.choice(("call-1", "call-2")),
        **{name: value for name, value in known.items() if rng.random() < 0.3},
        **{name: value for name, value in unknown_attributes(rng, ["nonDelete"]).items() if name not in known},
        **ignored_attributes(rng, (*oracle.LINKS, *oracle.DESCRIPTORS)),
    )


def some_event(rng: Random) -> dict[str, Any]:
    contact = a_user(rng.choice(("Dima", "Alice")), phoneNumber=rng.choice(PHONE_NUMBERS))
    if rng.random() < 0.5:
        contact = {"type": "External", "phoneNumber": rng.choice(PHONE_NUMBERS), "firstName": rng.choice(("", " A "))}
    unknown_of_contact = unknown_attributes(rng, ["startTime", "mediaUri", "occurredAt"])
    unknown_of_contact.pop("type", None)
    return an_event(
        occurredAt=some_date(rng),
        event=rng.choice(("Joined", "Left")),
        contact={**contact, **unknown_of_contact},
        **unknown_attributes(rng, ["startTime", "stopTime", "mediaUri", "nonDelete"]),
        **({"data": {"key": some_json(rng)}} if rng.random() < 0.5 else {}),
    )


def some_post(rng: Random, recording_id: str, region: str = REGION) -> Recording:
    return a_recording(
        recording_id,
        region=region,
        callerPhoneNumber=rng.choice(("+1", "+2", "*", "a b")),
        dialedPhoneNumber=rng.choice(("+1", "+2")),
        mediaFiles=[some_media_file(rng) for _ in range(rng.randint(1, 4))],
        eventHistory=[some_event(rng) for _ in range(rng.randint(1, 4))],
        # What the service does not derive for a recording is kept like any other attribute.
        **{**unknown_attributes(rng, ["mediaUri", "occurredAt"]), **unknown_attributes(rng)},
    ) | ignored_attributes(rng, ("startTime", "stopTime", "nonDelete", "nonDeletion", "labels"))


# --- Asking the service ---------------------------------------------------------------------------


async def post(ops: httpx.AsyncClient, recording: Recording, contact_center: str = CONTACT_CENTER) -> httpx.Response:
    body = oracle.dumps(recording)
    response = await ops.post(
        OPS_PATH.replace(CONTACT_CENTER, contact_center),
        content=body.encode(),
        headers={"Content-Type": "application/json"},
    )
    assert response.status_code in {200, 201}, f"{response.text} for {body}"
    answer = response.json()
    assert answer.keys() == {"statusCode", "id", "uri"}
    assert (answer["statusCode"], answer["id"]) == (0, recording["id"])
    return response


async def get(client: httpx.AsyncClient, path: str, recording_id: str) -> Recording:
    response = await client.get(f"{path}/{quote(recording_id, safe='')}")
    assert response.status_code == 200, response.text
    answer = oracle.loads(response.content)
    assert answer.keys() == {"statusCode", "recording"}
    recording: Recording = answer["recording"]
    return recording


class Reader:
    """Reads one recording as both users who may, and holds it against the oracle."""

    def __init__(self, service: Service, recording_id: str) -> None:
        self.service, self.recording_id = service, recording_id
        self.admin, self.ops = service.client("admin"), service.client("ops")
        self.uuids: dict[tuple[str, ...], str] = {}

    async def check(self, *posts: Recording) -> None:
        kept = oracle.merge(*posts)
        ops_prefix = OPS_PATH.removeprefix("/api/v2").removesuffix("/recordings")
        for to_ops, got in (
            (False, await get(self.admin, "/api/v2/recordings", self.recording_id)),
            (True, await get(self.ops, OPS_PATH, self.recording_id)),
        ):
            expected = oracle.shown(kept, to_ops=to_ops)
            differing = _differing(oracle.comparable(expected), oracle.comparable(oracle.without_links(got)))
            sent = "\n".join(oracle.dumps(one, ascii_only=True) for one in posts)
            assert not differing, f"{differing}\nafter these posts:\n{sent}"
            self._check_links(kept, got, ops_prefix if to_ops else "")

    def _check_links(self, kept: Recording, got: Recording, prefix: str) -> None:
        path = f"{prefix}/recordings/{quote(self.recording_id, safe='')}/play/"
        for stored, media_file in zip(kept["mediaFiles"], got["mediaFiles"], strict=True):
            for link in ("mediaPath", "playPath"):
                assert media_file[link].startswith(path), media_file[link]
            assert media_file["mediaUri"] == f"{self.service.url}/api/v2{media_file['mediaPath']}"
            name = media_file["mediaPath"].removeprefix(path)
            match = re.fullmatch(r"([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})(\.\w+)?", name)
            assert match, name
            if stored["mediaDescriptor"]["path"].endswith(".mp3"):
                assert match[2] == ".mp3", name
            # The uuid belongs to the identity, whatever else of the media file changes, and to no other.
            assert self.uuids.setdefault(oracle.media_identity(stored), match[1]) == match[1]
        assert len(set(self.uuids.values())) == len(self.uuids)


def _differing(expected: Any, got: Any, path: str = "recording") -> str:
    """Where two values differ first, as a path and both sides."""
    if expected == got:
        return ""
    if isinstance(expected, dict) and isinstance(got, dict):
        for name in {**expected, **got}:
            if name not in got or name not in expected:
                return (
                    f"{path}.{name!a} is {'lost' if name in expected else 'not expected'}: {(expected | got)[name]!a}"
                )
            if expected[name] != got[name]:
                return _differing(expected[name], got[name], f"{path}.{name!a}")
    if isinstance(expected, list) and isinstance(got, list) and len(expected) == len(got):
        for index, (left, right) in enumerate(zip(expected, got, strict=True)):
            if left != right:
                return _differing(left, right, f"{path}[{index}]")
    return f"{path}: expected {expected!a}, got {got!a}"


# --- The properties -------------------------------------------------------------------------------


@hypothesis.settings(
    max_examples=MERGED_IDS,
    deadline=None,
    derandomize=False,
    print_blob=True,
    report_multiple_bugs=False,
    # Every example has an id of its own, so they may share the service. Posting takes long.
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture, hypothesis.HealthCheck.too_slow],
)
@hypothesis.given(rng=strategies.randoms(use_true_random=False))
async def test_get_returns_any_posts_of_one_id_merged(rng: Random, service: Service, ops: httpx.AsyncClient) -> None:
    recording_id = f"{uuid4()}{rng.choice(('', '/', ' %2F?#.', '😀'))}x"
    reader = Reader(service, recording_id)
    posts: list[Recording] = []
    for number in range(rng.randint(1, 5)):
        if rng.random() < 0.15:  # the same id elsewhere is another recording
            await post(ops, some_post(rng, recording_id), OTHER_CONTACT_CENTER)
            await post(ops, some_post(rng, recording_id, region="Test"))
        posts.append(some_post(rng, recording_id))
        response = await post(ops, posts[-1])
        assert response.status_code == (200 if number else 201)
        await reader.check(*posts)


@pytest.mark.parametrize("seed", range(5))
async def test_repeated_post_changes_nothing(seed: int, service: Service, ops: httpx.AsyncClient) -> None:
    rng = Random(seed)
    posts = [some_post(rng, "again") for _ in range(3)]
    for one in posts:
        await post(ops, one)
    before = await get(ops, OPS_PATH, "again")
    for _ in range(2):
        assert (await post(ops, posts[-1])).status_code == 200
        assert await get(ops, OPS_PATH, "again") == before, f"seed {seed}"


async def test_posting_back_what_was_read_changes_nothing(service: Service, ops: httpx.AsyncClient) -> None:
    """A client that puts `originalMediaDesc` back as `mediaDescriptor`, and posts the links and dates it got."""
    posts = [some_post(Random(seed), "read") for seed in range(3)]
    for one in posts:
        await post(ops, one)
    before = await get(ops, OPS_PATH, "read")
    media_files = [{**one, "mediaDescriptor": one["originalMediaDesc"]} for one in before["mediaFiles"]]
    await post(ops, {**before, "mediaFiles": media_files})
    assert await get(ops, OPS_PATH, "read") == before


async def test_uri_of_the_response_leads_to_the_recording(ops: httpx.AsyncClient) -> None:
    uri = (await post(ops, a_recording("a/b %2F?#😀"))).json()["uri"]
    assert urlsplit(uri).netloc == ops.base_url.netloc.decode()
    assert (await ops.get(uri)).json()["recording"]["id"] == "a/b %2F?#😀"


async def test_same_media_in_another_recording_has_another_uuid(
    ops: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    uris = set()
    for recording_id in ("one", "two"):
        await post(ops, a_recording(recording_id))
        recording = await get(admin, "/api/v2/recordings", recording_id)
        uris.add(recording["mediaFiles"][0]["mediaUri"].rpartition("/")[2])
    assert len(uris) == 2


@pytest.mark.parametrize(
    "number",
    ["1.10", "1e400", "-1e400", "1e-400", "0.1234567890123456789", "12345678901234567890.5", "9" * 400],
)
async def test_numbers_keep_their_value(number: str, service: Service, ops: httpx.AsyncClient) -> None:
    """At every level, also after an update, and whatever a float of the service could hold."""
    value = {"value": [Number(number)]}
    first = a_recording(
        "number",
        x=value,
        mediaFiles=[a_media_file(x=value, parameters=value)],
        eventHistory=[an_event(x=value, data=value, contact=a_user(x=value))],
    )
    second = a_recording("number", mediaFiles=[a_media_file("2")], eventHistory=[an_event(event="Left")])
    reader = Reader(service, "number")
    await post(ops, first)
    await reader.check(first)
    await post(ops, second)
    await reader.check(first, second)


async def test_fifty_concurrent_posts_are_all_kept(service: Service, ops: httpx.AsyncClient) -> None:
    posts = [
        a_recording(
            "busy",
            mediaFiles=[a_media_file("shared.mp3"), a_media_file(f"{number}.mp3")],
            eventHistory=[an_event(), an_event(contact=a_user(phoneNumber=f"+{number}"))],
            **{f"x{number}": Number(str(number))},
        )
        for number in range(50)
    ]
    answers = await asyncio.gather(*(post(ops, one) for one in posts))
    assert Counter(answer.status_code for answer in answers) == {201: 1, 200: 49}

    # In which order they took effect is open: only that of the lists' entries depends on it.
    expected = oracle.shown(oracle.merge(*posts), to_ops=True)
    got = oracle.without_links(await get(ops, OPS_PATH, "busy"))
    for recording in (expected, got):
        recording["mediaFiles"].sort(key=lambda one: one["originalMediaDesc"]["path"])
        recording["eventHistory"].sort(key=lambda one: one["contact"]["phoneNumber"])
    assert not _differing(oracle.comparable(expected), oracle.comparable(got))


async def test_fifty_identical_concurrent_posts_create_one_recording(service: Service, ops: httpx.AsyncClient) -> None:
    recording = some_post(Random(0), "twins")
    answers = await asyncio.gather(*(post(ops, recording) for _ in range(50)))
    # Of equal posts several may say that they created it: each of them sees what it wanted to create.
    assert 201 in {answer.status_code for answer in answers}
    await Reader(service, "twins").check(recording)
    assert (await post(ops, recording)).status_code == 200
