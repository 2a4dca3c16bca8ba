"""The servers beside which playing is measured: nginx as a proxy, and the storages."""

import asyncio
import multiprocessing
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from app.embedded.servers import ServerError, find_program, free_port, go_folders, running, server_folder

_SLOW_SECONDS = 0.04


@dataclass(frozen=True)
class WebDav:
    """A folder on a WebDAV server, over TCP and over TLS, and the file of the authority to trust."""

    url: str
    tls_url: str
    ca_file: Path


@contextmanager
def nginx_webdav() -> Iterator[WebDav]:
    """Yields a folder on nginx's own WebDAV server, so fast that the proxies before it are measured."""
    with server_folder() as folder:
        certificate, key = folder / "certificate.pem", folder / "key.pem"
        _make_certificate(certificate, key)
        tls_port = free_port()
        tls = f"listen 127.0.0.1:{tls_port} ssl; ssl_certificate {certificate}; ssl_certificate_key {key};"
        with _nginx(f"{tls} root files; location / {{ dav_methods PUT DELETE; client_max_body_size 0; }}") as url:
            yield WebDav(f"{url}/recordings", f"https://127.0.0.1:{tls_port}/recordings", certificate)


@contextmanager
def slow_webdav() -> Iterator[str]:
    """Yields a folder on a server that has every file, and takes 40 ms for each DELETE."""
    port = free_port()
    process = multiprocessing.get_context("spawn").Process(target=_run_slow_webdav, args=(port,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{port}/slow"
    finally:
        process.terminate()
        process.join()


def _run_slow_webdav(port: int) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, OSError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                if head.startswith(b"DELETE "):
                    await asyncio.sleep(_SLOW_SECONDS)
                    writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
                elif head.startswith((b"GET ", b"HEAD ")):
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: audio/wav\r\nContent-Length: 4\r\n\r\n")
                    writer.write(b"" if head.startswith(b"HEAD") else b"RIFF")
                else:
                    writer.write(b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n")
                await writer.drain()
        writer.close()

    async def run() -> None:
        async with await asyncio.start_server(serve, "127.0.0.1", port) as server:
            await server.serve_forever()

    asyncio.run(run())


@contextmanager
def nginx_proxy(storage: str, connections: int, tuning: str, ca_file: Path | None = None) -> Iterator[str]:
    """Yields the URL of an nginx that passes requests on to a storage over persistent connections.

    With `ca_file` they are TLS.
    """
    upstream = f"upstream storage {{ server {storage}; keepalive {connections}; }}"
    # S3's signature covers the name of the host.
    keep_alive = f'proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host {storage};'
    authorization = 'proxy_set_header Authorization "";'
    scheme, tls = "http", ""
    if ca_file is not None:
        scheme, tls = (
            "https",
            f"proxy_ssl_verify on; proxy_ssl_trusted_certificate {ca_file}; proxy_ssl_name 127.0.0.1;",
        )
    proxy = f"proxy_pass {scheme}://storage; {tls} {keep_alive} {authorization} {tuning}"
    with _nginx(f"location / {{ {proxy} }}", upstream) as url:
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
    """Runs nginx with its default settings, but one worker, as the service has one process.

    It keeps a connection for as long as the player does, as the service does.
    """
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
                keepalive_requests 1000000;
                {" ".join(f"{what}_temp_path {what};" for what in temporary)}
                {before}
                server {{ listen 127.0.0.1:{port}; {server} }}
            }}
        """)
        return [_program("nginx"), "-p", folder, "-e", "stderr", "-c", "nginx.conf"]

    return command


def _make_certificate(certificate: Path, key: Path) -> None:
    """Makes a certificate for 127.0.0.1, which is its own authority."""
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([_program("openssl"), "req", "-x509", *kind, *subject, *files], check=True, capture_output=True)


def _program(name: str, *folders: Path) -> str:
    program = find_program(name, *folders)
    if program is None:
        raise ServerError(f"{name} is not installed")
    return program
