"""Fixtures: one mount for all cases, and a directory of the disk beside it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from tests.conformance.places import Both, place
from tests.support.mounts import mounting

from jobfs.emulator import Behaviour, EmulatorConfig, running

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
    home = tmp_path_factory.mktemp("conformance")
    for name in ("server", "disk"):
        (home / name).mkdir()
    # What the kernel knows must not grow old within a case: a removed directory answers otherwise then.
    options: dict[str, Any] = {"ttl": 60, **({"allow_other": True} if os.geteuid() == 0 else {})}
    with (
        running(EmulatorConfig(behaviour=request.param), home / "server") as server,
        mounting(server, home / "home", **options) as mounted,
        place(home / "disk") as disk,
        place(mounted.path) as mount,
    ):
        yield Both(disk, mount, settle=(True,) if request.param is SPARING else (False, True))
