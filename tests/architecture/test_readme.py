"""The README is short, and it and the other pages for people name only scripts, commands and options that exist."""

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
_PAGES = [_README, *(page.read_text(encoding="utf-8") for page in sorted((_ROOT / "src/jobfs").glob("*.md")))]


def code() -> Iterator[str]:
    """Every line of the shell examples, and every `inline` piece outside of blocks."""
    for number, part in enumerate(re.split(r"^```.*$", "\n".join(_PAGES), flags=re.MULTILINE)):
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
    """Each `jobfs COMMAND …` in the pages: the command's name, and the line without its comment."""
    found = (re.search(r"(?:^|[ /])jobfs ([a-z][a-z-]*)\b.*", line.partition("  #")[0]) for line in code())
    return {(match[1], match[0]) for match in found if match}


def test_each_named_script_can_be_run() -> None:
    scripts = {script for line in code() for script in re.findall(r"^scripts/[\w-]+", line)}
    assert "scripts/demo" in scripts
    assert [script for script in scripts if not os.access(_ROOT / script, os.X_OK)] == []


@pytest.mark.parametrize(("name", "line"), sorted(calls()))
def test_a_named_command_exists_with_its_options(name: str, line: str) -> None:
    assert set(re.findall(r"--[a-z-]+", line)) <= flags(name)


def test_the_listed_options_exist() -> None:
    lists = re.findall(r"^## Options\n(.*?)(?=^## )", "\n".join(_PAGES), re.MULTILINE | re.DOTALL)
    listed = set(re.findall(r"^[-|] `(--[a-z-]+)", "\n".join(lists), re.MULTILINE))
    assert {"--ttl", "--cache-dir"} <= listed <= flags("mount")


def test_the_readme_is_read_in_two_minutes() -> None:
    lines = _README.splitlines()
    cells = re.findall(r"(?<=\|)[^|]*", "".join(line for line in lines if line.startswith("|")))
    assert (len(lines) <= 130, [line for line in lines if len(line) > 120]) == (True, [])
    assert [cell for cell in cells if len(cell.split()) > 12] == []


def test_the_figures_of_the_readme_are_rows_of_design_md() -> None:
    few, *others = (re.split("<!-- /?figures -->", page)[1:2] for page in _PAGES)
    (every,) = filter(None, others)
    assert set(few[0].splitlines()) < set(every[0].splitlines())
