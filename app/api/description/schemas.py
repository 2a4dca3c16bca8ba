"""The shapes of bodies, as JSON Schema (docs/contract.md sections 1, 4 and 9; the tables of *Recording Access*)."""

from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]

# What Python takes for white space; \S of JavaScript, and so of JSON Schema, differs from it.
_NO_SPACE = r"[^\t-\r\u001c-\u0020\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"
_TRIMMED = {"type": "string", "minLength": 1, "pattern": rf"^{_NO_SPACE}(?:[\s\S]*{_NO_SPACE})?$"}
_DATE_IN = {
    "type": "string",
    "description": "A date in `2013-05-17T11:45:32.000-0800` form, or in any form of RFC 3339.",
    "examples": ["2013-05-17T11:45:32.000-0800"],
}
DATE = {
    "type": "string",
    "description": "A date in UTC.",
    "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+0000$",
    "examples": ["2013-05-17T19:45:32.000+0000"],
}
_TEXT = {"type": ["string", "null"]}
_TEXTS = {"type": ["array", "null"], "items": {"type": "string"}}
_MAP = {"type": ["object", "null"]}


def ref(name: str) -> Schema:
    """Returns a reference to a schema of this module."""
    return {"$ref": f"#/components/schemas/{name}"}


def objects(properties: Mapping[str, Schema], *, required: str = "", **more: Any) -> Schema:
    """Returns the schema of an object; attributes beyond the named ones are allowed, as everywhere in the contract."""
    schema: dict[str, Any] = {"type": "object", "properties": properties, **more}
    return schema | ({"required": required.split()} if required else {})


def array(items: Schema) -> Schema:
    """Returns the schema of an array."""
    return {"type": "array", "items": items}


_ID = {**_TRIMMED, "description": "Up to 400 bytes in UTF-8.", "examples": ["00PV5Q27MG8AB8VNE49362LAES000014"]}
_NUMBER = {**_TRIMMED, "examples": ["+16504668888"]}
_REGION = {**_TRIMMED, "examples": ["test"]}

_MEDIA_ATTRIBUTES: Mapping[str, Schema] = {
    "callUUID": {
        **_TRIMMED,
        "type": ["string", "null"],
        "description": "What screen recordings share with their recording. Null if a screen recording came so.",
    },
    "mediaId": {**_TEXT, "examples": ["00PV5Q27MG8AB8VNE49362LAES000013_029F032T0G8LDFTEK9I4K8DAES0KTDVE.wav"]},
    "type": {**_TEXT, "examples": ["audio/wav"]},
    "duration": {**_TEXT, "examples": ["8000"]},
    "size": {**_TEXT, "description": "In bytes.", "examples": ["8544"]},
    "tenant": {**_TEXT, "examples": ["Environment"]},
    "ivrprofile": {**_TEXT, "examples": ["DefaultProfile"]},
    "parameters": {**_MAP, "examples": [{"record": "source", "recorddn": "2222"}]},
    "masks": {
        "type": ["array", "null"],
        "items": {"type": "object"},
        "description": "Where the recording was paused and resumed.",
        "examples": [[{"time": "2013-02-06T10:23:10.034Z", "type": "paused"}]],
    },
    "pkcs7": {**_TEXT, "description": "The PKCS7 envelope of an encrypted media file."},
    "certAlias": {**_TEXTS, "examples": [["cert1", "cert2"]]},
    "partitions": {**_TEXTS, "examples": [["part1", "part2"]]},
    "accessgroups": {**_TEXTS, "examples": [["US", "US/CA"]]},
    "accessgroup": {**_TEXTS, "description": "Another name of `accessgroups`.", "examples": [["US", "US/CA"]]},
}

_S3_EXAMPLE = {"storage": "awsS3", "path": "FTtests/sample1.mp3", "data": {"bucket": "stage-recordings"}}
_WEBDAV_EXAMPLE = {"storage": "webDAV", "path": "http://10.10.15.83:8080/sample1.mp3"}

_CONTACT: Mapping[str, Schema] = {
    "phoneNumber": {**_NUMBER, "description": "It may be `UNKNOWN`.", "examples": ["+14103585834"]},
    "type": {"enum": ["User", "External"]},
}
_NAMES: Mapping[str, Schema] = {
    "userName": {"examples": ["dima.p@genesys.com"]},
    "firstName": {"examples": ["Dima"]},
    "lastName": {"examples": ["Pokh"]},
}
_USER_EXAMPLE = {
    "type": "User",
    "phoneNumber": "+14103585834",
    "userName": "dima.p@genesys.com",
    "firstName": "Dima",
    "lastName": "Pokh",
}


def _event(date: Schema) -> Schema:
    return objects(
        {
            "occurredAt": {**date, "examples": ["2013-05-18T22:25:56.000+0000"]},
            "contact": ref("Contact"),
            "event": {"enum": ["Joined", "Left"]},
            "data": {**_MAP, "description": "User data, by which recordings can be found."},
        },
        required="occurredAt contact event",
    )


def _posted(media_required: str) -> Schema:
    return objects(
        {
            "id": _ID,
            "callerPhoneNumber": _NUMBER,
            "dialedPhoneNumber": {**_NUMBER, "examples": ["+14155551234"]},
            "region": _REGION,
            "mediaFiles": {
                "type": "array",
                "minItems": 1,
                "items": {
                    "allOf": [ref("PostedMediaFile")],
                    "required": media_required.split(),
                },
            },
            "eventHistory": {"type": "array", "minItems": 1, "items": ref("PostedEvent")},
        },
        required="id callerPhoneNumber dialedPhoneNumber region mediaFiles eventHistory",
        description="Attributes beyond these are kept and returned as they came.",
        examples=[
            {
                "id": "00PV5Q27MG8AB8VNE49362LAES000014",
                "callerPhoneNumber": "+16504668888",
                "dialedPhoneNumber": "+14155551234",
                "region": "test",
                "mediaFiles": [
                    {
                        "startTime": "2013-05-17T11:45:32.000-0800",
                        "stopTime": "2013-05-17T14:15:36.000-0800",
                        "callUUID": "callUUID",
                        "mediaDescriptor": _S3_EXAMPLE,
                        "mediaId": "00PV5Q27MG8AB8VNE49362LAES000013_029F032T0G8LDFTEK9I4K8DAES0KTDVE.wav",
                        "type": "audio/wav",
                        "duration": "8000",
                        "tenant": "Environment",
                        "ivrprofile": "DefaultProfile",
                        "size": "8544",
                        "parameters": {"record": "source", "recorddn": "2222"},
                        "masks": [{"time": "2013-02-06T10:23:10.034Z", "type": "paused"}],
                        "pkcs7": "SJ0SSWKGUEKSHSVHSU",
                        "certAlias": ["cert1", "cert2"],
                        "partitions": ["part1", "part2"],
                        "accessgroup": ["US", "US/CA"],
                    }
                ],
                "eventHistory": [
                    {
                        "occurredAt": "2013-05-18T22:25:56.000+0000",
                        "contact": _USER_EXAMPLE,
                        "event": "Left",
                    }
                ],
            }
        ],
    )


def _read(media_file: str, *, is_screen: bool = False) -> Schema:
    labels = {} if is_screen else {"labels": array(ref("Label"))}
    return objects(
        {
            "id": _ID,
            "callerPhoneNumber": _NUMBER,
            "dialedPhoneNumber": {**_NUMBER, "examples": ["+14155551234"]},
            "region": _REGION,
            "startTime": {**DATE, "description": "The least start time of all media files, in UTC."},
            "stopTime": {**DATE, "description": "The greatest stop time of all media files, in UTC."},
            "mediaFiles": {"type": "array", "minItems": 1, "items": ref(media_file)},
            "eventHistory": array(ref("Event")),
            "nonDelete": {"type": "boolean", "description": "Present when the recording is protected from deletion."},
            "nonDeletion": ref("NonDeletion"),
            **labels,
        },
        required="id callerPhoneNumber dialedPhoneNumber region startTime stopTime mediaFiles eventHistory",
    )


def _media_file(*, path: str, with_descriptor: bool) -> Schema:
    descriptors = dict.fromkeys(("originalMediaDesc", "originalMediaDescriptor"), ref("MediaDescriptor"))
    return objects(
        {
            **_MEDIA_ATTRIBUTES,
            "startTime": DATE,
            "stopTime": DATE,
            "mediaUri": {"type": "string", "format": "uri", "description": "Where the media can be fetched."},
            "mediaPath": {"type": "string", "pattern": path},
            "playPath": {"type": "string", "pattern": path},
            **(descriptors if with_descriptor else {"mediaDescriptor": {"not": {}}}),
        },
        required="startTime stopTime mediaUri mediaPath playPath" + (" originalMediaDesc" if with_descriptor else ""),
    )


SCHEMAS: Mapping[str, Schema] = {
    "PostedRecording": _posted("startTime stopTime callUUID mediaDescriptor"),
    "PostedScreenRecording": _posted("startTime stopTime mediaDescriptor"),
    "PostedMediaFile": objects(
        {
            **_MEDIA_ATTRIBUTES,
            "callUUID": {"type": ["string", "null"]},
            "startTime": _DATE_IN,
            "stopTime": {**_DATE_IN, "examples": ["2013-05-17T14:15:36.000-0800"]},
            "mediaDescriptor": ref("MediaDescriptor"),
        }
    ),
    "PostedEvent": _event(_DATE_IN),
    "MediaDescriptor": {
        **objects(
            {
                "storage": {"enum": ["awsS3", "webDAV"]},
                "storage_version": {"type": ["string", "null"], "minLength": 1},
                "path": {
                    "type": "string",
                    "minLength": 1,
                    "description": "A key (awsS3), or a URL or a name in the folder `data.storagePath` (webDAV).",
                },
                "auth": _MAP,
                "data": {
                    **_MAP,
                    "properties": {
                        "bucket": {"type": "string", "description": "Required with awsS3."},
                        "storagePath": {"description": "With webDAV, the URL of the folder that holds `path`."},
                    },
                },
            },
            required="storage path",
            description="Where the media is. Entries of the same bucket and path (awsS3), or path (webDAV), are one.",
        ),
        "examples": [_S3_EXAMPLE, _WEBDAV_EXAMPLE],
    },
    "Contact": {
        **objects(
            {**_CONTACT, **{name: {**_TEXT, **more} for name, more in _NAMES.items()}}, required="phoneNumber type"
        ),
        "if": {"properties": {"type": {"const": "User"}}},
        "then": {
            "properties": {name: {"type": "string", "minLength": 1} for name in _NAMES},
            "required": list(_NAMES),
        },
        "examples": [_USER_EXAMPLE],
    },
    "Event": _event(DATE),
    "MediaFile": _media_file(path="^/(?:screen-)?recordings/[^/]+/play/[^/]+$", with_descriptor=False),
    "OpsMediaFile": _media_file(
        path="^/(?:ops/)?contact-centers/[^/]+/(?:screen-)?recordings/[^/]+/(?:play|content)/[^/]+$",
        with_descriptor=True,
    ),
    "Recording": _read("MediaFile"),
    "ScreenRecording": _read("MediaFile", is_screen=True),
    "OpsRecording": _read("OpsMediaFile"),
    "OpsScreenRecording": _read("OpsMediaFile", is_screen=True),
    "NonDeletion": objects(
        {
            "by": {"type": "string", "description": "The user who protected it."},
            "at": DATE,
            "reason": {"type": "string", "maxLength": 500},
        },
        required="at",
    ),
    "Label": objects(
        {
            "name": {"type": "string", "examples": ["complaint"]},
            "displayName": {"type": "string", "examples": ["Complaint"]},
            "by": {"type": "string", "description": "The user who gave it."},
            "at": DATE,
            "comment": {"type": "string", "maxLength": 1000},
        },
        required="name displayName by at",
    ),
    "AuditEntry": objects(
        {
            "id": {"type": "string", "pattern": "^[0-9a-f]{24}$"},
            "time": {
                "type": "string",
                "description": "When the request arrived.",
                "examples": ["2026-03-02T09:41:07.512Z"],
            },
            "user": _TEXT,
            "contactCenter": {"type": "string"},
            "address": {**_TEXT, "description": "Of the client."},
            "operation": {"type": "string", "examples": ["play"]},
            "resource": _TEXT,
            "recordingId": {"type": "string", "description": "Empty if it is about no recording."},
            "outcome": {"enum": ["success", "refused", "failed"]},
            "httpStatus": {"type": ["integer", "null"]},
            "statusCode": {"type": ["integer", "null"]},
        },
        required="id time user contactCenter address operation resource recordingId outcome httpStatus statusCode",
        description="A line of the audit log; operations have attributes of their own.",
    ),
    "LabelDefinition": objects(
        {
            "name": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$", "examples": ["complaint"]},
            "displayName": {"type": "string", "minLength": 1, "maxLength": 100, "examples": ["Complaint"]},
            "description": {"type": "string", "maxLength": 1000},
        },
        required="name displayName",
    ),
    "StoredLines": objects(
        {
            "statusCode": {"enum": [0, 7]},
            "created": {"type": "integer", "minimum": 0},
            "updated": {"type": "integer", "minimum": 0},
            "failed": array(
                objects(
                    {
                        "line": {"type": "integer", "minimum": 1},
                        "id": {"type": ["string", "null"], "description": "null when the line is unreadable."},
                        "statusCode": {"type": "integer"},
                        "statusMessage": {"type": "string"},
                    },
                    required="line id statusCode statusMessage",
                )
            ),
        },
        required="statusCode created updated",
    ),
    "FailedRecording": objects(
        {
            "id": {"type": "string"},
            "statusCode": {"type": "integer"},
            "statusMessage": {"type": "string"},
        },
        required="id statusCode statusMessage",
    ),
    "Operation": objects(
        {
            "id": {"type": "string"},
            "operationName": {"enum": ["applyNonDelete", "unapplyNonDelete", "addLabel", "removeLabel", "delete"]},
            "criteria": {
                "type": "object",
                "additionalProperties": {"type": "string"},
                "description": "As they were given; absent of an operation by ids.",
            },
            "label": {"type": "string"},
            "comment": {"type": "string"},
            "reason": {"type": "string"},
            "subresources": {"const": "*"},
            "state": {"enum": ["running", "done", "cancelled", "failed"]},
            "statusMessage": {"type": "string", "description": "Why it has failed."},
            "matched": {"type": "integer", "minimum": 0},
            "succeeded": {"type": "integer", "minimum": 0},
            "failed": {"type": "integer", "minimum": 0},
            "failures": {**array(ref("FailedRecording")), "maxItems": 100, "description": "The first 100."},
            "by": {"type": "string"},
            "createdAt": DATE,
            "finishedAt": DATE,
        },
        required="id operationName state matched succeeded failed failures by createdAt",
    ),
    "FailedMedia": objects(
        {
            "id": {"type": "string", "description": "The uuid of the media file."},
            "mediaDescriptor": ref("MediaDescriptor"),
            "statusCode": {"const": 4},
            "statusMessage": {"type": "string"},
        },
        required="id mediaDescriptor statusCode statusMessage",
    ),
    "User": objects(
        {
            "userName": {"type": "string"},
            "roles": array({"type": "string"}),
            "permissions": array({"type": "string"}),
            "contactCenterId": {"type": ["string", "null"]},
        },
        required="userName roles permissions contactCenterId",
    ),
}
