"""Options that several commands have."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from app.cli.framework import Option, once
from app.cli.types import CONTACT_CENTER, NOT_NEGATIVE, POSITIVE
from app.errors import RecallError
from app.recordings.identity import Resource
from app.search.criteria import CRITERIA, Criteria, parse_criteria

ABOUT_SETTINGS = "Elasticsearch and everything else are configured as for the service (README.md)."

F = TypeVar("F", bound=Callable[..., Any])

shards = click.option(
    "--shards", metavar="N", type=POSITIVE, help="Primary shards of a new index (default: as configured)."
)
replicas = click.option(
    "--replicas", metavar="N", type=NOT_NEGATIVE, help="Replicas of a new index (default: as configured)."
)
patience = click.option(
    "--patience",
    metavar="SECONDS",
    type=POSITIVE,
    default=120,
    help="Keep trying this long while Elasticsearch does not answer (default: 120).",
)
report = once("--report", metavar="FILE", type=click.Path(path_type=Path), help="Write the result to a file, as JSON.")


# --- Which recordings ---------------------------------------------------------------------------------------


def contact_centers(section: str) -> Callable[[F], F]:
    """Adds `--contact-center` and `--all-contact-centers`, of which a command requires one."""

    def add(function: F) -> F:
        everywhere = click.option(
            "--all-contact-centers",
            is_flag=True,
            help="Those of all contact centers. One of the two is required.",
            cls=Option,
            section=section,
        )
        one = once(
            "--contact-center",
            metavar="ID",
            type=CONTACT_CENTER,
            help="Only those of this contact center.",
            section=section,
        )
        return one(everywhere(function))

    return add


def screen_recordings(section: str) -> Callable[[F], F]:
    """Adds `--screen-recordings`."""
    return click.option(
        "--screen-recordings",
        is_flag=True,
        help="Screen recordings instead of recordings.",
        cls=Option,
        section=section,
    )


class _CriterionType(click.ParamType[str]):
    """A search parameter of the API (`docs/contract.md` section 5)."""

    name = "value"

    def __init__(self, parameter: str) -> None:
        self._parameter = parameter

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            parse_criteria([(self._parameter, str(value))])
        except RecallError as error:
            self.fail(error.message, param, ctx)
        return str(value)


def criteria(function: F) -> F:
    """Adds an option for each search parameter of the API, under the parameter's own name."""
    for criterion in reversed(CRITERIA):
        function = once(
            criterion.option,
            criterion.name,
            metavar="VALUE",
            type=_CriterionType(criterion.name),
            help=f"Recordings {criterion.help}. Example: {criterion.example}",
            section="Which of them, as in a search of the API; all must match",
        )(function)
    return function


def parse(given: Mapping[str, str], resource: Resource) -> Criteria:
    """Returns the criteria of the options that were given; raises InvalidParameter when they are too much together."""
    return parse_criteria([*given.items()], resource) if given else ()
