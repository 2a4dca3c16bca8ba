"""What the caller may see: one value, which every read of recordings takes."""

from dataclasses import dataclass
from typing import Protocol

from app.recordings.model import Recording


class StoredRecording(Protocol):
    """A recording as the store returns it, with the contact center that it belongs to."""

    @property
    def contact_center(self) -> str: ...
    @property
    def recording(self) -> Recording: ...


@dataclass(frozen=True)
class Scope:
    """Which recordings exist for the caller (docs/contract.md section 2).

    `contact_center` None stands for every contact center; only operators' tools ask with that.
    """

    contact_center: str | None
    region: str

    def admits(self, stored: StoredRecording) -> bool:
        """Returns whether a recording that was read by id exists for the caller."""
        return (self.contact_center is None or stored.contact_center == self.contact_center) and stored.recording[
            "region"
        ] == self.region
