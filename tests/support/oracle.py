"""What Recall must answer, said again in plain Python from the contract, sections 2, 4 and 5.

It shares no code with app/, works on JSON alone, and is meant to be obviously right, not fast.
Where the contract is terse, this is how it is read here:

- White space is what `str.split()` splits at.
- Format characters of a number are taken out first, so a space behind them leads, and what they kept apart composes.
- U+0131 and `i` with U+0307 are `i` wherever they stand in a name, so dots that follow an `i` are no difference.
- A word of a query of which nothing is left is refused, also beside others.
- A number is the text it was posted as, so 1.10 is not 1.1. A null in `data` is no value.
- `userData` as a whole is compared literally: a `*` is special in its words only.
- Ids are ordered by code point, which is the order of their UTF-8 bytes.
- A replaced media file or event is replaced whole, and stays in the place of the first.
- Of a posted date the milliseconds are kept, and digits beyond them are cut off; of a queried one all count.
- The same id in two regions names two recordings (issue 3), though section 4 names the contact center only.
"""

import itertools
import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Any

Recording = dict[str, Any]

# --- JSON whose numbers keep their spelling -------------------------------------------------------


@dataclass(frozen=True)
class Number:
    """A JSON number, as the text it has in the JSON."""

    text: str


def loads(text: str | bytes) -> Any:
    return json.loads(text, parse_int=Number, parse_float=Number)


def dumps(value: Any, *, ascii_only: bool = False) -> str:
    """The JSON of a value whose numbers are `Number`s."""
    match value:
        case Number(text):
            return text
        case dict():
            pairs = (f"{dumps(k, ascii_only=ascii_only)}:{dumps(v, ascii_only=ascii_only)}" for k, v in value.items())
            return "{" + ",".join(pairs) + "}"
        case list():
            return "[" + ",".join(dumps(v, ascii_only=ascii_only) for v in value) + "]"
        case str() | bool() | None:
            return json.dumps(value, ensure_ascii=ascii_only)
    raise TypeError(f"a number must be a Number: {value!r}")


def comparable(value: Any) -> Any:
    """The value for `==`: numbers by what they are worth (1.10 is 1.1 here), and true is not 1."""
    match value:
        case Number(text):
            return ("number", Decimal(text))
        case dict():
            return {key: comparable(inner) for key, inner in value.items()}
        case list():
            return [comparable(inner) for inner in value]
    return value


# --- Dates ----------------------------------------------------------------------------------------

Milliseconds = int  # since 1970-01-01T00:00:00Z, the resolution of every date that goes out

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DATE_TIME = re.compile(
    r"(?P<second>\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d)(?:\.(?P<fraction>\d+))?"
    r"(?:[Zz]|(?P<sign>[+-])(?P<hours>\d\d):?(?P<minutes>\d\d))",
    re.ASCII,
)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_NUMBER = re.compile(r"-?\d+", re.ASCII)


def instant(date: str) -> Milliseconds:
    """The instant that a posted date means, to the millisecond that is kept of it."""
    return math.floor(_exact_instant(date))


def queried_instant(date: str) -> Fraction:
    """The instant that a date in a query means; a `+` may have arrived as a space. Raises InvalidParameter."""
    if _NUMBER.fullmatch(date):
        if date != "0" and len(date.lstrip("-")) < 12:
            raise InvalidParameter("fewer than 12 digits")
        return Fraction(int(date))
    if _DATE.fullmatch(date):
        return _exact_instant(f"{date}T00:00:00Z")
    return _exact_instant(date.replace(" ", "+"))


def _exact_instant(date: str) -> Fraction:
    """Milliseconds since 1970, with all the digits that the date has."""
    parts = _DATE_TIME.fullmatch(date)
    if parts is None:
        raise ValueError(f"not a date: {date!r}")
    local = datetime.fromisoformat(parts["second"].upper() + "+00:00")
    ahead = timedelta(hours=int(parts["hours"] or 0), minutes=int(parts["minutes"] or 0))
    if parts["sign"] == "-":
        ahead = -ahead
    seconds = (local - _EPOCH - ahead) // timedelta(seconds=1)
    return (seconds + Fraction(f"0.{parts['fraction'] or 0}")) * 1000


def date_out(at: Milliseconds) -> str:
    second, millisecond = divmod(at, 1000)
    date = (_EPOCH + timedelta(seconds=second)).replace(tzinfo=None).isoformat()
    return f"{date}.{millisecond:03}+0000"


def spellings(at: Milliseconds) -> list[str]:
    """Ways a client may spell one instant when it posts it."""
    spelled = []
    for minutes in (0, -8 * 60, 5 * 60 + 30, 14 * 60, -(3 * 60 + 45)):
        second, millisecond = divmod(at + minutes * 60_000, 1000)
        local = (_EPOCH + timedelta(seconds=second)).replace(tzinfo=None).isoformat()
        hours, rest = divmod(abs(minutes), 60)
        sign = "-" if minutes < 0 else "+"
        fractions = [f".{millisecond:03}", f".{millisecond:03}000", f".{millisecond:03}000000"]
        fractions.append(f".{millisecond:03}".rstrip("0").rstrip("."))
        for fraction in fractions:
            spelled.append(f"{local}{fraction}{sign}{hours:02}{rest:02}")
            spelled.append(f"{local}{fraction}{sign}{hours:02}:{rest:02}")
            if minutes == 0:
                spelled.append(f"{local}{fraction}Z")
                spelled.append(f"{local}{fraction}-00:00")
                spelled.append(f"{local}{fraction}z".replace("T", "t"))
    return spelled


def queried_spellings(at: Milliseconds) -> list[str]:
    """Ways a client may spell one instant in a query, before the query is encoded."""
    spelled = spellings(at)
    if at == 0 or abs(at) >= 10**11:
        spelled.append(str(at))
    if at % 86_400_000 == 0:
        spelled.append(date_out(at)[:10])
    return spelled


# --- Section 2: who sees what ---------------------------------------------------------------------


@dataclass(frozen=True)
class Viewer:
    """What the entry of a user says; whom nothing limits sees everything."""

    name: str = ""
    access_groups: tuple[str, ...] = ()
    partitions: tuple[str, ...] = ()
    own_recordings: bool = False


EVERYBODY = Viewer()


def visible_media(recording: Recording, viewer: Viewer) -> list[dict[str, Any]]:
    """The media files of a recording that a user sees; of one that does not exist for the user, none."""
    media_files: list[dict[str, Any]] = recording["mediaFiles"]
    by_path = bool(viewer.access_groups or viewer.partitions)
    if viewer.own_recordings and name_form(viewer.name) in agents(recording):
        return media_files
    if viewer.own_recordings and not by_path:
        return []
    return [
        media_file
        for media_file in media_files
        if any_holds(viewer.access_groups, access_groups(media_file))
        and any_holds(viewer.partitions, media_file.get("partitions") or [])
    ]


def agents(recording: Recording) -> set[str]:
    contacts = [event["contact"] for event in recording["eventHistory"]]
    return {name_form(contact["userName"]) for contact in contacts if contact["type"] == "User"}


def access_groups(media_file: dict[str, Any]) -> list[str]:
    return [*(media_file.get("accessgroup") or []), *(media_file.get("accessgroups") or [])]


def any_holds(holders: Iterable[str], held: Iterable[str]) -> bool:
    """Whether no holder is asked for, or one of them holds one of the others; what has none lies at the root."""
    paths = [path_parts(path) for path in list(held) or ["/"]]
    return not holders or any(path[: len(inner)] == inner for inner in map(path_parts, holders) for path in paths)


@lru_cache
def path_parts(path: str) -> tuple[str, ...]:
    inner = text_form(path).strip("/")
    return tuple(inner.split("/")) if inner else ()


# --- Section 5: search ----------------------------------------------------------------------------


class InvalidParameter(Exception):
    """The service must answer with code 2."""


# What NFKC_Casefold takes away: the code points of the property Default_Ignorable_Code_Point.
_IGNORED = {
    *(0xAD, 0x34F, 0x61C, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFEFF, 0xFFA0),
    *(*range(0x180B, 0x1810), *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2070)),
    *(*range(0xFE00, 0xFE10), *range(0xFFF0, 0xFFF9), *range(0x1BCA0, 0x1BCA4), *range(0x1D173, 0x1D17B)),
    *range(0xE0000, 0xE1000),
}


@lru_cache
def name_form(text: str) -> str:
    """NFKC_Casefold (Unicode's definition R5 in section 3.13), then the two Turkish letters as `i`."""
    visible = "".join(character for character in text if ord(character) not in _IGNORED)
    once = unicodedata.normalize("NFKC", unicodedata.normalize("NFD", visible).casefold())
    twice = unicodedata.normalize("NFKC", once.casefold())
    form = "".join(character for character in twice if ord(character) not in _IGNORED).replace("ı", "i")
    while "i\u0307" in form:
        form = form.replace("i\u0307", "i")
    return unicodedata.normalize("NFC", form)


@lru_cache
def number_form(text: str) -> str:
    return unicodedata.normalize("NFKC", "".join(c for c in text if unicodedata.category(c) != "Cf"))


@lru_cache
def text_form(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def parts(pattern: str, form: Callable[[str], str]) -> list[str]:
    """What stands between the stars of a pattern, each as it is compared."""
    found = [form(part) for part in pattern.split("*")]
    if found == [""]:
        raise InvalidParameter("nothing is left")
    return found


def glob(parts: list[str], value: str) -> bool:
    """Whether the whole value is these parts, with any run of characters between each two."""
    first, *others = parts
    if not others:
        return value == first
    *inner, last = others
    if not value.startswith(first):
        return False
    at = len(first)
    for part in inner:  # the leftmost place of each part leaves the most room for the next
        found = value.find(part, at)
        if found < 0:
            return False
        at = found + len(part)
    return len(value) - len(last) >= at and value.endswith(last)


@dataclass(frozen=True)
class Searchable:
    """What of a recording a search looks at."""

    caller_phone_number: str
    dialed_phone_number: str
    start_time: Milliseconds
    stop_time: Milliseconds
    phone_numbers: tuple[str, ...]
    names: tuple[str, ...]  # each name and each of its words, folded
    data: tuple[str, ...]
    call_uuids: tuple[str, ...]
    media_ids: tuple[str, ...]
    is_protected: bool
    labels: tuple[str, ...]  # their names, in lower case


def searchable(recording: Recording, *, is_protected: bool = False, labels: Iterable[str] = ()) -> Searchable:
    media_files = recording["mediaFiles"]
    return Searchable(
        caller_phone_number=number_form(recording["callerPhoneNumber"]),
        dialed_phone_number=number_form(recording["dialedPhoneNumber"]),
        phone_numbers=tuple(map(number_form, phone_numbers(recording))),
        start_time=start_time(recording),
        stop_time=stop_time(recording),
        names=tuple({name_form(text) for name in names(recording) for text in (name, *name.split())}),
        data=tuple(text_form(text) for data in data_of(recording) for text in texts(data)),
        call_uuids=tuple(text_form(media_file["callUUID"]) for media_file in media_files),
        media_ids=tuple(text_form(media_file["mediaId"]) for media_file in media_files if media_file.get("mediaId")),
        is_protected=is_protected,
        labels=tuple(name.lower() for name in labels),
    )


def phone_numbers(recording: Recording) -> Iterator[str]:
    yield recording["callerPhoneNumber"]
    yield recording["dialedPhoneNumber"]
    for event in recording["eventHistory"]:
        yield event["contact"]["phoneNumber"]


def start_time(recording: Recording) -> Milliseconds:
    return min(instant(media_file["startTime"]) for media_file in recording["mediaFiles"])


def stop_time(recording: Recording) -> Milliseconds:
    return max(instant(media_file["stopTime"]) for media_file in recording["mediaFiles"])


def names(recording: Recording) -> Iterator[str]:
    for event in recording["eventHistory"]:
        for attribute in ("userName", "firstName", "lastName"):
            if event["contact"].get(attribute) is not None:
                yield event["contact"][attribute]


def data_of(recording: Recording) -> Iterator[Any]:
    """What the events hold under `data`."""
    for event in recording["eventHistory"]:
        yield event.get("data")


def texts(value: Any) -> Iterator[str]:
    """The values in a `data` map, at any depth. Keys are none, and a null is none."""
    match value:
        case dict():
            for inner in value.values():
                yield from texts(inner)
        case list():
            for inner in value:
                yield from texts(inner)
        case str():
            yield value
        case bool():
            yield "true" if value else "false"
        case Number(text):
            yield text
        case None:
            pass
        case _:
            raise TypeError(f"a number must be a Number: {value!r}")


def alternatives(user_name: str) -> list[list[str]]:
    """The words of a `userName`: a recording needs all words of any one list."""
    words = user_name.split()
    if not words:
        raise InvalidParameter("no word")
    if words[0] == "AND" or words[-1] == "AND":
        raise InvalidParameter("AND first or last")
    found = [[words[0]]]
    for before, word in itertools.pairwise(words):
        if before == word == "AND":
            raise InvalidParameter("AND doubled")
        if before == "AND":
            found[-1].append(word)
        elif word != "AND":
            found.append([word])
    return found


def number_matches(number: str, parameter: str) -> bool:
    """A leading space of the parameter is a `+` that was not encoded."""
    visible = "".join(c for c in parameter if unicodedata.category(c) != "Cf")
    return glob(parts(("+" if visible[:1] == " " else "") + visible.strip(), number_form), number)


def user_name_matches(of: Searchable, parameter: str) -> bool:
    return any(
        all(any(glob(word, name) for name in of.names) for word in words)
        for words in [[parts(word, name_form) for word in words] for words in alternatives(parameter)]
    )


def label_form(text: str) -> str:
    return text_form(text_form(text).casefold())


def label_matches(of: Searchable, parameter: str) -> bool:
    return any(
        all(any(glob(word, label) for label in of.labels) for word in words)
        for words in [[parts(word, label_form) for word in words] for words in alternatives(parameter)]
    )


def user_data_matches(of: Searchable, parameter: str) -> bool:
    whole, words = text_form(parameter), [parts(word, text_form) for word in parameter.split()]
    return any(value == whole or any(glob(word, value) for word in words) for value in of.data)


def seconds(parameter: str) -> Fraction:
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)?", parameter):
        raise InvalidParameter("no plain decimal")
    return Fraction(parameter)


def duration(of: Searchable) -> Fraction:
    """In seconds."""
    return Fraction(of.stop_time - of.start_time, 1000)


def truth(parameter: str) -> bool:
    if parameter not in ("true", "false"):
        raise InvalidParameter("neither true nor false")
    return parameter == "true"


# A recording to look at when there is none, or when another criterion has ruled out all.
_ANYTHING: Recording = {
    "callerPhoneNumber": "x",
    "dialedPhoneNumber": "x",
    "mediaFiles": [{"startTime": "2013-05-17T12:00:00Z", "stopTime": "2013-05-17T12:00:00Z", "callUUID": "x"}],
    "eventHistory": [],
}

CRITERIA: dict[str, Callable[[Searchable, str], bool]] = {
    "callerPhoneNumber": lambda of, parameter: number_matches(of.caller_phone_number, parameter),
    "dialedPhoneNumber": lambda of, parameter: number_matches(of.dialed_phone_number, parameter),
    "phoneNumber": lambda of, parameter: any(number_matches(number, parameter) for number in of.phone_numbers),
    "startTime": lambda of, parameter: of.start_time > queried_instant(parameter),
    "endTime": lambda of, parameter: of.stop_time < queried_instant(parameter),
    "minDuration": lambda of, parameter: duration(of) >= seconds(parameter),
    "maxDuration": lambda of, parameter: duration(of) <= seconds(parameter),
    "userName": user_name_matches,
    "userData": user_data_matches,
    "label": label_matches,
    "nonDelete": lambda of, parameter: of.is_protected == truth(parameter),
    "callUUID": lambda of, parameter: text_form(parameter) in of.call_uuids,
    "mediaId": lambda of, parameter: text_form(parameter) in of.media_ids,
}


def satisfies(of: Searchable, parameters: Mapping[str, str]) -> bool:
    return all(CRITERIA[name](of, parameter) for name, parameter in parameters.items())


def matches(recording: Recording, parameters: Mapping[str, str]) -> bool:
    """Whether a stored recording meets all the criteria; raises InvalidParameter."""
    return satisfies(searchable(recording), parameters)


@dataclass(frozen=True)
class Stored:
    """A recording in its contact center, with what a search looks at taken out of it once."""

    contact_center: str
    recording: Recording
    searchable: Searchable

    @classmethod
    def of(
        cls, contact_center: str, recording: Recording, *, is_protected: bool = False, labels: Iterable[str] = ()
    ) -> "Stored":
        return cls(contact_center, recording, searchable(recording, is_protected=is_protected, labels=labels))


def search(
    recordings: Iterable[Stored],
    parameters: Mapping[str, str],
    contact_center: str,
    region: str,
    order: str = "newest",
    *,
    viewer: Viewer = EVERYBODY,
) -> list[Stored]:
    """All that a user's search finds, in order; raises InvalidParameter."""
    anything = searchable(_ANYTHING)
    for name, parameter in parameters.items():
        CRITERIA[name](anything, parameter)  # what is invalid is invalid wherever it is looked for
    found = [
        stored
        for stored in recordings
        if stored.contact_center == contact_center
        and stored.recording["region"] == region
        and visible_media(stored.recording, viewer)
        and satisfies(stored.searchable, parameters)
    ]
    newest_first = sorted(found, key=lambda stored: (-stored.searchable.start_time, stored.recording["id"]))
    return newest_first[::-1] if order == "oldest" else newest_first


# --- Section 4: what is kept, and what is returned ------------------------------------------------

# The service says these; a client that posts them is not believed.
_DERIVED_OF_RECORDING = ("startTime", "stopTime", "nonDelete", "nonDeletion", "labels")
LINKS = ("mediaUri", "mediaPath", "playPath")
DESCRIPTORS = ("originalMediaDesc", "originalMediaDescriptor")
_DERIVED_OF_MEDIA_FILE = (*LINKS, *DESCRIPTORS)


def media_identity(media_file: dict[str, Any]) -> tuple[str, ...]:
    descriptor = media_file["mediaDescriptor"]
    if descriptor["storage"] == "awsS3":
        return ("awsS3", descriptor["data"]["bucket"], descriptor["path"])
    return (descriptor["storage"], descriptor["path"])


def event_identity(event: dict[str, Any]) -> tuple[Milliseconds, str, str]:
    return (instant(event["occurredAt"]), event["event"], event["contact"]["phoneNumber"])


def merge(*posts: Recording) -> Recording:
    """The recording that is kept after these POSTs for one id, in the form it was posted."""
    kept: Recording = {}
    for post in posts:
        media_files = [*kept.get("mediaFiles", []), *post["mediaFiles"]]
        events = [*kept.get("eventHistory", []), *post["eventHistory"]]
        kept = {
            **kept,
            **{name: value for name, value in post.items() if name not in _DERIVED_OF_RECORDING},
            "mediaFiles": _later_wins(media_files, media_identity),
            "eventHistory": _later_wins(events, event_identity),
        }
    return kept


def _later_wins(entries: list[dict[str, Any]], identity: Callable[[dict[str, Any]], Any]) -> list[dict[str, Any]]:
    # A dict keeps the place of the first of a key and the value of the last.
    return list({identity(entry): entry for entry in entries}.values())


def shown(recording: Recording, *, to_ops: bool, is_protected: bool = False, viewer: Viewer = EVERYBODY) -> Recording:
    """What a GET returns of a kept recording, but for its labels, who protected it and the links of its media files."""
    return {
        **recording,
        **({"nonDelete": True} if is_protected else {}),
        "startTime": date_out(start_time(recording)),
        "stopTime": date_out(stop_time(recording)),
        "mediaFiles": [_shown_media_file(media_file, to_ops=to_ops) for media_file in visible_media(recording, viewer)],
        "eventHistory": [
            {**event, "occurredAt": date_out(instant(event["occurredAt"]))} for event in recording["eventHistory"]
        ],
    }


def without_links(shown_recording: Recording) -> Recording:
    """What a GET returned, without labels, `nonDeletion`, and the links, whose uuid only the service knows."""
    media_files = [
        {name: value for name, value in media_file.items() if name not in LINKS}
        for media_file in shown_recording["mediaFiles"]
    ]
    known = {name: value for name, value in shown_recording.items() if name not in ("nonDeletion", "labels")}
    return {**known, "mediaFiles": media_files}


def _shown_media_file(media_file: dict[str, Any], *, to_ops: bool) -> dict[str, Any]:
    hidden = ("mediaDescriptor", *_DERIVED_OF_MEDIA_FILE)
    return {
        **{name: value for name, value in media_file.items() if name not in hidden},
        "startTime": date_out(instant(media_file["startTime"])),
        "stopTime": date_out(instant(media_file["stopTime"])),
        **(dict.fromkeys(DESCRIPTORS, media_file["mediaDescriptor"]) if to_ops else {}),
    }
