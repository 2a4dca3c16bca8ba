"""Access for a node that root starts. It runs as an unprivileged user, which cannot enter root's home."""

import contextlib
import hashlib
import os
import secrets
import shutil
import stat
import tempfile
from pathlib import Path

from app.embedded.errors import NodeError
from app.embedded.staging import locked, staging

UNPRIVILEGED = 65534  # Elasticsearch refuses to run as root; "nobody" owns nothing it could harm


def _closed_parent(path: Path) -> Path | None:
    """Returns a folder above `path` that the unprivileged user cannot pass, such as root's home."""
    for folder in path.resolve().parents:
        status = folder.stat()
        if status.st_uid != UNPRIVILEGED and not status.st_mode & stat.S_IXOTH:
            return folder
    return None


def readable_by_all(folder: Path, program: str) -> Path:
    """Returns `folder`, or a copy of it if the unprivileged user cannot reach it. `program` is a file in it."""
    folder = folder.resolve()
    original = (folder / program).stat()
    if os.geteuid() != 0 or (_for_all(original.st_mode) and not _closed_parent(folder / program)):
        return folder
    # The program's modification time is in the name, so an upgrade of the original makes a new copy.
    version = hashlib.sha256(f"{folder} {original.st_mtime_ns}".encode()).hexdigest()[:12]
    shared = _shared_cache() / f"{folder.name}-{version}"
    with locked(shared.parent / ".lock"):
        if not shared.is_dir():
            with staging(shared) as prepared:
                copy = prepared / "copy"
                shutil.copytree(folder, copy, copy_function=_link_or_copy)
                for directory in (copy, *copy.rglob("*/")):
                    directory.chmod(0o755)
                copy.rename(shared)
    return shared


def _shared_cache() -> Path:
    """Returns the folder where root keeps files that all users may read."""
    cache = Path("/var/cache/recall")
    cache.mkdir(parents=True, exist_ok=True)
    if cache.is_symlink() or cache.stat().st_uid != 0:
        raise NodeError(f"{cache} does not belong to root")
    cache.chmod(0o755)
    return cache


def _for_all(mode: int) -> bool:
    """Returns whether all users may read the file and, if it is a program, run it."""
    return bool(mode & stat.S_IROTH) and bool(mode & stat.S_IXOTH) == bool(mode & stat.S_IXUSR)


def _link_or_copy(source: str, target: str) -> str:
    mode = Path(source).stat().st_mode
    if _for_all(mode):
        with contextlib.suppress(OSError):  # another file system, or one without links
            os.link(Path(source).resolve(), target)
            return target
    shutil.copyfile(source, target)
    Path(target).chmod(0o755 if mode & stat.S_IXUSR else 0o644)
    return target


def new_temporary_folder() -> Path:
    """Returns a path for the folder of a node. For root it is one that the unprivileged user can reach.

    The caller makes the folder where it is ready to remove it: a signal may arrive in between.
    """
    parent = Path(tempfile.gettempdir())
    if os.geteuid() == 0 and _closed_parent(parent / "any"):
        parent = Path("/var/tmp")  # noqa: S108  # the name is unpredictable
    return parent / f"recall-elasticsearch-{secrets.token_hex(8)}"


def give(folder: Path) -> None:
    """For root, makes the unprivileged user the owner of `folder` and all in it. Raises NodeError."""
    if os.geteuid() != 0:
        return
    if closed := _closed_parent(folder):
        raise NodeError(
            f"as root, Elasticsearch runs as uid {UNPRIVILEGED}, which cannot get to {folder}: "
            f"{closed} is closed to it (chmod o+x, or choose another folder)"
        )
    for path in (folder, *folder.rglob("*")):
        os.chown(path, UNPRIVILEGED, UNPRIVILEGED, follow_symlinks=False)
