"""Compares what the service answers with what `/openapi.json` says, in every test that uses `Service.client`."""

import json
import re
from collections.abc import Mapping
from fnmatch import fnmatch
from functools import cache
from typing import Any

import httpx
import jsonschema_rs

from app import codec
from app.api.description import describe
from app.api.docs import VERSION
from app.api.routes import ENDPOINTS

# The page's own paths are no contract (docs/contract.md section 13).
_PAGE = re.compile(r"/|/ui(?:/.*)?")


class NotDescribed(AssertionError):
    """The service has answered what its description does not allow."""


class DescribedClient(httpx.AsyncClient):
    """Raises NotDescribed for an answer that is not as described."""

    async def request(self, method: str, url: httpx.URL | str, **options: Any) -> httpx.Response:
        response = await super().request(method, url, **options)
        # A proxy in front of the service may answer by itself, and a preflight belongs to no path.
        if not response.headers.get("server", "").startswith("nginx") and method != "OPTIONS":
            description().check(response)
        return response


class Description:
    """An OpenAPI document, by which answers are checked."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.document = document
        self._paths = [(_pattern(path), item) for path, item in document["paths"].items()]
        self._validators: dict[int, jsonschema_rs.Validator] = {}

    def check(self, response: httpx.Response) -> None:
        """Raises NotDescribed."""
        request = response.request
        # A test may name the target of a request itself.
        target: bytes = request.extensions.get("target", request.url.raw_path)
        path = target.partition(b"?")[0].decode("latin-1")
        if _PAGE.fullmatch(path):
            return
        item = next((item for pattern, item in self._paths if pattern.fullmatch(path)), None)
        if item is None or request.method.lower() not in item:
            # No such path or method: whatever it is, it is an error in the envelope.
            if response.status_code < 400:
                raise NotDescribed(f"{request.method} {path} is not described")
            return
        what = f"{request.method} {path}: {response.status_code}"
        described = self._resolved(item[request.method.lower()]["responses"].get(str(response.status_code)))
        if described is None:
            raise NotDescribed(f"{what} is not described: {response.text[:200]}")
        for name, header in described.get("headers", {}).items():
            value = response.headers.get(name)
            if value is None and header.get("required"):
                raise NotDescribed(f"{what} lacks the header {name}")
            if value is not None and not re.search(header["schema"].get("pattern", ""), value):
                raise NotDescribed(f"{what} has {name}: {value}")
        self._check_content(what, response, described.get("content", {}))

    def _check_content(self, what: str, response: httpx.Response, content: Mapping[str, Any]) -> None:
        if not content:
            if response.content:
                raise NotDescribed(f"{what} has a body")
            return
        actual = response.headers.get("content-type", "").partition(";")[0].lower()
        described = next((about for media_type, about in content.items() if fnmatch(actual, media_type)), None)
        if described is None:
            raise NotDescribed(f"{what} is {actual}, not {' or '.join(content)}")
        if actual == "application/json":
            try:
                self._validator(described["schema"]).validate(json.loads(response.content))
            except jsonschema_rs.ValidationError as error:
                where = "/".join(map(str, error.instance_path))
                raise NotDescribed(f"{what}: {where}: {error.message[:300]}") from None

    def _validator(self, schema: Mapping[str, Any]) -> jsonschema_rs.Validator:
        key = id(schema)  # the document lives as long as this
        if key not in self._validators:
            whole = {**schema, "components": self.document["components"]}
            self._validators[key] = jsonschema_rs.Draft202012Validator(whole)
        return self._validators[key]

    def _resolved(self, described: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        if described is None or "$ref" not in described:
            return described
        found: Mapping[str, Any] = self.document
        for part in described["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        return found


@cache
def description() -> Description:
    """Returns the description of this version."""
    return Description(json.loads(codec.encode(describe(ENDPOINTS, VERSION))))


def _pattern(path: str) -> re.Pattern[str]:
    parts = re.split("({.*?})", path)
    return re.compile("".join("[^/]+" if part.startswith("{") else re.escape(part) for part in parts))
