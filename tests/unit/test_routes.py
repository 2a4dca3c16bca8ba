"""The route table: each row says who may use it, and the router is the table."""

from dataclasses import replace
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from app.api.authentication import BACKENDS
from app.api.dispatch import Dispatcher
from app.api.endpoint import Choice, Endpoint, Method
from app.api.routes import router_routes
from app.auth.policy import POLICY
from app.main import ENDPOINTS, create_app
from app.settings import Settings

ROWS = pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.name)

# What anyone may ask, and the operations that leave no audit line: a new one has to be added here on purpose.
PUBLIC = {
    "openapi",
    "docs",
    "docs-file",
    "health-live",
    "health-ready",
    "metrics",
    "diagnostics-version",
    "page-home",
    "page-sign-in",
    "page-sign-out",
    "page-session",
    "page-static",
    "page-api-unknown",
    "page-unknown",
}
NOT_AUDITED = {
    *("search", "read", "waveform", "read-definitions", "read-labels"),
    *("ops-search", "ops-read", "ops-contact-centers", "me"),
    *("audit", "ops-audit", "operations", "ops-operations"),
}
# What every user may do.
FOR_EVERYONE = {"me"}


async def handler(request: Request) -> Response:
    return Response()


@ROWS
def test_each_route_has_a_policy(endpoint: Endpoint) -> None:
    assert endpoint.methods
    for method in endpoint.methods.values():
        if endpoint.name in PUBLIC:
            assert endpoint.authentication == "none"
        else:
            assert endpoint.authentication in BACKENDS
            assert method.operations
            for operation in method.operations:
                assert bool(POLICY[operation].roles) != (operation in FOR_EVERYONE)


@ROWS
def test_each_operation_that_touches_evidence_is_audited(endpoint: Endpoint) -> None:
    for method in endpoint.methods.values():
        if method.operations and not set(method.operations) <= NOT_AUDITED:
            assert method.audit is not None


@ROWS
def test_a_path_that_names_a_contact_center_is_for_ops_and_its_posts_for_recorders_too(endpoint: Endpoint) -> None:
    names_one = any("{contact_center}" in path for path in endpoint.paths) or endpoint.name == "ops-contact-centers"
    for name, method in endpoint.methods.items():
        roles = {role for operation in method.operations for role in POLICY[operation].roles or ()}
        assert names_one == ("ops" in roles)
        posts = name == "POST" and method.operations == ("ops-post",)
        assert not names_one or roles == ({"ops", "recorder"} if posts else {"ops"})
        assert names_one or "recorder" not in roles


def test_every_operation_has_a_route() -> None:
    methods = [method for endpoint in ENDPOINTS for method in endpoint.methods.values()]
    assert {operation for method in methods for operation in method.operations} == set(POLICY)


def test_names_and_paths_are_unique() -> None:
    names = [endpoint.name for endpoint in ENDPOINTS]
    paths = [path for endpoint in ENDPOINTS for path in endpoint.paths]
    assert len(set(names)) == len(names)
    assert len(set(paths)) == len(paths)
    assert "none" not in names  # what the metrics call a path that is not in the table


def test_router_has_exactly_the_routes_of_the_table() -> None:
    in_table = [(path, endpoint) for endpoint in ENDPOINTS for path in endpoint.paths]
    in_router: list[Any] = []
    for route in create_app(Settings()).routes:
        assert isinstance(route.app, Dispatcher)  # type: ignore[attr-defined]
        in_router.append((route.path, route.app.endpoint))  # type: ignore[attr-defined]
    assert in_router == in_table


@ROWS
def test_no_route_hides_another(endpoint: Endpoint) -> None:
    for path in endpoint.paths:
        scope = {"type": "http", "method": "GET", "path": path.replace("{", "").replace("}", "")}
        matching = [route for route in router_routes(ENDPOINTS) if route.matches(scope)[0] == Match.FULL]
        assert isinstance(matching[0].app, Dispatcher)
        assert matching[0].app.endpoint is endpoint


def test_route_without_a_policy_cannot_be_created() -> None:
    read = Method(handler=handler, operation="read", audit=None)
    endpoint = Endpoint(name="x", path="/x", authentication="basic", resource="recordings", get=read)
    with pytest.raises(ValueError, match="GET of x needs an operation"):
        replace(endpoint, get=replace(read, operation=None))
    with pytest.raises(ValueError, match="GET of x needs an operation"):
        replace(endpoint, get=replace(read, operation={}))
    with pytest.raises(ValueError, match="GET of x needs an operation"):
        replace(endpoint, authentication="none")
    with pytest.raises(ValueError, match="no method"):
        replace(endpoint, get=None)
    with pytest.raises(ValueError, match="tells no resource"):
        replace(endpoint, get=replace(read, audit="play"), resource=None)
    with pytest.raises(ValueError, match="only when its body could be read"):
        replace(endpoint, get=replace(read, operation={"applyNonDelete": Choice("apply", audit="apply")}))
    with pytest.raises(TypeError, match="operation"):
        Method(handler=handler, audit=None)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="audit"):
        Method(handler=handler, operation="read")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="authentication"):
        Endpoint(name="x", path="/x", get=read)  # type: ignore[call-arg]
