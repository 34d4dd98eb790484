"""Each statement of vfs/semantics.md is named by a test, and no test names one that there is not."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

from tests.conformance.semantics import README_ROWS

_TESTS = Path(__file__).parents[1]
_PAGE = (_TESTS.parent / "src" / "jobfs" / "vfs" / "semantics.md").read_text(encoding="utf-8")
#: Each statement by its number, which begins it, in a list or in a table; as far as its first line goes.
STATEMENTS = dict(re.findall(r"^[-|] \*\*(\d\.\d+)\*\* (.*)", _PAGE, re.MULTILINE))
_README = (_TESTS.parent / "README.md").read_text(encoding="utf-8")


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


def test_no_test_names_a_statement_that_there_is_not() -> None:
    assert {number: tests for number, tests in named().items() if number not in STATEMENTS} == {}


def test_each_row_of_the_readmes_table_is_a_statement_or_several() -> None:
    section = _README.partition("## What each operation means")[2].partition("\n## ")[0]
    rows = [line.split(" | ")[0].removeprefix("| ") for line in section.splitlines() if line.startswith("| ")]
    assert rows[1:] == list(README_ROWS)
    assert {number for row in README_ROWS.values() for number in row.split()} <= set(STATEMENTS)
