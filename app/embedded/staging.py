"""Folders that several processes prepare once and share."""

import contextlib
import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def staging(target: Path) -> Iterator[Path]:
    """Yields a folder next to `target` to prepare it in. Only the holder of the lock may call this."""
    prefix = f".{target.name}-"
    for left_by_a_killed_process in target.parent.glob(f"{prefix}*/"):
        shutil.rmtree(left_by_a_killed_process, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=target.parent) as folder:
        yield Path(folder)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Waits until no other process holds the lock, and holds it."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
