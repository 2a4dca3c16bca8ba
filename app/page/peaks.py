"""The waveform of a media file: what of its sound can be drawn (docs/decisions/0033-waveforms.md)."""

import re
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from app.api.requests import owner_of, path_segment, query_parameters, repository, scope_of, services
from app.api.responses import envelope
from app.errors import InvalidParameter
from app.media.location import LocationNotAllowed, resolve_location
from app.media.response import unless_client_leaves
from app.media.waveform import NoPeaks, Part, Peaks
from app.recordings.model import media_file_named

_SECONDS = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?", re.ASCII)


async def peaks(request: Request) -> Response:
    """`GET /ui/api/recordings/{id}/peaks/{name}[?from=SECONDS&to=SECONDS]`, screen recordings alike.

    Who may play a media file may ask. That there is no waveform is an answer as well, with the reason. It leaves no
    audit line, because nobody can hear it.
    """
    part, name, scope = _part(query_parameters(request)), path_segment(request, "name"), scope_of(request)
    recording = scope.visible((await repository(request).get(scope, path_segment(request, "id"))).recording)
    media = media_file_named(recording, name)
    try:
        found = await unless_client_leaves(request.receive, _peaks(request, media, name, part))
    except NoPeaks as why:
        return envelope({"peaks": None, "reason": why.reason, "message": str(why)})
    channels = [[*channel] for channel in found.channels]
    return envelope({"peaks": {"from": found.start, "to": found.end, "duration": found.duration, "channels": channels}})


async def _peaks(request: Request, media: Mapping[str, Any], name: str, part: Part) -> Peaks:
    if is_encrypted(media):
        raise NoPeaks("encrypted")
    try:
        location = resolve_location(media["mediaDescriptor"], services(request).settings.storage)
    except LocationNotAllowed as error:
        raise NoPeaks("storage") from error
    return await services(request).waveforms.peaks(owner_of(request), location, name, part)


def is_encrypted(media: Mapping[str, Any]) -> bool:
    """Returns whether a recorder has encrypted the file, for whom only players of its own have a key."""
    return bool(media.get("pkcs7") or media.get("certAlias"))


def _part(parameters: list[tuple[str, str]]) -> Part:
    """Returns which seconds are asked for; raises InvalidParameter."""
    values: dict[str, float] = {}
    for name, value in parameters:
        if name not in {"from", "to"}:
            raise InvalidParameter(name, "it is not known; known are from, to")
        if name in values:
            raise InvalidParameter(name, "it is given more than once")
        if not _SECONDS.fullmatch(value):
            raise InvalidParameter(name, "it must be a number of seconds such as 12.5")
        values[name] = float(value)
    part = Part(values.get("from", Part().start), values.get("to", Part().end))
    if part.end <= part.start:
        raise InvalidParameter("to", "it must be greater than from")
    return part
