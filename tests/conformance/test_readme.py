"""The README's tables: differences from a disk are those of the cases, meanings of operations those of the statements."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

from tests.conformance.test_cases import ALL

_TESTS = Path(__file__).parents[1]
_README = (_TESTS.parent / "README.md").read_text(encoding="utf-8")
_PAGE = (_TESTS.parent / "src" / "jobfs" / "vfs" / "semantics.md").read_text(encoding="utf-8")
#: Each statement by its number, which begins it, in a list or in a table; as far as its first line goes.
STATEMENTS = dict(re.findall(r"^[-|] \*\*(\d\.\d+)\*\* (.*)", _PAGE, re.MULTILINE))

#: The rows of the table of differences from a disk, by their first cell, and the cases that prove each.
DIFFERENCES = {
    "`symlink`": [
        "kinds: a symbolic link",
        "scratch: a symbolic link is renamed to a name that does not stay here",
    ],
    "`link`": ["kinds: a hard link"],
    "`mkfifo`, `mknod` of a device or socket": ["kinds: a named pipe", "kinds: a device", "kinds: a socket"],
    "a name that is not UTF-8": ["names: bytes that are no UTF-8"],
    "a path of more than 1,023 characters, counted from the workspace; one beyond U+FFFF, as an emoji, is two": [
        "names: a path of more than 1024 characters"
    ],
    "making `.jobfs-<12 hex digits>-<16 hex digits>-<staged, aside, removed or tried>-…`": [
        "names: a name of the form that saves under way have"
    ],
    "making `.jobfs` at the top of the workspace": ["names: the name of the control directory, at the top"],
    "root writes to a file, or makes or removes something in a directory, after `chmod u-w`": [
        "chmod: root writes whatever the mode",
        "chmod: root makes and removes whatever the mode of the directory",
    ],
    "`rename` of a directory from or to a scratch name, or of a file into a directory of a scratch name": [
        "scratch: a directory of the workspace becomes a local one",
        "scratch: a local directory gets another name",
        "scratch: a local directory becomes one of the workspace",
        "scratch: a file of the workspace moves into a local directory",
    ],
    "`renameat2` with `RENAME_NOREPLACE` or `RENAME_EXCHANGE`": [
        "rename: with the flag that a name must be free",
        "rename: with the flag that two names change places",
    ],
    "`fallocate`": ["open: room is set aside"],
    "the link count of a directory": ["mkdir: the link count of a directory tells how many are in it"],
    "holes: `SEEK_HOLE`, `SEEK_DATA`": ["open: a file that was not written has a hole"],
    "`open` with `O_TMPFILE`": ["open: an unnamed temporary file"],
    "a removed directory, to who is still in it or has it open": [
        "rmdir: what a removed directory answers to who is in it, or has it open"
    ],
    "`fchmod`, `fchown`, `futimens` of an unlinked file that is open; to open it again by `/proc/self/fd`": [
        "unlink: the attributes of an unlinked open file stay"
    ],
    "`chown` that changes neither owner nor group": ["chown: -1 for both moves the change time"],
    "making something in a directory with the set-group bit": [
        "mkdir: in a directory with the set-group bit it inherits the group and the bit"
    ],
    "extended attributes": ["open: an attribute of its own name"],
}


def first_cells(begin: str, end: str) -> list[str]:
    """Of the rows of the table that stands between two lines of the README."""
    lines = _README.partition(f"\n{begin}\n")[2].partition(f"\n{end}")[0].splitlines()
    rows = [line.removeprefix("| ").split(" | ")[0] for line in lines if line.startswith("| ")]
    return rows[1:]


def numbers(docstring: str) -> set[str]:
    """The numbers of the statements that a docstring names: `vfs/semantics.md 4.7: …`, `vfs/semantics.md 4.7, 5.9: …`."""
    runs: list[str] = re.findall(r"vfs/semantics\.md ((?:\d+\.\d+(?:, | and )?)+)", docstring)
    return {number for run in runs for number in re.findall(r"\d+\.\d+", run)}


def named() -> dict[str, list[str]]:
    """Statement to the tests that name it."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(_TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                for number in numbers(ast.get_docstring(node) or ""):
                    found[number].append(f"{path.relative_to(_TESTS)}::{node.name}")
    return found


def test_each_statement_is_named_by_a_test() -> None:
    tests = named()
    assert [f"{number} {text}" for number, text in STATEMENTS.items() if number not in tests] == []


def test_no_test_names_a_missing_statement() -> None:
    assert {number: tests for number, tests in named().items() if number not in STATEMENTS} == {}


def test_each_case_that_differs_proves_a_row_of_the_table_of_differences() -> None:
    listed = [name for names in DIFFERENCES.values() for name in names]
    assert sorted(listed) == sorted(case.name for case in ALL if case.differs)
    assert first_cells("<!-- differences -->", "<!-- /differences -->") == list(DIFFERENCES)
    assert all(DIFFERENCES.values())
