"""Indices and the aliases in front of them; `es_mappings/` is the whole truth about their fields."""

import logging
from pathlib import Path
from typing import Any

import msgspec
from elasticsearch import AsyncElasticsearch, BadRequestError

from app.errors import StoreUnavailable
from app.settings import Settings
from app.store.client import store_errors

log = logging.getLogger(__name__)

_MAPPINGS = Path(__file__).parents[2] / "es_mappings" / "v2"

RESOURCES = ("recordings", "screen-recordings", "media-deletions")


class SchemaMismatch(Exception):
    """What stands in Elasticsearch is not what `es_mappings/` says; the text tells where they differ."""


def alias(settings: Settings, resource: str) -> str:
    """The only name by which an index is reached."""
    return f"{settings.index_prefix}-{resource}"


async def create_indices(client: AsyncElasticsearch, settings: Settings) -> list[str]:
    """Makes what is missing and returns its names.

    Raises SchemaMismatch when what exists has another mapping, StoreUnavailable or InternalError.
    """
    missing = await missing_indices(client, settings)
    seconds = settings.elasticsearch_admin_timeout
    client = client.options(request_timeout=seconds)
    async with store_errors(seconds):
        for resource, index in missing.items():
            await _create_index(client, settings, resource, index)
    if missing:
        # Another process may have been faster, perhaps with another version of the mapping.
        await missing_indices(client, settings)
    return list(missing.values())


async def missing_indices(client: AsyncElasticsearch, settings: Settings) -> dict[str, str]:
    """Resource → name of the index to be made, for each alias that does not exist.

    Raises SchemaMismatch when what exists has another mapping, StoreUnavailable or InternalError.
    """
    missing = {}
    async with store_errors(settings.elasticsearch_admin_timeout):
        for resource in RESOURCES:
            name = alias(settings, resource)
            if not await client.indices.exists_alias(name=name):
                missing[resource] = f"{name}-v2-000001"
                continue
            for index, actual in (await client.indices.get(index=name, flat_settings=True)).body.items():
                _compare(index, load_schema(resource), actual)
    return missing


async def refresh(client: AsyncElasticsearch, *indices: str) -> None:
    """Makes every write that was acknowledged searchable; raises StoreUnavailable where that cannot be promised."""
    response = await client.indices.refresh(index=indices)
    if response.body["_shards"]["failed"]:
        log.warning("not every shard could be refreshed: %s", response.body["_shards"])
        raise StoreUnavailable


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
            raise SchemaMismatch(f"Elasticsearch refuses to make the index {index}: {error}") from error
        # Index and alias come into being together, so another process that was faster made both.
        if not await client.indices.exists_alias(name=name):
            raise SchemaMismatch(
                f"the alias {name} does not exist, but its name or that of its index {index} is taken"
            ) from error


def load_schema(resource: str) -> dict[str, Any]:
    schema: dict[str, Any] = msgspec.json.decode((_MAPPINGS / f"{resource}.json").read_bytes())
    return schema


def _compare(index: str, wanted: dict[str, Any], actual: dict[str, Any]) -> None:
    """Raises SchemaMismatch with each difference between a mapping file and an index."""
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
    # Settings come back as text.
    return [] if actual in (wanted, str(wanted)) else [f"{path} is {actual!r} instead of {wanted!r}"]
