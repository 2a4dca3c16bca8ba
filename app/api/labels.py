"""Labels and their definitions, for the contact center's own users and for ops (docs/contract.md section 9)."""

from starlette.requests import Request
from starlette.responses import Response

from app.api.audit import audit_entry
from app.api.requests import (
    API,
    api_url,
    json_body,
    path_segment,
    query_parameters,
    scope_of,
    services,
)
from app.api.responses import envelope
from app.errors import InvalidParameter
from app.recordings.identity import encode_segment
from app.recordings.labels import parse_definition, parse_definition_changes


async def definitions(request: Request) -> Response:
    """`GET /recording-label-definitions`"""
    found = await services(request).labels.definitions(_contact_center(request))
    return envelope({"labelDefinitions": [definition.rendered() for definition in found]})


async def definition(request: Request) -> Response:
    """`GET /recording-label-definitions/{name}`"""
    found = await services(request).labels.definition(_contact_center(request), path_segment(request, "label"))
    return envelope({"labelDefinition": found.rendered()})


async def define(request: Request) -> Response:
    """`POST /recording-label-definitions`"""
    created = parse_definition(await json_body(request))
    entry = audit_entry(request)
    entry.label, entry.display_name, entry.description = created.name, created.display_name, created.description
    await services(request).labels.define(_contact_center(request), created)
    path = request.scope["path"].removeprefix(API).rstrip("/")
    return envelope({"name": created.name, "uri": f"{api_url(request)}{path}/{encode_segment(created.name)}"}, 201)


async def redefine(request: Request) -> Response:
    """`PUT /recording-label-definitions/{name}`"""
    name = path_segment(request, "label")
    changes = parse_definition_changes(await json_body(request), name)
    changed = await services(request).labels.redefine(_contact_center(request), name, changes)
    entry = audit_entry(request)
    entry.label, entry.display_name, entry.description = changed.name, changed.display_name, changed.description
    return envelope({"labelDefinition": changed.rendered()})


async def delete_definition(request: Request) -> Response:
    """`DELETE /recording-label-definitions/{name}[?force=*]`"""
    audit_entry(request).forced = _forced(request)
    await services(request).labels.remove_definition(_contact_center(request), path_segment(request, "label"))
    return envelope({})


def _contact_center(request: Request) -> str:
    contact_center = scope_of(request).contact_center
    assert contact_center is not None
    return contact_center


def _forced(request: Request) -> bool:
    parameters = query_parameters(request)
    for name, value in parameters:
        if name != "force":
            raise InvalidParameter(name, "it is not known; known is force")
        if value != "*":
            raise InvalidParameter(name, "it must be *")
    if len(parameters) > 1:
        raise InvalidParameter("force", "it is given more than once")
    return bool(parameters)
