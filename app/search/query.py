"""The query of a search in Elasticsearch's query DSL. Pure functions."""

from app.auth.scope import Limits, Scope
from app.search.clauses import Query, all_of, any_of, greater_than, less_than
from app.search.criteria import ENDED_BEFORE, STARTED_AFTER, Criteria
from app.search.fields import ACCESS, AGENTS, DURATION, START_TIME, TEXT_GAP, group_token, partition_token
from app.search.paging import PageRequest


def search_body(scope: Scope, criteria: Criteria, page: PageRequest) -> Query:
    """Returns the body of a search for a page and one hit more; `PageRequest.page_of` reads the hits."""
    return {"query": query(scope, criteria), **page.body()}


def query(scope: Scope, criteria: Criteria) -> Query:
    """Returns all conditions together, within what the caller may see."""
    return all_of([*_within(scope), *(condition.clause() for condition in criteria), *_between(criteria)])


def _between(criteria: Criteria) -> list[Query]:
    """Returns a clause that follows from a start and an end, and that makes a search of a window of time fast.

    What stopped before the end started before it, too, unless it stopped before it started. The index is sorted by
    start time, so few recordings are left, and Elasticsearch looks at their stop times. Otherwise it collects
    everything that stopped before the end: of ten million recordings in 11 ms (docs/performance.md).
    """
    starts = [condition.value for condition in criteria if condition.criterion is STARTED_AFTER]
    ends = [condition.value for condition in criteria if condition.criterion is ENDED_BEFORE]
    if not starts or not ends:
        return []
    after = greater_than(START_TIME)(starts[0])
    within = {"range": {START_TIME.name: {"gt": starts[0], "lt": ends[0]}}}
    return [any_of([within, all_of([less_than(DURATION)(0), after])])]


def _within(scope: Scope) -> list[Query]:
    clauses: list[Query] = []
    if scope.contact_center is not None:
        clauses.append({"term": {"contactCenter": scope.contact_center}})
    clauses.append({"term": {"region": scope.region}})
    if scope.limits is not None:
        clauses.append(_visible(scope.limits))
    return clauses


def _visible(limits: Limits) -> Query:
    """Returns the clause of recordings with a media file that the limits show, and of the user's own."""
    kinds = [
        sorted(map(token, paths))
        for token, paths in ((group_token, limits.groups), (partition_token, limits.partitions))
        if paths is not None
    ]
    clauses: list[Query] = []
    if len(kinds) == 1:
        clauses.append({"terms": {ACCESS.name: kinds[0]}})
    elif kinds:
        # Two media files, one with the group and one with the partition, are not enough.
        either = [{"span_or": {"clauses": [{"span_term": {ACCESS.name: token}} for token in kind]}} for kind in kinds]
        clauses.append({"span_near": {"clauses": either, "slop": TEXT_GAP - 1, "in_order": False}})
    if limits.agent is not None:
        clauses.append({"term": {AGENTS.name: limits.agent}})
    return any_of(clauses)
