"""The servers beside which playing is measured: nginx as a proxy, and the storages."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from app.embedded.servers import ServerError, find_program, go_folders, running, server_folder


@contextmanager
def nginx_webdav() -> Iterator[str]:
    """Yields the URL of a folder on nginx's own WebDAV server, so fast that the proxies before it are measured."""
    with _nginx("root files; location / { dav_methods PUT DELETE; client_max_body_size 0; }") as url:
        yield f"{url}/recordings"


@contextmanager
def nginx_proxy(storage: str, connections: int, tuning: str) -> Iterator[str]:
    """Yields the URL of an nginx that passes requests on to a storage over persistent connections."""
    upstream = f"upstream storage {{ server {storage}; keepalive {connections}; }}"
    # S3's signature covers the name of the host.
    keep_alive = f'proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host {storage};'
    authorization = 'proxy_set_header Authorization "";'
    with _nginx(f"location / {{ proxy_pass http://storage; {keep_alive} {authorization} {tuning} }}", upstream) as url:
        yield url


@contextmanager
def versitygw(bucket: str, key: str, secret: str) -> Iterator[str]:
    """Yields the URL of an S3 server with one bucket."""
    with server_folder() as folder:
        (folder / "files" / bucket).mkdir(parents=True)
        (folder / "attributes").mkdir()
        program = _program("versitygw", *go_folders())
        backend = ["posix", "--sidecar", folder / "attributes", folder / "files"]

        def command(port: int) -> Sequence[object]:
            return [program, "--quiet", "--keep-alive", "--port", f"127.0.0.1:{port}", *backend]

        with running(folder, command, {"ROOT_ACCESS_KEY": key, "ROOT_SECRET_KEY": secret}) as port:
            yield f"http://127.0.0.1:{port}"


@contextmanager
def _nginx(server: str, before: str = "") -> Iterator[str]:
    """Runs nginx with its default settings, but one worker, as the service has one process."""
    with server_folder() as folder:
        (folder / "files/recordings").mkdir(parents=True)
        with running(folder, _nginx_command(folder, server, before)) as port:
            yield f"http://127.0.0.1:{port}"


def _nginx_command(folder: Path, server: str, before: str) -> Callable[[int], Sequence[object]]:
    temporary = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")

    def command(port: int) -> Sequence[object]:
        (folder / "nginx.conf").write_text(f"""
            {"user root;" if os.geteuid() == 0 else ""}
            daemon off;
            worker_processes 1;
            pid pid;
            error_log stderr;
            events {{}}
            http {{
                access_log off;
                sendfile on;
                {" ".join(f"{what}_temp_path {what};" for what in temporary)}
                {before}
                server {{ listen 127.0.0.1:{port}; {server} }}
            }}
        """)
        return [_program("nginx"), "-p", folder, "-e", "stderr", "-c", "nginx.conf"]

    return command


def _program(name: str, *folders: Path) -> str:
    program = find_program(name, *folders)
    if program is None:
        raise ServerError(f"{name} is not installed")
    return program
