"""The README names only scripts, commands and options that exist."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from jobfs.cli import jobfs

_ROOT = Path(__file__).parents[2]
_README = (_ROOT / "README.md").read_text(encoding="utf-8")


def code() -> Iterator[str]:
    """Every line of the shell examples, and every `inline` piece outside of blocks."""
    for number, part in enumerate(re.split(r"^```.*$", _README, flags=re.MULTILINE)):
        yield from part.splitlines() if number % 2 else re.findall(r"`([^`\n]+)`", part)


def command(name: str) -> click.Command:
    """The command of this name; fails if there is none."""
    found = jobfs.get_command(click.Context(jobfs), name)
    assert found is not None, f"there is no command jobfs {name}"
    return found


def flags(name: str) -> set[str]:
    """All long options of a command."""
    options = {flag for parameter in command(name).params for flag in parameter.opts}
    return {"--help", "--help-all"} | {flag for flag in options if flag.startswith("--")}


def calls() -> set[tuple[str, str]]:
    """Each `jobfs COMMAND …` in the README: the command's name, and the line without its comment."""
    found = (re.search(r"(?:^|[ /])jobfs ([a-z-]+)\b.*", line.partition("  #")[0]) for line in code())
    return {(match[1], match[0]) for match in found if match}


@pytest.mark.parametrize(
    "script", sorted({s for line in code() for s in re.findall(r"^scripts/[\w-]+", line)})
)
def test_a_script_of_the_readme_can_be_run(script: str) -> None:
    assert os.access(_ROOT / script, os.X_OK)


@pytest.mark.parametrize("file", sorted(set(re.findall(r"`((?:\w+/)+\w+\.py)`", _README))))
def test_a_file_of_the_readme_is_there(file: str) -> None:
    assert any((_ROOT / place / file).is_file() for place in (".", "src/jobfs", "tests"))


@pytest.mark.parametrize(("name", "line"), sorted(calls()))
def test_a_command_of_the_readme_exists_with_its_options(name: str, line: str) -> None:
    assert set(re.findall(r"--[a-z-]+", line)) <= flags(name)


def test_the_table_of_options_has_only_those_that_the_command_has() -> None:
    section = _README.partition("## Options of `jobfs mount`")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `--")]
    told = {flag for row in rows for flag in re.findall(r"--[a-z-]+", row)}
    assert {"--state-dir", "--ttl"} <= told <= flags("mount")
