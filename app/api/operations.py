"""`/recording-operations`: operations on many recordings (docs/contract.md section 10)."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from app import codec
from app.api.audit import audit_entry
from app.api.recordings import parse_reason, places_of
from app.api.requests import (
    address_of,
    base_url,
    operation_body,
    owner_of,
    path_segment,
    query_parameters,
    request_url,
    scope_of,
    services,
    user_of,
)
from app.api.responses import envelope
from app.auth.policy import require_role
from app.errors import InvalidParameter
from app.lifecycle.operations import Asked, By, new_operation_id
from app.recordings.dates import format_instant
from app.recordings.labels import parse_label_of_many
from app.search.criteria import given_values, parse_criteria
from app.search.paging import page_links, parse_page, unpacked
from app.store.operations import Operation, OperationName

# Each `operationName` that a client may send, and the operation that it means.
NAMES: Mapping[str, OperationName] = {
    "applyNonDelete": "applyNonDelete",
    "unapplyNonDelete": "unapplyNonDelete",
    "unapplyNonDeletion": "unapplyNonDelete",
    "addLabel": "addLabel",
    "removeLabel": "removeLabel",
    "delete": "delete",
}
_LABELLING = frozenset({"addLabel", "removeLabel"})

MAX_IDS = 1_000
_ATTRIBUTES = ("operationName", "recordings", "criteria")
# Beside these, by operation.
_OWN_ATTRIBUTES: Mapping[OperationName, Sequence[str]] = {
    "applyNonDelete": ("reason",),
    "unapplyNonDelete": ("reason",),
    "addLabel": ("label", "comment"),
    "removeLabel": ("label",),
    "delete": ("subresources",),
}


async def start(request: Request) -> Response:
    """`POST /recording-operations`: by ids it is done before the answer, by criteria it goes on by itself."""
    body = operation_body(request)
    by = _by(request)
    asked = _asked(body)
    if ("recordings" in body) == ("criteria" in body):
        raise InvalidParameter("recordings", "either recordings or criteria must be given, and not both")
    entry = audit_entry(request)
    entry.operation_name = asked.operation_name
    if "recordings" in body:
        return await _apply(request, by, asked, _ids(body["recordings"]))
    require_role(by.user, "ops-search" if by.is_ops else "search")
    shown = _criteria(body["criteria"])
    criteria = parse_criteria(list(shown.items()))
    async with services(request).searches.place(owner_of(request), places_of(criteria)):
        operation = await services(request).operations.start(by, asked, criteria, shown)
    entry.operation_id = operation.id
    here = base_url(request) + request.scope["path"].rstrip("/")
    return envelope({"id": operation.id, "uri": f"{here}/{operation.id}"}, 202)


async def _apply(request: Request, by: By, asked: Asked, ids: Sequence[str]) -> Response:
    operation_id = audit_entry(request).operation_id = new_operation_id()
    async with services(request).operations_by_ids.place(owner_of(request)):
        operation = await services(request).operations.apply(by, asked, ids, operation_id)
    content: dict[str, object] = {"id": operation.id, "succeeded": operation.succeeded}
    if operation.failures:
        content |= {"statusCode": 7, "failed": operation.failures}
    return envelope(content)


async def search(request: Request) -> Response:
    """`GET /recording-operations`: those of the last 30 days, the newest first."""
    parameters = unpacked(query_parameters(request))
    wanted = parse_page(given_values(parameters, (), known=()))
    page, total = await services(request).operations.search(_by(request), wanted)
    content: dict[str, Any] = {"operations": [_rendered(operation) for operation in page.hits]}
    if total is not None:
        content |= {"total": total[0], "totalIsExact": total[1]}
    return envelope(content | dict(page_links(request_url(request), parameters, wanted, page)))


async def read(request: Request) -> Response:
    """`GET /recording-operations/{id}`"""
    operation = await services(request).operations.read(_by(request), path_segment(request, "operation"))
    return envelope({"operation": _rendered(operation)})


async def cancel(request: Request) -> Response:
    """`DELETE /recording-operations/{id}`: what is done stays, and nothing more happens."""
    operation_id = audit_entry(request).operation_id = path_segment(request, "operation")
    operation = await services(request).operations.cancel(_by(request), operation_id)
    audit_entry(request).operation_name = operation.operation_name
    return envelope({})


def _by(request: Request) -> By:
    contact_center = scope_of(request).contact_center
    assert contact_center is not None
    is_ops = "contact_center" in request.path_params
    return By(user_of(request), contact_center, is_ops, address_of(request))


def _asked(body: Mapping[str, Any]) -> Asked:
    """Returns what to do with each recording; raises MissingParameter, or InvalidParameter.

    So are attributes that the operation does not know: who deletes with a label may mean only those that have it.
    """
    name = NAMES[body["operationName"]]
    known = (*_ATTRIBUTES, *_OWN_ATTRIBUTES[name])
    for attribute in body:
        if attribute not in known:
            told = f"{', '.join(known[:-1])} and {known[-1]}"
            raise InvalidParameter(attribute, f"{name} does not know it; it knows {told}")
    label, comment = parse_label_of_many(body) if name in _LABELLING else ("", None)
    subresources = body.get("subresources")
    if subresources is not None and subresources != "*":
        raise InvalidParameter("subresources", "it must be *")
    return Asked(name, label, comment, reason=parse_reason(body), with_media=subresources == "*")


def _ids(recordings: object) -> Sequence[str]:
    if not isinstance(recordings, list) or not 1 <= len(recordings) <= MAX_IDS:
        raise InvalidParameter("recordings", f"it must be a list of 1 to {MAX_IDS} ids")
    for number, recording_id in enumerate(recordings):
        if not isinstance(recording_id, str):
            raise InvalidParameter(f"recordings[{number}]", "it must be a string")
    return recordings


def _criteria(criteria: object) -> dict[str, str]:
    """Returns criteria as they would stand in a query; a number or a boolean as its JSON text."""
    if not isinstance(criteria, dict):
        raise InvalidParameter("criteria", "it must be a JSON object, with the criteria of a search")
    texts: dict[str, str] = {}
    for name, value in criteria.items():
        if isinstance(value, bool | int | msgspec.Raw):
            texts[name] = codec.encode(value).decode()
        elif isinstance(value, str):
            texts[name] = value
        else:
            raise InvalidParameter(name, "it must be a string, a number or a boolean")
    return texts


def _rendered(operation: Operation) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "id": operation.id,
        "operationName": operation.operation_name,
        "state": operation.state,
        "matched": operation.matched,
        "succeeded": operation.succeeded,
        "failed": operation.failed,
        "failures": operation.failures,
        "by": operation.by,
        "createdAt": format_instant(operation.created_at),
    }
    if operation.criteria is not None:
        shown["criteria"] = codec.decode(operation.criteria)
    optional = {
        "label": operation.label,
        "comment": operation.comment,
        "reason": operation.reason,
        "subresources": "*" if operation.with_media else None,
        "statusMessage": operation.message,
    }
    shown |= {name: value for name, value in optional.items() if value}
    if operation.finished_at is not None:
        shown["finishedAt"] = format_instant(operation.finished_at)
    return shown
