"""A migration whose Elasticsearch node is killed and restarted."""

import asyncio
from pathlib import Path

from elasticsearch import AsyncElasticsearch

from app.embedded.elasticsearch import Node
from app.settings import Settings
from app.store.client import connect
from tests.migration.support import behind_alias, callers, make_v1_index, small, start
from tests.support.service import settings_without_indices
from tests.support.waiting import eventually
from tests.support.workers import SPARE_NODE

pytestmark = SPARE_NODE

DOCUMENTS = 3000


def is_running(process: asyncio.subprocess.Process) -> bool:
    return process.returncode is None


async def test_migration_waits_for_a_killed_node_and_completes(spare_node: Node, tmp_path: Path) -> None:
    truth = {f"r{i}": f"+{i}" for i in range(DOCUMENTS)}
    async with settings_without_indices(spare_node.url) as settings, connect(settings) as elasticsearch:
        index = await make_v1_index(
            elasticsearch, settings, [(_id, small(_id, caller)) for _id, caller in truth.items()]
        )
        migration = await start(settings, "migrate_to_v2.py", "--rate", "500", cwd=tmp_path)
        await eventually(lambda: is_half_filled(elasticsearch, settings))
        before = spare_node.pid, spare_node.url
        spare_node.kill()
        assert is_running(migration)
        await asyncio.to_thread(spare_node.restart)
        assert (spare_node.pid != before[0], spare_node.url) == (True, before[1])
        await eventually(lambda: has_all_shards(elasticsearch, index))
        # The migration must see writes after the restart.
        await elasticsearch.index(index=index, id="late", document=small("late", "+late"))
        await elasticsearch.delete(index=index, id="r0")
        del truth["r0"]
        out, err = await migration.communicate()
        assert migration.returncode == 0, (out + err).decode()
        target = await behind_alias(elasticsearch, settings)
        assert not target.endswith("000001")
        assert await callers(elasticsearch, target) == truth | {"late": "+late"}


async def is_half_filled(elasticsearch: AsyncElasticsearch, settings: Settings) -> bool:
    pattern = f"{settings.index_prefix}-recordings-v2-*"
    stats = (await elasticsearch.indices.stats(index=pattern, metric="indexing")).body
    # The index does not exist at first.
    return bool(stats["_all"]["primaries"].get("indexing", {"index_total": 0})["index_total"] > DOCUMENTS // 2)


async def has_all_shards(elasticsearch: AsyncElasticsearch, index: str) -> bool:
    health = await elasticsearch.cluster.health(index=index, level="indices")
    return bool(health["status"] == "green")
