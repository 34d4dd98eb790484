"""What is offered while a command line is typed: by the parameters' own completion, and in real shells."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from tests.support.terminal import terminal

from jobfs import cli
from jobfs.cli.completion import SHELLS
from jobfs.mountpoint import MountInfo

from .conftest import JOB

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
        (["umount", "jo"], PATHS),
        (["status", "/mnt/b"], PATHS),
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
def test_completion_offers_the_expected_words(
    words: list[str], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    there = [MountInfo("1", "0:1", point, kind, 0) for point, kind in MOUNTS.items()]
    monkeypatch.setattr("jobfs.cli.completion.mounts", lambda: there)
    assert offered(*words) == expected


def test_commands_are_offered_without_loading_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.import_module", lambda name: pytest.fail(f"loaded {name}"))
    assert offered("") == list(cli.COMMANDS)


def test_a_shell_completes_with_the_script_of_jobfs(tmp_path: Path) -> None:
    """As a person does it, on a terminal: commands, paths, choices; the script of each shell is click's."""
    prompt = "ready>"
    (tmp_path / ".bashrc").write_text(f'eval "$(jobfs completion bash)"\nPS1="{prompt} "\n')
    (tmp_path / "jobs").mkdir()
    path = f"PATH={Path(sys.executable).parent}:{os.environ['PATH']}"
    with terminal(tmp_path, tmp_path, "env", path, "bash") as typing:
        typing.shows(prompt)
        for begun, line in (
            ("jobfs umo", "jobfs umount"),
            ("jo", "jobfs umount jobs/"),
            ("", ""),
            ("jobfs set x --lifecycle exp", "jobfs set x --lifecycle expertJob"),
        ):
            typing.type(begun)
            typing.keys("Tab" if begun else "C-u")
            typing.shows(f"{prompt} {line}".rstrip())
