"""Files that a command writes and that may hold recordings."""

import os
from pathlib import Path
from typing import IO


def open_private(path: Path, *, append: bool = False) -> IO[bytes]:
    """Opens a file to be replaced or continued. A new one is for its owner alone, whatever the umask is."""
    flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if append else os.O_TRUNC)
    return os.fdopen(os.open(path, flags, 0o600), "ab" if append else "wb")
