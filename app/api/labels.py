"""Labels and their definitions, for the contact center's own users and for ops (docs/contract.md section 9)."""

from starlette.requests import Request
from starlette.responses import Response

from app.api.audit import audit_entry
from app.api.requests import (
    base_url,
    json_body,
    path_segment,
    query_parameters,
    repository,
    scope_of,
    services,
    user_of,
)
from app.api.responses import envelope
from app.errors import InvalidParameter
from app.lifecycle.labels import definition_named, label_of
from app.recordings.identity import encode_segment
from app.recordings.labels import (
    Definitions,
    Label,
    parse_comment,
    parse_definition,
    parse_definition_changes,
    parse_label,
)
from app.store.repository import StoredRecording


async def definitions(request: Request) -> Response:
    """`GET /recording-label-definitions`"""
    found = await services(request).labelling.definitions(_contact_center(request))
    return envelope({"labelDefinitions": [found[key].rendered() for key in sorted(found)]})


async def definition(request: Request) -> Response:
    """`GET /recording-label-definitions/{name}`"""
    found = await services(request).labelling.definitions(_contact_center(request))
    return envelope({"labelDefinition": definition_named(found, _name(request)).rendered()})


async def define(request: Request) -> Response:
    """`POST /recording-label-definitions`"""
    created = parse_definition(await json_body(request))
    entry = audit_entry(request)
    entry.label, entry.display_name, entry.description = created.name, created.display_name, created.description
    await services(request).labelling.define(_contact_center(request), created)
    collection = base_url(request) + request.scope["path"].rstrip("/")
    return envelope({"name": created.name, "uri": f"{collection}/{encode_segment(created.name)}"}, 201)


async def redefine(request: Request) -> Response:
    """`PUT /recording-label-definitions/{name}`"""
    name = _name(request)
    changes = parse_definition_changes(await json_body(request), name)
    changed = await services(request).labelling.redefine(_contact_center(request), name, changes)
    entry = audit_entry(request)
    entry.label, entry.display_name, entry.description = changed.name, changed.display_name, changed.description
    return envelope({"labelDefinition": changed.rendered()})


async def delete_definition(request: Request) -> Response:
    """`DELETE /recording-label-definitions/{name}[?force=*]`"""
    force = audit_entry(request).forced = _forced(request)
    await services(request).labelling.remove_definition(_contact_center(request), _name(request), force=force)
    return envelope({})


async def labels(request: Request) -> Response:
    """`GET /recordings/{id}/labels`"""
    stored = await _stored(request)
    found = await _definitions_of(request, stored)
    return envelope({"labels": [label.rendered(found) for label in stored.labels or ()]})


async def label(request: Request) -> Response:
    """`GET /recordings/{id}/labels/{name}`"""
    stored = await _stored(request)
    return envelope({"label": label_of(stored, _name(request)).rendered(await _definitions_of(request, stored))})


async def give(request: Request) -> Response:
    """`POST /recordings/{id}/labels`"""
    name, comment = parse_label(await json_body(request))
    entry = audit_entry(request)
    entry.label = name
    if comment is not None:
        entry.comment = comment
    by = user_of(request).name
    given, is_new = await services(request).labelling.give(scope_of(request), _id(request), name, comment, by=by)
    entry.label = given.name
    return await _shown(request, given, 201 if is_new else 200)


async def comment(request: Request) -> Response:
    """`PUT /recordings/{id}/labels/{name}`"""
    name = _name(request)
    text = audit_entry(request).comment = parse_comment(await json_body(request), name)
    changed = await services(request).labelling.comment(scope_of(request), _id(request), name, text)
    audit_entry(request).label = changed.name
    return await _shown(request, changed, 200)


async def take(request: Request) -> Response:
    """`DELETE /recordings/{id}/labels/{name}`"""
    taken = await services(request).labelling.take(scope_of(request), _id(request), _name(request))
    audit_entry(request).label = taken.name
    return envelope({})


async def _shown(request: Request, changed: Label, status: int) -> Response:
    found = await services(request).labelling.definitions(_contact_center(request))
    return envelope({"label": changed.rendered(found)}, status)


async def _stored(request: Request) -> StoredRecording:
    return await repository(request).get(scope_of(request), _id(request))


async def _definitions_of(request: Request, stored: StoredRecording) -> Definitions:
    return await services(request).labelling.definitions(stored.contact_center) if stored.labels else {}


def _id(request: Request) -> str:
    return path_segment(request, "id")


def _name(request: Request) -> str:
    return path_segment(request, "label")


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
