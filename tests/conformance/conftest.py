"""Fixtures: one mount for all cases, and a directory of the disk beside it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.conformance.places import Both, beside

from jobfs.emulator import Behaviour


@pytest.fixture(scope="session")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    """A disk and a mount, where each case makes a directory of its own."""
    with beside(tmp_path_factory.mktemp("conformance"), Behaviour()) as (_, made):
        yield made
