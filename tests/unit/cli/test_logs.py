"""The log: its forms, its file that rotates, the journal; it never shows the key."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobfs import process
from jobfs.cli import logs

pytestmark = pytest.mark.usefixtures("own_logging")


def test_no_log_line_has_the_key_or_terminal_control_characters(capfd: pytest.CaptureFixture[str]) -> None:
    """vfs/semantics.md 6: the API key is never in a log."""
    logs.set_up_logging("debug", lambda: "sk-secret")
    try:
        raise ValueError("header sk-secret refused \x1b[2J")
    except ValueError:
        logging.getLogger("jobfs.api").debug("failed: %s", "a\x1b]0;owned\x07b\nfine\udc80", exc_info=True)
        logging.getLogger("other").error("Bearer sk-secret")
    err = capfd.readouterr().err
    assert r"failed: a\x1b]0;owned\x07b\nfine\udc80" + "\nTraceback" in err
    assert "ValueError: header *** refused \\x1b[2J\n" in err
    assert "Bearer ***" in err
    assert "sk-secret" not in err


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_only_jobfs_loggers_follow_the_log_level(level: str, capfd: pytest.CaptureFixture[str]) -> None:
    logs.set_up_logging(level, lambda: "k")
    names = ["debug", "info", "warning", "error"]
    for name in names:
        getattr(logging.getLogger("jobfs.x"), name)(f"ours-{name}")
        getattr(logging.getLogger("httpx"), name)(f"theirs-{name}")
    err = capfd.readouterr().err
    assert [name for name in names if f"ours-{name}" in err] == names[names.index(level) :]
    assert [name for name in names if f"theirs-{name}" in err] == ["warning", "error"]


#: A process in the background, as `run_in_background` makes it.
_BACKGROUND = """
import logging, os, sys
from pathlib import Path
from jobfs.cli import logs

os.umask(0o077)
logs._LIMIT = 2000
logs.set_up_logging("info", lambda: "sk-secret")
logs.log_to_file(Path(sys.argv[1]))
for number in range(9):
    logging.getLogger("jobfs.test").info("line %d of sk-secret %s", number, "x" * 300)
print("printed after", flush=True)
os.write(2, b"and written after\\n")
logging.getLogger("jobfs.test").error("again")
logging.shutdown()
"""


def test_the_log_rotates_at_run_time_and_includes_printed_output(tmp_path: Path) -> None:
    """vfs/semantics.md 6, bounds: the log rotates while it runs."""
    log = tmp_path / "jobfs.log"
    done = subprocess.run(
        [sys.executable, "-c", _BACKGROUND, log], capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    files = sorted(tmp_path.glob("jobfs.log*"))
    assert [path.name for path in files] == ["jobfs.log", "jobfs.log.1"]
    lines = log.read_text().splitlines()
    assert lines[-3:-1] == ["printed after", "and written after"]
    assert lines[-1].endswith("ERROR jobfs.test: again")
    older = (tmp_path / "jobfs.log.1").read_text()
    assert "line 1 of ***" in older + log.read_text()
    for path in files:
        assert path.stat().st_size < 2200
        assert path.stat().st_mode & 0o777 == 0o600, path
        assert "sk-secret" not in path.read_text()


#: A process that logs a warning, what went wrong, and what the user is told.
_TELLING = """
import logging, threading
from jobfs.cli import logs

logs.set_up_logging("info", lambda: "sk-secret", "json")
log = logging.getLogger("jobfs.test")
log.warning("%s: tried again later", "f")
try:
    raise ValueError("sk-secret \\x1b[2J")
except ValueError:
    log.exception("it \\n broke")
logs.log_thread_crashes()
crash = threading.Thread(target=lambda: 1 / 0, name="worker")
crash.start()
crash.join()
logs.warn_user("sending 3 unsent files")
"""


def test_as_json_each_line_is_an_object_with_the_same_fields() -> None:
    done = subprocess.run([sys.executable, "-c", _TELLING], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (0, "")
    assert not any(word in done.stderr for word in ("sk-secret", "\x1b"))
    records = [json.loads(line) for line in done.stderr.splitlines()]
    assert {tuple(record) for record in records} == {("time", "level", "logger", "message", "exception")}
    warned, broke, crashed, said = records
    assert warned["message"] == "f: tried again later"
    assert (broke["level"], broke["logger"], broke["message"]) == ("error", "jobfs.test", "it \n broke")
    assert broke["exception"].endswith("ValueError: *** \x1b[2J")
    assert crashed["message"] == "a thread crashed"
    assert crashed["exception"].endswith("ZeroDivisionError: division by zero")
    assert (said["level"], said["message"], said["exception"]) == ("warning", "sending 3 unsent files", None)
    assert all(record["time"].endswith("Z") and record["time"][10] == "T" for record in records)


def test_a_log_sent_to_the_systemd_journal_has_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{info.st_dev}:{info.st_ino}")
    assert logs.log_to_file(tmp_path / "log") is False
    assert not (tmp_path / "log").exists()
    monkeypatch.setenv("JOURNAL_STREAM", "1:1")
    assert not process.is_stderr_journal()
