"""The page of semantics: each statement has a test, and the differences from a disk are those of the cases."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

from tests.conformance.test_cases import ALL

_TESTS = Path(__file__).parents[1]
_PAGE = (_TESTS.parent / "src" / "jobfs" / "vfs" / "semantics.md").read_text(encoding="utf-8")
#: Each statement by its number, which begins it, in a list or in a table; as far as its first line goes.
STATEMENTS = dict(re.findall(r"^[-|] \*\*(\d\.\d+)\*\* (.*)", _PAGE, re.MULTILINE))


def numbers(docstring: str) -> set[str]:
    """The numbers of the statements that a docstring names: `vfs/semantics.md 4.7: …`, `vfs/semantics.md 4.7, 5.9: …`."""
    runs: list[str] = re.findall(r"vfs/semantics\.md ((?:\d+\.\d+(?:, | and )?)+)", docstring)
    return {number for run in runs for number in re.findall(r"\d+\.\d+", run)}


def citations() -> dict[str, list[str]]:
    """Statement to the tests that name it."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(_TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                for number in numbers(ast.get_docstring(node) or ""):
                    found[number].append(f"{path.relative_to(_TESTS)}::{node.name}")
    return found


def test_each_statement_is_named_by_a_test() -> None:
    tests = citations()
    assert [f"{number} {text}" for number, text in STATEMENTS.items() if number not in tests] == []


def test_no_test_names_a_missing_statement() -> None:
    assert {number: tests for number, tests in citations().items() if number not in STATEMENTS} == {}


def test_each_differing_case_proves_a_row_of_the_table_of_differences() -> None:
    assert [case.name for case in ALL if case.differs != bool(case.row)] == []
    table = re.split(r"^<!-- /?differences -->$", _PAGE, flags=re.MULTILINE)[1]
    _, *rows = re.findall(r"^\| (.*?) \| ", table, re.MULTILINE)
    assert sorted(rows) == sorted({case.row for case in ALL if case.differs})
