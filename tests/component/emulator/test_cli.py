"""`jobfs emulator` as a process: start line, exit codes, one sentence for bad input, kill -9."""

from __future__ import annotations

import json
import re
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
def started(directory: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that serves, and its start line."""
    command = [sys.executable, "-m", "jobfs", "emulator", "--dir", str(directory), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout
            yield process, process.stdout.readline()
        finally:
            process.kill()


def url_of(line: str) -> str:
    found = re.search(r" at (http://127\.0\.0\.1:\d+) ", line)
    assert found, line
    return found[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_start_line_says_what_is_needed_and_a_signal_ends_it(
    tmp_path: Path, number: signal.Signals
) -> None:
    log = tmp_path / "log"
    options = ["--sample", "--play", "--find", "prefix", "--other-encoding", "422", "--no-ranges", "--log"]
    with started(tmp_path / "state", *options, str(log)) as (process, line):
        key = (tmp_path / "state" / "api-key").read_text().strip()
        job = line.split()[2]
        assert key in line
        url = url_of(line)
        behaviour = httpx.get(url + "/_emulator/behaviour", trust_env=False).json()
        assert Behaviour(**behaviour) == Behaviour(find="prefix", other_encoding=422, ranges=False)
        answer = httpx.get(
            f"{url}/api/studio/v1/expert_jobs/{job}/workspace_instance/",
            headers={"authorization": f"Bearer {key}"},
            trust_env=False,
        )
        assert answer.json()["data"]["workspaceInstance"]["countItems"] > 40
        process.send_signal(number)
        assert process.wait(10) == 0
        assert process.stdout
        assert process.stdout.read() == ""
    assert json.loads(log.read_text())["operation"] == "instance"
    assert key not in log.read_text()


def test_answered_changes_survive_kill_9(tmp_path: Path) -> None:
    with started(tmp_path, "--key", "k") as (process, line):
        job, url = line.split()[2], url_of(line)
        assert "k)" not in line
        with httpx.Client(base_url=url, headers={"authorization": "Bearer k"}, trust_env=False) as http:
            items = f"/api/studio/v1/expert_jobs/{job}/workspace_instance/items/"
            for number in range(20):
                http.post(items, json={"path": f"f{number}", "content": "eA=="}).raise_for_status()
        process.kill()
        process.wait(10)
    with running(directory=tmp_path) as server:
        assert server.job_side(job).tree() == {f"f{number}": b"x" for number in range(20)}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--job", "short"], "malformed job id"),
        (["--page-cap", "101"], "page_cap"),
        (["--latency", "-1"], "latency"),
        (["--fault", "explode"], "unknown fault"),
        (["--port", "99999"], "no such port"),
        (["--host", "256.1.1.1"], "no such address"),
        (["--key", "a", "--key-file", "b"], "not both"),
        (["--log", "/nonexistent/log"], "cannot write the log file"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_2(
    tmp_path: Path, options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = ended(capsys, "--dir", str(tmp_path / "state"), *options)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("jobfs: ")
    assert words in err


def ended(capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str, str]:
    """The exit code of `jobfs emulator` in this process, and what it printed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["jobfs", "emulator", *options])
        return main(), *capsys.readouterr()


def test_a_missing_extra_names_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith(("uvicorn", "jobfs.emulator.runner"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "jobfs.emulator.listener")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    code, _, err = ended(capsys, "--dir", str(tmp_path))
    assert code == 2
    assert err == (
        "jobfs: the local server needs uvicorn, which is not installed: in a clone of jobfs, "
        f"{sys.executable} -m pip install '.[emulator]'\n"
    )
