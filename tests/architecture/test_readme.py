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
_TOLD = "\n".join(
    [
        _README,
        *((_ROOT / "src/jobfs" / name).read_text(encoding="utf-8") for name in ("using.md", "changing.md")),
    ]
)


def code() -> Iterator[str]:
    """Every line of the shell examples, and every `inline` piece outside of blocks."""
    for number, part in enumerate(re.split(r"^```.*$", _TOLD, flags=re.MULTILINE)):
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


@pytest.mark.parametrize(
    "script", sorted({s for line in code() for s in re.findall(r"^scripts/[\w-]+", line)})
)
def test_a_named_script_can_be_run(script: str) -> None:
    assert os.access(_ROOT / script, os.X_OK)


@pytest.mark.parametrize(("name", "line"), sorted(calls()))
def test_a_named_command_exists_with_its_options(name: str, line: str) -> None:
    assert set(re.findall(r"--[a-z-]+", line)) <= flags(name)


def test_the_options_that_are_listed_exist() -> None:
    sections = re.findall(r"^## Options\n(.*?)(?=^## )", _TOLD, re.MULTILINE | re.DOTALL)
    told = {flag for text in sections for flag in re.findall(r"^[-|] `(--[a-z-]+)", text, re.MULTILINE)}
    assert {"--ttl", "--cache-dir"} <= told <= flags("mount")


def test_the_readme_is_read_in_two_minutes() -> None:
    lines = _README.splitlines()
    cells = [cell for line in lines if line.startswith("|") for cell in line.strip("|").split("|")]
    assert len(lines) <= 130
    assert [line for line in lines if len(line) > 120] == []
    assert [cell for cell in cells if len(cell.split()) > 12] == []


def test_its_figures_are_of_the_run_that_design_md_has() -> None:
    design = (_ROOT / "src/jobfs/design.md").read_text(encoding="utf-8")
    few, all_of_them = (re.split(r"<!-- /?figures -->", text)[1].splitlines() for text in (_README, design))
    assert len(few) == 7
    assert set(few) < set(all_of_them)
