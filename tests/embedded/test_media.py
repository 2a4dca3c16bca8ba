"""The demo's audio and its WebDAV server."""

import math
import threading
import wave
from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from random import Random

import httpx
import pytest

from app.embedded.media import FREQUENCIES, GAP, LONGEST, RATE, SHORTEST, TONE, MediaServer, keys_of, write_audio

CONTENT = Random(1).randbytes(50_000)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MediaServer]:
    folder = tmp_path_factory.mktemp("media")
    (folder / "2013").mkdir()
    (folder / "2013" / "call.wav").write_bytes(CONTENT)
    with MediaServer(folder) as server:
        yield server


@pytest.fixture
def client(server: MediaServer) -> Iterator[httpx.Client]:
    with httpx.Client(auth=(server.username, server.password), trust_env=False) as client:
        yield client


@pytest.mark.parametrize(
    ("number", "keys"),
    [
        ("+16504668888", "16504668888"),
        ("1234", "1234"),
        ("7", "7"),
        ("*21#", "*21#"),
        ("sip:Dima7@voice.example.com", "34627"),
        ("9" * 200, "9" * 24),
        ("", "0"),
    ],
)
def test_call_number_is_audible(number: str, keys: str, tmp_path: Path) -> None:
    assert keys_of(number) == keys
    path = tmp_path / "2013" / "05" / "call.wav"
    seconds = write_audio(path, number)
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, RATE)
        assert file.getnframes() / RATE == pytest.approx(seconds)
        samples = array("h", file.readframes(file.getnframes()))
    assert SHORTEST <= seconds <= LONGEST
    assert len(samples) / RATE == pytest.approx(seconds)
    pressed = (samples[start : start + TONE] for start in range(0, len(keys) * (TONE + GAP), TONE + GAP))
    assert "".join(map(key_in, pressed)) == keys


def test_file_depends_on_the_number_alone(tmp_path: Path) -> None:
    for name, number in (("a", "+16504668888"), ("b", "+16504668888"), ("c", "+16504668889")):
        write_audio(tmp_path / name, number)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() != (tmp_path / "c").read_bytes()


def test_file_is_served_with_the_password(server: MediaServer, client: httpx.Client) -> None:
    assert server.url.startswith("http://127.0.0.1:")
    assert server.url.endswith("/recordings")
    response = client.get(f"{server.url}/2013/call.wav")
    assert (response.status_code, response.content) == (200, CONTENT)
    assert response.headers["content-type"] in {"audio/wav", "audio/x-wav", "audio/vnd.wave"}
    assert client.head(f"{server.url}/2013/call.wav").headers["content-length"] == str(len(CONTENT))
    assert client.get(f"{server.url}/2013/another.wav").status_code == 404


@pytest.mark.parametrize("auth", [None, ("media", "wrong"), ("another", "wrong")])
def test_file_is_refused_without_the_password(server: MediaServer, auth: tuple[str, str] | None) -> None:
    response = httpx.get(f"{server.url}/2013/call.wav", auth=auth, trust_env=False)
    assert response.status_code == 401
    assert response.headers["www-authenticate"].startswith("Basic ")


def test_ranges_are_served(server: MediaServer, client: httpx.Client) -> None:
    for header, part in (("0-99", CONTENT[:100]), ("49990-", CONTENT[49990:]), ("-7", CONTENT[-7:])):
        response = client.get(f"{server.url}/2013/call.wav", headers={"Range": f"bytes={header}"})
        assert (response.status_code, response.content) == (206, part)
    response = client.get(f"{server.url}/2013/call.wav", headers={"Range": "bytes=50000-"})
    assert response.status_code == 416


def test_file_can_be_deleted(tmp_path: Path) -> None:
    (tmp_path / "call.wav").write_bytes(CONTENT)
    with MediaServer(tmp_path) as server:
        auth = server.username, server.password
        assert httpx.delete(f"{server.url}/call.wav", auth=auth, trust_env=False).status_code == 204
    assert not list(tmp_path.iterdir())


def test_server_stops_silently_during_a_download(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with (tmp_path / "long.wav").open("wb") as file:
        file.truncate(100_000_000)  # more than fits into buffers
    threads = threading.active_count()
    with ExitStack() as downloads:
        with MediaServer(tmp_path) as server:
            client = downloads.enter_context(httpx.Client(auth=(server.username, server.password), trust_env=False))
            for _ in range(3):
                with client.stream("GET", f"{server.url}/long.wav") as response:
                    assert response.status_code == 200
            response = downloads.enter_context(client.stream("GET", f"{server.url}/long.wav"))
            assert response.status_code == 200
        with pytest.raises(httpx.ConnectError):
            httpx.get(server.url, trust_env=False)
    assert threading.active_count() == threads
    assert capfd.readouterr() == ("", "")


def test_two_servers_have_different_passwords(tmp_path: Path) -> None:
    assert MediaServer(tmp_path).password != MediaServer(tmp_path).password


def key_in(samples: Sequence[int]) -> str:
    """The key whose two tones are the loudest (Goertzel)."""
    loudness = {frequency: goertzel(samples, frequency) for pair in FREQUENCIES.values() for frequency in pair}
    low, high = sorted(sorted(loudness, key=loudness.__getitem__)[-2:])
    (key,) = (key for key, pair in FREQUENCIES.items() if pair == (low, high))
    return key


def goertzel(samples: Sequence[int], frequency: float) -> float:
    factor = 2 * math.cos(2 * math.pi * frequency / RATE)
    before = last = 0.0
    for sample in samples:
        before, last = last, sample + factor * last - before
    return before**2 + last**2 - factor * before * last
