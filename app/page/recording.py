"""One recording (docs/contract.md section 13)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from app import codec
from app.api import recordings
from app.api.requests import user_of
from app.background import apart
from app.page.peaks import is_encrypted
from app.page.rendering import page, why_not
from app.page.rows import leaves
from app.recordings.dates import parse_instant
from app.recordings.identity import encode_segment

# What a lane and a mask are measured in: the width of the whole recording.
_WIDTH = 1000.0
_UNITS = ("B", "kB", "MB", "GB", "TB")


class Span(NamedTuple):
    """A part of a lane, from 0 to 1000."""

    start: float
    width: float


@dataclass
class Lane:
    """A participant, and when it was in the call."""

    name: str
    number: str
    is_user: bool
    spans: list[Span]


class Event(NamedTuple):
    """Something that happened; `at` is in milliseconds since 1970, `second` of the recording."""

    at: int
    second: float
    what: str
    name: str
    number: str
    data: Sequence[tuple[str, str]]


class Mask(NamedTuple):
    """Seconds of the recording in which nothing was recorded."""

    start: float
    end: float


@dataclass(frozen=True)
class Media:
    """A media file. `start` and `duration` are in seconds of the recording, `path` is under the page's mount."""

    name: str
    kind: str
    type: str
    size: str | None
    at: int
    start: float
    duration: float
    path: str
    masks: Sequence[Mask]
    encrypted: bool


class Clock(NamedTuple):
    """The wall clock of the recording, in milliseconds since 1970."""

    start: int
    stop: int

    @property
    def seconds(self) -> float:
        return max(self.stop - self.start, 0) / 1000

    def second(self, instant: int) -> float:
        return (instant - self.start) / 1000

    def span(self, start: int, stop: int) -> Span | None:
        """Returns the part that is within the recording, None if nothing is."""
        first, last = (min(max(each, self.start), self.stop) for each in (start, stop))
        if last <= first:
            return None
        scale = _WIDTH / (self.stop - self.start)
        return Span((first - self.start) * scale, (last - first) * scale)


async def show(request: Request) -> Response:
    """`GET /ui/recordings/{id}`: what the API answers under the page's mount, as HTML."""
    body = bytes((await recordings.read(request)).body)
    return await apart(len(body), _shown, request, body)


def _shown(request: Request, body: bytes) -> Response:
    found = codec.decode(body)["recording"]
    clock = Clock(parse_instant(found["startTime"]), parse_instant(found["stopTime"]))
    user, media = user_of(request), [_media(each, clock) for each in found["mediaFiles"]]
    path = f"/recordings/{encode_segment(found['id'])}"
    return page(
        request,
        "recording.html",
        recording=found,
        path=path,
        clock=clock,
        duration=clock_text(clock.seconds),
        clock_text=clock_text,
        lanes=list(_lanes(found["eventHistory"], clock)),
        media=media,
        sounds=sum(each.kind == "audio" for each in media),
        events=_events(found["eventHistory"], media, clock),
        may={name: why_not(user, name) for name in ("apply", "unapply", "label", "unlabel", "audit", "export")},
        # Read by the page's script.
        data={
            "id": found["id"],
            "path": path,
            "start": clock.start,
            "seconds": clock.seconds,
            "callUUIDs": list(dict.fromkeys(each["callUUID"] for each in found["mediaFiles"] if each.get("callUUID"))),
            "media": [
                {
                    "name": each.name,
                    "kind": each.kind,
                    "type": each.type,
                    "start": each.start,
                    "duration": each.duration,
                    "path": each.path,
                    "masks": each.masks,
                    "encrypted": each.encrypted,
                }
                for each in media
            ],
        },
        raw=msgspec.json.format(codec.encode(found), indent=2).decode(),
    )


def clock_text(seconds: float) -> str:
    """Returns seconds as a player shows them: `1:02:03`, `2:03`."""
    whole = int(max(seconds, 0))
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def _media(media: Mapping[str, Any], clock: Clock) -> Media:
    start, stop = parse_instant(media["startTime"]), parse_instant(media["stopTime"])
    type_ = str(media.get("type") or "")
    kind = type_.partition("/")[0].strip().lower()
    return Media(
        name=media["playPath"].rpartition("/")[2],
        kind=kind if kind in {"audio", "video"} else "file",
        type=type_,
        size=_size(media.get("size")),
        at=start,
        start=clock.second(start),
        duration=max(stop - start, 0) / 1000,
        path=media["playPath"],
        masks=list(_masks(media, clock, stop)),
        encrypted=is_encrypted(media),
    )


def _size(value: Any) -> str | None:
    """Returns a number of bytes in words; what is none stays as it came."""
    if not value or not str(value).isascii() or not str(value).isdigit():
        return str(value) if value else None
    size, unit = float(value), 0
    while size >= 1000 and unit < len(_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{size:.0f} {_UNITS[unit]}" if unit == 0 or size >= 100 else f"{size:.1f} {_UNITS[unit]}"


def _masks(media: Mapping[str, Any], clock: Clock, stop: int) -> Iterator[Mask]:
    """Yields the paused periods. Recorders post what they like here, so what is not understood is left out."""
    began: int | None = None
    for mask in sorted(_known_masks(media), key=lambda mask: mask[0]):
        instant, is_pause = mask
        if is_pause:
            began = instant if began is None else began
        elif began is not None:
            yield Mask(clock.second(began), clock.second(instant))
            began = None
    if began is not None:
        yield Mask(clock.second(began), clock.second(max(stop, began)))


def _known_masks(media: Mapping[str, Any]) -> Iterator[tuple[int, bool]]:
    for mask in media.get("masks") or ():
        kind = str(mask.get("type") or "").lower()
        try:
            instant = parse_instant(mask["time"])
        except (KeyError, TypeError, ValueError, AttributeError):
            continue
        if kind.startswith(("pause", "resume")):
            yield instant, kind.startswith("pause")


def _lanes(events: Sequence[Mapping[str, Any]], clock: Clock) -> Iterator[Lane]:
    """Yields a lane for each contact, in the order in which they joined. Who does not leave stays to the end."""
    by_contact: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for event in sorted(events, key=lambda event: parse_instant(event["occurredAt"])):
        contact = event["contact"]
        by_contact.setdefault((contact["phoneNumber"], str(contact.get("userName") or "")), []).append(event)
    for of_contact in by_contact.values():
        spans: list[Span | None] = []
        joined: int | None = None if of_contact[0]["event"] == "Joined" else clock.start
        for event in of_contact:
            instant = parse_instant(event["occurredAt"])
            if event["event"] == "Joined":
                joined = instant if joined is None else joined
            elif joined is not None:
                spans.append(clock.span(joined, instant))
                joined = None
        if joined is not None:
            spans.append(clock.span(joined, clock.stop))
        contact = of_contact[0]["contact"]
        yield Lane(_name(contact), contact["phoneNumber"], contact["type"] == "User", [s for s in spans if s])


def _events(history: Sequence[Mapping[str, Any]], media: Sequence[Media], clock: Clock) -> list[Event]:
    """Returns what happened, oldest first, with the paused periods."""
    events = [_event(each, clock) for each in history]
    for mask in sorted({mask for each in media for mask in each.masks}):
        words = f"for {mask.end - mask.start:.0f} s: nothing was recorded"
        events.append(Event(clock.start + round(mask.start * 1000), mask.start, "Paused", words, "", ()))
    return sorted(events, key=lambda event: event.at)


def _event(event: Mapping[str, Any], clock: Clock) -> Event:
    instant, data = parse_instant(event["occurredAt"]), event.get("data")
    return Event(
        at=instant,
        second=clock.second(instant),
        what=event["event"],
        name=_name(event["contact"]),
        number=event["contact"]["phoneNumber"],
        data=list(leaves("", data)) if isinstance(data, dict) else [],
    )


def _name(contact: Mapping[str, Any]) -> str:
    name = " ".join(str(contact[key]) for key in ("firstName", "lastName") if contact.get(key))
    return name or str(contact.get("userName") or "") or ("Agent" if contact["type"] == "User" else "Caller")
