"""The status document: its fields are those of its table, and the commands in it work in a shell."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints, is_typeddict

import pytest

from jobfs import document


def rows() -> Iterator[str]:
    """Every field that the table names, in full."""
    lists: list[str] = []
    for line in (document.__doc__ or "").splitlines():
        if line.startswith("| `"):
            names = re.findall(r"`([^`]+)`", line.split("|")[1])
            if names[0].startswith("[]"):
                yield from (f"{one}{name.removeprefix('[]')}" for one in lists for name in names)
            else:
                lists = [name for name in names if name.endswith("[]")]
                yield from names


def declared(kind: Any, prefix: str = "") -> Iterator[str]:
    """Every field of a TypedDict and of those in it."""
    for name, inner in get_type_hints(kind).items():
        path = f"{prefix}{name}"
        if is_typeddict(inner):
            yield from declared(inner, f"{path}.")
            continue
        is_list = str(inner).startswith("list")
        yield f"{path}[]" if is_list else path
        if is_list and is_typeddict(get_args(inner)[0]):
            yield from declared(get_args(inner)[0], f"{path}[].")


def test_the_table_has_every_field_and_no_other() -> None:
    named = list(rows())
    assert sorted(named) == sorted(declared(document.Status))
    assert len(set(named)) == len(named)


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
