"""A recording as clients read it: media addresses, ids of every kind (docs/contract.md sections 3 and 4)."""

import asyncio
import re
from typing import Any
from urllib.parse import quote, unquote
from uuid import UUID, uuid4

import httpx
import pytest

from app.settings import Settings
from tests.support.recordings import OPS_PATH, a_media_file, a_recording
from tests.support.service import Service, StartService, assert_error

PATH = "/api/v2/recordings"


@pytest.fixture(scope="module")
def service(module_service: Service) -> Service:
    return module_service


@pytest.fixture
def new_id() -> str:
    return f"id-{uuid4()}"


def s3(path: str = "calls/sample1.mp3", bucket: str = "stage-recordings", **attributes: Any) -> dict[str, Any]:
    return {"storage": "awsS3", "path": path, "data": {"bucket": bucket}, **attributes}


def web_dav(path: str, **attributes: Any) -> dict[str, Any]:
    return {"storage": "webDAV", "path": path, **attributes}


async def post(ops: httpx.AsyncClient, recording: dict[str, Any]) -> None:
    response = await ops.post(OPS_PATH, json=recording)
    assert response.status_code in {200, 201}, response.text


async def post_media(
    ops: httpx.AsyncClient, recording_id: str, *descriptors: dict[str, Any], **attributes: Any
) -> None:
    media_files = [a_media_file(mediaDescriptor=descriptor, **attributes) for descriptor in descriptors]
    await post(ops, a_recording(recording_id, mediaFiles=media_files))


async def read_media(client: httpx.AsyncClient, recording_id: str, under: str = PATH) -> list[dict[str, Any]]:
    response = await client.get(f"{under}/{recording_id}")
    assert response.status_code == 200, response.text
    media_files: list[dict[str, Any]] = response.json()["recording"]["mediaFiles"]
    return media_files


def uuid_of(media: dict[str, Any]) -> str:
    return str(media["mediaPath"].rpartition("/")[2].partition(".")[0])


# --- media addresses ---


async def test_media_file_has_addresses_instead_of_its_descriptor(
    service: Service, ops: httpx.AsyncClient, admin: httpx.AsyncClient, new_id: str
) -> None:
    await post_media(ops, new_id, s3(), web_dav("http://media.example/a.wav"))
    for media, extension in zip(await read_media(admin, new_id), ("mp3", "wav"), strict=True):
        assert media.keys() == {"startTime", "stopTime", "callUUID", "mediaUri", "mediaPath", "playPath"}
        path = media["mediaPath"]
        assert re.fullmatch(rf"/recordings/{new_id}/play/[0-9a-f-]{{36}}\.{extension}", path)
        assert str(UUID(uuid_of(media))) == uuid_of(media)
        assert media["playPath"] == path
        assert media["mediaUri"] == f"{service.url}/api/v2{path}"


@pytest.mark.parametrize("host", ["recall.example", "recall.example:8443", "10.10.15.89", "[::1]:8080"])
async def test_addresses_use_the_host_of_the_request(
    ops: httpx.AsyncClient, admin: httpx.AsyncClient, new_id: str, host: str
) -> None:
    posted = await ops.post(OPS_PATH, json=a_recording(new_id), headers={"host": host})
    assert posted.json()["uri"] == f"http://{host}{OPS_PATH}/{new_id}"
    response = await admin.get(f"{PATH}/{new_id}", headers={"host": host})
    for media in response.json()["recording"]["mediaFiles"]:
        assert media["mediaUri"] == f"http://{host}/api/v2{media['mediaPath']}"


@pytest.mark.parametrize(
    "host", ["", "a b", "other.example/path", "user@other.example", 'a"b', "<script>", "h:port", "h:99999", "[::1", "é"]
)
async def test_invalid_host_is_not_used_in_addresses(
    service: Service, ops: httpx.AsyncClient, admin: httpx.AsyncClient, new_id: str, host: str
) -> None:
    await post(ops, a_recording(new_id))
    response = await admin.get(f"{PATH}/{new_id}", headers=[(b"host", host.encode())])
    if response.status_code == 200:
        media = response.json()["recording"]["mediaFiles"][0]
        assert media["mediaUri"] == f"{service.url}/api/v2{media['mediaPath']}"
    else:
        assert response.status_code == 400


@pytest.mark.parametrize(
    "public_url", ["https://calls.example", "https://calls.example/", "https://calls.example:8443/cloud-web/"]
)
async def test_configured_public_url_is_the_base_of_every_address(
    start_service: StartService, new_id: str, public_url: str
) -> None:
    service = await start_service(public_url=public_url)
    base = public_url.rstrip("/")
    posted = await service.client("ops").post(OPS_PATH, json=a_recording(new_id), headers={"host": "other.example"})
    assert posted.json()["uri"] == f"{base}{OPS_PATH}/{new_id}"
    response = await service.client("admin").get(f"{PATH}/{new_id}", headers={"host": "other.example"})
    media = response.json()["recording"]["mediaFiles"][0]
    assert media["mediaUri"] == f"{base}/api/v2{media['mediaPath']}"
    assert media["mediaPath"].startswith(f"/recordings/{new_id}/play/")


@pytest.mark.parametrize(
    ("descriptor", "media_type", "extension"),
    [
        (s3("calls/sample1.mp3"), "audio/wav", "mp3"),
        (s3("sample1.wav"), None, "wav"),
        (s3("a.b.c.ogg"), None, "ogg"),
        (s3("archive.tar.gz"), None, "gz"),
        (s3("calls/no-extension"), "audio/wav", "wav"),
        (s3("calls/no-extension"), "audio/x-wav", "wav"),
        (s3("calls/no-extension"), "audio/ogg", "ogg"),
        (s3("calls/no-extension"), "audio/mpeg", "mp3"),
        (s3("calls/no-extension"), "audio/mp3", "mp3"),
        (s3("calls/no-extension"), "Audio/WAV; rate=8000", "wav"),
        (s3("calls/no-extension"), "video/mp4", "mp4"),
        (s3("2013.05.17/no-extension"), "audio/wav", "wav"),
        (s3("calls/ends-with-a-dot."), "audio/wav", "wav"),
        (s3("calls.mp3/"), "audio/wav", "wav"),
        (s3("calls/not an.ext ension"), "audio/wav", "wav"),
        (s3("calls/not.an/é.xté"), "audio/wav", "wav"),
        (web_dav("http://media.example/calls/sample1.mp3"), "audio/wav", "mp3"),
        (web_dav("http://media.example/sample1%3Fname=a"), "audio/wav", "wav"),
        (web_dav("http://media.example/a%20b.mp3"), "audio/wav", "mp3"),
    ],
)
async def test_extension_comes_from_the_path_or_else_the_type(
    ops: httpx.AsyncClient, new_id: str, descriptor: dict[str, Any], media_type: str | None, extension: str
) -> None:
    await post_media(ops, new_id, descriptor, **({"type": media_type} if media_type else {}))
    (media,) = await read_media(ops, new_id, OPS_PATH)
    assert media["mediaPath"].rpartition("/")[2].partition(".")[2] == extension


@pytest.mark.parametrize("media_type", [None, "", "wav", "audio/", "/wav", "audio/../../x", "a b/c d", "é/é", "*/*"])
async def test_a_media_file_without_usable_path_or_type_gets_the_default_extension(
    ops: httpx.AsyncClient, admin: httpx.AsyncClient, new_id: str, media_type: str | None
) -> None:
    await post_media(ops, new_id, s3("no-extension"), **({"type": media_type} if media_type is not None else {}))
    (media,) = await read_media(admin, new_id)
    assert re.fullmatch(r"[0-9a-f-]{36}\.[A-Za-z0-9]+", media["mediaPath"].rpartition("/")[2])


# --- the uuid of a media file ---


async def test_media_uuid_never_changes(ops: httpx.AsyncClient, admin: httpx.AsyncClient, new_id: str) -> None:
    await post_media(ops, new_id, s3("a"), web_dav("http://media.example/a"))
    before = [uuid_of(media) for media in await read_media(admin, new_id)]
    # Everything about them is changed but their identity; and another one comes before them in time.
    later = {"startTime": "2014-01-01T00:00:00Z", "stopTime": "2014-01-01T01:00:00Z", "callUUID": "other"}
    auth = {"userName": "u", "password": "p"}
    await post_media(
        ops,
        new_id,
        s3("new"),
        web_dav("http://media.example/a", auth=auth, data={"a": 1}),
        s3("a", storage_version="2", auth=auth),
        type="audio/ogg",
        mediaId="other",
        **later,
    )
    after = await read_media(admin, new_id)
    assert {media["callUUID"] for media in after} == {"other"}
    assert len(after) == 3
    assert set(before) < {uuid_of(media) for media in after}


async def test_media_uuid_does_not_depend_on_where_the_recording_is_stored(
    start_service: StartService, settings: Settings, new_id: str
) -> None:
    uuids = set()
    for prefix in ("first", "second"):
        service = await start_service(index_prefix=f"{settings.index_prefix}-{prefix}")
        await post_media(service.client("ops"), new_id, s3())
        uuids |= {uuid_of(media) for media in await read_media(service.client("admin"), new_id)}
    assert len(uuids) == 1


async def test_other_identity_has_another_uuid(ops: httpx.AsyncClient, admin: httpx.AsyncClient, new_id: str) -> None:
    descriptors = (
        s3("a"),
        s3("b"),
        s3("A"),
        s3("a", bucket="other"),
        s3("a/b", bucket="c"),
        s3("a", bucket="b/c"),
        s3("http://media.example/a"),
        s3("a", bucket="webDAV"),
        web_dav("http://media.example/a"),
        web_dav("https://media.example/a"),
        web_dav("http://media.example/a%3Fb"),
    )
    await post_media(ops, new_id, *descriptors)
    await post_media(ops, f"{new_id}-other", *descriptors)
    uuids = [
        uuid_of(media) for recording in (new_id, f"{new_id}-other") for media in await read_media(admin, recording)
    ]
    assert len(set(uuids)) == len(uuids) == 2 * len(descriptors)


# --- what only ops sees ---


@pytest.mark.parametrize(
    "descriptor",
    [
        s3(),
        s3("b", storage_version="2", auth={"ignored": True}, extra=[1, None]),
        {**s3("c"), "data": {"bucket": "b", "region": "eu", "nested": {"a": [1]}}},
        web_dav("http://media.example/a.mp3"),
        web_dav("http://media.example/b.mp3", auth={"userName": "u", "password": "p"}, storage_version="1", data={}),
        web_dav("http://media.example/c.mp3", auth=None, data=None),
    ],
)
async def test_only_ops_sees_the_media_descriptor_as_posted(
    ops: httpx.AsyncClient, admin: httpx.AsyncClient, new_id: str, descriptor: dict[str, Any]
) -> None:
    await post_media(ops, new_id, descriptor)
    (for_ops,), (for_admin,) = await read_media(ops, new_id, OPS_PATH), await read_media(admin, new_id)
    path = OPS_PATH.removeprefix("/api/v2").removesuffix("/recordings") + for_admin["mediaPath"]
    uri = for_admin["mediaUri"].replace(for_admin["mediaPath"], path)
    addresses = {"mediaPath": path, "playPath": path, "mediaUri": uri}
    assert for_ops == {
        **for_admin,
        **addresses,
        "originalMediaDesc": descriptor,
        "originalMediaDescriptor": descriptor,
    }
    assert for_admin.keys().isdisjoint({"mediaDescriptor", "originalMediaDesc", "originalMediaDescriptor"})


async def test_search_shows_the_media_descriptor_only_to_ops(
    ops: httpx.AsyncClient, admin: httpx.AsyncClient, new_id: str
) -> None:
    recording = a_recording(new_id, callerPhoneNumber=new_id)
    await ops.post(OPS_PATH, json=recording, params={"refresh": "wait_for"})
    for client, path in ((ops, OPS_PATH), (admin, PATH), (admin, f"{PATH}/recordings")):
        (found,) = (await client.get(path, params={"callerPhoneNumber": new_id})).json()["recordings"]
        (media,) = found["mediaFiles"]
        assert "mediaDescriptor" not in media
        assert media.get("originalMediaDesc") == (s3() if client is ops else None)


async def test_search_returns_a_recording_like_its_own_path(
    ops: httpx.AsyncClient, admin: httpx.AsyncClient, new_id: str
) -> None:
    recording = a_recording(new_id, callerPhoneNumber=new_id, extra={"a": [1, None]})
    await ops.post(OPS_PATH, json=recording, params={"refresh": "wait_for"})
    for client, path in ((ops, OPS_PATH), (admin, PATH)):
        (found,) = (await client.get(path, params={"callerPhoneNumber": new_id})).json()["recordings"]
        assert found == (await client.get(f"{path}/{new_id}")).json()["recording"]


# --- ids ---

IDS = (
    "plain",
    "PLAIN",
    "a/b",
    "a%2Fb",
    "a%2fb",
    "a%252Fb",
    "a?b",
    "a?startTime=0",
    "a#b",
    ".",
    "..",
    "...",
    "a/../b",
    "../a",
    "..%2F..",
    "/",
    "//",
    "/a",
    "a/",
    "%",
    "%%",
    "%zz",
    "%00",
    "a b",
    "a  b",
    "a+b",
    "a%20b",
    "a&b=c",
    "a;b",
    "a,b",
    "a:b@c",
    "a=b",
    "\"double\" 'single' `back`",
    "back\\slash",
    "<script>alert(1)</script>",
    "*",
    "a*b",
    "[a]{b}|^~",
    "a\0b",
    "\x01",
    "a\tb\nc\r\nd",
    "\x7f",
    "é",
    "e\u0301",
    "İßΣς",
    "名前",
    "😀",
    "👨‍👩‍👧‍👦",
    "\u200bzero width\ufeff",
    "\ufdd0 and \uffff",
    "x" * 400,
    "é" * 200,
    "😀" * 100,
    "/" * 400,
    "recordings",
    "recordings/recordings",
    "play",
    "plain/play/x.mp3",
    "ops",
)


def fully_encoded(text: str) -> str:
    """Every byte percent-encoded, which no client or server can take for something else."""
    return "".join(f"%{byte:02X}" for byte in text.encode())


@pytest.fixture(scope="module")
async def found(service: Service) -> dict[str, dict[str, Any]]:
    """The recordings of IDS as a search finds them, by id."""
    ops = service.client("ops")
    answers = await asyncio.gather(
        *(
            ops.post(OPS_PATH, json=a_recording(id_, callerPhoneNumber="of IDS"), params={"refresh": "wait_for"})
            for id_ in IDS
        )
    )
    assert [response.status_code for response in answers] == [201] * len(IDS)
    response = await service.client("admin").get(PATH, params={"callerPhoneNumber": "of IDS"})
    return {recording["id"]: recording for recording in response.json()["recordings"]}


@pytest.mark.parametrize("recording_id", IDS)
async def test_any_id_can_be_read_and_found(
    ops: httpx.AsyncClient, admin: httpx.AsyncClient, found: dict[str, dict[str, Any]], recording_id: str
) -> None:
    response = await admin.get(f"{PATH}/{fully_encoded(recording_id)}")
    assert response.status_code == 200, response.text
    recording = response.json()["recording"]
    assert recording == found[recording_id]
    assert recording["id"] == recording_id
    response = await ops.get(f"{OPS_PATH}/{fully_encoded(recording_id)}")
    assert response.status_code == 200, response.text
    assert response.json()["recording"]["id"] == recording_id


@pytest.mark.parametrize("recording_id", sorted(set(IDS) - {".", "..", "recordings"}))
async def test_any_id_can_be_read_as_clients_usually_encode_it(
    ops: httpx.AsyncClient, admin: httpx.AsyncClient, found: dict[str, dict[str, Any]], recording_id: str
) -> None:
    for client, path in ((admin, PATH), (ops, OPS_PATH)):
        response = await client.get(f"{path}/{quote(recording_id, safe='')}")
        assert response.json()["recording"]["id"] == recording_id


async def test_search_path_differs_from_the_recording_named_recordings(
    ops: httpx.AsyncClient, admin: httpx.AsyncClient, found: dict[str, dict[str, Any]]
) -> None:
    assert_error(await admin.get(f"{PATH}/recordings"), 400, 1)
    # Only the administrator's search has this second path.
    assert (await ops.get(f"{OPS_PATH}/recordings")).json()["recording"]["id"] == "recordings"


@pytest.mark.parametrize("recording_id", IDS)
async def test_uri_and_media_path_decode_to_the_id(
    service: Service, ops: httpx.AsyncClient, found: dict[str, dict[str, Any]], recording_id: str
) -> None:
    (media,) = found[recording_id]["mediaFiles"]
    assert media["mediaUri"] == f"{service.url}/api/v2{media['mediaPath']}"
    empty, recordings, segment, play, name = media["mediaPath"].split("/")
    assert (empty, recordings, unquote(segment, errors="strict"), play) == ("", "recordings", recording_id, "play")
    assert re.fullmatch(r"[0-9a-f-]{36}\.mp3", name)

    response = await ops.post(OPS_PATH, json=a_recording(recording_id, callerPhoneNumber="of IDS"))
    assert (response.status_code, response.json()["id"]) == (200, recording_id)
    uri = response.json()["uri"]
    assert unquote(uri.rpartition("/")[2], errors="strict") == recording_id
    assert (await ops.get(uri)).json()["recording"]["id"] == recording_id
    for address in (uri, media["mediaUri"]):
        # Nothing in it that a client would have to encode, or would resolve.
        assert re.fullmatch(r"http://[0-9.:]+(/[A-Za-z0-9_.~%-]+)+", address)
        assert {".", ".."}.isdisjoint(address.split("/"))


async def test_every_id_has_its_own_media_addresses(found: dict[str, dict[str, Any]]) -> None:
    assert found.keys() == set(IDS)
    assert len({uuid_of(recording["mediaFiles"][0]) for recording in found.values()}) == len(IDS)


@pytest.mark.parametrize(
    "recording_id", ["x" * 401, "é" * 201, "😀" * 100 + "x", " x", "x ", " ", "\u00a0x", "x\u3000"]
)
async def test_invalid_id_is_refused_by_post_and_not_found_by_get(
    ops: httpx.AsyncClient, admin: httpx.AsyncClient, recording_id: str
) -> None:
    assert_error(await ops.post(OPS_PATH, json=a_recording(recording_id)), 400, 2, "Parameter 'id' is invalid: ")
    for client, path in ((admin, PATH), (ops, OPS_PATH)):
        response = await client.get(f"{path}/{fully_encoded(recording_id)}")
        assert response.status_code in {400, 404}
        assert_error(response, response.status_code, 6 if response.status_code == 404 else 2)


# --- not found ---


@pytest.mark.parametrize("prefix", ["", "a/", "%2F", "..", "a b", "[x]", '"', "\\", "\0", "\n", "é", "😀", "<b>", "{}"])
async def test_missing_recording_is_404_and_named(
    ops: httpx.AsyncClient, admin: httpx.AsyncClient, new_id: str, prefix: str
) -> None:
    recording_id = prefix + new_id
    for client, path in ((admin, PATH), (ops, OPS_PATH)):
        response = await client.get(f"{path}/{fully_encoded(recording_id)}")
        assert_error(response, 404, 6)
        assert response.json()["statusMessage"] == f"Requested recording [{recording_id}] cannot be found."


async def test_acknowledged_recording_can_be_read_immediately(
    ops: httpx.AsyncClient, admin: httpx.AsyncClient, new_id: str
) -> None:
    for number in range(5):
        await post(ops, a_recording(new_id, callerPhoneNumber=str(number)))
        recording = (await admin.get(f"{PATH}/{new_id}")).json()["recording"]
        assert recording["callerPhoneNumber"] == str(number)
