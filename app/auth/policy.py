"""Which role and which permission each operation needs (docs/contract.md section 2), as a table."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from app.errors import InsufficientPermissions, InsufficientRole
from app.settings import Role, User

Operation = Literal[
    "search",
    "read",
    "play",
    "waveform",
    "export",
    "apply",
    "unapply",
    "read-definitions",
    "define",
    "delete-definition",
    "read-labels",
    "label",
    "unlabel",
    "ops-search",
    "ops-read",
    "ops-play",
    "ops-export",
    "ops-contact-centers",
    "ops-post",
    "ops-delete",
    "ops-label",
    "ops-protect",
    "operations",
    "ops-operations",
    "audit",
    "ops-audit",
    "me",
]


@dataclass(frozen=True)
class Requirement:
    """One of the roles and, unless the user is an admin, one of the permissions; an empty set asks for none.

    None for the roles stands for every user. A role `if_limited` is enough for a user whose entry limits what she sees.
    With `unlimited`, a user whose entry does so has none of the roles.
    """

    roles: frozenset[Role] | None
    permissions: frozenset[str] = frozenset()
    if_limited: frozenset[Role] = frozenset()
    unlimited: bool = False


def _permission(*names: str) -> frozenset[str]:
    """The spellings of one permission."""
    return frozenset(f"RECORDING_PERMISSION_{name}" for name in names)


_ADMINS: frozenset[Role] = frozenset({"admin"})
# The roles that work in one contact center.
_STAFF: frozenset[Role] = frozenset({"admin", "supervisor", "agent"})
_OPS: frozenset[Role] = frozenset({"ops"})
_POSTERS: frozenset[Role] = frozenset({"ops", "recorder"})

# Supervisors and agents read what their access groups, partitions or own recordings show, and nothing without them.
_READERS = Requirement(_ADMINS, if_limited=frozenset({"supervisor", "agent"}))

POLICY: Mapping[Operation, Requirement] = {
    "search": _READERS,
    "read": _READERS,
    "play": _READERS,
    # What is drawn of a sound tells less than the sound.
    "waveform": _READERS,
    "export": Requirement(_ADMINS),
    "apply": Requirement(_STAFF, _permission("APPLY_NON_DELETE", "APPLY_NON_DELETION")),
    "unapply": Requirement(_STAFF, _permission("UNAPPLY_NON_DELETE", "UNAPPLY_NON_DELETION")),
    "read-definitions": Requirement(_STAFF),
    "define": Requirement(_STAFF, _permission("ADD_LABEL_DEFINITION")),
    "delete-definition": Requirement(_STAFF, _permission("DELETE_LABEL_DEFINITION")),
    "read-labels": Requirement(_STAFF),
    "label": Requirement(_STAFF, _permission("ADD_LABEL")),
    "unlabel": Requirement(_STAFF, _permission("DELETE_LABEL")),
    "ops-search": Requirement(_OPS),
    "ops-read": Requirement(_OPS),
    "ops-play": Requirement(_OPS),
    "ops-export": Requirement(_OPS),
    "ops-contact-centers": Requirement(_OPS),
    "ops-post": Requirement(_POSTERS),
    "ops-delete": Requirement(_OPS),
    "ops-label": Requirement(_OPS),
    "ops-protect": Requirement(_OPS),
    # Each user sees her own, an administrator without limits all (`app.api.operations`).
    "operations": Requirement(_STAFF),
    "ops-operations": Requirement(_OPS),
    "audit": Requirement(_ADMINS, unlimited=True),
    "ops-audit": Requirement(_OPS),
    "me": Requirement(None),
}


def require_role(user: User, *operations: Operation, contact_center: str | None = None) -> None:
    """Raises InsufficientRole unless the user has a role for one of the operations.

    `contact_center` is the one that the path names, if it names one. There a recorder with a contact center of its own
    has no role unless they are the same.
    """
    roles = set(user.roles)
    if contact_center is not None and user.contact_center not in {None, contact_center}:
        roles.discard("recorder")
    requirements = [POLICY[operation] for operation in operations]
    if not any(_has_role(user, roles, needed) for needed in requirements):
        raise InsufficientRole


def _has_role(user: User, roles: set[Role], needed: Requirement) -> bool:
    if needed.unlimited and user.is_limited:
        return False
    return needed.roles is None or bool(needed.roles & roles or (user.is_limited and needed.if_limited & roles))


def require_permission(user: User, operation: Operation) -> None:
    """Raises InsufficientPermissions unless the user has the permission that the operation needs.

    An administrator needs none (docs/contract.md section 2).
    """
    permissions = POLICY[operation].permissions
    if permissions and "admin" not in user.roles and not permissions & set(user.permissions):
        raise InsufficientPermissions
