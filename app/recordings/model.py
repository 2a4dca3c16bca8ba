"""What a recording is: the rules for what a client posts, and its stored form.

A recording is a JSON object (docs/contract.md section 4 and the tables of "Recording Access"). In its stored
form the dates of media files and events are in UTC, and each media file has its `mediaPath` beside its
`mediaDescriptor`.
"""

from typing import Any

from app.errors import InvalidParameter, MediaNotFound, MissingParameter
from app.folding import fold_number
from app.ids import id_error
from app.recordings.dates import normalise_date
from app.recordings.identity import Resource, is_http_url, media_name, media_path, storage_folder

Recording = dict[str, Any]

# The service computes these attributes, so it ignores posted ones: a client may post back what it has read.
_COMPUTED_STATE = ("nonDeletion", "labels")
_COMPUTED_ATTRIBUTES = ("startTime", "stopTime", "nonDelete", *_COMPUTED_STATE)
_COMPUTED_MEDIA_ATTRIBUTES = ("mediaUri", "mediaPath", "playPath", "originalMediaDesc", "originalMediaDescriptor")


def parse_recording(body: object, resource: Resource = "recordings", *, needs_events: bool = True) -> Recording:
    """Checks a posted recording or screen recording and returns its stored form.

    The same rules hold for both, but a screen recording's media file needs no `callUUID`. Attributes without a rule
    stay as they came. Only with `needs_events` the `eventHistory` must not be empty.
    Raises MissingParameter or InvalidParameter with the path of the first attribute that breaks a rule.
    """
    fields = _Fields(body)
    fields.require_trimmed("id")
    recording_id = fields.attributes["id"]
    validate_id("id", recording_id)
    fields.require_numbers("callerPhoneNumber", "dialedPhoneNumber")
    fields.require_trimmed("region")
    recording = {key: value for key, value in fields.attributes.items() if key not in _COMPUTED_ATTRIBUTES}
    recording["mediaFiles"] = [
        _parse_media_file(resource, recording_id, media) for media in fields.require_objects("mediaFiles")
    ]
    recording["eventHistory"] = [
        _parse_event(event) for event in fields.require_objects("eventHistory", not_empty=needs_events)
    ]
    return recording


def without_computed(recording: Recording) -> Recording:
    """Returns a recording in its stored form without the attributes that 0.1.0 kept, and that are the service's now."""
    kept = {key: value for key, value in recording.items() if key not in _COMPUTED_STATE}
    kept["mediaFiles"] = [
        {key: value for key, value in media.items() if key == "mediaPath" or key not in _COMPUTED_MEDIA_ATTRIBUTES}
        for media in recording["mediaFiles"]
    ]
    return kept


def validate_id(name: str, value: str) -> None:
    """Raises InvalidParameter for the parameter `name` when its value is no valid id (docs/contract.md section 3)."""
    if why := id_error(value):
        raise InvalidParameter(name, why)


def media_file_named(recording: Recording, name: str) -> dict[str, Any]:
    """Returns the media file with this `{uuid}.{ext}`; raises MediaNotFound."""
    for media in recording["mediaFiles"]:
        if media_name(media) == name:
            found: dict[str, Any] = media
            return found
    raise MediaNotFound(name)


class _Fields:
    """The attributes of one JSON object, read by rule; an error names the path of the attribute."""

    __slots__ = ("_name", "_parent", "attributes")

    def __init__(self, value: object, parent: "_Fields | None" = None, name: str = "") -> None:
        """`name` is what the object is called in its parent."""
        if not isinstance(value, dict):
            raise InvalidParameter(parent.path(name) if parent else "body", "it must be a JSON object")
        self.attributes: dict[str, Any] = value
        self._parent = parent
        self._name = name

    def path(self, key: str) -> str:
        return f"{self._parent.path(self._name)}.{key}" if self._parent else key

    def invalid(self, key: str, why: str) -> InvalidParameter:
        return InvalidParameter(self.path(key), why)

    def require(self, key: str) -> Any:
        if key not in self.attributes:
            raise MissingParameter(self.path(key))
        return self.attributes[key]

    def require_trimmed(self, *keys: str) -> None:
        """Required strings, not empty, without leading or trailing white space."""
        for key in keys:
            value = self.attributes.get(key)
            if not isinstance(value, str) or not value or value != value.strip():
                self.require(key)
                raise self.invalid(key, "it must be a non-empty string without leading or trailing white space")

    def require_numbers(self, *keys: str) -> None:
        """Required phone numbers: of one with invisible characters only, nothing would be left to search for."""
        self.require_trimmed(*keys)
        for key in keys:
            if not fold_number(self.attributes[key]):
                raise self.invalid(key, "it must have characters other than invisible ones")

    def require_one_of(self, key: str, *allowed: str) -> str:
        value = self.require(key)
        if value not in allowed:
            raise self.invalid(key, f"it must be {' or '.join(allowed)}")
        return str(value)

    def require_date(self, key: str) -> str:
        """A required date, in the form in which dates are returned."""
        value = self.require(key)
        if not isinstance(value, str):
            raise self.invalid(key, "it must be a date, as a string")
        try:
            return normalise_date(value)
        except ValueError as error:
            raise self.invalid(key, str(error)) from None

    def require_object(self, key: str) -> "_Fields":
        return _Fields(self.require(key), self, key)

    def require_objects(self, key: str, *, not_empty: bool = True) -> list["_Fields"]:
        """A required array of objects."""
        values = self.require(key)
        if not isinstance(values, list) or (not_empty and not values):
            raise self.invalid(key, f"it must be {'a non-empty' if not_empty else 'an'} array of JSON objects")
        return [_Fields(value, self, f"{key}[{i}]") for i, value in enumerate(values)]

    # Optional attributes may be absent or null.

    def check_optional_text(self, *keys: str) -> None:
        for key in keys:
            value = self.attributes.get(key)
            if value is not None and not isinstance(value, str):
                raise self.invalid(key, "it must be a string")

    def check_optional_map(self, key: str) -> None:
        value = self.attributes.get(key)
        if value is not None and not isinstance(value, dict):
            raise self.invalid(key, "it must be a JSON object")

    def check_optional_array(self, key: str, of: type, described: str) -> None:
        values = self.attributes.get(key)
        if values is not None and not (isinstance(values, list) and all(isinstance(v, of) for v in values)):
            raise self.invalid(key, f"it must be an array of {described}")


def _parse_media_file(resource: Resource, recording_id: str, fields: _Fields) -> dict[str, Any]:
    _check_media_descriptor(fields.require_object("mediaDescriptor"))
    if resource == "recordings" or fields.attributes.get("callUUID") is not None:
        fields.require_trimmed("callUUID")
    fields.check_optional_text("mediaId", "type", "duration", "size", "tenant", "ivrprofile", "pkcs7")
    fields.check_optional_map("parameters")
    fields.check_optional_array("masks", dict, "JSON objects")
    for key in ("certAlias", "partitions", "accessgroup", "accessgroups"):
        fields.check_optional_array(key, str, "strings")
    media = {k: value for k, value in fields.attributes.items() if k not in _COMPUTED_MEDIA_ATTRIBUTES}
    media["startTime"] = fields.require_date("startTime")
    media["stopTime"] = fields.require_date("stopTime")
    media["mediaPath"] = media_path(resource, recording_id, media)
    return media


def _check_media_descriptor(fields: _Fields) -> None:
    storage = fields.require_one_of("storage", "awsS3", "webDAV")
    path = fields.require("path")
    if not isinstance(path, str) or not path:
        raise fields.invalid("path", "it must be a non-empty string")
    if storage == "webDAV" and not is_http_url(path):
        folder = storage_folder(fields.attributes)
        if folder is None:
            raise fields.invalid("path", "it must be an http or https URL, or a name in the folder data.storagePath")
        if not is_http_url(folder):
            raise fields.require_object("data").invalid("storagePath", "it must be an http or https URL")
    if storage == "awsS3":
        fields.require_object("data").require_trimmed("bucket")
    fields.check_optional_text("storage_version")
    if fields.attributes.get("storage_version") == "":
        raise fields.invalid("storage_version", "it must be a non-empty string")
    fields.check_optional_map("auth")
    fields.check_optional_map("data")


def _parse_event(fields: _Fields) -> dict[str, Any]:
    event = {**fields.attributes, "occurredAt": fields.require_date("occurredAt")}
    fields.require_one_of("event", "Joined", "Left")
    contact = fields.require_object("contact")
    contact.require_numbers("phoneNumber")
    is_user = contact.require_one_of("type", "User", "External") == "User"
    names = ("userName", "firstName", "lastName")
    if is_user:
        contact.require_trimmed(*names)
    else:
        contact.check_optional_text(*names)
    fields.check_optional_map("data")
    return event
