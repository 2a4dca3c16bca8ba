"""How texts are folded before they are compared (docs/contract.md section 5, "Unicode")."""

import sys
import unicodedata

import pytest
from hypothesis import given, strategies

from app.folding import fold_name, fold_number, fold_text
from tests.support import oracle

FOLDS = (fold_name, fold_number, fold_text)
# Characters that compose with each other, change places, or disappear.
SOME = "".join(
    (
        "aiIe1 ",
        "\u0130\u0131\u0307\u0301\u0323\u0345\u0338\u034f\u200b\u200d\u202a",
        "\uff0a\uff11\ufb03\ufdfa\u3164\u1112\u1161\u11ab",
    )
)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        # Canonically equivalent: the iota below stands behind other marks, and becomes a letter.
        ("a\u0345\u0301", "a\u0301\u0345"),
        ("\u1fb3\u0301", "\u1fb4"),
        ("JOS\u00c9", "jose\u0301"),
        ("\u0130STANBUL", "istanbul"),
        ("I\u015eIK", "\u0131\u015f\u0131k"),
        ("Stra\u00dfe", "STRASSE"),
        ("\uff21\uff4c\uff49\uff43\uff45", "alice"),
        ("O\u2019Brien\u200b", "o\u2019brien"),
        ("i\u0307\u0301", "\u00cd"),
        ("\u1112\u1161\u11ab", "\ud55c"),
    ],
)
def test_spellings_of_one_name_are_folded_alike(one: str, other: str) -> None:
    assert fold_name(one) == fold_name(other)


@pytest.mark.parametrize(
    "number",
    [
        "\u202a+16504668888\u202c",
        "\uff0b\uff11\uff16\uff15\uff10\uff14\uff16\uff16\uff18\uff18\uff18\uff18",
        "+1650466\u200b8888",
        "+1650466\u00ad8888\ufeff",
    ],
)
def test_spellings_of_one_number_are_folded_alike(number: str) -> None:
    assert fold_number(number) == "+16504668888"


def test_user_data_is_only_composed() -> None:
    assert fold_text("Jose\u0301 \uff11\u200b") == "Jos\u00e9 \uff11\u200b"


def test_every_character_is_folded_as_unicode_says_and_only_once() -> None:
    characters = map(chr, range(sys.maxunicode + 1))
    changing = [
        c for c in characters if unicodedata.normalize("NFKD", c) != c or c.casefold() != c or not c.isprintable()
    ]
    odd = [c for c in changing if unicodedata.category(c) not in {"Cn", "Co", "Cs"} and not "\uac10" < c <= "\ud7a3"]
    for character in odd:
        assert fold_name(character) == oracle.name_form.__wrapped__(character), ascii(character)
        for fold in FOLDS:
            assert fold(fold(character)) == fold(character), (fold, ascii(character))
            for form in ("NFC", "NFD"):
                assert fold(unicodedata.normalize(form, character)) == fold(character), (fold, ascii(character))


@given(strategies.text(strategies.sampled_from(SOME) | strategies.characters()), strategies.data())
def test_a_part_of_a_folded_text_is_folded(text: str, data: strategies.DataObject) -> None:
    """So a pattern that is not folded matches no folded value, which the search for former documents needs."""
    for fold in FOLDS:
        folded = fold(text)
        start = data.draw(strategies.integers(0, len(folded)))
        part = folded[start : data.draw(strategies.integers(start, len(folded)))]
        assert fold(part) == part
    assert fold_name(text.casefold()) == fold_name(text) == oracle.name_form(text)
