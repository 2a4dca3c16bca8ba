"""Files that a command writes and that may hold recordings."""

import os
import sys
from pathlib import Path
from typing import IO

import msgspec


def open_private(path: Path, *, append: bool = False) -> IO[bytes]:
    """Opens a file to be replaced or continued. A new one is for its owner alone, whatever the umask is."""
    flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if append else os.O_TRUNC)
    return os.fdopen(os.open(path, flags, 0o600), "ab" if append else "wb")


def report_text(report: object) -> bytes:
    """Returns a report as JSON that a person can read."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"


def write_report(path: Path, report: object) -> None:
    """Writes the file of `--report`, or ends the process with an error."""
    try:
        with open_private(path) as file:
            file.write(report_text(report))
    except OSError as error:
        sys.exit(f"the report cannot be written: {error}")
