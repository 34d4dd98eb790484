"""What is offered while a command line is typed: by the parameters' own completion, and in real shells."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from tests.support.terminal import terminal

from jobfs import cli
from jobfs.cli import COMMANDS
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
def test_what_is_offered(words: list[str], expected: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    there = [MountInfo("1", "0:1", point, kind, 0) for point, kind in MOUNTS.items()]
    monkeypatch.setattr("jobfs.cli.completion.mounts", lambda: there)
    assert offered(*words) == expected


def test_commands_are_offered_without_loading_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.import_module", lambda name: pytest.fail(f"loaded {name}"))
    assert offered("") == list(cli.COMMANDS)


#: What is written where, as `jobfs completion --help` says, and a prompt to wait for; fish shows nothing before Tab then.
PROMPT = "ready>"
SET_UP = {
    "bash": (".bashrc", f"""
        eval "$(jobfs completion bash)"
        PS1="{PROMPT} "
    """),
    "zsh": (".zshrc", f"""
        autoload -Uz compinit; compinit -u
        eval "$(jobfs completion zsh)"
        PS1="{PROMPT} "
    """),
    "fish": (".config/fish/config.fish", f"""
        mkdir -p ~/.config/fish/completions; cd ~/.config/fish/completions
        jobfs completion fish > jobfs.fish
        cd
        set fish_autosuggestion_enabled 0
        function fish_prompt; echo -n "{PROMPT} "; end
    """),
}  # fmt: skip


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_completes_with_it(tmp_path: Path, shell: str) -> None:
    """As a person does it, on a terminal: commands with what they do, paths, choices."""
    name, text = SET_UP[shell]
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    (tmp_path / "jobs").mkdir()
    path = f"PATH={Path(sys.executable).parent}:{os.environ['PATH']}"
    with terminal(tmp_path, tmp_path, "env", path, shell) as typing:
        typing.shows(PROMPT)

        def completes(begun: str, line: str) -> None:
            typing.type(begun)
            typing.keys("Tab")
            typing.shows(line)

        completes("jobfs umo", f"{PROMPT} jobfs umount")
        completes("jo", f"{PROMPT} jobfs umount jobs/")
        typing.keys("C-u")
        completes("jobfs set x --lifecycle exp", f"{PROMPT} jobfs set x --lifecycle expertJob")
        if shell != "bash":
            typing.keys("C-u")
            completes("jobfs re", COMMANDS["recover"][1])
