"""`app.logs`: what a line of the log looks like, `app.progress` where there is no terminal, and private files."""

import json
import logging
import os
import sys
import time
from pathlib import Path

import pytest

from app import progress
from app.cli.files import open_private
from app.logs import JsonFormatter, TextFormatter


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


def test_what_a_client_sent_begins_no_line_of_text_and_drives_no_terminal() -> None:
    sent = "a\n2026-11-26 12:00:00,000 INFO recall.audit: {}\x1b[2J\u2028\u202e\udcff caf\u00e9 \t"
    record = logging.LogRecord("app.media", logging.WARNING, "", 0, "media of %s", (sent,), None)
    line = TextFormatter("%(levelname)s %(message)s").format(record)
    assert line == (
        "WARNING media of a\\n2026-11-26 12:00:00,000 INFO recall.audit: {}\\x1b[2J\\u2028\\u202e\\udcff caf\u00e9 \\t"
    )


def test_json_line_has_the_exception() -> None:
    try:
        raise ValueError("wrong")
    except ValueError:
        record = logging.LogRecord("app", logging.ERROR, "", 0, "failed", None, sys.exc_info())
    line = json.loads(JsonFormatter().format(record))
    assert line["message"] == "failed"
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("ValueError: wrong")


@pytest.mark.parametrize("append", [False, True])
def test_file_that_may_hold_recordings_is_for_its_owner_alone(tmp_path: Path, *, append: bool) -> None:
    file = tmp_path / "refused.ndjson"
    before = os.umask(0)
    try:
        for text in (b"first\n", b"second\n"):
            with open_private(file, append=append) as opened:
                opened.write(text)
    finally:
        os.umask(before)
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_bytes() == (b"first\nsecond\n" if append else b"second\n")


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
