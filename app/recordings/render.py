"""A stored recording as a client sees it (docs/contract.md section 4, "Out")."""

from dataclasses import dataclass
from typing import Any, Literal

from app.recordings.model import Recording


@dataclass(frozen=True)
class MediaAddresses:
    """How a client reaches media files: `mediaUri` is `base`, an absolute URL, and `mediaPath`.

    `prefix` is what the path has before `/recordings/{id}/…`, and `verb` the segment before the name. With
    `descriptors` a media file has its descriptor too.
    """

    base: str
    prefix: str = ""
    verb: Literal["play", "content"] = "play"
    descriptors: bool = False


def render(stored: Recording, addresses: MediaAddresses) -> Recording:
    """The recording with media addresses in place of descriptors, or beside them."""
    return {**stored, "mediaFiles": [_render_media_file(media, addresses) for media in stored["mediaFiles"]]}


def _render_media_file(stored: dict[str, Any], addresses: MediaAddresses) -> dict[str, Any]:
    recording, _, name = stored["mediaPath"].rpartition("/play/")
    path = f"{addresses.prefix}{recording}/{addresses.verb}/{name}"
    media = {**stored, "mediaUri": addresses.base + path, "mediaPath": path, "playPath": path}
    descriptor = media.pop("mediaDescriptor")
    if addresses.descriptors:
        media |= {"originalMediaDesc": descriptor, "originalMediaDescriptor": descriptor}
    return media
