"""The status document: the commands in it work in a shell."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from jobfs import document


@pytest.mark.parametrize(
    "name",
    [
        "plain.md",
        "with space & $HOME.md",
        "it's.md",
        "a\tb\n'c'.md",
        "\u202eright\\left.md",
        "-u",
        "日本 é.md",
    ],
)
def test_a_quoted_path_is_that_path_to_a_shell_and_harmless_to_a_terminal(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("found")
    word = document.quoted(str(path))
    assert word.isprintable()
    done = subprocess.run(["bash", "-c", f"cat {word}"], capture_output=True, text=True, timeout=20)
    assert (done.stdout, done.stderr) == ("found", "")


def test_bytes_that_are_no_text_are_quoted_too(tmp_path: Path) -> None:
    word = document.quoted("a\udc80\ud83db")
    assert word == r"$'a\x80\xed\xa0\xbdb'"
