"""Everything that can be configured, in one place (README.md, "Run it for real").

A value comes from the environment (`RECALL_` and the name in upper case), else from the TOML file that
`RECALL_CONFIG` names, else from the default here. Users and storages come from the file.
"""

import difflib
import math
import os
import re
import ssl
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from app.ids import id_error
from app.logs import LogFormat
from app.media_urls import AmbiguousUrl, parse_url, without_password

Role = Literal["ops", "recorder", "admin", "supervisor", "agent"]

# Roles for every contact center. A recorder may be limited to one all the same.
_OF_ALL: frozenset[Role] = frozenset({"ops", "recorder"})


# Of the path of an access group or a partition in a user's entry. `app/search/fields.py` indexes no deeper ones.
MAX_PATH_PARTS = 100

_ORIGIN = re.compile(r"https?://(?:\*\.)?[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*(?::[0-9]{1,5})?")


class ConfigurationError(Exception):
    """The configuration cannot be used; the text says which value, and why."""


# What stands in no log, also not where an error shows a value.
_SECRETS = frozenset(
    {"password", "password_hash", "secret_access_key", "elasticsearch_password", "elasticsearch_api_key"}
)


class _Configured(msgspec.Struct, frozen=True):
    """A part of the configuration, whose representation hides secrets."""

    def __repr__(self) -> str:
        values = ((name, getattr(self, name)) for name in self.__struct_fields__)
        shown = (f"{name}={'***' if name in _SECRETS and value else repr(value)}" for name, value in values)
        return f"{type(self).__name__}({', '.join(shown)})"


class User(_Configured, frozen=True, forbid_unknown_fields=True, weakref=True):
    """A `[[users]]` entry; `password_hash` comes from `scripts/users.py hash`.

    `access_groups`, `partitions` and `own_recordings` limit what the user sees (docs/contract.md section 2). An empty
    list, and False, are no limit.
    """

    name: str
    password_hash: str
    roles: tuple[Role, ...]
    contact_center: str | None = None
    permissions: tuple[str, ...] = ()
    access_groups: tuple[str, ...] = ()
    partitions: tuple[str, ...] = ()
    own_recordings: bool = False

    @property
    def is_limited(self) -> bool:
        """Whether the user sees only a part of the contact center."""
        return bool(self.access_groups or self.partitions or self.own_recordings)

    def __post_init__(self) -> None:
        if not self.name or ":" in self.name:
            raise ValueError("a user's name is not empty and holds no colon (RFC 7617)")
        if set(self.roles) - _OF_ALL and not self.contact_center:
            raise ValueError(f"user {self.name!r} needs a contact_center")
        if "ops" in self.roles and set(self.roles) <= _OF_ALL and self.contact_center:
            raise ValueError(f"user {self.name!r} is for every contact center, so it has none")
        if self.contact_center is not None and (error := id_error(self.contact_center)):
            raise ValueError(f"the contact_center of user {self.name!r} is invalid: {error}")
        if not self.password_hash.startswith("$argon2"):
            raise ValueError(f"the password_hash of user {self.name!r} is not from `scripts/users.py hash`")
        if self.is_limited and ("ops" in self.roles or set(self.roles) <= _OF_ALL):
            raise ValueError(
                f"access_groups, partitions and own_recordings of user {self.name!r} need the role admin, supervisor "
                "or agent, without ops"
            )
        for path in (*self.access_groups, *self.partitions):
            if not path or path.count("/") >= MAX_PATH_PARTS:
                raise ValueError(
                    f"{path!r} of user {self.name!r} is no path: it has 1 to {MAX_PATH_PARTS} parts, or is / alone"
                )


class WebDavConfig(_Configured, frozen=True, forbid_unknown_fields=True):
    """A `[[storage.webdav]]` entry: this URL and what is below it.

    `aliases` are other URLs of the same folder, and `case_sensitive` tells whether names that differ in case are
    different files. Both serve to recognise the same object, never as an address. A missing file is believed to be gone
    only while `presence_url` answers 200. `ca_file` has the authorities to trust for TLS.
    """

    base_url: str
    username: str | None = None
    password: str | None = None
    aliases: tuple[str, ...] = ()
    case_sensitive: bool = True
    presence_url: str | None = None
    ca_file: str | None = None

    def __post_init__(self) -> None:
        base = _parse_setting("base_url", self.base_url)
        names = [base, *(_parse_setting("alias", alias) for alias in self.aliases)]
        for origin, path in names:
            if sum(origin == other and path == other_path[: len(path)] for other, other_path in names) > 1:
                raise ValueError(f"of the URLs of the storage {self.base_url!r} one lies in another")
        if self.presence_url is not None and _parse_setting("presence_url", self.presence_url)[0] != base[0]:
            raise ValueError(f"the presence_url {self.presence_url!r} is on another server than the base_url")
        _check_ca_file(self.ca_file)


def _parse_setting(name: str, url: str) -> tuple[str, list[str]]:
    try:
        return parse_url(url.rstrip("/"))
    except AmbiguousUrl as error:
        raise ValueError(f"the {name} {without_password(url)!r} of a storage cannot be used: {error}") from None


class S3Config(_Configured, frozen=True, forbid_unknown_fields=True):
    """A `[[storage.s3]]` entry. Without an endpoint it is AWS, without a key AWS's usual credential chain.

    With `delete_versions` a deletion deletes all versions of an object. With `exact_keys` clients may post keys with a
    leading slash, empty or dot segments, which some storages take for other spellings of the same object.
    """

    buckets: tuple[str, ...]
    endpoint_url: str | None = None
    region: str | None = None
    access_key_id: str | None = None
    secret_access_key: str | None = None
    delete_versions: bool = False
    exact_keys: bool = False
    ca_file: str | None = None

    def __post_init__(self) -> None:
        if self.endpoint_url is not None:
            _check_no_password("endpoint_url", self.endpoint_url, "access_key_id and secret_access_key")
        _check_ca_file(self.ca_file)


def _check_no_password(name: str, url: str, instead: str) -> None:
    """Refuses a URL with a password, which would get into logs."""
    if without_password(url) != url:
        raise ValueError(f"{name} {without_password(url)!r} has a user name or password; use {instead}")


def _check_ca_file(ca_file: str | None) -> None:
    if ca_file is None:
        return
    try:
        ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # of TLS, too
        raise ValueError(f"the ca_file {ca_file!r} of a storage cannot be used: {error}") from error


class StorageConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where media may be; nothing else is ever contacted."""

    webdav: tuple[WebDavConfig, ...] = ()
    s3: tuple[S3Config, ...] = ()


# Settings that no variable can have.
_ONLY_IN_THE_FILE = frozenset({"RECALL_USERS", "RECALL_STORAGE"})
# Variables that are read elsewhere.
_NO_SETTINGS = frozenset({"RECALL_ELASTICSEARCH"})
# How alike a misspelt name and the right one are: one of ten letters may be wrong.
_ALIKE = 0.9

# A port of 0 is any free one.
_MAY_BE_ZERO = frozenset({"port", "replicas", "audit_days", "shutdown_seconds"})


class Settings(_Configured, frozen=True, forbid_unknown_fields=True):
    """See `README.md` for what each is for. Times are in seconds, sizes in bytes."""

    config: str | None = None
    host: str = "127.0.0.1"
    port: int = 8080
    public_url: str | None = None
    region: str = "default"
    users: tuple[User, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    storage: StorageConfig = StorageConfig()
    max_body_bytes: int = 1024 * 1024
    workers: int | Literal["auto"] = 1
    shutdown_seconds: int = 30
    max_connections: int = 1_000
    session_idle_seconds: float = 900.0
    session_seconds: float = 43_200.0
    audit_log: str | None = None
    audit_days: int = 365
    log_format: LogFormat = "text"

    searches: int = 16
    searches_per_contact_center: int = 8
    searches_per_user: int = 8
    search_wait_seconds: float = 2.0
    search_bytes: int = 64 * 1024 * 1024

    delete_seconds: float = 10.0
    storage_streams: int = 400
    streams_per_contact_center: int = 300
    streams_per_user: int = 200
    storage_wait_seconds: float = 5.0
    storage_connect_seconds: float = 5.0
    storage_first_byte_seconds: float = 15.0
    storage_stall_seconds: float = 30.0
    player_stall_seconds: float = 60.0
    player_stall_scarce_seconds: float = 4.0

    elasticsearch_url: str = "http://127.0.0.1:9200"
    elasticsearch_username: str | None = None
    elasticsearch_password: str | None = None
    elasticsearch_api_key: str | None = None
    elasticsearch_ca_file: str | None = None
    elasticsearch_connections: int = 32
    elasticsearch_timeout: float = 4.0
    elasticsearch_search_timeout: float = 4.0
    elasticsearch_write_timeout: float = 4.0
    elasticsearch_admin_timeout: float = 30.0
    index_prefix: str = "recall"
    shards: int = 1
    replicas: int = 1
    lease_seconds: float = 15.0

    def __post_init__(self) -> None:
        if not self.region or self.region != self.region.strip():
            raise ValueError("region is a non-empty string without leading or trailing white space")
        if len({user.name for user in self.users}) < len(self.users):
            raise ValueError("two users have the same name")
        self._check_urls()
        if self.elasticsearch_username is not None and self.elasticsearch_api_key is not None:
            raise ValueError("elasticsearch_username and elasticsearch_api_key exclude each other")
        if self.shards < 1 or self.replicas < 0:
            raise ValueError("shards is 1 or more, replicas 0 or more")
        if self.worker_count < 1:
            raise ValueError("workers is 1 or more, or auto")
        if self.elasticsearch_connections < 2 or self.max_body_bytes < 1:
            raise ValueError("elasticsearch_connections is 2 or more, max_body_bytes above 0")
        if not 0 <= self.audit_days <= 36_500:
            raise ValueError("audit_days is from 0 to 36500")
        self._check_numbers()
        self._check_shares()
        self._check_timeouts()
        self._check_origins()
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,99}", self.index_prefix):
            raise ValueError("index_prefix is made of a to z, 0 to 9, - and _, and begins with a letter or digit")

    @property
    def worker_count(self) -> int:
        """How many processes serve; `auto` is one for each processor that this process may use."""
        return len(os.sched_getaffinity(0)) if self.workers == "auto" else self.workers

    def _check_numbers(self) -> None:
        for name, value in msgspec.structs.asdict(self).items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                least = 0 if name in _MAY_BE_ZERO else math.nextafter(0, 1)
                if not least <= value < math.inf:  # nor "not a number"
                    raise ValueError(f"{name} is {'0 or more' if not least else 'above 0'}, and finite")

    def _check_shares(self) -> None:
        if self.searches_per_user < 8 or not 1 <= self.searches_per_contact_center <= self.searches:
            raise ValueError("searches_per_user is 8 or more, searches_per_contact_center from 1 to searches")
        if not 1 <= self.streams_per_user <= self.streams_per_contact_center:
            raise ValueError("streams_per_user is from 1 to streams_per_contact_center")
        if self.search_bytes < 32 * 1024 * 1024:
            raise ValueError("search_bytes is 33554432 or more: twice a page")

    def _check_urls(self) -> None:
        for url in self.elasticsearch_url.split(","):
            if not url.strip().startswith(("http://", "https://")):
                raise ValueError("elasticsearch_url is one or more http or https URLs, separated by commas")
            _check_no_password("elasticsearch_url", url, "elasticsearch_username and elasticsearch_password")
        if self.public_url is not None:
            parts = urlsplit(self.public_url)
            if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
                raise ValueError("public_url is an http or https URL, without a query")
            _check_no_password("public_url", self.public_url, "the URL alone")

    def _check_origins(self) -> None:
        for origin in self.allowed_origins:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"the allowed origin {origin!r} is neither like https://app.example.com nor like https://*.example.com"
                )

    def _check_timeouts(self) -> None:
        for name in ("timeout", "search_timeout", "write_timeout", "admin_timeout"):
            if getattr(self, f"elasticsearch_{name}") <= 0:
                raise ValueError(f"elasticsearch_{name} is above 0")
        if self.lease_seconds <= 0:
            raise ValueError("lease_seconds is above 0")
        # The page warns two minutes before a session ends.
        if not 180 <= self.session_idle_seconds <= self.session_seconds:
            raise ValueError("session_idle_seconds is 180 or more, and at most session_seconds")


def _read(file: Path) -> bytes:
    """Returns the bytes; raises OSError, or ConfigurationError if every user of the machine may replace the file."""
    with file.open("rb") as opened:
        folders = {path.parent: path.parent.stat() for path in (file, file.resolve())}
        for path, status in {file: os.fstat(opened.fileno()), **folders}.items():
            # With the sticky bit, as for temporary files, only the owner of a file in a folder may replace it.
            is_sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
            if status.st_mode & stat.S_IWOTH and not is_sticky:
                raise ConfigurationError(
                    f"RECALL_CONFIG={file}: every user of the machine may write {path} "
                    f"(mode {stat.S_IMODE(status.st_mode):04o}), and so become any user of the service: chmod o-w"
                )
        return opened.read()


def load_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """Reads the environment and the file it names. Raises ConfigurationError."""
    values: dict[str, Any] = {}
    if file := environment.get("RECALL_CONFIG"):
        try:
            values = msgspec.toml.decode(_read(Path(file)))
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigurationError(f"RECALL_CONFIG={file}: {error}") from error
        if "config" in values:
            raise ConfigurationError(f"RECALL_CONFIG={file}: it cannot name another configuration file")
    for field in msgspec.structs.fields(Settings):
        value = environment.get(f"RECALL_{field.name.upper()}")
        if value and field.name not in {"users", "storage"}:
            values[field.name] = value.split(",") if field.name == "allowed_origins" else value
    try:
        return msgspec.convert(values, Settings, strict=False)
    except ValueError as error:
        raise ConfigurationError(f"the configuration cannot be used: {error}") from error


def misspelt(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Maps each variable that looks like a misspelt setting to that setting.

    Others may belong to whatever starts the process: Kubernetes sets `RECALL_SERVICE_HOST` for a service `recall`.
    """
    known = {f"RECALL_{field.name.upper()}" for field in msgspec.structs.fields(Settings)} - _ONLY_IN_THE_FILE
    found: dict[str, str] = {}
    for name in environment:
        if name.startswith("RECALL_") and name not in known | _NO_SETTINGS:
            for meant in difflib.get_close_matches(name, known, n=1, cutoff=_ALIKE):
                found[name] = meant
    return found
