"""Generated from the route table: what each endpoint answers to a caller who may not ask, and what metrics call it."""

import re
from collections import Counter
from typing import get_args

import httpx
import pytest

from app.api.endpoint import Endpoint, Method
from app.api.routes import ENDPOINTS
from app.auth.policy import POLICY
from app.settings import Role
from tests.support.recordings import CONTACT_CENTER
from tests.support.service import USERS, Service, assert_error
from tests.support.waiting import eventually

ALL_REQUESTS = [
    (endpoint, name, method, path)
    for endpoint in ENDPOINTS
    for path in endpoint.paths
    for name, method in endpoint.methods.items()
]
REQUESTS = [pytest.param(*each, id=f"{each[1]} {each[3]}") for each in ALL_REQUESTS]
CASES = pytest.mark.parametrize(("endpoint", "name", "method", "path"), REQUESTS)


@pytest.fixture(scope="module")
def service(module_service: Service) -> Service:
    return module_service


def filled_in(path: str) -> str:
    return (
        path.replace("{contact_center}", CONTACT_CENTER)
        .replace("{id}", "missing")
        .replace("{name}", "missing.wav")
        .replace("{file}", "page.css")
    )


def roles_of(method: Method) -> set[Role]:
    """Every role for what every user may do."""
    wanted = [POLICY[operation].roles for operation in method.operations]
    return {role for roles in wanted for role in (get_args(Role) if roles is None else roles)}


def assert_refused(response: httpx.Response, name: str, http_status: int, code: int) -> None:
    if name == "HEAD":
        assert (response.status_code, response.content) == (http_status, b"")
    else:
        assert_error(response, http_status, code)


@CASES
async def test_caller_without_credentials_is_401_except_on_public_paths(
    service: Service, endpoint: Endpoint, name: str, method: Method, path: str
) -> None:
    response = await service.client().request(name, filled_in(path))
    if endpoint.authentication == "none":
        assert response.status_code == 200
    else:
        assert_refused(response, name, 401, 20)


@CASES
async def test_caller_without_the_role_is_403_before_any_other_check(
    service: Service, endpoint: Endpoint, name: str, method: Method, path: str
) -> None:
    for user in USERS:
        if roles_of(method) and not roles_of(method) & set(user.roles):
            # A body and a query that are wrong, and a recording that does not exist, are not looked at.
            response = await service.client(user.name).request(name, f"{filled_in(path)}?x=%FF", content=b"{")
            assert_refused(response, name, 403, 5)


@CASES
async def test_caller_with_the_role_is_not_403(
    service: Service, endpoint: Endpoint, name: str, method: Method, path: str
) -> None:
    for user in USERS:
        if roles_of(method) & set(user.roles):
            response = await service.client(user.name).request(name, f"{filled_in(path)}?x=%FF", content=b"{")
            # What is about no recording has nothing to refuse. A permission is another matter than a role.
            lacks_permission = response.status_code == 403 and response.json()["statusCode"] == 3
            assert lacks_permission or response.status_code in {200, 400, 404}


async def test_metrics_label_requests_with_route_names(service: Service) -> None:
    async def counts() -> Counter[str]:
        text = (await service.client().get("/metrics")).text
        found = re.findall(
            r'^recall_request_seconds_count{endpoint="(.*)",method="([A-Z]+)".*} (.*)$', text, re.MULTILINE
        )
        total: Counter[str] = Counter()
        for endpoint, method, value in found:
            total[f"{method} {endpoint}"] += int(float(value))
        return total

    before = await counts()
    for _, name, _, path in ALL_REQUESTS:
        await service.client().request(name, filled_in(path))
    asked = Counter(f"{name} {endpoint.name}" for endpoint, name, _, _ in ALL_REQUESTS)

    async def are_counted() -> bool:
        after = await counts()
        return all(after[each] - before[each] >= count for each, count in asked.items())

    await eventually(are_counted)


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.name)
async def test_other_methods_are_405_with_allow_before_authentication(service: Service, endpoint: Endpoint) -> None:
    for path in endpoint.paths:
        for name in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"} - endpoint.methods.keys():
            response = await service.client().request(name, filled_in(path))
            assert_refused(response, name, 405, 2)
            assert response.headers["allow"] == ", ".join(endpoint.methods)
