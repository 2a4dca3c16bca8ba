"""`/openapi.json` and `/docs`: complete, true, and changed on purpose only (docs/contract.md section 12).

That every answer of the other tests is as described is checked by `tests/support/described.py`.
"""

import copy
import json
import re
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest
from openapi_spec_validator import validate

from app import errors
from app.api.routes import ENDPOINTS
from app.errors import RecallError
from tests.support.breaking import breaking_changes
from tests.support.described import Description, NotDescribed, description
from tests.support.recordings import OPS_PATH, a_recording
from tests.support.service import Service

ROOT = Path(__file__).parents[2]
DOCUMENT: dict[str, Any] = dict(description().document)
METHODS = ("get", "head", "post", "put", "delete")

OPERATIONS = [
    pytest.param(path, method, item[method], id=f"{method.upper()} {path}")
    for path, item in DOCUMENT["paths"].items()
    for method in METHODS
    if method in item
]


@pytest.fixture(scope="module")
def service(module_service: Service) -> Service:
    return module_service


async def test_description_is_served_to_everybody_and_is_the_committed_one(service: Service) -> None:
    served = (await service.client().get("/openapi.json")).json()
    committed = json.loads((ROOT / "docs" / "openapi.json").read_text())
    assert served == committed, "run scripts/describe.py, and look at what changes for clients"


def test_description_is_valid_openapi() -> None:
    validate(DOCUMENT)
    assert DOCUMENT["openapi"].startswith("3.1")


def test_description_has_the_paths_and_methods_of_the_route_table() -> None:
    table = {(path, name.lower()) for endpoint in ENDPOINTS for path in endpoint.paths for name in endpoint.methods}
    described = {(path, method) for path, item in DOCUMENT["paths"].items() for method in item if method in METHODS}
    assert described == table


def test_description_has_every_error_and_no_other_code() -> None:
    kinds = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, RecallError)}
    # These are never answered as such: the base of all, an answer of a storage that becomes 404, what a line or a
    # recording of many answers for itself inside a 200, another method than those described, and the page's own.
    of_many = {"LineTooLarge", "MediaLeft", "RecordingChanged"}
    apart = {"RecallError", "OtherMediaObject", *of_many, "MethodNotAllowed", "SignedOut"}
    answered = {kind.__name__ for kind in kinds} - apart
    described = {name for names in DOCUMENT["components"]["responses"] for name in names.split("-")} - {"HEAD"}
    assert described == answered
    codes = {
        code
        for name, schema in DOCUMENT["components"]["schemas"].items()
        if re.fullmatch("Error[0-9Or]+", name)
        for code in schema["properties"]["statusCode"]["enum"]
    }
    assert codes == {kind.code for kind in kinds if kind.__name__ not in apart}


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS)
def test_examples_are_allowed_by_their_schemas(path: str, method: str, operation: dict[str, Any]) -> None:
    for parameter in operation.get("parameters", []):
        if "example" in parameter and parameter["schema"].get("type") == "string":
            jsonschema_rs.validate(parameter["schema"], parameter["example"])
    assert operation["summary"]


@pytest.mark.parametrize("name", ["PostedRecording", "PostedScreenRecording"])
async def test_service_takes_the_example_of_a_recording(service: Service, name: str) -> None:
    (example,) = DOCUMENT["components"]["schemas"][name]["examples"]
    jsonschema_rs.validate({**DOCUMENT["components"]["schemas"][name], "components": DOCUMENT["components"]}, example)
    resource = "recordings" if name == "PostedRecording" else "screen-recordings"
    response = await service.client("ops").post(OPS_PATH.replace("recordings", resource), json=example)
    assert response.status_code == 201


# --- A lie is found -------------------------------------------------------------------------------


def _without_status(document: dict[str, Any]) -> None:
    del document["paths"]["/api/v2/recordings/{id}"]["get"]["responses"]["404"]


def _with_another_type(document: dict[str, Any]) -> None:
    document["components"]["schemas"]["Recording"]["properties"]["callerPhoneNumber"] = {"type": "integer"}


def _with_an_attribute_that_is_not_there(document: dict[str, Any]) -> None:
    document["components"]["schemas"]["MediaFile"]["required"].append("mediaDescriptor")


def _without_path(document: dict[str, Any]) -> None:
    del document["paths"]["/api/v2/recordings/{id}"]


def _with_another_code(document: dict[str, Any]) -> None:
    document["components"]["schemas"]["Error6"]["properties"]["statusCode"]["enum"] = [7]


def _with_a_header_that_is_not_there(document: dict[str, Any]) -> None:
    headers = document["paths"]["/api/v2/recordings/{id}"]["get"]["responses"]["200"]["headers"]
    headers["X-Total"] = {"required": True, "schema": {"type": "string"}}


LIES = [
    _without_status,
    _with_another_type,
    _with_an_attribute_that_is_not_there,
    _without_path,
    _with_another_code,
    _with_a_header_that_is_not_there,
]


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.__name__.strip("_"))
async def test_lie_in_the_description_is_found(service: Service, lie: Callable[[dict[str, Any]], None]) -> None:
    await service.client("ops").post(OPS_PATH, json=a_recording("described"))
    answers = [await service.client("admin").get(f"/api/v2/recordings/{name}") for name in ("described", "absent")]
    assert [answer.status_code for answer in answers] == [200, 404]
    lying: dict[str, Any] = copy.deepcopy(DOCUMENT)
    lie(lying)
    with pytest.raises(NotDescribed):
        _check_all(Description(lying), answers)


def _check_all(described: Description, answers: list[httpx.Response]) -> None:
    for answer in answers:
        described.check(answer)


async def test_parameter_that_is_not_described_is_refused(service: Service) -> None:
    """So a client that uses one of another version hears of it."""
    for path, item in DOCUMENT["paths"].items():
        if "{" not in path and path.endswith("recordings") and "get" in item:
            names = {parameter["name"] for parameter in item["get"]["parameters"]}
            answer = await service.client("admin").get(f"{path}?callerPhoneNumber=1&unknown=1")
            known = re.findall(r"\w+", answer.json()["statusMessage"].partition("known are ")[2])
            assert answer.status_code == 400
            assert set(known) - {"and"} == names - {"cursor"}


# --- Changes --------------------------------------------------------------------------------------


def test_no_change_breaks_clients_of_the_last_release_unless_the_changelog_names_it() -> None:
    released = json.loads((ROOT / "docs" / "openapi-released.json").read_text())
    unreleased = (ROOT / "CHANGELOG.md").read_text().partition("## [Unreleased]")[2].partition("\n## [")[0]
    named = set(re.findall(r"`breaking: ([^`]+)`", unreleased))
    assert set(breaking_changes(released, DOCUMENT)) <= named


def _operation(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["paths"]["/api/v2/ops/contact-centers/{contact_center}/recordings"]["post"]
    return found


def _media_file(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["components"]["schemas"]["MediaFile"]
    return found


BREAKING: list[tuple[str, Callable[[dict[str, Any]], object]]] = [
    ("a path", lambda d: d["paths"].pop("/api/v2/me")),
    ("a method", lambda d: d["paths"]["/api/v2/recordings/{id}"].pop("post")),
    ("an answer", lambda d: _operation(d)["responses"].pop("201")),
    ("a parameter", lambda d: _operation(d)["parameters"].clear()),
    ("a required parameter", lambda d: _operation(d)["parameters"][0].update(required=True)),
    ("an attribute", lambda d: _media_file(d)["properties"].pop("mediaUri")),
    ("a required attribute", lambda d: _media_file(d)["required"].remove("mediaUri")),
    ("a type", lambda d: _media_file(d)["properties"]["mediaUri"].update(type="integer")),
    ("a demand", lambda d: d["components"]["schemas"]["PostedRecording"]["required"].append("tenant")),
    ("a way to authenticate", lambda d: d["paths"]["/openapi.json"]["get"].update(security=[{"basic": []}])),
]


@pytest.mark.parametrize(("what", "change"), BREAKING, ids=[what for what, _ in BREAKING])
def test_breaking_change_is_found(what: str, change: Callable[[dict[str, Any]], object]) -> None:
    changed = copy.deepcopy(DOCUMENT)
    change(changed)
    assert list(breaking_changes(DOCUMENT, changed))


def test_additions_break_nothing() -> None:
    added = copy.deepcopy(DOCUMENT)
    added["paths"]["/api/v2/new"] = copy.deepcopy(added["paths"]["/api/v2/me"])
    _operation(added)["parameters"].append({"name": "new", "in": "query", "schema": {"type": "string"}})
    _media_file(added)["properties"]["new"] = {"type": "string"}
    added["components"]["schemas"]["PostedRecording"]["properties"]["new"] = {"type": "string"}
    assert not list(breaking_changes(DOCUMENT, added))


# --- The page -------------------------------------------------------------------------------------


async def test_page_of_the_description_comes_from_this_server_alone(service: Service) -> None:
    page = await service.client().get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "unsafe-inline" not in policy
    assert "script-src 'self'" in policy
    links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert links
    for link in links:
        assert link.startswith(("/docs/", "/openapi.json", "data:"))
        if link.startswith("/"):
            assert (await service.client().get(link)).status_code == 200
    assert (await service.client().get("/docs/other.js")).status_code == 404


def test_vendored_files_are_unchanged() -> None:
    folder = ROOT / "app" / "api" / "swagger"
    rows = re.findall(r"\| `(\S+)` \| `([0-9a-f]{64})` \|", (folder / "VENDORED.md").read_text())
    assert len(rows) == 2
    for name, digest in rows:
        assert sha256((folder / name).read_bytes()).hexdigest() == digest
