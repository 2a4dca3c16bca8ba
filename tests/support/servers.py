"""Storages to test against: real WebDAV and S3 servers, and servers that fail, count or tell who came; and nginx.

The real ones are processes of their own in a temporary folder, and end with the process that runs the tests, however
that ends. Where one is not installed its tests are skipped; where `CI` is "true" they fail, so that CI cannot test
nothing without anybody noticing.
"""

import asyncio
import base64
import contextlib
import hashlib
import http.client
import importlib.util
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from pathlib import Path
from random import Random
from typing import Any, NoReturn, Self
from urllib.parse import quote, urlsplit

import botocore.session
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from app.embedded import supervisor

USERNAME, PASSWORD = "media", "pass:wörd%"
BUCKETS = ("stage-recordings", "eu-recordings")

_NOBODY = 65534
_APACHE_MODULES = (
    "mpm_event", "authn_core", "authn_file", "authz_core", "authz_user", "auth_basic", "dav", "dav_fs", "mime", "unixd",
)  # fmt: skip


# --- WebDAV -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WebDav:
    """A WebDAV server that serves `folder` at `url`."""

    url: str
    folder: Path
    username: str | None = None
    password: str | None = None

    @property
    def auth(self) -> tuple[str, str] | None:
        """As httpx takes it."""
        return (self.username, self.password) if self.username and self.password else None

    def put(self, path: str, content: bytes) -> str:
        """Puts a file there, behind the server's back; its URL."""
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        # Apache gives a file that is younger than a second a weak ETag.
        an_hour_ago = time.time() - 3600
        os.utime(file, (an_hour_ago, an_hour_ago))
        for created in (file, *file.parents):
            if created == self.folder:
                break
            _give(created, _owner(self.folder))
        return self.url_of(path)

    def exists(self, path: str) -> bool:
        return (self.folder / path).is_file()

    def url_of(self, path: str) -> str:
        return f"{self.url}/{quote(path)}"


@contextlib.contextmanager
def wsgidav(*, basic: bool = False) -> Iterator[WebDav]:
    if not importlib.util.find_spec("wsgidav") or not importlib.util.find_spec("cheroot"):
        missing("wsgidav", "pip install wsgidav cheroot")
    with _folder() as folder:
        files = folder / "recordings"
        files.mkdir()
        config = folder / "wsgidav.json"
        user_mapping = {USERNAME: {"password": PASSWORD}} if basic else True
        config.write_text(
            json.dumps(
                {
                    "provider_mapping": {"/recordings": str(files)},
                    "simple_dc": {"user_mapping": {"*": user_mapping}},
                    "http_authenticator": {"accept_basic": True, "accept_digest": False, "default_to_digest": False},
                }
            )
        )
        command = [sys.executable, "-m", "wsgidav.server.server_cli", "--config", config, "--host", "127.0.0.1"]
        with _running(folder, lambda port: [*command, "--port", port]) as port:
            yield _webdav(port, files, basic=basic)


@contextlib.contextmanager
def apache(*, basic: bool = False) -> Iterator[WebDav]:
    program, modules = _program("apache2") or _program("httpd"), _apache_modules()
    if not program or not modules:
        missing("Apache", "apt-get install apache2-bin")
    with _folder() as folder:
        for name in ("www/recordings", "lock"):
            (folder / name).mkdir(parents=True)
        hashed = base64.b64encode(hashlib.sha1(PASSWORD.encode()).digest()).decode()
        (folder / "passwords").write_text(f"{USERNAME}:{{SHA}}{hashed}\n")

        def command(port: str) -> list[Any]:
            (folder / "apache.conf").write_text(_apache_config(folder, modules, port, basic=basic))
            return [program, "-f", folder / "apache.conf", "-D", "FOREGROUND"]

        # Started as root it would want to become somebody else; this way it is somebody else from the start.
        uid = _NOBODY if os.geteuid() == 0 else None
        with _running(folder, command, uid=uid) as port:
            yield _webdav(port, folder / "www/recordings", basic=basic)


def _apache_modules() -> Path | None:
    candidates = ("/usr/lib/apache2/modules", "/usr/lib64/httpd/modules", "/usr/lib/httpd/modules")
    return next((path for path in map(Path, candidates) if (path / "mod_dav_fs.so").is_file()), None)


def _apache_config(folder: Path, modules: Path, port: str, *, basic: bool) -> str:
    loads = "\n".join(
        f"LoadModule {name}_module {modules}/mod_{name}.so"
        for name in _APACHE_MODULES
        if (modules / f"mod_{name}.so").is_file()  # the others are part of the program
    )
    access = (
        f'AuthType Basic\nAuthName "recordings"\nAuthUserFile {folder}/passwords\nRequire valid-user'
        if basic
        else "Require all granted"
    )
    return f"""
        ServerRoot {folder}
        DefaultRuntimeDir {folder}
        {loads}
        Listen 127.0.0.1:{port}
        ServerName 127.0.0.1
        PidFile {folder}/pid
        ErrorLog {folder}/error.log
        Mutex file:{folder}/lock default
        DocumentRoot {folder}/www
        DavLockDB {folder}/lock/dav
        TypesConfig /dev/null
        AddType audio/wav .wav
        AddType audio/mpeg .mp3
        StartServers 1
        ServerLimit 5
        ThreadsPerChild 64
        MinSpareThreads 1
        MaxRequestWorkers 320
        MaxKeepAliveRequests 0
        <Location /recordings>
            Dav On
            {access}
        </Location>
    """


def _webdav(port: int, folder: Path, *, basic: bool) -> WebDav:
    url = f"http://127.0.0.1:{port}/recordings"
    return WebDav(url, folder, USERNAME, PASSWORD) if basic else WebDav(url, folder)


# --- S3 -----------------------------------------------------------------------------------------------------


class S3:
    """An S3 server with the BUCKETS. `folder` has its objects as files, where it keeps such."""

    def __init__(self, port: int, folder: Path | None, access_key_id: str, secret_access_key: str) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.region = "us-east-1"
        self.access_key_id = access_key_id
        self.secret_access_key = secret_access_key
        self._folder = folder
        config = Config(
            s3={"addressing_style": "path"}, retries={"max_attempts": 1}, connect_timeout=5, read_timeout=30, proxies={}
        )
        # The official synchronous client: nothing of ours is involved in what a test prepares and checks.
        self.client = botocore.session.Session().create_client("s3", config=config, **self.options)
        for bucket in BUCKETS:
            self.client.create_bucket(Bucket=bucket)

    @property
    def options(self) -> dict[str, str]:
        """Where and who, as every botocore and aiobotocore client takes it."""
        return {
            "endpoint_url": self.url,
            "region_name": self.region,
            "aws_access_key_id": self.access_key_id,
            "aws_secret_access_key": self.secret_access_key,
        }

    def put(self, key: str, content: bytes, *, bucket: str = BUCKETS[0], content_type: str = "audio/wav") -> None:
        self.client.put_object(Bucket=bucket, Key=key, Body=content, ContentType=content_type)

    def exists(self, key: str, *, bucket: str = BUCKETS[0]) -> bool:
        if self._folder:
            return (self._folder / bucket / key).is_file()
        try:
            self.client.head_object(Bucket=bucket, Key=key)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return False
            raise
        return True


@contextlib.contextmanager
def versitygw() -> Iterator[S3]:
    """Checks signatures and when they expire."""
    program = _program("versitygw", *_go_folders())
    if not program:
        missing("versitygw", "go install github.com/versity/versitygw/cmd/versitygw@v1.8.0")
    with _folder() as folder:
        for name in ("files", "attributes"):
            (folder / name).mkdir()
        # Without --sidecar it needs extended attributes, which not every temporary folder has.
        backend = ["posix", "--sidecar", folder / "attributes", folder / "files"]
        secrets = {"ROOT_ACCESS_KEY": "versity", "ROOT_SECRET_KEY": "versity/secret+key"}
        with _running(
            folder, lambda port: [program, "--quiet", "--keep-alive", "--port", f"127.0.0.1:{port}", *backend], secrets
        ) as port:
            s3 = S3(port, folder / "files", *secrets.values())
            with contextlib.closing(s3.client):
                yield s3


@contextlib.contextmanager
def moto() -> Iterator[S3]:
    """Checks neither signatures nor when they expire: nothing to test authentication with."""
    if not importlib.util.find_spec("moto") or not importlib.util.find_spec("flask"):
        missing("moto", "pip install 'moto[server]'")
    with _folder() as folder:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p"]
        with _running(folder, lambda port: [*command, port]) as port:
            s3 = S3(port, None, "moto", "moto-secret")
            with contextlib.closing(s3.client):
                yield s3


# --- A proxy ------------------------------------------------------------------------------------------------

_NGINX_TEMPLATE = Path(__file__).parents[2] / "docs/examples/nginx.conf.template"


@contextlib.contextmanager
def nginx(app: str, resolver: str) -> Iterator[str]:
    """The configuration of docs/examples/ in front of the service at `app`, name and port; the URL of nginx."""
    program = _program("nginx")
    if not program:
        missing("nginx", "apt-get install nginx")
    with _folder() as folder:

        def command(port: str) -> list[Any]:
            values = {"LISTEN": f"127.0.0.1:{port}", "RECALL_APP": app, "RESOLVER": resolver}
            recall = _NGINX_TEMPLATE.read_text().replace("/dev/stdout", f"{folder}/access.log")
            recall = recall.replace(" valid=5s", " valid=1s")  # no test is to wait for longer
            for name, value in values.items():
                recall = recall.replace(f"${{{name}}}", value)
            (folder / "nginx.conf").write_text(_nginx_config(folder, recall))
            return [program, "-c", folder / "nginx.conf", "-e", folder / "error.log"]

        with _running(folder, command) as port:
            yield f"http://127.0.0.1:{port}"


def _nginx_config(folder: Path, recall: str) -> str:
    """What the official image has around a template."""
    temporary = "\n".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"daemon off; pid {folder}/pid; events {{}} http {{ {temporary}\n{recall} }}"


# --- Processes ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _running(
    folder: Path,
    command: Callable[[str], Sequence[Any]],
    environment: dict[str, str] | None = None,
    *,
    uid: int | None = None,
) -> Iterator[int]:
    """Runs a server in the folder; the port at which it answers HTTP. `command` makes its command for a port."""
    port = free_port()
    user = [] if uid is None else ["--user", str(uid)]
    arguments = [sys.executable, "-I", "-S", supervisor.__file__, *user, "--remove", folder, "--", *command(str(port))]
    if uid is not None:
        for path in (folder, *folder.rglob("*")):
            _give(path, (uid, uid))
    log = folder / "log"
    with (
        log.open("wb") as stderr,
        # It stops the server at the end of its input, so also when we are killed.
        subprocess.Popen(
            list(map(str, arguments)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd=folder,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        ) as process,
    ):
        try:
            assert process.stdin  # for the type checker
            assert process.stdout
            os.set_blocking(process.stdout.fileno(), False)
            process.stdin.write(b"start\n")
            process.stdin.flush()
            deadline = time.monotonic() + 60
            while not _answers(port):
                if process.stdout.read() is not None or time.monotonic() > deadline:
                    logs = "".join(path.read_text(errors="replace") for path in sorted(folder.glob("*log")))
                    raise RuntimeError(f"{command(str(port))[0]} does not start:\n{logs[-5000:]}")
                time.sleep(0.05)
            yield port
        finally:
            process.communicate()


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    # The supervisor may have removed it already.
    with tempfile.TemporaryDirectory(prefix="recall-storage-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o711)  # Apache may be another user
        yield folder


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("HEAD", "/")
        connection.getresponse()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True


def free_port() -> int:
    """Below those that outgoing connections are given, one of which could otherwise be faster than the server."""
    random = Random()
    while True:
        port = random.randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def _program(name: str, *folders: Path) -> str | None:
    # Not everybody has sbin on the path.
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", *map(str, folders)])
    return shutil.which(name, path=path)


def _go_folders() -> list[Path]:
    """Where `go install` puts programs."""
    folders = [Path.home() / "go" / "bin"]
    if go := shutil.which("go", path=f"{os.environ.get('PATH', os.defpath)}{os.pathsep}/usr/local/go/bin"):
        told = json.loads(
            subprocess.run([go, "env", "-json", "GOBIN", "GOPATH"], capture_output=True, check=True).stdout
        )
        folders = [Path(told["GOBIN"] or f"{told['GOPATH'].split(os.pathsep)[0]}/bin"), *folders]
    return folders


def _owner(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_uid, status.st_gid


def _give(path: Path, owner: tuple[int, int]) -> None:
    if _owner(path) != owner:
        os.chown(path, *owner)


def missing(what: str, how: str) -> NoReturn:
    reason = f"{what} is not installed: {how}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


# --- Servers in the test's own event loop -------------------------------------------------------------------

# A prime length: a piece from the wrong place is never the right one.
_PATTERN = memoryview(Random(1).randbytes(65_521) * 3)
_PIECE = 1 << 16
_HEADERS_END = b"\r\n\r\n"


def generated(start: int, stop: int) -> bytes:
    """What a generated file has from `start` to before `stop`."""
    return b"".join(_generated(start, stop))


def _generated(start: int, stop: int) -> Iterator[memoryview]:
    for at in range(start, stop, _PIECE):
        offset = at % (len(_PATTERN) // 3)
        yield _PATTERN[offset : offset + min(_PIECE, stop - at)]


@dataclass(frozen=True)
class Request:
    method: str
    target: str  # as it was sent
    headers: dict[str, str]  # names in lower case
    body: bytes = b""


class Connection(asyncio.Protocol):
    """One connection of a `LocalServer`. When the client leaves, what is being answered is cancelled."""

    transport: asyncio.Transport

    def __init__(self, server: "LocalServer") -> None:
        self._server = server
        self._received = b""
        self._writable = asyncio.Event()
        self._writable.set()
        self._bodyless = False
        self.answering: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._server.connections += 1
        self._server.open.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._server.open.discard(self)
        if self.answering:
            self.answering.cancel()

    def eof_received(self) -> None:
        self.transport.abort()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._next()

    def _next(self) -> None:
        head, end, rest = self._received.partition(_HEADERS_END)
        if self.answering or not end:
            return
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", "0"))
        if len(rest) < length:
            return
        self._received = rest[length:]
        request = Request(method, target, headers, rest[:length])
        self._bodyless = method == "HEAD"
        self._server.requests.append(request)
        self.answering = asyncio.create_task(self._answer(request))

    async def _answer(self, request: Request) -> None:
        try:
            await self._server.answer(request, self)
        except Exception as error:  # noqa: BLE001  # the test is told at its end
            self._server.errors.append(error)
            self.transport.abort()
        self.answering = None
        if not self.transport.is_closing():
            self._next()

    async def send(self, data: bytes | memoryview) -> None:
        """Sends a piece of the body, of which HEAD gets none. Waits as long as the client does not read."""
        if self._bodyless:
            return
        self.transport.write(data)
        self._server.bytes_sent += len(data)
        await self._writable.wait()

    async def start(self, status: int, headers: dict[str, str]) -> None:
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{name}: {headers[name]}" for name in headers)]
        self.transport.write("\r\n".join(lines).encode("latin-1") + _HEADERS_END)
        await self._writable.wait()

    async def respond(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        length = {} if status in {204, 304} else {"Content-Length": str(len(body))}
        await self.start(status, {**length, **(headers or {})})
        await self.send(body)

    async def wait_until_client_leaves(self) -> None:
        await asyncio.Event().wait()  # `connection_lost` cancels this

    def reset(self) -> None:
        """The client gets RST instead of the end."""
        linger = struct.pack("ii", 1, 0)
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.transport.abort()


class LocalServer:
    """A server in the running event loop that counts; a subclass answers.

    `connections` were ever made, `open_connections` are; `answering` of them are in the middle of an answer.
    `bytes_sent` are the bytes of bodies that the network took, or will at once.
    """

    def __init__(self) -> None:
        self.connections = 0
        self.bytes_sent = 0
        self.requests: list[Request] = []
        self.errors: list[Exception] = []
        self.open: set[Connection] = set()

    @property
    def open_connections(self) -> int:
        return len(self.open)

    @property
    def answering(self) -> int:
        return sum(connection.answering is not None for connection in self.open)

    @property
    def url(self) -> str:
        """The base of its files; for S3 the last part is the bucket."""
        return f"{self.origin}/recordings"

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def answer(self, request: Request, connection: Connection) -> None:
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        self.port = free_port()
        self._servers = [await self._listen("127.0.0.1")]
        with contextlib.suppress(OSError):  # no IPv6 here
            self._servers.append(await self._listen("::1"))
        return self

    async def _listen(self, host: str) -> asyncio.Server:
        return await asyncio.get_running_loop().create_server(lambda: Connection(self), host, self.port)

    async def __aexit__(self, *_: object) -> None:
        for server in self._servers:
            server.close()
        tasks = [connection.answering for connection in self.open if connection.answering]
        for connection in list(self.open):
            connection.transport.abort()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for server in self._servers:
            await server.wait_closed()
        if self.errors:
            raise ExceptionGroup("the server failed", self.errors)


class Trap(LocalServer):
    """Nobody is to come here: `connections` and `requests` tell who did. Also at `[::1]`, where there is IPv6."""

    async def answer(self, request: Request, connection: Connection) -> None:
        await connection.respond(200, {"Content-Type": "audio/wav"}, b"the trap's content")


class CountingStorage(LocalServer):
    """WebDAV's GET, HEAD and DELETE of generated files, at `rate` bytes a second for each connection, or at once."""

    LAST_MODIFIED = formatdate(1_368_819_932, usegmt=True)

    def __init__(self, rate: int | None = None) -> None:
        super().__init__()
        self.rate = rate
        self.sizes: dict[str, int] = {}

    def put(self, path: str, size: int) -> str:
        """A file with the content `generated(0, size)`; its URL."""
        url = f"{self.url}/{quote(path)}"
        self.sizes[urlsplit(url).path] = size
        return url

    def exists(self, path: str) -> bool:
        return f"/recordings/{quote(path)}" in self.sizes

    async def answer(self, request: Request, connection: Connection) -> None:
        size = self.sizes.get(request.target)
        if size is None:
            await connection.respond(404)
        elif request.method == "DELETE":
            del self.sizes[request.target]
            await connection.respond(204)
        elif request.method not in {"GET", "HEAD"}:
            await connection.respond(405)
        else:
            await self._get(request, connection, size)

    async def _get(self, request: Request, connection: Connection, size: int) -> None:
        etag = f'"{size:x}"'
        validators = {"ETag": etag, "Last-Modified": self.LAST_MODIFIED}
        wanted = request.headers.get("range")
        if request.headers.get("if-range", etag) not in validators.values():
            wanted = None
        status, part = _part(wanted, size)
        if etag in request.headers.get("if-none-match", ""):
            await connection.respond(304, validators)
        elif status == 416:
            await connection.respond(416, {"Content-Range": f"bytes */{size}"})
        else:
            await connection.start(status, {**_about(status, part, size), "Accept-Ranges": "bytes", **validators})
            if request.method == "GET":
                await self._send(connection, part)

    async def _send(self, connection: Connection, part: range) -> None:
        at = part.start
        while at < part.stop:
            # A twentieth of a second's worth, then a pause of as long.
            end = min(part.stop, at + (self.rate // 20 or 1 if self.rate else _PIECE))
            for piece in _generated(at, end):
                await connection.send(piece)
            at = end
            await asyncio.sleep(0.05 if self.rate else 0)


class FaultServer(LocalServer):
    """Answers whatever it is asked in the way that the first part of the path below `url` says.

    Except for their fault, GETs are answered well, with the file `generated(0, SIZE)`, also in ranges.
    """

    SIZE = 1_000_000
    # What no client of ours may show to its own.
    SECRET = "a detail of the storage"
    FAULTS = (
        "stall-before-headers",
        "stall-in-headers",
        "stall-in-body",
        "short-body",
        "reset-before-headers",
        "reset-in-body",
        "not-http",
        "redirect",
        "endless",
        "ignores-range",
        "wrong-range",
        "status-500",
    )

    def __init__(self, redirect_to: str = "http://192.0.2.1/recordings/call.wav") -> None:
        super().__init__()
        self.redirect_to = redirect_to

    def url_of(self, fault: str, path: str = "call.wav") -> str:
        """`fault` is one of FAULTS, or `status-` and any other status."""
        return f"{self.url}/{fault}/{path}"

    async def answer(self, request: Request, connection: Connection) -> None:
        fault = re.split("[/?]", request.target)[2]
        if fault.startswith("status-"):
            await connection.respond(int(fault.removeprefix("status-")), body=self.SECRET.encode())
            return
        await getattr(self, f"_{fault.replace('-', '_')}")(request, connection)

    async def _stall_before_headers(self, request: Request, connection: Connection) -> None:
        await connection.wait_until_client_leaves()

    async def _stall_in_headers(self, request: Request, connection: Connection) -> None:
        connection.transport.write(b"HTTP/1.1 200 OK\r\nContent-")
        await connection.wait_until_client_leaves()

    async def _stall_in_body(self, request: Request, connection: Connection) -> None:
        await self._half(request, connection)
        await connection.wait_until_client_leaves()

    async def _short_body(self, request: Request, connection: Connection) -> None:
        await self._half(request, connection)
        connection.transport.close()

    async def _reset_before_headers(self, request: Request, connection: Connection) -> None:
        connection.reset()

    async def _reset_in_body(self, request: Request, connection: Connection) -> None:
        await self._half(request, connection)
        connection.reset()

    async def _not_http(self, request: Request, connection: Connection) -> None:
        connection.transport.write(b"220 ready for you\r\n\r\n")
        connection.transport.close()

    async def _redirect(self, request: Request, connection: Connection) -> None:
        await connection.respond(302, {"Location": self.redirect_to})

    async def _endless(self, request: Request, connection: Connection) -> None:
        await connection.start(200, {"Content-Type": "audio/wav", "Transfer-Encoding": "chunked"})
        while True:
            await connection.send(b"%x\r\n" % _PIECE)
            await connection.send(_PATTERN[:_PIECE])
            await connection.send(b"\r\n")
            await asyncio.sleep(0)  # or nobody else would get a turn

    async def _ignores_range(self, request: Request, connection: Connection) -> None:
        await self._send(connection, 200, range(self.SIZE))

    async def _wrong_range(self, request: Request, connection: Connection) -> None:
        """It begins a byte later than it should."""
        part = self._part(request)[1]
        await self._send(connection, 206, range(part.start + 1, part.stop))

    async def _half(self, request: Request, connection: Connection) -> None:
        status, part = self._part(request)
        await self._send(connection, status, part, part.start + len(part) // 2)

    async def _send(self, connection: Connection, status: int, part: range, stop: int | None = None) -> None:
        await connection.start(status, _about(status, part, self.SIZE))
        for piece in _generated(part.start, part.stop if stop is None else stop):
            await connection.send(piece)

    def _part(self, request: Request) -> tuple[int, range]:
        return _part(request.headers.get("range"), self.SIZE)


def _part(wanted: str | None, size: int) -> tuple[int, range]:
    """The status and the bytes that a Range header asks for: all, if it is absent or not a single good range."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted or "")
    first, last = match.groups() if match else ("", "")
    if not (first or last) or (first and last and int(last) < int(first)):
        return 200, range(size)
    if first:
        part = range(int(first), min(size, int(last) + 1) if last else size)
    else:
        part = range(max(0, size - int(last)), size)
    return (206, part) if part else (416, part)


def _about(status: int, part: range, size: int) -> dict[str, str]:
    headers = {"Content-Type": "audio/wav", "Content-Length": str(len(part))}
    return {**headers, "Content-Range": f"bytes {part.start}-{part.stop - 1}/{size}"} if status == 206 else headers
