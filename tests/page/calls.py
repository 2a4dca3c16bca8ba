"""Calls whose sound tells where one is in it."""

import io
from typing import Any

import numpy as np
import soundfile  # type: ignore[import-untyped]

from tests.support.recordings import a_media_file, a_recording, a_user, an_event

RATE = 8000


def tones(seconds: int) -> bytes:
    """Each second sounds of its own: 500 Hz and 100 Hz more for each second of ten; the right channel an octave up."""
    time = np.arange(RATE) / RATE
    pieces = [
        np.stack([0.4 * np.sin(2 * np.pi * frequency * time * channel) for channel in (1, 2)], axis=1)
        for frequency in (500 + 100 * (second % 10) for second in range(10))
    ]
    file = io.BytesIO()
    soundfile.write(file, np.tile(np.concatenate(pieces), (seconds // 10, 1)), RATE, format="WAV", subtype="ULAW")
    return file.getvalue()


def at(minutes: int, seconds: int = 0) -> str:
    return f"2026-03-01T12:{minutes:02}:{seconds:02}.000Z"


def call(descriptor: dict[str, Any], recording_id: str, minutes: int = 2, **attributes: Any) -> dict[str, Any]:
    """A call with one sound file that pauses from 0:40 to 1:10; Alice hands it on to Bob after a minute."""
    media = a_media_file(
        mediaDescriptor=descriptor, startTime=at(0), stopTime=at(minutes), type="audio/wav",
        size="960058", callUUID=recording_id,
        masks=[{"time": at(0, 40), "type": "paused"}, {"time": at(1, 10), "type": "resumed"}],
        **attributes.pop("media", {}),
    )  # fmt: skip
    events = [
        an_event(occurredAt=at(0), contact={"type": "External", "phoneNumber": "+16504668888"}),
        an_event(
            occurredAt=at(0, 5), contact=a_user("Alice", "Ng", userName="alice"), data={"case": "A-17", "vip": True}
        ),
        an_event(occurredAt=at(1), event="Left", contact=a_user("Alice", "Ng", userName="alice")),
        an_event(occurredAt=at(1, 2), contact=a_user("Bob", "Li", phoneNumber="5002", userName="bob")),
    ]
    return a_recording(recording_id, **{"mediaFiles": [media], "eventHistory": events, **attributes})
