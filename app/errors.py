"""Every error of the API: its HTTP status, its `statusCode` and its one sentence (docs/contract.md section 1)."""

from collections.abc import Mapping
from typing import Literal


class RecallError(Exception):
    """An answer other than success; `message` goes to the client, so it never quotes another system's words."""

    http_status = 500
    code = 4

    def __init__(self, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.headers = headers


class MissingParameter(RecallError):
    """A required parameter or attribute is absent: 400, code 1."""

    http_status, code = 400, 1

    def __init__(self, name: str, why: str = "") -> None:
        super().__init__(f"Parameter '{name}' is missing{': ' if why else ''}{why}")
        self.parameter = name


class InvalidParameter(RecallError):
    """A parameter or attribute (by its path, `mediaFiles[0].startTime`) has a wrong value: 400, code 2."""

    http_status, code = 400, 2

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"Parameter '{name}' is invalid: {why}")
        self.parameter = name


class MethodNotAllowed(RecallError):
    """405, code 2; `allow` lists the methods of the path."""

    http_status, code = 405, 2

    def __init__(self, allow: str) -> None:
        super().__init__(f"The method is not allowed here; allowed are {allow}.", {"Allow": allow})


class BodyTooLarge(RecallError):
    """413, code 2."""

    http_status, code = 413, 2

    def __init__(self, limit: int) -> None:
        super().__init__(f"The request body is larger than {limit} bytes.")


class LineTooLarge(RecallError):
    """One line of many is larger than a recording may be posted: 413, code 2."""

    http_status, code = 413, 2

    def __init__(self, limit: int) -> None:
        super().__init__(f"The line is larger than {limit} bytes.")


class SearchTooLarge(RecallError):
    """More wildcards than this Elasticsearch can look for in one search: 400, code 2."""

    http_status, code = 400, 2

    def __init__(self) -> None:
        super().__init__("The words with a wildcard (*) inside are too long together for one search.")


class RecordingTooLarge(RecallError):
    """Updates would make a recording larger than is allowed: 413, code 2."""

    http_status, code = 413, 2

    def __init__(self, recording_id: str, limit: str) -> None:
        super().__init__(f"Recording [{recording_id}] would have more than {limit} with this update.")


class RequestHeadTooLarge(RecallError):
    """A request line and headers that are too long: 431, code 2."""

    http_status, code = 431, 2

    def __init__(self, limit: int) -> None:
        super().__init__(f"The request line and headers are larger than {limit} bytes.")


class TooManyHeaders(RecallError):
    """431, code 2."""

    http_status, code = 431, 2

    def __init__(self) -> None:
        super().__init__("The request has too many headers.")


class RequestTimeout(RecallError):
    """A request that the client does not send to its end: 408, code 2."""

    http_status, code = 408, 2

    def __init__(self) -> None:
        super().__init__("The request did not arrive in time.")


class ConnectionsExhausted(RecallError):
    """As many connections as are allowed are in use: 503, code 4."""

    http_status, code = 503, 4

    def __init__(self) -> None:
        super().__init__("The server has too many connections at the moment - please try again.", {"Retry-After": "2"})


class UnsupportedMediaType(RecallError):
    """415, code 2."""

    http_status, code = 415, 2


class NotAuthenticated(RecallError):
    """No or wrong credentials: 401, code 20, always the same sentence."""

    http_status, code = 401, 20

    def __init__(self, headers: Mapping[str, str] | None = None) -> None:
        challenge = {"WWW-Authenticate": 'Basic realm="Recall", charset="UTF-8"'}
        super().__init__("Not authenticated.", challenge if headers is None else headers)


class SignedOut(NotAuthenticated):
    """No session, or one that is over. Without the header that makes a browser ask for a password by itself."""

    def __init__(self) -> None:
        super().__init__({})


class TooManyAttempts(RecallError):
    """Too many attempts to authenticate are waiting, so this one was not verified: 429, code 20."""

    http_status, code = 429, 20

    def __init__(self, retry_after: int) -> None:
        super().__init__("Too many attempts - please try again.", {"Retry-After": str(retry_after)})


class InsufficientRole(RecallError):
    """403, code 5."""

    http_status, code = 403, 5

    def __init__(self) -> None:
        super().__init__("Insufficient user roles.")


class InsufficientPermissions(RecallError):
    """403, code 3."""

    http_status, code = 403, 3

    def __init__(self) -> None:
        super().__init__("Insufficient recording permissions.")


class ForeignOrigin(RecallError):
    """A change of state that a page of another origin asks for: 403, code 3."""

    http_status, code = 403, 3

    def __init__(self) -> None:
        super().__init__("Requests from other origins are not allowed.")


class RecordingNotFound(RecallError):
    """No such recording for this user: 404, code 6."""

    http_status, code = 404, 6

    def __init__(self, recording_id: str) -> None:
        super().__init__(f"Requested recording [{recording_id}] cannot be found.")


class RecordingProtected(RecallError):
    """A recording that may not be deleted: 403, code 3."""

    http_status, code = 403, 3

    def __init__(self, recording_id: str) -> None:
        super().__init__(f"Requested recording [{recording_id}] is protected from deletion.")


class LabelDefinitionNotFound(RecallError):
    """No such label definition in the contact center: 404, code 6."""

    http_status, code = 404, 6

    def __init__(self, name: str) -> None:
        super().__init__(f"Requested label definition [{name}] cannot be found.")


class LabelDefinitionExists(RecallError):
    """The contact center has a label definition of this name: 409, code 18."""

    http_status, code = 409, 18

    def __init__(self, name: str) -> None:
        super().__init__(f"Label definition [{name}] already exists.")


class DisplayNameExists(RecallError):
    """Another label definition of the contact center has this display name: 409, code 18."""

    http_status, code = 409, 18

    def __init__(self, display_name: str) -> None:
        super().__init__(f"A label definition with the displayName [{display_name}] already exists.")


class TooManyLabelDefinitions(RecallError):
    """The contact center has as many label definitions as are allowed: 409, code 19."""

    http_status, code = 409, 19

    def __init__(self, limit: int) -> None:
        super().__init__(f"Each of the {limit} label definitions that a contact center may have is in use.")


class LabelInUse(RecallError):
    """A label definition whose label recordings carry: 409, code 19."""

    http_status, code = 409, 19

    def __init__(self, name: str) -> None:
        super().__init__(f"Label definition [{name}] is in use.")


class LabelNotFound(RecallError):
    """The recording has no such label: 404, code 6."""

    http_status, code = 404, 6

    def __init__(self, name: str) -> None:
        super().__init__(f"Requested label [{name}] cannot be found.")


class TooManyLabels(RecallError):
    """The recording has as many labels as are allowed: 409, code 19."""

    http_status, code = 409, 19

    def __init__(self, limit: int) -> None:
        super().__init__(f"Each of the {limit} labels that a recording may have is in use.")


class OperationNotFound(RecallError):
    """No such operation on many recordings for this user: 404, code 6."""

    http_status, code = 404, 6

    def __init__(self, operation_id: str) -> None:
        super().__init__(f"Requested operation [{operation_id}] cannot be found.")


class RecordingChanged(RecallError):
    """An interrupted operation cannot tell what it has done from what others did after it: 409, code 19."""

    http_status, code = 409, 19

    def __init__(self, recording_id: str) -> None:
        super().__init__(
            f"Recording [{recording_id}] was changed while the operation was interrupted, so it is left: it is in use."
        )


class MediaLeft(RecallError):
    """A recording of many is deleted, but not yet all of its media objects: 200, code 7."""

    http_status, code = 200, 7

    def __init__(self, recording_id: str, objects: int) -> None:
        super().__init__(
            f"Recording [{recording_id}] is deleted; {objects} of its media objects are deleted later, by themselves."
        )


class MediaNotFound(RecallError):
    """No such media file in the recording, or no such object in its storage: 404, code 6."""

    http_status, code = 404, 6

    def __init__(self, name: str) -> None:
        super().__init__(f"Requested media [{name}] cannot be found.")


class RangeNotSatisfiable(RecallError):
    """A range of which the media file, of `length` bytes, has no part: 416, code 2."""

    http_status, code = 416, 2

    def __init__(self, length: int) -> None:
        super().__init__(
            "Parameter 'Range' is invalid: the media file has no part of it", {"Content-Range": f"bytes */{length}"}
        )


class PreconditionFailed(RecallError):
    """The media file is not the one that If-Match or If-Unmodified-Since names: 412, code 2."""

    http_status, code = 412, 2

    def __init__(self) -> None:
        super().__init__("The media file is not the one that If-Match or If-Unmodified-Since names.")


class ResourceNotFound(RecallError):
    """No such path: 404, code 6."""

    http_status, code = 404, 6

    def __init__(self) -> None:
        super().__init__("Requested resource cannot be found.")


class AuditNotSearchable(RecallError):
    """The configuration keeps the audit log out of the index: 404, code 6."""

    http_status, code = 404, 6

    def __init__(self) -> None:
        super().__init__("The audit log cannot be searched: this service does not index it.")


class ElasticsearchUnavailable(RecallError):
    """Elasticsearch is away, overloaded, or too slow: 503, code 4. Asking again is safe."""

    http_status, code = 503, 4

    def __init__(self) -> None:
        super().__init__("The recording store is not available at the moment - please try again.", {"Retry-After": "2"})


class ShareInUse(RecallError):
    """`what` (searches, streams) a user, a contact center or the service may have is in flight: 429 or 503, code 4."""

    def __init__(self, what: str, share: Literal["user", "contact center", "service"]) -> None:
        whose = "service can have in flight" if share == "service" else f"{share} may have in flight"
        super().__init__(f"The {what} that the {whose} are in use - please try again.", {"Retry-After": "2"})
        self.http_status = 503 if share == "service" else 429


class MediaBeingDeleted(RecallError):
    """A deletion that began before may delete a media object of the recording: 503, code 4. Asking again is safe."""

    http_status, code = 503, 4

    def __init__(self) -> None:
        super().__init__(
            "A media object of the recording is being deleted at the moment - please try again.", {"Retry-After": "2"}
        )


class MediaStorageRefused(RecallError):
    """A media file outside the configured storage: 502, code 4."""

    http_status, code = 502, 4

    def __init__(self) -> None:
        super().__init__("The media file is not in a configured media storage.")


class MediaStorageFailed(RecallError):
    """A media storage cannot be reached, or answers what it should not: 502, code 4. `reason` is for the log."""

    http_status, code = 502, 4

    def __init__(self, reason: str = "") -> None:
        super().__init__("The media storage failed.")
        self.reason = reason


class OtherMediaObject(MediaStorageFailed):
    """A media storage answers with another object than the one that the name stands for, so that one is missing."""


class MediaStorageTimeout(RecallError):
    """A media storage takes too long: 504, code 4. `reason` is for the log."""

    http_status, code = 504, 4

    def __init__(self, reason: str = "") -> None:
        super().__init__("The media storage did not answer in time.")
        self.reason = reason


class MediaStorageBusy(RecallError):
    """A media storage has as many streams as are allowed, or asks for a pause: 503, code 4."""

    http_status, code = 503, 4

    def __init__(self) -> None:
        super().__init__("The media storage is busy - please try again.", {"Retry-After": "5"})


class InternalError(RecallError):
    """Anything that should not happen: 500, code 4. The log has the details."""

    def __init__(self) -> None:
        super().__init__("Internal server error - please contact administrator.")
