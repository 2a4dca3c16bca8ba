"""How a POST changes a recording (docs/contract.md section 4, "Updating")."""

from collections.abc import Callable, Hashable, Iterable
from typing import Any

from app import codec
from app.errors import RecordingTooLarge
from app.recordings.identity import event_identity, media_identity
from app.recordings.model import Recording


def merge(stored: Recording | None, posted: Recording) -> Recording:
    """The recording after `posted` (from `parse_recording`) was applied to `stored`, or created when that is None.

    Merging the same `posted` again changes nothing. Neither argument is changed.
    """
    before = stored or {"mediaFiles": [], "eventHistory": []}
    merged = {**before, **posted}
    media_files = _deduplicate_keep_last(
        [*before["mediaFiles"], *posted["mediaFiles"]],
        lambda media: media_identity(media["mediaDescriptor"]),
    )
    merged["mediaFiles"] = media_files
    merged["eventHistory"] = _deduplicate_keep_last([*before["eventHistory"], *posted["eventHistory"]], event_identity)
    # Stored dates are UTC and of one width, so their order as text is their order in time.
    merged["startTime"] = min(media["startTime"] for media in media_files)
    merged["stopTime"] = max(media["stopTime"] for media in media_files)
    return merged


MAX_MEDIA_FILES = 1_000
MAX_EVENTS = 10_000
MAX_RECORDING_BYTES = 4 * 1024 * 1024


def check_size(recording: Recording) -> None:
    """Raises RecordingTooLarge for more than a recording may have after all updates (docs/contract.md section 4)."""
    if len(recording["mediaFiles"]) > MAX_MEDIA_FILES:
        raise RecordingTooLarge(recording["id"], f"{MAX_MEDIA_FILES} media files")
    if len(recording["eventHistory"]) > MAX_EVENTS:
        raise RecordingTooLarge(recording["id"], f"{MAX_EVENTS} events")
    if len(codec.encode(recording)) > MAX_RECORDING_BYTES:
        raise RecordingTooLarge(recording["id"], f"{MAX_RECORDING_BYTES} bytes of JSON")


def _deduplicate_keep_last(
    entries: Iterable[dict[str, Any]], identity: Callable[[dict[str, Any]], Hashable]
) -> list[dict[str, Any]]:
    """One entry for each identity, in the place of the first and with the content of the last."""
    return list({identity(entry): entry for entry in entries}.values())
