"""Indices and the aliases that lead to them. The files of `es_mappings/` define every field."""

import logging
from collections import defaultdict
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import msgspec
from elasticsearch import AsyncElasticsearch, BadRequestError

from app.background import concurrently
from app.errors import ElasticsearchUnavailable
from app.settings import Settings
from app.store.client import store_errors

log = logging.getLogger(__name__)

_MAPPINGS = files("es_mappings") / "v2"

# The mapping file of each resource. Recordings and screen recordings have the same fields.
_MAPPING_FILES = {
    "recordings": "recordings.json",
    "screen-recordings": "recordings.json",
    "media-deletions": "media-deletions.json",
    "media-claims": "media-claims.json",
    "recording-versions": "recording-versions.json",
    "label-definitions": "label-definitions.json",
    "sessions": "sessions.json",
    "audit": "audit.json",
    "operations": "operations.json",
}

RESOURCES = tuple(_MAPPING_FILES)

# Claims live for seconds and sessions for hours, and a rollback would bring old ones back, or let an operation do again
# what it has done. It would also take lines of the audit log away. So these indices are never replaced.
_NEVER_REPLACED = frozenset({"media-claims", "sessions", "audit", "operations"})
MIGRATED_RESOURCES = tuple(resource for resource in RESOURCES if resource not in _NEVER_REPLACED)

# Fields that are added to existing indices in place: documents may lack them.
_OPTIONAL_FIELDS = ("recordingBytes", "access", "agents")


# What Elasticsearch tells about indices, by their names: aliases, mappings and settings.
_Definitions = dict[str, dict[str, Any]]


class SchemaMismatch(Exception):
    """An index differs from the definition in `es_mappings/`; the message lists the differences."""


def alias(settings: Settings, resource: str) -> str:
    """Returns the name by which every request reaches the index of a resource."""
    return f"{settings.index_prefix}-{resource}"


async def create_indices(client: AsyncElasticsearch, settings: Settings) -> list[str]:
    """Creates the missing indices and returns their names.

    Raises SchemaMismatch if an existing index has another mapping, ElasticsearchUnavailable or InternalError.
    """
    existing = await _existing_indices(client, settings)
    missing = _names_of_missing(settings, existing)
    seconds = settings.elasticsearch_admin_timeout
    client = client.options(request_timeout=seconds)
    async with store_errors(seconds):
        await concurrently(_create_index(client, settings, resource, index) for resource, index in missing.items())
    if missing:
        # Another process may have created an index first, perhaps with another version of the mapping.
        existing = await _existing_indices(client, settings)
    async with store_errors(seconds):
        await concurrently(
            add_optional_fields(client, resource, alias(settings, resource))
            for resource, indices in existing.items()
            if any(_lacks_fields(resource, index) for index in indices.values())
        )
    return list(missing.values())


async def missing_indices(client: AsyncElasticsearch, settings: Settings) -> dict[str, str]:
    """Returns the resources whose alias does not exist, each with the name of the index to create.

    Raises SchemaMismatch if an existing index has another mapping, ElasticsearchUnavailable or InternalError.
    """
    return _names_of_missing(settings, await _existing_indices(client, settings))


def _names_of_missing(settings: Settings, existing: Mapping[str, object]) -> dict[str, str]:
    return {resource: f"{alias(settings, resource)}-v2-000001" for resource in RESOURCES if resource not in existing}


async def check_indices(client: AsyncElasticsearch, settings: Settings) -> None:
    """Returns if a search works: Elasticsearch answers, all aliases exist, and all their shards are active.

    Raises ElasticsearchUnavailable.
    """
    seconds = settings.elasticsearch_search_timeout
    async with store_errors(seconds):
        await client.options(request_timeout=seconds).search(
            index=[alias(settings, resource) for resource in RESOURCES],
            query={"match_none": {}},
            size=0,
            allow_partial_search_results=False,
        )


async def _existing_indices(client: AsyncElasticsearch, settings: Settings) -> dict[str, _Definitions]:
    """Returns the resources whose alias exists, each with the definition of its index by the index's name.

    Raises SchemaMismatch if an index has another mapping, ElasticsearchUnavailable or InternalError.
    """
    names = {alias(settings, resource): resource for resource in RESOURCES}
    async with store_errors(settings.elasticsearch_admin_timeout):
        # One request for all: a service asks at each start.
        found = await client.indices.get(index=list(names), ignore_unavailable=True, flat_settings=True)
    existing: dict[str, _Definitions] = defaultdict(dict)
    for index, definition in found.body.items():
        for name in definition["aliases"].keys() & names.keys():
            resource = names[name]
            _compare(index, _schema_of(resource, definition), definition)
            existing[resource][index] = definition
    return existing


def _schema_of(resource: str, definition: dict[str, Any]) -> dict[str, Any]:
    """Returns the schema of a resource, without the optional fields that an index lacks."""
    schema = load_schema(resource)
    for field in _OPTIONAL_FIELDS:
        if field not in definition["mappings"].get("properties", {}):
            schema["mappings"]["properties"].pop(field, None)
    return schema


def _lacks_fields(resource: str, definition: dict[str, Any]) -> bool:
    return _schema_of(resource, definition) != load_schema(resource)


async def add_optional_fields(client: AsyncElasticsearch, resource: str, index: str) -> None:
    """Adds the fields that documents may lack to an index that a former version has created. Idempotent."""
    wanted = load_schema(resource)["mappings"]["properties"]
    added = {name: wanted[name] for name in _OPTIONAL_FIELDS if name in wanted}
    if added:
        await client.indices.put_mapping(index=index, properties=added)


async def refresh(client: AsyncElasticsearch, *indices: str) -> None:
    """Makes every acknowledged write searchable; raises ElasticsearchUnavailable if a shard could not be refreshed."""
    response = await client.indices.refresh(index=indices)
    if response.body["_shards"]["failed"]:
        log.warning("not every shard could be refreshed: %s", response.body["_shards"])
        raise ElasticsearchUnavailable


async def _create_index(client: AsyncElasticsearch, settings: Settings, resource: str, index: str) -> None:
    name = alias(settings, resource)
    schema = load_schema(resource)
    try:
        await client.indices.create(
            index=index,
            mappings=schema["mappings"],
            settings={
                **schema["settings"],
                "index.number_of_shards": settings.shards,
                "index.number_of_replicas": settings.replicas,
            },
            aliases={name: {"is_write_index": True}},
        )
    except BadRequestError as error:
        if error.error not in {"resource_already_exists_exception", "invalid_alias_name_exception"}:
            raise SchemaMismatch(f"Elasticsearch refuses to create the index {index}: {error}") from error
        # A request creates index and alias together, so a process that was faster has created both.
        if not await client.indices.exists_alias(name=name):
            raise SchemaMismatch(
                f"the alias {name} does not exist, but its name or that of its index {index} is taken"
            ) from error


def load_schema(resource: str) -> dict[str, Any]:
    """Returns the settings and mappings of the index of a resource."""
    schema: dict[str, Any] = msgspec.json.decode((_MAPPINGS / _MAPPING_FILES[resource]).read_bytes())
    return schema


def _compare(index: str, wanted: dict[str, Any], actual: dict[str, Any]) -> None:
    """Raises SchemaMismatch, which lists every difference between a mapping file and an index."""
    differences = _differences("mappings", wanted["mappings"], actual["mappings"])
    for key, value in wanted["settings"].items():
        differences += _differences(f"settings.{key}", value, actual["settings"].get(key))
    if differences:
        raise SchemaMismatch(f"the index {index} has another schema: {'; '.join(differences)}")


def _differences(path: str, wanted: Any, actual: Any) -> list[str]:
    if isinstance(wanted, dict) and isinstance(actual, dict):
        return [
            difference
            for key in sorted(wanted.keys() | actual.keys())
            for difference in _differences(f"{path}.{key}", wanted.get(key), actual.get(key))
        ]
    # Elasticsearch returns settings as strings.
    return [] if actual in (wanted, str(wanted)) else [f"{path} is {actual!r} instead of {wanted!r}"]
