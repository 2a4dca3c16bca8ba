"""Texts in the form in which a search compares them (docs/contract.md section 5, "Unicode").

Each function is idempotent, and a part of a folded text is folded as well. So a folded text can be searched for a
folded part. What is returned to clients is never folded.
"""

import re
from functools import lru_cache
from unicodedata import category, normalize

# Default_Ignorable_Code_Point of the Unicode Character Database, which NFKC_Casefold removes. Python does not have it.
_IGNORABLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_DOTTED_I = re.compile("i\u0307+")


def fold_name(text: str) -> str:
    """Folds a name: NFKC_Casefold, with the Turkish dotless i (U+0131) and the i with a dot (U+0069 U+0307) as `i`."""
    if text.isascii():
        return text.lower()
    # NFD first (Unicode's definition D147): U+0345 stands behind other marks there, and becomes a letter.
    folded = normalize("NFC", "".join(map(_nfkc_casefold, normalize("NFD", text))))
    return normalize("NFC", _DOTTED_I.sub("i", folded.replace("\u0131", "i")))


def fold_number(text: str) -> str:
    """Folds a phone number: NFKC without format characters (category Cf)."""
    return normalize("NFKC", without_format_characters(text))


def fold_text(text: str) -> str:
    """Folds user data and everything else: NFC."""
    return normalize("NFC", text)


def fold_label(text: str) -> str:
    """Folds a label's name, of which case does not count: NFC."""
    return normalize("NFC", normalize("NFC", text).casefold())


def without_format_characters(text: str) -> str:
    """Removes characters of category Cf, which have no shape of their own: marks of direction, zero-width spaces."""
    return text if text.isascii() else "".join(c for c in text if category(c) != "Cf")


@lru_cache(maxsize=4096)
def _nfkc_casefold(character: str) -> str:
    """Returns what NFKC_Casefold maps one character to."""
    folded, before = normalize("NFD", character), ""
    while folded != before:
        before = folded
        folded = _IGNORABLE.sub("", normalize("NFKC", normalize("NFD", folded).casefold()))
    return folded
