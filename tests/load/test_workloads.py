"""Each workload of `scripts/load` in a form that ends in seconds; and the suite itself: it sees what breaks, leaves nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.stress.load import outages, sharing, silence, trees, weather
from tests.stress.load.bounds import MEMORY_SOON, Bounds
from tests.stress.load.stage import DESCRIPTORS, Stage, Workload, played
from tests.support.forks import ForkServer
from tests.support.machine import require_descriptors

pytestmark = pytest.mark.needs_fuse

_OUTAGE = {"files": 200, "saves": 60, "renames": 10, "unlinks": 10, "latency": 10}

WORKLOADS: list[tuple[Callable[..., None], dict[str, Any]]] = [
    (silence.room, {"files": 20, "size": 600_000, "bandwidth": 2_000_000, "latency": 50, "rounds": 3}),
    (outages.outage, {"away": "silent", "end": "back", **_OUTAGE}),
    (outages.outage, {"away": "503", "end": "recover", **_OUTAGE}),
    (weather.bad_weather, {"storm": 5.0, "latency": 10, "seconds": 60}),
    (sharing.shared, {"storm": 5.0, "latency": 10, "ttl": 1, "calm": True, "seconds": 60}),
    (sharing.shared, {"storm": 5.0, "latency": 10, "ttl": 1, "seconds": 60}),
    (trees.sed, {"files": 120, "latency": 50}), (trees.day, {"saves": 200, "latency": 20}),
    (silence.silent, {"timeout": 2, "programs": 40, "latency": 20, "on": "*", "seconds": 60}),
    (trees.copied, {"files": 120, "latency": 20}),
    (trees.removed, {"directories": 60, "files": 100, "beside": 250, "at_once": 2, "latency": 20}),
]  # fmt: skip


@pytest.fixture(scope="session")
def limited_forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    require_descriptors(DESCRIPTORS)
    forks = ForkServer(tmp_path_factory.mktemp("forks"), DESCRIPTORS)
    yield forks
    forks.close()


@pytest.fixture
def held(limited_forks: ForkServer, tmp_path: Path) -> Callable[..., None]:
    """Plays a workload with these arguments, for at most `seconds`, and fails with all its bounds if one did not hold."""

    def held(play: Callable[..., None], *, seconds: float = 40, **arguments: Any) -> None:
        work = Workload(play.__name__, play, seconds, arguments)
        row = played(work, limited_forks, tmp_path / "stage", pause=0.2, memory=MEMORY_SOON)
        assert not row.broken, "\n".join(["", *map(str, row.broken), "", str(row)])

    return held


@pytest.mark.parametrize(("play", "arguments"), WORKLOADS, ids=lambda part: getattr(part, "__name__", ""))
def test_the_resource_bounds_hold_under_load(
    held: Callable[..., None], play: Callable[..., None], arguments: dict[str, Any]
) -> None:
    held(play, **arguments)


def test_a_file_that_the_job_rewrites_is_read_as_one_version(held: Callable[..., None]) -> None:
    """vfs/semantics.md 3.13."""
    held(sharing.rewritten, storm=8.0, files=4, size=2_000_000, latency=10)


@pytest.mark.needs_root("only root can mount a disk of its own for this")
@pytest.mark.parametrize(("end", "cache"), [("back", "same"), ("recover", "elsewhere")])
def test_bytes_acknowledged_on_a_full_disk_are_sent(held: Callable[..., None], end: str, cache: str) -> None:
    held(outages.full_disk, end=end, cache=cache, files=12, disk=10, latency=20)


def test_the_load_suite_sees_unsent_files(limited_forks: ForkServer, tmp_path: Path) -> None:
    def lose(stage: Stage) -> None:
        stage.start({}, latency=0)
        stage.act("network", "is unavailable", on="change")
        (stage.path / "never-sent").write_bytes(b"bytes")
        stage.finish(Bounds(), within=0.5, umount=0.5)

    outcome = played(Workload("lose", lose, 30), limited_forks, tmp_path / "stage", pause=0.2)
    broken = {check.what for check in outcome.broken}
    assert broken >= {"unsent rows at rest", "local bytes at rest", "unsent rows after umount", "umount"}
    assert f" {tmp_path}/" not in Path("/proc/self/mounts").read_text()
