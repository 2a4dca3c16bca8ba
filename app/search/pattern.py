"""What a client may write for a text: characters that stand for themselves, and `*` (docs/contract.md section 5)."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Pattern:
    """The literal parts between the stars: `a*b` is ("a", "b"), `*` is ("", ""), a text without star one part."""

    parts: tuple[str, ...]

    @classmethod
    def parse(cls, text: str, fold: Callable[[str], str] = str) -> "Pattern":
        """Folds the parts each by itself, because folding makes a star of a full-width one (U+FF0A)."""
        first, *others = map(fold, text.split("*"))
        if not others:
            return cls.literal(first)
        *inner, last = others
        return cls((first, *filter(None, inner), last))

    @classmethod
    def literal(cls, text: str) -> "Pattern":
        """A pattern in which a star stands for itself too."""
        return cls((text,))

    @property
    def is_literal(self) -> bool:
        return len(self.parts) == 1

    @property
    def matches_anything(self) -> bool:
        return self.parts == ("", "")

    @property
    def has_inner_star(self) -> bool:
        """Whether a star stands between two parts."""
        return len(list(filter(None, self.parts))) > 1

    @property
    def has_short_inner_part(self) -> bool:
        return any(len(part) < 3 for part in self.parts[1:-1])
