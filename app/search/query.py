"""The query of a search in Elasticsearch's query DSL. Pure functions."""

from app.auth.scope import Scope
from app.search.clauses import Query, all_of
from app.search.criteria import Criteria
from app.search.paging import PageRequest


def search_body(scope: Scope, criteria: Criteria, page: PageRequest) -> Query:
    """Returns the body of a search for a page and one hit more; `PageRequest.page_of` reads the hits."""
    return {"query": query(scope, criteria), **page.body(), "track_total_hits": False}


def query(scope: Scope, criteria: Criteria) -> Query:
    """Returns all conditions together, within what the caller may see."""
    return all_of([*_within(scope), *(condition.clause() for condition in criteria)])


def _within(scope: Scope) -> list[Query]:
    clauses: list[Query] = []
    if scope.contact_center is not None:
        clauses.append({"term": {"contactCenter": scope.contact_center}})
    clauses.append({"term": {"region": scope.region}})
    return clauses
