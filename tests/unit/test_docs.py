"""The documents keep up with the code: cited sections, named files and settings exist."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.settings import Settings

ROOT = Path(__file__).parents[2]

# Files of the repository, as prose and commands name them; a `…` or `*` in a path makes it no name.
NAMED_FILE = re.compile(
    r"(?<![\w/.<{-])((?:\.ci|app|docs|es_mappings|scripts|tests)/[\w./-]*\w|compose\.yaml|pyproject\.toml)(?![\w…*{/])"
)
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)")
CITATION = re.compile(r"docs/contract\.md,? sections? (\d+(?:(?:, | and | to )\d+)*)")


def files(*patterns: str) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for pattern in patterns for path in ROOT.glob(pattern))


def text_of(name: str) -> str:
    return (ROOT / name).read_text()


def anchors(text: str) -> set[str]:
    """The fragments of a page's headings, as GitHub derives them."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def cited_sections(text: str) -> Iterator[int]:
    for sections in CITATION.findall(" ".join(text.split())):
        yield from map(int, re.findall(r"\d+", sections))


DOCUMENTS = files("*.md", "docs/**/*.md")


def test_citations_are_recognised() -> None:
    text = "(docs/contract.md section 1), docs/contract.md sections 3, 5 and 8, docs/contract.md\n    sections 2 to 4"
    assert list(cited_sections(text)) == [1, 3, 5, 8, 2, 4]


@pytest.mark.parametrize("name", [*DOCUMENTS, *files("[ast]*/**/*.py", "*.toml", "*.yaml")])
def test_each_cited_section_of_the_contract_exists(name: str) -> None:
    sections = {int(number) for number in re.findall(r"^## (\d+)\. ", text_of("docs/contract.md"), re.MULTILINE)}
    assert set(cited_sections(text_of(name))) <= sections


@pytest.mark.parametrize("name", DOCUMENTS)
def test_each_file_that_a_document_names_exists(name: str) -> None:
    missing = [path for path in NAMED_FILE.findall(text_of(name)) if not (ROOT / path).exists()]
    assert not missing


@pytest.mark.parametrize("name", DOCUMENTS)
def test_each_link_of_a_document_leads_somewhere(name: str) -> None:
    for target, fragment in LINK.findall(text_of(name)):
        if target.startswith(("http://", "https://")):
            continue
        page = (ROOT / name).parent / target if target else ROOT / name
        assert page.exists(), target
        if fragment:
            assert fragment in anchors(page.read_text()), f"{target}#{fragment}"


def test_the_table_of_the_readme_has_exactly_the_settings() -> None:
    rows = re.findall(r"^\| (`RECALL_[^|]*)\|", text_of("README.md"), re.MULTILINE)
    documented = [name for row in rows for name in re.findall(r"RECALL_\w+", row)]
    settings = [f"RECALL_{name.upper()}" for name in Settings.__struct_fields__ if name not in {"users", "storage"}]
    assert sorted(documented) == sorted(settings)


@pytest.mark.parametrize("name", files("docs/decisions/0*.md"))
def test_each_decision_record_has_the_common_form(name: str) -> None:
    text = text_of(name)
    heading = re.match(r"# (\d+)\. (.+)\n\nStatus: (?:accepted|superseded by .+)\. Date: \d{4}-\d\d-\d\d[.;]", text)
    assert heading
    number, title = int(heading[1]), heading[2]
    assert f"| [{number:04}]({Path(name).name}) | {title} |" in text_of("docs/decisions/README.md")
    for section in ("Context", "Decision", "Alternatives considered", "Consequences"):
        assert f"\n## {section}" in text


@pytest.mark.parametrize("name", [*DOCUMENTS, *files("app/**/*.py", "scripts/**/*.py", "*.toml", "*.yaml")])
def test_nothing_cites_documents_outside_the_repository(name: str) -> None:
    assert not re.findall(r"\b(?:CONTRACT|DESIGN|REVIEW|ANCHORS|CLIENTS|PEERS|PAGE)\.md\b|\bseeds/", text_of(name))
