"""What changes of the API description break clients that were made for the former one."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Document = Mapping[str, Any]

_METHODS = ("get", "head", "post", "put", "delete")


def breaking_changes(former: Document, current: Document) -> Iterator[str]:
    """Yields a line for each: something is gone that clients read, or something is demanded that they do not send."""
    for path, item in former["paths"].items():
        now = current["paths"].get(path, {})
        for method in (method for method in _METHODS if method in item):
            what = f"{method.upper()} {path}"
            if method not in now:
                yield f"{what} is gone"
            else:
                yield from _operation(what, item[method], now[method])
    for name, schema in former["components"]["schemas"].items():
        now = current["components"]["schemas"].get(name)
        if now is not None:
            is_posted = name.startswith("Posted")
            yield from (_demanded if is_posted else _no_longer_given)(name, schema, now)


def _operation(what: str, former: Document, current: Document) -> Iterator[str]:
    for status in former["responses"]:
        if status.startswith("2") and status not in current["responses"]:
            yield f"{what} no longer answers {status}"
    if not former["security"] and current["security"]:
        yield f"{what} needs authentication"
    parameters = {parameter["name"]: parameter for parameter in current["parameters"]}
    known = {parameter["name"]: parameter for parameter in former["parameters"]}
    for name in known.keys() - parameters.keys():
        yield f"{what} no longer takes {name}"
    for name, parameter in parameters.items():
        if parameter.get("required") and not known.get(name, {}).get("required"):
            yield f"{what} demands {name}"
    if "requestBody" in current and "requestBody" not in former:
        yield f"{what} demands a body"


def _no_longer_given(name: str, former: Document, current: Document) -> Iterator[str]:
    properties = current.get("properties", {})
    for attribute, schema in former.get("properties", {}).items():
        if attribute not in properties:
            yield f"{name}.{attribute} is gone"
        elif not _types(properties[attribute]) <= _types(schema):
            yield f"{name}.{attribute} has another type"
    for attribute in former.get("required", []):
        if attribute not in current.get("required", []):
            yield f"{name}.{attribute} may be absent"


def _demanded(name: str, former: Document, current: Document) -> Iterator[str]:
    for attribute in current.get("required", []):
        if attribute not in former.get("required", []):
            yield f"{name} demands {attribute}"
    properties = current.get("properties", {})
    for attribute, schema in former.get("properties", {}).items():
        if attribute in properties and not _types(schema) <= _types(properties[attribute]):
            yield f"{name}.{attribute} must have another type"


def _types(schema: Document) -> set[str]:
    """Returns the types that a schema allows; all of them when it names none."""
    found: str | Sequence[str] = schema.get("type", ("any",))
    return {found} if isinstance(found, str) else set(found)
