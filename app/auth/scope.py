"""What the caller may see: one value, which every read of recordings takes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from app.folding import fold_name
from app.recordings.access import Path, access_groups, agents, holds, partitions, path_of
from app.recordings.model import Recording
from app.settings import User


class StoredRecording(Protocol):
    """A recording as the store returns it, with the contact center that it belongs to."""

    @property
    def contact_center(self) -> str: ...
    @property
    def recording(self) -> Recording: ...


@dataclass(frozen=True)
class Limits:
    """Which part of its contact center a user sees (docs/contract.md section 2).

    A media file is visible when one of the `groups` holds it and one of the `partitions` does; None asks for none. Both
    None show no media file. In a recording in which the user is the `agent` (a folded name) all are visible.
    """

    groups: frozenset[Path] | None = None
    partitions: frozenset[Path] | None = None
    agent: str | None = None

    def shows(self, media: Mapping[str, Any]) -> bool:
        """Returns whether a media file is visible by its access groups and partitions."""
        if self.groups is None and self.partitions is None:
            return False
        return _any_holds(self.groups, access_groups(media)) and _any_holds(self.partitions, partitions(media))

    def owns(self, recording: Recording) -> bool:
        """Returns whether the recording is one of the user's own."""
        return self.agent is not None and self.agent in agents(recording)


def _any_holds(paths: frozenset[Path] | None, others: frozenset[Path]) -> bool:
    return paths is None or any(holds(path, other) for path in paths for other in others)


# An entry goes with its user, when the configuration names her no longer.
_limits: WeakKeyDictionary[User, Limits] = WeakKeyDictionary()


def limits_of(user: User) -> Limits | None:
    """Returns the limits of a user's entry in the configuration, None for a user who has none."""
    if not user.is_limited:
        return None
    limits = _limits.get(user)
    if limits is None:
        limits = _limits[user] = _limits_of(user)
    return limits


def _limits_of(user: User) -> Limits:
    return Limits(
        groups=frozenset(map(path_of, user.access_groups)) or None,
        partitions=frozenset(map(path_of, user.partitions)) or None,
        agent=fold_name(user.name) if user.own_recordings else None,
    )


@dataclass(frozen=True)
class Scope:
    """Which recordings, and which of their media files, exist for the caller (docs/contract.md section 2).

    `contact_center` None stands for every contact center; only operators' tools ask with that. Without `limits` the
    caller sees all of it.
    """

    contact_center: str | None
    region: str
    limits: Limits | None = None

    def admits(self, stored: StoredRecording) -> bool:
        """Returns whether a recording that was read by id exists for the caller."""
        recording = stored.recording
        return (
            (self.contact_center is None or stored.contact_center == self.contact_center)
            and recording["region"] == self.region
            and (
                self.limits is None
                or any(map(self.limits.shows, recording["mediaFiles"]))
                or self.limits.owns(recording)
            )
        )

    def visible(self, recording: Recording) -> Recording:
        """Returns what the caller sees of a recording that exists for the caller: without the other media files."""
        if self.limits is None or self.limits.owns(recording):
            return recording
        return {**recording, "mediaFiles": [*filter(self.limits.shows, recording["mediaFiles"])]}
