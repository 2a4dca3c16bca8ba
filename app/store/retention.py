"""What Elasticsearch remembers of the rules of retention: who runs one now, and how the last runs ended."""

import msgspec
from elasticsearch import AsyncElasticsearch

from app.settings import Settings
from app.store.client import store_errors
from app.store.lease import Lease, read_state


class RuleState(msgspec.Struct, rename="camel"):
    """The last run of a rule that came to an end. Times are in milliseconds since 1970, 0 for none.

    `slot` is the daily time that it was for, `succeeded` its end if all went well, now or in a former run. `counts`
    are those of the run: how many recordings had each outcome. `digest` tells which rule it was: two files may give
    different rules the same name.
    """

    slot: int = 0
    digest: str = ""
    failed: bool = False
    ended: int = 0
    succeeded: int = 0
    counts: dict[str, int] = {}


class RetentionStore:
    """The index `{prefix}-retention`, a lease's document for each rule and region."""

    def __init__(self, client: AsyncElasticsearch, settings: Settings) -> None:
        self._client = client
        self._settings = settings
        self._index = f"{settings.index_prefix}-retention"

    def lease(self, rule: str) -> Lease[RuleState]:
        """Returns the lease of a rule, not acquired yet."""
        return Lease(
            self._client,
            self._index,
            self._key(rule),
            RuleState,
            seconds=self._settings.lease_seconds,
            replicas=self._settings.replicas,
        )

    async def state(self, rule: str) -> RuleState:
        """Returns the state of a rule. Raises ElasticsearchUnavailable."""
        async with store_errors(self._settings.elasticsearch_timeout):
            return await read_state(self._client, self._index, self._key(rule), RuleState)

    def _key(self, rule: str) -> str:
        return f"{rule}@{self._settings.region}"
