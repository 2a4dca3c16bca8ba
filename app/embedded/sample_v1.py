"""Recordings in the form of an earlier deployment (docs/decisions/0012-schema-v1.md)."""

from collections.abc import Callable
from typing import Any
from zlib import crc32

from app.recordings.dates import format_instant, parse_instant
from app.recordings.model import Recording

Document = dict[str, Any]


def v1_document(recording: Recording) -> Document:
    """Returns the v1 document of a recording in its stored form. One in a hundred breaks a rule.

    The broken rule and the spelling of dates depend on the id only.
    """
    lot = crc32(recording["id"].encode())
    write = _SPELLINGS[lot % len(_SPELLINGS)]
    media_files = [
        {key: value for key, value in media.items() if key != "mediaPath"}
        | {key: write(parse_instant(media[key])) for key in ("startTime", "stopTime")}
        for media in recording["mediaFiles"]
    ]
    events = [e | {"occurredAt": write(parse_instant(e["occurredAt"]))} for e in recording["eventHistory"]]
    document = recording | {
        "startTime": write(parse_instant(recording["startTime"])),
        "stopTime": write(parse_instant(recording["stopTime"])),
        "mediaFiles": media_files,
        "eventHistory": events,
    }
    if lot // 7 % 100 == 0:
        _FAULTS[lot // 700 % len(_FAULTS)](document)
    return document


def _with_offset(minutes: int) -> Callable[[int], str]:
    sign, ahead = "-" if minutes < 0 else "+", abs(minutes)

    def write(instant: int) -> str:
        return f"{format_instant(instant + minutes * 60_000)[:-5]}{sign}{ahead // 60:02}{ahead % 60:02}"

    return write


_SPELLINGS: tuple[Callable[[int], str], ...] = (
    format_instant,
    _with_offset(-480),
    _with_offset(330),
    lambda instant: f"{format_instant(instant)[:-5]}Z",
    lambda instant: f"{format_instant(instant)[:-5]}000+00:00",
    lambda instant: f"{format_instant(instant)[:-5].replace('T', ' ')}z",
)

_FAULTS: tuple[Callable[[Document], object], ...] = (
    lambda document: document.pop("callerPhoneNumber"),
    lambda document: document.pop("region"),
    lambda document: document.update(dialedPhoneNumber=" "),
    lambda document: document.update(mediaFiles=[]),
    lambda document: document["mediaFiles"][0].update(startTime="17.05.2013 11:45"),
    lambda document: document["mediaFiles"][0].pop("mediaDescriptor"),
    lambda document: document["eventHistory"][0].update(event="Paused"),
    # Contacts are shared by many recordings of a sample: replaced, not changed.
    lambda document: document["eventHistory"][-1].update(contact={"type": "External"}),
)
