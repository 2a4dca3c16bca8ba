"""Temporary files of tests in memory."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# All nodes of the tests need less than a tenth of it.
_MUCH_MEMORY = 8 * 1024**3


@contextmanager
def temporary_files_in_memory() -> Iterator[None]:
    """While the context is open, temporary files are made where no write has to reach a disk.

    Where there is not much memory for files, or no program may be in it, they are made in the usual folder.
    A node within it needs a tenth less processor time. It outlives no loss of power, which no test is about.
    """
    memory = Path("/dev/shm")
    if not memory.is_dir() or shutil.disk_usage(memory).free < _MUCH_MEMORY or os.statvfs(memory).f_flag & os.ST_NOEXEC:
        yield
        return
    before, tempfile.tempdir = tempfile.tempdir, str(memory)
    try:
        yield
    finally:
        tempfile.tempdir = before
