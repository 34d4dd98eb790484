"""Each block of README.md that is marked for it does what README.md shows."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.recipes import ROOT, blocks, check, sandbox

BLOCKS = blocks((ROOT / "README.md").read_text())


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.timeout(110, method="signal")
def test_a_block_of_the_readme_does_what_it_shows(name: str, tmp_path: Path) -> None:
    with sandbox(tmp_path) as box:
        check(BLOCKS[name], box)


def test_the_readme_has_marked_blocks() -> None:
    assert "demo" in BLOCKS
