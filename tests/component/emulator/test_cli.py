"""`jobfs emulator` as a process: start line, exit codes, one sentence for bad input, kill -9."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from jobfs.__main__ import main
from jobfs.emulator import Behaviour, running


@contextmanager
def started(directory: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str, httpx.Client]]:
    """A process that serves, its start line, and a client of it."""
    command = [sys.executable, "-m", "jobfs", "emulator", "--dir", str(directory), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout
            line = process.stdout.readline()
            found = re.search(r" at (http://127\.0\.0\.1:\d+) ", line)
            assert found, line
            with httpx.Client(base_url=found[1], trust_env=False) as client:
                yield process, line, client
        finally:
            process.kill()


def instance(line: str) -> str:
    return f"/api/studio/v1/expert_jobs/{line.split()[2]}/workspace_instance/"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_start_line_has_all_a_client_needs_and_a_signal_ends_it(
    tmp_path: Path, number: signal.Signals
) -> None:
    log = tmp_path / "log"
    options = ["--sample", "--play", "--find", "prefix", "--other-encoding", "422", "--no-ranges", "--log"]
    with started(tmp_path / "state", *options, str(log)) as (process, line, client):
        key = (tmp_path / "state" / "api-key").read_text().strip()
        assert key in line
        behaviour = client.get("/_emulator/behaviour").json()
        assert Behaviour(**behaviour) == Behaviour(find="prefix", other_encoding=422, ranges=False)
        answer = client.get(instance(line), headers={"authorization": f"Bearer {key}"})
        assert answer.json()["data"]["workspaceInstance"]["countItems"] > 40
        process.send_signal(number)
        assert process.wait(10) == 0
        assert process.stdout
        assert process.stdout.read() == ""
    assert json.loads(log.read_text())["operation"] == "instance"
    assert key not in log.read_text()


def test_acknowledged_changes_survive_kill_9(tmp_path: Path) -> None:
    with started(tmp_path, "--key", "k") as (process, line, client):
        assert "k)" not in line
        client.headers["authorization"] = "Bearer k"
        for number in range(20):
            body = {"path": f"f{number}", "content": "eA=="}
            client.post(f"{instance(line)}items/", json=body).raise_for_status()
        process.kill()
        process.wait(10)
    with running(directory=tmp_path) as server:
        assert server.job_side(line.split()[2]).tree() == {f"f{number}": b"x" for number in range(20)}


def run_emulator(capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str, str]:
    """The exit code of `jobfs emulator` in this process, and what it printed."""
    return main(["emulator", *options]), *capsys.readouterr()


@pytest.mark.parametrize(("option", "value", "words"), [
    ("--job", "short", "malformed job id"), ("--page-cap", "101", "page_cap"),
    ("--fault", "explode", "unknown fault"), ("--port", "99999", "no such port"),
    ("--host", "256.1.1.1", "no such address"), ("--key-file", "b", "not both"),
    ("--log", "/nonexistent/log", "can't write the log file"),
])  # fmt: skip
def test_bad_input_is_one_sentence_and_exit_code_2(
    tmp_path: Path, option: str, value: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run_emulator(capsys, "--dir", str(tmp_path / "state"), "--key", "a", option, value)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("jobfs: ")
    assert words in err


def test_a_missing_extra_is_reported_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    late = ("uvicorn", "jobfs.emulator.runner", "jobfs.emulator.listener")
    for name in [name for name in sys.modules if name.startswith(late)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    code, _, err = run_emulator(capsys, "--dir", str(tmp_path))
    remedy = f"in a clone of jobfs, {shlex.quote(sys.executable)} -m pip install '.[emulator]'\n"
    assert (code, err) == (2, f"jobfs: the local server needs uvicorn, which is not installed: {remedy}")
