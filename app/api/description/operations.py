"""The descriptions of all methods of the route table, one row a method: purpose, parameters, body, answers, errors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app import errors
from app.api.audit_search import CRITERIA as AUDIT_CRITERIA
from app.api.description.schemas import DATE, Schema, array, objects, ref
from app.errors import RecallError
from app.recordings.identity import Resource
from app.search.criteria import CRITERIA

Errors = tuple[type[RecallError], ...]


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A parameter of the query, or a header of the request."""

    name: str
    description: str
    schema: Schema
    place: str = "query"
    example: Any = None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer other than an error. `content` is None for a body of bytes.

    What `has_data` may not be kept by caches.
    """

    description: str
    content: Schema | None
    media_types: tuple[str, ...] = ("application/json",)
    headers: Mapping[str, str] = field(default_factory=dict)
    is_empty: bool = False
    has_data: bool = True


@dataclass(frozen=True, kw_only=True)
class Described:
    """A method of a path. `errors` are those beside the ones of every method (`document.py`).

    `body` is JSON, and `lines` are the same as one JSON object a line, where a client may choose.
    """

    summary: str
    description: str = ""
    parameters: Sequence[Parameter] = ()
    body: Schema | None = None
    lines: Schema | None = None
    answers: Mapping[int, Answer]
    errors: Errors = ()


def succeeded(description: str, properties: Mapping[str, Schema] | None = None, required: str = "") -> Answer:
    """Returns a success in the envelope; all attributes are required unless `required` names those that are."""
    properties = properties or {}
    names = required.split() if required else list(properties)
    return Answer(
        description=description,
        content={**objects({"statusCode": {"const": 0}, **properties}), "required": ["statusCode", *names]},
    )


_STORE: Errors = (errors.ElasticsearchUnavailable,)
_FOUND: Errors = (errors.InvalidParameter, errors.RecordingNotFound)
_BODY: Errors = (
    errors.MissingParameter,
    errors.InvalidParameter,
    errors.BodyTooLarge,
    errors.UnsupportedMediaType,
)
_SHARE: Errors = (errors.ShareInUse,)
_STORAGE: Errors = (
    errors.MediaStorageRefused,
    errors.MediaStorageFailed,
    errors.MediaStorageTimeout,
    errors.MediaStorageBusy,
)

_PAGE = (
    Parameter(
        name="offset",
        description="The index of the first recording; beyond 10,000 follow `nextUri` instead.",
        schema={"type": "integer", "minimum": 0, "default": 0},
    ),
    Parameter(
        name="limit",
        description="The size of the page.",
        schema={"type": "integer", "minimum": 1, "maximum": 100, "default": 100},
        example=20,
    ),
    Parameter(
        name="order",
        description="`newest` begins with the latest `startTime`, `oldest` is the exact reverse.",
        schema={"enum": ["newest", "oldest"], "default": "newest"},
    ),
    Parameter(
        name="total",
        description="`*` adds how many recordings match, counted up to 10,000.",
        schema={"const": "*"},
    ),
    Parameter(
        name="cursor",
        description="The place of a page; only links have it, beside `offset`.",
        schema={"type": "string"},
    ),
)
_LINKS = {
    "prevUri": {"type": "string", "format": "uri", "description": "The page before, if there is one."},
    "nextUri": {"type": "string", "format": "uri", "description": "The page after, if there is one."},
}


_TOTAL: Mapping[str, Schema] = {
    "total": {"type": "integer", "minimum": 0, "maximum": 10_000, "description": "How many match, with `total=*`."},
    "totalIsExact": {"type": "boolean", "description": "Whether `total` is not only the least that it may be."},
}


def _searching(resource: Resource, what: str, key: str, schema: str) -> Described:
    criteria = tuple(
        Parameter(
            name=criterion.name,
            description=f"Finds {what} {criterion.help}.",
            schema={"type": "string", "minLength": 1},
            example=criterion.example,
        )
        for criterion in CRITERIA
        if resource in criterion.resources
    )
    return Described(
        summary=f"Search {what}",
        description=(
            "At least one criterion is needed, and all of them must hold. Newest `startTime` first, then by `id`."
        ),
        parameters=(*criteria, *_PAGE),
        answers={
            200: succeeded(
                "A page; it may hold fewer than `limit`, and `nextUri` tells whether more follow.",
                {key: array(ref(schema)), **_LINKS, **_TOTAL},
                required=key,
            )
        },
        errors=(errors.MissingParameter, errors.InvalidParameter, errors.SearchTooLarge, *_SHARE, *_STORE),
    )


def _reading(what: str, key: str, schema: str) -> Described:
    return Described(
        summary=f"Read a {what}",
        answers={200: succeeded(f"The {what}.", {key: ref(schema)})},
        errors=(*_FOUND, *_STORE),
    )


def _posting(what: str, schema: str, *, created: int) -> Described:
    stored = succeeded("It is stored.", {"id": {"type": "string"}, "uri": {"type": "string", "format": "uri"}})
    updated = Answer(
        description=(
            "It is stored. Or, of many lines, those that `failed` (with code 7) does not name. Or `createCRCF` had "
            "nothing to do."
        ),
        content={"anyOf": [stored.content, ref("StoredLines"), objects({"statusCode": {"const": 0}}, maxProperties=1)]},
    )
    answers = {200: updated} if created == 200 else {200: updated, created: stored}
    description = (
        "Scalars are replaced and unknown attributes merged by key. A media file replaces the one of the same "
        "identity, and an event the one of the same `occurredAt`, `event` and `contact.phoneNumber`. "
        "Else they are added."
    )
    return Described(
        summary=f"Create or update a {what}",
        description=description,
        parameters=(
            Parameter(
                name="refresh",
                description="`wait_for` answers when the recording can be searched.",
                schema={"const": "wait_for"},
            ),
        ),
        body=ref(schema),
        lines={"type": "string", "description": "One recording a line, up to 1,000 lines and 32 MiB."},
        answers=answers,
        errors=(*_BODY, errors.RecordingTooLarge, errors.MediaBeingDeleted, *_SHARE, *_STORE),
    )


_DELETED = {
    200: Answer(
        description="Deleted. With code 7, the media objects in `failed` are not deleted yet.",
        content=objects(
            {"statusCode": {"enum": [0, 7]}, "failed": array(ref("FailedMedia"))},
            required="statusCode",
        ),
    )
}


def _deleting(what: str) -> Described:
    return Described(
        summary=f"Delete a {what}",
        parameters=(
            Parameter(
                name="subresources",
                description="`*` deletes its media objects too.",
                schema={"type": "string"},
                example="*",
            ),
        ),
        answers=_DELETED,
        errors=(*_FOUND, errors.RecordingProtected, *_STORE),
    )


_MEDIA_HEADERS = {
    "Accept-Ranges": "As the storage gives it.",
    "Content-Length": "When it is known.",
    "ETag": "As the storage gives it.",
    "Last-Modified": "As the storage gives it.",
    "Content-Encoding": "As the storage gives it.",
    "Content-Disposition": "With `download`, and for what is neither audio nor video.",
}


def _playing(what: str) -> Described:
    def bytes_of(description: str, headers: Mapping[str, str]) -> Answer:
        return Answer(
            description=description,
            content=None,
            media_types=("application/octet-stream", "audio/*", "video/*"),
            headers=headers,
        )

    return Described(
        summary=f"Play a media file of a {what}",
        description="Streams the bytes. One range is supported.",
        parameters=(
            Parameter(
                name="download",
                description="Adds `Content-Disposition` with the `mediaId`.",
                schema={"type": "string"},
            ),
            *(
                Parameter(name=name, place="header", description=text, schema={"type": "string"}, example=example)
                for name, text, example in (
                    ("Range", "One range of bytes.", "bytes=0-99"),
                    ("If-Range", "An ETag or a date; the range holds only if the media file is still that one.", None),
                    ("If-Match", "ETags (RFC 9110).", None),
                    ("If-None-Match", "ETags (RFC 9110).", None),
                    ("If-Modified-Since", "A date (RFC 9110).", None),
                    ("If-Unmodified-Since", "A date (RFC 9110).", None),
                )
            ),
        ),
        answers={
            200: bytes_of("The whole media file.", _MEDIA_HEADERS),
            206: bytes_of("The range.", {**_MEDIA_HEADERS, "Content-Range": "Which bytes."}),
            304: Answer(
                description="It has not changed.",
                content=None,
                headers={"ETag": "As the storage gives it."},
                is_empty=True,
            ),
        },
        errors=(
            *_FOUND,
            errors.MediaNotFound,
            errors.PreconditionFailed,
            errors.RangeNotSatisfiable,
            *_SHARE,
            *_STORAGE,
            *_STORE,
        ),
    )


_EXPORTING = Described(
    summary="Export an evidence package of a recording",
    description=(
        "Streams a zip with `recording.json`, every media file, the associated screen recordings, the recording's "
        "audit lines, and `manifest.json` with the size and the SHA-256 of each. If something fails on the way, the "
        "connection ends before the zip does. `recall verify` checks one. An administrator with limits gets what she "
        "sees."
    ),
    answers={
        200: Answer(
            description="The zip.",
            content=None,
            media_types=("application/zip",),
            headers={"Content-Disposition": "With a name made of the recording's id."},
        )
    },
    errors=(*_FOUND, *_SHARE, *_STORAGE, *_STORE),
)


def _versions(what: str, schema: str) -> Described:
    version = objects(
        {"at": DATE, "by": {"type": "string"}, "recording": ref(schema)},
        required="at by recording",
        description="`at` and `by` tell when and by whom it was replaced.",
    )
    return Described(
        summary=f"List what a protected {what} said before",
        answers={200: succeeded("The former versions, oldest first.", {"versions": array(version)})},
        errors=(*_FOUND, *_STORE),
    )


_PROTECTING = Described(
    summary="Protect a recording from deletion, or no longer",
    description="Its associated screen recordings follow. Repeating either is a success.",
    body=objects(
        {
            "operationName": {"enum": ["applyNonDelete", "unapplyNonDelete", "unapplyNonDeletion"]},
            "reason": {"type": "string", "maxLength": 500, "examples": ["LegalHold#245"]},
        },
        required="operationName",
        examples=[{"operationName": "applyNonDelete", "reason": "LegalHold#245"}],
    ),
    answers={200: succeeded("It is protected, or no longer.")},
    errors=(*_BODY, errors.RecordingNotFound, errors.MediaBeingDeleted, *_STORE),
)

_DEFINITION_BODY = {
    "displayName": {"type": "string", "minLength": 1, "maxLength": 100, "examples": ["Complaint"]},
    "description": {"type": "string", "maxLength": 1000},
}


def _label_definitions(prefix: str) -> Mapping[tuple[str, str], Described]:
    found = (errors.InvalidParameter, errors.LabelDefinitionNotFound, *_STORE)
    return {
        (f"{prefix}label-definitions", "GET"): Described(
            summary="List the label definitions",
            answers={200: succeeded("By name.", {"labelDefinitions": array(ref("LabelDefinition"))})},
            errors=(errors.InvalidParameter, *_STORE),
        ),
        (f"{prefix}label-definitions", "POST"): Described(
            summary="Define a label",
            body=objects(
                {
                    "name": {
                        "type": "string",
                        "pattern": "^(?!__)[A-Za-z0-9._-]{1,64}$",
                        "description": "Unique, ignoring case.",
                        "examples": ["complaint"],
                    },
                    **_DEFINITION_BODY,
                },
                required="name",
            ),
            answers={
                201: succeeded("Defined.", {"name": {"type": "string"}, "uri": {"type": "string", "format": "uri"}})
            },
            errors=(
                *_BODY,
                errors.LabelDefinitionExists,
                errors.DisplayNameExists,
                errors.TooManyLabelDefinitions,
                *_STORE,
            ),
        ),
        (f"{prefix}label-definition", "GET"): Described(
            summary="Read a label definition",
            answers={200: succeeded("The definition.", {"labelDefinition": ref("LabelDefinition")})},
            errors=found,
        ),
        (f"{prefix}label-definition", "PUT"): Described(
            summary="Change a label definition",
            body=objects({"name": {"type": "string"}, **_DEFINITION_BODY}),
            answers={200: succeeded("The definition.", {"labelDefinition": ref("LabelDefinition")})},
            errors=(*_BODY, errors.LabelDefinitionNotFound, errors.DisplayNameExists, *_STORE),
        ),
        (f"{prefix}label-definition", "DELETE"): Described(
            summary="Delete a label definition",
            parameters=(Parameter(name="force", description="`*` deletes one that is in use.", schema={"const": "*"}),),
            answers={200: succeeded("Deleted.")},
            errors=(*found, errors.LabelInUse),
        ),
    }


_COMMENT = {"type": "string", "maxLength": 1000}


def _labels(prefix: str) -> Mapping[tuple[str, str], Described]:
    labels, label = f"{prefix}recording-labels", f"{prefix}recording-label"
    shown = {"label": ref("Label")}
    found = (*_FOUND, errors.LabelNotFound, *_STORE)
    given = (errors.LabelDefinitionNotFound, errors.TooManyLabels)
    return {
        (labels, "GET"): Described(
            summary="List the labels of a recording",
            answers={200: succeeded("The labels.", {"labels": array(ref("Label"))})},
            errors=(*_FOUND, *_STORE),
        ),
        (labels, "POST"): Described(
            summary="Label a recording",
            body=objects({"name": {"type": "string", "examples": ["complaint"]}, "comment": _COMMENT}, required="name"),
            answers={200: succeeded("It was there; the comment is new.", shown), 201: succeeded("It is given.", shown)},
            errors=(*_BODY, errors.RecordingNotFound, *given, *_STORE),
        ),
        (label, "GET"): Described(
            summary="Read a label of a recording", answers={200: succeeded("The label.", shown)}, errors=found
        ),
        (label, "PUT"): Described(
            summary="Change the comment of a label",
            body=objects({"name": {"type": "string"}, "comment": _COMMENT}),
            answers={200: succeeded("The label.", shown)},
            errors=(*_BODY, *found),
        ),
        (label, "DELETE"): Described(
            summary="Take a label away", answers={200: succeeded("It is gone.")}, errors=found
        ),
    }


_AUDIT = Described(
    summary="Search the audit log",
    description="The lines of the contact center, newest first. One can be found within 10 s of its answer.",
    parameters=(
        *(
            Parameter(
                name=criterion.name,
                description=f"Finds lines {criterion.help}.",
                schema={"enum": criterion.allowed} if criterion.allowed else {"type": "string", "minLength": 1},
            )
            for criterion in AUDIT_CRITERIA
        ),
        *_PAGE,
    ),
    answers={
        200: succeeded(
            "A page; `nextUri` tells whether more follow.",
            {"entries": array(ref("AuditEntry")), **_LINKS, **_TOTAL},
            required="entries",
        )
    },
    errors=(errors.InvalidParameter, errors.AuditNotSearchable, *_SHARE, *_STORE),
)


_OPERATION_NAMES = ["applyNonDelete", "unapplyNonDelete", "unapplyNonDeletion", "addLabel", "removeLabel"]


def _many(prefix: str) -> Mapping[tuple[str, str], Described]:
    """The rows of operations on many recordings."""
    of_ops = {"subresources": {"const": "*", "description": "Deletes the media objects too."}} if prefix else {}
    names = [*_OPERATION_NAMES, "delete"] if prefix else _OPERATION_NAMES
    found = (errors.InvalidParameter, errors.OperationNotFound, *_STORE)
    return {
        (f"{prefix}recording-operations", "POST"): Described(
            summary="Do an operation on many recordings",
            description=(
                "Either `recordings` or `criteria` tell on which. By `recordings` it is done before the answer. "
                "By `criteria` it is done on all that match at this moment, and goes on by itself."
            ),
            body=objects(
                {
                    "operationName": {"enum": names},
                    "recordings": {
                        "type": "array",
                        "items": {"type": "string"},
                        "minItems": 1,
                        "maxItems": 1000,
                        "description": "Ids. One that is there twice counts once.",
                    },
                    "criteria": {
                        "type": "object",
                        "additionalProperties": {"type": ["string", "number", "boolean"]},
                        "description": "The criteria of a search.",
                    },
                    "label": {"type": "string", "description": "For `addLabel` and `removeLabel`."},
                    "comment": _COMMENT,
                    "reason": {"type": "string", "maxLength": 500},
                    **of_ops,
                },
                required="operationName",
                additionalProperties=False,
                examples=[
                    {
                        "operationName": "applyNonDelete",
                        "reason": "LegalHold#245",
                        "criteria": {"userName": "alice", "startTime": "2026-01-01"},
                    }
                ],
            ),
            answers={
                200: Answer(
                    description="Done. With code 7, it has failed on the recordings in `failed`.",
                    content=objects(
                        {
                            "statusCode": {"enum": [0, 7]},
                            "id": {"type": "string"},
                            "succeeded": {"type": "integer", "minimum": 0},
                            "failed": array(ref("FailedRecording")),
                        },
                        required="statusCode id succeeded",
                    ),
                ),
                202: succeeded(
                    "It goes on by itself.", {"id": {"type": "string"}, "uri": {"type": "string", "format": "uri"}}
                ),
            },
            errors=(*_BODY, errors.LabelDefinitionNotFound, errors.SearchTooLarge, *_SHARE, *_STORE),
        ),
        (f"{prefix}recording-operations", "GET"): Described(
            summary="List the operations on many recordings",
            description="Those of the last 30 days, newest first: the caller's own, or all of the contact center.",
            parameters=_PAGE,
            answers={
                200: succeeded(
                    "A page; `nextUri` tells whether more follow.",
                    {"operations": array(ref("Operation")), **_LINKS, **_TOTAL},
                    required="operations",
                )
            },
            errors=(errors.InvalidParameter, *_STORE),
        ),
        (f"{prefix}recording-operation", "GET"): Described(
            summary="Read an operation on many recordings",
            answers={200: succeeded("How far it is.", {"operation": ref("Operation")})},
            errors=found,
        ),
        (f"{prefix}recording-operation", "DELETE"): Described(
            summary="Cancel an operation on many recordings",
            description="What is done stays, and no further recording is begun. One that is over stays as it is.",
            answers={200: succeeded("It is cancelled, or was over.")},
            errors=found,
        ),
    }


def _recordings(what: str, names: tuple[str, str], schemas: tuple[str, str]) -> Mapping[tuple[str, str], Described]:
    """The rows that recordings and screen recordings have in common; `schemas` are those of readers and of ops."""
    many: Resource = "recordings" if what == "recording" else "screen-recordings"
    resource = many.removesuffix("s")
    key, keys = names
    posted = "PostedRecording" if what == "recording" else "PostedScreenRecording"
    return {
        (many, "GET"): _searching(many, f"{what}s", keys, schemas[0]),
        (resource, "GET"): _reading(what, key, schemas[0]),
        (f"{resource}-media", "GET"): _playing(what),
        (f"ops-{many}", "GET"): _searching(many, f"{what}s", keys, schemas[1]),
        (f"ops-{many}", "POST"): _posting(what, posted, created=201),
        (f"ops-{resource}", "GET"): _reading(what, key, schemas[1]),
        (f"ops-{resource}", "DELETE"): _deleting(what),
        (f"ops-{resource}-versions", "GET"): _versions(what, schemas[1]),
        (f"ops-{resource}-media", "GET"): _playing(what),
        (f"internal-{many}", "POST"): _posting(what, posted, created=200),
    }


OPERATIONS: Mapping[tuple[str, str], Described] = {
    **_recordings("recording", ("recording", "recordings"), ("Recording", "OpsRecording")),
    **_recordings(
        "screen recording", ("screenRecording", "screenRecordings"), ("ScreenRecording", "OpsScreenRecording")
    ),
    ("recording", "POST"): _PROTECTING,
    ("internal-screen-recording", "GET"): _reading("screen recording", "recording", "OpsScreenRecording"),
    ("internal-screen-recording-media", "GET"): _playing("screen recording"),
    ("internal-screen-recording-media", "DELETE"): Described(
        summary="Delete one media file of a screen recording",
        description="The last one cannot be deleted alone.",
        answers=_DELETED,
        errors=(*_FOUND, errors.MediaNotFound, errors.RecordingProtected, *_STORE),
    ),
    ("ops-contact-centers", "GET"): Described(
        summary="List the contact centers",
        answers={200: succeeded("All that have users or recordings.", {"uris": array({"type": "string"})})},
        errors=_STORE,
    ),
    ("recording-package", "GET"): _EXPORTING,
    ("ops-recording-package", "GET"): _EXPORTING,
    ("audit", "GET"): _AUDIT,
    ("ops-audit", "GET"): _AUDIT,
    ("me", "GET"): Described(summary="Tell who asks", answers={200: succeeded("The user.", {"user": ref("User")})}),
    ("diagnostics-version", "GET"): Described(
        summary="Tell the version", answers={200: succeeded("The version.", {"version": {"type": "string"}})}
    ),
    ("health-live", "GET"): Described(summary="Tell that the process runs", answers={200: succeeded("It runs.")}),
    ("health-ready", "GET"): Described(
        summary="Tell whether searches can be answered", answers={200: succeeded("They can.")}, errors=_STORE
    ),
    ("metrics", "GET"): Described(
        summary="Tell the metrics",
        answers={
            200: Answer(description="Prometheus text.", content=None, media_types=("text/plain",), has_data=False)
        },
    ),
    ("openapi", "GET"): Described(
        summary="Describe the API",
        answers={
            200: Answer(description="This description (OpenAPI 3.1).", content={"type": "object"}, has_data=False)
        },
    ),
    ("docs", "GET"): Described(
        summary="Show the description",
        answers={
            200: Answer(
                description="A page that shows it and can send requests.",
                content=None,
                media_types=("text/html",),
                has_data=False,
            )
        },
    ),
    ("docs-file", "GET"): Described(
        summary="A file of the page `/docs`",
        answers={
            200: Answer(
                description="The file.", content=None, media_types=("text/javascript", "text/css"), has_data=False
            )
        },
        errors=(errors.ResourceNotFound,),
    ),
    **_many(""),
    **_many("ops-"),
    **_label_definitions(""),
    **_label_definitions("ops-"),
    **_labels(""),
    **_labels("ops-"),
}
