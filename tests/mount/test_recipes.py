"""Each block of README.md and using.md that is marked for it does what is shown there."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.recipes import PAGES, ROOT, blocks, check, sandbox

BLOCKS = blocks("\n".join((ROOT / page).read_text() for page in PAGES))


@pytest.mark.needs_fuse
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.needs_program(*block.needs)) for name, block in BLOCKS.items()],
)
def test_each_marked_block_of_a_page_prints_what_it_shows(name: str, tmp_path: Path) -> None:
    with sandbox(tmp_path) as box:
        check(BLOCKS[name].steps, box)


def test_the_pages_have_marked_blocks() -> None:
    assert {"demo", "git", "several"} <= set(BLOCKS)
