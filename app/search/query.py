"""The query of a search in Elasticsearch's query DSL. Pure functions."""

from app.auth.scope import Limits, Scope
from app.search.clauses import Query, all_of, any_of
from app.search.criteria import Criteria
from app.search.fields import ACCESS, AGENTS, TEXT_GAP, group_token, partition_token
from app.search.paging import PageRequest


def search_body(scope: Scope, criteria: Criteria, page: PageRequest) -> Query:
    """Returns the body of a search for a page and one hit more; `PageRequest.page_of` reads the hits."""
    return {"query": query(scope, criteria), **page.body()}


def query(scope: Scope, criteria: Criteria) -> Query:
    """Returns all conditions together, within what the caller may see."""
    return all_of([*_within(scope), *(condition.clause() for condition in criteria)])


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
