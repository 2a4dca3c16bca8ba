"""The route table: every path, who may use it, and what the audit log and the metrics call it.

Authentication, authorization, auditing and metrics follow from the rows (`app.api.dispatch`), so no handler does any
of them. The paths are those of docs/contract.md section 3. The rows of the page are in `app.page.routes`.
"""

from collections.abc import Sequence
from dataclasses import replace

from starlette.routing import Route

from app.api import about, audit_search, docs, health, labels, operations, ops, package, playback, posting, recordings
from app.api.dispatch import Dispatcher
from app.api.endpoint import Choice, Endpoint, Method
from app.api.requests import API
from app.lifecycle.operations import NEEDED, NEEDED_BY_OPS
from app.recordings.identity import Resource

_OPS = f"{API}/ops/contact-centers/{{contact_center}}"
_INTERNAL = "/internal-api/contact-centers/{contact_center}"

_APPLY = Choice("apply", audit="apply")
_UNAPPLY = Choice("unapply", audit="unapply")

_SEARCH = Method(handler=recordings.search, operation="search", audit=None)
_READ = Method(handler=recordings.read, operation="read", audit=None)
_PLAY = Method(handler=playback.play, operation="play", audit="play")
_EXPORT = Method(handler=package.export, operation="export", audit="export")
_PROTECT = Method(
    handler=recordings.protect,
    operation={"applyNonDelete": _APPLY, "unapplyNonDelete": _UNAPPLY, "unapplyNonDeletion": _UNAPPLY},
    audit="protection",
)
_OPS_SEARCH = Method(handler=ops.search, operation="ops-search", audit=None)
_OPS_READ = Method(handler=ops.read, operation="ops-read", audit=None)
_OPS_POST = Method(handler=posting.post, operation="ops-post", audit="ops-post")
_OPS_VERSIONS = Method(handler=ops.versions, operation="ops-read", audit=None)
_OPS_DELETE = Method(handler=ops.delete, operation="ops-delete", audit="delete")
_OPS_PLAY = Method(handler=playback.play, operation="ops-play", audit="play")
_DEFINITIONS = Method(handler=labels.definitions, operation="read-definitions", audit=None)
_DEFINE = Method(handler=labels.define, operation="define", audit="create-label-definition")
_DEFINITION = Method(handler=labels.definition, operation="read-definitions", audit=None)
_REDEFINE = Method(handler=labels.redefine, operation="define", audit="update-label-definition")
_DELETE_DEFINITION = Method(
    handler=labels.delete_definition, operation="delete-definition", audit="delete-label-definition"
)
_LABELS = Method(handler=labels.labels, operation="read-labels", audit=None)
_GIVE_LABEL = Method(handler=labels.give, operation="label", audit="add-label")
_LABEL = Method(handler=labels.label, operation="read-labels", audit=None)
_COMMENT = Method(handler=labels.comment, operation="label", audit="update-label")
_TAKE_LABEL = Method(handler=labels.take, operation="unlabel", audit="delete-label")
_START_OPERATION = Method(
    handler=operations.start,
    operation={alias: Choice(NEEDED[name], audit=None) for alias, name in operations.NAMES.items() if name in NEEDED},
    audit="start-operation",
)
_OPS_START_OPERATION = replace(
    _START_OPERATION,
    operation={alias: Choice(NEEDED_BY_OPS[name], audit=None) for alias, name in operations.NAMES.items()},
)
_OPERATIONS = Method(handler=operations.search, operation="operations", audit=None)
_OPERATION = Method(handler=operations.read, operation="operations", audit=None)
_CANCEL_OPERATION = Method(handler=operations.cancel, operation="operations", audit="cancel-operation")
_INTERNAL_POST = Method(handler=posting.post_internal, operation="ops-post", audit="ops-post")


def _for_readers(resource: Resource, change: Method | None = None) -> tuple[Endpoint, ...]:
    """The rows of a resource for its contact center; `change` is the POST to one recording."""
    path, one = f"{API}/{resource}", resource.removesuffix("s")
    return (
        Endpoint(
            name=resource,
            path=path,
            aliases=(f"{path}/", f"{path}/{resource}", f"{path}/{resource}/"),
            authentication="basic",
            resource=resource,
            get=_SEARCH,
        ),
        Endpoint(name=one, path=f"{path}/{{id}}", authentication="basic", resource=resource, get=_READ, post=change),
        Endpoint(
            name=f"{one}-media",
            path=f"{path}/{{id}}/play/{{name}}",
            authentication="basic",
            resource=resource,
            get=_PLAY,
            headers=playback.HEADERS,
        ),
    )


def _for_ops(resource: Resource) -> tuple[Endpoint, ...]:
    """The rows of a resource for ops and for the systems that record."""
    path, one = f"{_OPS}/{resource}", resource.removesuffix("s")
    return (
        Endpoint(
            name=f"ops-{resource}",
            path=path,
            aliases=(f"{path}/",),
            authentication="basic",
            resource=resource,
            get=_OPS_SEARCH,
            post=_OPS_POST,
        ),
        Endpoint(
            name=f"ops-{one}-versions",
            path=f"{path}/{{id}}/versions",
            authentication="basic",
            resource=resource,
            get=_OPS_VERSIONS,
        ),
        Endpoint(
            name=f"ops-{one}",
            path=f"{path}/{{id}}",
            authentication="basic",
            resource=resource,
            get=_OPS_READ,
            delete=_OPS_DELETE,
        ),
        Endpoint(
            name=f"ops-{one}-media",
            path=f"{path}/{{id}}/play/{{name}}",
            authentication="basic",
            resource=resource,
            get=_OPS_PLAY,
            headers=playback.HEADERS,
        ),
        Endpoint(
            name=f"internal-{resource}",
            path=f"{_INTERNAL}/{resource}",
            aliases=(f"{_INTERNAL}/{resource}/",),
            authentication="basic",
            resource=resource,
            post=_INTERNAL_POST,
        ),
    )


# A path stands before the patterns that match it too.
ENDPOINTS: Sequence[Endpoint] = (
    *_for_readers("recordings", _PROTECT),
    *_for_readers("screen-recordings"),
    *_for_ops("recordings"),
    *_for_ops("screen-recordings"),
    Endpoint(
        name="recording-package",
        path=f"{API}/recordings/{{id}}/package",
        authentication="basic",
        resource="recordings",
        get=_EXPORT,
        headers=playback.HEADERS,
    ),
    Endpoint(
        name="ops-recording-package",
        path=f"{_OPS}/recordings/{{id}}/package",
        authentication="basic",
        resource="recordings",
        get=replace(_EXPORT, operation="ops-export"),
        headers=playback.HEADERS,
    ),
    Endpoint(
        name="recording-labels",
        path=f"{API}/recordings/{{id}}/labels",
        aliases=(f"{API}/recordings/{{id}}/labels/",),
        authentication="basic",
        resource="recordings",
        get=_LABELS,
        post=_GIVE_LABEL,
    ),
    Endpoint(
        name="recording-label",
        path=f"{API}/recordings/{{id}}/labels/{{label}}",
        authentication="basic",
        resource="recordings",
        get=_LABEL,
        put=_COMMENT,
        delete=_TAKE_LABEL,
    ),
    Endpoint(
        name="label-definitions",
        path=f"{API}/recording-label-definitions",
        aliases=(f"{API}/recording-label-definitions/",),
        authentication="basic",
        resource="label-definitions",
        get=_DEFINITIONS,
        post=_DEFINE,
    ),
    Endpoint(
        name="label-definition",
        path=f"{API}/recording-label-definitions/{{label}}",
        authentication="basic",
        resource="label-definitions",
        get=_DEFINITION,
        put=_REDEFINE,
        delete=_DELETE_DEFINITION,
    ),
    Endpoint(
        name="recording-operations",
        path=f"{API}/recording-operations",
        aliases=(f"{API}/recording-operations/",),
        authentication="basic",
        resource="recordings",
        get=_OPERATIONS,
        post=_START_OPERATION,
    ),
    Endpoint(
        name="recording-operation",
        path=f"{API}/recording-operations/{{operation}}",
        authentication="basic",
        resource="recordings",
        get=_OPERATION,
        delete=_CANCEL_OPERATION,
    ),
    Endpoint(
        name="audit",
        path=f"{API}/audit",
        aliases=(f"{API}/audit/",),
        authentication="basic",
        get=Method(handler=audit_search.search, operation="audit", audit=None),
    ),
    Endpoint(
        name="ops-recording-labels",
        path=f"{_OPS}/recordings/{{id}}/labels",
        aliases=(f"{_OPS}/recordings/{{id}}/labels/",),
        authentication="basic",
        resource="recordings",
        get=replace(_LABELS, operation="ops-read"),
        post=replace(_GIVE_LABEL, operation="ops-label"),
    ),
    Endpoint(
        name="ops-recording-label",
        path=f"{_OPS}/recordings/{{id}}/labels/{{label}}",
        authentication="basic",
        resource="recordings",
        get=replace(_LABEL, operation="ops-read"),
        put=replace(_COMMENT, operation="ops-label"),
        delete=replace(_TAKE_LABEL, operation="ops-label"),
    ),
    Endpoint(
        name="ops-label-definitions",
        path=f"{_OPS}/recording-label-definitions",
        aliases=(f"{_OPS}/recording-label-definitions/",),
        authentication="basic",
        resource="label-definitions",
        get=replace(_DEFINITIONS, operation="ops-read"),
        post=replace(_DEFINE, operation="ops-label"),
    ),
    Endpoint(
        name="ops-label-definition",
        path=f"{_OPS}/recording-label-definitions/{{label}}",
        authentication="basic",
        resource="label-definitions",
        get=replace(_DEFINITION, operation="ops-read"),
        put=replace(_REDEFINE, operation="ops-label"),
        delete=replace(_DELETE_DEFINITION, operation="ops-label"),
    ),
    Endpoint(
        name="ops-recording-operations",
        path=f"{_OPS}/recording-operations",
        aliases=(f"{_OPS}/recording-operations/",),
        authentication="basic",
        resource="recordings",
        get=replace(_OPERATIONS, operation="ops-operations"),
        post=_OPS_START_OPERATION,
    ),
    Endpoint(
        name="ops-recording-operation",
        path=f"{_OPS}/recording-operations/{{operation}}",
        authentication="basic",
        resource="recordings",
        get=replace(_OPERATION, operation="ops-operations"),
        delete=replace(_CANCEL_OPERATION, operation="ops-operations"),
    ),
    Endpoint(
        name="ops-audit",
        path=f"{_OPS}/audit",
        aliases=(f"{_OPS}/audit/",),
        authentication="basic",
        get=Method(handler=audit_search.search, operation="ops-audit", audit=None),
    ),
    Endpoint(
        name="internal-screen-recording",
        path=f"{_INTERNAL}/screen-recordings/{{id}}",
        authentication="basic",
        resource="screen-recordings",
        get=Method(handler=ops.read_internal, operation="ops-read", audit=None),
    ),
    Endpoint(
        name="internal-screen-recording-media",
        path=f"{_INTERNAL}/screen-recordings/{{id}}/content/{{name}}",
        authentication="basic",
        resource="screen-recordings",
        get=_OPS_PLAY,
        delete=Method(handler=ops.delete_media, operation="ops-delete", audit="delete"),
        headers=playback.HEADERS,
    ),
    Endpoint(
        name="ops-contact-centers",
        path=f"{API}/ops/contact-centers",
        aliases=(f"{API}/ops/contact-centers/",),
        authentication="basic",
        get=Method(handler=ops.contact_centers, operation="ops-contact-centers", audit=None),
    ),
    Endpoint(
        name="me",
        path=f"{API}/me",
        authentication="basic",
        get=Method(handler=about.me, operation="me", audit=None),
    ),
    Endpoint(
        name="diagnostics-version",
        path=f"{API}/diagnostics/version",
        authentication="none",
        get=Method(handler=about.diagnostics_version, operation=None, audit=None),
    ),
    Endpoint(
        name="openapi",
        path="/openapi.json",
        authentication="none",
        get=Method(handler=docs.description, operation=None, audit=None),
    ),
    Endpoint(
        name="docs",
        path="/docs",
        aliases=("/docs/",),
        authentication="none",
        get=Method(handler=docs.page, operation=None, audit=None),
    ),
    Endpoint(
        name="docs-file",
        path="/docs/{file}",
        authentication="none",
        get=Method(handler=docs.file, operation=None, audit=None),
    ),
    Endpoint(
        name="health-live",
        path="/health/live",
        authentication="none",
        get=Method(handler=health.live, operation=None, audit=None),
    ),
    Endpoint(
        name="health-ready",
        path="/health/ready",
        authentication="none",
        get=Method(handler=health.ready, operation=None, audit=None),
    ),
    Endpoint(
        name="metrics",
        path="/metrics",
        authentication="none",
        get=Method(handler=health.metrics, operation=None, audit=None),
    ),
)


def router_routes(endpoints: Sequence[Endpoint]) -> list[Route]:
    """Returns the routes of rows and their aliases, in the order of the rows."""
    return [Route(path, Dispatcher(endpoint), name=endpoint.name) for endpoint in endpoints for path in endpoint.paths]
