"""`app.logs`: what a line of the log looks like, and `app.progress` where there is no terminal."""

import json
import logging
import sys
import time

import pytest

from app import progress
from app.logs import JsonFormatter


def test_json_line_has_time_level_logger_and_message() -> None:
    record = logging.LogRecord("recall.audit", logging.INFO, "", 0, "played %s", ("caf\u00e9\n\x1b",), None)
    record.created = 1_700_000_000.25
    line = JsonFormatter().format(record)
    assert line.isascii()
    assert "\n" not in line
    assert json.loads(line) == {
        "time": "2023-11-14T22:13:20.250Z",
        "level": "INFO",
        "logger": "recall.audit",
        "message": "played caf\u00e9\n\x1b",
    }


def test_json_line_has_the_exception() -> None:
    try:
        raise ValueError("wrong")
    except ValueError:
        record = logging.LogRecord("app", logging.ERROR, "", 0, "failed", None, sys.exc_info())
    line = json.loads(JsonFormatter().format(record))
    assert line["message"] == "failed"
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("ValueError: wrong")


def test_progress_is_logged_every_ten_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with progress.progress(300, "loading") as advance, progress.progress(0, "downloading", "B") as received:
        advance(50)
        now += 10
        advance(50)
        received(20 << 20)
        now += 1
        advance(50)
    assert capsys.readouterr().err.splitlines() == [
        "loading: 100 of 300 recordings, 10/s, 20 s left",
        "downloading: 20 MiB, 2.0 MiB/s",
    ]
