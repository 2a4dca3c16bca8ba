"""What handlers read from a request: who asks, the path, the query, the body."""

import asyncio
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec
from starlette.requests import Request

from app import codec
from app.api.endpoint import Choice, Endpoint
from app.auth.policy import Operation
from app.auth.scope import Scope, limits_of
from app.background import apart
from app.errors import BodyTooLarge, InvalidParameter, MissingParameter, RequestTimeout, UnsupportedMediaType
from app.recordings.identity import Resource
from app.recordings.model import validate_id
from app.services import Services
from app.settings import User
from app.shares import Owner
from app.store.repository import RecordingRepository

_NOT_GIVEN = object()

API = "/api/v2"
FORM = "application/x-www-form-urlencoded"

# Programs of Windows begin a text with it.
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

NDJSON = "application/x-ndjson"

MAX_DEPTH = 100
# Far below where Python refuses to read a whole number.
MAX_NUMBER_LENGTH = 1_000


def services(request: Request) -> Services:
    """Returns the services that all requests of the process share."""
    found: Services = request.app.state.services
    return found


def user_of(request: Request) -> User:
    """Returns the user who asks."""
    user: User = request.state.user
    return user


def address_of(request: Request) -> str | None:
    """Returns the address of the client, None on a socket without addresses."""
    return request.client.host if request.client else None


def operation_of(request: Request) -> Operation:
    """Returns the operation that the row of the route, or the body, has chosen."""
    operation: Operation = request.state.operation
    return operation


def operation_body(request: Request) -> dict[str, Any]:
    """Returns the body in which `operationName` stands."""
    body: dict[str, Any] = request.state.operation_body
    return body


def resource_of(request: Request) -> Resource:
    """Returns whether a path is about recordings or screen recordings."""
    endpoint: Endpoint = request.state.endpoint
    assert endpoint.resource is not None
    assert endpoint.resource != "label-definitions"
    return endpoint.resource


def named_contact_center(request: Request) -> str | None:
    """Returns the contact center that the path names, if it names one, without a judgement of its spelling."""
    segment = request.path_params.get("contact_center")
    return None if segment is None else unquote_to_bytes(segment.encode("latin-1")).decode(errors="replace")


def contact_center_of(request: Request) -> str:
    """Returns the contact center that the path names; raises InvalidParameter."""
    contact_center = path_segment(request, "contact_center")
    validate_id("contact-center-id", contact_center)
    return contact_center


def scope_of(request: Request) -> Scope:
    """Returns what the caller may see: the contact center that the path names, else what she sees of her own.

    The other paths are for roles that the configuration lets have one of their own alone.
    """
    region = services(request).settings.region
    if "contact_center" in request.path_params:
        return Scope(contact_center_of(request), region)
    user = user_of(request)
    assert user.contact_center is not None
    return Scope(user.contact_center, region, limits_of(user))


def owner_of(request: Request) -> Owner:
    """Returns whose share of the service the request uses (`app.shares`)."""
    contact_center = scope_of(request).contact_center
    assert contact_center is not None
    return Owner(contact_center, user_of(request).name)


def repository(request: Request) -> RecordingRepository:
    """Returns the repository of what the path is about: recordings or screen recordings."""
    return services(request).repositories[resource_of(request)]


def path_segment(request: Request, name: str) -> str:
    """Returns one segment of the path, decoded; raises InvalidParameter when it is not UTF-8."""
    return _percent_decoded(name, request.path_params[name])


def query_parameters(request: Request) -> list[tuple[str, str]]:
    """Returns every parameter, decoded, in the order of the query; raises InvalidParameter when one is not UTF-8."""
    return _pairs(request.scope["query_string"].decode("latin-1"))


def _pairs(encoded: str) -> list[tuple[str, str]]:
    pairs = (pair.partition("=") for pair in encoded.split("&") if pair)
    return [(_form_decoded("query", name), _form_decoded(name, value)) for name, _, value in pairs]


def base_url(request: Request) -> str:
    """Returns the absolute URL of the service without a slash at its end, as the client reached it or as configured."""
    return (services(request).settings.public_url or str(request.base_url)).rstrip("/")


def request_url(request: Request) -> str:
    """Returns the absolute URL that was asked for, with its query, as the client reached it or as configured."""
    query = request.scope["query_string"].decode("latin-1")
    return f"{base_url(request)}{request.scope['path']}?{query}"


def api_url(request: Request) -> str:
    """Returns the absolute URL up to `/api/v2`, or what stands in its place under the page."""
    endpoint: Endpoint = request.state.endpoint
    return f"{base_url(request)}{endpoint.mount}"


def body_size(request: Request) -> int:
    """Returns the number of bytes of a body that has been read."""
    size: int = request.state.body_size
    return size


# A body must arrive within so many seconds. The client that sends a sign-in is not authenticated yet.
_BODY_SECONDS = 60.0
_FORM_SECONDS = 10.0


async def form_body(request: Request, limit: int) -> dict[str, str]:
    """Returns the fields of a form of at most `limit` bytes; the last of several with the same name.

    Raises UnsupportedMediaType, BodyTooLarge, RequestTimeout, or InvalidParameter for what is not UTF-8.
    """
    if request.headers.get("content-type", "").lower().partition(";")[0].strip() != FORM:
        raise UnsupportedMediaType(f"The request body must be {FORM}.")
    return dict(_pairs((await _body(request, limit, _FORM_SECONDS)).decode("latin-1")))


async def json_body(request: Request, empty: Any = _NOT_GIVEN) -> Any:
    """Returns the body as JSON, or `empty`, if given, for a request without body.

    Raises UnsupportedMediaType, BodyTooLarge, RequestTimeout, or InvalidParameter as `decoded` does.
    """
    _check_media_type(request, "application/json")
    body = await _body(request, services(request).settings.max_body_bytes, _BODY_SECONDS)
    if not body and empty is not _NOT_GIVEN:
        return empty
    request.state.body_size = len(body)
    return await apart(len(body), decoded, body)


def is_ndjson(request: Request) -> bool:
    """Returns whether the body holds one JSON value a line."""
    return _media_type(request)[0] == NDJSON


async def ndjson_body(request: Request, limit: int) -> bytes:
    """Returns a body of lines of JSON; raises UnsupportedMediaType, BodyTooLarge, RequestTimeout."""
    _check_media_type(request, NDJSON)
    return await _body(request, limit, _BODY_SECONDS)


def decoded(body: bytes) -> Any:
    """Returns a body, or a line of one, as JSON.

    Raises InvalidParameter ("body") for what is not JSON in UTF-8 or is nested more than MAX_DEPTH deep.
    """
    try:
        value = codec.decode(body)
    except RecursionError:
        raise InvalidParameter("body", f"it is nested more than {MAX_DEPTH} levels deep") from None
    except UnicodeDecodeError:
        raise InvalidParameter("body", "it is not UTF-8") from None
    except msgspec.ValidationError:  # the decoder's word for a whole number of thousands of digits
        raise InvalidParameter("body", f"it has a number of more than {MAX_NUMBER_LENGTH} characters") from None
    except ValueError:
        raise InvalidParameter("body", "it is not JSON") from None
    _check_bounds(value)
    return value


async def chosen(request: Request, choices: Mapping[str, Choice]) -> Choice:
    """Returns what the `operationName` of the body stands for; raises MissingParameter or InvalidParameter."""
    body = await json_body(request, empty={})
    if not isinstance(body, dict):
        raise InvalidParameter("body", "it must be a JSON object")
    if "operationName" not in body:
        raise MissingParameter("operationName")
    request.state.operation_body = body
    name = body["operationName"]
    if not isinstance(name, str) or name not in choices:
        raise InvalidParameter("operationName", "The specified value is not within valid range")
    return choices[name]


def _percent_decoded(name: str, text: str) -> str:
    try:
        return unquote_to_bytes(text.encode("latin-1")).decode()
    except UnicodeDecodeError:
        raise InvalidParameter(name, "it is not UTF-8") from None


def _form_decoded(name: str, text: str) -> str:
    return _percent_decoded(name, text.replace("+", " "))


def _media_type(request: Request) -> tuple[str, str]:
    """Returns the media type of the body, in lower case, and its parameters."""
    content_type = request.headers.get("content-type", "application/json")
    media_type, _, parameters = content_type.lower().partition(";")
    return media_type.strip(), parameters


def _check_media_type(request: Request, expected: str) -> None:
    media_type, parameters = _media_type(request)
    charset = parameters.replace(" ", "").replace('"', "").partition("charset=")[2].partition(";")[0]
    if media_type != expected or charset not in {"", "utf-8", "utf8"}:
        raise UnsupportedMediaType(f"The request body must be {expected} in UTF-8.")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("The request body must not have a Content-Encoding.")


async def _body(request: Request, limit: int, seconds: float) -> bytes:
    # The server throws away what the client still sends after an answer, so that it gets to read why.
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > limit:
        raise BodyTooLarge(limit)
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise BodyTooLarge(limit)
    except TimeoutError:
        raise RequestTimeout from None
    return bytes(body).removeprefix(_BYTE_ORDER_MARK)


def _check_bounds(body: Any) -> None:
    """Refuses bodies that no client means, and that would be expensive for everything behind the service."""
    level, depth = [body], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise InvalidParameter("body", f"it is nested more than {MAX_DEPTH} levels deep")
        children: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                children += value.values()
            elif isinstance(value, list):
                children += value
            elif not isinstance(value, str) and codec.number_length(value) > MAX_NUMBER_LENGTH:
                raise InvalidParameter("body", f"it has a number of more than {MAX_NUMBER_LENGTH} characters")
        level = children
