"""Blocking writes, swapping the alias, and recovery after a process that was killed in between.

Every process of the service imports this module for `recover_abandoned_migrations`, so it must stay small: it knows
nothing of copying.
"""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from elasticsearch import AsyncElasticsearch, NotFoundError

from app.migration.plan import MigrationError, MigrationLease, Plan, migration_lease, migration_state
from app.settings import Settings
from app.store.client import store_errors
from app.store.indices import MIGRATED_RESOURCES, alias
from app.store.lease import LeaseError
from app.store.retrying import with_retries

log = logging.getLogger(__name__)

REQUEST_SECONDS = 60.0


async def current_index(client: AsyncElasticsearch, name: str) -> str:
    """Returns the index behind an alias. Raises MigrationError unless there is exactly one."""
    try:
        found: list[str] = list((await with_retries(client.indices.get_alias, name=name)).body)
    except NotFoundError:
        found = []
    if len(found) != 1:
        raise MigrationError(f"the alias {name} points to {', '.join(found) or 'nothing'} instead of one index")
    return found[0]


# --- The lease and the fence --------------------------------------------------------------------------------


@asynccontextmanager
async def acquire_and_recover(
    client: AsyncElasticsearch, settings: Settings, resource: str
) -> AsyncIterator[MigrationLease]:
    """Holds the lease of a resource within the context, after recovery from a run that was killed.

    Raises MigrationError if another run holds or takes over the lease, and ElasticsearchUnavailable.
    """
    client = client.options(request_timeout=REQUEST_SECONDS)
    lease = migration_lease(client, settings, resource)
    try:
        async with lease.acquire():
            if plan := lease.state.plan:
                await _recover(client, lease, plan, alias(settings, resource))
            yield lease
    except LeaseError as error:
        raise MigrationError(f"cannot migrate {alias(settings, resource)}: {error}") from error


async def recover_abandoned_migrations(client: AsyncElasticsearch, settings: Settings) -> None:
    """Recovers from migrations that were killed while writes were blocked. Every process may call it at any time.

    Raises ElasticsearchUnavailable.
    """
    for resource in MIGRATED_RESOURCES:
        async with store_errors(settings.elasticsearch_timeout):
            plan = (await migration_state(client, settings, resource)).plan
            abandoned = plan is not None and await _may_be_blocked(client, plan)
        if abandoned:
            with suppress(MigrationError):  # usually that run is alive and holds the lease
                async with acquire_and_recover(client, settings, resource):
                    pass


async def _recover(client: AsyncElasticsearch, lease: MigrationLease, plan: Plan, name: str) -> None:
    if not await _is_swapped(client, name, plan):
        await _fence_off(client, lease, plan, name, fence_name(name, lease))
    # Checked again: after the fence no swap can happen any more.
    if await _is_swapped(client, name, plan):
        log.warning("a migration was killed after it had pointed %s at %s", name, plan.target)
        await complete(lease)
    elif await with_retries(_may_be_blocked, client, plan):
        await _unblock_and_save(client, lease, plan)
        log.warning("a migration was killed while writes to %s were blocked; they are unblocked now", name)


async def _fence_off(client: AsyncElasticsearch, lease: MigrationLease, plan: Plan, name: str, fence: str) -> None:
    """Makes every later write and swap under another fence fail. The previous holder may only be paused."""
    plan.fence = fence
    # Saved first: if this process is killed here, the plan names a fence that no alias has, which is safe.
    await lease.save()
    for old in await fences(client, name, plan.target):
        await _replace_fence(client, plan.target, old, fence)


def fence_name(name: str, lease: MigrationLease) -> str:
    """Returns the alias through which the holder of a lease fills the next index behind the alias `name`."""
    return f"{name}-filling-{lease.token}"


async def fences(client: AsyncElasticsearch, name: str, index: str) -> list[str]:
    """Returns the fences of an index, which need not exist."""
    answer = await with_retries(client.options(ignore_status=404).indices.get_alias, index=index)
    aliases = answer.body.get(index, {"aliases": {}})["aliases"]
    return [fence for fence in aliases if fence.startswith(f"{name}-filling-")]


async def _replace_fence(client: AsyncElasticsearch, index: str, old: str, new: str) -> None:
    add: dict[str, Any] = {"add": {"index": index, "alias": new}}
    remove: dict[str, Any] = {"remove": {"index": index, "alias": old, "must_exist": True}}
    try:
        await with_retries(client.indices.update_aliases, actions=[add, remove])
    except NotFoundError:  # an earlier attempt has removed it, and its answer was lost
        await with_retries(client.indices.update_aliases, actions=[add])


# --- The block ----------------------------------------------------------------------------------------------


async def block_writes(client: AsyncElasticsearch, lease: MigrationLease, plan: Plan) -> None:
    """Returns when no write to a source is in flight and later ones are rejected."""
    plan.blocked = True
    await lease.save()
    # The index behind the alias is the last source and is blocked first. A client that an older deployment turns away
    # posts to this service instead, and that write has to wait for the swap.
    for index in reversed(plan.sources):
        await with_retries(client.indices.add_block, index=index, block="write")


@asynccontextmanager
async def unblocked_on_failure(
    client: AsyncElasticsearch, lease: MigrationLease, plan: Plan, name: str
) -> AsyncIterator[None]:
    """Removes the block after any failure within the context, unless the alias was swapped."""
    try:
        yield
    except BaseException:
        if plan.blocked and not await _is_swapped(client, name, plan):
            if plan.result is not None:
                # A swap that was sent may still happen when nobody waits for its answer, as after Ctrl-C. Behind
                # another fence it cannot.
                await _fence_off(client, lease, plan, name, f"{fence_name(name, lease)}-ended")
            if not await _is_swapped(client, name, plan):
                await _unblock_and_save(client, lease, plan)
        raise


async def _unblock_and_save(client: AsyncElasticsearch, lease: MigrationLease, plan: Plan) -> None:
    # A run that has lost the lease fails here: the block may be the new holder's.
    await lease.save()
    await unblock(client, plan.sources)
    plan.blocked, plan.result = False, None
    await lease.save()


async def unblock(client: AsyncElasticsearch, indices: Sequence[str]) -> None:
    for index in indices:
        await with_retries(
            client.options(ignore_status=404).indices.put_settings, index=index, settings={"index.blocks.write": None}
        )


async def _may_be_blocked(client: AsyncElasticsearch, plan: Plan) -> bool:
    """Returns whether writes are blocked or may become so.

    A delayed request can set the block after the plan was marked as unblocked, so the index is looked at too. Only the
    last source is: it is behind the alias, and no one but migrations blocks it.
    """
    if plan.blocked:
        return True
    current = plan.sources[-1]
    found = await client.indices.get_settings(index=current, name="index.blocks.write", ignore_unavailable=True)
    return bool(found.body)


# --- The swap -----------------------------------------------------------------------------------------------


async def swap(client: AsyncElasticsearch, name: str, old: str, new: str, fence: str | None = None) -> None:
    """Points an alias at another index, atomically. Raises MigrationError and changes nothing if it was changed.

    The swap happens only if the alias is still on `old` and the fence, which it removes, still on `new`.
    """
    actions: list[dict[str, object]] = [
        {"remove": {"index": old, "alias": name, "must_exist": True}},
        {"add": {"index": new, "alias": name, "is_write_index": True}},
    ]
    if fence:
        actions.append({"remove": {"index": new, "alias": fence, "must_exist": True}})
    try:
        await with_retries(client.indices.update_aliases, actions=actions)
    except NotFoundError as error:
        # If it points to the new index, an earlier attempt has swapped it and its answer was lost.
        if await current_index(client, name) != new:
            raise MigrationError(f"another process has changed the aliases of {old} and {new}") from error


async def complete(lease: MigrationLease) -> None:
    """Records a plan whose swap has happened as the last migration."""
    plan = lease.state.plan
    assert plan is not None
    lease.state.last, lease.state.plan = plan.result, None
    lease.state.superseded = [*lease.state.superseded, *plan.sources]
    await lease.save()


async def _is_swapped(client: AsyncElasticsearch, name: str, plan: Plan) -> bool:
    return plan.result is not None and await current_index(client, name) == plan.target


# --- Afterwards ---------------------------------------------------------------------------------------------


async def drop_old(client: AsyncElasticsearch, settings: Settings, lease: MigrationLease, resource: str) -> list[str]:
    """Deletes the indices that migrations and rollbacks have left behind. Returns their names."""
    current = await current_index(client, alias(settings, resource))
    dropped = [index for index in lease.state.superseded if index != current]
    for index in dropped:
        await client.options(ignore_status=404).indices.delete(index=index)
    lease.state.superseded, lease.state.last = [], None
    await lease.save()
    return dropped
