"""The runner of the pages' blocks notices a block that does not do what it shows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.support.recipes import RecipeError, Sandbox, blocks, check, same


@pytest.fixture
def box(tmp_path: Path) -> Sandbox:
    return Sandbox(tmp_path, tmp_path, {**os.environ, "HOME": str(tmp_path)})


BAD = [
    ("$ echo hello\nhallo", "hallo"), ("$ echo hello", "printed\nhello"), ("$ echo 'open", "echo 'open"),
    ("$ true   # exit code 1", "ended with 0, not 1"), ("$ exit 3\n$ echo never", "ended with 3, not 0"),
    ("$ no-such-program", "ended with 127"), ("$ seq 3\n1\n…\n5", "printed\n1\n2\n3"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "words"), BAD)
def test_a_block_with_other_output_than_shown_is_reported(box: Sandbox, body: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        check(blocks(f"<!-- runs: a -->\n```console\n{body}\n```\n")["a"].steps, box)


@pytest.mark.parametrize(
    ("shown", "printed", "expected"),
    [
        ("job  JOB (processing)", "job    zlt8pucnzwyjool25eh2mm97 (processing)  ", True),
        ("http://127.0.0.1:45617, 3 ms", "http://127.0.0.1:1234, 1.2 s", True),
        ("a.conflict-20261126T165646Z.md", "a.conflict-20250101T000000Z.md", True),
        ("conflicts (1)", "conflicts (2)", False),
        ("listing … old", "listing", False),
    ],
)
def test_only_variable_output_is_not_compared(shown: str, printed: str, expected: bool) -> None:
    assert same([shown], printed) is expected
