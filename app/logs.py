"""How every process of the project logs: lines on standard error, as text or as JSON (RECALL_LOG_FORMAT)."""

import json
import logging
from datetime import UTC, datetime
from typing import Literal

LogFormat = Literal["text", "json"]

_TEXT = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `time` (UTC, RFC 3339), `level`, `logger`, `message` and, if there is one, `exception`.

    The line is ASCII, so that what clients once sent cannot drive a terminal.
    """

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {
            "time": time.replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def log_to_stderr(log_format: LogFormat, level: int = logging.INFO) -> None:
    """Sets up logging for this process. Lines below `level` are dropped."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else _TEXT)
    logging.basicConfig(level=level, handlers=[handler])
    # Without a file of its own the audit log goes here, whatever the level.
    logging.getLogger("recall.audit").setLevel(logging.INFO)
    # `app.store.client` reports once what matters of these.
    logging.getLogger("elastic_transport").setLevel(max(level, logging.ERROR))
