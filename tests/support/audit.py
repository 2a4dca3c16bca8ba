"""The audit log, as tests read it."""

import json
from pathlib import Path
from typing import Any


def lines_but_posts(file: Path) -> list[dict[str, Any]]:
    """Returns the lines without those of successful POSTs, with which a test prepares its recordings."""
    lines = [json.loads(line) for line in file.read_bytes().splitlines()]
    return [line for line in lines if line["operation"] not in {"create", "update"}]
