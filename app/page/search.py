"""The search: a form whose address is the API's own query, and a table (docs/contract.md sections 5 and 13)."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from app import codec
from app.api import recordings
from app.api.requests import query_parameters, user_of
from app.api.responses import Envelope
from app.background import apart
from app.errors import InvalidParameter, MissingParameter, RecallError
from app.page.forms import Form, instant_of, label_of, search_form
from app.page.rendering import own_link, page, see_other, why_not
from app.page.rows import Row, rows
from app.recordings.dates import EARLIEST, LATEST, format_instant
from app.search.criteria import CRITERIA, parse_search
from app.search.paging import PAGING_PARAMETERS, unpacked
from app.search.parsers import Terms

PATH = "/ui/recordings"

_DAY = 86_400_000
_OPENS_WITH = _DAY
_PLACE = frozenset({"offset", "cursor"})
_CRITERIA = frozenset(row.name for row in CRITERIA)

Parameters = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Choice:
    """A link to the same search in another window of time. Scripts know the local midnight by `name`."""

    name: str
    label: str
    since: int
    address: str
    is_current: bool


@dataclass(frozen=True)
class Narrowing:
    """A criterion of the search, and the address of the search without it."""

    label: str
    value: str
    address: str


@dataclass(frozen=True)
class Found:
    """A page of the result. `total` is how many match, if that was asked for, in words."""

    rows: Sequence[Row]
    first: int
    previous: str | None
    next: str | None
    total: str | None


async def show(request: Request) -> Response:
    """`GET /ui/recordings?…`

    Without a criterion it leads to the last 24 hours. A form without scripts sends its empty fields too; they are left
    out of the address. So the address always is the query, with absolute times.
    """
    sent = query_parameters(request)
    parameters = [(name, value) for name, value in sent if value]
    now = int(time.time()) * 1000
    if not any(name in _CRITERIA or name == "cursor" or name not in PAGING_PARAMETERS for name, _ in parameters):
        return see_other(address([("startTime", _utc(now - _OPENS_WITH)), *_without(parameters, *_PLACE)]))
    if parameters != sent:
        return see_other(address(parameters))
    try:
        found, asked = await _found(request), unpacked(parameters)
    except RecallError as error:
        return _page(request, parameters, now, error=error)
    return _page(request, asked, now, found=found)


async def _found(request: Request) -> Found:
    """Returns what the API answers; raises what it raises."""
    parameters = unpacked(query_parameters(request))
    answer = await recordings.search(request)
    assert isinstance(answer, Envelope)
    terms = {row.name: value for row, value in parse_search(parameters)[0] if isinstance(value, Terms)}
    try:
        content, found = await apart(len(answer.body), _rows, bytes(answer.body), terms)
    finally:
        for place in answer.places:
            place.release()
    return Found(
        rows=found,
        first=int(dict(query_parameters(request)).get("offset", "0")) + 1,
        previous=own_link(PATH, content.get("prevUri")),
        next=own_link(PATH, content.get("nextUri")),
        total=_total(content),
    )


def _rows(body: bytes, terms: Mapping[str, Terms]) -> tuple[dict[str, Any], list[Row]]:
    """Returns the API's answer, and its recordings as rows."""
    content = codec.decode(body)
    return content, rows(content["recordings"], terms)


def _page(
    request: Request, parameters: Parameters, now: int, found: Found | None = None, error: RecallError | None = None
) -> Response:
    values = dict(reversed(parameters))  # the first of several
    presets, start = _presets(parameters, now), instant_of(values.get("startTime", ""))
    form = search_form(values, error.message if error else None, getattr(error, "parameter", None))
    is_about_the_query = isinstance(error, InvalidParameter | MissingParameter)
    return page(
        request,
        "search.html",
        error.http_status if error else 200,
        error.headers if error else None,
        form=form,
        found=found,
        criteria=codec.encode({name: value for name, value in values.items() if name in _CRITERIA}).decode(),
        retry=error is not None and error.http_status in {429, 503},
        is_about_the_query=is_about_the_query,
        presets=presets,
        further=[choice for choice in presets[3:] if start is not None and choice.since < start],
        earlier_and_later=_neighbours(values, parameters, now),
        narrowings=_narrowings(form, parameters),
        counted=address([*_without(parameters, *_PLACE), ("total", "*")]) if "total" in PAGING_PARAMETERS else None,
        start=start,
        end=instant_of(values.get("endTime", "")),
        may={name: why_not(user_of(request), name) for name in ("apply", "unapply", "label")},
    )


def _presets(parameters: Parameters, now: int) -> list[Choice]:
    """Returns the usual windows. Their days are those of UTC until a script knows better."""
    midnight = now - now % _DAY
    windows = (
        ("day", "24 hours", now - _DAY, None),
        ("today", "Today", midnight, None),
        ("yesterday", "Yesterday", midnight - _DAY, midnight),
        ("week", "7 days", now - 7 * _DAY, None),
        ("month", "30 days", now - 30 * _DAY, None),
        ("all", "All", 0, None),
    )
    values = dict(parameters)
    start, end = instant_of(values.get("startTime", "")), instant_of(values.get("endTime", ""))
    return [
        Choice(
            name,
            label,
            since,
            _in_window(parameters, since, until),
            # A window that ends now stays the chosen one for a while.
            is_current=start is not None and end == until and 0 <= since - start < (300_000 if since % _DAY else 1),
        )
        for name, label, since, until in windows
    ]


def _neighbours(values: Mapping[str, str], parameters: Parameters, now: int) -> tuple[str, str] | None:
    """Returns the addresses of the windows of the same length before and after, None without a window."""
    start = instant_of(values.get("startTime", ""))
    end = instant_of(values["endTime"]) if "endTime" in values else now
    if not start or end is None or end <= start:
        return None
    length = end - start
    earlier, later = max(start - length, EARLIEST), min(end + length, LATEST)
    return _in_window(parameters, earlier, start), _in_window(parameters, end, later)


def _in_window(parameters: Parameters, start: int, end: int | None) -> str:
    times = [("startTime", _utc(start) if start else "0"), *([("endTime", _utc(end))] if end is not None else [])]
    return address([*times, *_without(parameters, "startTime", "endTime", *_PLACE)])


def _narrowings(form: Form, parameters: Parameters) -> list[Narrowing]:
    return [
        Narrowing(label_of(field.name), field.value, address(_without(parameters, field.name, *_PLACE)))
        for field in form.fields
        if field.value and field.name in _CRITERIA
    ]


def _total(content: Mapping[str, Any]) -> str | None:
    if "total" not in content:
        return None
    return f"{content['total']:,}" if content.get("totalIsExact", True) else f"more than {content['total']:,}"


def _without(parameters: Parameters, *names: str) -> Parameters:
    return [(name, value) for name, value in parameters if name not in names]


def address(parameters: Parameters) -> str:
    """Returns the address of a search with these parameters."""
    query = "&".join(f"{quote(name, safe='')}={quote(value, safe='*:,')}" for name, value in parameters)
    return f"{PATH}?{query}" if query else PATH


def _utc(instant: int) -> str:
    """Returns a time of a query: `2013-05-17T19:45:32Z`, with milliseconds where there are any."""
    return format_instant(instant).replace(".000+0000", "Z").replace("+0000", "Z")
