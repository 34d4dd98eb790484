"""Random operations: on one file against a byte buffer, and by several programs at once in a tree.

`scripts/exercise` does the same for longer, and looks for the shortest sequence that fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.exercising.main import report
from tests.support.exercising.operations import generate
from tests.support.exercising.single import Failure, exercising
from tests.support.exercising.tree import exercise_tree
from tests.support.mounts import MountedJob, mounting
from tests.support.serverside import visible

from jobfs.emulator import Behaviour, EmulatorConfig, running

#: Each run begins with the same chance; scripts/exercise takes others.
SEED = 20_251
OPERATIONS = 800


@pytest.fixture(scope="module")
def mounted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MountedJob]:
    home = tmp_path_factory.mktemp("exerciser")
    (home / "server").mkdir()
    with (
        running(EmulatorConfig(behaviour=Behaviour()), home / "server") as server,
        mounting(server, home / "home") as mounted,
    ):
        yield mounted


class Disk:
    """A directory of this machine, to be exercised as a mount is."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def flush(self) -> None:
        """Nothing is on its way."""

    def remount(self) -> None:
        """Stays as it is."""

    def stored(self, name: str) -> bytes | None:
        """What it has of a file."""
        return (self.path / name).read_bytes()


def test_a_file_is_what_a_byte_buffer_says(mounted: MountedJob) -> None:
    """vfs/semantics.md 2.2, 2.15: reads, writes, memory maps, truncation, fsync, close and remount, on one file."""
    operations = generate(SEED, OPERATIONS)
    with exercising(mounted, lambda name: visible(mounted.server).get(name)) as exerciser:
        failure = exerciser.run(operations)
        if failure is not None:
            shortest = report(exerciser, operations[: failure.index + 1], 30.0)
            pytest.fail(f"seed {SEED}: {failure}\n{shortest}")


def test_programs_that_work_in_a_tree_at_once_lose_nothing(mounted: MountedJob) -> None:
    """vfs/semantics.md 4: each program's files are what it wrote, here and on the server; shared names are one of those given."""
    exercise_tree(mounted, workers=3, operations=80, seed=SEED, timeout=60)


def test_a_wrong_byte_is_found_and_the_sequence_shrunk_to_what_makes_it(tmp_path: Path) -> None:
    disk = Disk(tmp_path)

    def stored(name: str) -> bytes | None:
        data = disk.stored(name)
        return data[:-1] if data and len(data) > 200_000 else data

    operations = generate(SEED, 300)
    with exercising(disk, stored) as exerciser:
        failure = exerciser.run(operations)
        assert isinstance(failure, Failure)
        lines = report(exerciser, operations[: failure.index + 1], 20.0).splitlines()
    assert lines[0] == "the shortest sequence found, of 1 operations:"
    assert "on the server instead of" in lines[-1]
