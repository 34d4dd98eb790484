"""Which key is used, and what is said about how it is kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jobfs.cli.keys import find_key
from jobfs.errors import UsageError
from jobfs.settings import load


@pytest.fixture
def warnings() -> list[str]:
    return []


def key_file(tmp_path: Path, content: str = "sk-file\n", mode: int = 0o600) -> str:
    path = tmp_path / "key"
    path.write_text(content)
    path.chmod(mode)
    return str(path)


def test_the_key_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch, warnings: list[str]) -> None:
    """wire-facts: PERSTACK_API_KEY."""
    monkeypatch.setenv("PERSTACK_API_KEY", " sk-env\n")
    assert find_key(load({}), warnings.append)() == "sk-env"


def test_a_key_file_wins_over_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warnings: list[str]
) -> None:
    monkeypatch.setenv("PERSTACK_API_KEY", "sk-env")
    assert find_key(load({"api_key_file": key_file(tmp_path)}), warnings.append)() == "sk-file"
    assert warnings == []


def test_a_key_file_is_read_again_when_it_changes(tmp_path: Path, warnings: list[str]) -> None:
    """semantics 6: re-read when it changes."""
    path = key_file(tmp_path)
    source = find_key(load({"api_key_file": path}), warnings.append)
    Path(path).write_text("sk-other-key")
    assert source() == "sk-other-key"
    Path(path).unlink()
    assert source() == "sk-other-key"


def test_no_key_names_both_places(warnings: list[str]) -> None:
    with pytest.raises(UsageError, match=r"PERSTACK_API_KEY.*--api-key-file"):
        find_key(load({}), warnings.append)


@pytest.mark.parametrize("content", ["", "\n", "two words", "ü", "a\nb"])
def test_a_file_without_a_key_is_refused_and_not_shown(
    tmp_path: Path, warnings: list[str], content: str
) -> None:
    with pytest.raises(UsageError) as caught:
        find_key(load({"api_key_file": key_file(tmp_path, content)}), warnings.append)
    assert "two words" not in str(caught.value)
    assert str(tmp_path / "key") in str(caught.value)


def test_a_key_given_in_place_of_its_file_is_not_repeated(warnings: list[str]) -> None:
    with pytest.raises(UsageError, match="--api-key-file") as caught:
        find_key(load({"api_key_file": "sk-given-by-mistake"}), warnings.append)
    assert "sk-given-by-mistake" not in str(caught.value)


def test_a_directory_is_no_key_file(tmp_path: Path, warnings: list[str]) -> None:
    with pytest.raises(UsageError, match="not a file"):
        find_key(load({"api_key_file": str(tmp_path)}), warnings.append)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_key_file_that_others_can_read_is_warned_about(
    tmp_path: Path, warnings: list[str], mode: int
) -> None:
    path = key_file(tmp_path, mode=mode)
    assert find_key(load({"api_key_file": path}), warnings.append)() == "sk-file"
    assert warnings == [f"others can read the API key in {path}: chmod 600 {path}"]


_CRASH = """
import os, resource, sys
from jobfs.cli.keys import find_key
from jobfs.settings import load
hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
if len(sys.argv) > 1:
    find_key(load({"allow_core_dumps": sys.argv[1] == "allowed"}), print)
os.abort()
"""


def dumped(directory: Path, *arguments: str) -> bool:
    """True if a process that reads the key as the arguments say, and crashes, leaves a core dump."""
    process = subprocess.Popen(
        [sys.executable, "-c", _CRASH, *arguments],
        cwd=directory,
        env={**os.environ, "PERSTACK_API_KEY": "sk-secret"},
        stderr=subprocess.DEVNULL,
    )
    status = os.waitpid(process.pid, 0)[1]
    process.returncode = 0
    assert os.WTERMSIG(status) == signal.SIGABRT
    return os.WCOREDUMP(status)


def test_who_holds_the_key_leaves_no_core_dump(tmp_path: Path) -> None:
    if not dumped(tmp_path):
        pytest.skip("this machine keeps no core dumps")
    assert not dumped(tmp_path, "by default")
    assert dumped(tmp_path, "allowed")
