"""What a row of the route table says (`app.api.routes`): plain data, without behaviour."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from starlette.requests import Request
from starlette.responses import Response

from app import audit
from app.auth.policy import Operation
from app.errors import RecallError

Handler = Callable[[Request], Awaitable[Response]]

# How the caller proves who it is; "none" is for what anyone may ask.
Authentication = Literal["basic", "session", "none"]

ErrorAnswer = Callable[[Request, RecallError], Response]


@dataclass(frozen=True)
class Choice:
    """What one value of `operationName` in the body stands for."""

    operation: Operation
    audit: audit.Operation | None


@dataclass(frozen=True, kw_only=True)
class Method:
    """One method of a path.

    `operation` decides which role and permission the caller needs (`app.auth.policy`). It is None if the row has no
    authentication, and maps each `operationName` if the body tells what to do. `audit` is the operation in the audit
    log, None if only refusals leave a line. With several choices it stands for an attempt that was refused before its
    body told which.
    """

    handler: Handler
    operation: Operation | Mapping[str, Choice] | None
    audit: audit.Operation | None

    @property
    def choices(self) -> Mapping[str, Choice]:
        """By `operationName`, if the body tells what to do."""
        return {} if self.operation is None or isinstance(self.operation, str) else self.operation

    @property
    def operations(self) -> tuple[Operation, ...]:
        """All operations that a request may turn out to be."""
        if isinstance(self.operation, str):
            return (self.operation,)
        return tuple(dict.fromkeys(choice.operation for choice in self.choices.values()))


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """One row: a path, its aliases, and its methods.

    `name` is what metrics call it. `headers` are in its responses to errors, too; its handlers set them themselves in
    the others. `mount` is the part of the path that page links and addresses of media files have in front.
    `error_answer` is what an error becomes in place of the envelope.
    Raises ValueError for a row that would leave open who may use it.
    """

    name: str
    path: str
    aliases: tuple[str, ...] = ()
    authentication: Authentication
    resource: audit.Subject | None = None
    get: Method | None = None
    post: Method | None = None
    put: Method | None = None
    delete: Method | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    mount: str = "/api/v2"
    error_answer: ErrorAnswer | None = None

    def __post_init__(self) -> None:
        if not self.methods:
            raise ValueError(f"{self.name} has no method")
        for name, method in self.methods.items():
            if (self.authentication == "none") != (not method.operations):
                raise ValueError(f"{name} of {self.name} needs an operation, or no authentication")
            if method.audit is not None and self.resource is None:
                raise ValueError(f"{name} of {self.name} is audited, but tells no resource")
            if method.audit is None and any(choice.audit for choice in method.choices.values()):
                raise ValueError(f"{name} of {self.name} is audited only when its body could be read")

    @property
    def paths(self) -> tuple[str, ...]:
        """The path and its aliases."""
        return (self.path, *self.aliases)

    @property
    def methods(self) -> dict[str, Method]:
        """By HTTP method, in the order of the Allow header; HEAD is what GET is."""
        named = {"GET": self.get, "HEAD": self.get, "POST": self.post, "PUT": self.put, "DELETE": self.delete}
        return {name: method for name, method in named.items() if method is not None}
