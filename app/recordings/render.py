"""A stored recording as a client sees it (docs/contract.md section 4, "Out")."""

from typing import Any

from app.recordings.model import Recording


def render(stored: Recording, api_url: str, *, for_ops: bool = False) -> Recording:
    """The recording with media addresses in place of descriptors; `api_url` is the absolute URL up to `/api/v2`.

    For ops each media file has its descriptor too, as `originalMediaDesc`.
    """
    return {
        **stored,
        "mediaFiles": [_render_media_file(media, api_url, for_ops) for media in stored["mediaFiles"]],
    }


def _render_media_file(stored: dict[str, Any], api_url: str, for_ops: bool) -> dict[str, Any]:
    path = stored["mediaPath"]
    media = {**stored, "mediaUri": api_url + path, "playPath": path}
    descriptor = media.pop("mediaDescriptor")
    if for_ops:
        media["originalMediaDesc"] = descriptor
    return media
