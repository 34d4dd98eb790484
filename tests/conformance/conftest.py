"""Fixtures: one mount for all cases, and a directory of the disk beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from tests.conformance.places import Both, beside

from jobfs.emulator import Behaviour

#: A server that tells as little as it may, and changes as much.
SPARING = Behaviour(
    sizes="omitted",
    move_touches="tree",
    updated_resolution="seconds",
    find="substring",
    create_existing="duplicate",
    create_encodings="json",
    list_order="unstable",
)


@pytest.fixture(scope="session", params=[Behaviour(), SPARING], ids=["reference", "sparing"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    """A disk and a mount, where each case makes a directory of its own; with a sparing server what was sent is compared."""
    with beside(tmp_path_factory.mktemp("conformance"), request.param) as (_, made):
        yield replace(made, settle=(True,)) if request.param is SPARING else made
