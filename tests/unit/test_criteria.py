"""The rows of `app/search/criteria.py` and `app/search/fields.py` agree with the documents and the mapping."""

import re
from pathlib import Path
from typing import Any

import pytest

from app.search.criteria import CRITERIA, Criterion, parse_search
from app.search.fields import FIELDS, TEXT_GAP, Field
from app.search.paging import PAGING_PARAMETERS
from app.store.indices import load_schema

ROOT = Path(__file__).parents[2]

# Fields of the document that are not derived from the recording alone.
NOT_DERIVED = {
    *("recordingBytes", "recording", "schemaVersion", "contactCenter", "protection", "protectionPending"),
    *("labels", "labelNames", "labelNamesTrigrams"),
}

NAMES = [criterion.name for criterion in CRITERIA]


def rows(document: str, heading: str) -> list[str]:
    """The rows of the first table under a heading."""
    section = (ROOT / document).read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return [line for line in section.splitlines() if line.startswith("| ")]


def named(row: str) -> list[str]:
    """The parameters that the first cell of a row names, except those that are not built yet."""
    cell = row.split("|")[1]
    return [] if "**(new)**" in cell else re.findall(r"`(\w+)`", cell)


@pytest.mark.parametrize(("document", "heading"), [("README.md", "Search"), ("docs/contract.md", "5. Search")])
def test_documents_list_exactly_the_existing_parameters(document: str, heading: str) -> None:
    documented = [name for row in rows(document, heading) for name in named(row)]
    assert documented == [*NAMES, *PAGING_PARAMETERS[:-1]]


@pytest.mark.parametrize("criterion", CRITERIA, ids=NAMES)
def test_example_of_a_criterion_is_in_the_readme_and_can_be_parsed(criterion: Criterion[Any]) -> None:
    (row,) = (row for row in rows("README.md", "Search") if criterion.name in named(row))
    assert f"`{criterion.example}`" in row
    ((parsed, _),), _ = parse_search([(criterion.name, criterion.example)])
    assert parsed is criterion


def test_fields_and_mappings_correspond() -> None:
    mappings = load_schema("recordings")["mappings"]["properties"]
    wanted: dict[str, Any] = {}
    for field in FIELDS:
        if isinstance(field, Field):
            mapping: dict[str, Any] = {"type": field.kind}
            if field.kind == "date":
                mapping["format"] = "epoch_millis"
            if field.kind == "text":
                mapping |= {"analyzer": "whitespace", "norms": False, "position_increment_gap": TEXT_GAP}
            if not field.doc_values:
                mapping["doc_values"] = False
            wanted[field.name] = mapping
        else:
            wanted[field.name] = {"type": "keyword", "doc_values": False}
            wanted[field.trigrams] = {"type": "text", "analyzer": "whitespace", "norms": False}
    assert {name: mapping for name, mapping in mappings.items() if name not in NOT_DERIVED} == wanted


def test_criterion_has_a_command_line_option() -> None:
    options = {criterion.name: criterion.option for criterion in CRITERIA}
    assert options["callerPhoneNumber"] == "--caller-phone-number"
    assert options["callUUID"] == "--call-uuid"
    assert options["nonDelete"] == "--non-delete"
