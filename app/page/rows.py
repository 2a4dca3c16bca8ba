"""Recordings as rows of the table, with the words marked that the search matched."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from app import codec
from app.folding import fold_name, fold_number, fold_text
from app.recordings.dates import parse_instant
from app.recordings.identity import encode_segment
from app.search.marks import matched_spans
from app.search.parsers import Terms

# What one cell shows of a value; the recording's own page shows all of it.
_LONGEST = 160
_SHOWN_DATA = 2
_FOLDED_DATA = 20


class Piece(NamedTuple):
    """A part of a value, and whether the search matched it."""

    text: str
    is_marked: bool


Marked = Sequence[Piece]


class Datum(NamedTuple):
    """A value of user data under its key."""

    key: str
    value: Marked


@dataclass(frozen=True)
class Row:
    """A recording as the table shows it. Times are milliseconds since 1970."""

    id: str
    path: str
    start: int
    stop: int
    caller: Marked
    dialed: Marked
    agents: Sequence[Marked]
    labels: Sequence[Marked]
    is_protected: bool
    media: Sequence[str]
    data: Sequence[Datum]
    more_data: Sequence[Datum]
    unshown_data: int

    @property
    def duration(self) -> str:
        """Hours, minutes and seconds. A recorder may post a stop before its start."""
        seconds = abs(self.stop - self.start) // 1000
        hours, minutes = seconds // 3600, seconds // 60 % 60
        text = f"{hours}:{minutes:02}:{seconds % 60:02}" if hours else f"{minutes}:{seconds % 60:02}"
        return f"-{text}" if self.stop < self.start else text


def rows(recordings: Iterable[Mapping[str, Any]], terms: Mapping[str, Terms]) -> list[Row]:
    """Returns a row for each recording, as the API answers them. `terms` is what the search asks for, by criterion."""
    return [_row(recording, _Marker(terms)) for recording in recordings]


class _Marker:
    """Marks values by the criteria that look at them."""

    def __init__(self, terms: Mapping[str, Terms]) -> None:
        self._terms = terms

    def number(self, value: str, criterion: str) -> Marked:
        return self._marked(value, fold_number, criterion, "phoneNumber")

    def name(self, value: str, criterion: str = "userName") -> Marked:
        """The words of a name are compared too, each by itself."""
        pieces: list[Piece] = list(self._marked(value, fold_name, criterion))
        if criterion not in self._terms or any(piece.is_marked for piece in pieces):
            return pieces
        return _cut(piece for word in _words(value) for piece in self._marked(word, fold_name, criterion))

    def text(self, value: str) -> Marked:
        return self._marked(value, fold_text, "userData")

    def _marked(self, value: str, fold: Callable[[str], str], *criteria: str) -> Marked:
        terms = [self._terms[name] for name in criteria if name in self._terms]
        spans = sorted(span for each in terms for span in matched_spans(each, value, fold))
        return _cut(_pieces(value, spans))


def _row(recording: Mapping[str, Any], mark: _Marker) -> Row:
    data = [Datum(key, mark.text(value)) for key, value in _user_data(recording)]
    # What matched comes first, so that it is seen.
    data.sort(key=lambda datum: not _is_marked(datum.value))
    folded = data[_SHOWN_DATA:]
    return Row(
        id=recording["id"],
        path=f"/ui/recordings/{encode_segment(recording['id'])}",
        start=parse_instant(recording["startTime"]),
        stop=parse_instant(recording["stopTime"]),
        caller=mark.number(recording["callerPhoneNumber"], "callerPhoneNumber"),
        dialed=mark.number(recording["dialedPhoneNumber"], "dialedPhoneNumber"),
        agents=list(_agents(recording, mark)),
        labels=[mark.name(label.get("displayName") or label["name"], "label") for label in recording.get("labels", ())],
        is_protected=bool(recording.get("nonDelete")),
        media=list(_media(recording)),
        data=data[:_SHOWN_DATA],
        more_data=folded[:_FOLDED_DATA],
        unshown_data=max(len(folded) - _FOLDED_DATA, 0),
    )


def _agents(recording: Mapping[str, Any], mark: _Marker) -> Iterator[Marked]:
    """Yields each agent once, by first and last name; with the user name when that is what matched."""
    seen = set()
    for event in recording["eventHistory"]:
        contact = event["contact"]
        names = tuple(str(contact.get(key) or "") for key in ("firstName", "lastName", "userName"))
        if contact.get("type") != "User" or names in seen:
            continue
        seen.add(names)
        *full_name, user_name = (mark.name(name) for name in names)
        shown = [piece for name in full_name if name for piece in (*name, Piece(" ", False))][:-1]
        if not shown:
            yield user_name
        elif _is_marked(user_name) and not _is_marked(shown):
            yield [*shown, Piece(" (", False), *user_name, Piece(")", False)]
        else:
            yield shown


def _media(recording: Mapping[str, Any]) -> Iterator[str]:
    """Yields what media there is: `2 audio`, `1 video`."""
    kinds = [str(media.get("type") or "file").partition("/")[0].strip().lower() for media in recording["mediaFiles"]]
    known = [kind if kind in {"audio", "video"} else "file" for kind in kinds]
    for kind in dict.fromkeys(known):
        count = known.count(kind)
        yield f"{count} {kind}{'s' if kind == 'file' and count > 1 else ''}"


def _user_data(recording: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields each key and value of user data once, in the order of the events."""
    found: dict[tuple[str, str], None] = {}
    for event in recording["eventHistory"]:
        if isinstance(data := event.get("data"), dict):
            found.update(dict.fromkeys(leaves("", data)))
    yield from found


def leaves(key: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, each in value.items():
            yield from leaves(f"{key}.{name}" if key else name, each)
    elif isinstance(value, list):
        for each in value:
            yield from leaves(key, each)
    elif value is not None:
        yield key[:_LONGEST], value if isinstance(value, str) else codec.encode(value).decode()


def _words(text: str) -> Iterator[str]:
    """Yields words and, each by itself, the white space between them."""
    word = ""
    for character in text:
        if character.isspace():
            yield from filter(None, (word, character))
            word = ""
        else:
            word += character
    yield word


def _pieces(value: str, spans: Iterable[tuple[int, int]]) -> Iterator[Piece]:
    at = 0
    for start, end in spans:
        if end > at:
            yield Piece(value[at : max(start, at)], False)
            yield Piece(value[max(start, at) : end], True)
            at = end
    yield Piece(value[at:], False)


def _cut(pieces: Iterable[Piece]) -> Marked:
    left = _LONGEST
    shown: list[Piece] = []
    for piece in pieces:
        if len(piece.text) > left:
            return [*shown, Piece(f"{piece.text[:left]}…", piece.is_marked)]
        if piece.text:
            shown.append(piece)
        left -= len(piece.text)
    return shown


def _is_marked(pieces: Marked) -> bool:
    return any(piece.is_marked for piece in pieces)
