"""Trees are removed as on a disk: no error that a disk would not give, and nothing left (semantics.md section 4, rmdir)."""

from __future__ import annotations

import os

import pytest
from tests.support.mounts import MountedJob, run
from tests.support.serverside import hidden
from tests.support.waiting import eventually_equal

from jobfs.emulator import Server

_MAKE = "mkdir -p {0}/{{1..12}}/{{a..d}}/e/f"


@pytest.mark.parametrize("others", [20, 600])
@pytest.mark.parametrize("at_once", [1, 2])
def test_a_tree_that_was_just_made_is_removed(
    server: Server, mounted: MountedJob, others: int, at_once: int
) -> None:
    """semantics 4.29: alone, and beside another one."""
    server.store.seed({f"other/f{number}": "stays" for number in range(others)}, age=60)
    server.set(latency=10)
    trees = [f"w{number}" for number in range(at_once)]
    for _ in range(2):
        run(mounted.path, "bash", "-c", "; ".join(map(_MAKE.format, trees)))
        commands = "".join(f"rm -rf {tree} & p{number}=$!; " for number, tree in enumerate(trees))
        waits = " && ".join(f"wait $p{number}" for number in range(at_once))
        assert run(mounted.path, "bash", "-c", commands + waits) == ""
        assert os.listdir(mounted.path) == ["other"]
    mounted.flush()
    eventually_equal(lambda: hidden(server), [])
    assert {item.path.split("/")[0] for item in server.store.items()} == {"other"}
