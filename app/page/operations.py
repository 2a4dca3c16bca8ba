"""The operations on many recordings, and how far they are (docs/contract.md sections 10 and 13)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from app import codec
from app.api import operations
from app.api.requests import path_segment
from app.page.forms import instant_of, label_of, words_of
from app.page.rendering import own_link, page, see_other
from app.page.search import address
from app.recordings.dates import parse_instant
from app.recordings.identity import encode_segment

PATH = "/ui/operations"

_DEEDS = {
    "applyNonDelete": "Protect",
    "unapplyNonDelete": "Unprotect",
    "addLabel": "Label",
    "removeLabel": "Remove the label",
    "delete": "Delete",
}
_STATES = {"running": "Running", "done": "Done", "cancelled": "Stopped", "failed": "Failed"}


class Criterion(NamedTuple):
    """A criterion of the search that chose the recordings; `instant` is its time in milliseconds since 1970."""

    label: str
    value: str
    instant: int | None


class Failure(NamedTuple):
    """A recording on which the operation has failed, and why."""

    id: str
    path: str
    message: str


@dataclass(frozen=True)
class Item:
    """An operation as the list shows it. Times are milliseconds since 1970; `search` is the address of what matches.

    `criteria` is None if its user had selected the recordings.
    """

    id: str
    deed: str
    state: str
    state_text: str
    matched: int
    succeeded: int
    failed: int
    failures: Sequence[Failure]
    criteria: Sequence[Criterion] | None
    search: str | None
    by: str
    created: int
    finished: int | None
    label: str | None
    reason: str | None
    message: str | None

    @property
    def is_running(self) -> bool:
        """Whether it goes on, and can be stopped."""
        return self.state == "running"

    @property
    def handled(self) -> int:
        """How many recordings it is done with."""
        return self.succeeded + self.failed


async def show(request: Request) -> Response:
    """`GET /ui/operations?…`: those of the last 30 days that the user may see, as the API answers."""
    answer = await operations.search(request)
    content = codec.decode(bytes(answer.body))
    items = [_item(each) for each in content["operations"]]
    return page(
        request,
        "operations.html",
        items=items,
        is_running=any(item.is_running for item in items),
        previous=own_link(PATH, content.get("prevUri")),
        next=own_link(PATH, content.get("nextUri")),
    )


async def stop(request: Request) -> Response:
    """`POST /ui/operations/{operation}/stop`: a form, so that it works without scripts."""
    await operations.cancel(request)
    return see_other(f"{PATH}#{encode_segment(path_segment(request, 'operation'))}")


def _item(operation: Mapping[str, Any]) -> Item:
    criteria = operation.get("criteria")
    finished = operation.get("finishedAt")
    return Item(
        id=operation["id"],
        deed=_DEEDS[operation["operationName"]],
        state=operation["state"],
        state_text=_STATES[operation["state"]],
        matched=operation["matched"],
        succeeded=operation["succeeded"],
        failed=operation["failed"],
        failures=[
            Failure(each["id"], f"/ui/recordings/{encode_segment(each['id'])}", each["statusMessage"])
            for each in operation["failures"]
        ],
        criteria=None if criteria is None else [_criterion(name, value) for name, value in criteria.items()],
        search=None if criteria is None else address(list(criteria.items())),
        by=operation["by"],
        created=parse_instant(operation["createdAt"]),
        finished=None if finished is None else parse_instant(finished),
        label=operation.get("label"),
        reason=operation.get("reason") or operation.get("comment"),
        message=operation.get("statusMessage"),
    )


def _criterion(name: str, value: str) -> Criterion:
    instant = instant_of(value) if name in {"startTime", "endTime"} else None
    return Criterion(label_of(name), words_of(name, value), instant)
