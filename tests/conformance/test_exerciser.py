"""Random operations: on one file against a byte buffer, and by several programs at once in a tree.

`scripts/exercise` does the same for longer, and looks for the shortest sequence that fails.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from tests.support.exercising.main import report
from tests.support.exercising.operations import LARGEST, WEIGHTS, generate
from tests.support.exercising.shrinking import shrunk
from tests.support.exercising.single import Failure, exercising
from tests.support.exercising.tree import exercise_tree
from tests.support.exercising.worker import content, label_of
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
    """semantics 2.2: reads, writes, memory maps, truncation, fsync, close and remount, on one file."""
    operations = generate(SEED, OPERATIONS)
    with exercising(mounted, lambda name: visible(mounted.server).get(name)) as exerciser:
        failure = exerciser.run(operations)
        if failure is not None:
            shortest = report(exerciser, operations[: failure.index + 1], 30.0)
            pytest.fail(f"seed {SEED}: {failure}\n{shortest}")


def test_programs_that_work_in_a_tree_at_once_lose_nothing(mounted: MountedJob) -> None:
    """semantics 4: each program's files are what it wrote, here and on the server; shared names are one of those given."""
    exercise_tree(mounted, workers=3, operations=80, seed=SEED, timeout=60)


def test_the_byte_buffer_says_what_a_disk_does(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    with exercising(disk, disk.stored) as exerciser:
        assert exerciser.run(generate(SEED, OPERATIONS)) is None


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


def test_the_same_seed_gives_the_same_operations_and_each_kind_comes() -> None:
    operations = generate(7, 5000)
    assert operations == generate(7, 5000)
    assert operations != generate(8, 5000)
    assert {operation.kind for operation in operations} == set(WEIGHTS)
    assert max(operation.offset + operation.size for operation in operations) <= LARGEST


@pytest.mark.parametrize("seed", range(5))
def test_shrinking_leaves_exactly_what_is_needed(seed: int) -> None:
    chance = random.Random(seed)
    needed = sorted(chance.sample(range(200), chance.randrange(1, 5)))

    def fails(candidate: Sequence[int]) -> bool:
        return set(needed) <= set(candidate)

    assert shrunk(list(range(200)), fails, 60.0) == needed


def test_shrinking_ends_when_its_time_is_over() -> None:
    assert shrunk([1, 2, 3], lambda candidate: True, 0.0) == [1, 2, 3]


@pytest.mark.parametrize("size", [0, 1, 5000])
def test_a_file_that_bears_its_checksum_is_known_to_be_whole_or_not(size: int) -> None:
    data = content("a label", size)
    assert label_of(data) == "a label"
    with pytest.raises(ValueError, match="torn"):
        label_of(data[:-1])
