"""A storage whose every byte and every end of a connection a test decides, over TCP or TLS, in threads of its own."""

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.support.certificates import Certificate

_END = b"\r\n\r\n"


class Peer:
    """The storage's side of one connection."""

    def __init__(self, connection: socket.socket, number: int) -> None:
        self._connection = connection
        self.number = number
        self.gone = threading.Event()

    def request(self) -> tuple[str, dict[str, str]] | None:
        """The next request's method with its target, and its headers in lower case; None when the client has left."""
        received = b""
        with contextlib.suppress(OSError):
            while _END not in received and (data := self._connection.recv(65536)):
                received += data
        head, end, body = received.partition(_END)
        if not end:
            self.gone.set()
            return None
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        while len(body) < int(headers.get("content-length", "0")):
            body += self._connection.recv(65536)
        return first.rpartition(" ")[0], headers

    def send(self, data: bytes) -> None:
        """Returns also when the client has left."""
        try:
            self._connection.sendall(data)
        except OSError:
            self.gone.set()

    def answer(self, body: bytes, headers: str = "", status: str = "200 OK") -> None:
        self.send(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body)

    def end(self) -> None:
        """The clean end: of TLS with close_notify."""
        with contextlib.suppress(OSError):
            if isinstance(self._connection, ssl.SSLSocket):
                # Only our half: a client that has left does not answer.
                limit = self._connection.gettimeout()
                self._connection.settimeout(0.2)
                try:
                    self._connection.unwrap()
                finally:
                    self._connection.settimeout(limit)
            else:
                self._connection.shutdown(socket.SHUT_WR)

    def send_below_tls(self, data: bytes) -> None:
        """Sends bytes that are no TLS, after `end`."""
        try:
            socket.socket.sendall(self._connection, data)  # below `SSLSocket.sendall`
        except OSError:
            self.gone.set()

    def end_below_tls(self) -> None:
        """The end of TCP, of which TLS knows nothing."""
        self._connection.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._connection.close()

    def wait_until_client_leaves(self) -> None:
        with contextlib.suppress(OSError):
            while self._connection.recv(65536):
                pass
        self.gone.set()


Script = Callable[[Peer], None]


@dataclass
class ScriptedStorage:
    """Runs the script on each connection; at its end the connection is closed."""

    script: Script
    certificate: Certificate | None
    peers: list[Peer] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"{'https' if self.certificate else 'http'}://127.0.0.1:{self.port}"

    @contextmanager
    def running(self) -> Iterator["ScriptedStorage"]:
        tls = self.certificate.server_context() if self.certificate else None
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
            threads: list[threading.Thread] = []

            def serve(connection: socket.socket) -> None:
                try:
                    connection.settimeout(20)
                    wrapped = tls.wrap_socket(connection, server_side=True) if tls else connection
                except OSError:
                    connection.close()
                    return
                with wrapped:
                    peer = Peer(wrapped, len(self.peers))
                    self.peers.append(peer)
                    self.script(peer)

            def accept() -> None:
                with contextlib.suppress(OSError):
                    while True:
                        thread = threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True)
                        threads.append(thread)
                        thread.start()

            accepting = threading.Thread(target=accept, daemon=True)
            accepting.start()
            yield self
            listener.shutdown(socket.SHUT_RDWR)
        accepting.join(20)
        for thread in threads:
            thread.join(20)
