"""The stored form of a recording as JSON text, and what a client reads made from it without decoding it.

The text is plain JSON, but marked: three line feeds divide each media file, and stand nowhere else. The encoder writes
none, and escapes those inside strings, so no client can post one (docs/decisions/0024-pages-as-text.md):

    {…,"mediaFiles":[{…⏎,"mediaDescriptor":{…},"mediaPath":⏎"/recordings/…"⏎},{…⏎…⏎…⏎}],…}
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from app import codec
from app.recordings.model import Recording, without_computed
from app.recordings.render import MediaAddresses

_MARK = "\n"
_DESCRIPTOR = ',"mediaDescriptor":'
_PATH = ',"mediaPath":'
_PROTECTED = ',"nonDelete":true}'


def to_text(recording: Recording) -> str:
    """Returns the text of a recording in its stored form. What the service adds stands last in its object."""
    marked = {key: value for key, value in recording.items() if key != "nonDelete"}
    marked["mediaFiles"] = [msgspec.Raw(_media_file(media)) for media in recording["mediaFiles"]]
    if recording.get("nonDelete"):
        marked["nonDelete"] = True
    return codec.encode(marked).decode()


def from_text(text: str) -> Recording:
    """Returns the recording in its stored form, from a text of `to_text` or of a version that marked none."""
    recording: Recording = codec.decode(text)
    return recording if _MARK in text else without_computed(recording)


def marked(text: str) -> str:
    """Returns the text as `to_text` makes it; former versions stored texts without marks."""
    return text if _MARK in text else to_text(from_text(text))


def is_protected(text: str) -> bool:
    """Returns whether a marked text is that of a protected recording.

    A string holds no quote without a backslash before it, and the last brace is that of the recording. So this is an
    attribute of the recording itself, and `app.recordings.model` ignores a posted one.
    """
    return text.endswith(_PROTECTED)


class TextRenderer:
    """Does what `app.recordings.render.render` does, for marked texts and for clients who see every media file."""

    def __init__(self, addresses: MediaAddresses) -> None:
        self._addresses = addresses
        self._base = _inside_quotes(addresses.base)
        self._prefix = _inside_quotes(addresses.prefix)
        self._keeps_paths = not addresses.prefix and addresses.verb == "play"

    def render(self, text: str, state: Mapping[str, Any]) -> bytes:
        """Returns the JSON of the recording as the client sees it, with the attributes of its state."""
        parts = text.split(_MARK)
        for i in range(1, len(parts) - 1, 3):
            path = parts[i + 1] if self._keeps_paths else self._path(parts[i + 1])
            descriptors = self._descriptors(parts[i]) if self._addresses.descriptors else ""
            parts[i] = f'{descriptors},"mediaUri":"{self._base}{path[1:]},"mediaPath":{path},"playPath":'
            parts[i + 1] = path
        if state:
            parts[-1] = f"{parts[-1][:-1]},{codec.encode(state)[1:].decode()}"
        return "".join(parts).encode()

    def _descriptors(self, stored: str) -> str:
        descriptor = stored[len(_DESCRIPTOR) : -len(_PATH)]
        return f',"originalMediaDesc":{descriptor},"originalMediaDescriptor":{descriptor}'

    def _path(self, stored: str) -> str:
        recording, _, name = stored.rpartition("/play/")
        return f'"{self._prefix}{recording[1:]}/{self._addresses.verb}/{name}'


def _media_file(media: Mapping[str, Any]) -> bytes:
    others = {key: value for key, value in media.items() if key not in {"mediaDescriptor", "mediaPath"}}
    descriptor, path = codec.encode(media["mediaDescriptor"]), codec.encode(media["mediaPath"])
    return b'%b\n,"mediaDescriptor":%b,"mediaPath":\n%b\n}' % (codec.encode(others)[:-1], descriptor, path)


def _inside_quotes(text: str) -> str:
    return codec.encode(text)[1:-1].decode()
