"""The indexed fields of a recording's document, one row a field (docs/decisions/0002-schema-v2.md).

`app/store/documents.py` reads the rows to index a recording, `app/search/clauses.py` to search it. Each row has its
mapping in `es_mappings/v2/recordings.json`; a test compares them.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from app import codec
from app.folding import fold_label, fold_name, fold_number, fold_text
from app.recordings.access import Path, access_groups, agents, partitions
from app.recordings.dates import parse_instant
from app.recordings.identity import digest, media_object_keys
from app.recordings.model import Recording
from app.search.trigrams import tokens_of_value
from app.settings import MAX_PATH_PARTS

# A keyword may have 32,766 UTF-8 bytes, and this many characters always fit. The keyword of a longer value holds
# only its first characters; the trigrams hold all of it.
MAX_KEYWORD_LENGTH = 8_000
_MAX_KEYWORD_BYTES = 32_766

# How far apart the texts of a "text" field are. None is as long.
TEXT_GAP = 1_000_000


@dataclass(frozen=True)
class Field:
    """A field that is compared as a whole. `values` returns what the document of a recording holds in it.

    One of kind "text" holds texts of tokens, divided by spaces. Only a field with `doc_values` can be sorted by or
    aggregated.
    """

    name: str
    kind: Literal["keyword", "date", "long", "boolean", "text"]
    values: Callable[[Recording], Any]
    doc_values: bool = True

    def index(self, recording: Recording) -> dict[str, Any]:
        """Returns the attributes of the document."""
        return {self.name: self.values(recording)}


@dataclass(frozen=True)
class TextField:
    """A field that is searched with wildcards: a keyword, and a second field with the trigrams of its values.

    `fold` maps values, and the words that a search looks for, to the form in which they are compared. `former_fold`
    is what did that before: documents that were stored then keep the former values until a reindex.
    """

    name: str
    values: Callable[[Recording], Iterable[str]]
    fold: Callable[[str], str]
    former_fold: Callable[[str], str] = str

    @property
    def trigrams(self) -> str:
        """The name of the field that holds the trigrams."""
        return f"{self.name}Trigrams"

    def index(self, recording: Recording) -> dict[str, Any]:
        """Returns the attributes of the document."""
        return self.index_values(self.values(recording))

    def index_values(self, texts: Iterable[str]) -> dict[str, Any]:
        """Returns the attributes of a document that holds these values."""
        values = list(dict.fromkeys(map(self.fold, texts)))
        return {
            self.name: [_keyword(value) for value in values],
            self.trigrams: [tokens_of_value(value) for value in values],
        }


def call_uuids(recording: Recording) -> list[str]:
    """Returns the call UUIDs of the media files, by which screen recordings belong to a recording.

    They are in the form in which they are compared. The id stands for that of a screen recording's media file which
    has none.
    """
    return _exact(media.get("callUUID") or recording["id"] for media in recording["mediaFiles"])


def _exact(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(_keyword(fold_text(value)) for value in values))


def _phone_numbers(recording: Recording) -> Iterator[str]:
    yield recording["callerPhoneNumber"]
    yield recording["dialedPhoneNumber"]
    for event in recording["eventHistory"]:
        yield event["contact"]["phoneNumber"]


def _duration(recording: Recording) -> int:
    """Returns milliseconds; fewer than 0 if the recorder's clock went wrong."""
    return parse_instant(recording["stopTime"]) - parse_instant(recording["startTime"])


def _media_ids(recording: Recording) -> list[str]:
    return _exact(media["mediaId"] for media in recording["mediaFiles"] if media.get("mediaId"))


def group_token(path: Path) -> str:
    """Returns the token of ACCESS that stands for an access group, in the text of each media file that it holds."""
    return _path_token("group", path)


def partition_token(path: Path) -> str:
    """Returns the token of ACCESS that stands for a partition, in the text of each media file that it holds."""
    return _path_token("partition", path)


@lru_cache(maxsize=4096)
def _path_token(kind: str, path: Path) -> str:
    # A path may hold white space and be of any length.
    return digest(kind, *path)


def _access(recording: Recording) -> list[str]:
    """Returns a text for each media file, of the tokens of all groups and partitions that hold it."""
    texts = (
        " ".join(
            dict.fromkeys(
                [
                    *(group_token(path) for path in _holders(access_groups(media))),
                    *(partition_token(path) for path in _holders(partitions(media))),
                ]
            )
        )
        for media in recording["mediaFiles"]
    )
    return list(dict.fromkeys(texts))


def _holders(paths: Iterable[Path]) -> Iterator[Path]:
    """Yields the paths that hold one of the paths, in a settled order; a user's entry names no longer ones."""
    for path in sorted(paths):
        for length in range(min(len(path), MAX_PATH_PARTS) + 1):
            yield path[:length]


def _media_object_keys(recording: Recording) -> list[str]:
    keys = (key for media in recording["mediaFiles"] for key in media_object_keys(media["mediaDescriptor"]))
    return list(dict.fromkeys(keys))


def _agents(recording: Recording) -> list[str]:
    return list(dict.fromkeys(map(_keyword, agents(recording))))


def _user_names(recording: Recording) -> Iterator[str]:
    """Yields every name, whole and word by word (docs/contract.md section 5, `userName`)."""
    for event in recording["eventHistory"]:
        for key in ("userName", "firstName", "lastName"):
            name = event["contact"].get(key)
            if name is not None:
                yield name
                yield from name.split()


def _user_data(recording: Recording) -> Iterator[str]:
    """Yields every value of every event's `data` at any depth, as text (docs/contract.md section 5, `userData`)."""
    for event in recording["eventHistory"]:
        yield from _leaves([event.get("data")])


def _leaves(values: Iterable[Any]) -> Iterator[str]:
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            yield from _leaves(value.values())
        elif isinstance(value, list):
            yield from _leaves(value)
        elif value is not None:
            yield codec.encode(value).decode()


def _keyword(value: str) -> str:
    """Returns a value as a keyword; of a value that is too long, as many characters as always fit."""
    if len(value) <= MAX_KEYWORD_LENGTH or len(value.encode()) <= _MAX_KEYWORD_BYTES:
        return value
    return value[:MAX_KEYWORD_LENGTH]


REGION = Field("region", "keyword", lambda recording: _keyword(recording["region"]))
ID = Field("id", "keyword", lambda recording: recording["id"])
START_TIME = Field("startTime", "date", lambda recording: parse_instant(recording["startTime"]))
STOP_TIME = Field("stopTime", "date", lambda recording: parse_instant(recording["stopTime"]))
CALLER_PHONE_NUMBER = TextField("callerPhoneNumber", lambda recording: [recording["callerPhoneNumber"]], fold_number)
DIALED_PHONE_NUMBER = TextField("dialedPhoneNumber", lambda recording: [recording["dialedPhoneNumber"]], fold_number)
PHONE_NUMBERS = TextField("phoneNumbers", _phone_numbers, fold_number, former_fold=fold_number)
DURATION = Field("duration", "long", _duration)
USER_NAMES = TextField("userNames", _user_names, fold_name, former_fold=str.casefold)
USER_DATA = TextField("userData", _user_data, fold_text)
CALL_UUIDS = Field("callUUIDs", "keyword", call_uuids)
MEDIA_IDS = Field("mediaIds", "keyword", _media_ids, doc_values=False)
MEDIA_IDENTITIES = Field("mediaIdentities", "keyword", _media_object_keys)
NON_DELETE = Field("nonDelete", "boolean", lambda recording: recording.get("nonDelete", False))
ACCESS = Field("access", "text", _access)
AGENTS = Field("agents", "keyword", _agents)

# No row of FIELDS, because labels are not in the recording (`app.store.documents`).
LABEL_NAMES = TextField("labelNames", lambda _: (), fold_label, former_fold=fold_label)

FIELDS = (
    REGION,
    ID,
    START_TIME,
    STOP_TIME,
    CALLER_PHONE_NUMBER,
    DIALED_PHONE_NUMBER,
    PHONE_NUMBERS,
    DURATION,
    USER_NAMES,
    USER_DATA,
    CALL_UUIDS,
    MEDIA_IDS,
    MEDIA_IDENTITIES,
    NON_DELETE,
    ACCESS,
    AGENTS,
)


def indexed(recording: Recording) -> dict[str, Any]:
    """Returns all fields of the document of a recording in its stored form."""
    document: dict[str, Any] = {}
    for field in FIELDS:
        document |= field.index(recording)
    return document
