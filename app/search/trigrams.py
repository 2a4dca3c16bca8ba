"""Values as trigrams, so that a wildcard becomes a phrase (docs/decisions/0003-wildcards-by-trigrams.md).

A value is written as START START value END; token i is characters i to i+2 of that, the last ones shorter. The
tokens are joined by spaces, for a text field whose analyzer only splits at white space. A string is part of a value
exactly when its own trigrams follow each other in the value's. The last token of every value is END alone.
"""

from functools import lru_cache

# Noncharacters of Unicode, which hardly any text holds; a value that does hold them is escaped below.
_RESERVED = [chr(0xFDD0 + i) for i in range(32)]
_START, END, _ESCAPE, _ZERO, _ONE = _RESERVED[:5]

# What Java's Character.isWhitespace, and so Elasticsearch's whitespace tokenizer, splits at.
_JAVA_WHITE_SPACE = (
    "\t\n\v\f\r\x1c\x1d\x1e\x1f \u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2008\u2009\u200a"
    "\u2028\u2029\u205f\u3000"
)

# White space has a substitute each. A reserved character becomes ESCAPE and its number in five binary digits:
# neither digit stands for anything else, so that no match can begin inside such a group.
_SUBSTITUTES = str.maketrans(
    dict(zip(_JAVA_WHITE_SPACE, _RESERVED[5:], strict=False))
    | {reserved: _ESCAPE + f"{i:05b}".replace("0", _ZERO).replace("1", _ONE) for i, reserved in enumerate(_RESERVED)}
)


def tokens_of_value(value: str) -> str:
    """What is indexed for a value."""
    return _tokens(value) if len(value) > _MOST_REMEMBERED_LENGTH else _remembered_tokens(value)


def _tokens(value: str) -> str:
    marked = mark(value, at_start=True, at_end=True)
    return " ".join([marked[i : i + 3] for i in range(len(marked))])


# Names, queues, and numbers that are called come again and again.
_remembered_tokens = lru_cache(maxsize=10_000)(_tokens)
_MOST_REMEMBERED_LENGTH = 50


def mark(text: str, *, at_start: bool = False, at_end: bool = False) -> str:
    """Part of a value in the alphabet of the tokens, tied to the value's start or end if so said.

    A part that is tied to the start has at least three characters, one that is tied to the end at least two.
    """
    return f"{_START * 2 if at_start else ''}{text.translate(_SUBSTITUTES)}{END if at_end else ''}"


def tokens_of_part(marked: str) -> list[str]:
    """The tokens that follow each other wherever the part stands, if it has at least three characters.

    Two characters that end with END are a token too, because no value goes on behind it.
    """
    if len(marked) == 2 and marked.endswith(END):
        return [marked]
    return [marked[i : i + 3] for i in range(len(marked) - 2)]
