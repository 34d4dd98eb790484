"""The house: who may import whom, how large a module may grow, and how names get into commands that people paste."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_PACKAGE = _ROOT / "src" / "jobfs"
_LONGEST = 600

#: A command in an f-string, up to its first field. Most are built by `settings.shell_command`, which quotes.
_COMMAND = re.compile(r"\b(?:jobfs (?:[a-z]+-?)+|fusermount|diff -u|chmod|sudo)(?: [\w+=-]+)* \{([^}]*)\}")
#: A job's id has letters and digits only; constants are what they are.
_SAFE = re.compile(r"quote_for_shell\(|shlex\.quote\(|.*\b_[A-Z]+\b|(?:.*\W)?job(?:_id)?\W*$")


def modules() -> Iterator[tuple[str, Path]]:
    """Every module by its name below `jobfs`, with its file."""
    for path in sorted(_PACKAGE.rglob("*.py")):
        yield ".".join(path.relative_to(_PACKAGE).with_suffix("").parts), path


@cache
def imported_libraries(path: Path) -> set[str]:
    """The first component of everything that a file imports, wherever in the file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names.add(node.module.partition(".")[0])
    return names


def test_packages_import_only_the_layers_below() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    run = subprocess.run([linter, "--no-cache"], cwd=_ROOT, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize(("library", "homes"), [
    ("httpx", ("api",)), ("fuse", ("fuse", "mount")), ("sqlite3", ("state", "emulator.store")),
    ("starlette", ("emulator",)), ("uvicorn", ("emulator",)), ("click", ("cli", "__main__")),
    ("rich", ("cli",)),
])  # fmt: skip
def test_a_library_is_imported_only_where_it_belongs(library: str, homes: tuple[str, ...]) -> None:
    users = [name for name, path in modules() if library in imported_libraries(path)]
    assert users, f"nothing imports {library}: take it out of this list and of pyproject.toml"
    assert [name for name in users if not any(name == h or name.startswith(h + ".") for h in homes)] == []


def test_no_module_exceeds_the_limit_of_lines() -> None:
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in modules()}
    assert {name: length for name, length in lengths.items() if length > _LONGEST} == {}


def test_the_package_imports_without_libfuse() -> None:
    """Help, the local server and the unit tests run on a machine without it."""
    names = "jobfs.__main__, jobfs.cli, jobfs.emulator, jobfs.settings"
    code = f"import sys; sys.modules['fuse'] = None; import {names}"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr


@pytest.mark.needs_program("git")
def test_the_top_level_has_the_listed_entries_and_no_others() -> None:
    """Files that a tool leaves there, a build for instance, are not in the repository."""
    found = subprocess.run(["git", "ls-files"], cwd=_ROOT, capture_output=True, text=True, check=True)
    there = {path.partition("/")[0] for path in found.stdout.splitlines() if not path.startswith(".")}
    assert there == {"README.md", "pyproject.toml", "scripts", "src", "tests"}


def test_each_name_in_a_printed_command_is_quoted() -> None:
    """vfs/semantics.md 6.16."""
    found = [
        (path.name, command[0], command[1])
        for _, path in modules()
        for command in _COMMAND.finditer(path.read_text(encoding="utf-8"))
    ]
    assert len(found) > 5
    assert [f"{file}: {text}" for file, text, field in found if not _SAFE.match(field)] == []
