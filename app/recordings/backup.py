"""The format of a backup: which folder and file has what (docs/decisions/0036-backup.md). No I/O here.

=contents.json                                        the lists of days, so that a day that is missing is found
{contact center}/{tenant}/{yyyy-mm-dd}.json           the folders of one day
{contact center}/{tenant}/{yyyy-mm-dd}/{id}/          one recording; a screen recording has `=screen` at its end
    recording.json, {uuid}.{ext} of each media file
    manifest.json                                     the size and SHA-256 of each; written last
{contact center}/{tenant}/{yyyy-mm-dd}.zip            the folders of a day that is over, if zips are wanted
"""

import re
from functools import lru_cache
from hashlib import sha256
from typing import TypeVar

import msgspec

from app import codec
from app.errors import RecallError
from app.recordings.identity import Resource
from app.recordings.labels import Label, LabelDefinition
from app.recordings.merge import merge
from app.recordings.model import Recording, parse_recording

FORMAT = 1

CONTENTS = "=contents.json"
RECORDING = "recording.json"
MANIFEST = "manifest.json"

# What marks the folder of a screen recording, and divides a shortened name from its digest. No encoded name holds
# either: after an equals sign it has two hexadecimal digits.
_SCREEN = "=screen"
_SHORTENED = "=sha256-"

# A file name has at most 255 bytes almost everywhere.
_LONGEST_NAME = 200
_KEPT_OF_LONG_NAME = 100

_NO_TENANT = "_"
_PLAIN = re.compile(r"[a-z0-9_](?:[a-z0-9._-]*[a-z0-9_-])?")
_UNSAFE = re.compile(r"[^a-z0-9._-]|^[.-]|\.\Z")
_MEDIA_NAME = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\.[A-Za-z0-9]{1,10}")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


F = TypeVar("F", "Manifest", "NameList", "ArchivedRecording")


class Malformed(ValueError):
    """A file of a backup that is not what it should be; the text says why."""


# --- Names --------------------------------------------------------------------------------------------------


@lru_cache(1_000)
def encode_name(text: str) -> str:
    """Returns a file name for an id: different for different ids, also where letter case does not matter.

    What is neither a small letter, a digit, nor one of `. _ -` becomes `=` and two hexadecimal digits for each byte of
    UTF-8. So do a dot at either end and a hyphen at the beginning. A long name ends with the digest of the id.
    """
    if len(text) <= _LONGEST_NAME and _PLAIN.fullmatch(text):
        return text
    name = _UNSAFE.sub(lambda match: "".join(f"={byte:02x}" for byte in match[0].encode(errors="surrogatepass")), text)
    if len(name) <= _LONGEST_NAME:
        return name
    digest = sha256(text.encode(errors="surrogatepass")).hexdigest()
    return f"{name[:_KEPT_OF_LONG_NAME]}{_SHORTENED}{digest}"


def day_of(contact_center: str, recording: Recording) -> str:
    """Returns the folder of a recording's day: that of its start time in UTC, in the tenant of its first media file."""
    tenants = (media.get("tenant") for media in recording["mediaFiles"])
    tenant = next((encode_name(tenant) for tenant in tenants if tenant), _NO_TENANT)
    return f"{encode_name(contact_center)}/{tenant}/{recording['startTime'][:10]}"


def folder_name(resource: Resource, recording_id: str) -> str:
    """Returns the name of a recording's folder in that of its day."""
    return encode_name(recording_id) + (_SCREEN if resource == "screen-recordings" else "")


def folder_of(resource: Resource, contact_center: str, recording: Recording) -> str:
    """Returns the path of a recording's folder."""
    return f"{day_of(contact_center, recording)}/{folder_name(resource, recording['id'])}"


def is_day(name: str) -> bool:
    """Returns whether a name is that of the folder of a day."""
    return bool(_DAY.fullmatch(name))


# --- Lists and manifests ------------------------------------------------------------------------------------


class FileEntry(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A file of a backup. What follows the digest is what the storage told of the media object, as in HTTP."""

    size: int
    sha256: str
    etag: str = ""
    last_modified: str = ""
    content_type: str = ""
    content_encoding: str = ""


class Manifest(msgspec.Struct, frozen=True, rename="camel"):
    """The manifest of one recording. `not_copied` are the media files that could not be read, and why."""

    resource: Resource
    contact_center: str
    region: str
    id: str
    files: dict[str, FileEntry]
    not_copied: dict[str, str] = {}
    format: int = FORMAT

    def is_of(self, resource: Resource, contact_center: str, region: str, recording_id: str) -> bool:
        return (self.resource, self.contact_center, self.region, self.id) == (
            resource,
            contact_center,
            region,
            recording_id,
        )


class NameList(msgspec.Struct, frozen=True, rename="camel"):
    """The names of the recordings' folders of a day; or the paths of all days, in `=contents.json`."""

    names: list[str]
    format: int = FORMAT


def parse_manifest(content: bytes, folder: str) -> Manifest:
    """Returns the manifest in a recording's folder; raises Malformed.

    A manifest names nothing outside its folder, and only what a backup writes.
    """
    manifest = _decoded(content, Manifest)
    contact_center, _, _, name = folder.split("/")
    expected = encode_name(manifest.contact_center), folder_name(manifest.resource, manifest.id)
    if (contact_center, name) != expected:
        raise Malformed("it is the manifest of another recording")
    if RECORDING not in manifest.files:
        raise Malformed(f"it does not name {RECORDING}")
    for file in {*manifest.files, *manifest.not_copied} - {RECORDING}:
        if not _MEDIA_NAME.fullmatch(file):
            raise Malformed(f"it names {file!r}, which is no file of a backup")
    return manifest


def parse_names(content: bytes) -> list[str]:
    """Returns the names in a list; raises Malformed."""
    return _decoded(content, NameList).names


def encode(file: msgspec.Struct) -> bytes:
    """Returns the content of a file of a backup: JSON with two spaces of indentation, or on one line if it is large."""
    return msgspec.json.format(msgspec.json.encode(file), indent=1) + b"\n"


# --- A recording --------------------------------------------------------------------------------------------


class ArchivedLabel(msgspec.Struct, frozen=True, rename="camel"):
    """See `app.recordings.labels.Label`."""

    name: str
    display_name: str
    by: str
    at: int
    given: str
    comment: str = ""

    def label(self) -> Label:
        return Label(self.name, self.display_name, self.by, self.at, self.given, self.comment)


class ArchivedDefinition(msgspec.Struct, frozen=True, rename="camel"):
    """The definition of a label that the recording has."""

    name: str
    display_name: str
    description: str = ""

    def definition(self) -> LabelDefinition:
        return LabelDefinition(self.name, self.display_name, self.description)


class Reference(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Another recording: its document in Elasticsearch, with region and id unless it is gone."""

    document: str
    region: str | None = None
    id: str | None = None


class ArchivedHold(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """See `app.store.documents.Hold`."""

    holder: Reference
    decided_at: int
    change_id: str
    protects: bool
    by: str = ""
    reason: str | None = None
    since: int = 0


class ArchivedProtection(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """See `app.store.documents.ProtectionChange`. `taken` are those that have yet to follow, too."""

    decided_at: int
    change_id: str
    by: str = ""
    reason: str | None = None
    since: int = 0
    taken: list[Reference] = []
    holders: list[ArchivedHold] = []


class ArchivedVersion(msgspec.Struct, frozen=True, rename="camel"):
    """A former version of a protected recording, oldest first; `recording` is in its stored form."""

    at: int
    by: str
    recording: msgspec.Raw


class ArchivedRecording(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """The content of recording.json: a recording as ops reads it, and what the API does not take back in a POST."""

    format: int
    resource: Resource
    contact_center: str
    region: str
    recording: msgspec.Raw
    labels: list[ArchivedLabel] | None = None
    label_definitions: list[ArchivedDefinition] = []
    protection: ArchivedProtection | None = None
    versions: list[ArchivedVersion] = []


def parse_archived(content: bytes, manifest: Manifest) -> tuple[ArchivedRecording, Recording]:
    """Returns the content of a recording.json, and the recording in its stored form; raises Malformed."""
    archived = _decoded(content, ArchivedRecording)
    recording = _stored_form(archived)
    if not manifest.is_of(archived.resource, archived.contact_center, archived.region, recording["id"]):
        raise Malformed("it is the recording of another manifest")
    return archived, recording


def _stored_form(archived: ArchivedRecording) -> Recording:
    """Returns the recording without what only a reader gets; raises Malformed if nobody could have posted it."""
    try:
        shown = codec.decode(bytes(archived.recording))
        media_files = [
            {**media, "mediaDescriptor": media["originalMediaDescriptor"]} for media in shown.pop("mediaFiles")
        ]
        parsed = parse_recording({**shown, "mediaFiles": media_files}, archived.resource, needs_events=False)
        computed = merge(None, parsed)
        for version in archived.versions:
            parse_recording(codec.decode(bytes(version.recording)), archived.resource, needs_events=False)
    except (RecallError, ValueError, RecursionError, TypeError, KeyError, AttributeError) as error:
        raise Malformed(f"its recording is invalid: {error}") from None
    if computed["region"] != archived.region:
        raise Malformed("its region is that of another recording")
    # In the order of the attributes in which it was stored, so that it reads the same byte for byte.
    recording = {key: computed[key] for key in codec.decode(bytes(archived.recording)) if key in computed}
    return recording | {"nonDelete": True} if shown.get("nonDelete") is True else recording


def _decoded(content: bytes, type_: type[F]) -> F:
    """Raises Malformed."""
    try:
        decoded = msgspec.json.decode(content, type=type_)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"it cannot be read: {error}") from None
    if decoded.format != FORMAT:
        raise Malformed(f"it has the format {decoded.format}, and this version knows {FORMAT}")
    return decoded
