"""What is offered while a command line is typed: by the parameters' own completion, and in a real bash."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from jobfs import cli
from jobfs.cli.completion import SHELLS

from .conftest import JOB, Outcome

MOUNTS = {"/": "ext4", "/mnt/a": "fuse.jobfs", "/mnt/my job": "fuse.jobfs", "/mnt/b": "fuse.sshfs"}
PATHS, DIRECTORIES = ["file"], ["dir"]


def offered(*words: str) -> list[str]:
    """The last word is the one that was begun; `dir` and `file` stand for what the shell finds itself."""
    *before, begun = words
    found = ShellComplete(cli.jobfs, {}, "jobfs", "_JOBFS_COMPLETE").get_completions(before, begun)
    return [item.value if item.type == "plain" else item.type for item in found]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["um"], ["umount"]),
        (["--v"], ["--version"]),
        (["mount", ""], []),
        (["mount", JOB, ""], DIRECTORIES),
        ([JOB, ""], DIRECTORIES),
        (["doctor", ""], []),
        (["recover", ""], []),
        (["umount", ""], ["/mnt/a"]),
        (["umount", "/m"], ["/mnt/a"]),
        (["umount", "jo"], DIRECTORIES),
        (["status", "/mnt/b"], DIRECTORIES),
        (["flush", ""], ["/mnt/a"]),
        (["flush", "/mnt/a/no"], PATHS),
        (["retry", "no"], PATHS),
        (["discard", "no"], PATHS),
        (["info", ""], PATHS),
        (["set", ""], PATHS),
        (["set", "notes.md", "--permission", "readO"], ["readOnly"]),
        (["mount", "--log-level", "w"], ["warning"]),
        (["mount", "--create-encoding", ""], ["auto", "multipart", "json"]),
        (["mount", "--cache-dir", ""], DIRECTORIES),
        (["mount", "--api-key-file", ""], PATHS),
        (["mount", "--ttl", ""], []),
        (["mount", "--sync"], ["--sync-on-close"]),
        (["completion", ""], list(SHELLS)),
        (["nonsense", "--v"], ["--version"]),
    ],
)
def test_what_is_offered(words: list[str], expected: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobfs.cli.completion.mount_points", lambda: MOUNTS)
    assert offered(*words) == expected


def test_commands_are_offered_without_loading_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.import_module", lambda name: pytest.fail(f"loaded {name}"))
    assert offered("") == list(cli.COMMANDS)


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_of_each_shell_asks_jobfs(run: Callable[..., Outcome], shell: str) -> None:
    done = run("completion", shell)
    assert (done.code, done.err) == (0, "")
    assert f"_JOBFS_COMPLETE={shell}_complete" in done.out


def test_bash_completes_with_it(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    typed = """
        eval "$(jobfs completion bash)"
        COMP_WORDS=(jobfs "$@") COMP_CWORD=$#
        _jobfs_completion jobfs && printf '%s\n' "${COMPREPLY[@]}"
    """
    bash = ["bash", "--norc", "-ec", typed, "bash"]
    place = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{place}:{os.environ['PATH']}"}
    done = subprocess.run(
        [*bash, "set", "x", "--lifecycle", "exp"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("expertJob\n", "")
