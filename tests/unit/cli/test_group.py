"""The program as a whole: commands, help, one sentence for each mistake, exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jobfs import cli
from jobfs.errors import FsError, UsageError
from jobfs.settings import OPTIONS, flag_of

from .world import JOB, Outcome, Run


@pytest.mark.parametrize("words", [[], ["-h"], *([name, "--help"] for name in cli.COMMANDS)], ids=" ".join)
def test_every_help_fits_one_screen(run: Run, monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = run(*words)
    assert (done.code, done.err, done.out.startswith("Usage: jobfs")) == (0, "", True)
    lines = done.out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("command", ["mount", "recover", "doctor"])
def test_full_help_shows_every_setting_with_variable_and_default(run: Run, command: str) -> None:
    assert "--help-all" in run(command, "--help").out
    text = " ".join(run(command, "--help-all").out.split())
    for name in OPTIONS:
        assert f"{flag_of(name)} " in text
    for word in ("[env: JOBFS_REQUEST_LIFETIME]", "[default: 30]", "-o NAME[=VALUE]"):
        assert word in text
    assert "--api-key " not in text


def test_help_does_not_import_the_modules_of_a_mount() -> None:
    heavy = {"httpx", "starlette", "uvicorn", "jobfs.vfs", "jobfs.fuse"}
    code = f"""
import sys
from jobfs.__main__ import main
for name in {list(cli.COMMANDS)!r}:
    sys.argv = ["jobfs", name, "--help"]
    main()
print(sorted({heavy!r} & {{name for name, module in sys.modules.items() if module}}), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.count("Usage: jobfs") == len(cli.COMMANDS)
    assert done.stderr.strip() == "[]"


def test_help_has_the_common_options_and_full_help_has_all(run: Run) -> None:
    text = run("--help").out
    assert [name for name in cli.COMMANDS if f"\n  {name} " not in text] == ["emulator"]
    for command, flags in (
        ("mount", ["--request-lifetime", "--create-encoding", "--allow-core-dumps"]),
        ("recover", ["--of"]),
    ):
        for option in flags:
            assert f"{option} " not in run(command, "--help").out
            assert f"{option} " in run(command, "--help-all").out
    assert "jobfs retry" in run("flush", "--help").out
    assert "jobfs flush" in run("retry", "--help").out
    assert "lifecycle is `application`" in run("set", "--help").out


def test_common_wrong_commands_suggest_the_right_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for tried, meant in (
        ("help", "--help"), ("help umount", "umount --help"), ("list --help", "status --help"),
        ("unmount --help", "umount --help"), ("unmount /nowhere", "umount /nowhere"),
    ):  # fmt: skip
        assert run(*tried.split()) == run(*meant.split())
    monkeypatch.setenv("JOBFS_TLL", "3")
    told = "jobfs: JOBFS_TLL is not a setting: did you mean JOBFS_TTL?\n"
    assert run("status") == Outcome(2, "", f"{told}jobfs: no job is mounted\n")


@pytest.mark.parametrize(("arguments", "words"), [
    (["mout"], "No such command 'mout'. See jobfs --help."),
    (["--zzz"], "--zzz"), (["mount", JOB, "/mnt/a", "--zzz"], "--zzz"),
    (["mount"], "Missing argument 'JOB'. See jobfs mount --help."),
    (["mount", JOB], "DIR"), (["status", "--jsno"], "--json"),
    (["umount", "/mnt/a", "--timeout", "-1"], "--timeout"),
    (["doctor", JOB, "--try"], "--yes"), (["doctor", "--try", "--yes"], "the id of a job"),
    (["doctor", JOB, "--yes"], "--yes needs --try"),
    (["wait"], "Missing argument 'DIR'"), (["wait", "/nowhere"], "no job is mounted at /nowhere"),
    (["wait", "/mnt/a", "--timeout", "0"], "0.0 is not in the range x>0"),
    (["wait", "/mnt/a", "--timeout", "soon"], "'soon' is not a valid float"),
    *((words, "the path must not be empty") for words in (
        ["flush", ""], ["umount", ""], ["wait", ""],
        ["mount", JOB, ""], ["systemd-unit", JOB, ""], ["recover", JOB, "--save", ""],
    )),
    (["recover", JOB, "--save"], "Option '--save' requires an argument"),
    (["recover", "job", "--save", "to"], "'job' is not a job id"),
    (["recover", JOB, "--save", "/dev/null"], "/dev/null is not a directory: give --save a directory"),
    (["recover", JOB, "--save", "to", "--of", "0" * 12], "--of and --save exclude each other"),
    (["recover", JOB, "--save", "state/jobfs/x"], "state/jobfs/x is inside the state directory, where the next mount deletes it"),
])  # fmt: skip
def test_a_mistake_is_one_sentence_and_exit_code_2(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    """vfs/semantics.md 6.3, 6.19: one clear sentence, and what to do."""
    monkeypatch.chdir(tmp_path)
    done = run(*arguments)
    assert done.code == 2
    assert words in done.err
    assert done.err.startswith("jobfs: ")
    assert len(done.err.splitlines()) == 1
    assert done.out == ""


@pytest.mark.parametrize(("error", "code", "said"), [
    (UsageError("give another"), 2, "jobfs: give another\n"),
    (FsError(5, "it broke\non two lines"), 1, "jobfs: it broke on two lines\n"),
    (KeyboardInterrupt(), 130, ""), (BrokenPipeError(), 1, ""),
    (RuntimeError("a bug"), 70, "jobfs: unexpected RuntimeError: a bug; details are in "),
])  # fmt: skip
def test_each_error_of_a_command_has_a_sentence_and_an_exit_code(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, said: str
) -> None:
    def fail(*arguments: Any, **how: Any) -> None:
        raise error

    monkeypatch.setattr(cli.jobfs, "main", fail)
    done = run("status")
    told, details, log = done.err.partition("details are in ")
    assert (done.code, told + details) == (code, said)
    assert not log or "a bug" in Path(log.strip()).read_text()


def test_a_full_disk_is_reported_in_one_sentence() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "jobfs", "--version"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert (done.returncode, len(done.stderr.splitlines())) == (70, 1), done.stderr
    assert "No space left on device" in done.stderr


@pytest.mark.parametrize("unbuffered", [{}, {"PYTHONUNBUFFERED": "1"}])
def test_the_exit_code_is_kept_if_stderr_cannot_be_written(unbuffered: dict[str, str]) -> None:
    """Otherwise the interpreter, which flushes stderr once more at its end, makes it 120."""
    read, closed = os.pipe()
    os.close(read)
    with os.fdopen(closed, "wb") as pipe, open("/dev/full", "wb") as full:
        for stderr in (pipe, full):
            command = [sys.executable, "-m", "jobfs", "no-such-command"]
            done = subprocess.run(command, env={**os.environ, **unbuffered}, stderr=stderr)
            assert done.returncode == 2


@pytest.mark.parametrize("command", [("status",), ("discard", "/nowhere"), ("doctor", JOB, "--try")])
def test_a_closed_stdin_or_unknown_user_is_reported_in_one_sentence(
    command: tuple[str, ...],
) -> None:
    """vfs/semantics.md 6: bad input is one clear sentence, whatever it is."""
    program = ["sh", "-c", 'exec "$0" -m jobfs "$@" <&-', sys.executable]
    words = [*program, *command, "--state-dir", "~no_such_user/x"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert done.stderr.startswith("jobfs: ")
    assert "unexpected" not in done.stderr
