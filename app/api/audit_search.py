"""`GET /audit`: the lines of the audit log (docs/contract.md section 11)."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, get_args

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from app import audit
from app.api.requests import owner_of, query_parameters, request_url, scope_of, services
from app.api.responses import envelope
from app.auth import policy
from app.errors import AuditNotSearchable, InvalidParameter
from app.search.clauses import Query
from app.search.criteria import given_values
from app.search.paging import PageRequest, page_links, parse_page, unpacked
from app.search.parsers import instant_after, instant_before

# They leave a line only when they are refused: the methods whose `audit` is None.
_REFUSED: Sequence[policy.Operation] = (
    "search",
    "read",
    "waveform",
    "read-definitions",
    "read-labels",
    "ops-search",
    "ops-read",
    "ops-contact-centers",
    "operations",
    "ops-operations",
    "audit",
    "ops-audit",
    "me",
)
OPERATIONS: Sequence[str] = (*get_args(audit.Operation), *_REFUSED)
OUTCOMES: Sequence[str] = get_args(audit.Outcome)


class AuditCriterion(NamedTuple):
    """A parameter that narrows the search. `help` completes "Finds lines …".

    `clause` raises ValueError, whose text says what is allowed.
    """

    name: str
    help: str
    clause: Callable[[str], Query]
    allowed: Sequence[str] = ()  # empty for any text


def _equal(attribute: str) -> Callable[[str], Query]:
    return lambda text: {"term": {attribute: text}}


def _one_of(attribute: str, values: Sequence[str]) -> Callable[[str], Query]:
    def clause(text: str) -> Query:
        if text not in values:
            raise ValueError(f"it must be one of {', '.join(values)}")
        return {"term": {attribute: text}}

    return clause


def _time(comparison: str, parse: Callable[[str], int]) -> Callable[[str], Query]:
    return lambda text: {"range": {"time": {comparison: parse(text), "format": "epoch_millis"}}}


CRITERIA = (
    AuditCriterion("recordingId", "about the recording with this id", _equal("recordingId")),
    AuditCriterion("user", "of the user with exactly this name", _equal("user")),
    AuditCriterion("operation", "of this operation", _one_of("operation", OPERATIONS), OPERATIONS),
    AuditCriterion("outcome", "with this outcome", _one_of("outcome", OUTCOMES), OUTCOMES),
    AuditCriterion("startTime", "of requests that arrived after this time", _time("gt", instant_after)),
    AuditCriterion("endTime", "of requests that arrived before this time", _time("lt", instant_before)),
)


async def search(request: Request) -> Response:
    """A page of the lines of a contact center, the newest first."""
    if services(request).audit_indexing is None:
        raise AuditNotSearchable
    contact_center = scope_of(request).contact_center
    assert contact_center is not None
    parameters = unpacked(query_parameters(request))
    conditions, wanted = _parse(parameters)
    index = services(request).audit_index
    content: dict[str, Any] = {}
    async with services(request).searches.place(owner_of(request)):
        page = await index.search(contact_center, conditions, wanted)
        if wanted.total:
            total, is_exact = await index.total(contact_center, conditions)
            content |= {"total": total, "totalIsExact": is_exact}
    content["entries"] = msgspec.Raw(b"[%b]" % b",".join(bytes(line.text) for line in page.hits))
    return envelope(content | dict(page_links(request_url(request), parameters, wanted, page)))


def _parse(parameters: Sequence[tuple[str, str]]) -> tuple[list[Query], PageRequest]:
    """Returns the conditions of a search, and its page; raises InvalidParameter."""
    names = [criterion.name for criterion in CRITERIA]
    values = given_values(parameters, names, known=names)
    conditions = []
    for criterion in CRITERIA:
        if criterion.name in values:
            try:
                conditions.append(criterion.clause(values[criterion.name]))
            except ValueError as error:
                raise InvalidParameter(criterion.name, str(error)) from None
    return conditions, parse_page(values)
