"""How every process of the project logs: lines on standard error, as text or as JSON (RECALL_LOG_FORMAT)."""

import json
import logging
from datetime import UTC, datetime
from typing import Literal

LogFormat = Literal["text", "json"]

_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class TextFormatter(logging.Formatter):
    """A line of text. What a client once sent, such as an id, can neither begin another line nor drive a terminal."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # of the library
        record.message = "".join(map(_printable, record.message))
        return super().formatMessage(record)


def _printable(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode("ascii")


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `time` (UTC, RFC 3339), `level`, `logger`, `message` and, if there is one, `exception`.

    Of several workers a line tells which one wrote it, as `worker`. The line is ASCII, so that what clients once sent
    cannot drive a terminal.
    """

    def __init__(self, worker: int | None = None) -> None:
        super().__init__()
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, object] = {
            "time": time.replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if self._worker is not None:
            line["worker"] = self._worker
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def log_to_stderr(log_format: LogFormat, level: int = logging.INFO, *, worker: int | None = None) -> None:
    """Sets up logging for this process, which is the `worker` of this number if there are several.

    Lines below `level` are dropped.
    """
    handler = logging.StreamHandler()
    text = _TEXT if worker is None else f"[worker {worker}] {_TEXT}"
    handler.setFormatter(JsonFormatter(worker) if log_format == "json" else TextFormatter(text))
    logging.basicConfig(level=level, handlers=[handler])
    # Without a file of its own the audit log goes here, whatever the level.
    logging.getLogger("recall.audit").setLevel(logging.INFO)
    # `app.store.client` reports once what matters of these.
    logging.getLogger("elastic_transport").setLevel(max(level, logging.ERROR))
