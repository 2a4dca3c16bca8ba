"""Media for the demo: audio files that sound different, and a WebDAV server to play them from."""

import contextlib
import logging
import math
import secrets
import socket
import threading
import wave
import zlib
from array import array
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from weakref import WeakSet

from cheroot.server import HTTPConnection
from cheroot.wsgi import Server
from wsgidav.fs_dav_provider import FilesystemProvider  # type: ignore[import-untyped]
from wsgidav.wsgidav_app import WsgiDAVApp  # type: ignore[import-untyped]

RATE = 8000  # samples per second, as on the telephone
SHORTEST, LONGEST = 3.0, 20.0  # seconds

# The two tones of each key (ITU-T Q.23).
FREQUENCIES = {
    key: (low, high)
    for low, keys in ((697, "123A"), (770, "456B"), (852, "789C"), (941, "*0#D"))
    for key, high in zip(keys, (1209, 1336, 1477, 1633), strict=True)
}
_KEYPAD = str.maketrans("abcdefghijklmnopqrstuvwxyz", "22233344455566677778889999")

# In samples.
TONE, GAP = RATE * 160 // 1000, RATE * 80 // 1000
_PAUSE = RATE * 600 // 1000
_FADE = RATE * 5 // 1000

_log = logging.getLogger(__name__)


def write_audio(path: Path, number: str) -> float:
    """Writes a WAV file in which `number` is dialled, once or several times. Returns its length in seconds.

    The same number makes the same file. For a SIP address, the keys with the letters of its user are dialled.
    """
    call = b"".join(_key(key) for key in keys_of(number)) + bytes(2 * _PAUSE)
    seconds = len(call) / 2 / RATE
    # Files of various lengths make a better demo. The length depends on the number only, so runs do not differ.
    times = max(1 + zlib.crc32(number.encode()) % 4, math.ceil(SHORTEST / seconds))
    times = min(times, int(LONGEST / seconds))
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(call * times)
    return seconds * times


def keys_of(number: str) -> str:
    """Returns the keys to press for a number or a SIP address."""
    user = number.lower().removeprefix("sip:").partition("@")[0]
    keys = "".join(key for key in user.translate(_KEYPAD) if key in FREQUENCIES)
    return keys[:24] or "0"


@lru_cache
def _key(key: str) -> bytes:
    """Returns the two tones of a key and the silence after them."""
    low, high = (2 * math.pi * frequency / RATE for frequency in FREQUENCIES[key])
    samples = array("h", bytes(2 * (TONE + GAP)))
    for i in range(TONE):
        # An abrupt beginning or end is heard as a click.
        loudness = min(1.0, i / _FADE, (TONE - i) / _FADE)
        samples[i] = round(10_000 * loudness * (math.sin(low * i) + math.sin(high * i)))
    return samples.tobytes()


class MediaServer:
    """A WebDAV server on loopback over a folder, with Basic authentication.

        with MediaServer(folder) as media:
            ...  # media.url, media.username, media.password

    It runs in a thread of this process and ends with the process.
    """

    username = "media"

    def __init__(self, folder: Path, port: int = 0) -> None:
        """Takes a free port if `port` is 0."""
        self.password = secrets.token_urlsafe(16)
        self.url = ""
        # Otherwise the server recommends TLS, even on loopback.
        logging.getLogger("wsgidav").setLevel(logging.ERROR)
        self._server = Server(
            ("127.0.0.1", port),
            _application(folder, self.username, self.password),
            numthreads=16,
            timeout=60,  # connections should idle longer here than in a client's pool
            shutdown_timeout=1,
        )
        self._sockets: WeakSet[socket.socket] = WeakSet()
        self._server.ConnectionClass = self._connect
        # The server's own handler writes to standard error whenever a player disconnects.
        self._server.error_log = _error_log  # type: ignore[method-assign]

    def __enter__(self) -> Self:
        """Binds the port and starts to answer."""
        self._server.prepare()
        self.url = f"http://127.0.0.1:{self._server.bind_addr[1]}/recordings"
        self._thread = threading.Thread(target=self._server.serve, name="media", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops immediately. The server's own way would wait for clients that have stopped reading."""
        for connection in list(self._sockets):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._server.stop()
        self._thread.join()

    def _connect(self, server: Server, connection: socket.socket, makefile: Any) -> HTTPConnection:
        self._sockets.add(connection)
        return HTTPConnection(server, connection, makefile)


def _application(folder: Path, username: str, password: str) -> WsgiDAVApp:
    return WsgiDAVApp(
        {
            "provider_mapping": {"/recordings": FilesystemProvider(str(folder))},
            "simple_dc": {"user_mapping": {"*": {username: {"password": password}}}},
            "http_authenticator": {"accept_basic": True, "accept_digest": False, "default_to_digest": False},
            "dir_browser": {"enable": False},
            "logging": {"enable": False},  # it would take over standard output
            "verbose": 1,
        }
    )


def _error_log(msg: str = "", level: int = logging.INFO, traceback: bool = False) -> None:
    if level >= logging.WARNING:
        _log.log(level, "%s", msg, exc_info=traceback)
