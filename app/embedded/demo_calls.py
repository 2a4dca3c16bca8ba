"""What the demo shows: 300 calls of the last 30 days, with sound, videos of screens, labels and protection.

Calls share a few dozen files, for nobody listens to all of them.
"""

from __future__ import annotations

import math
import shutil
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.resources import as_file, files
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from wave import open as open_wave

from app.embedded.media import RATE
from app.embedded.sample import sample_recordings

CALLS = 300
SCREENS = 24
# Of these calls, counted from the newest one.
PROTECTED = {4: "LegalHold#245", 16: "complaint to the regulator", 41: "dispute about an invoice", 120: "LegalHold#245"}
ENCRYPTED, MISSING = 5, 8

_DAYS = 30
# The lengths of the files in seconds: most calls are short.
_SECONDS = (20, 24, 30, 36, 42, 50, 58, 66, 75, 84, 95, 105, 118, 130, 145, 160, 180, 205, 230, 265, 310, 380, 470, 600)
# In every third file somebody takes down a card number: from here to there, as parts of the whole.
_PAUSE = (0.4, 0.55)
_VIDEOS = ("screen-1.webm", "screen-2.webm", "screen-3.webm")
VIDEO_SECONDS = 60


class Sound(NamedTuple):
    """A file of the demo. `pause` is its paused period in seconds, empty if it has none."""

    name: str
    seconds: int
    size: int
    pause: tuple[float, ...]


@dataclass(frozen=True)
class Calls:
    """Recordings and screen recordings, as a client posts them, the newest first."""

    recordings: list[dict[str, Any]]
    screens: list[dict[str, Any]]


def write_media(folder: Path) -> list[Sound]:
    """Writes the files of the demo, and returns the sounds."""
    voices = [_voice(Random(f"voice {number}"), 110 + 45 * number) for number in range(4)]
    for video in _VIDEOS:
        with as_file(files("app.embedded") / "videos" / video) as file:
            shutil.copy(file, folder / video)
    return [_write_sound(folder, number, seconds, voices) for number, seconds in enumerate(_SECONDS)]


def _voice(random: Random, pitch: int) -> list[array[int]]:
    """Returns some made-up phrases: tones of a voice that rise and fall, in syllables."""
    phrases = []
    for _ in range(6):
        samples = array("h")
        for _ in range(random.randrange(3, 8)):
            tone = 2 * math.pi * pitch * random.uniform(0.85, 1.3) / RATE
            length = RATE * random.randrange(9, 22) // 100
            formant = random.choice((3, 4, 5, 7))
            for i in range(length):
                loudness = 7_000 * math.sin(math.pi * i / length)
                sound = math.sin(tone * i) + 0.5 * math.sin(2 * tone * i) + 0.4 * math.sin(formant * tone * i)
                samples.append(round(loudness * sound / 2))
            samples.extend(bytes(RATE // 25))
        phrases.append(samples)
    return phrases


def _write_sound(folder: Path, number: int, seconds: int, voices: Sequence[Sequence[array[int]]]) -> Sound:
    """Two channels, in which a customer and an agent speak in turn."""
    random = Random(f"sound {number}")
    length = seconds * RATE
    channels = [array("h", bytes(2 * length)) for _ in "ab"]
    parties = random.sample(range(len(voices)), 2)
    position, speaker = RATE // 2, 0
    while position < length - 2 * RATE:
        for _ in range(random.randrange(1, 4)):
            phrase = random.choice(voices[parties[speaker]])
            phrase = phrase[: length - position]
            channels[speaker][position : position + len(phrase)] = phrase
            position += len(phrase) + RATE * random.randrange(1, 5) // 10
        position += RATE * random.randrange(2, 12) // 10
        speaker = 1 - speaker
    pause = tuple(round(part * seconds, 3) for part in _PAUSE) if number % 3 == 1 else ()
    stereo = array("h", bytes(4 * length))
    for channel, samples in enumerate(channels):
        if pause:
            start, stop = (int(moment * RATE) for moment in pause)
            samples[start:stop] = array("h", bytes(2 * (stop - start)))
        stereo[channel::2] = samples[:length]
    file = folder / f"call-{number:02}.wav"
    with open_wave(str(file), "wb") as opened:
        opened.setnchannels(2)
        opened.setsampwidth(2)
        opened.setframerate(RATE)
        opened.writeframes(stereo.tobytes())
    return Sound(file.name, seconds, file.stat().st_size, pause)


def make_calls(sounds: Sequence[Sound], *, region: str, base_url: str, now: datetime | None = None) -> Calls:
    """Makes the calls. The newest one has just ended; `base_url` is the URL of the folder with the files."""
    now = now or datetime.now(UTC)
    calls = list(_calls(sounds, region, base_url, now))
    screens = [_screen(number, recording, base_url) for number, recording in enumerate(calls[::4][:SCREENS])]
    return Calls(calls, screens)


def _calls(sounds: Sequence[Sound], region: str, base_url: str, now: datetime) -> Iterator[dict[str, Any]]:
    for number, recording in enumerate(sample_recordings(CALLS, region=region)):
        random = Random(f"call {number}")
        # The newest ones lie close together, so that the page has some to show of the last 24 hours.
        end = now - timedelta(days=_DAYS) * (number / CALLS) ** 2 - timedelta(seconds=random.randrange(20, 60))
        agents = len({event["contact"].get("userName") for event in recording["eventHistory"]} - {None})
        parts = [random.choice(sounds) for _ in range(agents)]
        begin = end - timedelta(seconds=sum(part.seconds for part in parts))
        first = recording["mediaFiles"][0]
        recording["mediaFiles"] = []
        start = begin
        for each, part in enumerate(parts):
            path = "not-there.wav" if number == MISSING else part.name
            media = {
                **{key: first[key] for key in ("callUUID", "tenant", "ivrprofile", "partitions", "parameters")},
                "accessgroups": first["accessgroups"],
                "startTime": _date(start),
                "stopTime": _date(start + timedelta(seconds=part.seconds)),
                "duration": str(part.seconds * 1000),
                "size": str(part.size),
                "type": "audio/wav",
                "mediaId": f"{recording['id']}_{each + 1}.wav",
                "mediaDescriptor": {"storage": "webDAV", "path": f"{base_url}/{path}"},
            }
            if part.pause:
                media["masks"] = [
                    {"time": _date(start + timedelta(seconds=moment)), "type": kind}
                    for moment, kind in zip(part.pause, ("paused", "resume"), strict=True)
                ]
            if number == ENCRYPTED:
                media |= {"pkcs7": "TUlJQ...", "certAlias": ["demo"]}
            # One object is in a recording once.
            if all(media["mediaDescriptor"] != other["mediaDescriptor"] for other in recording["mediaFiles"]):
                recording["mediaFiles"].append(media)
            start += timedelta(seconds=part.seconds)
        _place_events(recording, begin, end, number)
        yield recording


def _place_events(recording: dict[str, Any], begin: datetime, end: datetime, number: int) -> None:
    events = recording["eventHistory"]
    for index, event in enumerate(events):
        event["occurredAt"] = _date(begin + (end - begin) * index / (len(events) - 1))
        if number % 12 == 2 and event["contact"]["type"] == "User":
            # So that the demo's agent has recordings of her own.
            event["contact"] = {**event["contact"], "userName": "agent", "firstName": "Agnes", "lastName": "Demo"}


def _screen(number: int, recording: dict[str, Any], base_url: str) -> dict[str, Any]:
    """The first minute of what the agent of a call saw."""
    media = recording["mediaFiles"][0]
    start = datetime.strptime(media["startTime"], "%Y-%m-%dT%H:%M:%S.%f%z")
    video = _VIDEOS[number % len(_VIDEOS)]
    return {
        **{key: recording[key] for key in ("callerPhoneNumber", "dialedPhoneNumber", "region", "eventHistory")},
        "id": f"{recording['id']}-screen",
        "mediaFiles": [
            {
                **{key: media[key] for key in ("callUUID", "startTime", "partitions", "accessgroups", "parameters")},
                "stopTime": _date(start + timedelta(seconds=VIDEO_SECONDS)),
                "duration": str(VIDEO_SECONDS * 1000),
                "type": "video/webm",
                "mediaId": f"{recording['id']}-screen.webm",
                "mediaDescriptor": {"storage": "webDAV", "path": f"{base_url}/{video}"},
            }
        ],
    }


def _date(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
