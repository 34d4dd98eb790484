"""The list of differences is of cases that there are, and README.md shows it."""

from __future__ import annotations

import importlib
from pathlib import Path

from tests.conformance.cases import Case
from tests.conformance.differences import DIFFERENCES, ROWS, table

_HERE = Path(__file__).parent
_README = (_HERE.parents[1] / "README.md").read_text(encoding="utf-8")


def all_cases() -> list[Case]:
    """The cases of every file of this directory."""
    modules = [importlib.import_module(f"tests.conformance.{path.stem}") for path in _HERE.glob("test_*.py")]
    return [case for module in modules for case in getattr(module, "CASES", [])]


def test_a_case_has_a_name_of_its_own() -> None:
    names = [case.name for case in all_cases()]
    assert sorted(names) == sorted(set(names))


def test_each_difference_is_that_of_a_case() -> None:
    names = {case.name for case in all_cases()}
    assert len(DIFFERENCES) == sum(len(row.cases) for row in ROWS), "a case is listed once"
    assert set(DIFFERENCES) - names == set()


def test_each_row_is_proved_by_a_case() -> None:
    assert [row.what for row in ROWS if not row.cases] == []


def test_the_readme_shows_the_table_of_differences() -> None:
    """Made with `python -m tests.conformance.differences`."""
    shown = _README.partition("<!-- differences -->\n")[2].partition("\n<!-- /differences -->")[0]
    assert shown == table()
