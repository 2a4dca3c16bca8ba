"""The document: paths from the route table, and what is the same for every method."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from app import errors
from app.api.description.operations import OPERATIONS, Answer, Described, Errors, Parameter
from app.api.description.schemas import SCHEMAS, Schema, ref
from app.api.endpoint import Endpoint, Method
from app.auth.policy import POLICY
from app.errors import RecallError
from app.settings import Role

_INTRODUCTION = """\
Call recordings of contact centers: search, play, protect, delete.

The API is that of Genesys Web Services *Recording Access* and *Recording Non-Deletion*. Every JSON response is an \
object with an integer `statusCode`; an error has a `statusMessage` too.
"""

# The errors that the server may answer to any request.
_OF_THE_SERVER: Errors = (
    errors.InternalError,
    errors.RequestTimeout,
    errors.RequestHeadTooLarge,
    errors.TooManyHeaders,
    errors.ConnectionsExhausted,
    errors.InvalidParameter,
)
_OF_USERS: Errors = (errors.NotAuthenticated, errors.TooManyAttempts, errors.InsufficientRole)
_OF_PERMISSIONS: Errors = (errors.InsufficientPermissions,)
_OF_CHANGES: Errors = (errors.ForeignOrigin,)

_NO_STORE: Mapping[str, Any] = {
    "Cache-Control": {
        "description": "Nothing with data may be kept.",
        "required": True,
        "schema": {"type": "string", "pattern": "no-store"},
    }
}

# For HEAD and aliases, so that a list shows each thing once.
_THE_SAME = "The same by HEAD, or under other paths"

_PATH_PARAMETERS = {
    "id": ("The id of the recording.", "00PV5Q27MG8AB8VNE49362LAES000014"),
    "contact_center": ("The id of the contact center.", "a5539ef5-7dd5-4150-818f-ee1bcd447cbe"),
    "name": ("The uuid of the media file, with its extension.", "0ce11ff0-a6cf-43fa-aaa1-baad43ac98b4.mp3"),
    "label": ("The name of the label.", "complaint"),
    "file": ("The name of the file.", "swagger-ui.css"),
    "operation": ("The id of the operation.", "5f0c2f4e9a7b4d0f8c3e1a2b6d7f8091"),
}


def describe(endpoints: Sequence[Endpoint], version: str) -> Mapping[str, Any]:
    """Returns the description of these rows. Raises KeyError for a method that `OPERATIONS` does not describe."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "Recall", "version": version, "description": _INTRODUCTION},
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in dict.fromkeys([*map(_tag, endpoints), _THE_SAME])],
        "paths": dict(_paths(endpoints)),
        "components": {
            "schemas": {**SCHEMAS, **_error_schemas(endpoints)},
            "responses": _error_responses(endpoints),
            "securitySchemes": {"basic": {"type": "http", "scheme": "basic"}},
        },
    }


def _paths(endpoints: Iterable[Endpoint]) -> Iterable[tuple[str, Mapping[str, Any]]]:
    for endpoint in endpoints:
        for number, path in enumerate(endpoint.paths):
            item = {
                name.lower(): _operation(endpoint, name, method, number) for name, method in endpoint.methods.items()
            }
            yield path, {"parameters": [_path_parameter(name) for name in re.findall("{(.*?)}", path)], **item}


def _path_parameter(name: str) -> Mapping[str, Any]:
    description, example = _PATH_PARAMETERS[name]
    schema = {"type": "string", "minLength": 1}
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": description,
        "schema": schema,
        "example": example,
    }


def _operation(endpoint: Endpoint, name: str, method: Method, number: int) -> Mapping[str, Any]:
    """Returns a method of the `number`th path of an endpoint; the later ones are aliases of the first."""
    described = _described(endpoint, name)
    words = [name.lower(), endpoint.name, *([f"alias-{number}"] if number else [])]
    operation: dict[str, Any] = {
        "operationId": "-".join(words),
        "summary": described.summary,
        "description": " ".join(filter(None, [described.description, _who(method)])),
        "tags": [_THE_SAME if number or name == "HEAD" else _tag(endpoint)],
        "parameters": [_parameter(parameter) for parameter in described.parameters],
        "responses": {**_answers(described, name), **_errors(endpoint, name, method, described)},
        "security": [] if endpoint.authentication == "none" else [{"basic": []}],
    }
    bodies = {"application/json": described.body, "application/x-ndjson": described.lines}
    content = {media_type: {"schema": schema} for media_type, schema in bodies.items() if schema is not None}
    if content:
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _described(endpoint: Endpoint, name: str) -> Described:
    return OPERATIONS[endpoint.name, "GET" if name == "HEAD" else name]


def _tag(endpoint: Endpoint) -> str:
    if endpoint.name.startswith("ops-"):
        return "Operators"
    if endpoint.name.startswith("internal-"):
        return "Clients that exist"
    return "Service" if endpoint.authentication == "none" else "Contact center"


def _who(method: Method) -> str:
    """Returns which roles may, and which permission they need."""
    needed = [POLICY[operation] for operation in method.operations]
    if not needed:
        return "No authentication."
    if any(requirement.roles is None for requirement in needed):
        return "For every user."
    roles = [role for role in get_args(Role) if any(role in (requirement.roles or ()) for requirement in needed)]
    limited = [role for role in get_args(Role) if any(role in requirement.if_limited for requirement in needed)]
    text = f"For {_listed(roles)}"
    if limited:
        text += f", and as far as their configuration shows recordings for {_listed(limited)}"
    permissions = sorted({permission for requirement in needed for permission in requirement.permissions})
    return text + (f"; all but admin need a permission: {', '.join(permissions)}." if permissions else ".")


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _parameter(parameter: Parameter) -> Mapping[str, Any]:
    described: dict[str, Any] = {
        "name": parameter.name,
        "in": parameter.place,
        "description": parameter.description,
        "schema": parameter.schema,
    }
    return described if parameter.example is None else described | {"example": parameter.example}


def _answers(described: Described, name: str) -> Mapping[str, Any]:
    return {str(status): _answer(answer, name) for status, answer in described.answers.items()}


def _answer(answer: Answer, name: str) -> Mapping[str, Any]:
    headers = {header: {"description": text, "schema": {"type": "string"}} for header, text in answer.headers.items()}
    response: dict[str, Any] = {"description": answer.description, "headers": {**headers, **_cached(answer)}}
    if name != "HEAD" and not answer.is_empty:
        schema = answer.content or {"type": "string", "format": "binary"}
        response["content"] = {media_type: {"schema": schema} for media_type in answer.media_types}
    return response


def _cached(answer: Answer) -> Mapping[str, Any]:
    return _NO_STORE if answer.has_data else {}


def _errors(endpoint: Endpoint, name: str, method: Method, described: Described) -> Mapping[str, Schema]:
    """Returns a reference to the response of each status; `_error_responses` makes the same names."""
    return {
        str(status): {"$ref": f"#/components/responses/{_response_name(kinds, name)}"}
        for status, kinds in _by_status(_possible(endpoint, name, method, described))
    }


def _possible(endpoint: Endpoint, name: str, method: Method, described: Described) -> Errors:
    """Returns the errors that a method may answer."""
    found = [*_OF_THE_SERVER, *described.errors]
    if endpoint.authentication != "none":
        found += _OF_USERS
        if any(POLICY[operation].permissions for operation in method.operations):
            found += _OF_PERMISSIONS
    if name not in {"GET", "HEAD"}:
        found += _OF_CHANGES
    return tuple(dict.fromkeys(found))


def _by_status(kinds: Errors) -> Iterable[tuple[int, Errors]]:
    statuses = sorted({status for kind in kinds for status in _statuses(kind)})
    return [(status, tuple(kind for kind in kinds if status in _statuses(kind))) for status in statuses]


def _response_name(kinds: Errors, method: str) -> str:
    names = sorted(kind.__name__ for kind in kinds)
    return "-".join([*names, *(["HEAD"] if method == "HEAD" else [])])


def _error_responses(endpoints: Iterable[Endpoint]) -> Mapping[str, Any]:
    """Returns a response for each set of errors that a status of some method may stand for."""
    return {
        _response_name(kinds, name): _error_response(status, kinds, name)
        for endpoint in endpoints
        for name, method in endpoint.methods.items()
        for status, kinds in _by_status(_possible(endpoint, name, method, _described(endpoint, name)))
    }


def _error_response(status: int, kinds: Errors, name: str) -> Mapping[str, Any]:
    response: dict[str, Any] = {
        "description": " ".join(dict.fromkeys(map(_about, kinds))),
        "headers": {**_NO_STORE, **_error_headers(status)},
    }
    if name != "HEAD":
        codes = sorted({kind.code for kind in kinds})
        response["content"] = {"application/json": {"schema": ref(_error_name(codes))}}
    return response


def _statuses(error: type[RecallError]) -> tuple[int, ...]:
    return (429, 503) if error is errors.ShareInUse else (error.http_status,)


def _about(error: type[RecallError]) -> str:
    """Returns the first sentence of what the code says about an error."""
    text = " ".join((error.__doc__ or "").split()).partition(". ")[0].rstrip(".")
    text = re.sub(r":? ?[0-9]{3}(?: or [0-9]{3})?, code [0-9]+", "", text)
    return f"{text or re.sub('(?<!^)(?=[A-Z])', ' ', error.__name__).capitalize()}."


_HEADERS = {
    401: ("WWW-Authenticate", "The way to authenticate: Basic."),
    416: ("Content-Range", "The length of the media file."),
    429: ("Retry-After", "Seconds after which to ask again."),
    503: ("Retry-After", "Seconds after which to ask again."),
}


def _error_headers(status: int) -> Mapping[str, Any]:
    if status not in _HEADERS:
        return {}
    name, text = _HEADERS[status]
    return {name: {"description": text, "required": True, "schema": {"type": "string"}}}


def _error_name(codes: Iterable[int]) -> str:
    return "Error" + "Or".join(map(str, codes))


def _error_schemas(endpoints: Iterable[Endpoint]) -> Mapping[str, Schema]:
    """Returns a schema for each set of codes that a status of some method may have."""
    sets = {
        tuple(sorted({kind.code for kind in kinds}))
        for endpoint in endpoints
        for name, method in endpoint.methods.items()
        for _, kinds in _by_status(_possible(endpoint, name, method, _described(endpoint, name)))
    }
    return {
        _error_name(codes): {
            "type": "object",
            "properties": {"statusCode": {"enum": list(codes)}, "statusMessage": {"type": "string", "minLength": 1}},
            "required": ["statusCode", "statusMessage"],
            "additionalProperties": False,
        }
        for codes in sorted(sets)
    }
