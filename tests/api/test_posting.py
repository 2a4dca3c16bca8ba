"""Creating and updating recordings: what is accepted, refused, kept (docs/contract.md sections 3 and 4)."""

import json
import re
from collections.abc import Iterable
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.support.recordings import CONTACT_CENTER, OPS_PATH, a_media_file, a_recording, a_user, an_event
from tests.support.service import Service, assert_error

JSON = {"content-type": "application/json"}
ABSENT = object()


@pytest.fixture(scope="module")
def service(module_service: Service) -> Service:
    return module_service


@pytest.fixture
def new_id() -> str:
    return f"id-{uuid4()}"


def two_of_everything(recording_id: str = "two") -> dict[str, Any]:
    """A recording with a media file in either storage, and a user who joined and left."""
    web_dav = {"storage": "webDAV", "path": "http://10.10.15.83:8080/sample1.mp3"}
    return a_recording(
        recording_id,
        mediaFiles=[a_media_file(), a_media_file(mediaDescriptor=web_dav)],
        eventHistory=[an_event(), an_event(event="Left")],
    )


def keys_of(path: str) -> list[str | int]:
    """`mediaFiles[1].callUUID` → "mediaFiles", 1, "callUUID"."""
    return [int(key) if key.isdigit() else key for key in re.findall(r"\w+", path)]


def at(recording: Any, path: str) -> Any:
    for key in keys_of(path):
        recording = recording[key]
    return recording


def put(recording: Any, path: str, value: object) -> None:
    *parents, last = keys_of(path)
    for key in parents:
        recording = recording[key]
    if value is ABSENT:
        del recording[last]
    else:
        recording[last] = value


def changed(path: str, value: object, recording_id: str = "changed") -> dict[str, Any]:
    """`two_of_everything` with another value, or none, at a path."""
    recording = two_of_everything(recording_id)
    put(recording, path, value)
    return recording


async def read(ops: httpx.AsyncClient, recording_id: str) -> dict[str, Any]:
    response = await ops.get(f"{OPS_PATH}/{recording_id}")
    assert response.status_code == 200, response.text
    recording: dict[str, Any] = response.json()["recording"]
    return recording


async def assert_refused(ops: httpx.AsyncClient, path: str, value: object, parameter: str = "") -> None:
    response = await ops.post(OPS_PATH, json=changed(path, value))
    assert_error(response, 400, 2, f"Parameter '{parameter or path}' is invalid: ")


async def assert_accepted(ops: httpx.AsyncClient, path: str, value: object, recording_id: str) -> None:
    response = await ops.post(OPS_PATH, json=changed(path, value, recording_id))
    assert response.status_code == 201, response.text


def every(paths: Iterable[str], values: Iterable[object]) -> list[tuple[str, object]]:
    values = list(values)
    return [(path, value) for path in paths for value in values]


# --- mandatory attributes ---

TRIMMED = (
    "callerPhoneNumber",
    "dialedPhoneNumber",
    "region",
    "mediaFiles[0].callUUID",
    "mediaFiles[1].callUUID",
    "eventHistory[0].contact.phoneNumber",
    "eventHistory[1].contact.userName",
    "eventHistory[0].contact.firstName",
    "eventHistory[1].contact.lastName",
)
PHONE_NUMBERS = ("callerPhoneNumber", "dialedPhoneNumber", "eventHistory[0].contact.phoneNumber")
DATES = (
    "mediaFiles[0].startTime",
    "mediaFiles[1].startTime",
    "mediaFiles[0].stopTime",
    "mediaFiles[1].stopTime",
    "eventHistory[0].occurredAt",
    "eventHistory[1].occurredAt",
)
MANDATORY = (
    "id",
    *TRIMMED,
    *DATES,
    "mediaFiles",
    "mediaFiles[0].mediaDescriptor",
    "mediaFiles[1].mediaDescriptor",
    "mediaFiles[0].mediaDescriptor.storage",
    "mediaFiles[0].mediaDescriptor.path",
    "mediaFiles[1].mediaDescriptor.path",
    "mediaFiles[0].mediaDescriptor.data",
    "mediaFiles[0].mediaDescriptor.data.bucket",
    "eventHistory",
    "eventHistory[0].event",
    "eventHistory[1].event",
    "eventHistory[0].contact",
    "eventHistory[1].contact",
    "eventHistory[0].contact.type",
    "eventHistory[0].contact.userName",
)


@pytest.mark.parametrize("path", MANDATORY)
async def test_missing_mandatory_attribute_is_code_1(ops: httpx.AsyncClient, path: str) -> None:
    response = await ops.post(OPS_PATH, json=changed(path, ABSENT))
    assert_error(response, 400, 1)
    assert response.json()["statusMessage"] == f"Parameter '{path}' is missing"


@pytest.mark.parametrize("path", MANDATORY)
async def test_null_mandatory_attribute_is_code_2(ops: httpx.AsyncClient, path: str) -> None:
    await assert_refused(ops, path, None)


async def test_empty_object_lacks_mandatory_attributes(ops: httpx.AsyncClient) -> None:
    assert_error(await ops.post(OPS_PATH, json={}), 400, 1, "Parameter 'id' is missing")


NO_STRINGS: tuple[Any, ...] = (0, 1.5, True, [], ["x"], {}, {"x": "x"})
NO_FILLED_LISTS: tuple[Any, ...] = ([], {}, "x", 1, True)
NO_OBJECTS: tuple[Any, ...] = (None, "x", 1, [])
WHITE_SPACE = (" ", "\t", "\n", "\r\n", "\u00a0", "\u2003", "\u2028", "\u3000")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *every(("id", *TRIMMED), ["", " x", "x ", "\u00a0x", "x\u3000", 0, ["x"]]),
        *every(["id"], [*NO_STRINGS, *WHITE_SPACE]),
        *every(["callerPhoneNumber"], [*NO_STRINGS, *WHITE_SPACE]),
        *every(["callerPhoneNumber"], [space + "x" for space in WHITE_SPACE]),
        *every(["callerPhoneNumber"], ["x" + space for space in WHITE_SPACE]),
        *every(PHONE_NUMBERS, ["\u200b", "\u202a\u202c", "\ufeff"]),
        *every(["mediaFiles[0].mediaDescriptor.data.bucket"], ["", *NO_STRINGS]),
        *every(["mediaFiles[0].mediaDescriptor.path"], ["", *NO_STRINGS]),
    ],
)
async def test_mandatory_text_is_not_empty_and_has_no_white_space_at_its_ends(
    ops: httpx.AsyncClient, path: str, value: object
) -> None:
    await assert_refused(ops, path, value)


@pytest.mark.parametrize(
    "value", ["x", "0", "a b", "a\tb", "UNKNOWN", "*", "+1 (650) 466-8888", "\u200bx", "名前", "😀"]
)
async def test_text_may_contain_any_character(ops: httpx.AsyncClient, new_id: str, value: str) -> None:
    recording = two_of_everything(new_id)
    paths = set(TRIMMED) - {"region"}
    for path in paths:
        put(recording, path, value)
    assert (await ops.post(OPS_PATH, json=recording)).status_code == 201
    returned = await read(ops, new_id)
    assert {at(returned, path) for path in paths} == {value}


@pytest.mark.parametrize("recording_id", ["x" * 401, "é" * 200 + "x", "😀" * 100 + "x"])
async def test_id_is_limited_to_400_bytes(ops: httpx.AsyncClient, recording_id: str) -> None:
    assert_error(await ops.post(OPS_PATH, json=a_recording(recording_id)), 400, 2, "Parameter 'id' is invalid: ")
    assert (await ops.post(OPS_PATH, json=a_recording(recording_id[:-1]))).status_code == 201


# --- structure ---


@pytest.mark.parametrize(
    ("path", "value", "parameter"),
    [
        *((path, value, path) for path, value in every(["mediaFiles", "eventHistory"], NO_FILLED_LISTS)),
        *(
            (f"{path}[{i}]", value, f"{path}[{i}]")
            for path in ("mediaFiles", "eventHistory")
            for i in (0, 1)
            for value in NO_OBJECTS
        ),
        ("mediaFiles[0]", {}, "mediaFiles[0]."),
        ("eventHistory[1]", {}, "eventHistory[1]."),
    ],
)
async def test_media_files_and_events_are_objects_in_non_empty_arrays(
    ops: httpx.AsyncClient, path: str, value: object, parameter: str
) -> None:
    code = 1 if value == {} and "[" in path else 2
    assert_error(await ops.post(OPS_PATH, json=changed(path, value)), 400, code, f"Parameter '{parameter}")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *every(["eventHistory[0].event"], ["", "joined", "LEFT", "Joined ", " Left", "Held", 1, True, ["Joined"], {}]),
        *every(["eventHistory[1].contact.type"], ["", "user", "EXTERNAL", "User ", "Agent", 0, False, ["User"], {}]),
        *every(["mediaFiles[0].mediaDescriptor.storage"], ["", "awss3", "s3", "webdav", "azure", 1, ["awsS3"], {}]),
        *every(["mediaFiles[0].mediaDescriptor", "eventHistory[0].contact"], ["x", 1, [], True]),
        *every(["mediaFiles[0].mediaDescriptor.data"], ["x", 1, [], True]),
        *every(["mediaFiles[0].mediaDescriptor.storage_version"], ["", 1, [], {}]),
        *every(["mediaFiles[0].mediaDescriptor.auth"], ["x", 1, []]),
        *every(["mediaFiles[1].mediaDescriptor.auth"], ["x", 1, []]),
        *every(["mediaFiles[1].mediaDescriptor.data"], ["x", 1, []]),
        *every(["eventHistory[0].data", "mediaFiles[0].parameters"], ["x", 1, 1.5, True, [], [{}]]),
        *every(
            [f"mediaFiles[0].{key}" for key in ("mediaId", "type", "duration", "tenant", "ivrprofile", "pkcs7")],
            [1, ["x"], {}],
        ),
        *every(["mediaFiles[1].size"], NO_STRINGS),
        *every(["mediaFiles[0].masks"], ["x", 1, {}, ["x"], [None], [{}, 1], [[]]]),
        *every(
            [f"mediaFiles[0].{key}" for key in ("certAlias", "partitions", "accessgroup", "accessgroups")],
            ["x", {}, [1], ["x", None], [["x"]]],
        ),
    ],
)
async def test_attribute_of_the_wrong_type_or_value_is_code_2(ops: httpx.AsyncClient, path: str, value: object) -> None:
    await assert_refused(ops, path, value)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("mediaFiles[0].mediaDescriptor.storage_version", "1"),
        ("mediaFiles[0].mediaDescriptor.auth", {}),
        ("mediaFiles[1].mediaDescriptor.auth", {"userName": "u", "password": "p"}),
        ("mediaFiles[1].mediaDescriptor.data", {}),
        ("mediaFiles[0].parameters", {}),
        ("mediaFiles[0].masks", []),
        ("mediaFiles[0].certAlias", []),
        ("mediaFiles[0].mediaId", ""),
        ("mediaFiles[0].size", "many"),
        ("eventHistory[0].data", {}),
        ("eventHistory[0].data", {"a": {"b": [1, None, True, "x"]}}),
    ],
)
async def test_optional_attributes_may_have_any_value_of_their_type(
    ops: httpx.AsyncClient, new_id: str, path: str, value: object
) -> None:
    await assert_accepted(ops, path, value, new_id)


@pytest.mark.parametrize(
    "names",
    [
        {},
        {"userName": None, "firstName": None, "lastName": None},
        {"userName": "", "firstName": "", "lastName": ""},
        {"firstName": " Dima "},
    ],
)
async def test_external_contact_needs_no_names(ops: httpx.AsyncClient, new_id: str, names: dict[str, Any]) -> None:
    contact = {"type": "External", "phoneNumber": "UNKNOWN", **names}
    await assert_accepted(ops, "eventHistory[0].contact", contact, new_id)
    assert (await read(ops, new_id))["eventHistory"][0]["contact"] == contact


@pytest.mark.parametrize("value", ["", " UNKNOWN", "UNKNOWN ", None, 1, ABSENT])
async def test_external_contact_needs_a_phone_number(ops: httpx.AsyncClient, value: object) -> None:
    contact = {"type": "External"} if value is ABSENT else {"type": "External", "phoneNumber": value}
    response = await ops.post(OPS_PATH, json=changed("eventHistory[1].contact", contact))
    assert_error(response, 400, 1 if value is ABSENT else 2, "Parameter 'eventHistory[1].contact.phoneNumber' is ")


# --- media descriptors ---


@pytest.mark.parametrize(
    "path",
    [
        "http://10.10.15.83:8080/sample1.mp3",
        "https://media.example/a/b/c.mp3",
        "HTTPS://Media.Example:443/a.mp3",
        "http://[0:0::1]:8080/a.mp3",
        "http://media.example/a%20b%3Fc.mp3",
    ],
)
async def test_webdav_path_may_be_an_http_or_https_url(ops: httpx.AsyncClient, new_id: str, path: str) -> None:
    await assert_accepted(ops, "mediaFiles[1].mediaDescriptor.path", path, new_id)


@pytest.mark.parametrize(
    "path",
    [
        "http://media.example",
        "http://media.example/",
        "http://media.example:8080/a.mp3",
        "http://other.example/a.mp3",
        "http://media.example@other.example/a.mp3",
        "http://10.10.15.83.example/sample1.mp3",
        "http://169.254.169.254/latest/meta-data",
        "http://media.example/a/../b.mp3",
        "http://media.example/a/%2e%2E/b.mp3",
        "http://media.example/a%2fb.mp3",
        "http://media.example/a.mp3?version=2",
        "http://media.example/a.mp3#t=1",
    ],
)
async def test_webdav_path_outside_the_configured_storage_is_refused(
    ops: httpx.AsyncClient, new_id: str, path: str
) -> None:
    media_files = [a_media_file(), a_media_file(mediaDescriptor={"storage": "webDAV", "path": path})]
    response = await ops.post(OPS_PATH, json=a_recording(new_id, mediaFiles=media_files))
    assert_error(response, 400, 2, "Parameter 'mediaFiles[1].mediaDescriptor.path' is invalid: ")
    assert (await ops.get(f"{OPS_PATH}/{new_id}")).status_code == 404


async def test_bucket_outside_the_configured_storage_is_refused(ops: httpx.AsyncClient, new_id: str) -> None:
    descriptor = {"storage": "awsS3", "path": "a.mp3", "data": {"bucket": "somebody-else's"}}
    response = await ops.post(OPS_PATH, json=a_recording(new_id, mediaFiles=[a_media_file(mediaDescriptor=descriptor)]))
    assert_error(response, 400, 2, "Parameter 'mediaFiles[0].mediaDescriptor.data.bucket' is invalid: ")


@pytest.mark.parametrize(
    "path",
    [
        *NO_STRINGS,
        "",
        "calls/sample1.mp3",
        "/calls/sample1.mp3",
        "//media.example/a.mp3",
        "media.example/a.mp3",
        "ftp://media.example/a.mp3",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "webdav://media.example/a.mp3",
        "http:",
        "http://",
        "http:///a.mp3",
        "http://:8080/a.mp3",
        "http:media.example/a.mp3",
        "http://media.example:port/a.mp3",
        "http://media.example:99999/a.mp3",
        "http://[::1/a.mp3",
        " http://media.example/a.mp3",
        "http://media.example/a.mp3\n",
        "http://media.example/a.mp3\r\nHost: other",
        "http://media example/a.mp3",
        "http://media.example/\0.mp3",
    ],
)
async def test_webdav_path_that_is_not_an_http_url_is_code_2(ops: httpx.AsyncClient, path: object) -> None:
    await assert_refused(ops, "mediaFiles[1].mediaDescriptor.path", path)


@pytest.mark.parametrize(
    "path", ["a", "calls/sample1.mp3", "/", " spaces inside and around ", "a\\b", "../x", "名前😀"]
)
async def test_s3_path_may_be_any_text(ops: httpx.AsyncClient, new_id: str, path: str) -> None:
    await assert_accepted(ops, "mediaFiles[0].mediaDescriptor.path", path, new_id)


# --- dates ---


@pytest.mark.parametrize(
    ("date", "as_returned"),
    [
        ("2013-05-17T11:45:32.000-0800", "2013-05-17T19:45:32.000+0000"),
        ("2013-05-17T19:45:32.000+0000", "2013-05-17T19:45:32.000+0000"),
        ("2013-05-17T19:45:32Z", "2013-05-17T19:45:32.000+0000"),
        ("2013-05-17t19:45:32z", "2013-05-17T19:45:32.000+0000"),
        ("2013-05-17T11:45:32-08:00", "2013-05-17T19:45:32.000+0000"),
        ("2013-05-17 11:45:32-08:00", "2013-05-17T19:45:32.000+0000"),
        ("2013-05-17T11:45:32-0800", "2013-05-17T19:45:32.000+0000"),
        ("2013-05-17T11:45:32.5-08:00", "2013-05-17T19:45:32.500+0000"),
        ("2013-05-17T19:45:32.12Z", "2013-05-17T19:45:32.120+0000"),
        ("2013-05-17T19:45:32.001Z", "2013-05-17T19:45:32.001+0000"),
        ("2013-05-17T19:45:32.123456789Z", "2013-05-17T19:45:32.123+0000"),
        ("2013-05-17T19:45:32.999999Z", "2013-05-17T19:45:32.999+0000"),
        ("2013-05-17T19:45:32-00:00", "2013-05-17T19:45:32.000+0000"),
        ("2013-05-18T05:15:32+09:30", "2013-05-17T19:45:32.000+0000"),
        ("2013-05-18T19:44:32+23:59", "2013-05-17T19:45:32.000+0000"),
        ("2013-12-31T23:30:00-01:00", "2014-01-01T00:30:00.000+0000"),
        ("2012-02-29T00:00:00Z", "2012-02-29T00:00:00.000+0000"),
        ("1969-12-31T23:59:59.999Z", "1969-12-31T23:59:59.999+0000"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000+0000"),
        ("9999-12-31T23:59:59.999Z", "9999-12-31T23:59:59.999+0000"),
        # Leap seconds are RFC 3339 (section 5.7 has the second one as an example).
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00.000+0000"),
        ("1990-12-31T15:59:60-08:00", "1991-01-01T00:00:00.000+0000"),
    ],
)
async def test_rfc_3339_dates_are_accepted_and_returned_in_utc(
    ops: httpx.AsyncClient, new_id: str, date: str, as_returned: str
) -> None:
    media = a_media_file(startTime=date, stopTime=date)
    recording = a_recording(new_id, mediaFiles=[media], eventHistory=[an_event(occurredAt=date)])
    response = await ops.post(OPS_PATH, json=recording)
    assert response.status_code == 201, response.text
    returned = await read(ops, new_id)
    assert (returned["startTime"], returned["stopTime"]) == (as_returned, as_returned)
    assert (returned["mediaFiles"][0]["startTime"], returned["mediaFiles"][0]["stopTime"]) == (as_returned, as_returned)
    assert returned["eventHistory"][0]["occurredAt"] == as_returned


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *every(DATES, ["", "now", "2013-02-30T00:00:00Z", 1368819932000]),
        *every(
            ["mediaFiles[0].startTime"],
            [
                True,
                1368819932.5,
                [],
                {},
                "0",
                "1368819932000",
                "2013-05-17",
                "2013-05-17T19:45Z",
                "2013-05-17T19:45:32",
                "2013-05-17T19:45:32.000",
                "2013-05-17T19:45:32 UTC",
                "2013-05-17T19:45:32PST",
                "2013-05-17T19:45:32Z+0000",
                "2013-05-17T19:45:32+08",
                "2013-05-17T19:45:32+8:00",
                "2013-05-17T19:45:32+25:00",
                "2013-05-17T19:45:32-24:00",
                "2013-05-17T19:45:32+08:60",
                "2013-05-17T19:45:32.000 0000",
                "2013-05-17T19:45:32.Z",
                "2013-05-17T19:45:32,5Z",
                "2013-05-17T24:00:00Z",
                "2013-05-17T25:00:00Z",
                "2013-05-17T19:60:00Z",
                "2013-05-17T19:45:61Z",
                "2013-05-17T19:45:60Z",
                "2016-12-31T23:59:60-08:00",
                "2013-00-17T19:45:32Z",
                "2013-13-17T19:45:32Z",
                "2013-05-00T19:45:32Z",
                "2013-04-31T19:45:32Z",
                "2013-02-29T19:45:32Z",
                "1900-02-29T19:45:32Z",
                "0000-01-01T00:00:00Z",
                "0001-01-01T00:00:00+00:01",
                "9999-12-31T23:59:59-00:01",
                "10000-01-01T00:00:00Z",
                "-2013-05-17T19:45:32Z",
                "+2013-05-17T19:45:32Z",
                "13-05-17T19:45:32Z",
                "2013-5-17T19:45:32Z",
                "2013-05-17T9:45:32Z",
                "20130517T194532Z",
                "2013-W20-5T19:45:32Z",
                "2013-137T19:45:32Z",
                "Fri, 17 May 2013 19:45:32 GMT",
                " 2013-05-17T19:45:32Z",
                "2013-05-17T19:45:32Z ",
                "2013-05-17T19:45:32Z\n",
                "2013-05-17\u00a019:45:32Z",
                "2013\u201305\u201317T19:45:32Z",
                "٢٠١٣-٠٥-١٧T١٩:٤٥:٣٢Z",
                "２０１３-05-17T19:45:32Z",
            ],
        ),
    ],
)
async def test_any_other_date_is_code_2(ops: httpx.AsyncClient, path: str, value: object) -> None:
    await assert_refused(ops, path, value)


# --- what is kept ---


class Spelled(str):
    """A number of a JSON text, in its own spelling."""


def spelled(text: str) -> Any:
    return json.loads(text, parse_int=Spelled, parse_float=Spelled)


NUMBERS = (
    "[0, -1, 1.10, 1.0, -0.0, 1e5, 1E+5, 1e-7, 1e400, 1e-400, 12345678901234567890123, 18446744073709551616, "
    "3.14159265358979323846264338327950288, 123456789012345678901234567890.5]"
)
KEPT = (
    '{"numbers": '
    + NUMBERS
    + ', "": "", " ": null, "a.b": true, "*": [], "nested": {"deep": [{"er": {}}]}, "😀": "\\u0000 é"}'
)


@pytest.mark.parametrize(
    "path",
    [
        "extra",
        "mediaFiles[0].extra",
        "mediaFiles[1].parameters",
        "mediaFiles[0].mediaDescriptor.extra",
        "mediaFiles[0].mediaDescriptor.data.extra",
        "mediaFiles[1].mediaDescriptor.auth",
        "eventHistory[0].extra",
        "eventHistory[1].data",
        "eventHistory[1].contact.extra",
        # Names that mean something at another level, or to Elasticsearch, mean nothing here.
        "mediaFiles[0].mediaFiles",
        "mediaFiles[0].id",
        "eventHistory[0].startTime",
        "eventHistory[0].nonDelete",
        "eventHistory[0].contact.mediaUri",
        "_id",
        "_source",
        "recording",
        "contactCenter",
        "schemaVersion",
    ],
)
async def test_unknown_attributes_are_kept_unchanged_at_every_level(
    ops: httpx.AsyncClient, new_id: str, path: str
) -> None:
    text = json.dumps(changed(path, "@", new_id)).replace('"@"', KEPT)
    assert (await ops.post(OPS_PATH, content=text, headers=JSON)).status_code == 201
    returned = spelled((await ops.get(f"{OPS_PATH}/{new_id}")).text)["recording"]
    assert at(returned, path.replace("mediaDescriptor", "originalMediaDesc")) == spelled(KEPT)


async def test_unknown_attributes_are_merged_by_key_and_returned_unchanged(
    ops: httpx.AsyncClient, admin: httpx.AsyncClient, new_id: str
) -> None:
    for attributes in (f'"first": {KEPT}, "second": 1.10', '"second": 2.20, "third": 3.30'):
        text = f"{json.dumps(a_recording(new_id))[:-1]}, {attributes}}}"
        response = await ops.post(OPS_PATH, content=text, headers=JSON, params={"refresh": "wait_for"})
        assert response.status_code in {200, 201}, response.text
    found = spelled((await admin.get("/api/v2/recordings", params={"startTime": 0})).text)["recordings"]
    recording = next(recording for recording in found if recording["id"] == new_id)
    assert recording == spelled((await admin.get(f"/api/v2/recordings/{new_id}")).text)["recording"]
    extra = {key: recording[key] for key in ("first", "second", "third")}
    assert extra == {"first": spelled(KEPT), "second": "2.20", "third": "3.30"}


async def test_number_in_user_data_is_found_by_its_spelling(
    ops: httpx.AsyncClient, admin: httpx.AsyncClient, new_id: str
) -> None:
    text = json.dumps(a_recording(new_id, eventHistory=[an_event(data={"price": "@"})])).replace('"@"', "71.10")
    await ops.post(OPS_PATH, content=text, headers=JSON)
    # An update, which knows the data only from what was stored.
    left = a_recording(new_id, eventHistory=[an_event(event="Left")])
    await ops.post(OPS_PATH, json=left, params={"refresh": "wait_for"})
    response = await admin.get("/api/v2/recordings", params={"userData": "71.10"})
    assert [recording["id"] for recording in response.json()["recordings"]] == [new_id]


@pytest.mark.parametrize("path", ["extra", "mediaFiles[0].pkcs7", "eventHistory[0].data.long", "callerPhoneNumber"])
async def test_long_value_is_kept_whole(ops: httpx.AsyncClient, new_id: str, path: str) -> None:
    recording = two_of_everything(new_id)
    recording["eventHistory"][0]["data"] = {}
    put(recording, path, "a😀" * 100_000)
    response = await ops.post(OPS_PATH, content=json.dumps(recording, ensure_ascii=False).encode(), headers=JSON)
    assert response.status_code == 201, response.text
    assert at(await read(ops, new_id), path) == at(recording, path)


async def test_both_spellings_of_access_groups_keep_their_name(ops: httpx.AsyncClient, new_id: str) -> None:
    groups = {"accessgroup": ["US", "US/CA"], "accessgroups": ["DE"]}
    media_files = [
        a_media_file("1", accessgroup=["US"]),
        a_media_file("2", accessgroups=[]),
        a_media_file("3", **groups),
    ]
    await ops.post(OPS_PATH, json=a_recording(new_id, mediaFiles=media_files))
    returned = [
        {name: value for name, value in media.items() if name.startswith("accessgroup")}
        for media in (await read(ops, new_id))["mediaFiles"]
    ]
    assert returned == [{"accessgroup": ["US"]}, {"accessgroups": []}, groups]


@pytest.mark.parametrize("value", ["2001-01-01T00:00:00.000+0000", "nonsense", 5, None, True, {"a": 1}])
async def test_derived_attributes_are_ignored_when_posted(ops: httpx.AsyncClient, new_id: str, value: object) -> None:
    made: dict[str, Any] = dict.fromkeys(("mediaUri", "mediaPath", "playPath"), value)
    made |= dict.fromkeys(("originalMediaDesc", "originalMediaDescriptor"), value)
    own = dict.fromkeys(("startTime", "stopTime", "nonDelete", "nonDeletion", "labels"), value)
    recording = a_recording(new_id, mediaFiles=[a_media_file(**made)], **own)
    response = await ops.post(OPS_PATH, json=recording)
    assert response.status_code == 201, response.text
    returned = await read(ops, new_id)
    assert returned["startTime"] == "2013-05-17T19:45:32.000+0000"
    assert returned["stopTime"] == "2013-05-17T22:15:36.000+0000"
    assert returned.keys().isdisjoint({"nonDelete", "nonDeletion", "labels"})
    media = returned["mediaFiles"][0]
    assert media["mediaPath"] == media["playPath"]
    assert media["mediaPath"].startswith(f"{OPS_PATH.removeprefix('/api/v2')}/{new_id}/play/")
    assert media["originalMediaDesc"] == media["originalMediaDescriptor"] == a_media_file()["mediaDescriptor"]
    assert media["mediaUri"].endswith(f"/api/v2{media['mediaPath']}")


async def test_recording_can_be_posted_back_as_it_was_read(ops: httpx.AsyncClient, new_id: str) -> None:
    await ops.post(OPS_PATH, json=two_of_everything(new_id))
    before = await read(ops, new_id)
    again = json.loads(json.dumps(before))
    for media in again["mediaFiles"]:
        media["mediaDescriptor"] = media.pop("originalMediaDesc")
    assert (await ops.post(OPS_PATH, json=again)).status_code == 200
    assert await read(ops, new_id) == before


async def test_start_and_stop_time_span_all_media_files(ops: httpx.AsyncClient, new_id: str) -> None:
    # As text the first would be the least, and the last the greatest.
    times = (
        ("2013-05-17T10:00:00-08:00", "2013-05-17T11:00:00-08:00"),
        ("2013-05-17T17:00:00Z", "2013-05-17T17:30:00Z"),
        ("2013-05-17T20:00:00+02:00", "2013-05-17T22:00:00+02:00"),
    )
    media_files = [a_media_file(str(i), startTime=start, stopTime=stop) for i, (start, stop) in enumerate(times)]
    await ops.post(OPS_PATH, json=a_recording(new_id, mediaFiles=media_files))
    recording = await read(ops, new_id)
    assert recording["startTime"] == "2013-05-17T17:00:00.000+0000"
    assert recording["stopTime"] == "2013-05-17T20:00:00.000+0000"


# --- the answer ---


async def test_creation_is_201_and_update_is_200(service: Service, ops: httpx.AsyncClient, new_id: str) -> None:
    for status in (201, 200, 200):
        response = await ops.post(OPS_PATH, json=a_recording(new_id))
        assert response.status_code == status
        assert response.json() == {"statusCode": 0, "id": new_id, "uri": f"{service.url}{OPS_PATH}/{new_id}"}


async def test_post_is_idempotent(ops: httpx.AsyncClient, new_id: str) -> None:
    await ops.post(OPS_PATH, json=two_of_everything(new_id))
    before = await read(ops, new_id)
    assert (await ops.post(OPS_PATH, json=two_of_everything(new_id))).status_code == 200
    assert await read(ops, new_id) == before


async def test_uri_of_the_response_can_be_read_by_ops(ops: httpx.AsyncClient, new_id: str) -> None:
    recording_id = f"{new_id} / % ? # 😀"
    uri = (await ops.post(OPS_PATH, json=a_recording(recording_id))).json()["uri"]
    assert (await ops.get(uri)).json()["recording"]["id"] == recording_id


@pytest.mark.parametrize(
    "path",
    [
        OPS_PATH,
        f"{OPS_PATH}/",
        f"/internal-api/contact-centers/{CONTACT_CENTER}/recordings",
        f"/internal-api/contact-centers/{CONTACT_CENTER}/recordings/",
    ],
)
async def test_every_path_for_posting_behaves_alike(
    service: Service, ops: httpx.AsyncClient, new_id: str, path: str
) -> None:
    for status in (200 if path.startswith("/internal-api/") else 201, 200):
        response = await ops.post(path, json=a_recording(new_id))
        assert response.status_code == status, response.text
        assert response.json()["uri"] == f"{service.url}{OPS_PATH}/{new_id}"
    assert (await read(ops, new_id))["id"] == new_id
    assert_error(await ops.post(path, json=a_recording(new_id, region=None)), 400, 1, "'region'")
    assert_error(await ops.post(path, json=a_recording(new_id), params={"refresh": "x"}), 400, 2, "'refresh'")


async def test_refresh_wait_for_answers_when_the_recording_is_searchable(
    ops: httpx.AsyncClient, admin: httpx.AsyncClient, new_id: str
) -> None:
    for path, number in ((OPS_PATH, "+1001"), (f"{OPS_PATH}/", "+1002")):
        recording = a_recording(new_id, callerPhoneNumber=number)
        await ops.post(path, json=recording, params={"refresh": "wait_for"})
        response = await admin.get("/api/v2/recordings", params={"callerPhoneNumber": number})
        assert [found["id"] for found in response.json()["recordings"]] == [new_id]


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("refresh", "refresh"),
        ("refresh=", "refresh"),
        ("refresh=true", "refresh"),
        ("refresh=false", "refresh"),
        ("refresh=WAIT_FOR", "refresh"),
        ("refresh=wait_for%20", "refresh"),
        ("refresh=wait_for&refresh=true", "refresh"),
        ("Refresh=wait_for", "Refresh"),
        ("wait_for", "wait_for"),
        ("unknown=1", "unknown"),
        ("refresh=wait_for&region=other", "region"),
        ("routing=1", "routing"),
    ],
)
async def test_any_other_parameter_is_code_2_and_nothing_is_stored(
    ops: httpx.AsyncClient, new_id: str, query: str, parameter: str
) -> None:
    response = await ops.post(f"{OPS_PATH}?{query}", json=a_recording(new_id))
    assert_error(response, 400, 2, f"Parameter '{parameter}' is invalid: ")
    assert_error(await ops.get(f"{OPS_PATH}/{new_id}"), 404, 6)


# --- the reference document's own examples ---

REFERENCE_MEDIA_FILE = {
    "startTime": "2013-05-17T11:45:32.000-0800",
    "stopTime": "2013-05-17T14:15:36.000-0800",
    "callUUID": "callUUID",
    "mediaId": "00PV5Q27MG8AB8VNE49362LAES000013_029F032T0G8LDFTEK9I4K8DAES0KTDVE.wav",
    "type": "audio/wav",
    "duration": "8000",
    "tenant": "Environment",
    "ivrprofile": "DefaultProfile",
    "size": "8544",
    "parameters": {"record": "source", "recorddn": "2222"},
    "masks": [{"time": "2013-02-06T10:23:10.034Z", "type": "paused"}],
    "pkcs7": "SJ0SSWKGUEKSHSVHSU",
    "certAlias": ["cert1", "cert2"],
    "partitions": ["part1", "part2"],
    "accessgroup": ["US", "US/CA"],
}
S3_DESCRIPTOR = {"storage": "awsS3", "path": "FTtests/sample1.mp3", "data": {"bucket": "stage-recordings"}}
WEB_DAV_DESCRIPTOR = {"storage": "webDAV", "path": "http://10.10.15.83:8080/sample1.mp3"}


@pytest.mark.parametrize("descriptor", [S3_DESCRIPTOR, WEB_DAV_DESCRIPTOR], ids=["awsS3", "webDAV"])
async def test_reference_examples_are_accepted_and_read_back(
    service: Service, ops: httpx.AsyncClient, admin: httpx.AsyncClient, descriptor: dict[str, Any]
) -> None:
    # Both examples have this id, so in one contact center the second would update the first.
    recording_id = "00PV5Q27MG8AB8VNE49362LAES000014"
    ops_path = OPS_PATH if descriptor["storage"] == "awsS3" else OPS_PATH.replace(CONTACT_CENTER, "web-dav")
    event = {
        "occurredAt": "2013-05-18T22:25:56.000+0000",
        "contact": a_user(userName="dima.p@genesys.com", phoneNumber="+14103585834"),
        "event": "Left",
    }
    numbers = {"callerPhoneNumber": "+16504668888", "dialedPhoneNumber": "+14155551234", "region": "test"}
    posted = {
        "id": recording_id,
        **numbers,
        "mediaFiles": [{**REFERENCE_MEDIA_FILE, "mediaDescriptor": descriptor}],
        "eventHistory": [event],
    }
    response = await ops.post(ops_path, json=posted)
    assert response.status_code == 201, response.text

    recording = (await ops.get(f"{ops_path}/{recording_id}")).json()["recording"]
    media = recording["mediaFiles"][0]
    path = media["mediaPath"]
    base = ops_path.removeprefix("/api/v2")
    assert re.fullmatch(rf"{base}/{recording_id}/play/[0-9a-f-]{{36}}\.mp3", path)
    assert recording == {
        "id": recording_id,
        **numbers,
        "startTime": "2013-05-17T19:45:32.000+0000",
        "stopTime": "2013-05-17T22:15:36.000+0000",
        "mediaFiles": [
            {
                **REFERENCE_MEDIA_FILE,
                "startTime": "2013-05-17T19:45:32.000+0000",
                "stopTime": "2013-05-17T22:15:36.000+0000",
                "mediaUri": f"{service.url}/api/v2{path}",
                "mediaPath": path,
                "playPath": path,
                "originalMediaDesc": descriptor,
                "originalMediaDescriptor": descriptor,
            }
        ],
        "eventHistory": [event],
    }
    if ops_path == OPS_PATH:
        del media["originalMediaDesc"]
        del media["originalMediaDescriptor"]
        path = path.removeprefix(base.removesuffix("/recordings"))
        media.update(mediaUri=f"{service.url}/api/v2{path}", mediaPath=path, playPath=path)
        assert (await admin.get(f"/api/v2/recordings/{recording_id}")).json()["recording"] == recording
